"""What every kind of stream must do for a live flow (flows/stream_api.py): the same suite over Kafka and Kinesis."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from flows.connectors import open_publisher, open_reader, questions_of
from flows.kafka_publish import DUPLICATE, IDENTITY
from flows.kafka_source import SourceState
from flows.live_options import EARLIEST, LATEST, LiveOptions
from flows.publish import DEAD_LETTERS, DECISIONS
from flows.source import Run
from flows.stream_api import Publisher, Reader
from load_tests.kinesis_local import KinesisLocal
from tests.flows.kinesis_node import kinesis
from tests.kafka import make_topic, send

__all__ = ["kinesis"]

WAIT_S = 60.0


class Kafka:
    """Topics of a broker."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.bootstrap: str = request.getfixturevalue("kafka")

    def make(self, name: str) -> str:
        return f"kafka://{self.bootstrap}/{make_topic(self.bootstrap, name, 2)}"

    def put(self, url: str, records: list[tuple[bytes, bytes]]) -> None:
        send(self.bootstrap, url.rpartition("/")[2], list(records))


class Kinesis:
    """Streams of a stand-in."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.server: KinesisLocal = request.getfixturevalue("kinesis")

    def make(self, name: str) -> str:
        stream = f"{name.replace('_', '-')}-{uuid.uuid4().hex[:8]}"
        self.server.make(stream, 2)
        return self.server.url(stream, 100)

    def put(self, url: str, records: list[tuple[bytes, bytes]]) -> None:
        name = url.partition("://")[2].partition("?")[0]
        told = [{"Data": value, "PartitionKey": key.decode()} for key, value in records]
        assert not self.server.client.put_records(StreamName=name, Records=told)["FailedRecordCount"]


class Setting:
    """Streams of one kind and what is open of them."""

    def __init__(self, kind: Kafka | Kinesis, path: Path) -> None:
        self.kind = kind
        self.run = Run()
        inputs = {"transactions": kind.make("transactions")}
        outputs = {DECISIONS: kind.make("decisions"), DEAD_LETTERS: kind.make("dead_letters")}
        self.url = inputs["transactions"]
        self.options = LiveOptions(path, inputs, outputs, refresh_s=0.5)
        self.inputs, self.outputs = self.options.streams()
        self.topic = self.inputs["transactions"].topic
        self.decisions = self.outputs[DECISIONS].topic
        self.open: list[Callable[[], None]] = []

    def began(self, start: str = EARLIEST) -> SourceState:
        questions = questions_of("inputs", self.inputs, self.options, self.run)
        found = questions.began(self.topic, start)
        questions.close()
        return SourceState(offsets={self.topic: found}, clock_us=0, sequence=0)

    def reader(self, start: SourceState) -> Reader:
        reader = open_reader(self.inputs, self.options, start, self.run, dict)
        self.open.append(reader.close)
        return reader

    def publisher(self) -> Publisher:
        publisher = open_publisher(self.outputs, self.options, self.run, {})
        self.open.append(publisher.close)
        return publisher

    def read(self, reader: Reader, number: int) -> list[Any]:
        found: list[Any] = []
        until = time.monotonic() + WAIT_S
        while len(found) < number:
            for message in reader.messages(3)[: number - len(found)]:
                reader.offsets[message.topic()][message.partition()] = message.offset() + 1
                found.append(message)
            assert time.monotonic() < until, f"{len(found)} of {number}"
            time.sleep(0.002)
        return found

    def close(self) -> None:
        for one in self.open:
            one()


@pytest.fixture(params=[Kafka, Kinesis], ids=["kafka", "kinesis"])
def setting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Setting]:
    setting = Setting(request.param(request), tmp_path)
    yield setting
    setting.close()


def _records(first: int, count: int) -> list[tuple[bytes, bytes]]:
    return [(f"k{number % 3}".encode(), str(number).encode()) for number in range(first, first + count)]


def _by_key(messages: list[Any]) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for message in messages:
        found.setdefault(message.key(), []).append(int(message.value()))
    return found


def test_everything_is_read_once_in_order_per_key_and_a_resume_goes_on_behind_it(setting: Setting) -> None:
    setting.kind.put(setting.url, _records(0, 12))
    start = setting.began()
    first = setting.reader(start)
    found = setting.read(first, 7)
    first.commit()
    state = SourceState(
        offsets={topic: {**start["offsets"][topic], **held} for topic, held in first.offsets.items()},
        clock_us=0,
        sequence=0,
    )
    setting.kind.put(setting.url, _records(12, 6))
    found += setting.read(setting.reader(state), 11)
    assert _by_key(found) == {f"k{key}".encode(): list(range(key, 18, 3)) for key in range(3)}
    assert all(message.timestamp()[1] > 1_600_000_000_000 for message in found)


def test_latest_begins_behind_what_stands_and_stays_there(setting: Setting) -> None:
    setting.kind.put(setting.url, _records(0, 6))
    time.sleep(1.1)  # Kinesis tells its time in whole seconds
    start = setting.began(LATEST)
    setting.kind.put(setting.url, _records(6, 6))
    for _ in range(2):
        found = setting.read(setting.reader(start), 6)
        assert sorted(int(message.value()) for message in found) == list(range(6, 12))


def _decide(publisher: Publisher, name: str, *, duplicate: bool = False) -> None:
    headers = [(IDENTITY, name.encode()), *([(DUPLICATE, b"1")] if duplicate else [])]
    value = orjson.dumps({"transaction_id": name, "duplicate": duplicate})
    publisher.produce(DECISIONS, value, b"k", headers)


def _told(publisher: Publisher, begin: dict[str, dict[int, int]]) -> list[tuple[str, bool]]:
    found = []
    for record in publisher.read_back(begin):
        headers = dict(record.headers() or [])
        if IDENTITY in headers:
            found.append((headers[IDENTITY].decode(), DUPLICATE in headers))
    return found


def test_what_stands_behind_an_epochs_end_is_read_back_with_what_it_is_told_by_and_nothing_before(
    setting: Setting,
) -> None:
    questions = questions_of("outputs", setting.outputs, setting.options, setting.run)
    begin = {stream.topic: questions.ends(stream.topic) for stream in setting.outputs.values()}
    questions.close()
    first = setting.publisher()
    assert _told(first, begin) == []
    ends = []
    for epoch in range(3):
        for number in range(3):
            _decide(first, f"{epoch}-{number}")
        _decide(first, f"{epoch}-0", duplicate=True)
        found = first.epoch_ends(final=epoch == 2)
        ends.append(found)
    saved = [{topic: dict(held) for topic, held in found.items()} for found in ends]
    epochs = [[(f"{epoch}-{number}", False) for number in range(3)] + [(f"{epoch}-0", True)] for epoch in range(3)]
    for place, wanted in (
        (begin, [*epochs[0], *epochs[1], *epochs[2]]),
        (saved[0], epochs[1] + epochs[2]),
        (saved[2], []),
    ):
        assert _told(setting.publisher(), place) == wanted


def test_records_of_others_in_an_output_are_none_of_ours(setting: Setting) -> None:
    questions = questions_of("outputs", setting.outputs, setting.options, setting.run)
    begin = {stream.topic: questions.ends(stream.topic) for stream in setting.outputs.values()}
    questions.close()
    setting.kind.put(setting.options.outputs[DECISIONS], [(b"k", b"not json"), (b"k", b"{}"), (b"k", b"[1]")])
    publisher = setting.publisher()
    _decide(publisher, "a")
    publisher.epoch_ends(final=True)
    assert _told(setting.publisher(), begin) == [("a", False)]
