"""Ends a process that makes no progress, with a sentence that says what it was last doing.

Progress is anything that is counted: a batch through a step, a snapshot, a shard opened, an epoch's end. Every epoch
ends in every process (flows/durable.py), also while the source is idle, so a process without progress hangs, or a peer
does: bytewax waits for a stopped peer for ever and says nothing.

A thread watches, and needs the interpreter's lock for it. Native code that never gives the lock back is the backstop's
case: a timer in C, wound up again by each look of the thread, prints all stacks and ends the process.
"""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final

from flows.exits import NO_PROGRESS, die
from flows.stats import RunStats

START_FACTOR: Final = 4
"""Until its first epoch has ended a process may take this many times as long: peers start at different speeds, and a
shard that is rolled back or an output that is adopted takes its time. Larger: a hang during start is found later."""
_BACKSTOP_S: Final = 5.0
"""How much later than the thread the timer in C fires; smaller, and a machine short of time would be taken for dead."""
_PACKAGES: Final = ("flows", "operators", "state", "schemas")
_ROOT: Final = Path(__file__).resolve().parent.parent


class Pulse:
    """Counts what is not counted elsewhere, a few times an epoch.

    Attributes:
        beats: Grows with all progress.
        epochs: Epochs that ended in this process.
        what: What was done last.
    """

    __slots__ = ("beats", "epochs", "what")

    def __init__(self) -> None:
        self.beats = 0
        self.epochs = 0
        self.what = "starting"

    def beat(self, what: str) -> None:
        """Count a piece of progress; `what` names it, as in "last: ..."."""
        self.beats += 1
        self.what = what

    def epoch_ended(self) -> None:
        """Count the end of an epoch."""
        self.epochs += 1
        self.beat(f"end of epoch {self.epochs} since the start")


class Watchdog:
    """Watches while its context lasts.

    Judges by its own clock, so that a machine or a process that was itself suspended is not taken for hung.
    """

    def __init__(
        self,
        pulse: Pulse,
        stats: RunStats,
        after_s: float,
        who: str,
        end: Callable[[str, int], object] = die,
    ) -> None:
        """Prepare.

        Args:
            pulse: Counted by source, sinks and stores.
            stats: Counted by the steps.
            after_s: Time without progress that is a hang; 0 switches the watchdog off. Must exceed the longest batch.
            who: Name for messages.
            end: Told the sentence and the exit code; tests give their own.
        """
        self._pulse = pulse
        self._stats = stats
        self._after_s = after_s
        self._who = who
        self._end = end
        self._poll_s = min(1.0, after_s / 10)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        if self._after_s > 0:
            self._wind_up()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._after_s > 0:
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    def _allowed_s(self) -> float:
        return self._after_s if self._pulse.epochs else self._after_s * START_FACTOR

    def _wind_up(self) -> None:
        faulthandler.dump_traceback_later(self._allowed_s() + _BACKSTOP_S, exit=True, file=2)

    def _watch(self) -> None:
        seen = self._counts()
        last = self._pulse.what
        looked = since = time.monotonic()
        while not self._done.wait(self._poll_s):
            now = time.monotonic()
            if now - looked > max(2.0, 4 * self._poll_s):
                since = now  # this thread did not run either: the whole process was stopped, or starved
            looked = now
            self._wind_up()
            counts = self._counts()
            if counts != seen:
                last = self._changed(seen, counts)
                seen, since = counts, now
            elif now - since > self._allowed_s():
                message = (
                    f"{self._who}: no progress for {now - since:.0f} s (--no-progress-after {self._after_s:g}; in "
                    f"weir.toml decide.no_progress_after); last: {last}; now {where_threads_are()}. Ended, so that a "
                    "supervisor starts it again (docs/runbooks/crash.md)"
                )
                self._end(message, NO_PROGRESS)
                return

    def _counts(self) -> dict[str, int]:
        stages = list(self._stats.stages.items())
        counts = {name: stage.batches.count + stage.snapshots.count for name, stage in stages}
        counts[""] = self._pulse.beats
        return counts

    def _changed(self, before: dict[str, int], after: dict[str, int]) -> str:
        """What has been done since, the step furthest down the flow; the pulse's word when no step has."""
        steps = [name for name, count in after.items() if name and count != before.get(name)]
        return f"a batch or snapshot of step {steps[-1]}" if steps else self._pulse.what


def where_threads_are() -> str:
    """Where this program's own code stands, or that all of it waits inside the engine."""
    ours = {thread.ident for thread in threading.enumerate() if thread is not threading.main_thread()}
    deepest: list[tuple[int, str]] = []
    for ident, frame in sys._current_frames().items():  # noqa: SLF001  # the only way to look at other threads
        if ident not in ours:
            deepest.append(_deepest(frame))
    depth, place = max(deepest, default=(0, ""))
    return f"in {place}" if depth else "waiting inside bytewax: a peer may hang"


def _deepest(frame: FrameType | None) -> tuple[int, str]:
    """(frames, place) of the innermost frame of ours below the engine; (0, "") when the engine itself runs."""
    place, depth = "", 0
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        own = path.is_relative_to(_ROOT) and path.relative_to(_ROOT).parts[0] in _PACKAGES
        if own and not place and frame.f_code.co_name == "_execute":
            return 0, ""
        if own:
            place = place or f"{path.relative_to(_ROOT)} line {frame.f_lineno}, {frame.f_code.co_name}"
            depth += 1
        frame = frame.f_back
    return (depth, place) if place else (0, "")
