from __future__ import annotations

import random
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from tests.flows.live import (
    Feed,
    Live,
    all_answered,
    caught_up,
    check_published,
    kill,
    stop,
    value_of,
    wait_until,
)
from tests.flows.running import ended
from tests.flows.test_recovery import recompute
from tests.flows.traffic import payment, write_profile
from tests.kafka import WAIT_S, read_all, send


@pytest.fixture
def live(kafka: str, tmp_path: Path) -> Live:
    return Live(kafka, tmp_path, write_profile(tmp_path / "profile"))


def _payment(number: int, **more: Any) -> bytes:
    return orjson.dumps({**payment(random.Random(number), number, datetime.now(UTC)), **more})


def _grow(live: Live, name: str, count: int) -> None:
    admin = AdminClient({"bootstrap.servers": live.bootstrap})
    for made in admin.create_partitions([NewPartitions(live.topics[name], count)]).values():
        made.result(WAIT_S)


def test_partitions_added_to_inputs_and_outputs_are_read_and_written_without_a_restart(live: Live) -> None:
    with Feed(live, rate=50) as feed:
        running = live.start()
        wait_until(running, live.decisions)
        _grow(live, "transactions", 3)
        _grow(live, "decisions", 4)
        wait_until(
            running,
            lambda: {found.partition() for found in read_all(live.bootstrap, live.topics["decisions"])} == {0, 1, 2, 3},
        )
        kill(running)  # what stands in the new partitions must be found when it starts again
        running = live.start()
        time.sleep(3.0)
        feed.end()
        wait_until(running, all_answered(live, feed.sent))
        wait_until(running, caught_up(live))
        stop(running)
    check_published(live, feed.sent)
    partitions = {decision["source"]["partition"] for decision in live.decisions()}
    assert partitions == {0, 1, 2}


def test_another_number_of_processes_goes_on_where_the_last_ones_stopped(kafka: str, tmp_path: Path) -> None:
    live = Live(kafka, tmp_path, write_profile(tmp_path / "profile"), partitions=3)
    with Feed(live, rate=100) as feed:
        for processes in (2, 3, 1, 2):
            running = live.start(processes)
            before = len(live.decisions())
            wait_until(running, lambda before=before: len(live.decisions()) > before + 100)  # type: ignore[misc]
            if processes == 3:
                kill(running[:1])
                for peer in running[1:]:
                    assert ended(peer)[0] != 0  # they end of themselves
            else:
                stop(running)
        feed.end()
        running = live.start()
        wait_until(running, caught_up(live))
        stop(running)
    check_published(live, feed.sent)
    recompute(tmp_path / "profile", live.decisions())


def test_dead_letters_tell_where_their_record_stood_and_headers_on_the_list_are_passed_on(live: Live) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = [
        ("traceparent", f"00-{trace}-b7ad6b7169203331-01".encode()),
        ("tracestate", b"card 4111 1111 1111 1111"),
        ("cookie", b"secret"),
    ]
    topic = live.topics["transactions"]
    send(live.bootstrap, topic, [(b"A", _payment(1, account_id="A")), (None, b"{broken")], headers=headers)
    send(live.bootstrap, topic, [(b"A", b"x" * 100_000)])
    running = live.start()
    wait_until(running, lambda: live.decisions() and len(live.dead_letters()) == 2)
    stop(running)
    (message,) = read_all(live.bootstrap, live.topics["decisions"])
    decision = value_of(message)
    assert decision["trace_id"] == trace
    assert message.key() == b"A"
    told = dict(message.headers() or [])
    assert told["traceparent"] == headers[0][1]
    assert told["tracestate"] == b"card [PAN]"
    assert "cookie" not in told
    places = [(dead["topic"], dead["partition"], dead["offset"], dead["reason"]) for dead in live.dead_letters()]
    assert sorted(places) == [(topic, 0, 1, "NOT_JSON"), (topic, 0, 2, "TOO_LARGE")]


def test_a_device_event_that_arrived_before_its_payment_is_seen_by_it_and_one_after_it_is_not(live: Live) -> None:
    def device_event(number: int) -> tuple[bytes, bytes]:
        now = datetime.now(UTC).isoformat()
        record = {"event_id": f"E{number}", "event_time": now, "device_id": "D", "kind": "login_failed"}
        return b"D", orjson.dumps(record)

    def pay(number: int) -> None:
        send(live.bootstrap, live.topics["transactions"], [(b"A", _payment(number, device_id="D"))])
        time.sleep(0.01)

    send(live.bootstrap, live.topics["device_events"], [device_event(1)])
    time.sleep(0.01)
    pay(1)
    send(live.bootstrap, live.topics["device_events"], [device_event(2)])
    time.sleep(0.01)
    pay(2)
    running = live.start()  # all of it is a backlog by now, in two topics
    wait_until(running, lambda: len(live.decisions()) == 2)
    pay(3)
    wait_until(running, lambda: len(live.decisions()) == 3)
    send(live.bootstrap, live.topics["device_events"], [device_event(3)])
    time.sleep(1.0)
    pay(4)
    wait_until(running, lambda: len(live.decisions()) == 4)
    stop(running)
    counts = {found["transaction_id"]: found["features"]["device.login_failed_count_1h"] for found in live.decisions()}
    assert counts == {"T000001": 1, "T000002": 2, "T000003": 2, "T000004": 3}


def test_what_waited_while_the_flow_was_down_is_decided_with_the_backlogs_fallback(live: Live) -> None:
    """The deadline counts from the broker's append: what was appended before the process was ready is its backlog."""
    policy = Path(live.told["profile"]) / "policy.toml"
    head = "deadline_ms = 5000\non_deadline = 'review'\non_backlog = 'challenge'\n"
    policy.write_text(head + policy.read_text())

    def pay(number: int) -> None:
        send(live.bootstrap, live.topics["transactions"], [(b"A", _payment(number))])

    running = live.start()
    pay(1)
    wait_until(running, lambda: len(live.decisions()) == 1)
    stop(running)
    pay(2)
    time.sleep(6.0)
    running = live.start()
    wait_until(running, lambda: len(live.decisions()) == 2)
    stop(running)
    told = {found["transaction_id"]: found for found in live.decisions()}
    assert (told["T000002"]["fallback"], told["T000002"]["deadline_missed"]) == ("backlog", True)
    assert told["T000002"]["action"] == "challenge"
    assert told["T000002"]["proposed_action"] == "approve"
