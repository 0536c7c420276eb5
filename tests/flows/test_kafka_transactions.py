"""Decisions in transactions, as consumers of committed records see them; over a real broker."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from flows.kafka_transactions import TIMEOUT_PROPERTY, fence_gone
from flows.live_options import LiveOptions
from flows.source import Run
from schemas.errors import StreamError
from tests.flows.live import Feed, Live, caught_up, check_published, kill, stop, wait_until
from tests.flows.running import ended
from tests.flows.traffic import payment, write_profile
from tests.kafka import own_broker, read_all, send

NEVER_S = 1_000.0


@pytest.fixture
def live(kafka: str, tmp_path: Path) -> Live:
    # Ids are of a broker, not of a topic: each test has its own.
    group = f"weir-{tmp_path.name}"
    profile = write_profile(tmp_path / "profile")
    return Live(kafka, tmp_path, profile, partitions=2, transactional=True, group=group)


def _send(live: Live, first: int, count: int) -> dict[str, int]:
    """Payments that did not come before; transaction_id -> how often."""
    now = datetime.now(UTC)
    records = [payment(random.Random(number), number, now) for number in range(first, first + count)]
    send(
        live.bootstrap,
        live.topics["transactions"],
        [(one["account_id"].encode(), orjson.dumps(one)) for one in records],
    )
    return {one["transaction_id"]: 1 for one in records}


def _uncommitted(live: Live) -> int:
    return len(read_all(live.bootstrap, live.topics["decisions"], "read_uncommitted"))


def test_a_cluster_killed_under_load_shows_readers_of_committed_records_each_decision_once(live: Live) -> None:
    rng = random.Random(3)
    with Feed(live) as feed:
        running = live.start(2)
        wait_until(running, live.decisions)
        time.sleep(rng.uniform(0.0, 2.0))
        kill(running)
        feed.end()
        running = live.start()
        wait_until(running, caught_up(live, live.told["group"]))
        stop(running)
    check_published(live, feed.sent)


def test_what_a_killed_process_left_open_is_never_seen_and_decided_anew(live: Live) -> None:
    sent = _send(live, 0, 20)
    running = live.start(2, epoch_s=NEVER_S, transaction_s=NEVER_S)
    wait_until(running, lambda: _uncommitted(live) >= len(sent))
    assert live.decisions() == []
    kill(running)
    # In the default mode, and with a process less: the ids of both must be fenced all the same, or what they left open
    # hides what is published behind it.
    running = live.start(transactional=False)
    wait_until(running, lambda: len(live.decisions()) >= len(sent))
    wait_until(running, caught_up(live, live.told["group"]))
    stop(running)
    check_published(live, sent)
    assert _uncommitted(live) >= 2 * len(sent)


def test_a_transaction_is_committed_behind_its_time_though_the_epoch_goes_on(live: Live) -> None:
    sent = _send(live, 0, 1)
    running = live.start(epoch_s=NEVER_S, transaction_s=0.005)
    wait_until(running, lambda: _uncommitted(live) >= 1)
    time.sleep(0.1)
    sent |= _send(live, 1, 20)
    wait_until(running, lambda: len(live.decisions()) >= 2)
    kill(running)  # no snapshot knows what was committed: it is read back
    running = live.start()
    wait_until(running, caught_up(live, live.told["group"]))
    stop(running)
    check_published(live, sent)


def test_a_stopped_process_whose_state_was_taken_elsewhere_publishes_nothing_when_it_wakes(live: Live) -> None:
    sent = _send(live, 0, 20)
    (zombie,) = live.start()
    wait_until([zombie], lambda: len(live.decisions()) >= len(sent))
    os.kill(zombie.pid, signal.SIGSTOP)
    copy = live.directory / "copy"
    shutil.copytree(live.told["state"], copy, ignore=shutil.ignore_patterns("*.sock"))
    running = live.start(state=str(copy))
    sent |= _send(live, 20, 20)
    wait_until(running, lambda: len(live.decisions()) >= len(sent))
    os.kill(zombie.pid, signal.SIGCONT)  # it finds new payments too
    code, _, errors = ended(zombie)
    assert code == 2, errors  # a supervisor does not start it again
    assert f"transactional.id '{live.told['group']}-00': another process has begun under it" in errors
    sent |= _send(live, 40, 20)
    wait_until(running, lambda: len(live.decisions()) >= len(sent))
    stop(running)
    check_published(live, sent)


def test_a_broker_that_goes_in_the_midst_of_transactions_changes_nothing(tmp_path: Path) -> None:
    broker = own_broker(tmp_path / "kafka")
    try:
        profile = write_profile(tmp_path / "profile")
        live = Live(broker.bootstrap, tmp_path, profile, partitions=2, transactional=True)
        live.told["kafka"] = {"queue.buffering.max.messages": 20}  # full at once: the flow must wait, and lose nothing
        with Feed(live) as feed:
            running = live.start()
            wait_until(running, live.decisions)
            broker.kill()
            time.sleep(2.0)
            broker.start()
            before = len(live.decisions())
            wait_until(running, lambda: len(live.decisions()) > before + 100)
            feed.end()
        wait_until(running, caught_up(live))
        stop(running)
        check_published(live, feed.sent)
    finally:
        broker.kill()


def test_a_timeout_that_the_broker_does_not_allow_is_told(kafka: str, tmp_path: Path) -> None:
    options = LiveOptions(tmp_path, {}, {}, kafka={TIMEOUT_PROPERTY: 2_000_000})
    manifest = {"transactional_ids": [f"weir-{tmp_path.name}-07"]}
    with pytest.raises(StreamError, match=r"INVALID_TRANSACTION_TIMEOUT.*transaction\.max\.timeout\.ms is smaller"):
        fence_gone(options, manifest, kafka, Run())
