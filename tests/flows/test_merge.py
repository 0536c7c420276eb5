"""Files become one sequence in event-time order with ticks, and any point of it can be resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import fastavro
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.files import EventFile, JsonLines, Record, find_events
from flows.merge import Merge, MergeState
from operators.inflight import DEAD_LETTER, DEVICE_EVENT, IDENTITY_EVENT, OUTCOME, PAYMENT, TICK, InFlight
from schemas.errors import ConfigError, ContractError, StreamError
from schemas.events import DeviceEvent, IdentityEvent, Outcome, Tick, Transaction
from schemas.validate import from_mapping

HOUR = 3_600
KINDS = {
    "transactions": PAYMENT,
    "device_events": DEVICE_EVENT,
    "identity_events": IDENTITY_EVENT,
    "outcomes": OUTCOME,
}


class _Times:
    """A file that holds nothing but event times."""

    def __init__(self, times: list[int | None]) -> None:
        self.path = Path("times")
        self.size = len(times)
        self._times = times

    def read_from(self, position: int, number: int) -> Iterator[Record]:
        for place in range(position, len(self._times)):
            yield {"at": self._times[place]}, number + place - position, place + 1


def _event(stream: str, at_us: int) -> Any:
    if stream == "transactions":
        return Transaction(
            transaction_id="t", event_time_us=at_us, account_id="a", channel="atm", amount_minor=1, currency="EUR"
        )
    if stream == "device_events":
        return DeviceEvent(event_id="e", event_time_us=at_us, device_id="d", kind="seen")
    if stream == "identity_events":
        return IdentityEvent(event_id="e", event_time_us=at_us, account_id="a", kind="opened")
    return Outcome(outcome_id="o", event_time_us=at_us, transaction_id="t", label="fraud", source="customer")


def _ingest(stream: str) -> Any:
    def make(payload: dict[str, Any], origin: tuple[str, int, int]) -> InFlight:
        at_us = payload["at"]
        if at_us is None:
            return InFlight(DEAD_LETTER, (), None, origin, 0, [], [])
        return InFlight(KINDS[stream], (), _event(stream, at_us), origin, 0, [], [])

    return make


def _merge(times: dict[str, list[int | None]], state: MergeState | None = None) -> Merge:
    files: dict[str, EventFile] = {stream: _Times(given) for stream, given in times.items()}
    return Merge(files, _ingest, HOUR, state)


def _told(item: InFlight) -> tuple[str, int | None, int, int]:
    """What a delivered event is, when it happened, the clock it was given, its place."""
    event: Any = item.event
    return item.origin[0], None if event is None else event.event_time_us, item.ingested_at_us, item.order[0]


def _all(merge: Merge) -> list[tuple[str, int | None, int, int]]:
    return [_told(item) for item in merge]


def test_streams_are_merged_by_time_and_ties_by_stream() -> None:
    told = _all(
        _merge(
            {
                "transactions": [100, 200, 200],
                "device_events": [50, 200],
                "identity_events": [200],
            }
        )
    )
    assert [(name, at) for name, at, _, _ in told] == [
        ("device_events", 50),
        ("transactions", 100),
        ("identity_events", 200),
        ("device_events", 200),
        ("transactions", 200),
        ("transactions", 200),
        ("ticks", HOUR),
    ]
    assert [order for *_, order in told] == list(range(7))


def test_an_outcome_counts_at_the_next_tick_and_no_payment_passes_a_tick_before_it() -> None:
    told = _all(_merge({"transactions": [100, 3500, 3600, 9000], "outcomes": [200, 3600, 5000]}))
    assert [(name, at) for name, at, _, _ in told] == [
        ("transactions", 100),
        ("transactions", 3500),
        ("outcomes", 200),
        ("outcomes", 3600),
        ("ticks", 3600),
        ("transactions", 3600),
        ("outcomes", 5000),
        ("ticks", 7200),
        ("transactions", 9000),
        ("ticks", 10800),
    ]


def test_a_gap_without_events_is_one_tick() -> None:
    told = _all(_merge({"transactions": [100, 100 * HOUR + 5]}))
    assert [at for name, at, _, _ in told if name == "ticks"] == [100 * HOUR, 101 * HOUR]


def test_a_late_event_stands_where_it_arrived() -> None:
    told = _all(_merge({"transactions": [1000, 2000, 100, 3000], "device_events": [1500, 2500]}))
    assert [(name, at, clock) for name, at, clock, _ in told if name != "ticks"] == [
        ("transactions", 1000, 1000),
        ("device_events", 1500, 1500),
        ("transactions", 2000, 2000),
        ("transactions", 100, 2000),
        ("device_events", 2500, 2500),
        ("transactions", 3000, 3000),
    ]


@pytest.mark.parametrize("wild", [[10**9], [10**9, 10**9]])
def test_events_dated_far_ahead_do_not_drag_the_clock_along(wild: list[int]) -> None:
    times: list[int | None] = [100, *wild, 200, 300, 400, 500]
    told = _all(_merge({"transactions": times, "device_events": [250, 450]}))
    assert max(clock for _, _, clock, _ in told) <= HOUR
    names = [name for name, *_ in told]
    assert names.index("device_events") > names.index("transactions") + len(wild)


def test_a_record_that_cannot_be_read_keeps_its_place() -> None:
    told = _all(_merge({"transactions": [None, 100, None, 200]}))
    assert [(at, order) for name, at, _, order in told if name != "ticks"] == [(None, 0), (100, 1), (None, 2), (200, 3)]


_times = st.lists(st.one_of(st.none(), st.integers(0, 20 * HOUR)), max_size=25)


@settings(max_examples=150, deadline=None)
@given(
    transactions=_times,
    devices=_times,
    identities=_times,
    outcomes=_times,
    stops=st.lists(st.integers(0, 60), max_size=4),
)
def test_resuming_anywhere_delivers_what_an_uninterrupted_merge_does(
    transactions: list[int | None],
    devices: list[int | None],
    identities: list[int | None],
    outcomes: list[int | None],
    stops: list[int],
) -> None:
    times = {
        "transactions": transactions,
        "device_events": devices,
        "identity_events": identities,
        "outcomes": outcomes,
    }
    whole = _all(_merge(times))
    assert len([one for one in whole if one[0] != "ticks"]) == sum(map(len, times.values()))
    merge, told = _merge(times), []
    for stop in stops:
        told += [_told(item) for item in islice(merge, stop)]
        merge = _merge(times, json.loads(json.dumps(merge.state())))
    assert told + _all(merge) == whole


def _rows() -> list[dict[str, Any]]:
    return [{"event_id": f"e{n}", "n": n} for n in range(10_000)]


@pytest.mark.parametrize("suffix", ["jsonl", "avro", "parquet"])
@pytest.mark.parametrize("at", [0, 1, 4095, 4096, 9_999, 10_000])
def test_a_file_of_any_sort_is_read_on_from_any_position(tmp_path: Path, suffix: str, at: int) -> None:
    path = tmp_path / f"device_events.{suffix}"
    rows = _rows()
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == "avro":
        schema = {
            "type": "record",
            "name": "r",
            "fields": [{"name": "event_id", "type": "string"}, {"name": "n", "type": "int"}],
        }
        with path.open("wb") as out:
            fastavro.writer(out, schema, rows)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=3000)
    source = find_events(tmp_path, "device_events")
    assert source is not None
    read = list(islice(source.read_from(0, 0), at))
    position = read[-1][2] if read else 0
    rest = [
        (json.loads(payload) if isinstance(payload, bytes) else payload, number)
        for payload, number, _ in source.read_from(position, at)
    ]
    assert rest == [(row, row["n"]) for row in rows[at:]]


def test_a_last_line_without_end_counts_and_empty_lines_do_not(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a":1}\r\n\n{"a":2}')
    assert list(JsonLines(path).read_from(0, 0)) == [(b'{"a":1}', 0, 9), (b'{"a":2}', 1, 17)]


def test_two_files_of_one_stream_are_refused(tmp_path: Path) -> None:
    (tmp_path / "outcomes.jsonl").touch()
    (tmp_path / "outcomes.avro").touch()
    with pytest.raises(ConfigError, match=r"expected one file of outcomes, found outcomes\.jsonl, outcomes\.avro"):
        find_events(tmp_path, "outcomes")


@pytest.mark.parametrize("suffix", ["avro", "parquet"])
def test_a_file_of_another_sort_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"outcomes.{suffix}").write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match=f"outcomes.{suffix}: expected a"):
        find_events(tmp_path, "outcomes")


def test_a_file_cut_short_is_said(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.avro"
    schema = {"type": "record", "name": "r", "fields": [{"name": "n", "type": "int"}]}
    with path.open("wb") as out:
        fastavro.writer(out, schema, [{"n": n} for n in range(50_000)], sync_interval=1000)
    source = find_events(tmp_path, "outcomes")
    assert source is not None
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(StreamError, match=r"outcomes\.avro: record \d+ cannot be read as Avro"):
        list(source.read_from(0, 0))


@pytest.mark.parametrize("unit", ["micros", "millis"])
def test_a_time_outside_the_calendar_is_for_validation_to_refuse(tmp_path: Path, unit: str) -> None:
    times = ["null", {"type": "long", "logicalType": f"timestamp-{unit}"}]
    schema = {"type": "record", "name": "r", "fields": [{"name": "event_time", "type": times, "default": None}]}
    scale = 1_000_000 if unit == "micros" else 1_000
    written = [1_700_000_000 * scale, 300_000_000_000 * scale, None, 1_700_000_001 * scale]
    with (tmp_path / "outcomes.avro").open("wb") as out:
        writer = fastavro.write.Writer(out, schema)
        for one in written:
            writer.write({"event_time": one})  # an int is written as it is
        writer.flush()
    source = find_events(tmp_path, "outcomes")
    assert source is not None
    read = [payload["event_time"] for payload, _, _ in source.read_from(0, 0) if isinstance(payload, dict)]
    assert read == [1_700_000_000_000_000, 300_000_000_000_000_000, None, 1_700_000_001_000_000]
    with pytest.raises(ContractError, match="in the future"):
        from_mapping("outcome", {"outcome_id": "o", "event_time": read[1]}, now_us=1_800_000_000_000_000)


def test_ticks_carry_their_boundary() -> None:
    tick = list(_merge({"transactions": [5]}))[-1]
    assert tick.kind == TICK
    assert tick.event == Tick(event_time_us=HOUR)


def test_a_value_that_python_cannot_hold_does_not_end_the_file(tmp_path: Path) -> None:
    times = pyarrow.array([0, 2**61, 5], pyarrow.timestamp("us"))
    table = pyarrow.table({"event_time": times, "outcome_id": ["a", "b", "c"]})
    pyarrow.parquet.write_table(table, tmp_path / "outcomes.parquet")
    source = find_events(tmp_path, "outcomes")
    assert source is not None
    rows = [payload for payload, _, _ in source.read_from(0, 0)]
    assert [row["outcome_id"] for row in rows if isinstance(row, dict)] == ["a", "b", "c"]
    assert isinstance(rows[1], dict)
    assert rows[1]["event_time"] == "unreadable timestamp[us]"


def test_an_avro_file_cut_short_before_the_start_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.avro"
    with path.open("wb") as out:
        fastavro.writer(
            out, {"type": "record", "name": "r", "fields": [{"name": "n", "type": "int"}]}, [{"n": 1}] * 9_000
        )
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ConfigError, match=r"outcomes\.avro: expected a whole Avro file"):
        find_events(tmp_path, "outcomes")
