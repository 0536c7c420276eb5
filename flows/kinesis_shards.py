"""Shards of a stream, where to read one from, and whether retention has passed a place.

Weir numbers a shard by its id (shardId-000000000007 is 7): a stream never uses one twice. Of each shard a state keeps
one number, larger for later:

    -2 ** 62 + t      from what arrived at t milliseconds since 1970 or later
    0                 from the first record that is held
    place + 1         from behind the record at that place (schemas/positions.py)
    FINISHED          the shard is closed and was read to its end

and for inputs under `read_to_key` of the shard's number a time: what arrived before has been read. A place itself does
not tell whether more was deleted behind it, and Kinesis begins without a word at what it still holds.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

from schemas.errors import StreamError, StreamPositionError

FINISHED: Final = 1 << 512
"""Behind every place: sequence numbers have 128 digits, 426 bits, at most."""
FIRST: Final = 0
_TIME: Final = -(1 << 62)
_SUB_BITS: Final = 24
_ID: Final = re.compile(r"shardId-([0-9]{12})\Z")
_HOUR_MS: Final = 3_600_000
_PAGE: Final = 1_000
_READ_EVERY_S: Final = 0.2
"""AWS allows five reads a second and shard."""
RUNBOOK: Final = "docs/runbooks/stream-position.md"

Places = dict[int, int]
"""Shard number -> where it is read from."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard.

    Attributes:
        number: Of its id.
        parents: Numbers of the shards that it was made of; those that have aged out are named still.
        closed: Whether nothing is written to it any more.
    """

    number: int
    parents: tuple[int, ...]
    closed: bool


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """What Kinesis says of a stream.

    Attributes:
        shards: By number.
        retention_ms: How long records are held.
        now_ms: AWS's clock, of whole seconds.
    """

    shards: Mapping[int, Shard]
    retention_ms: int
    now_ms: int


def shard_id(number: int) -> str:
    """The id of a shard."""
    return f"shardId-{number:012d}"


def shard_number(told: str) -> int:
    """The number of a shard's id.

    Raises:
        StreamError: It is of another form.
    """
    match = _ID.match(told)
    if match is None:
        message = f"shard {told!r}: expected an id such as {shard_id(0)}; this stand-in for Kinesis cannot be used"
        raise StreamError(message)
    return int(match[1])


def shards_of(client: Any, name: str) -> dict[int, Shard]:
    """All shards that still hold records, closed ones too.

    Raises:
        ClientError, BotoCoreError: Kinesis does not answer, or refuses.
    """
    found: dict[int, Shard] = {}
    asked: dict[str, Any] = {"StreamName": name, "MaxResults": _PAGE}
    while True:
        answer = client.list_shards(**asked)
        for told in answer["Shards"]:
            number = shard_number(told["ShardId"])
            parents = (told.get("ParentShardId"), told.get("AdjacentParentShardId"))
            closed = "EndingSequenceNumber" in told["SequenceNumberRange"]
            found[number] = Shard(number, tuple(shard_number(parent) for parent in parents if parent), closed)
        if not answer.get("NextToken"):
            return dict(sorted(found.items()))
        asked = {"NextToken": answer["NextToken"], "MaxResults": _PAGE}


def facts_of(client: Any, name: str) -> StreamFacts:
    """Shards, retention and time.

    Raises:
        ClientError, BotoCoreError: Kinesis does not answer, or refuses.
    """
    answer = client.describe_stream_summary(StreamName=name)
    told = answer["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
    now_ms = int(parsedate_to_datetime(told).timestamp()) * 1_000 if told else time.time_ns() // 1_000_000
    retention_ms = answer["StreamDescriptionSummary"]["RetentionPeriodHours"] * _HOUR_MS
    return StreamFacts(shards_of(client, name), retention_ms, now_ms)


def from_time(ms: int) -> int:
    """The place from which all that arrived at that time or later is read."""
    return _TIME + max(0, ms)


def read_to_key(number: int) -> int:
    """Where `Places` keep a shard's time."""
    return -1 - number


def time_of(place: int) -> int | None:
    """The time that a place is told by, ms since 1970; None for other places."""
    return place - _TIME if _TIME < place < 0 else None


def iterator_of(client: Any, name: str, number: int, place: int) -> str:
    """An iterator at a place; the record before it comes too, if one was read, and is left out by who asks.

    Raises:
        ClientError, BotoCoreError: Kinesis does not answer, or refuses.
    """
    told: dict[str, Any]
    if place > 0:
        sequence = (place - 1) >> _SUB_BITS
        told = {"ShardIteratorType": "AT_SEQUENCE_NUMBER", "StartingSequenceNumber": str(sequence)}
    elif place in (FIRST, _TIME):
        told = {"ShardIteratorType": "TRIM_HORIZON"}
    else:
        told = {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": (place - _TIME) / 1_000}
    answer = client.get_shard_iterator(StreamName=name, ShardId=shard_id(number), **told)
    return str(answer["ShardIterator"])


def check_held(side: str, topic: str, number: int, read_to_ms: int, facts: StreamFacts) -> None:
    """Refuse to go on where records may have been deleted that were not read.

    Args:
        side: inputs or outputs.
        topic: What the stream is called.
        number: Of the shard.
        read_to_ms: What arrived before has been read.
        facts: Of the stream.

    Raises:
        StreamPositionError: naming shard, times and the runbook.
    """
    held_from_ms = facts.now_ms - facts.retention_ms
    if number in facts.shards and read_to_ms >= held_from_ms:
        return
    held = (
        f"the stream holds what arrived since {_time(held_from_ms)}"
        if number in facts.shards
        else "the shard has aged out of the stream, or the stream was made anew"
    )
    message = (
        f"{side} {topic}/{number}: what arrived since {_time(read_to_ms)} has not been read, {held}: "
        f"retention may have deleted what was not read; see {RUNBOOK}"
    )
    raise StreamPositionError(message)


def check_read(side: str, topic: str, read_to_ms: Iterable[int], facts: StreamFacts) -> None:
    """Refuse to go on where nothing was read of a stream for longer than it holds.

    Args:
        side: inputs or outputs.
        topic: What the stream is called.
        read_to_ms: Of all its shards of which it is known, those that are finished too.
        facts: Of the stream.

    Raises:
        StreamPositionError: naming stream, times and the runbook.
    """
    latest_ms = max(read_to_ms, default=None)
    held_from_ms = facts.now_ms - facts.retention_ms
    if latest_ms is not None and latest_ms < held_from_ms:
        message = (
            f"{side} {topic}: nothing that arrived since {_time(latest_ms)} has been read, the stream holds what "
            f"arrived since {_time(held_from_ms)}: retention may have deleted what was not read; see {RUNBOOK}"
        )
        raise StreamPositionError(message)


def check_read_back(topic: str, since_ms: int, facts: StreamFacts) -> None:
    """Refuse to go on where records of ours may have been deleted that the state does not know.

    Args:
        topic: What the stream is called.
        since_ms: What was published since, the state does not know.
        facts: Of the stream.

    Raises:
        StreamPositionError: naming stream, times and the runbook.
    """
    held_from_ms = facts.now_ms - facts.retention_ms
    if since_ms < held_from_ms:
        message = (
            f"outputs {topic}: what was published since {_time(since_ms)} must be read back, the stream holds what "
            f"arrived since {_time(held_from_ms)}: retention may have deleted records that would now be published "
            f"twice; see {RUNBOOK}"
        )
        raise StreamPositionError(message)


def read_on(client: Any, name: str, number: int, place: int) -> Iterator[Sequence[Mapping[str, Any]]]:
    """A shard's records as Kinesis gives them, from a place to where the shard ends now; not faster than allowed.

    Records at or before a place may come again.

    Raises:
        ClientError, BotoCoreError: Kinesis does not answer, or refuses.
    """
    iterator: str | None = iterator_of(client, name, number, place)
    while iterator:
        answer = client.get_records(ShardIterator=iterator)
        yield answer["Records"]
        iterator = answer.get("NextShardIterator")
        if not answer.get("MillisBehindLatest"):
            return
        time.sleep(_READ_EVERY_S)


def _time(ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ms / 1_000))
