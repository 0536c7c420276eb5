"""Runs a replay as several processes on this host and ends them together."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_POLL_S: Final = 0.1
_ORPHAN_POLL_S: Final = 0.5
_GRACE_S: Final = 10.0
"""How long the others may take to end once one has: bytewax's peers notice a lost one within 3 s."""


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


def run_processes(commands: Sequence[Sequence[str]]) -> int:
    """Start all commands and wait for all; SIGTERM and SIGINT are passed on, and the first failure ends the rest.

    Returns:
        0 when all ended well, else the first exit code that was not 0 (128 + n for a signal n).
    """
    # A session of their own: Ctrl-C reaches this process alone, which passes it on once.
    children = [subprocess.Popen(command, start_new_session=True) for command in commands]  # noqa: S603  # our own

    def pass_on(number: int, _frame: FrameType | None) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        # Each is asked every time: one that hangs must not hide that another has died.
        while None in [child.poll() for child in children]:
            failed = _first_failure(children)
            if failed:
                _end(children)
                return failed
            time.sleep(_POLL_S)
        return _first_failure(children)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _end(children)


def _first_failure(children: Sequence[subprocess.Popen[bytes]]) -> int:
    codes = [child.returncode for child in children if child.returncode]
    return 0 if not codes else (codes[0] if codes[0] > 0 else 128 - codes[0])


def _end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _GRACE_S
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def end_with_parent() -> None:
    """End this process when its parent is gone: a lone member of a cluster must not go on holding its shards."""
    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):  # elsewhere than on Linux the watch alone must do
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_ORPHAN_POLL_S)
        sys.stderr.write("weir: the supervising process is gone; ending\n")
        os._exit(75)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
