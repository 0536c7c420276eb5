"""A command, kept running: ended as a whole and started again, with growing pauses, until it ends well or cannot.

Before each start every process of the one before is dead: SIGKILLed, and waited for. One that was merely stopped could
wake up later, find itself a member of a cluster that is gone, and publish what the new one has published otherwise.
The other way round, a supervisor that dies takes its processes along.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from flows.exits import GAVE_UP, NO_PROGRESS, REFUSED, describe_exit
from flows.processes import (
    adopt_orphans,
    command_of,
    descendants,
    die_with_parent,
    kill_descendants,
    state_of,
)
from flows.stopping import StopSignals
from schemas.errors import ConfigError
from schemas.times import format_rfc3339_us

_POLL_S: Final = 0.1
_LOOK_EVERY_S: Final = 1.0
"""Between two looks at all processes; each reads /proc, some 10 ms on a busy host."""


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When to start again.

    Attributes:
        first_s: Pause before the first restart; doubles with each further one within the window, and each is shortened
            at random by up to half, so that clusters felled by one cause do not come back in one moment.
        longest_s: Longest pause.
        most: Restarts within the window before it gives up.
        window_s: The window.
        stopped_after_s: A process that is stopped by a signal for so long is taken for dead.
    """

    first_s: float = 1.0
    longest_s: float = 60.0
    most: int = 10
    window_s: float = 600.0
    stopped_after_s: float = 30.0

    def pause_s(self, restarts: int, rng: random.Random) -> float:
        """Pause before a restart, the `restarts`-th within the window."""
        longest = min(self.longest_s, self.first_s * 2.0 ** min(restarts - 1, 32))
        return longest * rng.uniform(0.5, 1.0)


class Supervisor:
    """Runs one command; see the module."""

    def __init__(self, command: Sequence[str], policy: RestartPolicy) -> None:
        self._command = list(command)
        self._policy = policy
        self._rng = random.Random()  # noqa: S311  # spreads restarts; guards nothing
        self._killing = threading.Lock()

    def run(self, stops: StopSignals) -> int:
        """Keep the command running.

        Returns:
            0 when it ended well, also after a signal; REFUSED when it refused its configuration; GAVE_UP after too many
            restarts; else what it ended with when it was to stop.

        Raises:
            ConfigError: The command cannot be started.
        """
        policy = self._policy
        adopt_orphans()
        restarts: deque[float] = deque()
        while True:
            code, reason = self._run_once(stops)
            killed = self.kill()
            if killed:
                _tell("killed", f"killed what was left of it, all dead: {_list(killed)}", pids=killed)
            if code == 0 or stops.requested.is_set():
                _tell("ended", "ended in order" if code == 0 else f"ended while it was to stop: {reason}", code=code)
                return code
            if code == REFUSED:
                _tell("refused", f"not started again: {reason}; the next start would end the same way", code=code)
                return code
            now = time.monotonic()
            while restarts and now - restarts[0] > policy.window_s:
                restarts.popleft()
            if len(restarts) >= policy.most:
                _tell(
                    "gave_up",
                    f"gave up: {reason}; {len(restarts)} restarts within {policy.window_s:g} s (--most-restarts, "
                    "--window); see docs/runbooks/crash.md",
                    code=code,
                )
                return GAVE_UP
            restarts.append(now)
            pause_s = policy.pause_s(len(restarts), self._rng)
            _tell(
                "restart",
                f"restart {len(restarts)} of {policy.most} within {policy.window_s:g} s, in {pause_s:.1f} s: {reason}",
                code=code,
                pause_s=round(pause_s, 2),
                restarts=len(restarts),
            )
            if stops.requested.wait(pause_s):
                _tell("ended", "told to stop between two runs", code=0)
                return 0

    def kill(self) -> list[int]:
        """Kill every process of the command and wait until all are dead; called from any thread."""
        with self._killing:
            return kill_descendants(lambda text: _tell("waiting", text))

    def kill_at_once(self) -> None:
        """As `kill`, for an end by force."""
        self.kill()

    def _run_once(self, stops: StopSignals) -> tuple[int, str]:
        """Start the command and wait for its end, or for a reason to end it: (exit code, reason)."""
        try:
            child = subprocess.Popen(  # noqa: S603  # what the operator told us to run
                self._command,
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which passes it on once
                preexec_fn=_tied_to(os.getpid()),  # noqa: PLW1509  # one thread beside this one, which holds no lock
            )
        except OSError as error:
            message = f"supervise: {self._command[0]!r} cannot be started ({error.strerror}); give a program's path"
            raise ConfigError(message) from error
        _tell("started", f"started process {child.pid}: {command_of(child.pid)}", pid=child.pid)
        passed_on = False
        looked = time.monotonic()
        stopped_since: dict[int, float] = {}
        while True:
            code = child.poll()
            if code is not None:
                return (code if code >= 0 else 128 - code), f"process {child.pid} {describe_exit(code)}"
            if stops.requested.is_set() and not passed_on:
                passed_on = True
                child.send_signal(stops.number)
            now = time.monotonic()
            if now - looked >= _LOOK_EVERY_S:
                looked = now
                stopped = [pid for pid in descendants(os.getpid()) if state_of(pid) == "T"]
                stopped_since = {pid: stopped_since.get(pid, now) for pid in stopped}
                for pid, since in stopped_since.items():
                    if now - since >= self._policy.stopped_after_s:
                        reason = f"process {pid} was stopped by a signal for {now - since:.0f} s: {command_of(pid)}"
                        return NO_PROGRESS, reason
            time.sleep(_POLL_S)


def _tied_to(parent: int) -> Callable[[], None]:
    """What the child does before it becomes the command: die with us, and at once if we are dead already."""

    def tie() -> None:
        die_with_parent()
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    return tie


def _list(pids: list[int]) -> str:
    return ", ".join(map(str, pids))


def _tell(event: str, text: str, **fields: object) -> None:
    """One line: a sentence on a terminal, JSON elsewhere."""
    if sys.stdout.isatty():
        print(f"weir supervise: {text}", flush=True)
        return
    at = format_rfc3339_us(time.time_ns() // 1000)
    print(json.dumps({"at": at, "event": f"supervise.{event}", "text": text, **fields}), flush=True)
