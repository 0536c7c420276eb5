"""What a run measures of itself: events, seconds and snapshot stalls by stage; kept in memory, written out at the end.

Durations come from time.perf_counter; nothing here can reach a decision.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from flows.stalls import RunTimes, Stalls
from schemas import metrics

_STEPS_PER_DECADE: Final = 10
"""Resolution of the histogram: neighbouring buckets differ by 26 %; more buckets cost memory, fewer blur the p99."""
_FLOOR_S: Final = 1e-7
_BUCKETS: Final = 10 * _STEPS_PER_DECADE
EDGES_S: Final = tuple(_FLOOR_S * float(10 ** ((place + 1) / _STEPS_PER_DECADE)) for place in range(_BUCKETS))
"""Upper edge, in seconds, of each bucket but the last, which has none."""


class Histogram:
    """Durations in logarithmic buckets from 0.1 µs to 1,000 s."""

    __slots__ = ("buckets", "count", "largest_s", "total_s")

    def __init__(self) -> None:
        self.buckets = [0] * (_BUCKETS + 1)
        self.count = 0
        self.total_s = 0.0
        self.largest_s = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count a duration `times` times."""
        place = int(math.log10(seconds / _FLOOR_S) * _STEPS_PER_DECADE) if seconds > _FLOOR_S else 0
        self.buckets[min(place, _BUCKETS)] += times
        self.count += times
        self.total_s += seconds * times
        self.largest_s = max(self.largest_s, seconds)

    def quantile(self, share: float) -> float:
        """Upper edge, in seconds, of the bucket that holds the quantile; 0 when nothing was observed."""
        wanted = share * self.count
        seen = 0
        for place, number in enumerate(self.buckets):
            seen += number
            if number and seen >= wanted:
                return min(self.largest_s, _FLOOR_S * float(10 ** ((place + 1) / _STEPS_PER_DECADE)))
        return 0.0


class StageStats:
    """One stage's figures in this process.

    Attributes:
        name: The step's name.
        events: Events that passed it.
        per_event: Seconds an event, the batch's time shared evenly among its events.
        batches: Seconds a batch.
        snapshots: Seconds a snapshot, one shard each.
        at_first: Called once, when the first event has passed; None: nothing is.
    """

    __slots__ = ("_stalls", "at_first", "batches", "events", "name", "per_event", "snapshots")

    def __init__(self, name: str, stalls: Stalls | None = None) -> None:
        self._stalls = stalls or Stalls()
        self.name = name
        self.at_first: Callable[[], None] | None = None
        self.events = 0
        self.per_event = Histogram()
        self.batches = Histogram()
        self.snapshots = Histogram()

    def observe(self, seconds: float, events: int) -> None:
        """Count a batch that took `seconds` and held `events` events."""
        self.batches.observe(seconds)
        self._stalls.worked(time.perf_counter())
        if events:
            self.events += events
            self.per_event.observe(seconds / events, events)
            if self.at_first is not None:
                self.at_first()
                self.at_first = None

    def observe_snapshot(self, seconds: float) -> None:
        """Count a snapshot."""
        self.snapshots.observe(seconds)
        self._stalls.snapshot(seconds)

    def as_row(self) -> dict[str, float]:
        """Figures for metrics.json; microseconds an event."""
        return {
            "count": self.events,
            "total_s": round(self.batches.total_s, 6),
            "mean_us": _micros(self.per_event.total_s / self.per_event.count) if self.per_event.count else 0.0,
            "p50_us": _micros(self.per_event.quantile(0.5)),
            "p99_us": _micros(self.per_event.quantile(0.99)),
            "batch_p99_us": _micros(self.batches.quantile(0.99)),
            "snapshot_total_s": round(self.snapshots.total_s, 6),
            "snapshot_p99_us": _micros(self.snapshots.quantile(0.99)),
            "snapshot_max_us": _micros(self.snapshots.largest_s),
        }


def _micros(seconds: float) -> float:
    return round(seconds * 1e6, 2)


class Observer(Protocol):
    """Told of every record on its way out; a live process counts them for its metrics (flows/live_metrics.py)."""

    def decision(self, decision: Mapping[str, Any], /) -> None:
        """A decision, times in microseconds."""
        ...

    def duplicate(self) -> None:
        """The answer to a retry."""
        ...

    def labelled(self, outcome: Mapping[str, Any], /) -> None:
        """A labelled outcome."""
        ...

    def alert(self, alert: Mapping[str, Any], /) -> None:
        """An alert, its time in microseconds."""
        ...

    def dead_letter(self, topic: str, reason: str, /) -> None:
        """A dead letter."""
        ...


class RunStats:
    """All figures of one process: stages by name, counters by name and label, stalls, and when it came how far.

    Attributes:
        stages: Figures by stage.
        counters: Counters by name and label.
        stalls: At epochs' ends.
        times: When it came how far.
        observer: Told of every record on its way out, None: nobody is.
    """

    def __init__(self) -> None:
        self.stalls = Stalls()
        self.times = RunTimes()
        self.observer: Observer | None = None
        self.stages: dict[str, StageStats] = {}
        self.counters: dict[str, dict[str, int]] = {}

    def stage(self, name: str) -> StageStats:
        """The stage's figures, made on first use."""
        if name not in self.stages:
            self.stages[name] = StageStats(name, self.stalls)
        return self.stages[name]

    def count(self, counter: str, label: str, number: int = 1) -> None:
        """Add to a counter."""
        labels = self.counters.setdefault(counter, {})
        labels[label] = labels.get(label, 0) + number

    def as_dict(self) -> dict[str, object]:
        """Everything, for metrics.json."""
        return {
            "stages": {name: stage.as_row() for name, stage in self.stages.items()},
            "counters": {name: dict(sorted(labels.items())) for name, labels in sorted(self.counters.items())},
            metrics.SNAPSHOT_STALL.name: self.stalls.figures(),
            metrics.RUN_TIMES.name: self.times.figures(),
        }


def merge_rows(members: list[dict[str, Any]]) -> dict[str, Any]:
    """Stages and counters of several processes as one: counts add up, a quantile is the worst of theirs."""
    stages: dict[str, dict[str, float]] = {}
    counters: dict[str, dict[str, int]] = {}
    for member in members:
        for name, row in member["stages"].items():
            known = stages.setdefault(name, dict.fromkeys(row, 0.0))
            for figure, value in row.items():
                adds = figure in {"count", "total_s", "snapshot_total_s"}
                known[figure] = known[figure] + value if adds else max(known[figure], value)
        for name, labels in member["counters"].items():
            totals = counters.setdefault(name, {})
            for label, number in labels.items():
                totals[label] = totals.get(label, 0) + number
    for row in stages.values():
        row["mean_us"] = round(row["total_s"] / row["count"] * 1e6, 2) if row["count"] else 0.0
    slowest = {
        name: _largest([member[name] for member in members])
        for name in (metrics.SNAPSHOT_STALL.name, metrics.RUN_TIMES.name)
    }
    return {"stages": stages, "counters": counters, **slowest}


def _largest(rows: list[dict[str, float]]) -> dict[str, float]:
    """Each figure of the process in which it is largest."""
    return {name: max(row.get(name, 0.0) for row in rows) for name in dict.fromkeys(n for row in rows for n in row)}
