"""A changed feature set over the windows of before: what stays keeps its exact values, what is new begins warming.

A shard's meta record tells which shape its records have. When the declared shape is another one, the meta record takes
it at once (`change_shape`), and an entity's records follow when the entity is next touched or the sweep comes by: each
head carries the number of its shape. So a restart costs nothing, whatever the number of entities; once the sweep has
been through, the old shapes are forgotten.

Coverage goes by track (`operators.window_shape`): a track that was there before holds all rows since some time, and a
window new to it is covered from there on; a track that was not begins with the first event counted now, but not before
the newest event time the shard has seen, for events before that may have passed uncounted. A window needs all tracks of
all features that name it, since a flag names a window.

Migrating an entity first does what the old shape would have done at its end: rows that its clock had let go are
dropped, an entity that had expired is forgotten. So it makes no difference when an entity is migrated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from operators.panes import HLL_WORDS
from operators.window_plan import Limits, Plan
from operators.window_record import (
    ABSENT,
    AT_FIRST_SEEN,
    AT_LAST_ANY,
    AT_LAST_PAYMENT,
    AT_TRIMMED,
    HEAD_PREFIX,
    HEAD_WORDS,
    INDEXED,
    LAYOUT,
    NEVER,
    PANE_HEAD_WORDS,
    PANE_WORDS,
    REFUNDS,
    SHAPE_SHIFT,
    Chunk,
    Index,
    Meta,
    OldShape,
    Words,
    chunk_key,
    head_key,
    index_key,
    panes_key,
    refuse,
    shape_number,
)
from operators.window_shape import PAYMENTS_NAME, SeriesShape, Shape
from state.api import StepStore

Writes = list[tuple[bytes, bytes | None]]

LATER: Final = 1 << 62
"""Event time since which a track is covered that has not begun."""
_NO_ROWS: Final = np.zeros((0, 1), np.int64)


def change_shape(meta: Meta, text: str, where: str, *, gap: bool = False) -> None:
    """Give the shard the shape `text`, if it has another.

    Args:
        meta: The shard's; changed.
        text: The shape declared.
        where: Step and shard, for messages.
        gap: Other feature sets ran in between, without a payment for this shard: of labels and other streams some may
            have passed uncounted.

    Raises:
        StateLayoutError: The shape kept cannot be read.
    """
    if meta.shape == text and not gap:
        return
    old, new = _parse(meta.shape, where), _parse(text, where)
    clock = meta.clock[0]
    if meta.covered and not meta.reach:
        meta.reach = {
            name: {label: meta.covered[label] for label in labels} for name, (_, labels) in old.tracks.items()
        }
        meta.since = {name: max(meta.covered.values()) for name in old.tracks}
    if meta.covered:
        _extend(meta, old, new, clock, gap=gap)
    meta.history.append(OldShape(meta.number, meta.shape, clock))
    meta.number += 1
    meta.shape = text
    meta.cursor = ""  # the sweep's next pass sees every head that is left of older shapes


def _extend(meta: Meta, old: Shape, new: Shape, clock: int, *, gap: bool) -> None:
    reach: dict[str, dict[str, int]] = {}
    since: dict[str, int] = {}
    meta.pending = [name for name in meta.pending if name in new.tracks]
    for name, (number, labels) in new.tracks.items():
        before = old.tracks.get(name)
        if before is None or (gap and not new.series[number].of_payments):
            since[name] = LATER
            reach[name] = dict.fromkeys(labels, LATER)
            meta.pending = list(dict.fromkeys([*meta.pending, name]))
            continue
        kept = old.series[before[0]].keep_us
        floor = NEVER if clock == NEVER else clock - kept
        since[name] = max(meta.since[name], floor)
        known = meta.reach[name]
        later = floor if new.lateness_us > old.lateness_us else NEVER  # late events may now ask for rows let go
        reach[name] = {label: max(known[label], later) if label in known else since[name] for label in labels}
    meta.since, meta.reach = since, reach
    _cover(meta)


def begin_tracks(meta: Meta, windows: list[tuple[str, int]], first_us: int, newest_us: int) -> None:
    """Tracks that have not begun do, with an event of time `first_us` in a shard that has seen `newest_us`."""
    if not meta.covered:
        meta.covered = {label: first_us for label, _ in windows}
        return
    begun = first_us if newest_us == NEVER else max(first_us, newest_us + 1)
    for name in meta.pending:
        meta.since[name] = begun
        meta.reach[name] = dict.fromkeys(meta.reach[name], begun)
    meta.pending = []
    _cover(meta)


def _cover(meta: Meta) -> None:
    covered: dict[str, int] = {}
    for labels in meta.reach.values():
        for label, time in labels.items():
            covered[label] = max(time, covered.get(label, NEVER))
    meta.covered = covered


def brought_up_to_date(
    store: StepStore, meta: Meta, plan: Plan, limits: Limits, keys: list[bytes], heads: list[bytes]
) -> list[bytes]:
    """The heads of entities in the present shape; those of older ones are migrated and written.

    Args:
        store: The step's store.
        meta: The shard's.
        plan: The present plan.
        limits: Its limits.
        keys: The entities.
        heads: Their heads, empty where there is none; empty in the answer where an entity had expired.

    Raises:
        StateLayoutError: A record is missing or of no known shape.
    """
    writes: Writes = []
    found = []
    for key, head in zip(keys, heads, strict=True):
        if head and shape_number(head) != meta.number:
            made, more = _migrate(store, meta, plan, limits, key, head)
            writes += [*more, (head_key(key), made or None)]
            found.append(made)
        else:
            found.append(head)
    store.put_many(writes)
    return found


def swept_up_to_date(
    store: StepStore, meta: Meta, plan: Plan, limits: Limits, heads: list[tuple[bytes, bytes]]
) -> list[tuple[bytes, bytes]]:
    """The same for what the sweep has come to; at the end of its pass nothing older is left, and that is noted."""
    keys = [place[len(HEAD_PREFIX) :] for place, _ in heads]
    found = brought_up_to_date(store, meta, plan, limits, keys, [head for _, head in heads])
    if not meta.cursor:
        meta.history = []
    return [(head_key(key), head) for key, head in zip(keys, found, strict=True) if head]


@dataclass(slots=True)
class _Entity:
    """An entity's records, unpacked.

    Attributes:
        fixed: last_any, first_seen, last_payment, trimmed.
        rows: Of each series by name, shape [rows, width]; without those of chunks that stay as they are.
        dropped: Of each series by name.
        panes: Of each window by name of the series and label: since, and its panes, one a row.
    """

    fixed: dict[int, int]
    rows: dict[str, Words]
    dropped: dict[str, int]
    panes: dict[tuple[str, str], tuple[int, Words]]


def _migrate(store: StepStore, meta: Meta, plan: Plan, limits: Limits, key: bytes, head: bytes) -> tuple[bytes, Writes]:
    """The entity's new head (empty: it had expired) and what else is to be written."""
    where = f"{store.step}/{store.shard}"
    number = shape_number(head)
    left = [one for one in meta.history if one.number >= number]
    if not left or left[0].number != number:
        refuse(where, f"an entity of shape {meta.number}", number)
    shapes = [*(_parse(one.shape, where) for one in left), _parse(meta.shape, where)]
    clocks = [one.clock for one in left]
    old, new = shapes[0], shapes[-1]
    index = Index.empty(len(old.series))
    if head[4]:
        record = store.get_many([index_key(key)])[0]
        if record is None:
            refuse(where, "the chunk index of a busy entity", None)
        else:
            index = Index.decode(record, len(old.series), len(old.window_numbers()), where)
    staying = _staying(shapes, clocks, index)
    entity = _unpack(store, where, key, head, old, index, staying)
    for before, after, clock in zip(shapes, shapes[1:], clocks, strict=False):
        if clock != NEVER and entity.fixed[AT_LAST_ANY] < clock - before.retention_us:
            return b"", _removed(key, index, head, {})
        _let_go(entity, before, clock)
        _reshape(entity, before, after)
    return _pack(meta, limits, key, head, entity, new, index, staying)


def _staying(shapes: list[Shape], clocks: list[int], index: Index) -> dict[int, int]:
    """Series whose chunks need not be touched: number before -> the same number after."""
    found = {}
    for number, series in enumerate(shapes[0].series):
        floors = [
            clock - shape.series[number].keep_us
            for shape, clock in zip(shapes, clocks, strict=False)
            if clock != NEVER and number < len(shape.series)
        ]
        same = all(
            number < len(shape.series)
            and (shape.series[number].name, shape.series[number].valued, shape.series[number].fields)
            == (series.name, series.valued, series.fields)
            for shape in shapes
        )
        chunks = index.chunks[number]
        if same and chunks and chunks[0].first >= max(floors, default=NEVER):
            found[number] = number
    return found


def _unpack(
    store: StepStore, where: str, key: bytes, head: bytes, old: Shape, index: Index, staying: dict[int, int]
) -> _Entity:
    words: Words = np.frombuffer(head, np.int64)
    fixed = {at: int(words[at]) for at in (AT_LAST_ANY, AT_FIRST_SEEN, AT_LAST_PAYMENT, AT_TRIMMED)}
    rows: dict[str, Words] = {}
    at = HEAD_WORDS + len(old.series)
    for number, series in enumerate(old.series):
        count = int(words[HEAD_WORDS + number])
        tail = words[at : at + count * series.width].reshape(count, series.width)
        at += count * series.width
        places = [] if number in staying else [chunk_key(key, number, chunk.id) for chunk in index.chunks[number]]
        sealed = [np.frombuffer(record, np.int64).reshape(-1, series.width) for record in _all(store, where, places)]
        rows[series.name] = np.concatenate([*sealed, tail])
    names = old.window_numbers()
    windows = sorted(index.windows)
    panes: dict[tuple[str, str], tuple[int, Words]] = {}
    for window, record in zip(windows, _all(store, where, [panes_key(key, w) for w in windows]), strict=True):
        kept: Words = np.frombuffer(record, np.int64)
        panes[names[window]] = (int(kept[1]), kept[PANE_HEAD_WORDS:].reshape(int(kept[0]), -1))
    dropped = {series.name: time for series, time in zip(old.series, index.dropped, strict=True)}
    return _Entity(fixed, rows, dropped, panes)


def _all(store: StepStore, where: str, places: list[bytes]) -> list[bytes]:
    found = [record for record in (store.get_many(places) if places else []) if record is not None]
    if len(found) != len(places):
        refuse(where, f"{len(places)} chunks or panes named by an index", len(found))
    return found


def _let_go(entity: _Entity, shape: Shape, clock: int) -> None:
    """Drop the rows that `shape` does not keep any more at its end."""
    if clock == NEVER:
        return
    for number, series in enumerate(shape.series):
        rows = entity.rows[series.name]
        kept = rows[:, 0] >= clock - series.keep_us
        if number <= REFUNDS and not kept.all():
            entity.fixed[AT_TRIMMED] = max(entity.fixed[AT_TRIMMED], int(rows[~kept, 0].max()))
        entity.rows[series.name] = rows[kept]


def _reshape(entity: _Entity, old: Shape, new: Shape) -> None:
    """Turn the entity of one shape into one of the next."""
    before = {series.name: series for series in old.series}
    entity.rows = {
        series.name: _columns(entity.rows[series.name], before[series.name], series)
        if series.name in before
        else np.zeros((0, series.width), np.int64)
        for series in new.series
    }
    entity.dropped = {series.name: entity.dropped.get(series.name, NEVER) for series in new.series}
    kept = set(new.window_numbers())
    entity.panes = {
        (name, label): (since, _sketches(panes, old, new, label) if name == PAYMENTS_NAME else panes)
        for (name, label), (since, panes) in entity.panes.items()
        if (name, label) in kept
    }
    if new.since_last and not old.since_last:
        # Payments that enter no window left no row; the last of them is known all the same.
        entity.fixed[AT_TRIMMED] = max(entity.fixed[AT_TRIMMED], entity.fixed[AT_LAST_PAYMENT])


def _columns(rows: Words, old: SeriesShape, new: SeriesShape) -> Words:
    if (old.valued, old.fields) == (new.valued, new.fields):
        return rows
    made: Words = np.zeros((len(rows), new.width), np.int64)
    made[:, 0] = rows[:, 0]
    if new.valued:
        made[:, 1] = rows[:, 1] if old.valued else ABSENT
    for at, name in enumerate(new.fields):
        if name in old.fields:
            made[:, 1 + new.valued + at] = rows[:, 1 + old.valued + old.fields.index(name)]
    return made


def _sketches(panes: Words, old: Shape, new: Shape, label: str) -> Words:
    """Panes of a window of the payments with the sketches of the fields counted over it now."""
    before, after = old.fields_of(label), new.fields_of(label)
    if before == after:
        return panes
    made: Words = np.zeros((len(panes), PANE_WORDS + HLL_WORDS * len(after)), np.int64)
    made[:, :PANE_WORDS] = panes[:, :PANE_WORDS]
    for at, name in enumerate(after):
        if name in before:
            source = PANE_WORDS + HLL_WORDS * before.index(name)
            target = PANE_WORDS + HLL_WORDS * at
            made[:, target : target + HLL_WORDS] = panes[:, source : source + HLL_WORDS]
    return made


def _removed(key: bytes, index: Index, head: bytes, staying: dict[int, int]) -> Writes:
    """Deletions of the entity's records other than its head, but for the chunks that stay."""
    writes: Writes = [(index_key(key), None)] if head[4] else []
    writes += [(panes_key(key, window), None) for window in sorted(index.windows)]
    writes += [
        (chunk_key(key, number, chunk.id), None)
        for number, chunks in enumerate(index.chunks)
        if number not in staying
        for chunk in chunks
    ]
    return writes


def _pack(
    meta: Meta, limits: Limits, key: bytes, head: bytes, entity: _Entity, shape: Shape, index: Index,
    staying: dict[int, int],
) -> tuple[bytes, Writes]:  # fmt: skip
    """The new head, and the other records to write; of a key that is deleted and written the later write counts."""
    writes = _removed(key, index, head, staying)
    made = Index.empty(len(shape.series))
    tails = []
    for number, series in enumerate(shape.series):
        rows = entity.rows[series.name]
        if number in staying:
            made.chunks[number], made.next_ids[number] = list(index.chunks[number]), index.next_ids[number]
        made.dropped[number] = entity.dropped[series.name]
        while len(rows) >= limits.tail:
            chunk = Chunk(made.next_ids[number], limits.chunk, int(rows[0, 0]), int(rows[limits.chunk - 1, 0]))
            writes.append((chunk_key(key, number, chunk.id), rows[: limits.chunk].tobytes()))
            made.chunks[number].append(chunk)
            made.next_ids[number] += 1
            rows = rows[limits.chunk :]
        tails.append(rows)
    names = shape.window_numbers()
    for window, name in enumerate(names):
        if name in entity.panes:
            since, panes = entity.panes[name]
            made.windows.add(window)
            writes.append((panes_key(key, window), np.array([len(panes), since], np.int64).tobytes() + panes.tobytes()))
    indexed = any(made.chunks) or bool(made.windows) or any(time != NEVER for time in made.dropped)
    if indexed:
        writes.append((index_key(key), made.encode(len(names))))
    first = LAYOUT | meta.number << SHAPE_SHIFT | (INDEXED if indexed else 0)
    fixed = [entity.fixed[at] for at in (AT_LAST_ANY, AT_FIRST_SEEN, AT_LAST_PAYMENT, AT_TRIMMED)]
    words = np.array([first, *fixed, *map(len, tails)], np.int64)
    return b"".join([words.tobytes(), *(rows.tobytes() for rows in tails)]), writes


def _parse(text: str, where: str) -> Shape:
    try:
        return msgspec.json.decode(text, type=Shape)
    except msgspec.MsgspecError as error:
        refuse(where, "the shape of its windows", str(error))
        raise AssertionError from error
