"""Streams that live in this process, `memory://NAME[?partitions=NUMBER]`: a live flow inside another program.

    payments = memory_log("payments")
    payments.append(b"account-1", line)
    options = LiveOptions(state, {"transactions": "memory://payments"}, {"decisions": "memory://decisions", ...})
    threading.Thread(target=run_live, args=(load_profile(folder), options, run)).start()
    memory_log("decisions").records()

A log is made when it is first named and lasts as long as its process, so a state folder outlives the records it has
read: a start in another process is refused, as with a topic that was made anew. Records are never deleted. A key's
records stand in one partition, in the order of their append. Programs that test a profile use it; weir.toml may not.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from flows.arrivals import Arrivals, Place
from flows.kafka_client import Offsets, check_position
from flows.kafka_source import SourceState
from flows.live_options import EARLIEST, LATEST, LiveOptions, Start
from flows.streams import MemoryStream
from schemas.errors import ConfigError
from schemas.wire import Header


class MemoryRecord:
    """A record in a log, with the methods of a message of Kafka."""

    __slots__ = ("_headers", "_key", "_ms", "_offset", "_partition", "_topic", "_value")

    def __init__(
        self, topic: str, partition: int, offset: int, ms: int, key: bytes, value: bytes, headers: Sequence[Header]
    ) -> None:
        self._topic = topic
        self._partition = partition
        self._offset = offset
        self._ms = ms
        self._key = key
        self._value = value
        self._headers = list(headers)

    def topic(self) -> str:
        """What the log is called."""
        return self._topic

    def partition(self) -> int:
        """Number of the partition."""
        return self._partition

    def offset(self) -> int:
        """Number within the partition."""
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        """(2, milliseconds since 1970): when it was appended."""
        return 2, self._ms

    def key(self) -> bytes:
        """As appended."""
        return self._key

    def value(self) -> bytes:
        """As appended."""
        return self._value

    def headers(self) -> list[Header]:
        """As appended."""
        return list(self._headers)


class MemoryLog:
    """One log. Threads may share it."""

    def __init__(self, name: str, partitions: int) -> None:
        """Prepare; programs ask `memory_log` for one."""
        self.topic: Final = f"memory:{name}"
        self.partitions: Final[Sequence[list[MemoryRecord]]] = tuple([] for _ in range(partitions))
        self._lock = threading.Lock()

    def append(self, key: bytes, value: bytes, headers: Sequence[Header] = ()) -> MemoryRecord:
        """Append a record; its key says to which partition."""
        number = zlib.crc32(key) % len(self.partitions)
        records = self.partitions[number]
        with self._lock:
            ms = time.time_ns() // 1_000_000
            record = MemoryRecord(self.topic, number, len(records), ms, key, value, headers)
            records.append(record)
        return record

    def records(self) -> list[MemoryRecord]:
        """All that stands in it, a partition behind the other."""
        return [record for records in self.partitions for record in list(records)]

    def ends(self) -> dict[int, int]:
        """Where each partition ends."""
        return {number: len(records) for number, records in enumerate(self.partitions)}


_LOGS: Final[dict[str, MemoryLog]] = {}
_LOGS_LOCK: Final = threading.Lock()


def memory_log(name: str, partitions: int | None = None) -> MemoryLog:
    """The log of that name in this process, made if there is none.

    Args:
        name: As in its URL.
        partitions: How many it has; None: as many as it has, 1 when it is made.

    Raises:
        ConfigError: It has another number of partitions.
    """
    with _LOGS_LOCK:
        log = _LOGS.get(name)
        if log is None:
            log = _LOGS[name] = MemoryLog(name, partitions or 1)
    if partitions is not None and len(log.partitions) != partitions:
        message = f"memory://{name}: expected {partitions} partitions, found {len(log.partitions)}; name it alike"
        raise ConfigError(message)
    return log


def forget_log(name: str) -> None:
    """Forget a log and all its records; who holds it goes on with it alone."""
    with _LOGS_LOCK:
        _LOGS.pop(name, None)


def _logs_of(streams: Sequence[MemoryStream], options: LiveOptions) -> dict[str, MemoryLog]:
    """By topic.

    Raises:
        ConfigError: The flow has several processes, or a log has another number of partitions.
    """
    if options.process is not None:
        message = "streams memory://: expected one process, since no other sees what stands in its memory"
        raise ConfigError(message)
    return {stream.topic: memory_log(stream.name, stream.partitions) for stream in streams}


class _Watch:
    """There is no server to be down."""

    def down(self, why: str) -> None:
        """Nothing to tell: only a registry can be missing here, and the pulse says so."""

    def check(self) -> None:
        """Nothing ends the run."""


class MemoryReader:
    """The inputs; see `flows.stream_api.Reader`."""

    def __init__(self, options: LiveOptions, streams: Sequence[MemoryStream], start: SourceState) -> None:
        """Begin where `start` says.

        Raises:
            StreamPositionError: A log ends before that; it was of another process.
        """
        self.watch = _Watch()
        self.offsets: Offsets = {stream.topic: {} for stream in streams}
        self._options = options
        self._arrivals = Arrivals(settle_s=options.settle_s)
        self._logs = _logs_of(streams, options)
        self._next: dict[Place, int] = {}
        for topic, log in self._logs.items():
            for number, end in log.ends().items():
                offset = start["offsets"].get(topic, {}).get(number, 0)
                check_position("inputs", topic, number, offset, 0, end)
                self.offsets[topic][number] = self._next[topic, number] = offset
                self._arrivals.add((topic, number))
            options.hooks.assigned(topic, len(log.partitions))
        options.hooks.set_ready("inputs", True, "in this process")

    def messages(self, most: int) -> list[Any]:
        """The next messages in order of arrival, at most so many."""
        arrivals = self._arrivals
        for place, begin in self._next.items():
            records = self._logs[place[0]].partitions[place[1]][begin : begin + most]
            for record in records:
                arrivals.push(record)
            self._next[place] = begin + len(records)
            if len(records) < most:
                arrivals.at_end(place)
        return arrivals.take(most) if arrivals.waiting else []

    def commit(self) -> None:
        """Nobody is told."""

    def tell(self, event_times: Mapping[Place, int]) -> None:
        """Tell the hooks where each partition stands."""
        for topic, log in self._logs.items():
            for number, end in log.ends().items():
                lag = end - self.offsets[topic][number]
                self._options.hooks.position(topic, number, lag, event_times.get((topic, number)))

    def close(self) -> None:
        """Nothing is left open."""


class MemoryPublisher:
    """The outputs; see `flows.stream_api.Publisher`. What is handed over stands at once."""

    def __init__(self, options: LiveOptions, streams: Mapping[str, MemoryStream]) -> None:
        """Prepare.

        Args:
            options: Of the flow.
            streams: By output.
        """
        logs = _logs_of(list(streams.values()), options)
        self._logs = {output: logs[stream.topic] for output, stream in streams.items()}
        self._options = options
        options.hooks.set_ready("outputs", True, "in this process")

    def produce(
        self, output: str, value: bytes, key: bytes, headers: list[Header], appended_us: int | None = None
    ) -> None:
        """Append a record."""
        self._logs[output].append(key, value, headers)
        self._options.hooks.published(output, 1)
        if appended_us is not None:
            self._options.hooks.delivered(appended_us)

    def serve(self) -> None:
        """Nothing is under way."""

    def check(self) -> None:
        """Nothing ends the run."""

    def epoch_ends(self, *, final: bool) -> Offsets:
        """Where the logs end now."""
        return {log.topic: log.ends() for log in self._logs.values()}

    def read_back(self, begin: Offsets) -> Iterator[MemoryRecord]:
        """Records from these offsets to the present ends, each partition in order.

        Raises:
            StreamPositionError: A log ends before that; it was of another process.
        """
        for log in self._logs.values():
            for number, end in log.ends().items():
                offset = begin.get(log.topic, {}).get(number, 0)
                check_position("outputs", log.topic, number, offset, 0, end)
                yield from log.partitions[number][offset:end]

    def close(self) -> None:
        """Nothing is left open."""


class MemoryQuestions:
    """See `flows.stream_api.Questions`."""

    def __init__(self, streams: Sequence[MemoryStream], options: LiveOptions) -> None:
        """Find the logs."""
        self._logs = _logs_of(streams, options)

    def began(self, topic: str, start: Start) -> dict[int, int]:
        """Where each partition is begun."""
        if start == EARLIEST:
            return dict.fromkeys(self.ends(topic), 0)
        if start == LATEST:
            return self.ends(topic)
        ms = int(start) // 1_000
        late: Callable[[MemoryRecord], bool] = lambda record: record.timestamp()[1] >= ms  # noqa: E731
        return {
            number: next((record.offset() for record in records if late(record)), len(records))
            for number, records in enumerate(self._logs[topic].partitions)
        }

    def ends(self, topic: str) -> dict[int, int]:
        """Where each partition ends."""
        return self._logs[topic].ends()

    def close(self) -> None:
        """Nothing is left open."""
