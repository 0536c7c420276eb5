"""What a model loses that never learns what became of the payments it declined, and what exploration brings back.

    python -m load_tests.bench_exploration [--payments 60000] [--seeds 5]

Generated traffic with the truth known is replayed three times a seed through the default features and a linear model
without fraud rates (they count every label, also those of declined payments). The default policy declines much of
the fraud by rule before anybody could learn from it:

- all labels: no policy, every payment is let through, so every label is seen; what a bank cannot have;
- exploration: declines teach nothing but for the share that is let through, weighted by inverse propensity;
- no exploration: declines teach nothing.

Average precision is that of the scores of all payments of the last third of the days, by the truth. Cost is the fraud
that was let through by chance, in euros, beside all fraud of the same days.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from flows.profile import load_profile
from flows.replay import ReplayOptions, run_replay
from flows.source import Run
from load_tests.generate import generate
from load_tests.summary import average_precision
from load_tests.traffic.layout import DAY_US, Params
from schemas.times import parse_rfc3339_us
from schemas.validate import Limits

CARDS: Final = Path(__file__).resolve().parents[1] / "deploy" / "profiles" / "cards"
ARMS: Final = ("all labels", "exploration", "no exploration")
LEARNING: Final = """
tick = "1h"
maturity = "14d"
genuine_sample = 0.2

[model]
id = "bench-linear"
version = "1"
min_labels = 500
learning_rate = 0.2
features = [
    "amount", "recurring", "anonymous_ip", "amount_to_account_30d",
    "account.count_1h", "account.count_24h", "account.sum_24h", "account.distinct_device_id_24h",
    "account.distinct_country_24h", "account.distinct_counterparty_id_24h", "account.transfer_sum_24h",
    "account.login_failed_count_1h", "account.seconds_since_last", "account.speed_kmh", "account.seconds_since_opened",
    "account.seconds_since_credentials_changed", "card.count_1h", "card.sum_24h", "card.distinct_merchant_id_1h",
    "card.small_count_24h", "card.verification_count_1h", "card.atm_sum_24h", "card.speed_kmh", "card.distance_km",
    "device.rooted", "device.emulator", "device.accounts", "device.distinct_card_id_24h",
    "device.seconds_since_first_event", "ip.distinct_card_id_1h", "merchant.distinct_card_id_10m",
    "payee.distinct_account_id_24h", "payee.seconds_since_first_seen", "account_device.seconds_since_first_seen",
]
categorical = ["hour", "channel", "payment_type", "country", "mcc", "entry_mode", "three_ds_result"]
crosses = [
    ["channel", "amount"],
    ["mcc", "amount"],
    ["amount_to_account_30d", "account_device.seconds_since_first_seen"],
    ["amount_to_account_30d", "account.seconds_since_credentials_changed"],
    ["card.speed_kmh", "card.distance_km"],
]

[[model.ratios]]
name = "amount_to_account_30d"
numerator = "amount"
denominator = "account.sum_30d"
"""
_NO_POLICY: Final = 'id = "approve-all"\nversion = "1"\n'


@dataclass(frozen=True, slots=True)
class Arm:
    """One replay.

    Attributes:
        precision: Average precision of the last third.
        declined: Share of the payments declined.
        explored: Payments let through by chance, of the whole run.
        explored_frauds: Frauds among them.
        cost_eur: Their money.
        fraud_eur: Money of all frauds.
        genuine_eur: Money of genuine payments that were let through by chance.
    """

    precision: float
    declined: float
    explored: int
    explored_frauds: int
    cost_eur: float
    fraud_eur: float
    genuine_eur: float


def write_arm(folder: Path, arm: str, share: float) -> Path:
    """The profile of one arm."""
    folder.mkdir(parents=True)
    for path in CARDS.iterdir():
        if path.name not in {"policy.toml", "learning.toml"}:
            (folder / path.name).symlink_to(path)
    (folder / "policy.toml").write_text(_NO_POLICY if arm == "all labels" else (CARDS / "policy.toml").read_text())
    learning = LEARNING
    head, _, rest = learning.partition("[model]")
    if arm == "no exploration":
        head += 'declined_outcomes = "withheld"\n'
    learning = f"{head}[model]{rest}\n"
    if arm == "exploration":
        learning += (
            f'\n[exploration]\nshare = {share}\nsalt = "bench"\ndeclined_to = "approve"\n'
            "largest_amount = 2000\ndaily_budget = 5000\nlargest_weight = 50\n"
        )
    (folder / "learning.toml").write_text(learning)
    return folder


def run_arm(profile: Path, events: Path, out: Path, now_us: int) -> None:
    """Replay in this process."""
    options = ReplayOptions(
        events=events,
        out=out,
        state=None,
        batch=1_000,
        epoch=timedelta(seconds=10),
        limits=Limits(),
        tokeniser=None,
        now_us=now_us,
        shards=4,
    )
    run_replay(load_profile(profile), options, Run())


def measure(events: Path, out: Path, since_us: int) -> Arm:
    """Score a run by the truth."""
    truth: dict[str, dict[str, Any]] = {}
    with (events / "truth.jsonl").open("rb") as lines:
        for line in lines:
            one = orjson.loads(line)
            truth[one["transaction_id"]] = one
    scores, labels = [], []
    declined = total = explored = explored_frauds = 0
    cost = genuine = 0.0
    with (out / "decisions.jsonl").open("rb") as lines:
        for line in lines:
            one = orjson.loads(line)
            real = truth.get(one["transaction_id"])
            if one["duplicate"] or real is None:
                continue
            total += 1
            declined += one["action"] == "decline"
            if one["exploration"] == "let_through":
                explored += 1
                explored_frauds += real["fraud"]
                cost += real["amount_eur"] * real["fraud"]
                genuine += real["amount_eur"] * (not real["fraud"])
            if one["score"] is not None and parse_rfc3339_us(one["event_time"]) >= since_us:
                scores.append(one["score"])
                labels.append(real["fraud"])
    precision = average_precision(np.array(labels, dtype=np.bool_), np.array(scores))
    fraud_eur = sum(one["amount_eur"] for one in truth.values() if one["fraud"])
    return Arm(precision or 0.0, declined / total, explored, explored_frauds, cost, fraud_eur, genuine)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.bench_exploration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--payments", type=int, default=60_000)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--fraud-share", type=float, default=0.02)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--share", type=float, default=0.1, help="of the declines that is let through")
    given = parser.parse_args(arguments)
    found: dict[str, list[Arm]] = {arm: [] for arm in ARMS}
    print("seed arm                 AP declined explored frauds  cost EUR of fraud")
    for seed in range(1, given.seeds + 1):
        params = Params(payments=given.payments, days=given.days, seed=seed, fraud_share=given.fraud_share)
        since_us = params.end_us - given.days // 3 * DAY_US
        with tempfile.TemporaryDirectory(prefix="weir-exploration-") as made:
            folder = Path(made)
            generate(params, folder / "events")
            for arm in ARMS:
                name = arm.replace(" ", "-")
                profile = write_arm(folder / name, arm, given.share)
                run_arm(profile, folder / "events", folder / f"{name}-out", params.end_us)
                one = measure(folder / "events", folder / f"{name}-out", since_us)
                found[arm].append(one)
                print(
                    f"{seed:>4} {arm:15} {one.precision:>6.3f} {one.declined:>8.2%} {one.explored:>8,} "
                    f"{one.explored_frauds:>6,} {one.cost_eur:>9,.0f} {one.cost_eur / one.fraud_eur:>8.2%}",
                    flush=True,
                )
    sys.stdout.write("\n")
    reference = [one.precision for one in found["all labels"]]
    for arm in ARMS:
        runs = found[arm]
        gap = statistics.fmean(first - one.precision for first, one in zip(reference, runs, strict=True))
        cost = statistics.fmean(one.cost_eur for one in runs)
        fraud = statistics.fmean(one.fraud_eur for one in runs)
        genuine = statistics.fmean(one.genuine_eur for one in runs)
        print(
            f"mean {arm:15} AP {statistics.fmean(one.precision for one in runs):.3f}, {gap:+.3f} below all labels; "
            f"let through: fraud {cost:,.0f} EUR of {fraud:,.0f} EUR, genuine {genuine:,.0f} EUR"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
