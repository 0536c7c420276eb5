"""Dead letters of a live flow: read, looked up, and what they are about sent again.

A dead letter holds a redacted payload, so nothing is ever sent from it: the original is read again from its topic, at
its coordinates, or a mended record is given. Whatever is sent again bears the header `weir-replayed-from` with the
original's coordinates; by it a second replay knows what the first one sent.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from flows.config import Config
from flows.kafka_client import ASK_S, bounds_of, fatal, name_of, partitions_of, stream_error
from flows.kafka_properties import kafka_properties
from flows.streams import KafkaStream, parse_stream
from schemas.codec import decode_json_mapping
from schemas.errors import ConfigError, ContractError, StreamError
from schemas.wire import Header

REPLAYED_FROM: Final = "weir-replayed-from"
_SIDE: Final = "dead letters"
_AT_ONCE: Final = 500
_READ_S: Final = 0.2
_SILENT_S: Final = 30.0
"""A broker that says nothing for so long in the midst of a topic is taken for unreachable."""
_FLUSH_S: Final = 60.0


class Place(NamedTuple):
    """Coordinates of a message; a replay's are (file, 0, line)."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        """TOPIC/PARTITION/OFFSET, as it is written on a command line."""
        return f"{self.topic}/{self.partition}/{self.offset}"


def parse_place(text: str) -> Place:
    """The inverse of `str(place)`.

    Raises:
        ConfigError: It is no TOPIC/PARTITION/OFFSET.
    """
    topic, _, rest = text.partition("/")
    partition, _, offset = rest.partition("/")
    if not topic or not partition.isdecimal() or not offset.isdecimal():
        message = f"{text!r}: expected TOPIC/PARTITION/OFFSET of the original message, such as transactions.v1/3/1042"
        raise ConfigError(message)
    return Place(topic, int(partition), int(offset))


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter.

    Attributes:
        place: Of the message it is about.
        reason: One of schemas/reasons.py.
        detail: What was wrong, a sentence.
        payload: Redacted.
        event_time_us: Of the event, if it was read so far.
        seen_at_us: When the broker appended the original.
        stands_at: Of the dead letter itself; None when it was read from a file.
    """

    place: Place
    reason: str
    detail: str
    payload: str
    event_time_us: int | None
    seen_at_us: int
    stands_at: Place | None


def letter_of(record: Mapping[str, Any], stands_at: Place | None) -> Letter:
    """A record of the contract dead_letter, times in microseconds."""
    return Letter(
        Place(record["topic"], record["partition"], record["offset"]),
        record["reason"],
        record["detail"],
        record["payload"],
        record.get("event_time"),
        record["seen_at"],
        stands_at,
    )


def letters_in(path: Path) -> Iterator[Letter]:
    """Those of a replay's dead_letters.jsonl.

    Raises:
        ConfigError: It cannot be read, or holds something else.
    """
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield letter_of(decode_json_mapping("dead_letter", line), None)
                except (ContractError, KeyError) as error:
                    message = f"{path}:{number}: expected a dead letter, found something else ({error})"
                    raise ConfigError(message) from error
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror})"
        raise ConfigError(message) from error


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which dead letters are asked for; None: whichever.

    Attributes:
        reason: One of schemas/reasons.py.
        topic: Of the originals.
        since_us: Originals appended then or later.
        until_us: Before then.
        places: Originals by name.
    """

    reason: str | None = None
    topic: str | None = None
    since_us: int | None = None
    until_us: int | None = None
    places: frozenset[Place] | None = None

    def __call__(self, letter: Letter) -> bool:
        """Whether a letter is meant."""
        return (
            self.reason in (None, letter.reason)
            and self.topic in (None, letter.place.topic)
            and (self.since_us is None or letter.seen_at_us >= self.since_us)
            and (self.until_us is None or letter.seen_at_us < self.until_us)
            and (self.places is None or letter.place in self.places)
        )


class Reading:
    """A consumer that reads topics from some offset to their present ends, and single messages."""

    def __init__(self, config: Config, bootstrap: str) -> None:
        """Connect.

        Args:
            config: weir.toml.
            bootstrap: HOST:PORT of brokers.
        """
        self._bootstrap = bootstrap
        self._error: KafkaError | None = None
        told = {**kafka_properties(config, bootstrap), "group.id": "weir-dead-letters", "enable.auto.commit": False}
        told |= {"isolation.level": "read_committed", "enable.partition.eof": True, "auto.offset.reset": "error"}
        self._consumer = Consumer({**told, "error_cb": self._hear, "log_level": 2})

    def _hear(self, error: KafkaError) -> None:
        self._error = error

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except KafkaException as raised:
            # What the client heard before says more than "timed out".
            cause: KafkaError = self._error if self._error is not None and fatal(self._error) else raised.args[0]
            if fatal(cause):
                raise stream_error(_SIDE, what, cause) from raised
            message = f"{what}: {self._bootstrap} does not answer ({name_of(cause)}: {cause.str()}); is the broker up?"
            raise StreamError(message) from raised

    def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """First and end offset of a topic's partitions.

        Raises:
            StreamError: The broker does not answer or refuses.
        """
        with self._told(topic):
            count = partitions_of(self._consumer, [topic])[topic]
            return {number: bounds_of(self._consumer, topic, number) for number in range(count)}

    def since(self, topic: str, time_us: int) -> dict[int, int]:
        """Offsets of the first messages appended then or later.

        Raises:
            StreamError: The broker does not answer or refuses.
        """
        bounds = self.bounds(topic)
        asked = [TopicPartition(topic, number, time_us // 1_000) for number in bounds]
        with self._told(topic):
            found = self._consumer.offsets_for_times(asked, timeout=ASK_S)
        return {
            one.partition: bounds[one.partition][1] if one.offset in (OFFSET_END, -1) else one.offset for one in found
        }

    def messages(self, topic: str, start: Mapping[int, int] | None = None) -> Iterator[Any]:
        """All messages of a topic from `start`, or from its first ones, to its present end.

        Raises:
            StreamError: The broker does not answer or refuses.
        """
        left: dict[int, int] = {}
        placed = []
        for number, (low, high) in self.bounds(topic).items():
            begin = max(low, (start or {}).get(number, low))
            if begin < high:
                left[number] = high
                placed.append(TopicPartition(topic, number, begin))
        if not placed:
            return
        self._consumer.assign(placed)
        try:
            yield from self._until(topic, left)
        finally:
            self._consumer.unassign()

    def _until(self, topic: str, left: dict[int, int]) -> Iterator[Any]:
        heard = time.monotonic()
        while left:
            found = self._consumer.consume(_AT_ONCE, timeout=_READ_S)  # waits for so many, or for so long
            if found:
                heard = time.monotonic()
            elif time.monotonic() - heard > _SILENT_S:
                message = f"{topic}: {self._bootstrap} has said nothing for {_SILENT_S:g} s; is the broker up?"
                raise StreamError(message)
            for one in found:
                error, number, offset = one.error(), int(one.partition() or 0), int(one.offset() or 0)
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's name for its own event
                        left.pop(number, None)
                    elif fatal(error):
                        raise stream_error(_SIDE, topic, error)
                    continue
                if number in left and offset < left[number]:
                    yield one
                if offset + 1 >= left.get(number, 0):
                    left.pop(number, None)

    def originals(self, places: Iterable[Place]) -> dict[Place, Any]:
        """The messages at these coordinates; those that retention has deleted are missing.

        Raises:
            StreamError: The broker does not answer or refuses.
        """
        found: dict[Place, Any] = {}
        wanted: dict[tuple[str, int], set[int]] = {}
        for place in places:
            wanted.setdefault((place.topic, place.partition), set()).add(place.offset)
        for (topic, partition), offsets in wanted.items():
            low, high = self.bounds(topic).get(partition, (0, 0))
            for offset in sorted(one for one in offsets if low <= one < high):
                self._consumer.assign([TopicPartition(topic, partition, offset)])
                for one in self._until(topic, {partition: high}):
                    if one.offset() == offset:
                        found[Place(topic, partition, offset)] = one
                    break  # the next one stands behind it: this one is no more
        self._consumer.unassign()
        return found

    def close(self) -> None:
        """Leave."""
        self._consumer.close()


@dataclass(frozen=True, slots=True)
class Again:
    """A message to be appended once more.

    Attributes:
        place: Of the original.
        value: As it goes out.
        key: Likewise.
        headers: Likewise; `send_again` adds REPLAYED_FROM.
    """

    place: Place
    value: bytes
    key: bytes | None
    headers: Sequence[Header]


def already_sent(reading: Reading, letters: Iterable[Letter]) -> set[Place]:
    """Which of the letters' originals were sent again before, by what stands in their topics since."""
    first: dict[str, int] = {}
    for letter in letters:
        topic = letter.place.topic
        first[topic] = min(first.get(topic, letter.seen_at_us), letter.seen_at_us)
    found: set[Place] = set()
    for topic, time_us in first.items():
        for message in reading.messages(topic, reading.since(topic, time_us)):
            for name, value in message.headers() or ():
                if name == REPLAYED_FROM and value is not None:
                    found.add(parse_place(value.decode("utf-8", "replace")))
    return found


def send_again(config: Config, bootstrap: str, records: Sequence[Again]) -> None:
    """Append records to the topics and partitions of their originals, and wait until all stand there.

    Raises:
        StreamError: Some were not delivered; the message says how many.
    """
    failed: list[KafkaError] = []

    def told(error: KafkaError | None, _message: object) -> None:
        if error is not None:
            failed.append(error)

    producer = Producer({**kafka_properties(config, bootstrap), "enable.idempotence": True, "log_level": 2})
    for one in records:
        kept = [(name, value) for name, value in one.headers if name != REPLAYED_FROM]
        headers: Any = [*kept, (REPLAYED_FROM, str(one.place).encode())]
        while True:
            try:
                producer.produce(
                    one.place.topic, one.value, one.key, one.place.partition, headers=headers, on_delivery=told
                )
                break
            except BufferError:
                producer.poll(0.1)
    waiting = producer.flush(_FLUSH_S)
    if waiting or failed:
        why = f": {name_of(failed[0])}: {failed[0].str()}" if failed else ""
        message = (
            f"{waiting + len(failed)} of {len(records)} records were not delivered{why}; replay again: "
            "what was delivered is known by its header"
        )
        raise StreamError(message)


def topic_streams(config: Config) -> dict[str, tuple[str, str]]:
    """Topic -> (stream, HOST:PORT of its brokers), of all topics that weir.toml names; streams of Kinesis are none."""
    found = {name: parse_stream(name, url) for name, url in config.streams.items()}
    return {one.topic: (name, one.bootstrap) for name, one in found.items() if isinstance(one, KafkaStream)}


def dumped(letter: Letter) -> bytes:
    """A letter as a line of JSON, for programs."""
    return orjson.dumps(
        {
            "topic": letter.place.topic,
            "partition": letter.place.partition,
            "offset": letter.place.offset,
            "event_time_us": letter.event_time_us,
            "seen_at_us": letter.seen_at_us,
            "reason": letter.reason,
            "detail": letter.detail,
            "payload": letter.payload,
            "stands_at": None if letter.stands_at is None else str(letter.stands_at),
        }
    )
