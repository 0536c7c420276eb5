"""Topics as bytewax's source: one consumer a process, never waited for, its partitions pinned to the process.

A partition belongs to the process of number (partition modulo processes). A process is one bytewax partition,
`inputs-NN`; its snapshot holds the next offset of every topic's partitions that it reads. On resume all processes read
all these snapshots from the recovery store and take for each partition the largest offset, which is the one of the
process that read it last: so the number of processes may change. A process that is no more stays as a bytewax
partition without work, since bytewax refuses to start without what it has saved.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NotRequired, TypedDict

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from flows import stream_api
from flows.arrivals import Arrivals
from flows.epochs import Epochs, OneLate
from flows.exits import deadly
from flows.kafka_client import (
    BrokerWatch,
    Offsets,
    asked,
    bounds_of,
    check_position,
    partitions_of,
    properties,
)
from flows.live_ingest import LiveIngest
from flows.live_options import LiveOptions
from flows.source import Run
from flows.stage import Part
from operators.inflight import InFlight
from schemas.errors import StateError

_IDLE: Final = timedelta(milliseconds=1)
"""Time between looks when nothing has come; longer adds to the latency, shorter to the load of an idle process."""
_TELL_EVERY_S: Final = 0.5
_REFRESH_ASK_S: Final = 1.0
_HELD: Final = 20
"""Batches that wait to settle at the most. Fewer bound what is read in the time that settling takes; more is memory."""
_CROWD: Final = 4
"""Batches of one partition that wait while others catch up, before it is paused."""

_PROPERTIES: Final[Mapping[str, Any]] = {
    "fetch.wait.max.ms": 100,
    "fetch.queue.backoff.ms": 5,  # the default of a second would show as latency whenever a burst fills the queue
    "fetch.error.backoff.ms": 50,
    "queued.min.messages": 10_000,
    "queued.max.messages.kbytes": 32_768,  # what a process holds of its inputs at most
}
"""Defaults of ours; [kafka] may set others."""
_OURS: Final[Mapping[str, Any]] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
}


class SourceState(TypedDict):
    """What bytewax keeps of a process's inputs; `offsets` are those of the next messages."""

    offsets: Offsets
    clock_us: int
    sequence: int
    paces: NotRequired[dict[str, int]]  # see `LiveIngest`


def source_name(number: int) -> str:
    """Name of a process's inputs, a key of bytewax's recovery data: changing it is a state migration."""
    return f"inputs-{number:02d}"


def merged_state(known: Mapping[str, SourceState], begun: Offsets) -> SourceState:
    """Where all inputs stand: of each partition the largest offset known, else where it was begun."""
    offsets: Offsets = {topic: dict(found) for topic, found in begun.items()}
    for state in known.values():
        for topic, found in state["offsets"].items():
            own = offsets.setdefault(topic, {})
            for partition, offset in found.items():
                own[partition] = max(offset, own.get(partition, 0))
    paces: dict[str, int] = {}
    for state in known.values():
        for topic, reached_us in state.get("paces", {}).items():
            paces[topic] = max(reached_us, paces.get(topic, 0))
    return SourceState(
        offsets=offsets,
        clock_us=max((state["clock_us"] for state in known.values()), default=0),
        sequence=max((state["sequence"] for state in known.values()), default=0),
        paces=paces,
    )


class Reader:
    """The consumer of one process and the partitions it reads."""

    def __init__(self, options: LiveOptions, bootstrap: str, topics: list[str], start: SourceState, run: Run) -> None:
        """Connect, and begin where `start` says.

        Raises:
            StreamPositionError: A log does not hold an offset.
            StreamError: A topic cannot be read.
        """
        self.watch = BrokerWatch("inputs", bootstrap, options.hooks)
        self.arrivals = Arrivals(settle_s=options.settle_s)
        self.offsets: Offsets = {topic: {} for topic in topics}
        self._options = options
        self._start = start
        self._run = run
        self._topics = topics
        self._paused: set[tuple[str, int]] = set()
        given = {**_PROPERTIES, **options.kafka, **_OURS, "group.id": options.group}
        self._consumer = Consumer(properties(given, bootstrap, f"weir-inputs-{options.number}", self.watch))
        counts = asked(
            lambda: partitions_of(self._consumer, topics),
            self.watch,
            run.pulse,
            ", ".join(topics),
            run.stop.is_set,
            self._consumer,
        )
        self._assign(counts, at_start=True)
        self._counts = counts
        self._known = counts
        self._done = threading.Event()
        self._refresher = threading.Thread(target=self._refresh, name="kafka-metadata", daemon=True)
        self._refresher.start()
        options.hooks.set_ready("inputs", True, "all partitions are assigned")

    def _assign(self, counts: Mapping[str, int], *, at_start: bool) -> None:
        """Read from the partitions of ours that are not read yet."""
        options = self._options
        added: list[TopicPartition] = []
        for topic, count in counts.items():
            for number in range(options.number, count, options.processes):
                if number in self.offsets[topic]:
                    continue
                low, high = asked(
                    lambda topic=topic, number=number: bounds_of(self._consumer, topic, number),  # type: ignore[misc]
                    self.watch,
                    self._run.pulse,
                    f"{topic}/{number}",
                    self._run.stop.is_set,
                )
                # Neither the state nor the manifest knows it: it was added later, and nothing of it was read.
                offset = self._start["offsets"].get(topic, {}).get(number, low)
                check_position("inputs", topic, number, offset, low, high)
                self.offsets[topic][number] = offset
                self.arrivals.add((topic, number))
                added.append(TopicPartition(topic, number, offset))
        if added:
            self._consumer.incremental_assign(added)
        for topic in counts:
            options.hooks.assigned(topic, len(self.offsets[topic]))
        if added and not at_start:
            self._run.pulse.beat(f"{len(added)} new partitions")

    def _refresh(self) -> None:
        """Look for new partitions; in a thread of its own, since the question waits for the answer."""
        while not self._done.wait(self._options.refresh_s):
            try:
                found = self._consumer.list_topics(timeout=_REFRESH_ASK_S).topics
            except KafkaException:
                # The consumer tells of the outage itself. A process that has nothing to deliver waits inside the engine
                # for one that has: that is no hang.
                self._run.pulse.beat("no broker of the inputs answers")
                continue
            self._counts = {
                topic: len(found[topic].partitions) if topic in found and found[topic].error is None else count
                for topic, count in self._known.items()
            }

    def messages(self, most: int) -> list[Any]:
        """The next messages in order of arrival, at most so many; those that are here, without waiting.

        Raises:
            StreamError: A topic cannot be read any more.
        """
        arrivals = self.arrivals
        counts = self._counts
        if counts is not self._known:
            if counts != self._known:
                self._assign(counts, at_start=False)
            self._known = self._counts = counts
        crowd = arrivals.crowded(_CROWD * most)
        if crowd or self._paused:
            self._pause(set(crowd), most)
        elif arrivals.waiting >= (_HELD * most if self._options.settle_s else most):
            taken = arrivals.take(most)
            if taken or self._options.settle_s:
                return taken
            # All of it waits for a partition that is catching up: read on, or nothing of that one would ever come.
        for message in self._consumer.consume(most, timeout=0):
            error = message.error()
            if error is None:
                arrivals.push(message)
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's name for its own event
                arrivals.at_end((str(message.topic()), int(message.partition() or 0)))
            else:
                self._failed(message, error)
        if self.watch.fault is not None:
            self.watch.check()
        return arrivals.take(most) if arrivals.waiting else []

    def _pause(self, crowd: set[tuple[str, int]], most: int) -> None:
        """Read nothing more of partitions that wait for others; go on once they have waited enough."""
        again = {place for place in self._paused if self.arrivals.waiting_of(place) < most}
        fresh = crowd - self._paused
        if fresh:
            self._consumer.pause([TopicPartition(*place) for place in fresh])
        if again:
            self._consumer.resume([TopicPartition(*place) for place in again])
        self._paused = (self._paused | fresh) - again

    def _failed(self, message: Any, error: KafkaError) -> None:
        topic, partition = message.topic(), message.partition()
        if error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 - librdkafka's name
            low, high = asked(
                lambda: bounds_of(self._consumer, topic, partition),
                self.watch,
                self._run.pulse,
                f"{topic}/{partition}",
                self._run.stop.is_set,
            )
            check_position("inputs", topic, partition, self.offsets[topic][partition], low, high)
        self.watch.hear(error)  # and `messages` raises what ends the run

    def commit(self) -> None:
        """Tell the group how far we are; for lag tools only, so it may fail."""
        placed = [
            TopicPartition(topic, partition, offset)
            for topic, found in self.offsets.items()
            for partition, offset in found.items()
        ]
        if placed:
            try:
                self._consumer.commit(offsets=placed, asynchronous=True)
            except KafkaException as raised:
                self.watch.hear(raised.args[0])

    def tell(self, event_times: Mapping[tuple[str, int], int]) -> None:
        """Tell the hooks where each partition stands."""
        for topic, found in self.offsets.items():
            for partition, offset in found.items():
                bounds = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), cached=True)
                high = bounds[1] if bounds is not None else -1
                lag = max(0, high - offset) if high >= 0 else None
                self._options.hooks.position(topic, partition, lag, event_times.get((topic, partition)))

    def close(self) -> None:
        """Leave; what was read and not committed is read again."""
        self._done.set()
        self._refresher.join()
        self._consumer.close()


class LivePart(StatefulSourcePartition[Part, SourceState]):
    """This process's inputs, as bytewax polls them."""

    def __init__(
        self, reader: stream_api.Reader, ingest: LiveIngest, options: LiveOptions, run: Run, epochs: Epochs
    ) -> None:
        """Prepare.

        Args:
            reader: The consumer.
            ingest: Makes items of messages; keeps the offsets in `reader.offsets`.
            options: Of the flow.
            run: Tells when to stop.
            epochs: Of the process; the first batch of an epoch wakes the shards and outputs of all processes.
        """
        ingest.offsets = reader.offsets
        self._reader = reader
        self._ingest = ingest
        self._options = options
        self._run = run
        self._epochs = epochs
        self._alone = options.process is None
        self._ended_in = -1
        self._batch = 0
        self._idle = False
        self._next_at: datetime | None = None
        self._told = 0.0
        self._ended_at: float | None = None
        self._late = OneLate(epochs, self._state())

    @deadly
    def next_batch(self) -> Iterable[Part]:
        """Called by bytewax whenever it has room, and after `next_awake`."""
        if self._run.stop.is_set():
            return self._last()
        started = time.perf_counter()
        self._next_at = datetime.now(UTC) + self._options.linger if self._options.linger else None
        if self._ended_at is not None:
            self._options.hooks.stalled(started - self._ended_at)
            self._ended_at = None
        # What could not be decoded comes before anything else: a partition's order is kept.
        messages = self._ingest.unread or self._reader.messages(self._options.batch)
        if started - self._told > _TELL_EVERY_S:
            self._told = started
            self._reader.tell(self._ingest.event_times)
        events = self._ingest.items(messages) if messages else []
        if self._ingest.unread:
            self._reader.watch.down(self._ingest.why)
            self._run.pulse.beat(self._ingest.why)
        self._idle = not events
        if events:
            read = messages[: len(messages) - len(self._ingest.unread)]
            for topic, count in Counter(message.topic() for message in read).items():
                self._options.hooks.read(self._ingest.contract_of(topic), count)
            self._run.stats.stage("ingest").observe(time.perf_counter() - started, len(events))
            return self._deliver(events)
        return self._deliver([]) if self._epochs.empty else ()

    def _last(self) -> Iterable[Part]:
        """End, so that what is told at the end is all that was read (flows/epochs.py)."""
        if self._alone and not self._epochs.empty:
            self._epochs.final = True
            raise StopIteration
        if self._ended_in == self._epochs.number:
            raise StopIteration
        self._idle = True
        if self._epochs.empty:
            self._ended_in = self._epochs.number
            return self._deliver([])
        return ()

    def _deliver(self, events: list[InFlight]) -> Iterable[Part]:
        part = Part(self._batch, 1, events, [], wake=self._epochs.begins())
        self._batch += 1
        return [part]

    def next_awake(self) -> datetime | None:
        """Called by bytewax; None: at once."""
        return datetime.now(UTC) + _IDLE if self._idle else self._next_at

    @deadly
    def snapshot(self) -> SourceState:
        """Called by bytewax at the end of an epoch."""
        self._reader.commit()
        self._ended_at = time.perf_counter()
        if self._epochs.empty and not self._alone:
            # Other processes may have woken everybody, and what all but this one tell would be an epoch ahead of it.
            message = "bytewax ended an epoch without asking the inputs for a batch"
            raise RuntimeError(message)
        told = self._late.again() if self._epochs.empty else self._late.tell(self._state())
        self._epochs.end()
        return told

    def _state(self) -> SourceState:
        ingest = self._ingest
        offsets = {topic: dict(found) for topic, found in self._reader.offsets.items()}
        state = SourceState(offsets=offsets, clock_us=ingest.clock_us, sequence=ingest.sequence)
        if ingest.paces is not None:
            state["paces"] = dict(ingest.paces)
        return state

    def close(self) -> None:
        """Called by bytewax when the flow has ended."""
        self._reader.close()


class _GonePart(StatefulSourcePartition[Part, SourceState]):
    """Inputs of a process that is no more: what it saved stays saved."""

    def __init__(self, state: SourceState) -> None:
        self._state = state

    def next_batch(self) -> Iterable[Part]:
        """Called by bytewax once."""
        raise StopIteration

    def snapshot(self) -> SourceState:
        """Called by bytewax at the end of the epoch."""
        return self._state


class KafkaSource(FixedPartitionedSource[Part, SourceState]):
    """The inputs of all processes as bytewax partitions."""

    def __init__(
        self,
        options: LiveOptions,
        known: Mapping[str, SourceState],
        open_part: Callable[[], LivePart],
    ) -> None:
        """Prepare.

        Args:
            options: Of the flow.
            known: By name, what the recovery store holds of all processes' inputs.
            open_part: Opens this process's inputs.
        """
        self._known = known
        self._open_part = open_part
        self._own = source_name(options.number)
        present = {source_name(number) for number in range(options.processes)}
        gone = sorted(known.keys() - present)
        self._parts = [self._own, *gone[options.number :: options.processes]]

    def list_parts(self) -> list[str]:
        """Called by bytewax once a worker: only what this process reads, which pins it here."""
        return self._parts

    @deadly
    def build_part(self, step_id: str, for_part: str, resume_state: SourceState | None) -> Any:
        """Called by bytewax for each of them."""
        if resume_state != self._known.get(for_part):
            message = (
                f"{step_id} {for_part}: bytewax resumes with {resume_state!r}, the recovery store was read as "
                f"{self._known.get(for_part)!r}; another flow wrote to it meanwhile: end that one, then start again"
            )
            raise StateError(message)
        if for_part == self._own:
            return self._open_part()
        return _GonePart(self._known[for_part])
