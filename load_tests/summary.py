"""What a replay caught: decisions against the truth, by fraud pattern and episode.

Stopped means challenged, sent to review or declined. Every payment counts once, by its first decision; answers to
retries are counted apart.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

Kind = TypeVar("Kind")

ACTIONS: Final = ("approve", "challenge", "review", "decline")


class _Decision(msgspec.Struct, gc=False):
    """The few fields that are counted; the rest of a decision is skipped unparsed."""

    transaction_id: str
    action: str
    score: float | None = None
    duplicate: bool = False
    reason_codes: list[str] = []


class _Truth(msgspec.Struct, gc=False):
    transaction_id: str
    fraud: bool
    amount_eur: float
    pattern: str | None = None
    episode: int | None = None


class _DeadLetter(msgspec.Struct, gc=False):
    topic: str
    reason: str


@dataclass(slots=True)
class Caught:
    """One pattern.

    Attributes:
        frauds: Fraudulent payments.
        stopped: Of them, stopped.
        money_eur: Sum of the frauds.
        money_stopped_eur: Sum of those stopped.
        episodes: Crimes, of one payment or many.
        episodes_stopped: Crimes of which some payment was stopped.
        first_stopped: For each of those, which payment it was: 1 for the first.
    """

    frauds: int = 0
    stopped: int = 0
    money_eur: float = 0.0
    money_stopped_eur: float = 0.0
    episodes: int = 0
    episodes_stopped: int = 0
    first_stopped: list[int] = field(default_factory=list)

    def add(self, other: Caught) -> None:
        """Count another pattern in."""
        self.frauds += other.frauds
        self.stopped += other.stopped
        self.money_eur += other.money_eur
        self.money_stopped_eur += other.money_stopped_eur
        self.episodes += other.episodes
        self.episodes_stopped += other.episodes_stopped
        self.first_stopped += other.first_stopped

    @property
    def median_first_stopped(self) -> float | None:
        """Median over the stopped episodes, None without any."""
        return float(median(self.first_stopped)) if self.first_stopped else None


@dataclass(frozen=True, slots=True)
class Summary:
    """What a replay caught.

    Attributes:
        patterns: By pattern, in the order of their names.
        genuine: Decisions on genuine payments by action.
        fraud: Decisions on frauds by action.
        reasons: Reason code to decisions on (genuine payments, frauds) that were stopped.
        undecided: Payments without a decision.
        retries: Answers to retried payments.
        scored: Payments with a score.
        scored_frauds: Frauds among them.
        auc: Area under the ROC curve of the scores, None without both kinds.
        average_precision: As `average_precision` gives it, None without frauds.
        dead_letters: By (stream, reason).
        example: A decision in full: the first fraud of impossible travel that was stopped for that reason and has a
            score; else one without a score, else any payment stopped for it, else None.
    """

    patterns: dict[str, Caught]
    genuine: Counter[str]
    fraud: Counter[str]
    reasons: dict[str, tuple[int, int]]
    undecided: int
    retries: int
    scored: int
    scored_frauds: int
    auc: float | None
    average_precision: float | None
    dead_letters: Counter[tuple[str, str]]
    example: bytes | None

    @property
    def total(self) -> Caught:
        """All patterns together."""
        everything = Caught()
        for caught in self.patterns.values():
            everything.add(caught)
        return everything

    @property
    def false_positive_rate(self) -> float:
        """Share of the genuine payments that were stopped."""
        decided = sum(self.genuine.values())
        return (decided - self.genuine["approve"]) / decided if decided else 0.0


def summarise(truth: Path, run: Path) -> Summary:
    """Count what the decisions in folder `run` did to the payments of a truth file.

    Both files are read line by line, so that their size does not matter.

    Args:
        truth: truth.jsonl of the generator, in event-time order.
        run: Folder with decisions.jsonl, and dead_letters.jsonl if any.

    Raises:
        FileNotFoundError: There are no decisions.
        msgspec.ValidationError: A line is no decision.
    """
    real = {item.transaction_id: item for item in _read(truth, _Truth)}
    actions: dict[str, str] = {}
    genuine: Counter[str] = Counter()
    fraud: Counter[str] = Counter()
    reasons: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    scores: list[float] = []
    labels: list[bool] = []
    retries = 0
    example: bytes | None = None
    rank = 0
    decoder = msgspec.json.Decoder(_Decision)
    with (run / "decisions.jsonl").open("rb", buffering=1 << 20) as lines:
        for line in lines:
            decision = decoder.decode(line)
            known = real.get(decision.transaction_id)
            if decision.duplicate or decision.transaction_id in actions:
                retries += 1
                continue
            if known is None:
                continue
            actions[decision.transaction_id] = decision.action
            (fraud if known.fraud else genuine)[decision.action] += 1
            if decision.score is not None:
                scores.append(decision.score)
                labels.append(known.fraud)
            if decision.action == "approve":
                continue
            for reason in decision.reason_codes:
                reasons[reason][known.fraud] += 1
            if rank < 4 and "IMPOSSIBLE_TRAVEL" in decision.reason_codes:
                worth = 1 + 2 * (known.pattern == "impossible_travel") + (decision.score is not None)
                if worth > rank:
                    rank, example = worth, line
    flags = np.array(labels, dtype=np.bool_)
    values = np.array(scores)
    return Summary(
        patterns=_by_pattern(real.values(), actions),
        genuine=genuine,
        fraud=fraud,
        reasons={reason: (counts[0], counts[1]) for reason, counts in reasons.items()},
        undecided=len(real) - len(actions),
        retries=retries,
        scored=len(scores),
        scored_frauds=int(flags.sum()),
        auc=area_under_roc(flags, values),
        average_precision=average_precision(flags, values),
        dead_letters=_dead_letters(run / "dead_letters.jsonl"),
        example=example,
    )


def area_under_roc(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> float | None:
    """Probability that a fraud scores higher than a genuine payment, ties counting half; None without both kinds.

    Source: Mann and Whitney 1947, Annals of Mathematical Statistics 18(1):50.
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return None
    _, level, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    middle_rank = np.cumsum(sizes) - (sizes - 1) / 2
    rank_sum = float(middle_rank[level][labels].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def average_precision(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> float | None:
    """Mean of the precision over the recall gained at each distinct score, highest first; None without frauds.

    Source: Zhu 2004, Recall, precision and average precision, University of Waterloo; ties enter together.
    """
    positives = int(labels.sum())
    if positives == 0:
        return None
    levels, level = np.unique(-scores, return_inverse=True)
    hits = np.bincount(level[labels], minlength=len(levels))
    precision = np.cumsum(hits) / np.cumsum(np.bincount(level, minlength=len(levels)))
    return float((precision * hits).sum() / positives)


def _by_pattern(truth: Iterable[_Truth], actions: dict[str, str]) -> dict[str, Caught]:
    """Count every pattern; the truth is in event-time order, so an episode's payments are, too."""
    patterns: dict[str, Caught] = defaultdict(Caught)
    turn: Counter[tuple[str, int | None]] = Counter()
    over: set[tuple[str, int | None]] = set()
    for item in truth:
        if not item.fraud or item.pattern is None:
            continue
        caught = patterns[item.pattern]
        episode = (item.pattern, item.episode)
        turn[episode] += 1
        caught.episodes += turn[episode] == 1
        caught.frauds += 1
        caught.money_eur += item.amount_eur
        if actions.get(item.transaction_id, "approve") == "approve":
            continue
        caught.stopped += 1
        caught.money_stopped_eur += item.amount_eur
        if episode not in over:
            over.add(episode)
            caught.episodes_stopped += 1
            caught.first_stopped.append(turn[episode])
    return dict(sorted(patterns.items()))


def _dead_letters(path: Path) -> Counter[tuple[str, str]]:
    if not path.exists():
        return Counter()
    return Counter((Path(item.topic).stem, item.reason) for item in _read(path, _DeadLetter))


def _read(path: Path, kind: type[Kind]) -> Iterable[Kind]:
    decoder = msgspec.json.Decoder(kind)
    with path.open("rb", buffering=1 << 20) as lines:
        yield from map(decoder.decode, lines)
