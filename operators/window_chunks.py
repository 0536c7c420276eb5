"""Busy entities: sealed chunks and panes read before the kernel runs, and what changed written after it.

An entity whose rows fit in its head never comes here. Which chunks are read follows from what the kernel may look at
(`_first_needed`); reading more would change no value, reading fewer would.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np

from operators import window_kernel as kernel
from operators import window_measure as measure
from operators.window_plan import Limits, Plan
from operators.window_record import (
    AT_TRIMMED,
    HEAD_WORDS,
    INDEXED,
    NEVER,
    REFUNDS,
    Chunk,
    Index,
    Words,
    chunk_key,
    index_key,
    panes_key,
    refuse,
)
from state.api import StepStore

Writes = list[tuple[bytes, bytes | None]]
WORD: Final = 8


@dataclass(slots=True)
class Busy:
    """One busy entity in one batch.

    Attributes:
        entity: Its number in the batch.
        key: Its key.
        head: Its head record, empty when new.
        earliest: Smallest event time that the batch asks about or retracts.
        ordered: Whether the batch's times do not go back.
        index: Its chunk index.
        before: The index's record as read, None when there was none.
        first: Of each series, the first chunk that was read.
        chunks: Of each series, the records read.
    """

    entity: int
    key: bytes
    head: bytes
    earliest: int
    ordered: bool
    index: Index
    before: bytes | None = None
    first: list[int] = field(default_factory=list)
    chunks: list[list[bytes]] = field(default_factory=list)


@dataclass(slots=True)
class Loaded:
    """What the kernel takes of the busy entities, and room for what it gives back."""

    busy: list[Busy]
    hot_of: Words
    hot: Words
    sealed_in: Words
    panes_at: Words
    panes_in: Words
    hot_out: Words
    sealed_out: Words
    panes_at_out: Words
    panes_out: Words
    rows: int
    panes_room: int


_NONE: Final = np.zeros(0, np.int64)
_NO_HOT: Final = np.zeros((0, 0, 4), np.int64)
_NO_PANES: Final = np.zeros((0, 0), np.int64)


def nothing_busy(entities: int) -> Loaded:
    """For a batch without busy entities."""
    hot_of = np.full(entities, -1, np.int64)
    return Loaded([], hot_of, _NO_HOT, _NONE, _NO_PANES, _NONE, _NO_HOT, _NONE, _NO_PANES, _NONE, 0, 0)


def load(
    store: StepStore, plan: Plan, limits: Limits, busy: list[Busy], entities: int, events: int, clock: int
) -> Loaded:
    """Read index, panes and the chunks needed of busy entities.

    Args:
        store: The step's store.
        plan: The entity's plan.
        limits: Its limits.
        busy: Entities that have an index, or may get one in this batch.
        entities: Entities in the batch.
        events: Events in the batch, for room.
        clock: The shard clock after the batch.

    Raises:
        StateLayoutError: A record is missing or of another layout.
    """
    series, windows = len(plan.series), len(plan.windows)
    where = f"{store.step}/{store.shard}"
    indexed = [one for one in busy if one.head and one.head[4]]
    for one, record in zip(indexed, store.get_many([index_key(one.key) for one in indexed]), strict=True):
        if record is None:
            refuse(where, "the chunk index of a busy entity", None)
        else:
            one.before = record
            one.index = Index.decode(record, series, windows, where)
    panes_at = np.full((len(busy), windows), -1, np.int64)
    places = [(h, w) for h, one in enumerate(busy) for w in sorted(one.index.windows)]
    records = _present(store, [panes_key(busy[h].key, w) for h, w in places], where)
    at = 0
    for (h, w), record in zip(places, records, strict=True):
        panes_at[h, w] = at
        at += len(record) // WORD
    panes_in = np.frombuffer(bytearray().join(records), np.int64)

    wanted: list[bytes] = []
    for h, one in enumerate(busy):
        for s in range(series):
            chunks = one.index.chunks[s]
            first = _first_needed(plan, limits, one, s, panes_at[h], panes_in, events, clock) if chunks else 0
            one.first.append(first)
            wanted += [chunk_key(one.key, s, chunk.id) for chunk in chunks[first:]]
    found = iter(_present(store, wanted, where))
    hot = np.zeros((len(busy), series, 4), np.int64)
    sealed: list[bytes] = []
    at = most = most_in_window = 0
    for h, one in enumerate(busy):
        for s in range(series):
            chunks = one.index.chunks[s]
            mine = [next(found) for _ in chunks[one.first[s] :]]
            rows = sum(chunk.rows for chunk in chunks[one.first[s] :])
            if sum(map(len, mine)) != rows * WORD * int(plan.series[s, kernel.S_WIDTH]):
                refuse(where, f"chunks of {rows} rows", sum(map(len, mine)))
            one.chunks.append(mine)
            unloaded = sum(chunk.rows for chunk in chunks[: one.first[s]])
            hot[h, s] = (at, rows, unloaded, one.index.dropped[s])
            sealed += mine
            at += sum(map(len, mine)) // WORD
            most = max(most, rows)
            most_in_window = max(most_in_window, rows + unloaded)
    hot_of = np.full(entities, -1, np.int64)
    hot_of[[one.entity for one in busy]] = np.arange(len(busy))
    can_have_panes = bool(places) or most_in_window + events + limits.tail > limits.exact
    panes_room = plan.panes_room if can_have_panes else 0
    widths = int(plan.series[:, kernel.S_WIDTH].sum())
    panes_words = int((plan.windows[:, measure.W_WORDS] * panes_room + 2).sum())
    return Loaded(
        busy=busy,
        hot_of=hot_of,
        hot=hot,
        sealed_in=np.frombuffer(bytearray().join(sealed), np.int64),
        panes_at=panes_at,
        panes_in=panes_in,
        hot_out=np.empty((len(busy), series, 4), np.int64),
        sealed_out=np.empty(at + events * widths, np.int64),
        panes_at_out=np.empty((len(busy), windows), np.int64),
        panes_out=np.empty(len(busy) * panes_words, np.int64),
        rows=most,
        panes_room=panes_room,
    )


def _present(store: StepStore, keys: list[bytes], where: str) -> list[bytes]:
    records = store.get_many(keys) if keys else []
    present = [record for record in records if record is not None]
    if len(present) != len(keys):
        refuse(where, f"{len(keys)} chunks or panes named by an index", len(present))
    return present


def _first_needed(
    plan: Plan, limits: Limits, one: Busy, s: int, panes_at: Words, panes_in: Words, events: int, clock: int
) -> int:
    """First chunk of series s that must be read.

    Read back to the old end of every window that has no panes (and a pane further, in case they begin in this batch),
    or whose panes do not reach far enough or may be given up within this batch; of the others until it is certain
    that they are busy; and in any case to a row that is not later than the earliest event.
    """
    earliest = one.earliest
    surely = earliest
    unless_busy = earliest
    for w in range(int(plan.bounds[s]), int(plan.bounds[s + 1])):
        length, pane = int(plan.windows[w, measure.W_LENGTH]), int(plan.windows[w, measure.W_PANE])
        back = earliest - length - pane
        at = int(panes_at[w])
        reach = earliest
        if at >= 0 and int(panes_in[at]) + events <= plan.panes_room:
            kept = NEVER if clock == NEVER else (clock - length) // pane - int(plan.windows[w, measure.W_EXTRA])
            reach = max(int(panes_in[at + 1]), kept * pane)
        if back < reach:
            surely = min(surely, back)
        else:
            unless_busy = min(unless_busy, back)
            if not one.ordered or _later_rows(plan, one, s, earliest, pane):
                surely = min(surely, earliest - pane)
    chunks = one.index.chunks[s]
    first = len(chunks)
    rows = 0
    while first > 0:
        if first < len(chunks):
            oldest = chunks[first].first
            if oldest <= surely and (oldest <= unless_busy or rows > limits.exact):
                break
        first -= 1
        if chunks[first].last <= earliest:
            rows += chunks[first].rows
    return first


def _later_rows(plan: Plan, one: Busy, s: int, earliest: int, pane: int) -> bool:
    """Whether rows later than the earliest event may lie in the pane that holds it."""
    if not one.head:
        return False
    words = np.frombuffer(one.head, np.int64)
    counts = words[HEAD_WORDS : HEAD_WORDS + len(plan.series)]
    widths = plan.series[:, kernel.S_WIDTH]
    start = HEAD_WORDS + len(plan.series) + int((counts[:s] * widths[:s]).sum())
    times = words[start : start + int(counts[s] * widths[s]) : int(widths[s])]
    if not len(times) or times[0] > earliest:
        return True
    return bool(((times > earliest) & (times < (earliest // pane + 1) * pane)).any())


def write_back(
    plan: Plan, limits: Limits, loaded: Loaded, heads_out: Words, starts_out: list[int], clock: int, reset: set[int]
) -> tuple[dict[int, bytes], Writes]:
    """What to write of the busy entities after the kernel ran.

    Args:
        plan: The entity's plan.
        limits: Its limits.
        loaded: As the kernel left it.
        heads_out: Heads as the kernel left them.
        starts_out: Where each starts.
        clock: The shard clock.
        reset: Numbers of the entities that were expired and began anew.

    Returns:
        The heads by number of entity, and the other records.
    """
    heads: dict[int, bytes] = {}
    writes: Writes = []
    for h, one in enumerate(loaded.busy):
        head = heads_out[starts_out[one.entity] : starts_out[one.entity + 1]]
        tails = []
        for s in range(len(plan.series)):
            tail = _write_series(plan, limits, loaded, h, s, heads_out, head, clock, one.entity in reset, writes)
            head[HEAD_WORDS + s] = len(tail) // int(plan.series[s, kernel.S_WIDTH])
            tails.append(tail)
        for w, at in enumerate(loaded.panes_at_out[h].tolist()):
            if at >= 0:
                size = 2 + int(loaded.panes_out[at]) * int(plan.windows[w, measure.W_WORDS])
                writes.append((panes_key(one.key, w), loaded.panes_out[at : at + size].tobytes()))
                one.index.windows.add(w)
            elif at == kernel.PANES_GONE and w in one.index.windows:
                writes.append((panes_key(one.key, w), None))
                one.index.windows.discard(w)
        kept = any(one.index.chunks) or one.index.windows or any(time != NEVER for time in one.index.dropped)
        head[0] += INDEXED if kept else 0
        after = one.index.encode(len(plan.windows)) if kept else None
        if after != one.before:
            writes.append((index_key(one.key), after))
        heads[one.entity] = b"".join(
            [head[: HEAD_WORDS + len(plan.series)].tobytes(), *(tail.tobytes() for tail in tails)]
        )
    return heads, writes


def _write_series(
    plan: Plan, limits: Limits, loaded: Loaded, h: int, s: int, heads_out: Words, head: Words, clock: int,
    reset: bool, writes: Writes,
) -> Words:  # fmt: skip
    """Write the chunks of one series that changed; returns the rows that stay in the head."""
    one = loaded.busy[h]
    index = one.index
    width, keep = int(plan.series[s, kernel.S_WIDTH]), int(plan.series[s, kernel.S_KEEP])
    tail_at, tail_rows, sealed_at, sealed_rows = loaded.hot_out[h, s].tolist()
    if reset:
        writes.extend((chunk_key(one.key, s, chunk.id), None) for chunk in index.chunks[s])
        index.chunks[s], one.first[s], one.chunks[s] = [], 0, []
        index.dropped[s] = NEVER
    if sealed_at >= 0:
        rows = loaded.sealed_out[sealed_at : sealed_at + sealed_rows * width]
        _reseal(limits, one, s, rows.reshape(sealed_rows, width), writes)
    tail = heads_out[tail_at : tail_at + tail_rows * width]
    while len(tail) >= limits.tail * width:
        index.chunks[s].append(_seal(one, s, tail[: limits.chunk * width].reshape(limits.chunk, width), writes))
        tail = tail[limits.chunk * width :]
    chunks = index.chunks[s]
    total = len(tail) // width + sum(chunk.rows for chunk in chunks)
    gone = 0
    while gone < len(chunks):
        expired = clock != NEVER and chunks[gone].last < clock - keep
        if not expired and total - chunks[gone].rows < limits.raw:
            break
        total -= chunks[gone].rows
        writes.append((chunk_key(one.key, s, chunks[gone].id), None))
        if not expired:
            index.dropped[s] = max(index.dropped[s], chunks[gone].last)
        if s <= REFUNDS:
            head[AT_TRIMMED] = max(int(head[AT_TRIMMED]), chunks[gone].last)
        gone += 1
    del chunks[:gone]
    if clock != NEVER and index.dropped[s] < clock - keep:
        index.dropped[s] = NEVER
    return tail


def _seal(one: Busy, s: int, rows: Words, writes: Writes) -> Chunk:
    chunk = Chunk(one.index.next_ids[s], len(rows), int(rows[0, 0]), int(rows[-1, 0]))
    one.index.next_ids[s] += 1
    writes.append((chunk_key(one.key, s, chunk.id), rows.tobytes()))
    return chunk


def _reseal(limits: Limits, one: Busy, s: int, rows: Words, writes: Writes) -> None:
    """Store changed sealed rows: chunks that are the same from either end stay, those between are cut anew."""
    raw = rows.tobytes()
    width = rows.shape[1] * WORD
    first = one.first[s]
    old = one.index.chunks[s][first:]
    sizes = [len(record) for record in one.chunks[s]]
    front = start = 0
    while front < len(old) and raw[start : start + sizes[front]] == one.chunks[s][front]:
        start += sizes[front]
        front += 1
    back, stop = len(old), len(raw)
    while back > front and stop - sizes[back - 1] >= start:
        if raw[stop - sizes[back - 1] : stop] != one.chunks[s][back - 1]:
            break
        stop -= sizes[back - 1]
        back -= 1
    writes.extend((chunk_key(one.key, s, chunk.id), None) for chunk in old[front:back])
    changed = rows[start // width : stop // width]
    pieces = -(-len(changed) // (2 * limits.chunk))  # halves only what has grown to twice the size
    cuts = [len(changed) * piece // pieces for piece in range(pieces + 1)] if pieces else []
    new = [_seal(one, s, changed[a:b], writes) for a, b in pairwise(cuts)]
    one.index.chunks[s][first:] = [*old[:front], *new, *old[back:]]
