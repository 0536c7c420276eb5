"""How long the flow stands still at an epoch's end, and how long a run takes until its first decision.

A stall is what an epoch's end costs: the steps' and outputs' snapshots, the sync of the disk, bytewax's own commit. The
source may not read on before all that is done. When its snapshot is asked for, the last batch is still on its way, and
working on it is no stall; so counted are the snapshots made meanwhile by steps that the batch has passed, and
everything from the last work on it to the source's next poll.

Durations come from time.perf_counter; nothing here can reach a decision.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from pathlib import Path
from typing import Final

_KEPT: Final = 4096
"""Stalls that quantiles are taken over, the latest: over an hour of epochs of a second. More would only cost memory."""


class Stalls:
    """Told by the source and by all stages of one process; only the process that reads the source has stalls.

    Attributes:
        seconds: The latest stalls.
        count: All of them.
        largest_s: The longest of all.
    """

    __slots__ = ("_before_s", "_since_work_s", "_worked_at", "count", "largest_s", "seconds")

    def __init__(self) -> None:
        self.seconds: deque[float] = deque(maxlen=_KEPT)
        self.count = 0
        self.largest_s = 0.0
        self._worked_at: float | None = None  # None: no epoch is ending
        self._before_s = 0.0
        self._since_work_s = 0.0

    def epoch_ends(self, now: float) -> None:
        """The source has made its snapshot."""
        self._worked_at = now
        self._before_s = self._since_work_s = 0.0

    def worked(self, now: float) -> None:
        """A stage has done with a batch, or a part of one."""
        if self._worked_at is not None:
            self._worked_at = now
            self._before_s += self._since_work_s
            self._since_work_s = 0.0

    def snapshot(self, seconds: float) -> None:
        """A step or an output has made a snapshot."""
        self._since_work_s += seconds

    def polled(self, now: float, *, idle: bool) -> None:
        """The source is asked for more; `idle`: it may have been waiting for that to be due, and not for snapshots."""
        if self._worked_at is None:
            return
        last_s = self._since_work_s if idle else now - self._worked_at
        self._worked_at = None
        stall_s = self._before_s + last_s
        self.seconds.append(stall_s)
        self.count += 1
        self.largest_s = max(self.largest_s, stall_s)

    def figures(self) -> dict[str, float]:
        """count, p50, p99 and max, in seconds; empty when no epoch has ended before another batch was read."""
        if not self.count:
            return {}
        ordered = sorted(self.seconds)
        return {
            "count": self.count,
            "p50": round(_quantile(ordered, 0.5), 6),
            "p99": round(_quantile(ordered, 0.99), 6),
            "max": round(self.largest_s, 6),
        }


def _quantile(ordered: list[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class RunTimes:
    """When a run came how far; seconds since the process began.

    Attributes:
        stores_s: Spent in opening stores and rolling them back, of all shards and steps together.
    """

    __slots__ = ("_marks", "_process_began", "stores_s")

    def __init__(self) -> None:
        self._process_began = time.perf_counter() - _process_age_s()
        self._marks: dict[str, float] = {}
        self.stores_s = 0.0

    def mark(self, name: str) -> None:
        """Note that `name` has happened now, unless it has before."""
        if name not in self._marks:
            self._marks[name] = time.perf_counter() - self._process_began

    def figures(self) -> dict[str, float]:
        """For metrics.json: every mark, and `stores`."""
        return {name: round(value, 3) for name, value in (*self._marks.items(), ("stores", self.stores_s))}


def _process_age_s() -> float:
    """Since when this process runs; where /proc does not tell, as much CPU time as it has used, which is less."""
    try:
        # Behind the program's name, which may hold blanks: the 20th word is the start in ticks since the system's.
        started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, AttributeError, ValueError):
        return time.process_time()
