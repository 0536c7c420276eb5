"""Kinesis is away when a flow starts: whoever asks beats for the watchdog, hears a stop, goes on when it is back.

An outage of a flow that runs is in tests/flows/test_kinesis_live.py.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.kafka_source import SourceState
from flows.kinesis_prepare import KinesisQuestions
from flows.kinesis_publish import KinesisPublisher
from flows.kinesis_source import KinesisReader
from flows.live_options import EARLIEST, LiveOptions
from flows.source import Run
from flows.streams import KinesisStream
from load_tests.kinesis_local import KinesisLocal
from schemas.errors import StreamError
from tests.flows.kinesis_node import kinesis, proxy
from tests.flows.kinesis_proxy import Proxy

__all__ = ["kinesis", "proxy"]

WAIT_S = 30.0


class Start:
    """A part of a flow's start, which asks Kinesis."""

    def __init__(self, server: KinesisLocal, proxy: Proxy, path: Path) -> None:
        names = {
            name: f"{name.replace('_', '-')}-{uuid.uuid4().hex[:8]}" for name in ("t", "decisions", "dead_letters")
        }
        for name in names.values():
            server.make(name)
        urls = {name: server.url(made).replace(server.endpoint, proxy.endpoint) for name, made in names.items()}
        self.options = LiveOptions(path, {"transactions": urls.pop("t")}, urls)
        self.inputs: list[Any]
        self.inputs, self.outputs = list(self.options.streams()[0].values()), self.options.streams()[1]
        self.run = Run()
        self.proxy = proxy
        self.publisher: KinesisPublisher | None = None

    def questions(self) -> None:
        KinesisQuestions("inputs", self.inputs, self.options, self.run).began(self.inputs[0].topic, EARLIEST)

    def reader(self) -> None:
        start = SourceState(offsets={}, clock_us=0, sequence=0)
        KinesisReader(self.options, self.inputs, start, self.run, dict).close()

    def open_publisher(self) -> KinesisPublisher:
        streams = {name: one for name, one in self.outputs.items() if isinstance(one, KinesisStream)}
        self.publisher = KinesisPublisher(self.options, streams, self.run)
        return self.publisher

    def writer(self) -> None:
        self.open_publisher().close()

    def read_back(self) -> None:
        assert self.publisher is not None
        list(self.publisher.read_back({}))
        self.publisher.close()


PARTS: list[Callable[[Start], None]] = [Start.questions, Start.reader, Start.writer, Start.read_back]


@pytest.fixture(params=PARTS, ids=[part.__name__ for part in PARTS])
def asks(
    request: pytest.FixtureRequest, kinesis: KinesisLocal, proxy: Proxy, tmp_path: Path
) -> tuple[Start, Callable[[], None]]:
    start = Start(kinesis, proxy, tmp_path)
    part: Callable[[Start], None] = request.param
    if part is Start.read_back:
        start.open_publisher()
    return start, lambda: part(start)


def _begin(asks: tuple[Start, Callable[[], None]]) -> tuple[threading.Thread, list[BaseException]]:
    """Ask while Kinesis is away, until the watchdog was told of some waits."""
    start, part = asks
    start.proxy.down.set()
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            part()
        except BaseException as error:  # told by the test's own thread
            failed.append(error)

    thread = threading.Thread(target=ask)
    before = start.run.pulse.beats
    thread.start()
    until = time.monotonic() + WAIT_S
    while start.run.pulse.beats < before + 4:
        assert thread.is_alive(), failed
        assert time.monotonic() < until, start.run.pulse.what
        time.sleep(0.01)
    assert start.run.pulse.what.startswith("waiting for Kinesis")
    return thread, failed


def test_what_is_asked_while_kinesis_is_away_is_answered_when_it_is_back(
    asks: tuple[Start, Callable[[], None]],
) -> None:
    thread, failed = _begin(asks)
    asks[0].proxy.down.clear()
    thread.join(WAIT_S)
    assert not thread.is_alive()
    assert not failed


def test_a_stop_ends_the_wait_for_kinesis_with_a_sentence(asks: tuple[Start, Callable[[], None]]) -> None:
    thread, failed = _begin(asks)
    asks[0].run.stop.set()
    thread.join(WAIT_S)
    assert not thread.is_alive()
    (error,) = failed
    assert isinstance(error, StreamError)
    assert "told to stop before Kinesis answered" in str(error)
