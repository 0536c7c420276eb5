"""Numbers, percentages, durations and axis ticks as a reader wants them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

DAY: Final = timedelta(days=1)
_YEAR: Final = timedelta(days=365)
_STEPS: Final = (DAY / 24, DAY / 8, DAY / 4, DAY / 2, DAY, 2 * DAY, 7 * DAY, 14 * DAY)
_MONDAY: Final = datetime(1970, 1, 5, tzinfo=UTC)
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# The last step gives at most two ticks between the years 1 and 9999.
_MONTH_STEPS: Final = (1, 3, 6, 12, 24, 60, 120, 600, 6000, 60_000)


@dataclass(frozen=True, slots=True)
class Tick:
    """One mark on an axis.

    Attributes:
        at: Place on the axis, 0 at its start to 1 at its end.
        label: What stands beside it.
        minor: Left out on a narrow screen.
    """

    at: float
    label: str
    minor: bool = False


def whole(number: float) -> str:
    """12,345."""
    return f"{number:,.0f}"


def counted(number: int, noun: str) -> str:
    """1 payment, 2,000 payments."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def short(number: float) -> str:
    """An axis label: 12,345 below a hundred thousand, then 120 k, 1.2 M, 3 G."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e5, " k")):
        if number >= size:
            return f"{number / (1e3 if unit == ' k' else size):.3g}{unit}"
    return f"{number:,.3g}" if number < 10 else whole(number)


def percent(part: float, total: float) -> str:
    """12.3 %, with the digits a small share needs to differ from 0 %; a dash when there is no total."""
    if not total:
        return "—"
    share = 100.0 * part / total
    if share and share < 0.095:
        return f"{share:.2g} %" if share >= 0.001 else "< 0.001 %"
    if 99.95 <= share < 100.0:
        return "> 99.9 %"
    return f"{share:.1f} %"


def duration(microseconds: float) -> str:
    """A latency with three significant digits and its unit: 950 ns, 12.4 µs, 3.1 ms, 2 s."""
    for size, unit in ((1e6, "s"), (1e3, "ms"), (1.0, "µs")):
        if microseconds >= size * 0.9995:
            return f"{_three(microseconds / size)} {unit}"
    return f"{_three(microseconds * 1e3)} ns"


def _three(number: float) -> str:
    return f"{number:.3g}" if number < 999.5 else whole(number)


def day(at: datetime) -> str:
    """3 Apr 2018."""
    return f"{at.day} {_MONTHS[at.month - 1]} {at.year}"


def minute(at: datetime) -> str:
    """3 Apr 2018 14:05."""
    return f"{day(at)} {at:%H:%M}"


def count_axis(largest: float) -> tuple[float, list[Tick]]:
    """Top of a linear axis that starts at 0, and up to six ticks at whole round numbers."""
    step = 1.0
    if largest > 5:
        raw = largest / 5
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(
            round(power * factor)
            for factor in (1, 2, 2.5, 5, 10)
            if power * factor >= raw and _is_whole(power * factor)
        )
    top = max(1.0, math.ceil(largest / step)) * step
    return top, [Tick(index * step / top, short(index * step)) for index in range(round(top / step) + 1)]


def _is_whole(number: float) -> bool:
    return number == round(number)


def duration_axis(shortest: float, longest: float) -> tuple[float, float, list[Tick]]:
    """Decades around two times in µs (both > 0): exponent at the start, exponents spanned, a tick a decade."""
    low = math.floor(math.log10(shortest) + 1e-9)
    high = max(low + 1, math.ceil(math.log10(longest) - 1e-9))
    span = high - low
    return low, span, [Tick((power - low) / span, duration(10.0**power)) for power in range(low, high + 1)]


def unit_axis(parts: int = 5) -> list[Tick]:
    """0 to 1."""
    return [Tick(index / parts, f"{index / parts:g}") for index in range(parts + 1)]


def time_axis(start: datetime, end: datetime, most: int = 9) -> list[Tick]:
    """At most `most` ticks at round times from start to end: hours, days, Mondays, months, quarters or years."""
    span = end - start
    marks = next((_every(step, start, end) for step in _STEPS if span / step < most), None)
    years = marks is None
    if marks is None:
        marks = next(found for months in _MONTH_STEPS if len(found := _months(months, start, end)) <= most)
    by_year = years and len(marks) > 1 and all(mark.month == 1 for mark in marks) and marks[1].year > marks[0].year
    every_second = len(marks) > (4 if years else 5)
    return [
        Tick(
            (mark - start) / span,
            str(mark.year) if by_year else _time_label(mark, span > _YEAR),
            every_second and index % 2 == 1,
        )
        for index, mark in enumerate(marks)
    ]


def _every(step: timedelta, start: datetime, end: datetime) -> list[datetime]:
    first = _MONDAY + -((_MONDAY - start) // step) * step
    return [first + index * step for index in range(int((end - first) / step) + 1)] if first <= end else []


def _months(months: int, start: datetime, end: datetime) -> list[datetime]:
    number = start.year * 12 + start.month - 1
    number -= number % months
    marks = []
    while (year := number // 12) <= end.year:
        if year >= 1:
            mark = datetime(year, number % 12 + 1, 1, tzinfo=UTC)
            if start <= mark <= end:
                marks.append(mark)
        number += months
    return marks


def _time_label(at: datetime, years: bool) -> str:
    if years:
        return f"{_MONTHS[at.month - 1]} {at.year}"
    if at.hour:
        return f"{at:%H:%M}"
    return f"{at.day} {_MONTHS[at.month - 1]}"
