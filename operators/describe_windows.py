"""What the window records of an entity hold, in plain words; layouts in operators/window_record.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np

from operators.features import EntitySpec, FeatureSet
from operators.window_plan import Limits, Plan
from operators.window_record import (
    ABSENT,
    AT_FIRST_SEEN,
    AT_LAST_ANY,
    AT_LAST_PAYMENT,
    HEAD_WORDS,
    INDEXED,
    META_KEY,
    NEVER,
    PAYMENTS,
    Index,
    Meta,
    Words,
    head_key,
    shape_number,
)
from operators.window_shape import Shape
from schemas.times import format_rfc3339_us

SHOWN: Final = 10
"""Rows told of a series, the newest; a head holds up to 160."""


ReadRecord = Callable[[bytes], bytes | None]
"""Key -> record of the same step in the same shard, None when there is none."""


class ShardWindows:
    """The window records of one entity in one shard; each is read by the shape that it was written under.

    After a change of the feature set an entity keeps its old shape until it is touched again
    (`operators.window_migrate`).
    """

    def __init__(self, feature_set: FeatureSet, spec: EntitySpec, read: ReadRecord, where: str) -> None:
        """Look up which shapes there are.

        Args:
            feature_set: What a shard without records would be written by.
            spec: The entity.
            read: Reads a record of the shard.
            where: Step and shard, for messages.

        Raises:
            StateLayoutError: The shard's shapes cannot be read.
        """
        self._read = read
        record = read(META_KEY)
        if record is None:
            declared = msgspec.json.decode(Plan(feature_set, spec, Limits()).shape, type=Shape)
            self._views = {0: WindowsView(declared, where)}
            return
        meta = Meta.decode(record, where)
        texts = {old.number: old.shape for old in meta.history} | {meta.number: meta.shape}
        self._views = {
            number: WindowsView(msgspec.json.decode(text, type=Shape), where) for number, text in texts.items()
        }

    def of_head(self, record: bytes) -> WindowsView:
        """Reads this head."""
        return self._views[shape_number(record)]

    def of_entity(self, key: bytes) -> WindowsView:
        """Reads the chunks and the index of this entity, which have the shape of its head."""
        head = self._read(head_key(key))
        return self._views[max(self._views)] if head is None else self.of_head(head)


class WindowsView:
    """Reads the rows of one entity's windows, written under one shape."""

    def __init__(self, shape: Shape, where: str) -> None:
        self._where = where
        self._series = [
            (one.name, one.valued, list(one.fields), [label for label, _ in one.windows]) for one in shape.series
        ]
        self._fields = shape.series[PAYMENTS].fields
        self._widths = [one.width for one in shape.series]
        self._window_count = len(shape.window_numbers())

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of which each payment's row keeps a hash."""
        return self._fields

    def head_rows(self, record: bytes) -> list[Words]:
        """Rows of each series in a head, a matrix a series."""
        words: Words = np.frombuffer(record, np.int64)
        at = HEAD_WORDS + len(self._widths)
        rows = []
        for count, width in zip(words[HEAD_WORDS:at].tolist(), self._widths, strict=True):
            rows.append(words[at : at + count * width].reshape(count, width))
            at += count * width
        return rows

    def replace_hashes(self, record: bytes, series: int | None, replaced: dict[tuple[str, int], int]) -> bytes | None:
        """A head (`series` None) or a chunk with some hashes of distinct values replaced; None when it holds none.

        Args:
            record: The record.
            series: Of the chunk.
            replaced: (field, hash) -> hash to stand there.
        """
        if not self.fields or series not in (None, PAYMENTS):
            return None
        words: Words = np.frombuffer(record, np.int64).copy()
        width = self._widths[PAYMENTS]
        if series is None:
            start = HEAD_WORDS + len(self._widths)
            count = int(words[HEAD_WORDS + PAYMENTS])
        else:
            start, count = 0, len(words) // width
        rows = words[start : start + count * width].reshape(count, width)
        first = width - len(self.fields)
        found = False
        for (field, old), new in replaced.items():
            if field in self.fields:
                column = rows[:, first + self.fields.index(field)]
                hit = column == old
                found = found or bool(hit.any())
                column[hit] = new
        return words.tobytes() if found else None

    def describe_head(self, record: bytes) -> dict[str, Any]:
        """Times, and the newest rows of each series that has any."""
        words: Words = np.frombuffer(record, np.int64)
        told: dict[str, Any] = {
            "last_event": _time(int(words[AT_LAST_ANY])),
            "first_payment": _time(int(words[AT_FIRST_SEEN])),
            "last_payment": _time(int(words[AT_LAST_PAYMENT])),
            "has_sealed_chunks": bool(int(words[0]) & INDEXED),
        }
        series = {}
        for (name, valued, fields, windows), rows in zip(self._series, self.head_rows(record), strict=True):
            if len(rows):
                newest = [self._row(row, valued=valued) for row in rows[-SHOWN:].tolist()]
                series[name] = {
                    "windows": windows, "distinct_fields": fields, "rows": len(rows), "newest": newest,
                }  # fmt: skip
        return told | {"series": series}

    def describe_index(self, record: bytes) -> dict[str, Any]:
        """How many rows are sealed in chunks, series by series, and since when."""
        index = Index.decode(record, len(self._widths), self._window_count, self._where)
        told = {}
        for (name, *_), chunks in zip(self._series, index.chunks, strict=True):
            if chunks:
                told[name] = {
                    "chunks": len(chunks),
                    "rows": sum(chunk.rows for chunk in chunks),
                    "first_event": _time(min(chunk.first for chunk in chunks)),
                }
        return {"sealed": told, "windows_in_panes": len(index.windows)}

    def _row(self, row: list[int], *, valued: bool) -> dict[str, Any]:
        told: dict[str, Any] = {"event_time": _time(row[0])}
        if valued:
            told["value_micros"] = None if row[1] == ABSENT else row[1]
        return told


def _time(us: int) -> str | None:
    return None if us == NEVER else format_rfc3339_us(us)
