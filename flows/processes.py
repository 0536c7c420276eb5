"""Looks at and ends process trees, by /proc; Linux only.

What a killed process has left behind may still write: a process that was stopped (SIGSTOP) wakes up later and goes on
as if nothing had happened. So ending a tree means SIGKILL to every process in it and waiting until each is dead.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_POLL_S: Final = 0.02
_TELL_EVERY_S: Final = 10.0

_libc = ctypes.CDLL(None, use_errno=True)


def descendants(pid: int) -> list[int]:
    """All processes that `pid` started, and theirs, the dead ones that nobody waited for included."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            status = _stat(int(entry.name))
            if status is not None:
                children.setdefault(int(status[1]), []).append(int(entry.name))
    found: list[int] = []
    queue = [pid]
    while queue:
        queue += (below := children.get(queue.pop(), []))
        found += below
    return found


def state_of(pid: int) -> str:
    """R, S, D, T (stopped), t (traced), Z (dead, not waited for); empty when there is no such process."""
    status = _stat(pid)
    return status[0] if status else ""


def command_of(pid: int) -> str:
    """Its command line, shortened, for a message."""
    try:
        words = (Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return "?"
    text = " ".join(word.decode(errors="replace") for word in words if word)
    return text if len(text) <= 80 else f"{text[:30]} ... {text[-45:]}"


def kill_descendants(tell: Callable[[str], None]) -> list[int]:
    """SIGKILL everything this process has started and wait for all deaths; returns who was still alive.

    Needs `adopt_orphans` to have been called before they were started: a process whose parent died is then our child,
    and cannot slip away. Waits as long as it takes (a process in the kernel's hands dies late), and tells so.
    """
    killed: dict[int, None] = {}
    told = time.monotonic()
    while True:
        alive = descendants(os.getpid())
        for pid in alive:
            if state_of(pid) not in ("Z", "X", ""):
                killed[pid] = None
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not alive:
            return list(killed)
        if time.monotonic() - told > _TELL_EVERY_S:
            told = time.monotonic()
            tell("; ".join(f"waiting for the death of process {pid} ({state_of(pid)})" for pid in alive))
        time.sleep(_POLL_S)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def die_with_parent() -> None:
    """Have the kernel SIGKILL this process when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG)."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third on: state, parent, ...; None when there is no such process."""
    try:
        text = (Path("/proc") / str(pid) / "stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()
