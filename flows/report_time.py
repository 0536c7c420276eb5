"""Hours of event time → columns a reader can take in: hours, days, weeks or more, whatever fits the width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from flows.report_data import HOUR, Hour
from schemas.times import EPOCH

# Weeks begin on Monday, 1970-01-05. 96 hours is a multiple of every step below a week, so those are not moved by it.
_MONDAY_HOUR: Final = 96
_DAY: Final = 24
_WEEK: Final = 168

Ladder = tuple[tuple[int, int], ...]
"""(hours a bin, most bins): the first that fits is taken, the last without asking."""

# A column of the timeline wants two pixels or more on a screen of 360.
TIMELINE: Final[Ladder] = ((1, 96), (6, 84), (_DAY, 160), (_WEEK, 160), (4 * _WEEK, 160), (52 * _WEEK, 0))
# Periods are compared one by one and stand in a table.
PERIODS: Final[Ladder] = ((_DAY, 21), (_WEEK, 60), (4 * _WEEK, 60), (52 * _WEEK, 0))
_NAMES: Final = {
    1: "hour",
    6: "6 hours",
    _DAY: "day",
    _WEEK: "week",
    4 * _WEEK: "4 weeks",
    52 * _WEEK: "52 weeks",
}


@dataclass(frozen=True, slots=True)
class Bin:
    """Payments from `start_hour` (hours since 1970) up to, not including, `end_hour`."""

    start_hour: int
    end_hour: int
    counts: dict[str, int]
    frauds: dict[str, int]

    @property
    def start(self) -> datetime:
        """When it begins."""
        return _at(self.start_hour)

    @property
    def payments(self) -> int:
        """All payments in it."""
        return sum(self.counts.values())

    @property
    def fraud(self) -> int:
        """Frauds in it."""
        return sum(self.frauds.values())


@dataclass(frozen=True, slots=True)
class Bins:
    """Consecutive bins of one width, empty ones included.

    Attributes:
        name: The width in words: "hour", "day", "week".
        hours: The width.
        bins: In order of time; none when there are no payments.
    """

    name: str
    hours: int
    bins: tuple[Bin, ...]

    @property
    def start(self) -> datetime:
        """Start of the first bin."""
        return self.bins[0].start

    @property
    def end(self) -> datetime:
        """End of the last bin."""
        return _at(self.bins[-1].end_hour)


def rebin(hours: Mapping[int, Hour], ladder: Ladder) -> Bins:
    """Gather hours into bins of the finest width of `ladder` that needs few enough of them."""
    if not hours:
        return Bins(_NAMES[ladder[0][0]], ladder[0][0], ())
    first, last = min(hours), max(hours)
    width = next((step for step, most in ladder if _bin(last, step) - _bin(first, step) < most), ladder[-1][0])
    offset = _bin(first, width)
    bins = [
        Bin(number * width + _MONDAY_HOUR, (number + 1) * width + _MONDAY_HOUR, {}, {})
        for number in range(offset, _bin(last, width) + 1)
    ]
    for number, hour in hours.items():
        into = bins[_bin(number, width) - offset]
        for action, count in hour.counts.items():
            into.counts[action] = into.counts.get(action, 0) + count
        for action, count in hour.frauds.items():
            into.frauds[action] = into.frauds.get(action, 0) + count
    return Bins(_NAMES[width], width, tuple(bins))


def _bin(hour: int, width: int) -> int:
    return (hour - _MONDAY_HOUR) // width


def _at(hour: int) -> datetime:
    """The hour as a time; a bin that reaches over the ends of the calendar is cut there."""
    try:
        return EPOCH + hour * HOUR
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC) if hour > 0 else datetime.min.replace(tzinfo=UTC)
