"""What the reader asks of its consumer while one partition waits for another."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, NoReturn

from confluent_kafka import KafkaError, KafkaException

from flows.arrivals import Arrivals
from flows.kafka_source import Reader
from flows.source import Run
from tests.flows.test_arrivals import Sent


class _Message(Sent):
    def error(self) -> None:
        """It is a record."""


def _reader(batches: list[list[_Message]]) -> Reader:
    """A reader of two partitions that have not been read to their ends; its consumer hands over these batches."""
    reader = object.__new__(Reader)
    told: dict[str, Any] = {
        "arrivals": Arrivals(),
        "watch": SimpleNamespace(fault=None),
        "_counts": {},
        "_paused": set(),
        "_options": SimpleNamespace(settle_s=0.0),
        "_consumer": SimpleNamespace(consume=lambda _most, timeout: batches.pop(0) if batches else []),
    }
    for name, value in told.items():
        setattr(reader, name, value)
    reader._known = reader._counts
    for number in (0, 1):
        reader.arrivals.add(("t", number))
    return reader


def test_a_full_batch_that_waits_for_another_partition_does_not_keep_that_one_from_being_read() -> None:
    first = [_Message("t", 0, at, f"a{at}") for at in range(10)]
    reader = _reader([first, [_Message("t", 1, 100, "b")]])
    assert reader.messages(10) == []  # the other partition may hold something older
    assert [message.name for message in reader.messages(10)] == [f"a{at}" for at in range(10)]


def test_while_no_broker_answers_the_watchdog_hears_of_it_whatever_the_flow_waits_for() -> None:
    reader, run, done = _reader([]), Run(), threading.Event()

    def unreachable(timeout: float) -> NoReturn:
        done.set()  # once is enough
        raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    told = {"_run": run, "_done": done, "_consumer": SimpleNamespace(list_topics=unreachable)}
    for name, value in {**told, "_options": SimpleNamespace(refresh_s=0.01)}.items():
        setattr(reader, name, value)
    before = run.pulse.beats
    reader._refresh()
    assert run.pulse.beats == before + 1
    assert run.pulse.what == "no broker of the inputs answers"
