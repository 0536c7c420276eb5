"""One idempotent producer a process, and what its topics held when it began.

Where a snapshot may start to read back: every record of ours that is appended from there on is one that the snapshot
does not know. So what may stand in it is an end that was seen before the epoch was over, and one behind a record that
was handed over before. Records of an epoch are delivered behind those of the epochs before, a partition at a time.
A snapshot is told an epoch late (flows/epochs.py), so its records have a whole epoch in which to be delivered: only
where that was not enough is anything waited for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from flows.kafka_client import (
    BrokerWatch,
    Offsets,
    asked,
    bounds_of,
    check_position,
    fatal,
    partitions_of,
    properties,
    stream_error,
)
from flows.kafka_transactions import Transactions, transactional_properties
from flows.live_manifest import ends_of
from flows.live_options import LiveOptions
from flows.source import Run
from schemas.errors import StreamError
from schemas.wire import Header

IDENTITY: Final = "weir-id"
"""Header of every record of ours: what it is told by, whatever the value's encoding."""
DUPLICATE: Final = "weir-duplicate"
"""Header of the answer to a retry."""
_FLUSH_S: Final = 0.5
_READ_S: Final = 1.0
_READ_AT_ONCE: Final = 5_000

_PROPERTIES: Final[Mapping[str, Any]] = {
    "linger.ms": 1,  # more fills batches better and is added to every decision's latency
    "compression.type": "lz4",
    "queue.buffering.max.kbytes": 65_536,  # what an outage may pile up before the flow waits
    "queue.buffering.max.messages": 100_000,
}
"""Defaults of ours; [kafka] may set others."""
_OURS: Final[Mapping[str, Any]] = {
    "enable.idempotence": True,
    "acks": "all",
    "message.timeout.ms": 0,  # an outage is waited out: giving up would publish nothing sooner
    "partitioner": "murmur2_random",  # as Java's producer: one account, one partition, whoever writes
}


class HandedOver:
    """Records of one epoch: how many are under way, and from where to read back what comes behind them."""

    __slots__ = ("ends", "pending")

    def __init__(self, topics: Iterable[str]) -> None:
        self.pending = 0
        self.ends: Offsets = {topic: {} for topic in topics}

    def reach(self, ends: Offsets) -> None:
        """Nothing of an earlier epoch stands at or behind these offsets."""
        for topic, found in ends.items():
            own = self.ends[topic]
            for partition, end in found.items():
                own[partition] = max(end, own.get(partition, end))


class Publisher:
    """The producer of one process.

    Attributes:
        watch: Hears of the brokers.
    """

    def __init__(self, options: LiveOptions, bootstrap: str, topics: Mapping[str, str], run: Run) -> None:
        """Connect.

        Args:
            options: Of the flow.
            bootstrap: Brokers of the outputs.
            topics: Topic by output.
            run: Its pulse is told of every wait.

        Raises:
            StreamError: A topic does not exist, or may not be written.
        """
        self.watch = BrokerWatch("outputs", bootstrap, options.hooks)
        self._epoch = HandedOver(topics.values())
        self._before = HandedOver(topics.values())
        self._bootstrap = bootstrap
        self._options = options
        self._topics = topics
        self._output_of = {topic: output for output, topic in topics.items()}
        self._run = run
        self._pending = dict.fromkeys(topics, 0)
        self._fault: StreamError | None = None
        # New partitions are written to no later than a look at the outputs' ends would find them.
        refresh = {"topic.metadata.refresh.interval.ms": max(100, int(options.refresh_s * 1_000))}
        given = {**_PROPERTIES, **refresh, **options.kafka, **_OURS, **transactional_properties(options)}
        self._producer = Producer(properties(given, bootstrap, f"weir-outputs-{options.number}", self.watch))
        self._reader = self._consumer()
        self.partitions = asked(
            lambda: partitions_of(self._reader, self._topics.values()),
            self.watch,
            run.pulse,
            ", ".join(topics.values()),
            run.stop.is_set,
            self._reader,
        )
        self._transactions = Transactions(self._producer, options, self.watch, run) if options.transactional else None
        self._uncommitted: list[int] = []  # when payments were appended whose decisions are delivered, not yet visible
        self._done = threading.Event()
        self._seen: Offsets = {}
        self._looker = threading.Thread(target=self._look, name="kafka-ends", daemon=True)
        self._looker.start()
        options.hooks.set_ready("outputs", True, "the broker knows all topics")

    def _consumer(self) -> Consumer:
        given = {
            **self._options.kafka,
            "group.id": self._options.group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
        name = f"weir-read-back-{self._options.number}"
        return Consumer(properties(given, self._bootstrap, name, self.watch))

    def _look(self) -> None:
        """Ask where the outputs end, now and then: an idle partition must not be read back from ever earlier."""
        while not self._done.wait(self._options.refresh_s):
            try:
                self._seen = {topic: ends_of(self._reader, topic) for topic in self._topics.values()}
            except KafkaException:
                self._run.pulse.beat("no broker of the outputs answers")  # as the reader of the inputs does
                continue

    def produce(
        self, output: str, value: bytes, key: bytes, headers: list[Header], appended_us: int | None = None
    ) -> None:
        """Hand a record over; it is delivered some time before the next `flush` returns.

        Args:
            output: Of the record.
            value: As encoded.
            key: Decides on the partition.
            headers: All of them.
            appended_us: Of a decision: when the broker appended its payment.

        Raises:
            StreamError: The record is too large.
        """
        topic = self._topics[output]
        told: Any = headers
        if self._transactions is not None:
            self._transactions.open()
        while True:
            try:
                self._producer.produce(topic, value, key, headers=told, on_delivery=self._told(appended_us))
            except BufferError:
                self._run.pulse.beat(f"waiting until {topic} takes records")
                self._asked(lambda: self._producer.poll(0.1))
                self.check()
            except KafkaException as raised:
                error: KafkaError = raised.args[0]
                what = f"{topic}, a record of {len(value)} bytes"
                raise stream_error(self.watch.side, what, error) from raised
            else:
                self._pending[output] += 1
                self._epoch.pending += 1
                return

    def _told(self, appended_us: int | None) -> Callable[[Any, Any], None]:
        epoch = self._epoch

        def delivered(error: Any, message: Any) -> None:
            self._delivered(epoch, error, message)
            if error is not None or appended_us is None:
                return
            if self._transactions is None:
                self._options.hooks.delivered(appended_us)
            else:
                self._uncommitted.append(appended_us)

        return delivered

    def _delivered(self, epoch: HandedOver, error: Any, message: Any) -> None:
        topic = message.topic()
        output = self._output_of[topic]
        self._pending[output] -= 1
        epoch.pending -= 1
        if error is not None:
            self._fault = self._fault or stream_error(self.watch.side, topic, error)
            return
        found = epoch.ends[topic]
        partition, behind = message.partition(), message.offset() + 1
        if behind > found.get(partition, 0):
            found[partition] = behind
        self._options.hooks.published(output, 1)

    def serve(self) -> None:
        """Hear of deliveries, without waiting; a transaction that is due is committed."""
        self._asked(lambda: self._producer.poll(0))
        if self._transactions is not None and self._transactions.due:
            self._commit()
        for output, pending in self._pending.items():
            self._options.hooks.in_flight(output, pending)

    def check(self) -> None:
        """Raise what ends the run.

        Raises:
            StreamError: A record could not be delivered, or the brokers refuse us.
        """
        if self._fault is not None:
            raise self._fault
        self.watch.check()

    def epoch_ends(self, *, final: bool) -> Offsets:
        """What is handed over from now on belongs to the next epoch.

        Waits until what was handed over before this epoch is delivered; for ever, while no broker answers. An open
        transaction is committed, with all that was handed over in this one.

        Args:
            final: There is no next epoch: wait for what was handed over in this one, too.

        Returns:
            By topic and partition, from where a resume at this moment must read back. Complete when the next call of
            this returns, if not `final`: the caller keeps it until then.

        Raises:
            StreamError: A record could not be delivered.
        """
        before, ended = self._before, self._epoch
        self._epoch = HandedOver(self._topics.values())
        self._before = ended
        ended.reach(self._seen)
        self._commit()
        self._wait_for(before)
        ended.reach(before.ends)
        if final:
            self._wait_for(ended)
        return ended.ends

    def _wait_for(self, epoch: HandedOver) -> None:
        began = time.monotonic()
        while epoch.pending and self._fault is None:
            self._asked(lambda: self._producer.poll(_FLUSH_S))
            self._run.pulse.beat(f"waiting until {epoch.pending} records are delivered")
            if time.monotonic() - began > 2 * _FLUSH_S and epoch.pending:
                self.watch.down(f"{epoch.pending} records wait to be delivered")
            self.check()
        if time.monotonic() - began > 2 * _FLUSH_S:
            self.watch.up()
        self.check()

    def _asked(self, call: Callable[[], Any]) -> Any:
        if self._transactions is not None:
            return self._transactions.asked(call)
        try:
            return call()
        except KafkaException as raised:  # a client that has failed for good says so there
            raise stream_error(self.watch.side, self._bootstrap, raised.args[0]) from raised

    def _commit(self) -> None:
        """Make what was delivered visible to readers of committed records; nothing to do in the default mode."""
        if self._transactions is not None and self._transactions.commit():
            for appended_us in self._uncommitted:
                self._options.hooks.delivered(appended_us)
            self._uncommitted.clear()

    def read_back(self, begin: Offsets) -> Iterator[Any]:
        """The outputs' records from these offsets to their present ends, each partition in order.

        A partition that `begin` does not name was added later and is read from its first record on.

        Raises:
            StreamPositionError: A log does not go back so far.
            StreamError: A topic cannot be read.
        """
        wanted: dict[tuple[str, int], int] = {}
        placed = []
        for topic, count in self.partitions.items():
            for number in range(count):
                low, high = asked(
                    lambda topic=topic, number=number: bounds_of(self._reader, topic, number),  # type: ignore[misc]
                    self.watch,
                    self._run.pulse,
                    f"{topic}/{number}",
                    self._run.stop.is_set,
                )
                start = begin.get(topic, {}).get(number, 0)
                check_position(self.watch.side, topic, number, start, low, high)
                self._epoch.ends[topic][number] = high
                if start < high:
                    wanted[topic, number] = high
                    placed.append(TopicPartition(topic, number, start))
        if placed:
            self._reader.assign(placed)
            yield from self._read_until(wanted)
            self._reader.unassign()

    def _read_until(self, wanted: dict[tuple[str, int], int]) -> Iterator[Any]:
        while wanted:
            self._run.pulse.beat(f"reading back what was published: {len(wanted)} partitions left")
            for message in self._reader.consume(_READ_AT_ONCE, timeout=_READ_S):
                error = message.error()
                place = (str(message.topic()), int(message.partition() or 0))
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's name for its own event
                        wanted.pop(place, None)
                    elif fatal(error):
                        raise stream_error(self.watch.side, place[0], error)
                    continue
                offset = message.offset() or 0
                end = wanted.get(place, 0)
                if offset < end:
                    yield message
                if offset + 1 >= end:
                    wanted.pop(place, None)
            self.watch.check()

    def close(self) -> None:
        """Leave; what was not delivered yet was never committed."""
        self._done.set()
        self._looker.join()
        self._reader.close()
