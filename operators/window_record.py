"""Byte layout of the window records of an entity, and the keys under which they stand.

All words are int64, little-endian. Keys start with b"v"; entity keys are arbitrary bytes, so what follows one has a
fixed length for its prefix, and two different records never share a key:

    b"vh" key                       head: one per entity, all a cold entity has
    b"vx" key                       index of a busy entity's chunks
    b"vc" key series(1) id(4)       one chunk of sealed rows, big-endian id
    b"vp" key window(2)             panes of one busy window, big-endian number of the window
    b"mv"                           shard meta (JSON)

Head:   layout | shape number << 8 | indexed << 32, last_any, first_seen, last_payment, trimmed, rows of each series (S
        words), then the rows, series by series, oldest first; equal times in order of arrival.
        last_any      largest event time of anything counted: what expiry goes by
        first_seen    smallest event time of a payment of any type, NEVER without
        last_payment  largest event time of a payment of any type, NEVER without
        trimmed       largest event time of a payment whose row is gone, NEVER without
        shape number  of the entity's shape (`operators.window_shape`) under which it was written, 0 for the first
        indexed       1 when there is an index; the head's rows are then the newest ones of each series
Row:    time, value (only in series with values; ABSENT: none, or a label that was retracted), hashes (payments
        series: one a distinct field, 0: none)
Index:  layout, then per series: chunks, next id, dropped (largest time of a row given up beyond the raw limit, or
        NEVER); then a bit set of the windows that have panes, 62 a word; then per series and chunk, oldest first:
        id, rows, first time, last time
Chunk:  rows.
Panes:  number of panes, since (rows before this time are not in them), then per pane, by number:
        number (pane length * number is its first time), rows, rows with value, offset, high and low half of the sum of
        (value - offset), max (-1: none), bits of the float64 sum of (value - offset)**2, and 32 words of packed
        HyperLogLog registers for each distinct field of the window
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from schemas.errors import StateLayoutError

Words = npt.NDArray[np.int64]

LAYOUT: Final = 1
NEVER: Final = -(1 << 62)
"""Earlier than every event time, with room to subtract a window."""
ABSENT: Final = -(1 << 63)
"""Value of a row that has none."""
LARGEST_VALUE: Final = (1 << 62) - 1
"""Amounts beyond (4.6e12 major units) are held as this: sums of differences must stay in 64-bit halves."""

SHAPE_SHIFT: Final = 8
INDEXED: Final = 1 << 32
AT_LAST_ANY: Final = 1
AT_FIRST_SEEN: Final = 2
AT_LAST_PAYMENT: Final = 3
AT_TRIMMED: Final = 4
HEAD_WORDS: Final = 5

PAYMENTS: Final = 0
"""Series of the payments that enter the amount windows."""
REFUNDS: Final = 1
"""Series of the payments that do not: they count for the time since the last payment only."""

CLOCK_RANK: Final = 16
"""The shard clock is the 16th largest event time: 15 future-dated events cannot move it. More would make it lag more
on a quiet shard, which only delays expiry."""

CHUNK_INDEX_WORDS: Final = 4
SERIES_INDEX_WORDS: Final = 3
MASK_BITS: Final = 62
PANE_HEAD_WORDS: Final = 2
PANE_WORDS: Final = 8

HEAD_PREFIX: Final = b"vh"
HEAD_STOP: Final = b"vi"
META_KEY: Final = b"mv"


def shape_number(head: bytes) -> int:
    """Number of the shape under which a head was written."""
    return int.from_bytes(head[1:4], "little")


def head_key(key: bytes) -> bytes:
    """Where the head of entity `key` stands."""
    return b"vh" + key


def index_key(key: bytes) -> bytes:
    """Where the chunk index of entity `key` stands."""
    return b"vx" + key


def chunk_key(key: bytes, series: int, chunk: int) -> bytes:
    """Where a chunk of entity `key` stands."""
    return b"vc%b%c%b" % (key, series, chunk.to_bytes(4, "big"))


def panes_key(key: bytes, window: int) -> bytes:
    """Where the panes of one window of entity `key` stand."""
    return b"vp" + key + window.to_bytes(2, "big")


@dataclass(slots=True)
class Chunk:
    """A sealed run of rows, as the index knows it."""

    id: int
    rows: int
    first: int
    last: int


@dataclass(slots=True)
class Index:
    """Decoded index of a busy entity.

    Attributes:
        chunks: Of each series, oldest first.
        next_ids: Of each series.
        dropped: Of each series: largest time of a row given up beyond the raw limit.
        windows: Numbers of the windows that have panes.
    """

    chunks: list[list[Chunk]]
    next_ids: list[int]
    dropped: list[int]
    windows: set[int]

    @classmethod
    def empty(cls, series: int) -> Index:
        """Index of an entity that has no chunks and no panes."""
        return cls([[] for _ in range(series)], [0] * series, [NEVER] * series, set())

    def encode(self, window_count: int) -> bytes:
        """Bytes of the record."""
        words = [LAYOUT]
        for chunks, next_id, dropped in zip(self.chunks, self.next_ids, self.dropped, strict=True):
            words += (len(chunks), next_id, dropped)
        for base in range(0, window_count, MASK_BITS):
            words.append(sum(1 << (w - base) for w in self.windows if base <= w < base + MASK_BITS))
        for chunks in self.chunks:
            for chunk in chunks:
                words += (chunk.id, chunk.rows, chunk.first, chunk.last)
        return np.array(words, dtype="<i8").tobytes()

    @classmethod
    def decode(cls, record: bytes, series: int, window_count: int, where: str) -> Index:
        """Read a record.

        Raises:
            StateLayoutError: It is of another layout, or its length is wrong; restore a backup.
        """
        words: list[int] = np.frombuffer(record, dtype="<i8").tolist()
        masks = 1 + SERIES_INDEX_WORDS * series
        at = masks + -(-window_count // MASK_BITS)
        if len(words) < at or words[0] != LAYOUT:
            refuse(where, "a chunk index", words[0] if words else None)
        counts = words[1:masks:SERIES_INDEX_WORDS]
        if len(words) != at + CHUNK_INDEX_WORDS * sum(counts):
            refuse(where, f"a chunk index of {sum(counts)} chunks", len(words))
        windows = {w for w in range(window_count) if words[masks + w // MASK_BITS] >> (w % MASK_BITS) & 1}
        chunks = []
        for count in counts:
            stop = at + CHUNK_INDEX_WORDS * count
            chunks.append([Chunk(*words[k : k + CHUNK_INDEX_WORDS]) for k in range(at, stop, CHUNK_INDEX_WORDS)])
            at = stop
        return cls(chunks, words[2:masks:SERIES_INDEX_WORDS], words[3:masks:SERIES_INDEX_WORDS], windows)


@dataclass(slots=True)
class OldShape:
    """A shape that was left: its number, its text, and the shard clock when it was."""

    number: int
    shape: str
    clock: int


@dataclass(slots=True)
class Meta:
    """What is kept once a shard.

    Attributes:
        shape: What the records' layout follows from, as text; records of another shape are migrated.
        feature_set: Id of the feature set that wrote last.
        hash: Its hash.
        covered: Label of each window -> event time since which every event has been counted.
        clock: The largest event times, ascending; the first is the shard clock.
        cursor: Where the sweep goes on, hex of a head's key.
        number: Number of the shape, counted from 0.
        history: Shapes before it of which records may be left.
        since: Track -> event time since which all its rows are there.
        reach: Track -> label of a window -> event time since which the track holds all the window needs.
        pending: Tracks that begin with the next event counted.
    """

    shape: str
    feature_set: str
    hash: str
    covered: dict[str, int] = field(default_factory=dict)
    clock: list[int] = field(default_factory=lambda: [NEVER] * CLOCK_RANK)
    cursor: str = ""
    number: int = 0
    history: list[OldShape] = field(default_factory=list)
    since: dict[str, int] = field(default_factory=dict)
    reach: dict[str, dict[str, int]] = field(default_factory=dict)
    pending: list[str] = field(default_factory=list)

    def encode(self) -> bytes:
        """Bytes of the record."""
        return msgspec.json.encode({"layout": LAYOUT, "meta": self})

    @classmethod
    def decode(cls, record: bytes, where: str) -> Meta:
        """Read a record.

        Raises:
            StateLayoutError: It is of another layout; restore a backup, or start with an empty state directory.
        """
        found: dict[str, Any] = msgspec.json.decode(record)
        if found.get("layout") != LAYOUT:
            refuse(where, f"layout {LAYOUT}", found.get("layout"))
        return msgspec.convert(found["meta"], cls)


def refuse(where: str, expected: str, found: object) -> None:
    """Raise: a record is not what its key says.

    Raises:
        StateLayoutError: always.
    """
    text = (
        f"shard {where}: window records: expected {expected}, found {found!r}; "
        "restore a backup written by this layout, or start with an empty state directory"
    )
    raise StateLayoutError(text)
