"""Records of Kinesis as messages: aggregates taken apart, and what stands in a topic's headers brought along.

The aggregate of the Kinesis Producer Library (amazon-kinesis-producer, aggregation-format.md), big endian where it
matters:

    F3 89 9A C2                                      magic
    AggregatedRecord, protocol buffers:
        1 repeated string  partition keys            3 repeated Record:
        2 repeated string  explicit hash keys            1 uint64 index of the partition key
                                                         2 uint64 index of the explicit hash key, optional
                                                         3 bytes  data
    MD5 of the message before it (16)

What begins with the magic and is none (a wrong checksum, no message) is one record; validation tells what it holds.

Kinesis has no headers. A bare Avro record, whose schema a header names in Kafka, stands here in Avro's single-object
encoding (Avro 1.11, "Single-object encoding"): C3 01, the fingerprint in 8 bytes little endian, the record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from schemas.positions import Position, position
from schemas.wire import Header
from schemas.wire_avro import FINGERPRINT_HEADER

_MAGIC: Final = b"\xf3\x89\x9a\xc2"
_DIGEST: Final = 16
_SINGLE: Final = b"\xc3\x01"
_SINGLE_BYTES: Final = 10
_VARINT, _BYTES = 0, 2

Parts = list[tuple[str, bytes]]
"""Partition key and data."""


class Record:
    """A record in a shard, with the methods of a message of Kafka."""

    __slots__ = ("_key", "_ms", "_partition", "_position", "_topic", "_value", "headers_told")

    def __init__(
        self, topic: str, partition: int, place: Position, ms: int, key: str, value: bytes, headers: Sequence[Header]
    ) -> None:
        self._topic = topic
        self._partition = partition
        self._position = place
        self._ms = ms
        self._key = key
        self._value = value
        self.headers_told = list(headers)

    def topic(self) -> str:
        """What the stream is called."""
        return self._topic

    def partition(self) -> int:
        """Number of the shard."""
        return self._partition

    def offset(self) -> Position:
        """Where it stands."""
        return self._position

    def timestamp(self) -> tuple[int, int]:
        """(2, milliseconds since 1970): when it arrived, by Kinesis."""
        return 2, self._ms

    def key(self) -> bytes:
        """The partition key."""
        return self._key.encode()

    def value(self) -> bytes:
        """The data."""
        return self._value

    def headers(self) -> list[Header]:
        """What a topic would have as headers."""
        return self.headers_told


def messages(topic: str, number: int, records: Sequence[Mapping[str, Any]], place: int) -> list[Record]:
    """The messages of records, aggregates taken apart, those before `place` left out."""
    found: list[Record] = []
    for record in records:
        sequence, ms = record["SequenceNumber"], arrived_ms(record)
        parts = deaggregate(record["Data"])
        if parts is None:
            parts = [(record["PartitionKey"], record["Data"])]
        for sub, (key, data) in enumerate(parts):
            where = position(sequence, sub)
            if where >= place:
                value, headers = unwrapped(data)
                found.append(Record(topic, number, where, ms, key, value, headers))
    return found


def arrived_ms(record: Mapping[str, Any]) -> int:
    """When Kinesis took a record, approximately, as it says."""
    told: datetime = record["ApproximateArrivalTimestamp"]
    return round(told.timestamp() * 1_000)


def unwrapped(data: bytes) -> tuple[bytes, list[Header]]:
    """Value and headers of a record's data."""
    if data[:2] == _SINGLE and len(data) >= _SINGLE_BYTES:
        return data[_SINGLE_BYTES:], [(FINGERPRINT_HEADER, data[2:_SINGLE_BYTES].hex().encode())]
    return data, []


def wrapped(value: bytes, headers: Sequence[Header]) -> bytes:
    """The data of a record that in Kafka would be this value and headers; all others are left out."""
    named = next((held for name, held in headers if name == FINGERPRINT_HEADER), None)
    return value if named is None else _SINGLE + bytes.fromhex(named.decode()) + value


def deaggregate(data: bytes) -> Parts | None:
    """The records of an aggregate, None when it is none."""
    if data[:4] != _MAGIC or len(data) < len(_MAGIC) + _DIGEST:
        return None
    body = data[4:-_DIGEST]
    if hashlib.md5(body, usedforsecurity=False).digest() != data[-_DIGEST:]:
        return None
    try:
        keys: list[str] = []
        records: list[tuple[int, bytes]] = []
        for field, value in _fields(body):
            if field == 1 and isinstance(value, bytes):
                keys.append(value.decode())
            elif field == 3 and isinstance(value, bytes):
                inner = dict(_fields(value))
                index, content = inner.get(1, 0), inner.get(3, b"")
                if not isinstance(index, int) or not isinstance(content, bytes):
                    return None
                records.append((index, content))
        return [(keys[index], content) for index, content in records]
    except (IndexError, ValueError):
        return None


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a message of protocol buffers.

    Raises:
        IndexError, ValueError: It is none.
    """
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield tag >> 3, value
        elif kind == _BYTES:
            length, at = _varint(message, at)
            if at + length > end:
                raise IndexError
            yield tag >> 3, message[at : at + length]
            at += length
        else:
            raise ValueError(kind)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
        if shift > 63:
            raise ValueError(shift)
