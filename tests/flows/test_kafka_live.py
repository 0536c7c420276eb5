from __future__ import annotations

import time
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import Producer

from tests.flows.live import Live, account_of, stop, wait_until
from tests.flows.running import Replay, ended
from tests.flows.traffic import decisions as decisions_of
from tests.flows.traffic import write_events, write_profile

OTHERWISE = ("decided_at", "ingested_at", "source", "trace_id")
"""What a live decision and a replayed one tell differently: when and where the payment came in."""


def _content(decision: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in decision.items() if name not in OTHERWISE}


def test_a_live_run_decides_as_a_replay_of_the_same_events_in_their_order_of_arrival(
    kafka: str, tmp_path: Path
) -> None:
    profile = write_profile(tmp_path / "profile")
    events = write_events(tmp_path / "events", payments=600)
    for name in ("outcomes", "device_events", "identity_events"):
        (events / f"{name}.jsonl").unlink()
    for name in ("device_events", "identity_events"):
        (events / f"{name}.jsonl").write_bytes(b"")
    live = Live(kafka, tmp_path, profile)
    live.feed(events)
    _decided_alike(live, events, tmp_path)


def test_several_topics_are_decided_as_a_replay_of_their_events_in_their_order_of_arrival(
    kafka: str, tmp_path: Path
) -> None:
    profile = write_profile(tmp_path / "profile")
    events = write_events(tmp_path / "events", payments=150)
    (events / "outcomes.jsonl").unlink()
    arrivals: list[tuple[str, int, str, bytes]] = []
    for rank, name in enumerate(("identity_events", "device_events", "transactions")):
        lines = sorted(_whole(events / f"{name}.jsonl"))
        (events / f"{name}.jsonl").write_bytes(b"".join(line + b"\n" for _, line in lines))
        arrivals += [(at, rank, name, line) for at, line in lines]
    arrivals.sort()  # as a replay merges them: by event time, payments last
    live = Live(kafka, tmp_path, profile)
    producer = Producer({"bootstrap.servers": kafka, "linger.ms": 0})
    for name, run in groupby(arrivals, lambda arrival: arrival[2]):
        for _, _, _, line in run:
            producer.produce(live.topics[name], line, account_of(line))
        assert not producer.flush(30)
        time.sleep(0.003)  # the broker's clock tells topics apart by milliseconds
    found = _decided_alike(live, events, tmp_path)
    assert any(decision["features"]["device.login_failed_count_1h"] for decision in found)


def _whole(path: Path) -> list[tuple[str, bytes]]:
    """(event time, line) of what is a record at all."""
    found = []
    for line in path.read_bytes().splitlines():
        with suppress(ValueError):
            record = orjson.loads(line)
            if isinstance(record, dict) and "event_time" in record:
                found.append((record["event_time"], line))
    return found


def _decided_alike(live: Live, events: Path, directory: Path) -> list[dict[str, Any]]:
    """Run both, compare decision by decision; returns the live ones."""
    lines = (events / "transactions.jsonl").read_bytes().splitlines()
    running = live.start()
    wait_until(running, lambda: len(live.decisions()) + len(live.dead_letters()) >= len(lines))
    stop(running)
    replayed = Replay(Path(live.told["profile"]), events, directory / "replay")
    assert ended(replayed.start())[0] == 0
    wanted = decisions_of(replayed.out)
    found = live.decisions()
    assert len(found) == len(wanted)
    by_place = {decision["source"]["offset"]: decision for decision in found if not decision["duplicate"]}
    for decision in wanted:
        if not decision["duplicate"]:
            assert _content(by_place[decision["source"]["offset"]]) == _content(decision)
    assert len(live.dead_letters()) == len((replayed.out / "dead_letters.jsonl").read_bytes().splitlines())
    return found
