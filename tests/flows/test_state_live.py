"""`weir state` on the folder of a flow that runs over topics, and a flow gone on from its backup."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.flows.live import Feed, Live, caught_up, check_published, kill, stop, wait_until
from tests.flows.traffic import write_profile


def _weir(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "state", *words], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_state_of_a_live_flow_is_inspected_verified_backed_up_and_gone_on_from(kafka: str, tmp_path: Path) -> None:
    live = Live(kafka, tmp_path, write_profile(tmp_path / "profile"), partitions=2)
    state, backups = live.told["state"], f"file://{tmp_path}/backups"
    with Feed(live, rate=100) as feed:
        running = live.start(2)
        wait_until(running, lambda: len(live.decisions()) > 100)
        told = json.loads(_weir("inspect", "--state", state, "--json"))
        assert len(told["shards"]) == 4
        steps = {step["step"]: step for shard in told["shards"] for step in shard["steps"]}
        assert {"seen", "account", "decide", "ledger"} <= steps.keys()
        assert sum(steps["ledger"]["records"].values()) > 0
        assert "4 shards" in _weir("verify", "--state", state)
        assert "backup " in _weir("backup", "--state", state, "--to", backups)
        before = len(live.decisions())
        wait_until(running, lambda: len(live.decisions()) > before + 100)  # published behind the backup
        feed.end()
    kill(running)
    shutil.rmtree(state)
    restored = _weir("restore", "--from", backups, "--state", state)
    assert "the flow resumes at epoch" in restored
    running = live.start()
    wait_until(running, caught_up(live))
    stop(running)
    check_published(live, feed.sent)
