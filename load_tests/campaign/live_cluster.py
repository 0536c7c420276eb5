"""The processes of `weir decide` that the live kill campaign kills, each a child of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from flows.cluster import free_addresses

START_S: Final = 120.0
"""A start with a read-back under load; longer is a failure."""
END_S: Final = 60.0
"""What is left of a cluster ends by itself: its watchdog's time and more."""
_LOOK_S: Final = 0.05


class ClusterError(Exception):
    """The flow did not do what was expected; the message says what it told."""


def wait_for(what: Callable[[], bool], seconds: float, expected: str, told: Callable[[], str]) -> None:
    """Until `what` holds.

    Raises:
        ClusterError: It did not, in time.
    """
    until = time.monotonic() + seconds
    while not what():
        if time.monotonic() > until:
            message = f"expected {expected} within {seconds:g} s; told: {told()}"
            raise ClusterError(message)
        time.sleep(_LOOK_S)


class LiveCluster:
    """One start after another of the same flow on the same state.

    Attributes:
        processes: Of the present start, dead ones too.
    """

    def __init__(self, config: Path, beside: Path, logs: Path, metrics_port: int, before: Path | None) -> None:
        """Prepare.

        Args:
            config: weir.toml.
            beside: The same, but for the metrics' port: of a start while another one runs.
            logs: Folder; one file a process and start.
            metrics_port: Of process 0.
            before: Python file that each process runs first, None: none.
        """
        self.processes: list[subprocess.Popen[bytes]] = []
        self._config = config
        self._beside = beside
        self._logs = logs
        self._port = metrics_port
        self._before = before
        self._starts = 0
        self._files: list[Path] = []
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, count: int, point: str | None = None, hits: int = 1) -> None:
        """Start so many processes; with `point` the last of them is to kill itself there."""
        self.processes, self._files = self._started(self._config, count, point, hits)

    def _started(
        self, config: Path, count: int, point: str | None, hits: int
    ) -> tuple[list[subprocess.Popen[bytes]], list[Path]]:
        self._starts += 1
        addresses = free_addresses(count) if count > 1 else []
        processes, files = [], []
        for number in range(count):
            words = [sys.executable, "-m", "load_tests.campaign.victim"]
            if self._before is not None:
                words += ["--before", str(self._before)]
            if point is not None and number == count - 1:
                words += ["--point", point, "--hits", str(hits)]
            words += ["--", "decide", "--config", str(config)]
            if addresses:
                words += ["--process", str(number), "--addresses", ",".join(addresses)]
            path = self._logs / f"{self._starts:03d}-{number}.log"
            with path.open("wb") as out:
                processes.append(subprocess.Popen(words, stdout=out, stderr=out, start_new_session=True))
            files.append(path)
        return processes, files

    def wait_ready(self) -> None:
        """Until all say that they are ready.

        Raises:
            ClusterError: One ended, or took too long.
        """
        for number in range(len(self.processes)):
            wait_for(lambda number=number: self._dead() or self._ready(number), START_S, "a start", self.told)  # type: ignore[misc]
        if self._dead():
            message = f"a process ended by itself with {[one.poll() for one in self.processes]}: {self.told()}"
            raise ClusterError(message)

    def wait_died(self) -> None:
        """Until a process that was to kill itself has, and the others have ended for it.

        Raises:
            ClusterError: They go on.
        """
        wait_for(lambda: self.processes[-1].poll() is not None, START_S, "the kill that was armed", self.told)
        if self.processes[-1].returncode != -signal.SIGKILL:
            message = (
                f"expected a process to die by its own kill, found exit {self.processes[-1].returncode}: {self.told()}"
            )
            raise ClusterError(message)
        self.wait_ended()

    def wait_ended(self) -> None:
        """Until all processes have ended by themselves.

        Raises:
            ClusterError: One goes on.
        """
        wait_for(lambda: all(one.poll() is not None for one in self.processes), END_S, "all to end", self.told)

    def refused_beside(self) -> None:
        """Start another cluster on the same state, which must be refused.

        Raises:
            ClusterError: It is not, or not with the sentence that says why.
        """
        processes, files = self._started(self._beside, 1, None, 1)
        try:
            code = processes[0].wait(START_S)
        except subprocess.TimeoutExpired:
            processes[0].kill()
            processes[0].wait()
            message = f"a second start on the same state was not refused: {_end_of(files[0])}"
            raise ClusterError(message) from None
        if code == 0 or "open in another process" not in files[0].read_text(errors="replace"):
            message = f"expected the refusal 'open in another process', found exit {code}: {_end_of(files[0])}"
            raise ClusterError(message)

    def kill(self) -> None:
        """SIGKILL all, and wait for their death."""
        for one in self.processes:
            if one.poll() is None:
                os.kill(one.pid, signal.SIGKILL)
        for one in self.processes:
            one.wait()

    def stop(self) -> None:
        """SIGTERM; all must end well.

        Raises:
            ClusterError: One does not.
        """
        for one in self.processes:
            one.send_signal(signal.SIGTERM)
        for one in self.processes:
            try:
                one.wait(END_S)
            except subprocess.TimeoutExpired:
                message = f"SIGTERM did not end it within {END_S:g} s: {self.told()}"
                raise ClusterError(message) from None
        codes = [one.returncode for one in self.processes]
        if any(codes):
            message = f"expected exit 0 after SIGTERM, found {codes}: {self.told()}"
            raise ClusterError(message)

    def told(self) -> str:
        """The end of what the present start's processes wrote."""
        return "\n".join(_end_of(path) for path in self._files)

    def _dead(self) -> bool:
        return any(one.poll() is not None for one in self.processes)

    def _ready(self, number: int) -> bool:
        with contextlib.suppress(OSError, urllib.error.URLError):
            urllib.request.urlopen(f"http://127.0.0.1:{self._port + number}/readyz", timeout=2).close()
            return True
        return False


def _end_of(path: Path) -> str:
    return path.read_text(errors="replace")[-1_500:]


def any_alive(processes: Sequence[subprocess.Popen[bytes]]) -> bool:
    """Whether one of them runs."""
    return any(one.poll() is None for one in processes)
