"""How a process of Weir ends: its exit codes, and an end at once that leaves terminal and temporary files in order.

Weir is built to be killed at any moment, so an error ends the process where it is found: nothing runs that could commit
or publish after it, and the engine has no time to print its own stack above the sentence.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Final, NoReturn, ParamSpec, TypeVar

from schemas.errors import (
    BackupError,
    ConfigError,
    StateLayoutError,
    StateVersionError,
    StreamFencedError,
    StreamMissingError,
    StreamPositionError,
    WeirError,
)

FAILED: Final = 1
"""Something failed that a restart may cure: a disk that was full, a peer that was lost."""
REFUSED: Final = 2
"""Input, configuration or state is refused; the next start would refuse it again."""
ORPHANED: Final = 75
"""The process that started this one is gone."""
NO_PROGRESS: Final = 76
"""The watchdog ended a process that hung, or whose peer did."""
STOP_EXPIRED: Final = 77
"""Asked to stop, it did not end in order within the time given."""
GAVE_UP: Final = 78
"""The supervisor restarted too often within its window."""

_MEANINGS: Final = {
    FAILED: "failed",
    REFUSED: "refused its input, configuration or state",
    ORPHANED: "lost the process that had started it",
    NO_PROGRESS: "made no progress, or a peer of it did not",
    STOP_EXPIRED: "did not stop in time",
}

P = ParamSpec("P")
R = TypeVar("R")

Form = Callable[[str, int], str]
"""(message, exit code) -> the line that tells a process's end."""

_cleanups: list[Callable[[], None]] = []
_on_error: list[Callable[[WeirError], None]] = []
_forms: list[Form] = []


def exit_code(error: WeirError) -> int:
    """REFUSED when starting again cannot help, else FAILED."""
    refused = (
        BackupError,
        ConfigError,
        StateVersionError,
        StateLayoutError,
        StreamPositionError,
        StreamMissingError,
        StreamFencedError,
    )
    return REFUSED if isinstance(error, refused) else FAILED


def describe_exit(code: int) -> str:
    """What an exit code says, for a log line; negative or above 128: a signal."""
    number = -code if code < 0 else code - 128
    if code < 0 or number in set(signal.Signals):
        try:
            return f"was ended by {signal.Signals(number).name}"
        except ValueError:
            return f"was ended by signal {number}"
    return f"{_MEANINGS.get(code, 'failed')} (exit code {code})"


def at_death(cleanup: Callable[[], None]) -> Callable[[], None]:
    """Have `die` call `cleanup`; returns what takes that back."""
    _cleanups.append(cleanup)
    return lambda: _cleanups.remove(cleanup)


def form_deaths(form: Form | None) -> None:
    """Have `die` tell its message in this form, such as a line of JSON; None: as a sentence."""
    _forms[:] = [form] if form else []


def die(message: str, code: int) -> NoReturn:
    """End this process now, from whatever thread; what is not committed is computed again by the next start."""
    if _forms:
        message = _forms[0](message, code)
    elif sys.stderr.isatty():
        message = f"\x1b[?25h\x1b[31m{message}\x1b[0m"  # a live view may have hidden the cursor
    os.write(2, f"{message}\n".encode())  # not through sys.stderr, whose lock a stuck thread may hold
    for cleanup in list(_cleanups):
        cleanup()
    os._exit(code)


def end_on_errors(who: str) -> Callable[[], None]:
    """From now on an error of ours ends the process with its sentence; returns what undoes it.

    For programs; in a library call or a test errors are raised.
    """

    def end(error: WeirError) -> None:
        die(f"{who}: {error}", exit_code(error))

    _on_error.append(end)
    return lambda: _on_error.remove(end)


def deadly(call: Callable[P, R]) -> Callable[P, R]:
    """Decorate what bytewax calls: an error of ours does not travel through the engine where `end_on_errors` holds."""

    @functools.wraps(call)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except WeirError as error:
            for end in _on_error:
                end(error)
            raise

    return guarded
