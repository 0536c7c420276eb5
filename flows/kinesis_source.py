"""Streams of Kinesis as a process's inputs: shards found while it runs, parents before children, one order of arrival.

A shard belongs to the process of number (shard modulo processes), and its place stands in that process's snapshot as an
offset of Kafka does (flows/kafka_source.py, flows/kinesis_shards.py): bytewax knows `inputs-NN`, never a shard, so
shards may come and go.

A shard made by a split or a merge is read only when its parents are finished, which keeps the order of a partition key.
Finished means: in this process, that all of a parent's records have entered the flow, so the child's enter behind them;
of a parent that another process reads, that its end stands in a committed epoch of the recovery store, since an epoch
begins nowhere before the one before it is over everywhere.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from flows.arrivals import Arrivals, Place
from flows.kafka_client import Offsets
from flows.kafka_source import SourceState
from flows.kinesis_client import AGAIN_S, ClientFault, KinesisWatch, asked, client_of
from flows.kinesis_poll import Held, Poller
from flows.kinesis_records import Record
from flows.kinesis_shards import (
    FINISHED,
    FIRST,
    StreamFacts,
    check_held,
    check_read,
    facts_of,
    read_to_key,
    shards_of,
    time_of,
)
from flows.live_options import LiveOptions
from flows.source import Run
from flows.streams import KinesisStream
from schemas.errors import StreamError, WeirError

_CROWD: Final = 4
"""Batches of one shard that wait while others catch up, before no more of it is taken."""
_LOOK_S: Final = 0.25
"""Between looks at the recovery store while a shard waits for parents of other processes."""
_EAGER_S: Final = 3.0
"""For so long after a shard's end its children are looked for at every look: ListShards may not know them at once."""

Committed = Callable[[], Mapping[str, SourceState]]


class KinesisReader:
    """The shards that one process reads.

    Attributes:
        watch: Hears of errors.
        offsets: By stream, `flows.kinesis_shards.Places`.
    """

    def __init__(
        self, options: LiveOptions, streams: Sequence[KinesisStream], start: SourceState, run: Run, committed: Committed
    ) -> None:
        """Find the shards, and begin where `start` says.

        Args:
            options: Of the flow.
            streams: To read.
            start: Where all inputs stand.
            run: Its pulse is told of waits.
            committed: What the recovery store holds of all processes' inputs now.

        Raises:
            StreamPositionError: Retention may have deleted what was not read.
            StreamError: A stream cannot be read.
        """
        where = ", ".join(f"{stream.topic} ({stream.endpoint or stream.region or 'AWS'})" for stream in streams)
        self.watch = KinesisWatch("inputs", where, options.hooks)
        self.arrivals = Arrivals(settle_s=options.settle_s)
        self.offsets: Offsets = {stream.topic: {} for stream in streams}
        self._options = options
        self._start = start
        self._run = run
        self._committed = committed
        self._streams = {stream.topic: stream for stream in streams}
        clients = {stream.account: client_of(stream) for stream in streams}
        self._clients = {stream.topic: clients[stream.account] for stream in streams}
        self._pollers: dict[Place, Poller] = {}
        self._ending: dict[Place, int] = {}
        self._fetched_to: dict[Place, int] = {}
        self._taken_ms: dict[Place, int] = {}
        self._appended_ms: dict[Place, int] = {}
        self._read_to_ms: dict[Place, int] = {}
        self._behind_ms: dict[Place, int] = {}
        self._foreign: Mapping[str, SourceState] = {}  # what the recovery store said last
        self._waits = threading.Event()  # a shard waits for its parents
        self._wake = threading.Event()
        self._done = threading.Event()
        self._facts: dict[str, StreamFacts] = {}
        for topic, stream in self._streams.items():
            self._facts[topic] = asked(
                lambda topic=topic, stream=stream: facts_of(self._clients[topic], stream.name),  # type: ignore[misc]
                self.watch,
                run.pulse,
                topic,
                run.stop.is_set,
            )
        for topic, facts in self._facts.items():
            self._check(topic, facts)
        self._found = self._known = self._facts
        self._assign()
        self._looker = threading.Thread(target=self._look, name="kinesis-shards", daemon=True)
        self._looker.start()
        options.hooks.set_ready("inputs", True, "all shards are assigned")

    def _own(self, number: int) -> bool:
        return number % self._options.processes == self._options.number

    def _check(self, topic: str, facts: StreamFacts) -> None:
        """Refuse where records of ours may have been lost; forget finished shards that have aged out."""
        known = self._start["offsets"].get(topic, {})
        for number, place in known.items():
            read_to_ms = known.get(read_to_key(number), time_of(place))
            if number >= 0 and place != FINISHED and self._own(number) and read_to_ms is not None:
                check_held("inputs", topic, number, read_to_ms, facts)
        # Of a child nothing is known until it was read once: what it held is told by when its parents ended.
        check_read("inputs", topic, (ms for key, ms in known.items() if key < 0), facts)

    def _assign(self) -> None:
        """Read from the shards of ours that may be begun."""
        waits = False
        for topic, facts in self._known.items():
            offsets = self.offsets[topic]
            begun = self._start["offsets"].get(topic, {})
            for number, shard in facts.shards.items():
                if number in offsets or not self._own(number):
                    continue
                # A shard that neither state nor manifest knows was made later, and nothing of it was read.
                place = begun.get(number, FIRST)
                if place <= 0 and not all(self._finished(topic, parent, facts) for parent in shard.parents):
                    waits = True
                    continue
                offsets[number] = place
                read_to_ms = begun.get(read_to_key(number))
                if read_to_ms is not None:
                    offsets[read_to_key(number)] = read_to_ms
                if place != FINISHED:
                    self._begin(topic, number, place, read_to_ms)
            self._options.hooks.assigned(topic, sum(1 for one in self._pollers if one[0] == topic))
        if waits:
            self._waits.set()
        else:
            self._waits.clear()

    def _begin(self, topic: str, number: int, place: int, read_to_ms: int | None) -> None:
        stream = self._streams[topic]
        if read_to_ms is not None:
            self._read_to_ms[topic, number] = read_to_ms
        self.arrivals.add((topic, number))
        held = Held(read_to_ms, self._facts[topic].retention_ms)
        poller = Poller(
            self._clients[topic], topic, stream.name, number, place, stream.poll_ms / 1_000, held, self.watch
        )
        self._pollers[topic, number] = poller
        poller.start()

    def _finished(self, topic: str, parent: int, facts: StreamFacts) -> bool:
        """Whether a shard's parent was read to its end, or holds nothing any more."""
        if parent not in facts.shards:
            return True
        if self._own(parent):
            return self.offsets[topic].get(parent) == FINISHED
        states = (self._start, *self._foreign.values())
        return any(state["offsets"].get(topic, {}).get(parent) == FINISHED for state in states)

    def _look(self) -> None:
        try:
            self._look_on()
        except Exception as defect:
            # A thread that dies would look like a stream that is never resharded.
            message = f"{self.watch.side}, shards: a defect of Weir: {defect!r}; report it"
            self.watch.refuse(StreamError(message))

    def _look_on(self) -> None:
        """Look for shards, and while one waits for parents that others read, at what those have committed."""
        looked = eager_until = time.monotonic()
        away = False
        while not self._done.is_set():
            waits = self._waits.is_set()
            every_s = AGAIN_S if away else self._options.refresh_s
            if waits or time.monotonic() < eager_until:
                every_s = _LOOK_S
            if self._wake.wait(every_s):
                self._wake.clear()
                eager_until = time.monotonic() + _EAGER_S
            now = time.monotonic()
            try:
                if waits and self._options.processes > 1:
                    self._foreign = self._committed()
                if away or now - looked >= self._options.refresh_s or now < eager_until:
                    looked, away = now, False
                    self._found = {
                        topic: replace(facts, shards=shards_of(self._clients[topic], self._streams[topic].name))
                        for topic, facts in self._facts.items()
                    }
                    self.watch.up()  # a process without shards has nobody else to say so
                elif waits:
                    self._found = dict(self._found)  # so that who waits is looked at again
            except ClientFault as raised:
                away = True
                self.watch.hear("shards", raised)
                # A process that has nothing to wait for waits inside the engine for one that has: that is no hang.
                self._run.pulse.beat("Kinesis of the inputs does not answer")
                self._done.wait(AGAIN_S)
            except WeirError:
                self._done.wait(1.0)  # the recovery store is being written; a shard of another form was told before

    def messages(self, most: int) -> list[Record]:
        """The next messages in order of arrival, at most so many; those that are here, without waiting.

        Raises:
            StreamError: A stream cannot be read any more.
        """
        if self.watch.fault is not None:
            self.watch.check()
        if self._taken_ms:
            # Who asks for more has made items of all that was taken; before that (a registry is away) it is not read.
            self._appended_ms.update(self._taken_ms)
            self._taken_ms = {}
        if self._ending:
            self._finish()
        found = self._found
        if found is not self._known:
            self._known = found
            self._assign()
        arrivals = self.arrivals
        taken: list[Record] = arrivals.take(most) if arrivals.waiting >= most else []
        if not taken:
            self._fetch(set(arrivals.crowded(_CROWD * most)))
            taken = arrivals.take(most) if arrivals.waiting else []
        for record in taken:
            self._taken_ms[record.topic(), record.partition()] = record.timestamp()[1]
        return taken

    def _fetch(self, crowd: set[Place]) -> None:
        """Take over what the pollers have read, but of shards of which too much waits for others."""
        for place, poller in self._pollers.items():
            batch = poller.batch
            if batch is None or place in crowd:
                continue
            for record in batch.records:
                self.arrivals.push(record)
            self._fetched_to[place] = batch.place
            self._behind_ms[place] = batch.behind_ms
            self._read_to_ms[place] = batch.read_to_ms
            if batch.ended:
                self._ending[place] = batch.place
            if batch.ended or not batch.behind_ms:
                self.arrivals.at_end(place)
            poller.fetched()

    def _finish(self) -> None:
        """Let go of shards that have ended and whose records have all entered the flow; their children may begin."""
        done = [place for place, behind in self._ending.items() if self.offsets[place[0]][place[1]] >= behind]
        for place in done:
            topic, number = place
            self.offsets[topic][number] = FINISHED
            self.offsets[topic][read_to_key(number)] = self._read_to_ms[place]
            for kept in (self._pollers, self._ending, self._fetched_to, self._appended_ms, self._read_to_ms):
                kept.pop(place, None)
            self._behind_ms.pop(place, None)
            self._run.pulse.beat(f"shard {topic}/{number} has ended")
        if done:
            self._assign()
            self._wake.set()

    def commit(self) -> None:
        """Called before a snapshot: note up to when what arrived has been read."""
        for place in self._pollers:
            topic, number = place
            # Shard by shard: on a busy stream something always waits, and an idle shard would seem unread for days.
            behind = place in self._fetched_to and self.offsets[topic][number] < self._fetched_to[place]
            ms = self._appended_ms.get(place) if behind else self._read_to_ms.get(place)
            key = read_to_key(number)
            if ms is not None and ms > self.offsets[topic].get(key, 0):
                self.offsets[topic][key] = ms

    def tell(self, event_times: Mapping[Place, int]) -> None:
        """Tell the hooks where each shard stands."""
        for place in self._pollers:
            self._options.hooks.position(*place, None, event_times.get(place))
            behind_ms = self._behind_ms.get(place)
            if behind_ms is not None:
                self._options.hooks.behind(*place, behind_ms / 1_000)

    def close(self) -> None:
        """Leave; what was read and not committed is read again."""
        self._done.set()
        self._wake.set()
        for poller in self._pollers.values():
            poller.end()
