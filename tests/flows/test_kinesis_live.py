"""Live flows over streams of Kinesis: round trips, kills, reshards, several processes, and Kafka on one side."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from load_tests.kinesis_local import KinesisLocal, merge, split
from tests.flows.kinesis_node import KinesisFeed, KinesisLive, all_decided, check_order, kinesis, small_profile
from tests.flows.live import account_of, check_published, kill, stop, value_of, wait_until
from tests.flows.running import Replay, ended
from tests.flows.test_kafka_live import _content
from tests.flows.traffic import decisions as decisions_of
from tests.flows.traffic import payment, write_events, write_profile
from tests.kafka import make_topic, read_all, send

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
        feed.most += 40
        split(live.client, payments)
        time.sleep(rng.uniform(0.0, 1.5))
        kill(running)
        split(live.client, decisions)
        merge(live.client, payments, 1)
        running = live.start(processes)
        before = len(live.decisions())
        feed.most += 20
        wait_until(running, lambda: len(live.decisions()) > before)
        feed.most += 40
        merge(live.client, decisions)
        split(live.client, payments, 1)
        time.sleep(rng.uniform(0.0, 1.5))
        kill(running)
        feed.end()
    running = live.start(processes)
    wait_until(running, lambda: all_decided(live, feed.sent))
    stop(running)
    check_published(live, feed.sent)
    if processes == 1:  # in a cluster payments of an account may overtake each other between steps of other keys
        check_order(live.decisions(), feed.order)


def test_payments_from_kinesis_are_decided_once_to_kafka_and_the_other_way_round(
    kinesis: KinesisLocal, kafka: str, tmp_path: Path
) -> None:
    profile = small_profile(tmp_path / "profile")
    lines = [orjson.dumps(payment(random.Random(number), number, datetime.now(UTC))) for number in range(30)]
    lines[7] = b"not json"
    sent = {f"T{number:06d}" for number in range(30)} - {"T000007"}

    def topic_of(name: str) -> str:
        return make_topic(kafka, name)

    to_kafka = KinesisLive(kinesis, tmp_path / "a", profile, inputs=("transactions",))
    topics = {name: topic_of(name) for name in ("decisions", "dead_letters")}
    to_kafka.told["outputs"] = {name: f"kafka://{kafka}/{topic}" for name, topic in topics.items()}
    to_kinesis = KinesisLive(kinesis, tmp_path / "b", profile, inputs=("transactions",))
    payments = topic_of("transactions")
    to_kinesis.told["inputs"] = {"transactions": f"kafka://{kafka}/{payments}"}

    def in_kafka(name: str) -> list[dict[str, Any]]:
        return [value_of(message) for message in read_all(kafka, topics[name])]

    to_kafka.put("transactions", lines[:15])
    send(kafka, payments, [(account_of(line), line) for line in lines[:15]])
    running = to_kafka.start() + to_kinesis.start()
    wait_until(running, lambda: in_kafka("decisions") and to_kinesis.decisions())
    to_kafka.put("transactions", lines[15:])
    send(kafka, payments, [(account_of(line), line) for line in lines[15:]])
    kill(running)
    running = to_kafka.start() + to_kinesis.start()
    wait_until(running, lambda: len(in_kafka("decisions")) >= 29 and len(to_kinesis.decisions()) >= 29)
    stop(running)
    for decisions, dead in (
        (in_kafka("decisions"), in_kafka("dead_letters")),
        (to_kinesis.decisions(), to_kinesis.dead_letters()),
    ):
        assert sorted(one["transaction_id"] for one in decisions) == sorted(sent)
        assert [one["reason"] for one in dead] == ["NOT_JSON"]
    assert {one["source"]["offset"] for one in in_kafka("decisions")} == {-1}
    assert {one["source"]["offset"] for one in to_kinesis.decisions()} == set(range(30)) - {7}
    assert not any("sequence" in one["source"] for one in to_kinesis.decisions())
