"""One shard, read by a thread of its own: at most a batch ahead, within AWS's limit, through whatever may pass.

GetRecords is allowed five times a second and 2 MB a second of each shard, to all readers of the stream together. So a
shard is asked every `poll_ms`; when another reader takes its share, the refusals stretch the interval (by half each),
and it comes back by a twentieth with every answer. An iterator lives five minutes and may be refused before that: a new
one is made where the shard stands.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from flows.kinesis_client import EXPIRED, FATAL, THROTTLED, Backoff, ClientFault, KinesisWatch, error_name
from flows.kinesis_records import Record, messages
from flows.kinesis_shards import RUNBOOK, check_held, facts_of, iterator_of
from schemas.errors import StreamError, StreamPositionError

_LIMIT: Final = 10_000
"""Records of one answer, as many as AWS gives; 10 MB bound it besides."""
_STRETCH: Final = 1.5
_SHRINK: Final = 0.95
_MOST_S: Final = 5.0
"""Longest interval between reads that refusals stretch it to."""
_JITTER: Final = 0.05
"""So that the shards of a process, and the processes, do not ask in step."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one answer held.

    Attributes:
        records: In order, aggregates taken apart.
        behind_ms: How far the end of the answer was behind the shard's tip; 0 at the tip.
        read_to_ms: What arrived before that time has been read with this answer.
        place: Behind the last record that was read so far.
        ended: The shard is closed and has no more.
    """

    records: Sequence[Record]
    behind_ms: int
    read_to_ms: int
    place: int
    ended: bool


@dataclass(slots=True)
class Held:
    """Whether what was not read is held still.

    Attributes:
        read_to_ms: What arrived before has been read, None: nothing is known.
        retention_ms: How long the stream holds records, as far as is known.
    """

    read_to_ms: int | None
    retention_ms: int


class Poller(threading.Thread):
    """Reads a shard until it ends, or `end` is called.

    Attributes:
        batch: What was read and not fetched yet; `fetched` makes room for the next.
        interval_s: Between two reads now.
    """

    def __init__(
        self,
        client: Any,
        topic: str,
        name: str,
        number: int,
        place: int,
        poll_s: float,
        held: Held,
        watch: KinesisWatch,
    ) -> None:
        """Prepare; `start` begins.

        Args:
            client: Of the stream's account.
            topic: What the stream is called.
            name: Of the stream.
            number: Of the shard.
            place: Where to begin (flows/kinesis_shards.py).
            poll_s: Between two reads, if nobody else reads.
            held: Up to when the shard was read, and for how long it holds records.
            watch: Hears of errors.
        """
        super().__init__(name=f"{topic}/{number}", daemon=True)
        self.batch: Batch | None = None
        self.interval_s = poll_s
        self._client = client
        self._topic = topic
        self._stream = name
        self._number = number
        self._place = place
        self._poll_s = poll_s
        self._held = held
        self._watch = watch
        self._backoff = Backoff()
        self._room = threading.Event()
        self._room.set()
        self._done = threading.Event()
        self._random = random.Random()  # noqa: S311 - spreads load, guards nothing

    def fetched(self) -> None:
        """The batch was taken."""
        self.batch = None
        self._room.set()

    def end(self) -> None:
        """Read no more; the thread ends when its present request is over."""
        self._done.set()
        self._room.set()

    def run(self) -> None:
        """Read on; what nobody foresaw ends the run too, since a thread that dies would look like an idle shard."""
        try:
            self._run()
        except StreamError as refused:
            self._watch.refuse(refused)
        except Exception as defect:
            message = f"{self._watch.side} {self._topic}/{self._number}: a defect of Weir: {defect!r}; report it"
            self._watch.refuse(StreamError(message))

    def _run(self) -> None:
        iterator: str | None = None
        while not self._done.is_set():
            self._room.wait()
            started = time.monotonic()
            try:
                if iterator is None:
                    iterator = iterator_of(self._client, self._stream, self._number, self._place)
                answer = self._client.get_records(ShardIterator=iterator, Limit=_LIMIT)
                self._check_held()
            except ClientFault as raised:
                iterator, wait_s = self._failed(raised, iterator)
                if wait_s is None:
                    return
                self._done.wait(wait_s)
                continue
            self._backoff.reset()
            self._watch.up()
            iterator = answer.get("NextShardIterator")
            self._deliver(answer, ended=iterator is None)
            if iterator is None:
                return
            self.interval_s = max(self._poll_s, self.interval_s * _SHRINK)
            spent_s = time.monotonic() - started
            self._done.wait(max(0.0, self.interval_s * self._random.uniform(1.0, 1.0 + _JITTER) - spent_s))

    def _check_held(self) -> None:
        """Refuse an answer that comes so late that Kinesis may have left out, without a word, what it holds no more.

        Raises:
            StreamPositionError: Retention has passed where the shard was read to.
            ClientError, BotoCoreError: Kinesis does not say what it holds; the answer is not used.
        """
        held = self._held
        if held.read_to_ms is None or time.time_ns() // 1_000_000 - held.read_to_ms <= held.retention_ms:
            return
        facts = facts_of(self._client, self._stream)  # it may have been set to more meanwhile
        held.retention_ms = facts.retention_ms
        check_held(self._watch.side, self._topic, self._number, held.read_to_ms, facts)

    def _deliver(self, answer: Any, *, ended: bool) -> None:
        behind_ms = int(answer.get("MillisBehindLatest") or 0)
        records = messages(self._topic, self._number, answer["Records"], self._place)
        if records:
            self._place = records[-1].offset() + 1
        read_to_ms = self._held.read_to_ms = time.time_ns() // 1_000_000 - behind_ms
        if records or ended or not behind_ms:
            self._room.clear()
            self.batch = Batch(records, behind_ms, read_to_ms, self._place, ended)

    def _failed(self, raised: Exception, iterator: str | None) -> tuple[str | None, float | None]:
        """(iterator to go on with, how long to wait); None: it is over."""
        what = f"{self._topic}/{self._number}"
        if error_name(raised) == "ResourceNotFoundException" and self._place > 0:
            message = (
                f"{self._watch.side} {what}: the shard has aged out of the stream, or the stream is gone: "
                f"retention has deleted what was not read; see {RUNBOOK}"
            )
            self._watch.refuse(StreamPositionError(message))
            return None, None
        kind = self._watch.hear(what, raised)
        if kind == FATAL:
            return None, None
        if kind == EXPIRED:
            return None, 0.0
        if kind == THROTTLED:
            self.interval_s = min(_MOST_S, self.interval_s * _STRETCH)
            return iterator, max(self.interval_s, self._backoff.next_s())
        return iterator, self._backoff.next_s()
