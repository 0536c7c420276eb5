"""A replay under steady load, as real processes that can be watched, killed, stopped and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flows.publish import SLOTS

ROOT: Final = Path(__file__).resolve().parents[2]
MARK: Final = "WEIR_CHAOS_LIFE"
"""Environment variable that all processes of one start share, by which they are found whoever their parent is now."""
POLL_S: Final = 0.02
START_LIMIT_S: Final = 240.0
"""A start that publishes nothing for this long has failed. Larger only delays that verdict; smaller would call a start
of four processes on one busy core a failure."""
END_LIMIT_S: Final = 60.0
"""For how long a process may outlive what must end it: bytewax's peers and the launcher take some 15 s at most."""


class ReplicaError(Exception):
    """The replay did what no fault excuses."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What is replayed and how.

    Attributes:
        profile: Folder of the profile.
        events: Folder of the events.
        processes: Processes of the replay.
        shards: Parts of the key space.
        rate: Events a second while faults are injected.
        before: Python file that each process runs before `weir`, None: none.
    """

    profile: Path
    events: Path
    processes: int
    shards: int
    rate: float
    before: Path | None = None


class Life:
    """One start of the replay, until all its processes are dead."""

    def __init__(self, process: subprocess.Popen[bytes], mark: str, log: Path) -> None:
        self._process = process
        self._mark = f"{MARK}={mark}".encode()
        self._log = log

    def pids(self) -> list[int]:
        """All processes of this start that are alive, the launcher first; zombies are not."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if self._mark in (entry / "environ").read_bytes().split(b"\0") and not _is_zombie(entry):
                    found.append(int(entry.name))
            except OSError:  # gone meanwhile, or not ours
                continue
        return sorted(found, key=lambda pid: (pid != self._process.pid, pid))

    @property
    def launcher(self) -> int:
        """The process that was started; alone, it is the replay."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """Of the launcher, None while it lives."""
        return self._process.poll()

    def send(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to one of this start's processes."""
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return

    def kill(self) -> None:
        """SIGKILL all processes and wait until each is dead, stopped ones too."""
        deadline = time.monotonic() + END_LIMIT_S
        while alive := self.pids():
            for pid in alive:
                self.send(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                message = f"processes {alive} outlive SIGKILL"
                raise ReplicaError(message)
            self._process.poll()
            time.sleep(POLL_S)
        self._process.wait()

    def wait_dead(self) -> int:
        """Wait until all processes have ended by themselves; returns the launcher's exit code.

        Raises:
            ReplicaError: Some process lives on.
        """
        deadline = time.monotonic() + END_LIMIT_S
        while self._process.poll() is None or self.pids():
            if time.monotonic() > deadline:
                message = f"processes {self.pids()} live on, although their cluster has lost a member\n{self.told()}"
                self.kill()
                raise ReplicaError(message)
            time.sleep(POLL_S)
        return self._process.wait()

    def told(self) -> str:
        """What the processes wrote to stderr."""
        return self._log.read_text(errors="replace")


class Replica:
    """One replay over all its starts: the same output and state folder."""

    def __init__(self, setup: Setup, directory: Path, logs: Path) -> None:
        self.setup = setup
        self._logs = logs  # not on the replay's disk, which may be full
        self.out = directory / "out"
        self.state = directory / "state"
        self._starts = 0
        self._lives: list[Life] = []

    def start(self, *, paced: bool = True, point: str | None = None, hits: int = 1) -> Life:
        """Start it; with `point`, a process kills itself there (see `load_tests.campaign.victim`)."""
        setup = self.setup
        self._starts += 1
        own = ["--before", str(setup.before)] if setup.before is not None else []
        own += ["--point", point, "--hits", str(hits)] if point is not None else []
        options: dict[str, object] = {
            "--profile": setup.profile, "--events": setup.events, "--out": self.out, "--state": self.state,
            "--batch": 20, "--epoch": 0.2, "--shards": setup.shards, "--processes": setup.processes,
        }  # fmt: skip
        if paced:
            options["--rate"] = setup.rate
        command = [sys.executable, "-m", "load_tests.campaign.victim", *own, "--", "replay", "--no-report"]
        command += [str(word) for pair in options.items() for word in pair]
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{self._starts:03d}.log"
        mark = uuid.uuid4().hex
        with log.open("wb") as errors:
            process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, MARK: mark}, stdout=errors, stderr=errors, start_new_session=True
            )
        life = Life(process, mark, log)
        self._lives.append(life)
        return life

    def end(self) -> None:
        """Kill whatever is left of any start."""
        for life in self._lives:
            life.kill()

    def published_bytes(self) -> int:
        """How much was published so far, in all outputs; a torn line counts."""
        total = 0
        for slot in SLOTS:
            try:
                total += (self.out / f"{slot}.jsonl").stat().st_size
            except FileNotFoundError:
                continue
        return total


def wait_for(condition: Callable[[], bool], limit_s: float) -> bool:
    """Whether `condition` came true in time."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _is_zombie(entry: Path) -> bool:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
