from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.flows.live import Feed, Live, all_answered, caught_up, check_published, kill, stop, wait_until
from tests.flows.traffic import write_profile
from tests.kafka import own_broker


@pytest.mark.parametrize("processes", [1, 2])
def test_kills_at_random_lose_nothing_publish_nothing_twice_and_contradict_nothing(
    kafka: str, tmp_path: Path, processes: int
) -> None:
    live = Live(kafka, tmp_path, write_profile(tmp_path / "profile"), partitions=3)
    rng = random.Random(processes)
    with Feed(live) as feed:
        for _ in range(4):
            running = live.start(processes)
            # Not a time that is asserted: moments from before the first record to well behind several commits.
            time.sleep(rng.uniform(1.0, 9.0))
            kill(running)
        feed.end()
        running = live.start(processes)
        wait_until(running, caught_up(live))
        stop(running)
        check_published(live, feed.sent)


def test_a_flow_killed_before_its_first_commit_decides_once(kafka: str, tmp_path: Path) -> None:
    live = Live(kafka, tmp_path, write_profile(tmp_path / "profile"), partitions=2, epoch_s=1_000)
    sent: dict[str, int] = {}
    for number in range(3):  # the second and the third read back what those before them have published
        running = live.start()
        with Feed(live, rate=200, seed=number) as feed:
            time.sleep(1.0)
        sent = {name: sent.get(name, 0) + feed.sent.get(name, 0) for name in sent | feed.sent}
        wait_until(running, all_answered(live, sent))
        kill(running)
    running = live.start(epoch_s=0.3)
    wait_until(running, caught_up(live))
    stop(running)
    check_published(live, sent)


def test_a_broker_that_goes_and_comes_back_under_load_changes_nothing(tmp_path: Path) -> None:
    broker = own_broker(tmp_path / "kafka")
    try:
        live = Live(broker.bootstrap, tmp_path, write_profile(tmp_path / "profile"), partitions=2)
        with Feed(live) as feed:
            running = live.start()
            time.sleep(6.0)
            broker.stop()
            time.sleep(3.0)
            broker.start()
            time.sleep(3.0)
            broker.kill()
            broker.start()
            time.sleep(2.0)
            feed.end()
        wait_until(running, caught_up(live))
        stop(running)
        check_published(live, feed.sent)
    finally:
        broker.kill()
