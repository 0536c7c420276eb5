"""outcomes.{jsonl,avro,parquet} → which transactions turned out to be fraud, for the replay report.

Only frauds are remembered, so memory grows with the frauds and not with the outcomes. The latest outcome of a
transaction (by its event time) decides; that needs a second pass when the file holds genuine outcomes too, since a
genuine outcome may stand before the fraud it came after.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from flows.files import EventFile, find_events
from schemas.times import EPOCH

OUTCOMES: Final = "outcomes"
JOINED: Final = "labelled_outcomes"


@dataclass(frozen=True, slots=True)
class Labels:
    """What the outcomes say.

    Attributes:
        source: Name of the file the labels were read from, None when there was none.
        fraud: transaction_id of every payment whose latest outcome says fraud.
        unreadable: Records without a usable transaction_id, event_time or label; they label nothing.
    """

    source: str | None
    fraud: frozenset[str]
    unreadable: int


class _Outcome(msgspec.Struct, gc=False):
    transaction_id: str
    event_time: datetime | int  # Avro without its logical type, and some Parquet files, hold whole microseconds
    label: str


def read_labels(events_dir: Path | None, out_dir: Path) -> Labels:
    """Frauds by transaction_id, from the replay's input, else from the labels the replay joined.

    Args:
        events_dir: Where outcomes.jsonl, .avro or .parquet may lie; None when the input is not at hand.
        out_dir: Where labelled_outcomes.jsonl may lie; read only when no outcomes file is found.

    Returns:
        The labels; without any file, no labels and no `source`.

    Raises:
        ConfigError: Several files of outcomes; remove all but one.
        StreamError: The file is cut short.
    """
    file = find_events(events_dir, OUTCOMES) if events_dir else None
    if file is None:
        file = find_events(out_dir, JOINED)
    if file is None:
        return Labels(source=None, fraud=frozenset(), unreadable=0)
    frauds: dict[str, int] = {}
    genuine = unreadable = 0
    for outcome in _outcomes(file):
        if outcome is None or outcome[2] not in {"fraud", "genuine"}:
            unreadable += 1
        elif outcome[2] == "fraud":
            transaction_id, at_us, _ = outcome
            frauds[transaction_id] = max(at_us, frauds.get(transaction_id, at_us))
        else:
            genuine += 1
    cleared: set[str] = set()
    if genuine and frauds:
        for outcome in _outcomes(file):
            if outcome is not None and outcome[2] == "genuine":
                transaction_id, at_us, _ = outcome
                if at_us > frauds.get(transaction_id, at_us):
                    cleared.add(transaction_id)
    return Labels(source=file.path.name, fraud=frozenset(frauds.keys() - cleared), unreadable=unreadable)


def _outcomes(file: EventFile) -> Iterator[tuple[str, int, str] | None]:
    """(transaction_id, event time in µs, label) of every record, None for one that cannot be read."""
    decode = msgspec.json.Decoder(_Outcome).decode
    for payload, _, _ in file.read_from(0, 0):
        try:
            found = decode(payload) if isinstance(payload, bytes) else msgspec.convert(payload, _Outcome)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            yield None
            continue
        yield found.transaction_id, _micros(found.event_time), found.label


def _micros(at: datetime | int) -> int:
    """Whole microseconds since 1970; a time without a zone, as Parquet may hold, is UTC."""
    if isinstance(at, int):
        return at
    aware = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    since = aware - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
