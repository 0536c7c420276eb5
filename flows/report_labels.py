"""outcomes.{jsonl,avro,parquet} → which transactions turned out to be fraud, for the replay report.

Only frauds are remembered, so memory grows with the frauds and not with the outcomes. The latest outcome of a
transaction (by its event time) decides; that needs a second pass when the files hold genuine outcomes too, since a
genuine outcome may stand before the fraud it came after.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import fastavro
import msgspec
import pyarrow.parquet

OUTCOMES: Final = ("outcomes.jsonl", "outcomes.avro", "outcomes.parquet")
JOINED: Final = "labelled_outcomes.jsonl"
_COLUMNS: Final = ["transaction_id", "event_time", "label"]
_ROWS_A_BATCH: Final = 65_536


@dataclass(frozen=True, slots=True)
class Labels:
    """What the outcomes say.

    Attributes:
        source: File names the labels were read from; empty when there were none.
        fraud: transaction_id of every payment whose latest outcome says fraud.
        outcomes_fraud: Outcomes with label fraud, corrections included.
        outcomes_genuine: Outcomes with label genuine, corrections included.
        unreadable: Rows without a usable transaction_id, event_time or label; they label nothing.
    """

    source: tuple[str, ...]
    fraud: frozenset[str]
    outcomes_fraud: int
    outcomes_genuine: int
    unreadable: int


class _Row(msgspec.Struct, gc=False):
    transaction_id: str
    event_time: datetime
    label: str


def read_labels(events_dir: Path | None, out_dir: Path) -> Labels:
    """Frauds by transaction_id, from the replay's input, else from the labels the replay joined.

    Args:
        events_dir: Where outcomes.jsonl, .avro or .parquet may lie; None when the input is not at hand.
        out_dir: Where labelled_outcomes.jsonl may lie; read only when no outcomes file is found.

    Returns:
        The labels; without any file, no labels and an empty `source`.
    """
    paths = [events_dir / name for name in OUTCOMES if (events_dir / name).is_file()] if events_dir else []
    if not paths and (out_dir / JOINED).is_file():
        paths = [out_dir / JOINED]
    frauds: dict[str, datetime] = {}
    fraud = genuine = unreadable = 0
    for path in paths:
        for row in _rows(path):
            if row is None:
                unreadable += 1
            elif row.label == "fraud":
                fraud += 1
                known = frauds.get(row.transaction_id)
                if known is None or row.event_time > known:
                    frauds[row.transaction_id] = row.event_time
            elif row.label == "genuine":
                genuine += 1
            else:
                unreadable += 1
    if genuine and frauds:
        cleared = set()
        for path in paths:
            for row in _rows(path):
                if row is not None and row.label == "genuine":
                    at = frauds.get(row.transaction_id)
                    if at is not None and row.event_time > at:
                        cleared.add(row.transaction_id)
        for transaction_id in cleared:
            del frauds[transaction_id]
    return Labels(
        source=tuple(path.name for path in paths),
        fraud=frozenset(frauds),
        outcomes_fraud=fraud,
        outcomes_genuine=genuine,
        unreadable=unreadable,
    )


def _rows(path: Path) -> Iterator[_Row | None]:
    """Every outcome of a file, None for one that cannot be read."""
    if path.suffix == ".avro":
        with path.open("rb") as file:
            for record in fastavro.reader(file):
                yield _row(record)
    elif path.suffix == ".parquet":
        table = pyarrow.parquet.ParquetFile(path)
        for batch in table.iter_batches(_ROWS_A_BATCH, columns=_COLUMNS):
            for record in batch.to_pylist():
                yield _row(record)
    else:
        decode = msgspec.json.Decoder(_Row).decode
        with path.open("rb") as file:
            for line in file:
                if line.isspace():
                    continue
                try:
                    row = decode(line)
                except msgspec.MsgspecError:
                    yield None
                    continue
                row.event_time = _utc(row.event_time)
                yield row


def _row(record: object) -> _Row | None:
    try:
        row = msgspec.convert(record, _Row)
    except msgspec.ValidationError:
        return None
    row.event_time = _utc(row.event_time)
    return row


def _utc(at: datetime) -> datetime:
    """Parquet knows times without a zone; the contract says they are UTC."""
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at
