"""Runs a replay as several processes on this host and ends them together."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Final

from flows.exits import ORPHANED, REFUSED, die
from flows.processes import die_with_parent, state_of
from flows.stopping import StopSignals

_PARENT: Final = "WEIR_PARENT_PID"
_POLL_S: Final = 0.1
_ORPHAN_POLL_S: Final = 0.5
_GRACE_S: Final = 0.3
"""How long the others may go on once one has failed: enough for those that fail of themselves at the same moment to say
so. A kill is safe, and left to themselves they would only add the engine's stacks of a lost connection."""
CLUSTER_GRACE_S: Final = 3.0
"""How much longer than its processes the whole may take to stop, so that theirs are the messages."""


def free_addresses(count: int) -> tuple[str, ...]:
    """Loopback addresses on ports that are free now; new for every start, since a killed cluster's ports linger."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return tuple(f"127.0.0.1:{one.getsockname()[1]}" for one in sockets)
    finally:
        for one in sockets:
            one.close()


class Cluster:
    """The processes of one run.

    A signal to stop is passed on to each once; the first failure ends the rest.
    """

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[bytes]] = []

    def run(self, commands: Sequence[Sequence[str]], stops: StopSignals) -> int:
        """Start all commands and wait for all.

        Returns:
            0 when all ended well, or were stopped before they had begun; else the exit code of a failed one (128 + n
            for a signal n), REFUSED before others: what all refuse must not be started again.
        """
        environment = {**os.environ, _PARENT: str(os.getpid())}
        # A session of their own: Ctrl-C reaches this process alone, which passes it on once.
        # Their stdout goes to our stderr: the engine chats there while they connect, and stdout may be a log of JSON.
        for command in commands:
            child = subprocess.Popen(command, start_new_session=True, env=environment, stdout=2)  # noqa: S603  # our own
            self._children.append(child)
        passed_on = False
        try:
            while not self._failures() and any(child.returncode is None for child in self._children):
                if stops.requested.is_set() and not passed_on:
                    passed_on = True
                    for child in self._children:
                        child.send_signal(stops.number)
                time.sleep(_POLL_S)
            failures = self._failures()
            if failures:
                time.sleep(_GRACE_S)
                failures += [code for code in self._failures() if code not in failures]
                self._tell_stopped()
            return _verdict(failures, stops.number)
        finally:
            self.kill()

    def kill(self) -> None:
        """End all at once; called from any thread."""
        for child in self._children:
            if child.returncode is None:
                child.kill()
        for child in self._children:
            child.wait()

    def _failures(self) -> list[int]:
        """Exit codes, other than 0, of those that have ended."""
        return [code for child in self._children if (code := child.poll())]

    def _tell_stopped(self) -> None:
        for number, child in enumerate(self._children):
            if child.poll() is None and state_of(child.pid) in ("T", "t"):
                sys.stderr.write(
                    f"weir: process {number} of {len(self._children)} (pid {child.pid}) was stopped by a signal and "
                    "held up the others; killed\n"
                )


def _verdict(failures: list[int], stopped_by: int) -> int:
    own = [code for code in failures if code != -stopped_by]  # the signal came before the process could listen
    if REFUSED in own:
        return REFUSED
    return 0 if not own else own[0] if own[0] > 0 else 128 - own[0]


def end_with_parent() -> None:
    """End this process when the one that started it is gone: a lone member must not go on holding its shards."""
    parent = int(os.environ.get(_PARENT, os.getppid()))
    die_with_parent()  # elsewhere than on Linux the watch alone must do

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_ORPHAN_POLL_S)
        die("weir: the process that started this one is gone; ended", ORPHANED)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
