"""What the reader asks of its consumer while one partition waits for another."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from flows.arrivals import Arrivals
from flows.kafka_source import Reader
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
