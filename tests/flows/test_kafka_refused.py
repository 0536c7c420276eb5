from __future__ import annotations

import os
import random
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from flows.live_options import LiveOptions
from flows.streams import kafka_stream, parse_stream
from schemas.errors import ConfigError
from tests.flows.live import Feed, Live, caught_up, check_published, kill, refused, stop, wait_until
from tests.flows.running import ended
from tests.flows.traffic import payment, write_profile
from tests.kafka import WAIT_S, make_topic, send


@pytest.fixture
def live(kafka: str, tmp_path: Path) -> Live:
    return Live(kafka, tmp_path, write_profile(tmp_path / "profile"))


def _line(number: int) -> bytes:
    return orjson.dumps(payment(random.Random(number), number, datetime.now(UTC)))


def _decide(live: Live, number: int) -> None:
    """Let the flow decide one payment, commit, and stop."""
    send(live.bootstrap, live.topics["transactions"], [(b"A", _line(number))])
    running = live.start()
    wait_until(running, live.decisions)
    wait_until(running, caught_up(live))
    stop(running)


def _forget(live: Live, stream: str) -> int:
    """Append records and have them deleted, as retention does in an outage; returns the log's first offset."""
    topic = live.topics[stream]
    send(live.bootstrap, topic, [(b"A", b"{}")] * 3)
    admin = AdminClient({"bootstrap.servers": live.bootstrap})
    for made in admin.delete_records([TopicPartition(topic, 0, -1)]).values():
        return int(made.result(WAIT_S).low_watermark)
    raise AssertionError


@pytest.mark.parametrize("stream", ["transactions", "decisions"])
def test_an_offset_that_retention_has_passed_refuses_the_start(live: Live, stream: str) -> None:
    _decide(live, 1)
    low = _forget(live, stream)
    code, message = refused(live.start()[0])
    assert code == 2
    side = "inputs" if stream == "transactions" else "outputs"
    assert f"{side} {live.topics[stream]}/0: the state wants offset 1, the log holds {low} to {low}" in message
    assert "docs/runbooks/stream-position.md" in message


def test_a_missing_topic_refuses_the_start(live: Live) -> None:
    live.told["outputs"]["decisions"] += "-gone"
    code, message = refused(live.start()[0])
    assert code == 2
    assert "outputs" in message
    assert "there is no such topic; make the topics" in message


def test_a_record_larger_than_its_topic_takes_ends_the_run_with_what_to_raise(live: Live) -> None:
    small = make_topic(live.bootstrap, "small", config={"max.message.bytes": "300"})
    live.told["outputs"]["decisions"] = f"kafka://{live.bootstrap}/{small}"
    send(live.bootstrap, live.topics["transactions"], [(b"A", _line(1))])
    code, message = refused(live.start()[0])
    assert code == 1
    assert f"outputs {small}: MSG_SIZE_TOO_LARGE" in message
    assert "raise the topic's max.message.bytes" in message


def test_a_folder_of_another_flow_is_refused(live: Live) -> None:
    _decide(live, 1)
    live.told["outputs"]["decisions"] = live.told["outputs"]["dead_letters"] + "x"
    code, message = refused(live.start()[0])
    assert code == 2
    assert "it belongs to another flow: outputs_of" in message


@pytest.mark.parametrize(("start", "wanted"), [("latest", {"T000002"}), ("time", {"T000001", "T000002"})])
def test_a_topic_is_begun_where_it_is_told_and_there_again_after_a_kill(
    live: Live, start: str, wanted: set[str]
) -> None:
    topic = live.topics["transactions"]
    send(live.bootstrap, topic, [(b"A", _line(0))])
    time.sleep(0.05)
    middle_us = time.time_ns() // 1_000
    time.sleep(0.05)
    send(live.bootstrap, topic, [(b"A", _line(1))])
    live.told["start"] = {"transactions": middle_us if start == "time" else start}
    running = live.start(epoch_s=1_000)
    manifest = Path(live.told["state"]) / "manifest.json"
    wait_until(running, manifest.exists)
    kill(running)  # before its first commit: what comes now must not be taken for the past
    send(live.bootstrap, topic, [(b"A", _line(2))])
    running = live.start()
    wait_until(running, lambda: len(live.decisions()) >= len(wanted))
    wait_until(running, caught_up(live))
    stop(running)
    assert {found["transaction_id"] for found in live.decisions()} == wanted


def test_while_a_stopped_process_lives_no_other_takes_its_place_and_nothing_is_published_twice(
    kafka: str, tmp_path: Path
) -> None:
    live = Live(kafka, tmp_path, write_profile(tmp_path / "profile"), partitions=3)
    with Feed(live, rate=100) as feed:
        first = live.start(2)
        wait_until(first, lambda: len(live.decisions()) > 100)
        zombie, peer = first[1], first[0]
        os.kill(zombie.pid, signal.SIGSTOP)
        kill([peer])
        second = live.start(2)
        told = [ended(process) for process in second]
        assert all(code != 0 for code, _, _ in told)
        assert any("another process" in errors for _, _, errors in told), told
        before = len(live.decisions())
        os.kill(zombie.pid, signal.SIGCONT)
        assert ended(zombie)[0] != 0  # it has lost its peer
        third = live.start(2)
        feed.end()
        wait_until(third, caught_up(live))
        stop(third)
    assert len(live.decisions()) > before
    check_published(live, feed.sent)


def test_urls_are_checked_without_showing_a_password() -> None:
    assert kafka_stream("x", "kafka://a:1,b:2/some.topic").bootstrap == "a:1,b:2"
    for url in ("kafka://a/t", "kafka://a:1/", "http://a:1/t", "kafka://a:99999/t", "kafka://a:1/t/u"):
        with pytest.raises(ConfigError, match="expected a URL kafka://HOST:PORT"):
            parse_stream("x", url)
    with pytest.raises(ConfigError, match="never in a URL") as found:
        parse_stream("x", "kafka://me:hunter2@a:1/t")
    assert "hunter2" not in str(found.value)
    with pytest.raises(ConfigError, match="expected a topic each"):
        LiveOptions(
            Path("s"),
            {"transactions": "kafka://a:1/t"},
            {"decisions": "kafka://a:1/t", "dead_letters": "kafka://a:1/d"},
        ).streams()
