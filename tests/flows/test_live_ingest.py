from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from flows.live_ingest import LiveIngest, trace_id
from flows.live_options import LiveOptions
from flows.profile import load_profile
from operators.inflight import DEAD_LETTER, PAYMENT, TICK
from schemas.errors import StreamError
from tests.flows.traffic import START, payment, write_profile

HOUR_MS = 3_600_000
START_MS = int(START.timestamp() * 1_000)


class Record:
    def __init__(self, offset: int, ms: int, value: bytes | None) -> None:
        self._offset, self._ms, self._value = offset, ms, value

    def topic(self) -> str:
        return "t"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return 2, self._ms

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> None:
        return None


def _line(number: int) -> bytes:
    return orjson.dumps(payment(random.Random(number), number, datetime.fromtimestamp(START_MS / 1_000, UTC)))


class Registry:
    """A decoder whose registry can be down."""

    def __init__(self) -> None:
        self.down = False

    def __call__(self, value: bytes, _headers: object, /) -> bytes:
        if self.down and b"T000002" in value:
            message = "the registry does not answer"
            raise StreamError(message)
        return value


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def ingest(tmp_path: Path, registry: Registry) -> LiveIngest:
    profile = load_profile(write_profile(tmp_path))
    urls = {"transactions": "kafka://a:1/t"}
    outputs = {"decisions": "kafka://a:1/d", "dead_letters": "kafka://a:1/l"}
    options = LiveOptions(tmp_path, urls, outputs, decoders={"transactions": registry})
    made = LiveIngest(profile, options, options.streams()[0], lambda: (START_MS + 5 * HOUR_MS) * 1_000, 0, 0)
    made.offsets = {"t": {0: 0}}
    return made


def test_arrival_never_goes_back_never_runs_ahead_of_the_clock_and_ticks_at_boundaries(ingest: LiveIngest) -> None:
    times = (0, HOUR_MS // 2, HOUR_MS // 4, HOUR_MS + 1, 99 * HOUR_MS)
    items = ingest.items([Record(number, START_MS + ms, _line(number)) for number, ms in enumerate(times)])
    kinds = [item.kind for item in items]
    assert kinds == [PAYMENT, PAYMENT, PAYMENT, TICK, PAYMENT, TICK, PAYMENT]
    arrived = [item.ingested_at_us // 1_000 - START_MS for item in items]
    half = HOUR_MS // 2
    assert arrived == [0, half, half, HOUR_MS, HOUR_MS + 1, 5 * HOUR_MS, 5 * HOUR_MS]
    assert [item.order for item in items] == [(number,) for number in range(7)]
    assert ingest.offsets == {"t": {0: 5}}


def test_a_message_that_a_registry_is_needed_for_waits_with_all_behind_it(
    ingest: LiveIngest, registry: Registry
) -> None:
    registry.down = True
    records: list[Any] = [Record(number, START_MS, _line(number)) for number in range(4)]
    assert len(ingest.items(records)) == 2
    assert ingest.offsets == {"t": {0: 2}}
    assert ingest.items(ingest.unread) == []
    assert ingest.why == "the registry does not answer"
    registry.down = False
    found: list[Any] = ingest.items(ingest.unread)
    assert [item.event.transaction_id for item in found] == ["T000002", "T000003"]
    assert ingest.unread == []
    assert ingest.offsets == {"t": {0: 4}}


def test_a_message_without_a_value_is_a_dead_letter(ingest: LiveIngest) -> None:
    (item,) = ingest.items([Record(0, START_MS, None)])
    assert item.kind == DEAD_LETTER


def test_a_trace_is_read_only_where_it_is_one() -> None:
    trace = b"0af7651916cd43dd8448eb211c80319c"
    assert trace_id([("traceparent", b"00-" + trace + b"-b7ad6b7169203331-01")]) == trace.decode()
    assert trace_id([("traceparent", b"00-" + trace)]) is None
    assert trace_id([]) is None
