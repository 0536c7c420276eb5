"""models.v1 → the releases announced there, each one's signature checked; what is not believed is told, not raised."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, TopicPartition

from flows.kafka_client import BrokerWatch, asked, bounds_of, partitions_of, properties
from flows.live_hooks import NoHooks
from flows.source import Run
from flows.streams import KafkaStream
from operators.releases import CONTRACT, Release, checked
from schemas.codec import decode_json_mapping
from schemas.errors import ContractError, StreamError
from schemas.signing import SigningKeys
from schemas.wire import WireDecoder
from state.artefacts import UNREADABLE, ArtefactStore

_POLL_S: Final = 0.2
_AT_ONCE: Final = 500
SIGNATURE_FAULT: Final = "signature"
"""Why a record is not believed."""


@dataclass(frozen=True, slots=True)
class ReleaseSource:
    """Where releases come from.

    Attributes:
        stream: models.v1.
        kafka: librdkafka properties, security included.
        decoder: Of its records.
        keys: By which they must be signed.
        store: Of their artefacts.
    """

    stream: KafkaStream
    kafka: Mapping[str, Any]
    decoder: WireDecoder
    keys: SigningKeys
    store: ArtefactStore = field(repr=False)


class ReleaseReader:
    """Reads models.v1 from its first record on."""

    def __init__(self, source: ReleaseSource, run: Run, refused: Callable[[str, str], None]) -> None:
        """Connect; waits for the broker.

        Args:
            source: Where releases come from.
            run: Its pulse is told of waits.
            refused: Told (reason, sentence) of a record that is not believed.

        Raises:
            StreamError: The topic cannot be read.
        """
        self._source = source
        self._run = run
        self._refused = refused
        self._topic = source.stream.topic
        self._watch = BrokerWatch("models", source.stream.bootstrap, NoHooks())
        given = {
            **source.kafka,
            "group.id": "weir-models",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
        self._client = Consumer(properties(given, source.stream.bootstrap, "weir-models", self._watch))
        topic, watch = self._topic, self._watch
        count = asked(
            lambda: partitions_of(self._client, [topic])[topic],
            watch,
            run.pulse,
            topic,
            run.stop.is_set,
            self._client,
        )
        if count > 1:
            message = (
                f"{topic} has {count} partitions; expected 1, since what is announced has one order (weir topics apply "
                "makes it so)"
            )
            raise StreamError(message)
        self._ends: dict[int, int] = {}
        placed = []
        for number in range(count):
            low, high = asked(
                lambda number=number: bounds_of(self._client, topic, number),  # type: ignore[misc]
                watch,
                run.pulse,
                f"{topic}/{number}",
                run.stop.is_set,
            )
            placed.append(TopicPartition(topic, number, low))
            if low < high:
                self._ends[number] = high
        self._client.assign(placed)

    def to_end(self) -> Iterator[Release]:
        """Records up to where the topic ended when this began; waits for them."""
        while self._ends and not self._run.stop.is_set():
            self._run.pulse.beat(f"reading {self._topic} to its end")
            yield from self.more()

    def more(self) -> Iterator[Release]:
        """Records that have come, waiting for some a moment.

        Raises:
            StreamError: The topic cannot be read any more.
        """
        for message in self._client.consume(_AT_ONCE, timeout=_POLL_S):
            error = message.error()
            number, offset = message.partition() or 0, message.offset() or 0
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's name for its own event
                    self._ends.pop(number, None)
                else:
                    self._watch.hear(error)
                continue
            if offset + 1 >= self._ends.get(number, 1 << 62):
                self._ends.pop(number, None)
            release = self._read(message, offset)
            if release is not None:
                yield release
        self._watch.check()

    def _read(self, message: Any, offset: int) -> Release | None:
        value = message.value()
        if value is None:
            return None  # a tombstone
        where = f"{self._topic}/{message.partition()}, offset {offset}"
        try:
            payload = self._source.decoder(value, message.headers() or [])
        except (ContractError, StreamError) as error:
            self._refused(UNREADABLE, f"{where}: {error}")
            return None
        return believed(
            payload, offset, self._source.keys, lambda reason, told: self._refused(reason, f"{where}: {told}")
        )

    def close(self) -> None:
        """Leave."""
        self._client.close()


def believed(
    payload: bytes | Mapping[str, Any], offset: int, keys: SigningKeys, refused: Callable[[str, str], None]
) -> Release | None:
    """The release that a record announces; None, and told why, when it is not believed.

    Args:
        payload: JSON, or the record.
        offset: Of the record.
        keys: By which it must be signed.
        refused: Told (reason, sentence).
    """
    try:
        record = checked(decode_json_mapping(CONTRACT, payload) if isinstance(payload, bytes) else payload)
    except ContractError as error:
        refused(UNREADABLE, str(error))
        return None
    fault = keys.fault(record)
    if fault is not None:
        refused(SIGNATURE_FAULT, f"release of {record['model_id']!r} {record['version']!r}: {fault}")
        return None
    return Release(record, offset)
