"""Latencies as an HDR histogram, and what the tail of them is made of."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from hdrh.histogram import HdrHistogram

from load_tests.open_loop import Timeline

PERCENTILES: Final = (50.0, 95.0, 99.0, 99.9, 100.0)
_MOST_US: Final = 600_000_000
_DIGITS: Final = 3
_APART_NS: Final = 100_000_000
"""Slow payments that were due closer together belong to one pause."""


def histogram() -> Any:
    """An empty one: microseconds from 1 to ten minutes, three digits exact."""
    return HdrHistogram(1, _MOST_US, _DIGITS)


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the way from the moment a payment is due to the moment its decision is read.

    Attributes:
        name: What it is.
        all_us: Percentiles of all payments, as PERCENTILES.
        slow_us: Mean over the slowest hundredth.
    """

    name: str
    all_us: tuple[int, ...]
    slow_us: float


@dataclass(frozen=True, slots=True)
class Latency:
    """What was measured.

    Attributes:
        payments: Counted ones.
        undecided: Of them without a decision.
        whole: Due to read.
        parts: The way in three: to the broker, through Weir, and back; by the broker's clock, in whole milliseconds.
        pauses: Groups of payments slower than the 99th percentile that came due close together.
        longest_pause_s: From the first payment due in such a group to the last.
        between_s: Median time between the beginnings of two such groups; 0 with fewer than two.
        encoded: The histogram in HDR's own portable form, as its tools read it.
    """

    payments: int
    undecided: int
    whole: tuple[int, ...]
    parts: tuple[Part, ...]
    pauses: int
    longest_pause_s: float
    between_s: float
    encoded: str


def measured(timeline: Timeline, first: int) -> Latency:
    """Latencies of the payments from number `first` on; those before it warmed up.

    Args:
        timeline: Of a run.
        first: Number of the first that counts.
    """
    whole = histogram()
    ways = [histogram() for _ in range(3)]
    rows: list[tuple[int, int, tuple[float, float, float]]] = []
    undecided = 0
    for number in range(first, len(timeline.due_ns)):
        due, seen = timeline.due_ns[number], timeline.seen_ns[number]
        if not seen:
            undecided += 1
            continue
        taken_us = (seen - due) // 1_000
        whole.record_value(max(1, taken_us))
        due_us = (due + timeline.offset_ns) // 1_000
        seen_us = (seen + timeline.offset_ns) // 1_000
        # The broker's clock has whole milliseconds, cut off: half of one is the fairest guess.
        appended_us = timeline.appended_ms[number] * 1_000 + 500
        decided_us = timeline.decided_ms[number] * 1_000 + 500
        split = (appended_us - due_us, decided_us - appended_us, seen_us - decided_us)
        for way, value in zip(ways, split, strict=True):
            way.record_value(max(1, value))
        rows.append((taken_us, due, split))
    slow = sorted(rows, reverse=True)[: max(1, len(rows) // 100)]
    starts, longest_ns = _pauses(sorted(due for _, due, _ in slow))
    gaps = sorted(after - before for before, after in pairwise(starts))
    names = ("due to appended: producer and broker", "appended to appended: Weir", "appended to read: broker, consumer")
    return Latency(
        len(timeline.due_ns) - first,
        undecided,
        _percentiles(whole),
        tuple(
            Part(name, _percentiles(way), sum(row[2][place] for row in slow) / max(1, len(slow)))
            for place, (name, way) in enumerate(zip(names, ways, strict=True))
        ),
        len(starts),
        longest_ns / 1e9,
        gaps[len(gaps) // 2] / 1e9 if gaps else 0.0,
        whole.encode().decode(),
    )


def _percentiles(found: Any) -> tuple[int, ...]:
    return tuple(int(found.get_value_at_percentile(one)) for one in PERCENTILES)


def _pauses(due: list[int]) -> tuple[list[int], int]:
    starts: list[int] = []
    longest = last = 0
    for one in due:
        if not starts or one - last > _APART_NS:
            starts.append(one)
        last = one
        longest = max(longest, last - starts[-1])
    return starts, longest
