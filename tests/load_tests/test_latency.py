"""Latencies are counted from when a payment was due, every one; what is read is matched with what was sent."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from load_tests.latency import PERCENTILES, measured
from load_tests.open_loop import Event, OpenLoop, Timeline, decidable
from tests.kafka import make_topic

MS = 1_000_000
START_MS = 1_700_000_000_000


def stalled() -> tuple[Timeline, list[int]]:
    """A payment a millisecond; decided 2 ms later, but for those due from 300 to 399 ms, all decided at 402 ms."""
    timeline = Timeline(offset_ns=START_MS * MS)
    taken_us = []
    for number in range(1_000):
        timeline.add(number * MS)
        seen_ms = 402 if 300 <= number < 400 else number + 2
        timeline.appended_ms[number] = START_MS + number
        timeline.decided_ms[number] = START_MS + seen_ms - 1
        timeline.seen_ns[number] = seen_ms * MS
        taken_us.append((seen_ms - number) * 1_000)
    return timeline, taken_us


def test_every_payment_that_came_due_in_a_stall_is_counted_with_its_own_wait() -> None:
    timeline, taken_us = stalled()
    found = measured(timeline, 0)
    ordered = sorted(taken_us)
    wanted = [ordered[int(percent / 100 * len(ordered) + 0.5) - 1] for percent in PERCENTILES]
    assert found.whole == pytest.approx(wanted, rel=0.001)
    assert found.payments == 1_000
    assert found.undecided == 0
    assert found.pauses == 1
    weir = found.parts[1]
    assert weir.slow_us == max(part.slow_us for part in found.parts)


def test_the_warm_up_is_left_out_and_the_undecided_are_told() -> None:
    timeline, _ = stalled()
    timeline.seen_ns[999] = 0
    found = measured(timeline, 500)
    assert (found.payments, found.undecided) == (500, 1)
    assert found.whole[-1] == pytest.approx(2_000, rel=0.001)


def payment(name: str | None) -> Event:
    return 1_700_000_000_000_000, "transactions", {"transaction_id": name, "event_time": "2023-11-14T22:13:20Z"}


def test_retries_and_spoiled_payments_are_not_sent() -> None:
    device: Event = (0, "device_events", {"event_time": "2023-11-14T22:13:20Z"})
    events = [payment("a"), payment("a"), device, payment(None), payment("x"), payment("b"), payment("c")]
    found = list(decidable(iter(events), {"a", "b", "c"}, 2))
    assert [one[2].get("transaction_id") for one in found] == ["a", None, "b"]
    assert found[1] is device


def echo(bootstrap: str, payments: str, decisions: str, done: threading.Event) -> None:
    """Decides each payment, p3 twice, p4 only as the answer to a retry, and stands still before p10."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "echo"})
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
    consumer.assign([TopicPartition(payments, 0, 0)])
    while not done.is_set():
        message = consumer.poll(0.05)
        value: Any = message.value() if message is not None and message.error() is None else None
        if value is None:
            continue
        name = json.loads(value)["transaction_id"]
        if name == "p10":
            done.wait(0.5)
        told = {"transaction_id": name, "duplicate": name == "p4", "deadline_missed": name == "p10"}
        for _ in range(2 if name == "p3" else 1):
            producer.produce(decisions, json.dumps(told).encode(), b"")
        producer.poll(0)
    producer.flush(5)
    consumer.close()


def test_what_is_due_is_sent_while_nothing_answers_and_decisions_are_matched(kafka: str, tmp_path: Path) -> None:
    payments, decisions = make_topic(kafka, "payments", 1), make_topic(kafka, "decided", 1)
    done = threading.Event()
    thread = threading.Thread(target=echo, args=(kafka, payments, decisions, done))
    thread.start()
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "reader", "enable.auto.commit": False})
    try:
        producer = Producer({"bootstrap.servers": kafka, "linger.ms": 0})
        loop = OpenLoop(producer, consumer, {"transactions": payments}, decisions)
        loop.run(iter([payment(f"p{number}") for number in range(40)]), 200, lambda: True)
        loop.drain(20, lambda: loop.timeline.undecided > 1 or loop.timeline.answers == 0)
    finally:
        done.set()
        thread.join()
        consumer.close()
    timeline = loop.timeline
    assert loop.sent == 40
    assert [timeline.seen_ns[number] == 0 for number in range(40)] == [number == 4 for number in range(40)]
    assert (timeline.twice, timeline.answers, timeline.failed, timeline.late) == (1, 1, 0, 1)
    assert set(np.diff(timeline.due_ns)) == {5 * MS}  # the pause before p10 did not put off what was due in it
    waits = [(timeline.seen_ns[number] - timeline.due_ns[number]) / MS for number in (10, 11, 12)]
    assert waits[0] > waits[1] > waits[2]
    assert all(timeline.appended_ms)
