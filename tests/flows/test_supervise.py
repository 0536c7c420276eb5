"""A supervised command is ended as a whole, and started again only when that can help; real processes, real signals."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.exits import FAILED, GAVE_UP, NO_PROGRESS, REFUSED, STOP_EXPIRED, describe_exit, exit_code
from flows.processes import descendants, state_of
from flows.supervise import RestartPolicy
from schemas.errors import ProfileError, StateError, StateVersionError
from tests.flows.running import CLI, Replay, ended, kill_tree, wait_for
from tests.flows.traffic import decisions, write_events, write_profile


class Supervised:
    """`weir supervise` and its log."""

    def __init__(self, *command: str, options: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen(
            [*CLI, "supervise", "--first-pause", "0.05", *options, "--", *command],
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[dict[str, Any]] = []

    def next(self, event: str) -> dict[str, Any]:
        """Read the log up to the next line of this event."""
        if self.process.stdout is None:
            raise AssertionError
        for line in self.process.stdout:
            self.log.append(json.loads(line))
            if self.log[-1]["event"] == f"supervise.{event}":
                return self.log[-1]
        raise AssertionError(self.log)

    def end(self) -> int:
        code, out, _ = ended(self.process)
        self.log += [json.loads(line) for line in out.splitlines()]
        return code

    def events(self) -> list[str]:
        return [line["event"].removeprefix("supervise.") for line in self.log]


@pytest.fixture
def supervised() -> Iterator[list[Supervised]]:
    """What is put here is ended with the test."""
    started: list[Supervised] = []
    yield started
    for one in started:
        kill_tree(one.process)


def test_a_command_that_ends_well_is_not_started_again() -> None:
    one = Supervised("true")
    assert one.end() == 0
    assert one.events() == ["started", "ended"]


def test_a_refused_configuration_is_not_retried(tmp_path: Path) -> None:
    one = Supervised(
        "weir", "replay", "--profile", str(tmp_path), "--events", str(tmp_path), "--out", str(tmp_path / "out")
    )
    assert one.end() == REFUSED
    assert one.events() == ["started", "refused"]
    assert "refused its input, configuration or state (exit code 2)" in one.log[-1]["text"]


def test_it_gives_up_after_too_many_restarts_and_says_why_each_happened() -> None:
    one = Supervised("sh", "-c", "kill -9 $$", options=("--most-restarts", "2"))
    assert one.end() == GAVE_UP
    assert one.events() == ["started", "restart", "started", "restart", "started", "gave_up"]
    assert all("was ended by SIGKILL" in line["text"] for line in one.log if line["event"].endswith(("restart", "up")))


def test_nothing_of_the_old_command_lives_when_the_new_one_starts(supervised: list[Supervised]) -> None:
    # A grandchild that was stopped and whose parent is dead: it would wake up later.
    script = "setsid sh -c 'sleep 1000 & kill -STOP $!; sleep 1000' & sleep 0.3; exit 1"
    one = Supervised("sh", "-c", script, options=("--most-restarts", "1"))
    supervised.append(one)
    killed = one.next("killed")["pids"]
    assert len(killed) == 3
    one.next("started")
    assert [state_of(pid) for pid in killed] == ["", "", ""]
    assert one.end() == GAVE_UP


def test_a_stopped_process_is_taken_for_dead(supervised: list[Supervised]) -> None:
    options = ("--most-restarts", "0", "--stopped-after", "0.5")
    one = Supervised("sh", "-c", "kill -STOP $$", options=options)
    supervised.append(one)
    assert one.end() == GAVE_UP
    assert "was stopped by a signal" in one.log[-1]["text"]


@pytest.mark.parametrize(
    ("script", "signals", "code"),
    [
        ("trap 'exit 0' TERM; while :; do sleep 0.05; done", 1, 0),
        ("trap '' TERM; sleep 1000", 2, 128 + signal.SIGTERM),
        ("trap '' TERM; sleep 1000", 1, STOP_EXPIRED),
    ],
)
def test_a_signal_is_passed_on_a_second_or_too_long_a_wait_ends_all(
    supervised: list[Supervised], script: str, signals: int, code: int
) -> None:
    one = Supervised("sh", "-c", script, options=("--stop-within", "1"))
    supervised.append(one)
    child = one.next("started")["pid"]
    time.sleep(0.2)  # for the shell to reach its trap
    for _ in range(signals):
        one.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    assert one.end() == code
    assert state_of(child) == ""
    assert "restart" not in one.events()


def test_the_command_dies_with_its_supervisor(supervised: list[Supervised]) -> None:
    one = Supervised("sleep", "1000")
    supervised.append(one)
    child = one.next("started")["pid"]
    one.process.kill()
    one.process.wait()
    deadline = time.monotonic() + 60
    while state_of(child) not in ("", "Z") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert state_of(child) in ("", "Z")


def test_a_command_that_does_not_exist_is_refused() -> None:
    one = Supervised("/no/such/program")
    code, _, errors = ended(one.process)
    assert code == REFUSED
    assert "'/no/such/program' cannot be started" in errors


def test_pauses_grow_up_to_a_bound_and_differ() -> None:
    policy = RestartPolicy(first_s=1, longest_s=8)
    rng = random.Random(1)
    for restarts, longest in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (1000, 8)]:
        pauses = {policy.pause_s(restarts, rng) for _ in range(50)}
        assert len(pauses) == 50
        assert longest / 2 <= min(pauses) < max(pauses) <= longest


def test_only_what_another_start_would_refuse_too_has_the_code_that_is_not_retried() -> None:
    assert exit_code(ProfileError("x")) == REFUSED
    assert exit_code(StateVersionError("x")) == REFUSED
    assert exit_code(StateError("disk full")) == FAILED
    assert describe_exit(-9) == "was ended by SIGKILL"
    assert describe_exit(137) == "was ended by SIGKILL"
    assert describe_exit(NO_PROGRESS) == "made no progress, or a peer of it did not (exit code 76)"


def test_a_cluster_whose_members_are_stopped_and_killed_decides_every_payment_once(
    supervised: list[Supervised], tmp_path: Path
) -> None:
    profile = write_profile(tmp_path / "profile")
    (tmp_path / "events").mkdir()
    events = write_events(tmp_path / "events", payments=1200, hours=20, seed=5)
    replay = Replay(profile, events, tmp_path, "--processes", "2", "--batch", "20", "--epoch", "0.3")
    one = Supervised("weir", *replay.words, options=("--stopped-after", "1"))
    supervised.append(one)
    for number, target, reason in [
        (signal.SIGSTOP, 100, "was stopped by a signal"),
        (signal.SIGKILL, 300, "was ended by SIGKILL"),
    ]:
        # Asked of the supervisor, not of the log: a start that lost a race for its port has been made again by now.
        wait_for(
            one.process,
            lambda target=target: replay.published() >= target and len(descendants(one.process.pid)) == 3,  # type: ignore[misc]  # bound now
        )
        old = descendants(one.process.pid)
        os.kill(old[-1], number)
        while reason not in one.next("restart")["text"]:
            pass
        assert [state_of(pid) for pid in old] == ["", "", ""]
    assert one.end() == 0
    made = decisions(replay.out)
    first = Counter(record["transaction_id"] for record in made if not record["duplicate"])
    assert set(first.values()) == {1}
    assert len(first) == 1200
    told: dict[str, Any] = {}
    for record in made:
        content = {**record, "duplicate": False}
        assert told.setdefault(record["transaction_id"], content) == content
