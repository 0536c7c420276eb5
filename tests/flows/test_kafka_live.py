from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.flows.live import Live, stop, wait_until
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
    lines = (events / "transactions.jsonl").read_bytes().splitlines()
    running = live.start()
    wait_until(running, lambda: len(live.decisions()) + len(live.dead_letters()) >= len(lines))
    stop(running)
    replayed = Replay(profile, events, tmp_path / "replay")
    assert ended(replayed.start())[0] == 0
    wanted = decisions_of(replayed.out)
    found = live.decisions()
    assert len(found) == len(wanted)
    by_place = {decision["source"]["offset"]: decision for decision in found if not decision["duplicate"]}
    for decision in wanted:
        if not decision["duplicate"]:
            assert _content(by_place[decision["source"]["offset"]]) == _content(decision)
    assert len(live.dead_letters()) == len((replayed.out / "dead_letters.jsonl").read_bytes().splitlines())
