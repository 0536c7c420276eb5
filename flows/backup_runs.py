"""Backs a running replay up every so often: a process of its own each time, so that the flow's is not slowed down.

A backup that fails is told (by a live flow as a line of its log) and counted; the flow goes on, and the next one is
made when it is due.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final

_ENDING_S: Final = 5.0
"""A flow that ends gives up a backup before we are told that it ends; a failure is believed only after this long."""
_GRACE_S: Final = 10.0
"""How long a backup under way may take to end when the flow does; it is no backup then, as it has no manifest."""

Tell = Callable[[str, float], object]
"""(what went wrong, seconds until the next one is due): tells of a backup that failed."""


def tell_stderr(error: str, every_s: float) -> None:
    """A sentence on stderr."""
    sys.stderr.write(f"weir: a backup failed, the next is due in {every_s:g} s: {error}\n")


class BackupRuns:
    """Starts `weir state backup` every `every_s` seconds; use as a context.

    Attributes:
        counts: Backups made and failed so far, for metrics.json.
    """

    def __init__(self, state: Path, url: str, every_s: float, keep: int, tell: Tell = tell_stderr) -> None:
        self.counts = {"made": 0, "failed": 0}
        self._every_s = every_s
        self._manifest = state / "manifest.json"
        self._tell = tell
        self._command = [sys.executable, "-m", "flows.cli", "state", "backup"]
        self._command += ["--state", str(state), "--to", url, "--keep", str(keep)]
        self._ending = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="weir-backups", daemon=True)

    def __enter__(self) -> BackupRuns:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._ending.set()
            if self._child is not None:
                self._child.terminate()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(self._every_s):
            if not self._manifest.is_file():
                continue  # the flow is making its folder: there is nothing to back up yet
            with self._lock:
                if self._ending.is_set():
                    return
                # A session of its own: Ctrl-C is for the flow, which ends this one.
                self._child = child = subprocess.Popen(  # noqa: S603  # our own command
                    self._command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
                )
            told = self._wait(child)
            with self._lock:
                self._child = None
                if self._ending.is_set():
                    return
            if child.returncode == 0:
                self.counts["made"] += 1
            elif self._ending.wait(_ENDING_S):
                return  # the flow had begun to end, and gave it up
            else:
                self.counts["failed"] += 1
                self._tell(told, self._every_s)

    def _wait(self, child: subprocess.Popen[bytes]) -> str:
        while True:
            try:
                _, errors = child.communicate(timeout=_GRACE_S)
            except subprocess.TimeoutExpired:
                if self._ending.is_set():
                    child.kill()
                continue
            return " ".join(errors.decode(errors="replace").split()[-80:])
