"""Ends a process in order at the first SIGTERM or SIGINT, at once at the second, by force when order takes too long.

    with StopSignals(within_s=10, who="weir") as stops:
        run.stop = stops.requested              # the flow looks at it before each batch
        ...

Python runs a signal's handler in the main thread and only between two of its instructions, so a main thread that waits
inside the engine would never hear the second signal. The interpreter's C handler, however, writes the number into a
pipe at once; a thread of its own reads it there.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Final

from flows.exits import STOP_EXPIRED, die

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_END: Final = 0
"""Byte that ends the thread; no signal has this number."""


class StopSignals:
    """Listens while its context lasts; make it in the main thread.

    Attributes:
        requested: Set by the first signal.
        number: That signal, 0 before.
    """

    def __init__(self, within_s: float, who: str, at_once: Callable[[], None] | None = None) -> None:
        """Prepare.

        Args:
            within_s: Time between the first signal and the end by force.
            who: Name for messages.
            at_once: Called before an end at once or by force, to end what this process has started.
        """
        self.requested = threading.Event()
        self.number = 0
        self._within_s = within_s
        self._who = who
        self._at_once = at_once
        self._pipe = (-1, -1)
        self._before: dict[int, object] = {}
        self._fd_before = -1
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)

    def __enter__(self) -> StopSignals:
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._fd_before = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _heard) for number in STOP_SIGNALS}
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() itself returned
        signal.set_wakeup_fd(self._fd_before)
        os.write(self._pipe[1], bytes([_END]))
        self._thread.join()
        for end in self._pipe:
            os.close(end)

    def _listen(self) -> None:
        deadline: float | None = None
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select([self._pipe[0]], [], [], left)
            if not readable:
                self._end(
                    f"{self._who}: not stopped in order within {self._within_s:g} s (--stop-within; in weir.toml "
                    "decide.stop_within); ended by force, nothing that was committed is lost; run the same command "
                    "again to go on",
                    STOP_EXPIRED,
                )
            for number in os.read(self._pipe[0], 64):
                if number == _END:
                    return
                if number not in STOP_SIGNALS:
                    continue
                if deadline is not None:
                    self._end(f"{self._who}: second signal, ended at once", 128 + number)
                deadline = time.monotonic() + self._within_s
                self.number = number
                self.requested.set()

    def _end(self, message: str, code: int) -> None:
        if self._at_once is not None:
            self._at_once()
        die(message, code)


def _heard(_number: int, _frame: FrameType | None) -> None:
    """The pipe has it already; a handler must be set for the number to get there."""
