"""Sends payments on time and reads their decisions: latency as a caller sees it, with no coordinated omission.

A payment's latency is counted from the moment at which it was due, not from when it was sent: a flow, broker or
producer that stalls makes every payment wait that came due meanwhile, and each is counted with its own wait.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import orjson
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from load_tests.produce import KEYS, moved

PAYMENTS: Final = "transactions"
_READ_S: Final = 0.001
"""A read waits so long for a decision before the next payment is looked after; it is the error of a measurement."""
_ASK_S: Final = 30.0
_MOST_LATE_READS: Final = 500

Event = tuple[int, str, dict[str, Any]]
"""Time of arrival in microseconds since 1970, stream, record."""


@dataclass(slots=True)
class Timeline:
    """What is known of each payment sent, by its number.

    Attributes:
        due_ns: When it was due, by `time.monotonic_ns`.
        appended_ms: When the broker appended it, in ms since 1970; 0: not told.
        decided_ms: When the broker appended its decision.
        seen_ns: When its decision was read; 0: it was not.
        twice: Decisions too many, retries' answers not counted.
        answers: Decisions marked as the answer to a retry.
        failed: Payments that the broker did not take.
        late: Decisions past the policy's deadline, by their own word.
        offset_ns: `time.time_ns` minus `time.monotonic_ns`.
    """

    due_ns: array[int] = field(default_factory=lambda: array("q"))
    appended_ms: array[int] = field(default_factory=lambda: array("q"))
    decided_ms: array[int] = field(default_factory=lambda: array("q"))
    seen_ns: array[int] = field(default_factory=lambda: array("q"))
    twice: int = 0
    answers: int = 0
    failed: int = 0
    late: int = 0
    offset_ns: int = field(default_factory=lambda: time.time_ns() - time.monotonic_ns())

    def add(self, due_ns: int) -> int:
        """A payment that is due; returns its number."""
        for column, value in ((self.due_ns, due_ns), (self.appended_ms, 0), (self.decided_ms, 0), (self.seen_ns, 0)):
            column.append(value)
        return len(self.due_ns) - 1

    @property
    def undecided(self) -> int:
        """Payments whose decision has not been read."""
        return self.seen_ns.count(0)


def decidable(events: Iterator[Event], known: set[str], limit: int) -> Iterator[Event]:
    """Events until `limit` payments, of which each is decided once: no retries, and nothing for the dead letters.

    A retry's answer could be taken for the decision.

    Args:
        events: In order of arrival.
        known: Ids of the payments that the generator means to be whole.
        limit: Payments at the most.
    """
    left = set(known)
    for event in events:
        if event[1] == PAYMENTS:
            name = event[2].get("transaction_id")
            if name not in left:
                continue
            left.discard(name)
            limit -= 1
        yield event
        if not limit:
            return


class OpenLoop:
    """One thread that sends what is due and reads what has come, in turns of a millisecond."""

    def __init__(self, producer: Producer, consumer: Consumer, topics: dict[str, str], decisions: str) -> None:
        """Prepare.

        Args:
            producer: Of the events.
            consumer: Of the decisions; it is assigned all partitions from their ends on.
            topics: Name by stream of what is sent.
            decisions: Topic that is read.
        """
        self.timeline = Timeline()
        self.sent = 0
        self._producer = producer
        self._consumer = consumer
        self._topics = topics
        self._numbers: dict[str, int] = {}
        found = consumer.list_topics(decisions, timeout=_ASK_S).topics[decisions].partitions
        placed = []
        for number in found:
            bounds = consumer.get_watermark_offsets(TopicPartition(decisions, number), timeout=_ASK_S)
            if bounds is None:
                message = f"{decisions}/{number}: the broker does not tell where it ends"
                raise RuntimeError(message)
            placed.append(TopicPartition(decisions, number, bounds[1]))
        consumer.assign(placed)

    def run(self, events: Iterator[Event], rate: float, still: Callable[[], bool]) -> None:
        """Send all events, payments at `rate` a second, the others with the payment before them; read meanwhile.

        Args:
            events: In order of arrival.
            rate: Payments a second.
            still: Whether to go on; asked once a second.
        """
        started = time.monotonic_ns() + 50_000_000
        step_ns = 1e9 / rate
        asked = started
        upcoming = next(events, None)
        number = 0
        while upcoming is not None:
            now = time.monotonic_ns()
            if now - asked > 1_000_000_000:
                asked = now
                if not still():
                    return
            while upcoming is not None:
                due = started + int(number * step_ns)
                if due > now:
                    break
                if upcoming[1] == PAYMENTS:
                    number += 1
                self._send(upcoming, due)
                upcoming = next(events, None)
            self._producer.poll(0)
            self._read(_READ_S)

    def drain(self, seconds: float, still: Callable[[], bool]) -> None:
        """Read until every payment is decided, for so many seconds at most."""
        self._producer.flush(seconds)
        until = time.monotonic() + seconds
        while self.timeline.undecided and time.monotonic() < until and still():
            for _ in range(_MOST_LATE_READS):
                self._read(_READ_S)

    def _send(self, event: Event, due_ns: int) -> None:
        arrived_us, stream, record = event
        now_us = (due_ns + self.timeline.offset_ns) // 1_000
        record = moved(record, timedelta(microseconds=now_us - arrived_us))
        told: Callable[[KafkaError | None, Message], None] | None = None
        if stream == PAYMENTS:
            number = self.timeline.add(due_ns)
            self._numbers[record["transaction_id"]] = number
            told = self._told(number)
        value, key = orjson.dumps(record), str(record.get(KEYS[stream], ""))
        while True:
            try:
                self._producer.produce(self._topics[stream], value, key, on_delivery=told)
                break
            except BufferError:
                self._producer.poll(0.01)
        self.sent += 1

    def _told(self, number: int) -> Callable[[KafkaError | None, Message], None]:
        timeline = self.timeline

        def told(error: KafkaError | None, message: Message) -> None:
            if error is None:
                timeline.appended_ms[number] = message.timestamp()[1]
            else:
                timeline.failed += 1

        return told

    def _read(self, seconds: float) -> None:
        messages = self._consumer.consume(_MOST_LATE_READS, timeout=seconds)
        if not messages:
            return
        now = time.monotonic_ns()
        timeline = self.timeline
        for message in messages:
            value = message.value()
            if message.error() is not None or value is None:
                continue
            decision = orjson.loads(value)
            number = self._numbers.get(decision["transaction_id"])
            if number is None:
                continue
            if decision["duplicate"]:
                timeline.answers += 1
            elif timeline.seen_ns[number]:
                timeline.twice += 1
            else:
                timeline.seen_ns[number] = now
                timeline.decided_ms[number] = message.timestamp()[1]
                timeline.late += bool(decision["deadline_missed"])
