"""A release of the learner on its way out: what it is made of, and how a move on evidence is told with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from operators.inflight import Value
from operators.model import Model
from operators.promotion import Change, Move
from operators.releases import CHALLENGER, LEARN

CHANGES: Final[Mapping[Move, str]] = {
    "canary": "canary",
    "promotion": "promote",
    "rollback": "rollback",
    "withdrawal": "withdraw",
}
"""What a move is called in a release's record."""


class LearnLedger(msgspec.Struct, array_like=True, gc=False):
    """What the step remembers beside a model; times in µs.

    Attributes:
        since: Labels learned since the release before.
        released_at_us: When that was.
        trained: Whether the model could score the latest payment.
        first_us: Decision time of the oldest payment learned.
        last_us: Of the newest.
        genuine: Genuine labels learned.
        frauds: Fraud labels learned.
        corrections: Of both, those that took an earlier label back.
        passed: Labels not learned: of another feature set, of what was declined where that teaches nothing, or left out
            of the share of genuine ones that is learned.
        version: Of the release before.
        sha256: Likewise.
    """

    since: int = 0
    released_at_us: int = 0
    trained: bool = False
    first_us: int = 0
    last_us: int = 0
    genuine: int = 0
    frauds: int = 0
    corrections: int = 0
    passed: int = 0
    version: str | None = None
    sha256: str | None = None


Scored = tuple[float | None, float | None, bool, float]
"""Score at decision, score before learning, fraud, weight."""


@dataclass(frozen=True, slots=True)
class Made:
    """A release on its way out.

    Attributes:
        artefact: The model's bytes.
        sha256: Of them.
        model_id: Of the model.
        version: Author's version, "+", labels learned.
        labels: Labels learned.
        created_at_us: The tick.
        ledger: What was learned.
        latest: The latest labels with their scores.
        importances: Term and its mean size in logits over the latest payments, largest first.
        stage: What it may do: champion, canary or challenger.
        change: release, or how the model moved: canary, promote, rollback or withdraw.
        origin: learn, or automatic for a move on evidence.
        reason: Why, in words.
        evidence: Figures of a move.
        before: (version, sha256) of the champion before it, when it is one.
    """

    artefact: bytes
    sha256: str
    model_id: str
    version: str
    labels: int
    created_at_us: int
    ledger: LearnLedger
    latest: list[Scored]
    importances: list[tuple[str, float]]
    stage: str = CHALLENGER
    change: str = "release"
    origin: str = LEARN
    reason: str = ""
    evidence: Mapping[str, float] | None = None
    before: tuple[str, str] | None = None


def importances(model: Model, kept: list[list[Value]]) -> list[tuple[str, float]]:
    """Term and its mean size in logits over payments, largest first."""
    sums: dict[str, float] = {}
    for told in model.contributions_many(kept, 1_000):
        for name, size in told:
            sums[name] = sums.get(name, 0.0) + abs(size)
    return sorted(((name, total / len(kept)) for name, total in sums.items()), key=_size)


def _size(told: tuple[str, float]) -> tuple[float, str]:
    return (-told[1], told[0])


def told_of(change: Change) -> str:
    """A move in words, with its evidence."""
    figures = ", ".join(f"{name} {value}" for name, value in sorted(change.evidence.items()))
    return f"{change.move} of {change.model}, now {change.role}: {figures}"


def figures_of(change: Change) -> dict[str, float]:
    """The evidence of a move as numbers: the chance that it is wrong, what that had to fall below, and the rest."""
    told = {"measured": change.measured, "threshold": change.threshold}
    figures = {f"evidence_{name}": value for name, value in told.items() if value is not None}
    for name, text in change.evidence.items():
        try:
            figures[f"evidence_{name}"] = float(text)
        except ValueError:
            continue  # a name, told in the reason
    return figures
