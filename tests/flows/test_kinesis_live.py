"""Live flows over streams of Kinesis: round trips, kills, reshards, several processes, and Kafka on one side."""

from __future__ import annotations

import random
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from flows.recovery import read_recovery, recovery_file
from load_tests.kinesis_local import KinesisLocal, merge, split
from tests.flows.kinesis_node import KinesisFeed, KinesisLive, all_decided, check_order, kinesis, small_profile
from tests.flows.kinesis_proxy import proxied
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


def test_three_processes_share_eight_shards_each_read_by_one_in_order_and_every_payment_decided_once(
    kinesis: KinesisLocal, tmp_path: Path
) -> None:
    profile = small_profile(tmp_path / "profile")
    live = KinesisLive(kinesis, tmp_path, profile, shards=8, inputs=("transactions",), output_shards=1)
    # The stand-in takes 20 ms for a read of nothing, and this machine's cores are needed for starting.
    live.told["inputs"] = {name: url.replace("poll_ms=250", "poll_ms=600") for name, url in live.told["inputs"].items()}
    with KinesisFeed(live, seed=3, accounts=40) as feed:
        running = live.start(3)
        wait_until(running, lambda: live.decisions() and sum(feed.sent.values()) >= feed.most)
        feed.end()
    wait_until(running, lambda: all_decided(live, feed.sent))
    # One more of each account: its count tells that all of the account's was counted, and counted once.
    rng = random.Random(3)
    last = [payment(rng, 9_000_000 + number, datetime.now(UTC)) for number in range(40)]
    for number, record in enumerate(last):
        feed.sent[record["transaction_id"]] = 1
        record |= {"account_id": f"A{number}", "payment_type": "purchase"}
    live.put("transactions", [orjson.dumps(record) for record in last])
    wait_until(running, lambda: all_decided(live, feed.sent))
    stop(running)
    check_published(live, feed.sent)
    first = {one["transaction_id"]: one for one in live.decisions() if not one["duplicate"]}
    for record in last:
        before = feed.order.setdefault(record["account_id"], [])
        assert first[record["transaction_id"]]["features"]["account.count_24h"] == len(before) + 1
        before.append(record["transaction_id"])
    shares = {}
    for name, state in read_recovery(recovery_file(tmp_path / "state")).sources.items():
        places = state["offsets"][f"kinesis:{live.topics['transactions']}"]
        shares[name] = {number for number, place in places.items() if number >= 0 and place > 0}
    assert shares == {"inputs-00": {0, 3, 6}, "inputs-01": {1, 4, 7}, "inputs-02": {2, 5}}
    _check_shards(list(first.values()), feed.order)


def _check_shards(decisions: list[dict[str, Any]], order: dict[str, list[str]]) -> None:
    """An account has one shard, whose records entered the flow as they stand there.

    A payment's `ingested_at` is its process's clock when it was read, which goes by the records and never back.
    """
    by_shard: dict[int, list[dict[str, Any]]] = {}
    for one in sorted(decisions, key=lambda one: int(one["source"]["sequence"])):
        by_shard.setdefault(one["source"]["partition"], []).append(one)
    assert by_shard.keys() == set(range(8))
    found: dict[str, list[str]] = {}
    for held in by_shard.values():
        arrivals = [one["ingested_at"] for one in held]
        assert arrivals == sorted(arrivals)
        for account in {one["account_id"] for one in held}:
            assert account not in found
            found[account] = [one["transaction_id"] for one in held if one["account_id"] == account]
    assert found == order


def test_an_outage_longer_than_the_watchdogs_patience_is_waited_out_by_all_processes(
    kinesis: KinesisLocal, tmp_path: Path
) -> None:
    profile = small_profile(tmp_path / "profile")
    with proxied(kinesis.endpoint) as inputs, proxied(kinesis.endpoint) as outputs:
        live = KinesisLive(kinesis, tmp_path, profile, inputs=("transactions",), no_progress_after_s=_PATIENCE_S)
        for side, proxy in (("inputs", inputs), ("outputs", outputs)):
            live.told[side] = {
                name: url.replace(kinesis.endpoint, proxy.endpoint) for name, url in live.told[side].items()
            }
        sent: dict[str, int] = {}

        def put(count: int) -> None:
            for _ in range(count):
                made = payment(random.Random(len(sent)), len(sent), datetime.now(UTC))
                sent[made["transaction_id"]] = 1
                live.put("transactions", [orjson.dumps(made)])

        running = live.start(2)
        put(10)
        wait_until(running, lambda: all_decided(live, sent))
        # One decision is under way, in one process; the other waits for it inside the engine and has nothing to do.
        outputs.down.set()
        put(1)
        _outlast(running)
        outputs.down.clear()
        wait_until(running, lambda: all_decided(live, sent))
        inputs.down.set()
        outputs.down.set()
        put(10)
        _outlast(running)
        inputs.down.clear()
        outputs.down.clear()
        wait_until(running, lambda: all_decided(live, sent))
        for process in running:
            process.terminate()
        told = [ended(process) for process in running]
    assert [code for code, _, _ in told] == [0, 0], told
    check_published(live, sent)
    for _, _, errors in told:
        lines = errors.splitlines()
        for side in ("inputs", "outputs"):
            said = [line for line in lines if line.startswith(f"weir: {side} kinesis:")]
            down = sum("does not answer" in line for line in said)
            assert down == sum("answers again" in line for line in said), errors
            assert 1 <= down <= 2, errors  # once an outage: the next line would come a minute later


_PATIENCE_S = 6.0


def _outlast(running: list[subprocess.Popen[str]]) -> None:
    """Wait for longer than the watchdog does, with all processes alive."""
    until = time.monotonic() + 1.3 * _PATIENCE_S
    wait_until(running, lambda: time.monotonic() > until)


def test_payments_from_kinesis_are_decided_once_to_kafka_or_to_both_and_the_other_way_round(
    kinesis: KinesisLocal, kafka: str, tmp_path: Path
) -> None:
    profile = small_profile(tmp_path / "profile")
    lines = [orjson.dumps(payment(random.Random(number), number, datetime.now(UTC))) for number in range(30)]
    lines[7] = b"not json"
    sent = {f"T{number:06d}" for number in range(30)} - {"T000007"}

    def topic_of(name: str) -> str:
        return make_topic(kafka, name)

    to_kafka = KinesisLive(kinesis, tmp_path / "a", profile, inputs=("transactions",))
    decisions_topic = topic_of("decisions")
    to_kafka.told["outputs"]["decisions"] = f"kafka://{kafka}/{decisions_topic}"  # its dead letters stay on Kinesis
    to_kinesis = KinesisLive(kinesis, tmp_path / "b", profile, inputs=("transactions",))
    payments = topic_of("transactions")
    to_kinesis.told["inputs"] = {"transactions": f"kafka://{kafka}/{payments}"}

    def in_kafka() -> list[dict[str, Any]]:
        return [value_of(message) for message in read_all(kafka, decisions_topic)]

    to_kafka.put("transactions", lines[:15])
    send(kafka, payments, [(account_of(line), line) for line in lines[:15]])
    running = to_kafka.start() + to_kinesis.start()
    wait_until(running, lambda: in_kafka() and to_kinesis.decisions())
    to_kafka.put("transactions", lines[15:])
    send(kafka, payments, [(account_of(line), line) for line in lines[15:]])
    kill(running)
    running = to_kafka.start() + to_kinesis.start()
    wait_until(running, lambda: len(in_kafka()) >= 29 and len(to_kinesis.decisions()) >= 29)
    stop(running)
    for decisions, dead in (
        (in_kafka(), to_kafka.dead_letters()),
        (to_kinesis.decisions(), to_kinesis.dead_letters()),
    ):
        assert sorted(one["transaction_id"] for one in decisions) == sorted(sent)
        assert [one["reason"] for one in dead] == ["NOT_JSON"]
    assert {one["source"]["offset"] for one in in_kafka()} == {-1}
    assert {one["source"]["offset"] for one in to_kinesis.decisions()} == set(range(30)) - {7}
    assert not any("sequence" in one["source"] for one in to_kinesis.decisions())
