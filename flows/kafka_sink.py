"""Publishes once, to topics: the ledger of decisions, one slot a shard of transaction ids.

A slot is a shard of the state, on the same worker, and its ledger is one more step of that shard. A slot's snapshot is
(shard, version, ends): `ends` are the outputs' offsets from which on its records are ones that the ledger at this
version does not know. On resume they are read back and *adopted*: when the replayed flow comes to publish the same
record again, the published one stands, for retries too, and the recomputed one is dropped. What the flow has not come
to again by the next snapshot is kept in the ledger.

Records of the ledger (integers big endian):

    b"d" day (4) transaction_id                    the decision as published, see `_pack`
    b"a" sort (1) identity                         adopted and not come to again: count (4), then the decision, packed;
                                                   sort: d decision, r answer to a retry, l dead letter,
                                                   o labelled outcome, m release, t alert
    b"w" transaction_id                            retries that wait for their decision: count (4)

All slots get an item in every epoch, the first batch of an epoch being told to all, so that each makes a snapshot; the
last one of a process makes the state of its shards durable, before bytewax commits (docs/adr/0009).

Long, because a slot's ledger and what the outputs read back for it on resume are two halves of one protocol.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypedDict

import bytewax.operators as op
import msgspec
import pyarrow as pa
from bytewax.dataflow import Stream
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from flows.epochs import BackgroundSync, Epochs, OneLate
from flows.exits import deadly
from flows.kafka_client import Offsets
from flows.kafka_publish import DUPLICATE, IDENTITY
from flows.live_encode import LiveEncoder, LivePublication, slot_of
from flows.live_options import MODELS
from flows.publish import ALERTS, DAY_US, DEAD_LETTERS, DECISIONS, LABELLED_OUTCOMES
from flows.source import Run
from flows.stage import Part
from flows.stats import StageStats
from flows.stream_api import Publisher
from schemas.errors import ConfigError, StateError
from schemas.wire import Header, WireEncoder
from state.api import StepStore
from state.shards import worker_of

LEDGER: Final = "ledger"
"""Name of the ledger as a step of a shard, and of the sink: both label state."""
_ALL: Final = 2**62
_SWEPT_AT_ONCE: Final = 2_000
"""Ledger entries deleted in one snapshot at the least; twice as many as were added, if that is more, lest it grow."""
_SORTS: Final = {
    (DECISIONS, False): b"d",
    (DECISIONS, True): b"r",
    (DEAD_LETTERS, False): b"l",
    (LABELLED_OUTCOMES, False): b"o",
    (MODELS, False): b"m",
    (ALERTS, False): b"t",
}
_DECISION: Final = b"d"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Any]).decode
_lz4 = pa.Codec("lz4_raw")

Adopted = tuple[bytes, bytes]
"""Sort and identity."""


class SlotState(TypedDict):
    """What bytewax keeps of a slot; `ends` by topic and partition."""

    shard: str
    version: int
    ends: Offsets


def _pack(value: bytes, key: bytes, headers: Sequence[Header]) -> bytes:
    """A decision for the ledger: msgpack [length, lz4 of the value, key, headers]."""
    return _encode([len(value), _lz4.compress(value, asbytes=True), key, [list(header) for header in headers]])


def _unpack(packed: bytes) -> tuple[bytes, bytes, list[Header]]:
    length, value, key, headers = _decode(packed)
    return _lz4.decompress(value, length, asbytes=True), key, [(name, held) for name, held in headers]


class Slot(StatefulSinkPartition[Sequence[LivePublication], SlotState]):
    """One slot and its ledger."""

    def __init__(self, outputs: Outputs, ledger: StepStore, ends: Offsets, ttl_us: int) -> None:
        """Prepare; what was published behind `ends` is adopted before the first record.

        Args:
            outputs: Of the process.
            ledger: Rolled back to the committed version.
            ends: Of that snapshot, or where the outputs ended before the flow began.
            ttl_us: For how long retries are answered.
        """
        self.begin = ends
        self._told = OneLate(outputs.epochs, SlotState(shard=ledger.shard, version=ledger.version, ends=ends))
        self._outputs = outputs
        self._ledger = ledger
        self._ttl_us = ttl_us
        self._clock_us = 0
        self._written = 0
        self._new: dict[bytes, bytes | None] = {}
        self._waiting = {key[1:]: int.from_bytes(count, "big") for key, count in ledger.scan(b"w", b"x", _ALL)}
        self._adopted: dict[Adopted, int] = {}
        self._packed: dict[bytes, bytes] = {}  # adopted decisions, until the ledger takes them over
        self._kept: set[Adopted] = set()  # adopted ones that stand in the ledger
        self._changed: set[Adopted] = set()  # those of which the ledger does not know the count
        for name, value in ledger.scan(b"a", b"b", _ALL):
            adopted = (name[1:2], name[2:])
            self._adopted[adopted] = int.from_bytes(value[:4], "big")
            self._kept.add(adopted)
            if len(value) > 4:
                self._packed[name[2:]] = value[4:]

    def adopt(self, output: str, identity: bytes, duplicate: bool, value: bytes, key: bytes, headers: Any) -> None:
        """A record of ours was read back."""
        adopted = (_SORTS[output, duplicate], identity)
        self._adopted[adopted] = self._adopted.get(adopted, 0) + 1
        self._changed.add(adopted)
        if output == DECISIONS and not duplicate:
            self._packed[identity] = _pack(value, key, headers)

    @deadly
    def write_batch(self, items: list[Sequence[LivePublication]]) -> None:
        """Called by bytewax with the records of one or more batches, and with nothing when an epoch begins."""
        started = time.perf_counter()
        outputs = self._outputs
        outputs.adopt_once()
        number = 0
        for records in items:
            for record in records:
                self._publish(record)
            number += len(records)
        if self._new:
            self._ledger.put_many(list(self._new.items()))
            self._new = {}
        if number:
            outputs.publisher.serve()
            outputs.publisher.check()
            outputs.stats.observe(time.perf_counter() - started, number)

    def _publish(self, record: LivePublication) -> None:
        self._clock_us = max(self._clock_us, record.seen_at_us)
        duplicate = not record.value
        if self._adopted and self._is_adopted(record, duplicate):
            return
        publisher = self._outputs.publisher
        if duplicate:
            packed = self._find(record)
            if packed is None:
                self._wait(record.identity, self._waiting.get(record.identity, 0) + 1)
                return
            self._answer(packed)
            return
        self._written += 1
        if record.output == DECISIONS:
            self._remember(record, _pack(record.value, record.key, record.headers))
            publisher.produce(DECISIONS, record.value, record.key, record.headers, record.seen_at_us)
            self._answer_waiting(record)
        else:
            publisher.produce(record.output, record.value, record.key, record.headers)

    def _is_adopted(self, record: LivePublication, duplicate: bool) -> bool:
        """Whether a run that died has published this record already; it then counts as come to again."""
        adopted = (_SORTS[record.output, duplicate], record.identity)
        left = self._adopted.get(adopted, 0)
        if not left:
            return False
        if left == 1:
            del self._adopted[adopted]
        else:
            self._adopted[adopted] = left - 1
        self._changed.add(adopted)
        if record.output == DECISIONS and not duplicate:
            self._remember(record, self._packed.pop(record.identity))
            self._answer_waiting(record)
        return True

    def _remember(self, record: LivePublication, packed: bytes) -> None:
        day = record.seen_at_us // DAY_US
        self._new[b"d" + day.to_bytes(4, "big") + record.identity] = packed

    def _find(self, record: LivePublication) -> bytes | None:
        """The decision of a retry's payment, as published; None: with several processes it may not have come yet.

        Raises:
            StateError: The ledger does not know it, although the step `seen` does: they are out of step.
        """
        today = record.seen_at_us // DAY_US
        oldest = max(0, (record.seen_at_us - self._ttl_us) // DAY_US)
        keys = [b"d" + day.to_bytes(4, "big") + record.identity for day in range(today, oldest - 1, -1)]
        found = next((self._new[key] for key in keys if key in self._new), None)
        if found is None:
            found = next((known for known in self._ledger.get_many(keys) if known is not None), None)
        if found is None and not self._outputs.may_overtake:
            message = (
                f"ledger of shard {self._ledger.shard}: a retry of transaction {record.identity.decode()!r} came, and "
                "the ledger holds no decision of it; state and ledger are out of step: restore both from one backup"
            )
            raise StateError(message)
        return found

    def _answer(self, packed: bytes) -> None:
        value, key, headers = _unpack(packed)
        told = [*headers, (DUPLICATE, b"1")]
        self._outputs.publisher.produce(DECISIONS, self._outputs.encoder.as_duplicate(value, headers), key, told)

    def _wait(self, identity: bytes, count: int) -> None:
        self._new[b"w" + identity] = count.to_bytes(4, "big") if count else None
        if count:
            self._waiting[identity] = count
        else:
            del self._waiting[identity]

    def _answer_waiting(self, decided: LivePublication) -> None:
        """Answer the retries that came before their decision."""
        count = self._waiting.get(decided.identity) if self._waiting else None
        if count:
            self._wait(decided.identity, 0)
            for _ in range(count):
                self._publish(LivePublication(DECISIONS, decided.identity, b"", decided.key, [], decided.seen_at_us))

    @deadly
    def snapshot(self) -> SlotState:
        """Called by bytewax at the end of an epoch, after all steps; told is that of the one before (flows/epochs.py).

        Raises:
            StreamError: A record could not be delivered.
        """
        started = time.perf_counter()
        outputs = self._outputs
        outputs.adopt_once()
        ends = outputs.epoch_ends()
        self._sweep()
        self._keep_adopted()
        version = self._ledger.commit()
        self._written = 0
        told = self._told.tell(SlotState(shard=self._ledger.shard, version=version, ends=ends))
        outputs.committed(self._ledger.shard)
        outputs.stats.observe_snapshot(time.perf_counter() - started)
        return told

    def _keep_adopted(self) -> None:
        """Let the ledger know what the flow has not come to again: the next read-back starts behind it."""
        writes: list[tuple[bytes, bytes | None]] = []
        for adopted in self._changed:
            sort, identity = adopted
            name = b"a" + sort + identity
            left = self._adopted.get(adopted, 0)
            if left:
                packed = self._packed[identity] if sort == _DECISION else b""
                writes.append((name, left.to_bytes(4, "big") + packed))
                self._kept.add(adopted)
            elif adopted in self._kept:
                writes.append((name, None))
                self._kept.discard(adopted)
        self._changed.clear()
        if writes:
            self._ledger.put_many(writes)

    def _sweep(self) -> None:
        # One day more than the span, so that the day a retry may still ask for is whole.
        limit = (self._clock_us - self._ttl_us) // DAY_US - 1
        if limit > 0:
            old = self._ledger.scan(b"d", b"d" + limit.to_bytes(4, "big"), max(_SWEPT_AT_ONCE, 2 * self._written))
            if old:
                self._ledger.put_many([(key, None) for key, _ in old])

    def close(self) -> None:
        """Called by bytewax when the flow has ended."""
        self._outputs.close()


def earliest(begins: Sequence[Offsets]) -> Offsets:
    """From where on slots find all that they do not know.

    A partition that one of them does not name is left out, so that it is read from its first record on: slots of
    several processes, which one process goes on with, may have been told of a new partition at different times.
    """
    found: Offsets = {}
    for topic in set().union(*begins):
        told = [begin.get(topic, {}) for begin in begins]
        named = set.intersection(*(set(one) for one in told))
        found[topic] = {partition: min(one[partition] for one in told) for partition in named}
    return found


class Outputs:
    """The slots of one process and what they share.

    Attributes:
        publisher: The producer.
        encoder: Of the records.
        stats: Where the slots report to.
        epochs: Of the process.
        may_overtake: Whether a retry may come before its decision, as it may with several processes; it then waits.
    """

    def __init__(
        self,
        publisher: Publisher,
        encoder: WireEncoder,
        topics: dict[str, str],
        sync: Callable[[], None],
        run: Run,
        stats: StageStats,
        epochs: Epochs,
        *,
        may_overtake: bool,
        inputs: frozenset[str] | None = None,
    ) -> None:
        """Prepare.

        Args:
            publisher: The producer.
            encoder: Of the records.
            topics: Topic by output.
            sync: Makes committed state durable.
            run: Its pulse is told of each epoch's end.
            stats: Where the slots report to.
            epochs: Of the process.
            may_overtake: See above.
            inputs: Topics read, whose dead letters are this flow's; None: all dead letters are.
        """
        self._inputs = inputs
        self.publisher = publisher
        self.encoder = encoder
        self.stats = stats
        self.may_overtake = may_overtake
        self._output_of = {topic: output for output, topic in topics.items()}
        self.epochs = epochs
        self._sync = BackgroundSync(sync, epochs)
        self._ends: Offsets | None = None
        self._run = run
        self._slots: dict[str, Slot] = {}
        self._own: Sequence[str] = ()
        self._names: tuple[str, ...] = ()
        self._open_slot: OpenSlot
        self._committed: set[str] = set()
        self._adopted = False
        self._closed = False

    def open_with(self, open_slot: OpenSlot, own: Sequence[str], names: tuple[str, ...]) -> None:
        """Slots are opened so.

        Args:
            open_slot: Opens a slot at a snapshot; None: at none.
            own: Names of this process's slots.
            names: Names of all, in order.
        """
        self._open_slot, self._own, self._names = open_slot, own, names

    def slot(self, name: str, resumed: SlotState | None) -> Slot:
        """The slot of that name; a snapshot that comes after the first record is a defect of ours."""
        slot = self._slots.get(name)
        if slot is None:
            slot = self._slots[name] = self._open_slot(name, resumed)
        elif resumed is not None:
            message = f"slot {name} was opened before bytewax told its snapshot"
            raise RuntimeError(message)
        return slot

    def adopt_once(self) -> None:
        """Read back what runs that died have published, before the first record of this one.

        bytewax opens a slot that has a snapshot at the start, others with their first item. Here all are opened first:
        each holds the lock of its shard then, so no process of an earlier run can publish any more what is not read.
        """
        if self._adopted:
            return
        self._adopted = True
        for name in self._own:
            self.slot(name, None)
        for message in self.publisher.read_back(earliest([slot.begin for slot in self._slots.values()])):
            headers = message.headers() or []
            identity = next((value for name, value in headers if name == IDENTITY), None)
            if identity is None:
                continue  # not ours
            if not self._is_own(message.topic(), identity):
                continue
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            owner = self._slots.get(self._names[slot_of(self._output_of[topic], identity, len(self._names))])
            if owner is not None and offset >= owner.begin.get(topic, {}).get(partition, 0):
                duplicate = any(name == DUPLICATE for name, _ in headers)
                owner.adopt(self._output_of[topic], identity, duplicate, message.value(), message.key(), headers)

    def _is_own(self, topic: str, identity: bytes) -> bool:
        """Whether this flow may come to the record again; two flows may share the topic of dead letters."""
        if self._inputs is None or self._output_of[topic] != DEAD_LETTERS:
            return True
        return identity.rsplit(b"/", 2)[0].decode(errors="replace") in self._inputs

    def epoch_ends(self) -> Offsets:
        """Called by each slot at an epoch's end: where a resume must read back from that goes back to this moment.

        What is told now must be delivered. That is what was handed over by the end of the epoch before, which had all
        of this one for it; at the last epoch's end, all.

        Raises:
            StreamError: A record could not be delivered.
        """
        if self._ends is None:
            self._ends = self.publisher.epoch_ends(final=self.epochs.final)
        return self._ends

    def committed(self, name: str) -> None:
        """A slot has made its snapshot; the last one of the process has all state made durable."""
        self._committed.add(name)
        if len(self._committed) == len(self._own):
            self._committed.clear()
            self._ends = None
            self._sync.epoch_ends()
            self._run.pulse.epoch_ended()

    def close(self) -> None:
        """Called by each slot; the first closes."""
        if not self._closed:
            self._closed = True
            self._sync.close()
            self.publisher.close()


OpenSlot = Callable[[str, SlotState | None], Slot]


class KafkaSink(FixedPartitionedSink[Sequence[LivePublication], SlotState]):
    """The slots as bytewax partitions; they bear the shards' names and sit where the shards are."""

    def __init__(
        self, shards: tuple[str, ...], process: int, processes: int, outputs: Outputs, open_slot: OpenSlot
    ) -> None:
        """Prepare.

        Args:
            shards: Names of the shards.
            process: Number of this process, which is its worker's.
            processes: Of how many.
            outputs: Keeps the slots of this process.
            open_slot: Opens a slot at a snapshot; None: at none.

        Raises:
            ConfigError: There are more processes than shards.
        """
        if processes > len(shards):
            message = f"processes: expected at most {len(shards)}, as many as there are shards, found {processes}"
            raise ConfigError(message)
        self.shards = shards
        self._own = [name for name in shards if worker_of(name, processes) == process]
        self._outputs = outputs
        outputs.open_with(open_slot, self._own, shards)

    def attach(self, entered: Stream[Part], decided: Stream[Part], encode: LiveEncoder) -> None:
        """Add encoder and slots to the flow, behind its last step; an item to all slots where an epoch begins."""

        def begin(parts: list[Part]) -> Iterable[tuple[str, Sequence[LivePublication]]]:
            return [(name, ()) for name in self.shards] if any(part.wake for part in parts) else ()

        begun = op.flat_map_batch("epoch_begins", entered, begin)
        encoded = op.flat_map("encode", decided, encode)
        op.output(LEDGER, op.merge("records", begun, encoded), self)

    def list_parts(self) -> list[str]:
        """Called by bytewax once a worker; only this worker's shards, which pins their slots here."""
        return self._own

    def part_fn(self, item_key: str) -> int:
        """Called by bytewax for each item; partitions are numbered in the order of their names."""
        return self.shards.index(item_key)

    @deadly
    def build_part(self, step_id: str, for_part: str, resume_state: SlotState | None) -> Slot:
        """Called by bytewax on the worker that owns the slot: at the start, or with its first item."""
        return self._outputs.slot(for_part, resume_state)
