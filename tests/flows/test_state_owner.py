"""One run at a time on a state folder."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.state_owner import own_state
from schemas.errors import ConfigError, StateLockedError
from tests.flows.live import Feed, Live, caught_up, check_published, kill, stop, wait_until
from tests.flows.traffic import write_profile

HOLD = "import sys, time; from pathlib import Path; from flows.state_owner import own_state\n"
HOLD += "with own_state(Path(sys.argv[1]), int(sys.argv[2]), tuple('abc')): print('held', flush=True); time.sleep(60)"


def _holder(directory: Path, number: int) -> subprocess.Popen[str]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory), str(number)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


@pytest.mark.parametrize(
    ("number", "addresses"), [(2, ("a", "b", "c")), (0, ()), (0, ("d", "e")), (1, ("d", "e", "f"))]
)
def test_a_run_is_refused_while_a_process_of_another_lives(
    tmp_path: Path, number: int, addresses: tuple[str, ...]
) -> None:
    holder = _holder(tmp_path, 2)
    try:
        refused = pytest.raises(StateLockedError, match=r"state .*: is open in another process \(.*-02.lock\)")
        with refused, own_state(tmp_path, number, addresses):
            pass
        with own_state(tmp_path, 1, ("a", "b", "c")):
            pass  # processes of one run do not keep each other out
    finally:
        holder.kill()
        holder.communicate()
    with own_state(tmp_path, number, addresses):
        pass  # a killed process holds nothing


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made"), own_state(tmp_path / "file" / "state", 0, ()):
        pass


def test_a_refused_start_beside_a_running_flow_does_not_keep_it_from_resuming(kafka: str, tmp_path: Path) -> None:
    live = Live(kafka, tmp_path, write_profile(tmp_path / "profile"), partitions=2)
    with Feed(live) as feed:
        running = live.start()
        time.sleep(5.0)
        beside = live.start()
        _, errors = beside[0].communicate(timeout=60)
        assert "is open in another process" in errors
        assert beside[0].returncode == 1
        time.sleep(3.0)  # the first one commits further epochs
        kill(running)
        feed.end()
        running = live.start()
        wait_until(running, caught_up(live))
        stop(running)
        check_published(live, feed.sent)
