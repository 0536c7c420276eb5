"""`weir replay` in processes of its own, and what tests ask of them."""

from __future__ import annotations

import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from flows.processes import descendants
from state.store import StateHome

CLI = (sys.executable, "-m", "flows.cli")


def faulty(fault: str) -> tuple[str, ...]:
    """The program with a fault built in (tests/flows/faults.py)."""
    return (sys.executable, "-m", "tests.flows.faults", fault)


class Replay:
    """A replay in a folder: the command to run and what came of it so far."""

    def __init__(self, profile: Path, events: Path, directory: Path, *options: str) -> None:
        self.out, self.state = directory / "out", directory / "state"
        self.words = (
            *("replay", "--profile", str(profile), "--events", str(events), "--out", str(self.out)),
            *("--state", str(self.state), "--shards", "4", "--no-report", *options),
        )

    def start(self, *options: str, program: tuple[str, ...] = CLI) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*program, *self.words, *options],
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def published(self) -> int:
        path = self.out / "decisions.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def records(self) -> dict[tuple[str, str, bytes], bytes]:
        """Everything in state as of the last commit, by shard, step and key."""
        found = {}
        with sqlite3.connect(next((self.state / "recovery").glob("*.sqlite3"))) as recovery:
            rows = recovery.execute("select step_id, state_key, ser_change, max(snap_epoch) from snaps group by 1, 2")
            known = [(step, key, pickle.loads(change)) for step, key, change, _ in rows if change]  # noqa: S301  # our own
        with StateHome(self.state / "shards") as home:
            for step_id, key, snapshot in known:
                if not isinstance(snapshot, dict) or "version" not in snapshot:
                    continue
                step = step_id.removeprefix("weir.").removesuffix(".stateful_batch").split(".")[0]
                shard = snapshot.get("shard", f"ledger-{key}")
                store = home.open(shard, step if "shard" in snapshot else "ledger", snapshot["version"])
                start = b""
                while page := store.scan(start, None, 10_000):
                    found.update({(shard, store.step, name): value for name, value in page})
                    start = page[-1][0] + b"\0"
        return found


def wait_for(process: subprocess.Popen[str], ready: Callable[[], object]) -> None:
    """Wait until `ready` says something; the process must not end before."""
    while not ready():
        if process.poll() is not None:
            _, errors = process.communicate()
            msg = f"ended with {process.returncode} before its time: {errors}"
            raise AssertionError(msg)
        time.sleep(0.02)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for its end: (exit code, stdout, stderr)."""
    out, errors = process.communicate(timeout=240)
    return process.returncode, out, errors


def kill_tree(process: subprocess.Popen[str]) -> None:
    """End whatever a failed test has left."""
    for pid in [process.pid, *descendants(process.pid)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate()
