"""Live flows in processes of their own over topics of a test's own, and what an independent consumer finds of them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import Message

from flows.cluster import free_addresses
from tests.flows.running import ended
from tests.kafka import make_topic, read_all, send

WAIT_S = 90.0
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
    """Stop in order; all must end well."""
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        code, _, errors = ended(process)
        assert code == 0, errors


def kill(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.kill()
        process.communicate()


def refused(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and the last line of a process that refuses to start."""
    code, _, errors = ended(process)
    return code, errors.strip().splitlines()[-1]
