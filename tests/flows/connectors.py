"""Every kind of stream behind one face, for tests/flows/test_connectors.py: what a flow reads from and publishes to.

Each kind is driven as its flow drives it: files by the merge and the slots of a replay, the others by the reader, the
ingest, the ledger and the publisher of a live flow. A *state* is what bytewax would keep; whoever is opened without one
begins as a new flow, and `die` leaves without another word, as a killed process does.

Long, because all kinds stand side by side: what one of them does otherwise is to be seen at once.
"""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import orjson
import pytest

from flows.connectors import open_publisher, open_reader, questions_of
from flows.decide import dead_letter
from flows.epochs import Epochs
from flows.files import JsonLines
from flows.ingest import ingest
from flows.kafka_publish import IDENTITY
from flows.kafka_sink import Outputs, Slot
from flows.kafka_source import SourceState, merged_state
from flows.live_encode import LivePublication, dead_letter_publication
from flows.live_ingest import LiveIngest
from flows.live_manifest import load_offsets
from flows.live_options import EARLIEST, LiveOptions, Start
from flows.memory_streams import memory_log
from flows.merge import Merge
from flows.profile import load_profile
from flows.publish import DAY_US, DEAD_LETTERS, DECISIONS, FileSlot, Publication, dead_letter_identity
from flows.source import Run
from flows.stats import StageStats
from load_tests.kinesis_local import KinesisLocal, Tail
from operators.inflight import TICK, InFlight
from schemas.codec import encode_json
from schemas.times import format_rfc3339_us
from schemas.validate import Limits
from schemas.wire import JsonEncoder
from state.testing import DictHome
from tests.flows.kinesis_node import small_profile
from tests.kafka import make_topic, read_all, send

WAIT_S = 60.0
SEEN_US = 20_000 * DAY_US

ENDS: Final = "ends"
"""What was there when it was opened is all there is: the source says so. Others wait for more."""
SPREADS: Final = "spreads"
"""A stream has several partitions or shards: the order is that of a key. Otherwise it is one order."""
STARTS: Final = "starts"
"""A new flow may begin at the latest record or at a time, not at the first one only."""
TIMES: Final = "times"
"""The stream itself tells when a record came; of others a record's own time is its arrival."""
SHARED: Final = "shared"
"""Others may write to an output too; where only one writer can be, what is not its own refuses the start."""


class Inputs(Protocol):
    """An opened input."""

    def take(self, most: int) -> list[InFlight]:
        """The next items, at most so many; fewer when there are no more now, none when there is nothing."""

    @property
    def ended(self) -> bool:
        """Whether there never will be more."""

    def state(self) -> Any:
        """Where it stands, behind what was taken."""

    def die(self) -> None:
        """As when the process is killed."""


class Sink(Protocol):
    """Opened outputs: decisions and dead letters."""

    def publish(self, *decisions: str, note: str = "first") -> None:
        """Publish decisions of these payments, `name` or, for the answer to a retry, `=name`."""

    def publish_dead(self, items: Sequence[InFlight]) -> None:
        """Publish dead letters."""

    def commit(self) -> Any:
        """An epoch ends: the state that bytewax keeps now, which is that at the end of the epoch before."""

    def die(self) -> None:
        """As when the process is killed."""


class Connector(Protocol):
    """A kind of streams, those of one test.

    Attributes:
        can: Of the capabilities above.
    """

    can: frozenset[str]

    def append(self, records: Sequence[tuple[str, bytes]]) -> None:
        """Append records to the input: (key, value)."""

    def inputs(self, state: Any = None, start: Start = EARLIEST) -> Inputs:
        """Open the input, where a state says, else where `start` says."""

    def sink(self, state: Any = None) -> Sink:
        """Open the outputs; without a state they hold nothing that the flow knows of."""

    def foreign(self, values: Sequence[bytes]) -> None:
        """Somebody else writes to the decisions."""

    def published(self, output: str) -> list[dict[str, Any]]:
        """What stands in an output, to who reads it by its own means; records of ours."""

    def place(self, told: dict[str, Any]) -> tuple[Any, ...]:
        """Of a dead letter's mapping: the place it names, as the kind has places."""

    def close(self) -> None:
        """Leave."""


class Files:
    """Event files and output files of a replay."""

    can = frozenset({ENDS})

    def __init__(self, _request: pytest.FixtureRequest, path: Path) -> None:
        self._path = path / "transactions.jsonl"
        self._path.write_bytes(b"")
        self._out = path
        self._ledgers = DictHome()
        self._profile = load_profile(small_profile(path / "profile"))
        self._open: list[FileSlot] = []

    def append(self, records: Sequence[tuple[str, bytes]]) -> None:
        with self._path.open("ab") as out:
            out.writelines(value + b"\n" for _, value in records)

    def inputs(self, state: Any = None, start: Start = EARLIEST) -> Inputs:
        assert start == EARLIEST
        profile = self._profile
        make = ingest("transactions", profile.features, profile.enricher(), Limits(), None, time.time_ns() // 1_000)
        return _Merged(Merge({"transactions": JsonLines(self._path)}, lambda _stream: make, DAY_US, state))

    def sink(self, state: Any = None) -> Sink:
        slots = {}
        for output in (DECISIONS, DEAD_LETTERS):
            told: Any = state[output] if state else {"offset": 0, "version": None}
            ledger = self._ledgers.open(output, "ledger", told["version"])
            path = self._out / f"{output}.jsonl"
            slot = FileSlot(output, path, ledger, told["offset"], 7 * DAY_US, lambda: None, Epochs())
            slots[output] = slot
            self._open.append(slot)
        return _Slots(slots)

    def foreign(self, values: Sequence[bytes]) -> None:
        with (self._out / f"{DECISIONS}.jsonl").open("ab") as out:
            out.writelines(value + b"\n" for value in values)

    def published(self, output: str) -> list[dict[str, Any]]:
        return _records((self._out / f"{output}.jsonl").read_bytes().splitlines())

    def place(self, told: dict[str, Any]) -> tuple[Any, ...]:
        return told["topic"], told["partition"], told["offset"]

    def close(self) -> None:
        for slot in self._open:
            slot._sync.close()


class _Merged:
    """A replay's source."""

    def __init__(self, merge: Merge) -> None:
        self._merge = merge
        self.ended = False

    def take(self, most: int) -> list[InFlight]:
        found: list[InFlight] = []
        while len(found) < most:
            item = next(self._merge, None)
            if item is None:
                self.ended = True
                break
            if item.kind != TICK:
                found.append(item)
        return found

    def state(self) -> Any:
        return self._merge.state()

    def die(self) -> None:
        pass


class _Slots:
    """A replay's outputs."""

    def __init__(self, slots: dict[str, FileSlot]) -> None:
        self._slots = slots

    def publish(self, *decisions: str, note: str = "first") -> None:
        made = [
            Publication(name.removeprefix("=").encode(), b"" if name[0] == "=" else _decision(name, note), SEEN_US)
            for name in decisions
        ]
        self._slots[DECISIONS].write_batch([made])

    def publish_dead(self, items: Sequence[InFlight]) -> None:
        made = [
            Publication(dead_letter_identity(*item.origin), encode_json("dead_letter", dead_letter(item)), SEEN_US)
            for item in items
        ]
        self._slots[DEAD_LETTERS].write_batch([made])

    def commit(self) -> Any:
        return {name: slot.snapshot() for name, slot in self._slots.items()}

    def die(self) -> None:
        pass


class Live(ABC):
    """What the kinds of a live flow have in common: they differ in their streams."""

    can = frozenset({SPREADS, STARTS, TIMES, SHARED})

    def __init__(self, path: Path) -> None:
        self._run = Run()
        self._profile = load_profile(small_profile(path / "profile"))
        self._ledgers = DictHome()
        self._open: list[Callable[[], None]] = []
        inputs = {"transactions": self.make("transactions")}
        outputs = {DECISIONS: self.make("decisions"), DEAD_LETTERS: self.make("dead_letters")}
        self.options = LiveOptions(path, inputs, outputs, refresh_s=0.5)
        self.streams, self.outputs = self.options.streams()
        self._began: SourceState | None = None
        questions = questions_of("outputs", self.outputs, self.options, self._run)
        self._ends = {stream.topic: questions.ends(stream.topic) for stream in self.outputs.values()}
        questions.close()

    @abstractmethod
    def make(self, name: str) -> str:
        """Make a stream; returns its URL."""

    @abstractmethod
    def put(self, url: str, records: Sequence[tuple[str, bytes]]) -> None:
        """Append records to it."""

    def append(self, records: Sequence[tuple[str, bytes]]) -> None:
        self.put(self.options.inputs["transactions"], records)

    def foreign(self, values: Sequence[bytes]) -> None:
        self.put(self.options.outputs[DECISIONS], [("k", value) for value in values])

    def inputs(self, state: Any = None, start: Start = EARLIEST) -> Inputs:
        if self._began is None:  # a flow's manifest keeps it, before anything is read
            questions = questions_of("inputs", self.streams, self.options, self._run)
            (topic,) = (stream.topic for stream in self.streams.values())
            self._began = SourceState(offsets={topic: questions.began(topic, start)}, clock_us=0, sequence=0)
            questions.close()
        begin = merged_state({"inputs-00": state} if state else {}, self._began["offsets"])
        reader = open_reader(self.streams, self.options, begin, self._run, dict)
        self._open.append(reader.close)
        now_us: Callable[[], int] = lambda: time.time_ns() // 1_000  # noqa: E731
        made = LiveIngest(self._profile, self.options, self.streams, now_us, begin["clock_us"], begin["sequence"])
        made.offsets = reader.offsets
        return _Read(reader, made)

    def sink(self, state: Any = None) -> Sink:
        publisher = open_publisher(self.outputs, self.options, self._run, {})
        topics = {name: stream.topic for name, stream in self.outputs.items()}
        epochs, stats = Epochs(), StageStats("publish")
        outputs = Outputs(
            publisher, JsonEncoder(), topics, lambda: None, self._run, stats, epochs, may_overtake=False, inputs=None
        )
        ledger = self._ledgers.open("s00", "ledger", state["version"] if state else None)
        ends = state["ends"] if state else load_offsets({"outputs": self._ends}, "outputs")
        slot = Slot(outputs, ledger, ends, 7 * DAY_US)
        outputs.open_with(lambda _name, _state: slot, ["s00"], ("s00",))
        self._open.append(slot.close)
        return _Ledger(slot)

    def place(self, told: dict[str, Any]) -> tuple[Any, ...]:
        return told["topic"], told["partition"], told.get("sequence", told["offset"])

    def close(self) -> None:
        for one in self._open:
            one()


class _Read:
    """A live flow's source."""

    def __init__(self, reader: Any, made: LiveIngest) -> None:
        self._reader = reader
        self._made = made
        self.ended = False

    def take(self, most: int) -> list[InFlight]:
        return [item for item in self._made.items(self._reader.messages(most)) if item.kind != TICK]

    def state(self) -> Any:
        self._reader.commit()
        offsets = {topic: dict(found) for topic, found in self._reader.offsets.items()}
        return SourceState(offsets=offsets, clock_us=self._made.clock_us, sequence=self._made.sequence)

    def die(self) -> None:
        self._reader.close()


class _Ledger:
    """A live flow's outputs."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot

    def publish(self, *decisions: str, note: str = "first") -> None:
        made = []
        for name in decisions:
            identity = name.removeprefix("=").encode()
            value = b"" if name[0] == "=" else _decision(name, note)
            made.append(LivePublication(DECISIONS, identity, value, b"k", [(IDENTITY, identity)], SEEN_US))
        self._slot.write_batch([made])

    def publish_dead(self, items: Sequence[InFlight]) -> None:
        self._slot.write_batch([[dead_letter_publication(item, JsonEncoder()) for item in items]])

    def commit(self) -> Any:
        return self._slot.snapshot()

    def die(self) -> None:
        self._slot.close()


class Memory(Live):
    """Logs in this process."""

    def __init__(self, _request: pytest.FixtureRequest, path: Path) -> None:
        super().__init__(path)

    def make(self, name: str) -> str:
        return f"memory://{name}-{uuid.uuid4().hex[:8]}?partitions=2"

    def put(self, url: str, records: Sequence[tuple[str, bytes]]) -> None:
        log = memory_log(_name(url), 2)
        for key, value in records:
            log.append(key.encode(), value)

    def published(self, output: str) -> list[dict[str, Any]]:
        return _records(record.value() for record in memory_log(_name(self.options.outputs[output])).records())


class Kafka(Live):
    """Topics of a broker."""

    def __init__(self, request: pytest.FixtureRequest, path: Path) -> None:
        self.bootstrap: str = request.getfixturevalue("kafka")
        super().__init__(path)

    def make(self, name: str) -> str:
        return f"kafka://{self.bootstrap}/{make_topic(self.bootstrap, name, 2)}"

    def put(self, url: str, records: Sequence[tuple[str, bytes]]) -> None:
        send(self.bootstrap, url.rpartition("/")[2], [(key.encode(), value) for key, value in records])

    def published(self, output: str) -> list[dict[str, Any]]:
        topic = self.options.outputs[output].rpartition("/")[2]
        return _records(message.value() or b"" for message in read_all(self.bootstrap, topic))


class Kinesis(Live):
    """Streams of a stand-in."""

    def __init__(self, request: pytest.FixtureRequest, path: Path) -> None:
        self.server: KinesisLocal = request.getfixturevalue("kinesis")
        super().__init__(path)

    def make(self, name: str) -> str:
        stream = f"{name.replace('_', '-')}-{uuid.uuid4().hex[:8]}"
        self.server.make(stream, 2)
        return self.server.url(stream, 100)

    def put(self, url: str, records: Sequence[tuple[str, bytes]]) -> None:
        told = [{"Data": value, "PartitionKey": key} for key, value in records]
        assert not self.server.client.put_records(StreamName=_name(url), Records=told)["FailedRecordCount"]

    def published(self, output: str) -> list[dict[str, Any]]:
        tail = Tail(self.server.client, _name(self.options.outputs[output]))
        return _records(record["Data"] for _, record in tail.look())


KINDS: Final[tuple[type[Any], ...]] = (Files, Memory, Kafka, Kinesis)


def payment(number: int, account: str) -> bytes:
    """A payment that any flow takes, number `number` of all."""
    record = {
        "transaction_id": f"T{number}",
        "event_time": format_rfc3339_us(time.time_ns() // 1_000 - 60_000_000 + number),
        "account_id": account,
        "channel": "ecommerce",
        "payment_type": "purchase",
        "amount_minor": 1_000,
        "currency": "EUR",
    }
    return orjson.dumps(record)


def wait_for(found: Callable[[], list[Any]], number: int) -> list[Any]:
    """What is found once there is as much."""
    until = time.monotonic() + WAIT_S
    while len(now := found()) < number:
        assert time.monotonic() < until, f"{len(now)} of {number}"
        time.sleep(0.02)
    return now


def read(inputs: Inputs, number: int) -> list[InFlight]:
    """So many items."""
    items: list[InFlight] = []
    until = time.monotonic() + WAIT_S
    while len(items) < number:
        items += inputs.take(min(3, number - len(items)))
        assert time.monotonic() < until, f"{len(items)} of {number}"
        time.sleep(0.001)
    return items


def _records(values: Iterable[bytes]) -> list[dict[str, Any]]:
    found = []
    for value in values:
        try:
            record = orjson.loads(value)
        except orjson.JSONDecodeError:
            continue
        if isinstance(record, dict) and record:
            found.append(record)
    return found


def _decision(name: str, note: str) -> bytes:
    return orjson.dumps({"transaction_id": name, "note": note, "duplicate": False})


def _name(url: str) -> str:
    return url.partition("://")[2].partition("?")[0]
