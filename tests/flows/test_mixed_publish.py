"""Outputs of several kinds: what is told of them is true of all."""

from __future__ import annotations

import uuid
from pathlib import Path

from flows.connectors import open_publisher
from flows.live_hooks import NoHooks
from flows.live_options import LiveOptions
from flows.mixed_publish import MixedPublisher, SharedHooks
from flows.source import Run
from load_tests.kinesis_local import KinesisLocal
from tests.flows.kinesis_node import kinesis

__all__ = ["kinesis"]


class Told(NoHooks):
    """Keeps what is told of the outputs, and counts records."""

    def __init__(self) -> None:
        self.up: list[bool] = []
        self.ready: list[tuple[bool, str]] = []
        self.count = 0

    def broker_up(self, side: str, up: bool) -> None:
        assert side == "outputs"
        self.up.append(up)

    def set_ready(self, part: str, ready: bool, why: str) -> None:
        assert part == "outputs"
        self.ready.append((ready, why))

    def published(self, output: str, records: int) -> None:
        self.count += records


def test_the_gauge_tells_the_worse_of_two_kinds() -> None:
    told = Told()
    shared = SharedHooks(told, 2)
    one, other = shared.of(0), shared.of(1)
    one.broker_up("outputs", True)
    other.broker_up("outputs", False)
    one.broker_up("outputs", True)  # Kafka answers, Kinesis does not
    one.broker_up("outputs", False)
    other.broker_up("outputs", True)
    one.broker_up("outputs", True)
    assert told.up == [True, False, False, False, False, True]
    one.published("decisions", 2)
    other.published("dead_letters", 1)
    assert told.count == 3


def test_outputs_of_two_kinds_are_ready_when_both_are_and_up_from_the_start(
    kinesis: KinesisLocal, tmp_path: Path
) -> None:
    name = f"dead-{uuid.uuid4().hex[:8]}"
    kinesis.make(name)
    told = Told()
    urls = {"decisions": f"memory://d-{uuid.uuid4().hex[:8]}", "dead_letters": kinesis.url(name)}
    options = LiveOptions(tmp_path, {"transactions": "memory://t"}, urls, hooks=told)
    publisher = open_publisher(options.streams()[1], options, Run(), {})
    assert isinstance(publisher, MixedPublisher)
    publisher.close()
    assert told.ready == [(False, "not begun yet"), (True, "Kinesis knows all streams")]
    assert told.up == [True]
