"""The windows of one entity: takes the payments, labels and stream events of a shard, fills the payments' features.

What a window covers: at a payment with event time t the window of length w covers (t - w, t], the payment itself
included, of what has arrived by then. Payments of equal time count in order of arrival. A late payment is put in its
place and gets the values as of its time.

What enters: purchases and verifications enter the amount windows, refunds and reversals only count for the time since
the last and the first payment. A payment without a rate counts, but has no part in sum, mean, max and stddev. Labels
enter by the time of the label, with their weight; a correction takes the earlier label out. Duplicates and events of
no use to this entity pass untouched.

Flags: "late:<entity>" a later payment of the entity had been counted; "late_incomplete" older than the shard clock by
more than the allowed lateness, so history may be gone; "approximated:<entity>.<window>" more than 4,096 events in the
window (see `operators.panes`); "warming:<window>" the window reaches back further than this state; "absent:<entity>".

The shard clock is the 16th largest event time of payments and of the stream events counted here; labels do not move it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from operator import attrgetter
from typing import Any, Final

import numpy as np
import xxhash

from operators import window_kernel as kernel
from operators.features import EntitySpec, FeatureSet
from operators.inflight import DEVICE_EVENT, IDENTITY_EVENT, LABEL, PAYMENT, InFlight
from operators.window_chunks import Busy, Loaded, load, nothing_busy, write_back
from operators.window_measure import WEIGHT_ONE
from operators.window_migrate import begin_tracks, brought_up_to_date, change_shape, swept_up_to_date
from operators.window_plan import Limits, Plan
from operators.window_record import (
    ABSENT,
    AT_LAST_ANY,
    CLOCK_RANK,
    HEAD_PREFIX,
    HEAD_STOP,
    HEAD_WORDS,
    LARGEST_VALUE,
    META_KEY,
    NEVER,
    SHAPE_SHIFT,
    Index,
    Meta,
    Words,
    chunk_key,
    index_key,
    panes_key,
)
from state.api import StepStore

SWEEP_RECORDS: Final = 32
"""Heads looked at by the sweep a snapshot. More: the epoch's end takes longer (32 shards and 6 entities at 1 µs a head
are 6 ms). Fewer: expired entities stay on disk longer, which nothing but the disk notices."""
LARGEST_WEIGHT: Final = 16_384.0
"""Heavier labels count as this: 65,536 of them still sum in 64 bits."""
ENTERING: Final = frozenset({"purchase", "verification"})
MEMO: Final = "velocity"

_NO_RETRACTIONS: Final = np.zeros((0, 4), np.int64)
_hash: Final = xxhash.xxh3_64_intdigest


class _Shard:
    """Decoded meta record of one shard; lives in the store's memo.

    Attributes:
        meta: The record.
        clock: The largest event times; the kernel advances them.
        covered_from: Event times from which on a window is covered, ascending.
        warming: warming[k] are the flags at a time before covered_from[k], but not before covered_from[k - 1].
    """

    __slots__ = ("clock", "covered_from", "meta", "warming")

    def __init__(self, meta: Meta, windows: list[tuple[str, int]]) -> None:
        self.meta = meta
        self.clock: Words = np.array(meta.clock, np.int64)
        self.covered_from: list[int] = []
        self.warming: list[list[str]] = []
        self.warm(windows)

    def warm(self, windows: list[tuple[str, int]]) -> None:
        """Note from which event time on each window is covered."""
        covered = self.meta.covered
        if covered:
            by_time = sorted((covered[label] + us - 1, f"warming:{label}") for label, us in windows)
            self.covered_from = [time for time, _ in by_time]
            self.warming = [[flag for _, flag in by_time[k:]] for k in range(len(by_time) + 1)]


class Velocity:
    """Exact event-time windows of one entity, as declared."""

    def __init__(
        self,
        feature_set: FeatureSet,
        entity: EntitySpec,
        limits: Limits | None = None,
        predecessor: str | None = None,
    ) -> None:
        self._predecessor = predecessor
        self.limits = limits or Limits()
        self.plan = Plan(feature_set, entity, self.limits)
        self._feature_set = feature_set
        self._index = entity.index
        self._start, self._stop = entity.velocity_slots
        self._late = f"late:{entity.name}"
        self._absent = f"absent:{entity.name}"
        self._approximated = [f"approximated:{entity.name}.{label}" for label, _ in self.plan.labels]
        fields = self.plan.fields
        self._take = attrgetter(*fields, fields[0]) if fields else None  # at least two names, so a tuple comes out
        widths = self.plan.series[:, kernel.S_WIDTH].tolist()
        self._head_words = HEAD_WORDS + len(widths)
        self._row_words = sum(widths)
        self._busy_bytes = 8 * (self._head_words + self.limits.tail * min(widths))

    def on_batch(self, store: StepStore, batch: list[InFlight]) -> list[InFlight]:
        """Fill the windows' slots of each payment, and remember the batch."""
        entities: dict[bytes, int] = {}
        words = array("q")
        retractions: list[tuple[int, int, int, int]] = []
        items: list[InFlight | None] = []
        self._collect(batch, entities, words, retractions, items)
        if not items:
            return batch
        shard = self._shard(store)
        keys = list(entities)
        head_keys = [HEAD_PREFIX + key for key in keys]
        records = [record or b"" for record in store.get_many(head_keys)]
        if shard.meta.history:
            records = brought_up_to_date(store, shard.meta, self.plan, self.limits, keys, records)
        events: Words = np.frombuffer(words, np.int64).reshape(len(items), -1)
        loaded = self._load_busy(store, shard, keys, records, events, retractions)
        if not shard.meta.covered or shard.meta.pending:
            self._begin(shard, events)
        out, flags, heads = self._run(shard, records, events, retractions, loaded)
        if shard.meta.number:
            heads[0][heads[1][:-1]] += shard.meta.number << SHAPE_SHIFT
        if loaded.busy:
            clock = int(shard.clock[0])
            reset = set(events[(flags[:, 0] & kernel.FLAG_RESET) != 0, kernel.E_ENTITY].tolist())
            special, writes = write_back(self.plan, self.limits, loaded, heads[0], heads[1], clock, reset)
        else:
            special, writes = {}, []
        packed, starts = heads[0][: heads[1][-1]].tobytes(), heads[1]
        puts: list[tuple[bytes, bytes | None]] = [
            (key, special[e] if e in special else packed[8 * starts[e] : 8 * starts[e + 1]])
            for e, key in enumerate(head_keys)
        ]
        store.put_many(puts + writes)
        self._fill(items, events[:, kernel.E_TIME], out, flags, shard)
        return batch

    def on_snapshot(self, store: StepStore) -> None:
        """Write the shard's clock and coverage; delete up to 32 entities that have expired."""
        shard: _Shard | None = store.memo.get(MEMO)
        if shard is None:
            return
        clock = int(shard.clock[0])
        if clock != NEVER:
            self._sweep(store, shard.meta, clock - self.plan.retention_us)
        shard.meta.clock = shard.clock.tolist()
        store.put_many([(META_KEY, shard.meta.encode())])

    def _collect(
        self,
        batch: list[InFlight],
        entities: dict[bytes, int],
        words: array[int],
        retractions: list[tuple[int, int, int, int]],
        items: list[InFlight | None],
    ) -> None:
        """Write the batch as words for the kernel; items gets the payment of each event, None for other events."""
        index, plan, take = self._index, self.plan, self._take
        payment_mask, refund_mask, filters = plan.payment_mask, plan.refund_mask, plan.filters
        padding = (0,) * len(plan.fields)
        for item in batch:
            kind = item.kind
            event: Any = item.event
            if kind == PAYMENT:
                if item.duplicate:
                    continue
                key = item.keys[index]
                if key is None:
                    item.flags.append(self._absent)
                    continue
                amount = item.amount_micros
                value = ABSENT if amount is None else amount if amount < LARGEST_VALUE else LARGEST_VALUE
                mask = refund_mask
                if event.payment_type in ENTERING:
                    mask = payment_mask
                    for bit, holds in filters:
                        if holds(item.known):  # bare facts only, and those are there
                            mask |= bit
                number = entities.setdefault(key, len(entities))
                words.extend((number, 0, event.event_time_us, value, mask))
                if take is not None:
                    words.extend(map(_hashed, take(event)[:-1]))
                items.append(item)
                continue
            if kind == LABEL:
                mask, code = plan.label_mask, kernel.KIND_LABEL
            elif kind in (DEVICE_EVENT, IDENTITY_EVENT):
                mask, code = plan.stream_masks.get((kind, event.kind), 0), kernel.KIND_STREAM
            else:
                continue
            key = item.keys[index] if mask else None
            if key is None or item.duplicate:
                continue
            value = ABSENT
            if kind == LABEL:
                value = _weight(event.weight)
                if event.fraud:
                    mask |= plan.fraud_mask
                if event.previous_fraud is not None and event.previous_event_time_us is not None:
                    old = _weight(1.0 if event.previous_weight is None else event.previous_weight)
                    series = plan.label_mask | (plan.fraud_mask if event.previous_fraud else 0)
                    retractions.append((len(items), event.previous_event_time_us, old, series))
            number = entities.setdefault(key, len(entities))
            words.extend((number, code, event.event_time_us, value, mask, *padding))
            items.append(None)

    def _load_busy(
        self,
        store: StepStore,
        shard: _Shard,
        keys: list[bytes],
        records: list[bytes],
        events: Words,
        retractions: list[tuple[int, int, int, int]],
    ) -> Loaded:
        """Read more of the entities that have chunks, or may have too many rows for a head after this batch."""
        room, widest = self._busy_bytes, 8 * self._row_words
        indexed = [e for e, record in enumerate(records) if record and record[4]]
        most = len(events) - len(keys) + 1  # events of one entity
        if not indexed and max(map(len, records)) + most * widest < room:
            return nothing_busy(len(keys))
        counts = np.bincount(events[:, kernel.E_ENTITY], minlength=len(keys)).tolist()
        candidates = indexed + [
            e
            for e, record in enumerate(records)
            if len(record) + counts[e] * widest >= room
            and not (record and record[4])
            and self._grows(record, counts[e])
        ]
        if not candidates:
            return nothing_busy(len(keys))
        busy = []
        for e in candidates:
            times = events[events[:, kernel.E_ENTITY] == e, kernel.E_TIME]
            retracted = [row[1] for row in retractions if events[row[0], kernel.E_ENTITY] == e]
            earliest = min([int(times.min()), *retracted])
            ordered = not retracted and bool((times[1:] >= times[:-1]).all())
            busy.append(Busy(e, keys[e], records[e], earliest, ordered, Index.empty(len(self.plan.series))))
        moving = events[events[:, kernel.E_KIND] != kernel.KIND_LABEL, kernel.E_TIME]
        clock = int(np.sort(np.concatenate([shard.clock, moving]))[-CLOCK_RANK])  # after the batch
        return load(store, self.plan, self.limits, busy, len(keys), len(events), clock)

    def _grows(self, record: bytes, events: int) -> bool:
        """Whether some series may have more rows than a head holds."""
        rows = 0 if not record else max(np.frombuffer(record, np.int64)[HEAD_WORDS : self._head_words].tolist())
        return bool(rows + events >= self.limits.tail)

    def _run(
        self,
        shard: _Shard,
        records: list[bytes],
        events: Words,
        retractions: list[tuple[int, int, int, int]],
        loaded: Loaded,
    ) -> tuple[Any, Words, tuple[Words, list[int]]]:
        """Call the kernel: values, flags, and the new heads with where each starts."""
        plan = self.plan
        sizes = list(map(len, records))
        starts = array("q", accumulate(sizes, initial=0))
        entities, count = len(records), len(events)
        widest = max(sizes) // 8  # no series of a head has more rows than the head has words
        limits = plan.limits.copy()
        limits[kernel.L_ROOM] = loaded.rows + widest + count + 1
        limits[kernel.L_PANES] = loaded.panes_room
        heads_out: Words = np.empty(starts[-1] // 8 + entities * self._head_words + count * self._row_words, np.int64)
        starts_out: Words = np.empty(entities + 1, np.int64)
        out = np.empty((count, self._stop - self._start), np.float64)
        flags: Words = np.zeros((count, 2), np.int64)
        kernel.run_windows(
            plan.series, plan.bounds, plan.windows, plan.sketches, plan.program, limits, plan.prior,
            np.frombuffer(bytearray().join(records), np.int64), np.frombuffer(starts, np.int64) // 8, events,
            np.array(retractions, np.int64) if retractions else _NO_RETRACTIONS, shard.clock,
            loaded.hot_of, loaded.hot, loaded.sealed_in, loaded.panes_at, loaded.panes_in,
            heads_out, starts_out, out, flags,
            loaded.hot_out, loaded.sealed_out, loaded.panes_at_out, loaded.panes_out,
        )  # fmt: skip
        return out, flags, (heads_out, starts_out.tolist())

    def _fill(self, items: Sequence[InFlight | None], times: Words, out: Any, flags: Words, shard: _Shard) -> None:
        """Hand values and flags to the payments."""
        start = self._start
        for item, row in zip(items, out, strict=True):
            if item is not None:
                item.windows.append((start, row))
        covered_from, warming = shard.covered_from, shard.warming
        steady = covered_from[-1] if covered_from else NEVER
        for k in np.flatnonzero(flags.any(axis=1) | (times < steady)).tolist():
            item = items[k]
            if item is None:
                continue
            bits, approximated = flags[k].tolist()
            if bits & kernel.FLAG_LATE:
                item.flags.append(self._late)
            if bits & kernel.FLAG_INCOMPLETE and "late_incomplete" not in item.flags:
                item.flags.append("late_incomplete")
            if approximated:
                item.flags += [flag for bit, flag in enumerate(self._approximated) if approximated >> bit & 1]
            t = int(times[k])
            if t < steady:
                flagged = item.flags
                warm = warming[bisect_right(covered_from, t)]
                item.flags += [flag for flag in warm if flag not in flagged] if flagged else warm

    def _shard(self, store: StepStore) -> _Shard:
        shard: _Shard | None = store.memo.get(MEMO)
        if shard is None:
            record = store.get_many([META_KEY])[0]
            if record is None:
                meta = Meta(self.plan.shape, self._feature_set.id, self._feature_set.hash)
            else:
                meta = Meta.decode(record, f"{store.step}/{store.shard}")
                change_shape(meta, self.plan.shape, f"{store.step}/{store.shard}", gap=self._gap(meta))
                meta.feature_set, meta.hash = self._feature_set.id, self._feature_set.hash
            shard = store.memo[MEMO] = _Shard(meta, self.plan.labels)
        return shard

    def _gap(self, meta: Meta) -> bool:
        """Whether another feature set ran between the one that wrote the shard and this one."""
        return self._predecessor is not None and meta.feature_set not in (self._predecessor, self._feature_set.id)

    def _begin(self, shard: _Shard, events: Words) -> None:
        """From the first event of the shard on that is no label, everything has been counted."""
        counted = events[events[:, kernel.E_KIND] != kernel.KIND_LABEL, kernel.E_TIME]
        if len(counted):
            begin_tracks(shard.meta, self.plan.labels, int(counted[0]), int(shard.clock[-1]))
            shard.warm(self.plan.labels)

    def _sweep(self, store: StepStore, meta: Meta, horizon: int) -> None:
        """Delete expired entities among the next few heads; a touch treats them as new, deleted or not."""
        start = bytes.fromhex(meta.cursor) if meta.cursor else HEAD_PREFIX
        heads = store.scan(start, HEAD_STOP, SWEEP_RECORDS)
        meta.cursor = (heads[-1][0] + b"\x00").hex() if len(heads) == SWEEP_RECORDS else ""
        if meta.history:
            heads = swept_up_to_date(store, meta, self.plan, self.limits, heads)
        writes: list[tuple[bytes, bytes | None]] = []
        for head_key, head in heads:
            if int.from_bytes(head[8 * AT_LAST_ANY : 8 * AT_LAST_ANY + 8], "little", signed=True) >= horizon:
                continue
            writes.append((head_key, None))
            if head[4]:
                key = head_key[len(HEAD_PREFIX) :]
                record = store.get_many([index_key(key)])[0]
                if record is None:
                    continue
                index = Index.decode(
                    record, len(self.plan.series), len(self.plan.windows), f"{store.step}/{store.shard}"
                )
                writes.append((index_key(key), None))
                writes += [(panes_key(key, w), None) for w in index.windows]
                writes += [
                    (chunk_key(key, s, chunk.id), None) for s, chunks in enumerate(index.chunks) for chunk in chunks
                ]
        if writes:
            store.put_many(writes)
            store.memo["swept"] = store.memo.get("swept", 0) + sum(key.startswith(HEAD_PREFIX) for key, _ in writes)


def _hashed(value: str | None) -> int:
    """Signed 64-bit hash of a value; 0 is kept for an absent one."""
    if value is None:
        return 0
    digest = _hash(value.encode())
    return (digest if digest < 1 << 63 else digest - (1 << 64)) or 1


def _weight(weight: float) -> int:
    """A label's weight in steps of 2**-32."""
    return round(min(max(weight, 0.0), LARGEST_WEIGHT) * WEIGHT_ONE)
