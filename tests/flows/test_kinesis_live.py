"""Live flows over streams of Kinesis: round trips, kills, reshards, several processes, and Kafka on one side."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from load_tests.kinesis_local import KinesisLocal, merge, split
from tests.flows.kinesis_node import KinesisFeed, KinesisLive, all_decided, check_order, kinesis, small_profile
from tests.flows.live import check_published, kill, stop, wait_until
from tests.flows.running import Replay, ended
from tests.flows.test_kafka_live import _content
from tests.flows.traffic import decisions as decisions_of
from tests.flows.traffic import write_events, write_profile

__all__ = ["kinesis"]


def test_a_live_run_over_kinesis_decides_as_a_replay_of_the_same_events(kinesis: KinesisLocal, tmp_path: Path) -> None:
    profile = write_profile(tmp_path / "profile")
    events = write_events(tmp_path / "events", payments=150)
    for name in ("outcomes", "device_events", "identity_events"):
        (events / f"{name}.jsonl").unlink()
    for name in ("device_events", "identity_events"):
        (events / f"{name}.jsonl").write_bytes(b"")
    live = KinesisLive(kinesis, tmp_path, profile)
    live.feed(events)
    lines = (events / "transactions.jsonl").read_bytes().splitlines()
    running = live.start()
    wait_until(running, lambda: len(live.decisions()) + len(live.dead_letters()) >= len(lines))
    stop(running)
    replayed = Replay(profile, events, tmp_path / "replay")
    assert ended(replayed.start())[0] == 0
    wanted = {one["decision_id"]: one for one in decisions_of(replayed.out) if not one["duplicate"]}
    found = [one for one in live.decisions() if not one["duplicate"]]
    assert len(found) == len(wanted)
    for decision in found:
        assert _content(decision) == _content(wanted[decision["decision_id"]])
        source = decision["source"]
        assert source["topic"] == f"kinesis:{live.topics['transactions']}"
        assert (source["partition"], source["offset"]) == (0, -1)
        assert len(source["sequence"]) == 56
    dead = live.dead_letters()
    assert len(dead) == len((replayed.out / "dead_letters.jsonl").read_bytes().splitlines())
    assert all(letter["offset"] == -1 and letter["sequence"].isdecimal() for letter in dead)


@pytest.mark.parametrize("processes", [1, 2])
def test_kills_while_shards_are_split_and_merged_lose_nothing_and_keep_each_accounts_order(
    kinesis: KinesisLocal, tmp_path: Path, processes: int
) -> None:
    live = KinesisLive(kinesis, tmp_path, small_profile(tmp_path / "profile"), shards=2, inputs=("transactions",))
    payments, decisions = live.topics["transactions"], live.topics["decisions"]
    rng = random.Random(processes)
    with KinesisFeed(live, seed=processes) as feed:
        running = live.start(processes)
        wait_until(running, live.decisions)
        split(live.client, payments)
        time.sleep(rng.uniform(0.0, 1.5))
        kill(running)
        split(live.client, decisions)
        merge(live.client, payments, 1)
        running = live.start(processes)
        before = len(live.decisions())
        wait_until(running, lambda: len(live.decisions()) > before)
        merge(live.client, decisions)
        split(live.client, payments, 1)
        time.sleep(rng.uniform(0.0, 1.5))
        kill(running)
        feed.end()
    running = live.start(processes)
    wait_until(running, lambda: all_decided(live, feed.sent))
    stop(running)
    check_published(live, feed.sent)
    check_order(live.decisions(), feed.order)
