"""`weir` with a fault built in; tests start it as `python -m tests.flows.faults FAULT[=VALUE] weir's arguments`.

hang=N             the first step sleeps for ever in its Nth batch
hang-native=N      likewise, in native code that keeps the interpreter's lock
slow-snapshot=S    the output of decisions takes S seconds for each snapshot
kill-unpublished=N SIGKILL when the Nth snapshot of the decisions is due: they are published, not committed
log-state=FOLDER   writes what is opened, committed and synced to FOLDER/PID, a line each
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.cli import main
from flows.publish import DECISIONS, FileSlot, SlotSnapshot
from operators.inflight import InFlight
from operators.seen import Seen
from state.api import StepStore
from state.shard import Shard
from state.step_store import RocksStepStore
from state.store import StateHome


def _at_batch(number: int, fault: Callable[[], object]) -> None:
    whole = Seen.on_batch
    left = [number]

    def on_batch(self: Seen, store: StepStore, batch: list[InFlight]) -> list[InFlight]:
        left[0] -= 1
        if not left[0]:
            fault()
        return whole(self, store, batch)

    Seen.on_batch = on_batch  # type: ignore[method-assign]  # the fault


def _at_snapshot(fault: Callable[[int], object]) -> None:
    whole = FileSlot.snapshot
    count = [0]

    def snapshot(self: FileSlot) -> SlotSnapshot:
        if self._slot == DECISIONS:
            count[0] += 1
            fault(count[0])
        return whole(self)

    FileSlot.snapshot = snapshot  # type: ignore[method-assign]  # the fault


def _log_state(folder: Path) -> None:
    log = os.open(folder / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(*words: object) -> None:
        os.write(log, (" ".join(map(str, words)) + "\n").encode())

    commit, sync, opened = RocksStepStore.commit, Shard.sync, StateHome.open

    def logged_commit(self: RocksStepStore) -> int:
        version = commit(self)
        note("commit", self.shard, self.step, version)
        return version

    def logged_sync(self: Shard) -> None:
        sync(self)
        note("sync", self.name)

    def logged_open(self: StateHome, shard: str, step: str, version: int | None) -> RocksStepStore:
        note("open", shard, step, version or 0)
        return opened(self, shard, step, version)

    RocksStepStore.commit = logged_commit  # type: ignore[method-assign]  # only watched
    Shard.sync = logged_sync  # type: ignore[method-assign]
    StateHome.open = logged_open  # type: ignore[method-assign]


def _kill_at(wanted: int) -> Callable[[int], None]:
    def fault(count: int) -> None:
        if count == wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    return fault


def _inject(name: str, value: str) -> None:
    libc: Any = ctypes.PyDLL(None)
    if name == "hang":
        _at_batch(int(value), lambda: time.sleep(1_000))
    elif name == "hang-native":
        _at_batch(int(value), lambda: libc.sleep(1_000))
    elif name == "slow-snapshot":
        _at_snapshot(lambda _count: time.sleep(float(value)))
    elif name == "kill-unpublished":
        _at_snapshot(_kill_at(int(value)))
    elif name == "log-state":
        _log_state(Path(value))
    else:
        msg = f"no such fault: {name}"
        raise SystemExit(msg)


if __name__ == "__main__":
    _inject(*sys.argv.pop(1).split("=", 1))
    main()
