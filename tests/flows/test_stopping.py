"""A replay stops in order, by force when order takes too long, and does not hang: real processes with real faults."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.exits import FAILED, NO_PROGRESS, STOP_EXPIRED
from flows.processes import descendants, state_of
from flows.stats import RunStats
from flows.watchdog import Pulse, Watchdog
from tests.flows.running import Replay, ended, faulty, wait_for
from tests.flows.traffic import decisions, write_events, write_profile


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("inputs")
    (directory / "events").mkdir()
    events = write_events(directory / "events", payments=1_000, hours=17, seed=6)
    return write_profile(directory / "profile"), events


@pytest.fixture
def replay(inputs: tuple[Path, Path], tmp_path: Path) -> Iterator[Replay]:
    yield Replay(*inputs, tmp_path, "--batch", "20", "--epoch", "0.1")


def test_a_stop_that_takes_too_long_ends_by_force_with_a_code_of_its_own_and_is_resumed(replay: Replay) -> None:
    process = replay.start("--stop-within", "0.5", program=faulty("slow-snapshot=30"))
    wait_for(process, replay.published)
    process.send_signal(signal.SIGTERM)
    code, _, errors = ended(process)
    assert code == STOP_EXPIRED, errors
    assert "not stopped in order within 0.5 s (--stop-within; in weir.toml decide.stop_within)" in errors
    code, _, errors = ended(replay.start("--batch", "500", "--epoch", "1"))
    assert code == 0, errors
    assert "payments decided in" in errors
    decided = Counter(one["transaction_id"] for one in decisions(replay.out) if not one["duplicate"])
    assert set(decided.values()) == {1}
    assert len(decided) == 1_000


def test_a_second_signal_ends_it_at_once_even_while_a_step_is_busy(replay: Replay) -> None:
    process = replay.start("--stop-within", "1000", program=faulty("slow-snapshot=1000"))
    wait_for(process, replay.published)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    code, _, errors = ended(process)
    assert code in (128 + signal.SIGINT, 128 + signal.SIGTERM), errors
    assert "second signal, ended at once" in errors


def test_a_step_that_hangs_ends_the_process_with_what_it_was_doing(replay: Replay) -> None:
    process = replay.start("--no-progress-after", "1.5", program=faulty("hang=30"))
    code, _, errors = ended(process)
    assert code == NO_PROGRESS, errors
    assert "no progress for" in errors
    assert "last: " in errors
    assert "now in flows/stage.py line" in errors
    assert "docs/runbooks/crash.md" in errors


def test_native_code_that_keeps_the_interpreters_lock_is_ended_by_the_timer_in_c(replay: Replay) -> None:
    process = replay.start("--no-progress-after", "0.5", program=faulty("hang-native=60"))
    code, _, errors = ended(process)
    assert code == FAILED, errors
    assert "Timeout (" in errors
    assert "faults.py" in errors


def test_a_stopped_peer_is_found_by_the_others_and_named_by_the_one_that_started_them(replay: Replay) -> None:
    process = replay.start("--processes", "2", "--no-progress-after", "2")
    wait_for(process, lambda: replay.published() >= 100)
    members = descendants(process.pid)
    assert len(members) == 2
    os.kill(members[0], signal.SIGSTOP)
    code, _, errors = ended(process)
    assert code == NO_PROGRESS, errors
    assert "waiting inside bytewax: a peer may hang" in errors
    assert f"(pid {members[0]}) was stopped by a signal and held up the others; killed" in errors
    assert [state_of(pid) for pid in members] == ["", ""]
    # With a stopped member there is no order to stop in, either.
    process = replay.start("--processes", "2", "--stop-within", "0.5")
    wait_for(process, lambda: len(descendants(process.pid)) == 2)
    members = descendants(process.pid)
    os.kill(members[1], signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    code, _, errors = ended(process)
    assert code in (0, STOP_EXPIRED), errors  # 0: the other had not begun, so there was nothing to put in order
    assert [state_of(pid) for pid in members] == ["", ""]


class _Ended:
    def __init__(self) -> None:
        self.happened = threading.Event()
        self.told: tuple[str, int] | None = None

    def __call__(self, message: str, code: int) -> None:
        self.told = (message, code)
        self.happened.set()


def test_beats_keep_the_watchdog_quiet_and_their_end_wakes_it() -> None:
    pulse, ended_by = Pulse(), _Ended()
    pulse.epoch_ended()
    with Watchdog(pulse, RunStats(), 0.5, "weir", ended_by):
        for _ in range(20):
            pulse.beat("a poll of an idle source")
            assert not ended_by.happened.wait(0.05)
        assert ended_by.happened.wait(60)
    assert ended_by.told is not None
    message, code = ended_by.told
    assert code == NO_PROGRESS
    assert "last: a poll of an idle source" in message


def test_a_batch_of_any_step_is_progress_and_named() -> None:
    pulse, stats, ended_by = Pulse(), RunStats(), _Ended()
    pulse.epoch_ended()
    stats.stage("card")
    with Watchdog(pulse, stats, 0.5, "weir", ended_by):
        for _ in range(20):
            stats.stage("card").observe(0.01, 3)
            assert not ended_by.happened.wait(0.05)
        assert ended_by.happened.wait(60)
    assert ended_by.told is not None
    assert "last: a batch or snapshot of step card" in ended_by.told[0]


def test_a_watchdog_that_is_switched_off_never_ends_anything() -> None:
    ended_by = _Ended()
    with Watchdog(Pulse(), RunStats(), 0, "weir", ended_by):
        assert not ended_by.happened.wait(0.2)
