"""How often promotion is right: simulated canaries that are equal, better and worse, many runs each.

    python -m load_tests.bench_promotion [--runs 100] [--days 120] [--frauds 30]

Labels as they come: some 30 frauds a day in episodes of one to eight that share their difficulty and each model's
error, and genuine payments of which one in five is kept, weighing five. Champion and rival see the same truth through
errors of their own; a better rival's are smaller. No model is trained: what is tested is who is promoted, not who
learns.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from operators.loop_config import PromotionConfig
from operators.promotion import Promotion

DAY_US: Final = 86_400_000_000
CHAMPION: Final = "champion"
RIVAL: Final = "rival"
ERRORS: Final = {"equal": 1.2, "better": 1.0, "worse": 1.4}
"""Standard deviation of a rival's error in logits; the champion's is 1.2."""
_GENUINE_A_DAY: Final = 150


@dataclass(frozen=True, slots=True)
class Run:
    """What became of the rival.

    Attributes:
        promoted_day: Day on which it became champion, None: never.
        returned_day: Day on which it was sent back as a canary, None: never.
        least_gap_days: Fewest days between two moves, None with fewer than two.
        gain: Mean log loss that it saves.
    """

    promoted_day: int | None
    returned_day: int | None
    least_gap_days: float | None
    gain: float


def simulate(error: float, seed: int, days: int, frauds: int, *, starts_as: str = "canary") -> Run:
    """One run; stops at a promotion.

    Args:
        error: Of the rival, in logits.
        seed: Of the run.
        days: Days of labels.
        frauds: Frauds a day, about.
        starts_as: "canary" or "challenger".
    """
    rng = np.random.default_rng([seed, 21])
    canary = RIVAL if starts_as == "canary" else None
    promotion = Promotion(PromotionConfig(), CHAMPION, [RIVAL], canary)
    promoted = returned = None
    moves: list[int] = []
    gains: list[float] = []
    for day in range(days):
        sizes = rng.integers(1, 9, max(1, rng.poisson(frauds / 4.5)))
        episode = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), len(sizes) + np.arange(_GENUINE_A_DAY)])
        fraud = np.arange(len(episode)) < sizes.sum()
        count = len(sizes) + _GENUINE_A_DAY
        truth = np.where(fraud, 2.0, -5.0) + rng.normal(0, 1.5, count)[episode]
        told = {}
        for name, sd in ((CHAMPION, ERRORS["equal"]), (RIVAL, error)):
            logit = truth + sd * (0.8 * rng.normal(0, 1, count)[episode] + 0.6 * rng.normal(0, 1, len(episode)))
            told[name] = 1.0 / (1.0 + np.exp(-logit))
        right = {name: np.where(fraud, score, 1.0 - score) for name, score in told.items()}
        weights = np.where(fraud, 1.0, 5.0)
        gains.append(float(np.average(np.log(right[RIVAL]) - np.log(right[CHAMPION]), weights=weights)))
        changes = promotion.advance(day * DAY_US)
        for is_fraud, champions, rivals in zip(
            fraud.tolist(), told[CHAMPION].tolist(), told[RIVAL].tolist(), strict=True
        ):
            scores = {CHAMPION: champions, RIVAL: rivals}
            weight = 1.0 if is_fraud else 5.0
            changes += promotion.observe(day * DAY_US + 1, fraud=is_fraud, weight=weight, scores=scores)
        for change in changes:
            moves.append(change.event_time_us)
            if change.move == "promotion" and change.model == RIVAL:
                promoted = day
            elif change.move == "rollback" and change.model == RIVAL and returned is None:
                returned = day
        if promoted is not None:
            break
    gaps = [(later - earlier) / DAY_US for earlier, later in pairwise(moves)]
    return Run(promoted, returned, min(gaps) if gaps else None, statistics.fmean(gains))


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.bench_promotion",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--days", type=int, default=120)
    parser.add_argument("--frauds", type=int, default=30, help="a day")
    given = parser.parse_args(arguments)
    print(f"{given.runs} runs of {given.days} days, {given.frauds} frauds a day; level 0.05; median day in brackets")
    print(f"{'rival is':10} {'begins as':11} {'loss saved':>10} {'promoted':>14} {'sent back':>14} {'least gap':>10}")
    for kind, error in ERRORS.items():
        for starts_as in ("canary", "challenger"):
            runs = [simulate(error, seed, given.days, given.frauds, starts_as=starts_as) for seed in range(given.runs)]
            gaps = [run.least_gap_days for run in runs if run.least_gap_days is not None]
            gain = statistics.fmean(run.gain for run in runs)
            promoted = _told([run.promoted_day for run in runs])
            returned = _told([run.returned_day for run in runs])
            gap = f"{min(gaps):.0f} d" if gaps else "-"
            print(f"{kind:10} {starts_as:11} {gain:>10.4f} {promoted:>14} {returned:>14} {gap:>10}", flush=True)
    return 0


def _told(days: list[int | None]) -> str:
    met = [day for day in days if day is not None]
    return f"{len(met)} ({statistics.median(met):.0f})" if met else "0"


if __name__ == "__main__":
    raise SystemExit(main())
