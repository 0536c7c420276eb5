"""Live flows in processes of their own over topics of a test's own, and what an independent consumer finds of them."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from flows.cluster import free_addresses
from tests.flows.running import ended
from tests.flows.traffic import payment
from tests.kafka import make_topic, read_all, send

WAIT_S = 90.0
STARTED: list[subprocess.Popen[str]] = []
"""By the present test; what is left of them is killed at its end."""
STREAMS = ("transactions", "device_events", "identity_events")


class Live:
    """A live flow's configuration and topics; `start` starts its processes."""

    def __init__(self, bootstrap: str, directory: Path, profile: Path, partitions: int = 1, **told: Any) -> None:
        self.bootstrap = bootstrap
        self.directory = directory
        self.topics = {
            name: make_topic(bootstrap, name, partitions)
            for name in (*STREAMS, "labelled_outcomes", "decisions", "dead_letters")
        }
        url = f"kafka://{bootstrap}/"
        self.told: dict[str, Any] = {
            "profile": str(profile),
            "state": str(directory / "state"),
            "inputs": {name: url + self.topics[name] for name in (*STREAMS, "labelled_outcomes")},
            "outputs": {name: url + self.topics[name] for name in ("decisions", "dead_letters")},
            **told,
        }

    def start(self, processes: int = 1, **told: Any) -> list[subprocess.Popen[str]]:
        addresses = free_addresses(processes) if processes > 1 else ()
        started = []
        for number in range(processes):
            own = {**self.told, **told, "process": [number, addresses] if addresses else None}
            words = [sys.executable, "-m", "tests.flows.live_member", json.dumps(own)]
            started.append(
                subprocess.Popen(
                    words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
                )
            )
        STARTED.extend(started)
        return started

    def feed(self, events: Path) -> None:
        """Append a folder's events to the topics: device and identity events first."""
        for name in ("identity_events", "device_events", "transactions"):
            lines = (events / f"{name}.jsonl").read_bytes().splitlines()
            send(self.bootstrap, self.topics[name], [(account_of(line), line) for line in lines])

    def decisions(self) -> list[dict[str, Any]]:
        return [value_of(message) for message in read_all(self.bootstrap, self.topics["decisions"])]

    def dead_letters(self) -> list[dict[str, Any]]:
        return [value_of(message) for message in read_all(self.bootstrap, self.topics["dead_letters"])]


def account_of(line: bytes) -> bytes | None:
    """The key of a record, as its producer would choose it."""
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return str(found["account_id"]).encode() if isinstance(found, dict) and "account_id" in found else None


def value_of(message: Message) -> dict[str, Any]:
    value = message.value()
    assert value is not None
    found: dict[str, Any] = orjson.loads(value)
    return found


def wait_until(processes: list[subprocess.Popen[str]], ready: Callable[[], object], within_s: float = WAIT_S) -> None:
    """Wait until `ready` says something, while all processes run."""
    deadline = time.monotonic() + within_s
    while not ready():
        for process in processes:
            if process.poll() is not None:
                _, errors = process.communicate()
                msg = f"ended with {process.returncode} before its time: {errors}"
                raise AssertionError(msg)
        assert time.monotonic() < deadline, "not ready in time"
        time.sleep(0.1)


def stop(processes: list[subprocess.Popen[str]]) -> None:
    """Stop in order; all must end well. One that is still loading would not hear of it yet, so it is waited for."""
    for process in processes:
        wait_until([process], lambda pid=process.pid: _hears_sigterm(pid))  # type: ignore[misc]
        process.send_signal(signal.SIGTERM)
    for process in processes:
        code, _, errors = ended(process)
        assert code == 0, (code, errors)


def _hears_sigterm(pid: int) -> bool:
    """Whether a process has a handler for it."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def kill(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.kill()
        process.communicate()


def refused(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and the last line of a process that refuses to start."""
    code, _, errors = ended(process)
    return code, errors.strip().splitlines()[-1]


class Feed:
    """Payments, some of them retried, appended from a thread at a steady rate until `end`.

    Attributes:
        sent: transaction_id -> how often it was sent.
    """

    def __init__(self, live: Live, rate: float = 200.0, seed: int = 1) -> None:
        self.sent: dict[str, int] = {}
        self._live = live
        self._rate = rate
        self._rng = random.Random(seed)
        self._first = seed * 1_000_000
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Send no more; all that was sent stands in the topic then."""
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self._live.bootstrap,
                "enable.idempotence": True,
                "linger.ms": 1,
                "topic.metadata.refresh.interval.ms": 500,  # new partitions
            }
        )
        rng = self._rng
        lines: list[bytes] = []
        began = time.monotonic()
        while not self._done.is_set():
            due = int((time.monotonic() - began) * self._rate)
            while len(lines) < due:
                record = payment(rng, self._first + len(lines), datetime.now(UTC))
                line = orjson.dumps(record)
                lines.append(line)
                for again in (line, *([rng.choice(lines[-300:])] if rng.random() < 0.05 else [])):
                    name = orjson.loads(again)["transaction_id"]
                    self.sent[name] = self.sent.get(name, 0) + 1
                    producer.produce(self._live.topics["transactions"], again, account_of(again))
            producer.poll(0)
            self._done.wait(0.005)
        assert not producer.flush(WAIT_S)


def check_published(live: Live, sent: dict[str, int]) -> None:
    """By an independent consumer: every payment decided once, every retry answered with that very decision."""
    decided: dict[str, dict[str, Any]] = {}
    answers: dict[str, list[dict[str, Any]]] = {}
    twice = []
    for decision in live.decisions():
        name = decision["transaction_id"]
        if decision["duplicate"]:
            answers.setdefault(name, []).append(decision)
        elif name in decided:
            twice.append(name)
        else:
            decided[name] = decision
    lost = sent.keys() - decided.keys()
    assert not lost, f"{len(lost)} lost of {len(sent)}, such as {sorted(lost)[:5]}"
    assert not twice, f"{len(twice)} decided twice, such as {twice[:5]}"
    assert not decided.keys() - sent.keys()
    for name, number in sent.items():
        found = answers.get(name, [])
        assert len(found) == number - 1, f"{name}: sent {number} times, {len(found)} answers to retries"
        for answer in found:
            assert {**answer, "duplicate": False} == decided[name], f"{name}: the answer contradicts the decision"


def all_answered(live: Live, sent: dict[str, int]) -> Callable[[], bool]:
    """Whether as many decisions stand in the topic as payments were sent; looks at offsets only."""
    reader = Consumer({"bootstrap.servers": live.bootstrap, "group.id": "counter"})
    topic = live.topics["decisions"]

    def ready() -> bool:
        count = 0
        for number in reader.list_topics(topic, timeout=30).topics[topic].partitions:
            low, high = reader.get_watermark_offsets(TopicPartition(topic, number), timeout=30)
            count += high - low
        return count >= sum(sent.values())

    return ready


def caught_up(live: Live, group: str = "weir-decide") -> Callable[[], bool]:
    """Whether the consumer group stands at the end of the payments, as a lag tool would see it."""
    topic = live.topics["transactions"]
    reader = Consumer({"bootstrap.servers": live.bootstrap, "group.id": group})

    def ready() -> bool:
        partitions = [TopicPartition(topic, number) for number in reader.list_topics(topic).topics[topic].partitions]
        return all(
            (reader.get_watermark_offsets(found, timeout=30) or (0, 0))[1] in (found.offset, 0)
            for found in reader.committed(partitions, timeout=30)
        )

    return ready
