"""The command line of a live flow, as real processes: cluster, ports, health, stop, failure, hang, supervision."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.exits import FAILED, NO_PROGRESS, REFUSED
from flows.processes import descendants
from tests.flows.test_config import written
from tests.flows.test_live_process import free_ports
from tests.flows.traffic import write_profile

PROGRAM = (sys.executable, "-m", "tests.flows.live_program")


class Live:
    """A configuration and the processes started by it."""

    def __init__(self, directory: Path) -> None:
        write_profile(directory / "p")
        self.port = free_ports(2)
        more = f'[metrics]\nport = {self.port}\n[log]\nformat = "json"\n[decide]\nno_progress_after = "2s"\n'
        self.path = written(directory, more)
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *words: str, program: tuple[str, ...] = PROGRAM, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*program, "idle", "--config", str(self.path), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.started.append(process)
        return process

    def ready(self, process: subprocess.Popen[str], number: int = 0) -> dict[str, Any]:
        """What /readyz of a process says, once it is ready."""
        while process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port + number}/readyz", timeout=5) as answer:
                    said: dict[str, Any] = json.loads(answer.read())
                    return said
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.05)
        raise AssertionError(process.communicate())


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    made = Live(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            for child in descendants(process.pid):
                os.kill(child, signal.SIGKILL)
            process.kill()
            process.wait()


def test_one_process_is_ready_and_stops_in_order(live: Live) -> None:
    process = live.start()
    assert live.ready(process)["inputs"] == "process 0"
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert out == ""
    assert [json.loads(line)["event"] for line in errors.splitlines()] == ["started", "stopped"]


def test_each_process_of_a_cluster_serves_on_its_own_port_and_all_stop_together(live: Live) -> None:
    process = live.start("--processes", "2")
    assert [live.ready(process, number)["inputs"] for number in (0, 1)] == ["process 0", "process 1"]
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    lines = [json.loads(line) for line in errors.splitlines()]
    assert sorted((line["process"], line["event"]) for line in lines) == [
        (0, "started"), (0, "stopped"), (1, "started"), (1, "stopped"),
    ]  # fmt: skip


def test_a_process_that_fails_takes_the_cluster_along_and_says_so_in_json(live: Live) -> None:
    process = live.start("--processes", "2", FAIL_IN="1")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == FAILED
    told = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    (end,) = [line for line in told if line["event"] == "process_ended"]
    assert (end["process"], end["exit_code"]) == (1, FAILED)
    assert "process 1 of 2: the test wants this process to fail" in end["error"]


def test_a_process_that_hangs_is_ended_by_its_watchdog(live: Live) -> None:
    process = live.start(HANG="1")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == NO_PROGRESS
    end = json.loads(errors.splitlines()[-1])
    assert "no progress for" in end["error"]
    assert "in weir.toml decide.no_progress_after" in end["error"]
    assert end["exit_code"] == NO_PROGRESS


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--processes", "40"), r"expected at most state\.shards"),
        (("--process", "0"), r"expected cluster\.addresses"),
        (("--addresses", "a:1,b:2"), "expected --process 0 to 1"),
        (("--addresses", "a:1,b:2", "--processes", "2"), "give one or the other"),
    ],
)
def test_a_command_line_that_contradicts_itself_is_refused(live: Live, words: tuple[str, ...], match: str) -> None:
    process = live.start(*words)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == REFUSED
    plain = " ".join(errors.replace("│", " ").split())
    assert re.search(match, plain), plain


def test_a_refused_configuration_is_not_started_again_by_the_supervisor(live: Live) -> None:
    live.path.write_text("profile = 5\n")
    words = [sys.executable, "-m", "flows.cli", "supervise", "--first-pause", "0", "--"]
    done = subprocess.run(
        [*words, *PROGRAM, "idle", "--config", str(live.path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == REFUSED
    assert done.stderr.count("profile is 5; expected the profile's folder") == 1
