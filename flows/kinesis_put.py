"""One output stream: records go in, PutRecords goes out, in order per key, and no record twice.

PutRecords takes some records of a request and refuses others, and promises no order among them. So at most one record
of a key is under way at any time: the next one is sent when the one before it is known to stand in the stream. A
request takes 500 records and 5 MiB at most, keys included; several are under way at once, of different keys.

What is handed over in an epoch is sent only when all of the epochs before stands in the stream: then in every shard the
records of an epoch stand behind those of the one before, and one place a shard parts them (docs/adr/0024).

Kinesis knows no idempotent producer. When a request fails without an answer (a timeout, a broken connection, an
internal failure), its records may stand in the stream or not. Then the shards are read back from where each stood when
the request was made, and what is found there (key and data, of a key that nothing else was under way of) is not sent
again.
What could yet fool this is a request that is carried out later than `_SETTLE_S` after its connection was given up.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from flows.kinesis_client import FATAL, THROTTLED, Backoff, ClientFault, KinesisWatch
from flows.kinesis_shards import FIRST, read_on, shard_number, shards_of
from schemas.errors import StreamError
from schemas.positions import position

MOST_RECORD_BYTES: Final = 1 << 20
"""Of data and key of a record, the default limit of a stream."""
_MOST_RECORDS: Final = 500
_MORE: Final = 25
"""By so many records a request grows with each answer, after a failure without one has halved it."""
_MOST_BYTES: Final = 5 << 20
_SENDERS: Final = 4
"""Requests under way at once. Fewer: a slow answer holds up all keys; more: each takes fewer records."""
_MOST_WAITING_BYTES: Final = 64 << 20
"""What may wait to be sent before the flow waits, as with Kafka."""
_SETTLE_S: Final = 1.0
"""A record that was put can be read within a second, as a rule (AWS: "typically available within 200 ms")."""
_INTERNAL: Final = "InternalFailure"


class Put:
    """A record to be put.

    Attributes:
        output: It belongs to.
        key: Partition key.
        data: As it will stand in the stream.
        appended_us: Of a decision: when its payment arrived.
        epoch: In which it was handed over, for who is told of its end.
        place: Where it stands, once it does: (shard, position).
    """

    __slots__ = ("appended_us", "backoff", "data", "epoch", "key", "order", "output", "place")

    def __init__(
        self, output: str, key: str, order: object, data: bytes, appended_us: int | None, epoch: Any = None
    ) -> None:
        self.output = output
        self.key = key
        self.order = order
        self.data = data
        self.appended_us = appended_us
        self.epoch = epoch
        self.place: tuple[int, int] = (0, 0)
        self.backoff: Backoff | None = None

    @property
    def size(self) -> int:
        """Bytes that count against a request's limit."""
        return len(self.data) + len(self.key.encode())


class Putter:
    """Sends the records of one stream.

    Attributes:
        places: By shard, behind the last record of ours that stands there.
    """

    def __init__(self, client: Any, topic: str, name: str, watch: KinesisWatch, stood: Callable[[Put], None]) -> None:
        """Begin.

        Args:
            client: Of the stream's account.
            topic: What the stream is called.
            name: Of the stream.
            watch: Hears of errors.
            stood: Called, in any thread, for each record that stands in the stream.
        """
        self.places: dict[int, int] = {}
        self._client = client
        self._topic = topic
        self._stream = name
        self._watch = watch
        self._stood = stood
        self._lock = threading.Condition()
        self._queues: dict[object, deque[Put]] = {}
        self._ready: deque[object] = deque()  # orders of which no record is under way
        self._later: list[tuple[float, int, object]] = []  # those that wait after a failure
        self._number = 0
        self._waiting_bytes = 0
        self._open = 0  # records of `_queues`, under way or waiting
        self._behind: deque[list[Put]] = deque()  # what later epochs have handed over meanwhile
        self._most = _MOST_RECORDS
        self._done = False
        self._threads = [
            threading.Thread(target=self._run, name=f"{topic}-put-{number}", daemon=True) for number in range(_SENDERS)
        ]
        for thread in self._threads:
            thread.start()

    def full(self) -> bool:
        """Whether as much waits as may."""
        return self._waiting_bytes > _MOST_WAITING_BYTES

    def put(self, record: Put) -> None:
        """Take a record over."""
        with self._lock:
            self._waiting_bytes += record.size
            if self._behind:
                self._behind[-1].append(record)
            else:
                self._queue(record)

    def epoch_ends(self) -> None:
        """What is put from now on stands behind what was put before, in every shard."""
        with self._lock:
            if self._open or self._behind:
                self._behind.append([])

    def _queue(self, record: Put) -> None:
        self._open += 1
        waiting = self._queues.get(record.order)
        if waiting is None:
            self._queues[record.order] = deque((record,))
            self._ready.append(record.order)
            self._lock.notify()
        else:
            waiting.append(record)

    def _run(self) -> None:
        backoff = Backoff()
        try:
            while True:
                request, before = self._next()
                if not request:
                    return
                self._send(request, before, backoff)
        except StreamError as refused:
            self._watch.refuse(refused)
        except Exception as defect:
            # What nobody foresaw ends the run too: a thread that dies would look like a stream that does not answer.
            message = f"{self._watch.side} {self._topic}: a defect of Weir: {defect!r}; report it"
            self._watch.refuse(StreamError(message))

    def _next(self) -> tuple[list[Put], dict[int, int]]:
        """The records of the next request, and where the shards stand before it; none when all is over."""
        with self._lock:
            while not self._done and self._watch.fault is None:
                now = time.monotonic()
                while self._later and self._later[0][0] <= now:
                    self._ready.append(heapq.heappop(self._later)[2])
                if self._ready:
                    break
                self._lock.wait(max(0.001, self._later[0][0] - now) if self._later else 1.0)
            else:
                return [], {}
            request: list[Put] = []
            size = 0
            while self._ready and len(request) < self._most:
                head = self._queues[self._ready[0]][0]
                size += head.size
                if request and size > _MOST_BYTES:
                    break
                self._ready.popleft()
                request.append(head)
            return request, dict(self.places)

    def _send(self, request: list[Put], before: dict[int, int], backoff: Backoff) -> None:
        entries = [{"Data": one.data, "PartitionKey": one.key} for one in request]
        try:
            answer = self._client.put_records(StreamName=self._stream, Records=entries)
        except ClientFault as raised:
            kind = self._watch.hear(self._topic, raised)
            if kind == FATAL:
                return
            if kind == THROTTLED:
                self._again(request, throttled=True)
            else:
                self._most = max(1, min(self._most, len(request)) // 2)  # a server that is slow answers for fewer
                self._unsure(request, before)
            time.sleep(backoff.next_s())
            return
        self._watch.up()
        backoff.reset()
        self._most = min(_MOST_RECORDS, self._most + _MORE)
        stood: list[Put] = []
        refused: list[Put] = []
        unsure: list[Put] = []
        codes: set[str] = set()
        for one, told in zip(request, answer["Records"], strict=True):
            code = told.get("ErrorCode")
            if not code:
                one.place = shard_number(told["ShardId"]), position(told["SequenceNumber"])
                stood.append(one)
            else:
                codes.add(code)
                (unsure if code == _INTERNAL else refused).append(one)
        self._finish(stood)
        for code in codes:
            self._watch.refused(code)
        if refused:
            self._again(refused, throttled=True)
        if unsure:
            self._unsure(unsure, before)

    def _finish(self, stood: Sequence[Put]) -> None:
        """These stand in the stream: the next ones of their orders may go."""
        for one in stood:
            self._stood(one)
        with self._lock:
            for one in stood:
                shard, place = one.place
                if place >= self.places.get(shard, FIRST):
                    self.places[shard] = int(place) + 1
                self._waiting_bytes -= one.size
                waiting = self._queues[one.order]
                waiting.popleft()
                if waiting:
                    self._ready.append(one.order)
                else:
                    del self._queues[one.order]
            self._open -= len(stood)
            while self._behind and not self._open:
                for record in self._behind.popleft():
                    self._queue(record)
            if self._ready:
                self._lock.notify_all()

    def _again(self, records: Sequence[Put], *, throttled: bool) -> None:
        """These stand nowhere: try them again, later where the stream had no room."""
        now = time.monotonic()
        with self._lock:
            for one in records:
                if throttled:
                    one.backoff = one.backoff or Backoff()
                    self._number += 1
                    heapq.heappush(self._later, (now + one.backoff.next_s(), self._number, one.order))
                else:
                    self._ready.append(one.order)
            self._lock.notify_all()

    def _unsure(self, records: Sequence[Put], before: dict[int, int]) -> None:
        """These may stand in the stream: look, until it is known."""
        backoff = Backoff()
        while not self._done:
            time.sleep(_SETTLE_S)
            try:
                found = self._found(records, before)
            except ClientFault as raised:
                if self._watch.hear(self._topic, raised) == FATAL:
                    return
                time.sleep(backoff.next_s())
                continue
            self._finish([one for one in records if id(one) in found])
            self._again([one for one in records if id(one) not in found], throttled=False)
            return

    def _found(self, records: Sequence[Put], before: dict[int, int]) -> set[int]:
        """Which of the records stand in the stream, their `place` set."""
        wanted: dict[tuple[str, bytes], list[Put]] = {}
        for one in records:
            wanted.setdefault((one.key, one.data), []).append(one)
        found: set[int] = set()
        for number in shards_of(self._client, self._stream):
            start = before.get(number, FIRST)
            for batch in read_on(self._client, self._stream, number, start):
                for told in batch:
                    place = position(told["SequenceNumber"])
                    same = wanted.get((told["PartitionKey"], told["Data"]))
                    if same and place >= start:
                        one = same.pop()
                        one.place = number, place
                        found.add(id(one))
                if not any(wanted.values()):
                    return found
        return found

    def end(self) -> None:
        """Send nothing more."""
        with self._lock:
            self._done = True
            self._lock.notify_all()
