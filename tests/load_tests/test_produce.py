"""The producer of recorded events: order of arrival, keys, steady rate, and the truth about what was delivered."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from flows.config import load_config
from load_tests.produce import Sender, merged, moved, paced
from schemas.errors import StreamError
from tests.flows.test_config import written
from tests.flows.traffic import write_events, write_profile


def test_events_come_in_order_of_arrival_from_all_streams_and_broken_lines_are_left_out(tmp_path: Path) -> None:
    events = write_events(tmp_path, payments=200)
    found = list(merged(events, ["transactions", "device_events", "outcomes"]))
    assert [at for at, _, _ in found] == sorted(at for at, _, _ in found)
    assert {stream for _, stream, _ in found} == {"transactions", "device_events", "outcomes"}
    ids = [record["transaction_id"] for _, stream, record in found if stream == "transactions"]
    assert list(dict.fromkeys(ids)) == [f"T{number:06d}" for number in range(200)]


def test_a_late_send_does_not_move_what_is_due_behind_it() -> None:
    now = [10.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(round(seconds, 6))
        now[0] += seconds

    wait = paced(10, lambda: now[0], sleep)
    wait()
    wait()
    now[0] += 0.25
    for _ in range(4):
        wait()
    assert slept == [0.1, 0.05, 0.1]


def test_event_times_move_together() -> None:
    record = {"event_time": "2026-03-01T00:00:00.000001Z", "x": 1}
    assert moved(record, timedelta(days=1, microseconds=-1)) == {"event_time": "2026-03-02T00:00:00.000000Z", "x": 1}


def test_what_a_broker_acknowledges_counts_and_what_it_does_not_is_told(tmp_path: Path) -> None:
    write_profile(tmp_path / "p")
    config = load_config(written(tmp_path))
    # librdkafka's own mock broker, inside the client.
    sender = Sender(config, {"test.mock.num.brokers": 1})
    for number in range(20):
        sender.send("transactions", {"account_id": f"a{number}", "event_time": "2026-03-01T00:00:00Z"})
    sender.finish()
    assert (sender.delivered, sender.failed) == (20, 0)
    unheard = Sender(config, {"bootstrap.servers": "127.0.0.1:1", "message.timeout.ms": 200, "log_level": 0})
    unheard.send("transactions", {"account_id": "a"})
    with pytest.raises(StreamError, match="1 records were not delivered; is the broker up"):
        unheard.finish()


def test_avro_is_refused_by_name(tmp_path: Path) -> None:
    write_profile(tmp_path / "p")
    words = [sys.executable, "-m", "load_tests.produce", "--events", str(tmp_path), "--config", str(written(tmp_path))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "wire.format is 'avro'; this program sends json only" in done.stderr
