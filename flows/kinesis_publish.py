"""A process's outputs as streams of Kinesis: what `flows.kafka_publish.Publisher` is for topics.

Records have no headers here, so a record of ours is told by its value: a decision by its transaction and whether it
answers a retry, a labelled outcome by its transaction, who said it and when, a dead letter by the place of what it is
about. Reading back decodes each; what cannot be decoded is not ours.

Of each stream a snapshot keeps a place for every shard (flows/kinesis_shards.py), from which on every record of ours is
one that the snapshot does not know, and under AS_OF the time of that snapshot. On resume all shards that the stream
still lists are read from there: those named, and all made since, whatever was split and merged meanwhile. When the time
of the snapshot has left the stream's retention, records of ours may be gone, and the start is refused.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

import orjson

from flows.kafka_client import Offsets
from flows.kafka_publish import DUPLICATE, IDENTITY, HandedOver
from flows.kinesis_client import (
    AGAIN_S,
    FATAL,
    Backoff,
    ClientFault,
    KinesisWatch,
    asked,
    client_of,
    stream_error,
)
from flows.kinesis_put import MOST_RECORD_BYTES, Put, Putter
from flows.kinesis_records import Record, messages, wrapped
from flows.kinesis_shards import FINISHED, FIRST, Places, check_read_back, facts_of, from_time, read_on, time_of
from flows.live_options import LiveOptions
from flows.publish import (
    DEAD_LETTERS,
    DECISIONS,
    LABELLED_OUTCOMES,
    dead_letter_identity,
    decision_identity,
    labelled_identity,
)
from flows.source import Run
from flows.streams import KinesisStream
from schemas.errors import ContractError, StreamError
from schemas.positions import parse_position
from schemas.times import parse_rfc3339_us
from schemas.wire import Header

AS_OF: Final = -1
"""Where `ends` keep when they were true, ms since 1970 by this process's clock."""
_SIDE: Final = "outputs"
_CONTRACTS: Final = {DECISIONS: "decision", DEAD_LETTERS: "dead_letter", LABELLED_OUTCOMES: "labelled_outcome"}
_SKEW_MS: Final = 60_000
"""How far the clocks of this process and of Kinesis may be apart."""
_VISIBLE_S: Final = 1.0
"""What the run before has put last can be read after so long."""
_LOOK_S: Final = 0.02
_BEAT_S: Final = 0.5


class KinesisPublisher:
    """The writer of one process.

    Attributes:
        watch: Hears of errors.
    """

    def __init__(self, options: LiveOptions, streams: Mapping[str, KinesisStream], run: Run) -> None:
        """Connect.

        Args:
            options: Of the flow.
            streams: By output.
            run: Its pulse is told of every wait.

        Raises:
            ConfigError: There is no region, or no such profile.
            StreamError: A stream does not exist, or may not be read.
        """
        where = ", ".join(f"{one.topic} ({one.endpoint or one.region or 'AWS'})" for one in streams.values())
        self.watch = KinesisWatch(_SIDE, where, options.hooks)
        self._topics = [stream.topic for stream in streams.values()]
        self._epoch = HandedOver(self._topics)
        self._before = HandedOver(self._topics)
        self._options = options
        self._streams = streams
        self._run = run
        self._began = time.monotonic()
        clients = {stream.account: client_of(stream) for stream in streams.values()}
        self._clients = {output: clients[stream.account] for output, stream in streams.items()}
        self._stood: queue.SimpleQueue[Put] = queue.SimpleQueue()
        self._pending = dict.fromkeys(streams, 0)
        self._known = {output: self._asked(output) for output in streams}
        self._putters = {
            output: Putter(self._clients[output], stream.topic, stream.name, self.watch, self._stood.put)
            for output, stream in streams.items()
        }
        self._done = threading.Event()
        self._looker = threading.Thread(target=self._look, name="kinesis-outputs", daemon=True)
        self._looker.start()
        options.hooks.set_ready("outputs", True, "Kinesis knows all streams")

    def _asked(self, output: str) -> Any:
        stream = self._streams[output]
        return asked(
            lambda: facts_of(self._clients[output], stream.name),
            self.watch,
            self._run.pulse,
            stream.topic,
            self._run.stop.is_set,
        )

    def _look(self) -> None:
        try:
            self._ask_on()
        except Exception as defect:
            message = f"{_SIDE}: a defect of Weir: {defect!r}; report it"
            self.watch.refuse(StreamError(message))

    def _ask_on(self) -> None:
        """While nothing moves, ask whether Kinesis is there: who waits inside the engine for a peer's records hears it.

        A process without records under way waits there for one that has some, and an outage must not look like a hang.
        """
        pulse = self._run.pulse
        seen, away = -1, False
        while not self._done.wait(AGAIN_S if away else self._options.refresh_s):
            if away or pulse.beats == seen:
                away = False
                for output, stream in self._streams.items():
                    try:
                        self._clients[output].list_shards(StreamName=stream.name, MaxResults=1)
                    except ClientFault as raised:
                        away = True
                        self.watch.hear(stream.topic, raised)
                        pulse.beat("Kinesis of the outputs does not answer")
                        break
                else:
                    self.watch.up()
            seen = pulse.beats

    def produce(
        self, output: str, value: bytes, key: bytes, headers: list[Header], appended_us: int | None = None
    ) -> None:
        """Hand a record over; it stands in its stream some time before the epoch after this one ends.

        Args:
            output: Of the record.
            value: As encoded.
            key: Decides on the shard; records of one keep their order, but for dead letters, which have none.
            headers: Of a record in Kafka; what names an Avro schema is put before the value.
            appended_us: Of a decision: when its payment arrived.

        Raises:
            StreamError: The record is too large.
        """
        data = wrapped(value, headers)
        putter = self._putters[output]
        order = object() if output == DEAD_LETTERS else key
        record = Put(output, key.decode() or "-", order, data, appended_us, self._epoch)
        if record.size > MOST_RECORD_BYTES:
            message = (
                f"outputs {self._streams[output].topic}, a record of {record.size} bytes: Kinesis takes "
                f"{MOST_RECORD_BYTES} with its key; declare fewer features, or publish to Kafka"
            )
            raise StreamError(message)
        while putter.full():
            self._run.pulse.beat(f"waiting until {self._streams[output].topic} takes records")
            self._hear()
            self.check()
            time.sleep(_LOOK_S)
        self._pending[output] += 1
        self._epoch.pending += 1
        putter.put(record)

    def serve(self) -> None:
        """Hear of what stands in the streams, without waiting."""
        self._hear()
        for output, pending in self._pending.items():
            self._options.hooks.in_flight(output, pending)

    def _hear(self) -> None:
        while not self._stood.empty():
            self._take(self._stood.get())

    def _take(self, put: Put) -> None:
        number, place = put.place
        put.epoch.pending -= 1
        put.epoch.reach({self._streams[put.output].topic: {number: int(place) + 1}})
        self._pending[put.output] -= 1
        self._options.hooks.published(put.output, 1)
        if put.appended_us is not None:
            self._options.hooks.delivered(put.appended_us)

    def check(self) -> None:
        """Raise what ends the run.

        Raises:
            StreamError: A record cannot be put, or Kinesis refuses us.
        """
        self.watch.check()

    def epoch_ends(self, *, final: bool) -> Offsets:
        """What is handed over from now on belongs to the next epoch.

        Waits until what was handed over before this epoch stands in the streams; for ever, if Kinesis does not answer.

        Args:
            final: There is no next epoch: wait for what was handed over in this one, too.

        Returns:
            By stream and shard, from where a resume at this moment must read back. Complete when the next call of this
            returns, if not `final`: the caller keeps it until then.

        Raises:
            StreamError: A record cannot be put.
        """
        before, ended = self._before, self._epoch
        self._epoch = HandedOver(self._topics)
        self._before = ended
        now_ms = time.time_ns() // 1_000_000
        for putter in self._putters.values():
            putter.epoch_ends()
        self._wait_for(before)
        ended.reach(before.ends)
        if final:
            self._wait_for(ended)
        for found in ended.ends.values():
            for number, place in found.items():
                if number >= 0 and place <= FIRST:
                    # Nothing of ours stands in this shard: nothing that arrived before is looked for.
                    found[number] = from_time(now_ms - _SKEW_MS)
            found[AS_OF] = now_ms
        return ended.ends

    def _wait_for(self, epoch: HandedOver) -> None:
        self._hear()
        beaten = time.monotonic()
        while epoch.pending:
            with suppress(queue.Empty):
                self._take(self._stood.get(timeout=_BEAT_S))
            self._hear()
            # Also while one record after the other comes to stand: a hot key takes minutes, and that is no hang.
            if time.monotonic() - beaten >= _BEAT_S:
                beaten = time.monotonic()
                self._run.pulse.beat(f"waiting until {epoch.pending} records stand in their streams")
            self.check()
        self.check()

    def read_back(self, begin: Offsets) -> Iterator[Record]:
        """The outputs' records of ours from these places on, with the headers they would have in Kafka.

        A shard that `begin` does not name was made later and is read from its first record on.

        Raises:
            StreamPositionError: A stream does not go back so far.
            StreamError: A stream cannot be read.
        """
        time.sleep(max(0.0, self._began + _VISIBLE_S - time.monotonic()))
        for output, stream in self._streams.items():
            topic = stream.topic
            places = begin.get(topic, {})
            facts = self._known[output] = self._asked(output)
            since_ms = _since_ms(places)
            if since_ms is not None:
                check_read_back(topic, since_ms, facts)
            ends = self._epoch.ends[topic]
            for number in facts.shards:
                ends[number] = places.get(number, FIRST)
                for record in self._records(output, number, ends[number]):
                    ends[number] = int(record.offset()) + 1
                    headers = self._told(output, record)
                    if headers is not None:
                        record.headers_told += headers
                        yield record
            self._putters[output].places.update(ends)

    def _records(self, output: str, number: int, place: int) -> Iterator[Record]:
        """A shard's records from a place to its present end; goes on behind a failure."""
        stream, client = self._streams[output], self._clients[output]
        what = f"{stream.topic}/{number}"
        backoff = Backoff(0.2)
        while place < FINISHED:
            try:
                for batch in read_on(client, stream.name, number, place):
                    self._run.pulse.beat(f"reading back what was published: {what}")
                    for record in messages(stream.topic, number, batch, place):
                        place = int(record.offset()) + 1
                        yield record
            except ClientFault as raised:
                if self.watch.hear(what, raised) == FATAL:
                    raise stream_error(_SIDE, what, raised) from raised
                self._run.pulse.beat(f"waiting for Kinesis, {_SIDE}: {what}")
                if self._run.stop.is_set():
                    message = f"{_SIDE} {what}: told to stop before Kinesis answered; nothing was published"
                    raise StreamError(message) from raised
                time.sleep(backoff.next_s())
            else:
                self.watch.up()
                return

    def _told(self, output: str, record: Record) -> list[Header] | None:
        """Headers by which a record of ours is known, None when it is none of ours."""
        value: Any = record.value()
        try:
            if value[:1] == b"{":
                found = orjson.loads(value)
            else:
                decoder = self._options.output_decoders.get(_CONTRACTS[output])
                found = decoder(value, record.headers()) if decoder else None
            if output == DECISIONS:
                headers = [(IDENTITY, decision_identity(found["transaction_id"]))]
                return [*headers, (DUPLICATE, b"1")] if found["duplicate"] else headers
            if output == LABELLED_OUTCOMES:
                said_us = found["event_time"]
                said_us = parse_rfc3339_us(said_us) if isinstance(said_us, str) else int(said_us)
                return [(IDENTITY, labelled_identity(found["transaction_id"], found["source"], said_us))]
            sequence = found.get("sequence")
            offset = found["offset"] if sequence is None else parse_position(sequence)
            return [(IDENTITY, dead_letter_identity(found["topic"], found["partition"], offset))]
        except (ContractError, KeyError, TypeError, AttributeError, ValueError):
            return None

    def close(self) -> None:
        """Leave; what does not stand in a stream yet was never committed."""
        self._done.set()
        for putter in self._putters.values():
            putter.end()


def _since_ms(places: Places) -> int | None:
    """Since when records of ours may stand in a stream that the state does not know; None when it knows nothing of it.

    A flow that was killed before its first commit has the places of its manifest only, which are times.
    """
    if AS_OF in places:
        return places[AS_OF]
    times = (time_of(place) for number, place in places.items() if number >= 0)
    return min((ms for ms in times if ms is not None), default=None)
