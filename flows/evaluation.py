"""decisions.jsonl + labelled_outcomes.jsonl → how good the scores of champion and challengers were, for metrics.json.

The labels are those that were learned, with their weights; the scores are those of the decisions. A payment whose label
was corrected counts with its last one. Memory: what operators/prequential.py keeps, and an entry a labelled payment.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import msgspec

from operators.prequential import Judged, Prequential, PrequentialConfig
from schemas.times import parse_rfc3339_us

_DIGITS: Final = 6
"""Of a figure in metrics.json: one payment among a million."""


class _Outcome(msgspec.Struct, gc=False):
    transaction_id: str
    label: str
    weight: float


class _Facts(msgspec.Struct, gc=False):
    amount: float | None = None


class _Challenger(msgspec.Struct, gc=False):
    model_id: str
    score: float | None = None


class _Versions(msgspec.Struct, gc=False):
    model_id: str | None = None


class _Decision(msgspec.Struct, gc=False):
    transaction_id: str
    decided_at: str
    account_id: str
    features: _Facts
    versions: _Versions
    challenger_scores: list[_Challenger]
    card_id: str | None = None
    channel: str | None = None
    country: str | None = None
    score: float | None = None
    duplicate: bool = False


def evaluate(out: Path, config: PrequentialConfig) -> dict[str, Any]:
    """Figures of the newest windows whose labels have matured: model → window → segment → figure.

    Args:
        out: Holds decisions.jsonl and labelled_outcomes.jsonl; a missing one counts as empty.
        config: What is measured.

    Raises:
        OSError: A file cannot be read.
    """
    labels = _labels(out / "labelled_outcomes.jsonl")
    prequential = Prequential(config)
    newest_us = 0
    path = out / "decisions.jsonl"
    if labels and path.is_file():
        decode = msgspec.json.Decoder(_Decision).decode
        with path.open("rb") as lines:
            for line in lines:
                try:
                    decision = decode(line)
                except msgspec.DecodeError:
                    continue  # no record: not this measure's to judge, and a replay that is over must not end with it
                decided_at_us = parse_rfc3339_us(decision.decided_at)
                newest_us = max(newest_us, decided_at_us)
                found = labels.get(decision.transaction_id)
                if found is None or decision.duplicate:
                    continue
                scores = {one.model_id: one.score for one in decision.challenger_scores}
                if decision.versions.model_id is not None:
                    scores = {decision.versions.model_id: decision.score, **scores}
                prequential.observe(
                    Judged(
                        scores=scores,
                        fraud=found[0],
                        weight=found[1],
                        decided_at_us=decided_at_us,
                        card=decision.card_id or decision.account_id,
                        amount=decision.features.amount,
                        channel=decision.channel,
                        country=decision.country,
                    )
                )
    return {
        "judged": prequential.judged,
        "cards_a_day": config.cards_a_day,
        "models": {
            model: {
                window: {segment: _told(asdict(figures)) for segment, figures in segments.items()}
                for window, segments in windows.items()
            }
            for model, windows in prequential.figures(newest_us).items()
        },
    }


def _labels(path: Path) -> dict[str, tuple[bool, float]]:
    """Label and weight of each labelled payment; the last one counts."""
    found: dict[str, tuple[bool, float]] = {}
    if path.is_file():
        decode = msgspec.json.Decoder(_Outcome).decode
        with path.open("rb") as lines:
            for line in lines:
                try:
                    outcome = decode(line)
                except msgspec.DecodeError:
                    continue  # no record, as with decisions
                found[outcome.transaction_id] = (outcome.label == "fraud", outcome.weight)
    return found


def _told(figures: dict[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else round(value, _DIGITS) for name, value in figures.items()}
