"""Charts as inline SVG that fit any width without a script.

Every coordinate along a plot is a percentage of it, so the picture stretches with the page while text keeps its
size; what must be drawn as a path lies in a nested <svg> that stretches its unit square over the plot. Axis labels
hang outside the plot (overflow is visible), in the padding that the style sheet gives `.plot`. Colours are classes,
so that the style sheet can turn them over for a dark page. Everything that comes from data is escaped here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate
from typing import Final

from flows.report_axis import Tick

# Longer names run out of half a page at 12 pixel text; the whole name is in the tooltip and table.
MAX_LABEL: Final = 40
# Pixels for a row's name on a screen of 360: all of the card, and what the numbers at the row's other end leave.
_NARROW: Final = 290.0
_NARROW_BESIDE: Final = 145.0
_ROW: Final = 40
_BAR: Final = 10


@dataclass(frozen=True, slots=True)
class Chart:
    """Name and words of a chart: `ident` is unique on the page, title and description are for those who hear it."""

    ident: str
    title: str
    description: str
    tall: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """Values of one kind, drawn in the colour of class `css`."""

    name: str
    css: str
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Mark:
    """A labelled point in the unit square."""

    x: float
    y: float
    css: str
    title: str


@dataclass(frozen=True, slots=True)
class Row:
    """A named line of horizontal bars.

    Attributes:
        label: Name above the bars.
        parts: (class, value) drawn end to end, to the scale of the largest row.
        text: Behind the parts.
        share: 0..1 for the second bar; None draws none.
        share_text: Behind the second bar.
        title: Tooltip.
        faint: Drawn lighter, for what had no effect.
    """

    label: str
    parts: Sequence[tuple[str, float]]
    text: str
    title: str
    share: float | None = None
    share_text: str = ""
    faint: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """A named range on a logarithmic axis: low to high with a point in between, as shares of the axis."""

    label: str
    low: float
    high: float
    middle: float | None
    text: str
    title: str


def columns(
    chart: Chart, titles: Sequence[str], series: Sequence[Series], top: float, y: Sequence[Tick], x: Sequence[Tick]
) -> str:
    """Stacked columns side by side over the whole width, first series at the bottom.

    Args:
        chart: Its words.
        titles: Tooltip of each column.
        series: As many values each as there are titles.
        top: Value at the top of the plot.
        y: Ticks of the values.
        x: Ticks along the width; a column's left edge is at index / columns.
    """
    width = 100.0 / max(1, len(titles))
    parts = []
    for index, title in enumerate(titles):
        left = index * width
        parts.append(f"<g class=col><title>{escape(title)}</title>{_hit(left, width)}")
        base = 0.0
        for one in series:
            value = one.values[index]
            if value > 0:
                height = 100.0 * value / top
                parts.append(_rect(one.css, left + 0.08 * width, 100.0 - base - height, 0.84 * width, height))
                base += height
        parts.append("</g>")
    return _plot(chart, "".join(parts), y, x)


def histogram(
    chart: Chart,
    titles: Sequence[str],
    series: Sequence[Series],
    axis: tuple[float, float],
    y: Sequence[Tick],
    x: Sequence[Tick],
) -> str:
    """Overlaid outlines over equal bins on a logarithmic count axis; a series is painted over the one before it.

    Args:
        chart: Its words.
        titles: Tooltip of each bin.
        series: As many values (log10 of the count, -inf for none) each as there are titles.
        axis: Exponent at the bottom and exponents spanned.
        y: Ticks of the counts.
        x: Ticks along the bins.
    """
    low, span = axis
    parts = []
    for one in series:
        steps = [f"M0 {_unit(1000)}"]
        for index, value in enumerate(one.values):
            height = min(1.0, max(0.0, (value - low) / span))
            left, right = 1000 * index / len(one.values), 1000 * (index + 1) / len(one.values)
            steps.append(f"L{_unit(left)} {_unit(1000 - 1000 * height)}H{_unit(right)}")
        parts.append(_stretched(f'<path class="area {one.css}" d="{"".join(steps)}V1000Z"/>'))
    width = 100.0 / max(1, len(titles))
    for index, title in enumerate(titles):
        parts.append(f"<g class=col><title>{escape(title)}</title>{_hit(index * width, width)}</g>")
    return _plot(chart, "".join(parts), y, x)


def step_curve(
    chart: Chart,
    xs: Sequence[float],
    ys: Sequence[float],
    marks: Iterable[Mark],
    level: float | None,
    y: Sequence[Tick],
    x: Sequence[Tick],
) -> str:
    """A falling or rising stair through the unit square, the value of a step holding from the x before to its own.

    Args:
        chart: Its words.
        xs: Rising, 0..1.
        ys: 0..1, same length.
        marks: Points put over the curve.
        level: A dashed horizontal line, None for none.
        y: Ticks of ys.
        x: Ticks of xs.
    """
    path = "".join(
        f"{'M0 ' if index == 0 else 'V'}{_unit(1000 - 1000 * at)}H{_unit(1000 * right)}"
        for index, (right, at) in enumerate(zip(xs, ys, strict=True))
    )
    dashes = "" if level is None else _line("level", 0, 100 - 100 * level, 100, 100 - 100 * level)
    return _plot(chart, dashes + _stretched(f'<path class="line" d="{path}"/>') + _circles(marks), y, x)


def points(chart: Chart, marks: Sequence[Mark | None], y: Sequence[Tick], x: Sequence[Tick]) -> str:
    """Points joined by a line; None leaves a gap."""
    path = ""
    pen = "M"
    for mark in marks:
        if mark is None:
            pen = "M"
            continue
        path += f"{pen}{_unit(1000 * mark.x)} {_unit(1000 - 1000 * mark.y)}"
        pen = "L"
    line = _stretched(f'<path class="line" d="{path}"/>') if path else ""
    return _plot(chart, line + _circles(mark for mark in marks if mark), y, x)


def bars(chart: Chart, rows: Sequence[Row]) -> str:
    """Horizontal bars under their names; a second bar at the right shows a share of one.

    The bars of the first kind take up to 38 % of the width and those of the second up to 20 %, so that the numbers
    behind them have room on a screen of 360 pixels.
    """
    two = any(row.share is not None for row in rows)
    longest = max((sum(value for _, value in row.parts) for row in rows), default=0.0) or 1.0
    room = 38.0 if two else 70.0
    body = []
    for index, row in enumerate(rows):
        top = index * _ROW
        body.append(f'<g class="row{" faint" if row.faint else ""}"><title>{escape(row.title)}</title>')
        body.append(f'<rect class="hit" x="0" y="{top}" width="100%" height="{_ROW}"/>')
        body.append(_name("name", top + 15, row.label, _NARROW))
        left = 0.0
        for css, value in row.parts:
            width = room * value / longest
            body.append(_bar(css, left, top + 22, width))
            left += width
        body.append(_text("value", left, top + 31, row.text, dx=6))
        if row.share is not None:
            body.append(_bar("track", 60.0, top + 22, 20.0) + _bar("share", 60.0, top + 22, 20.0 * row.share))
        if row.share_text:
            body.append(_text("value", 80.0, top + 31, row.share_text, dx=6))
        body.append("</g>")
    return _rows(chart, "".join(body), len(rows) * _ROW)


def spans(chart: Chart, rows: Sequence[Span], x: Sequence[Tick]) -> str:
    """Ranges under their names over one logarithmic axis, its ticks below the last row."""
    height = len(rows) * _ROW
    body = [_line("grid", 100 * tick.at, 0, 100 * tick.at, 100) + _x_label(tick, flush=True) for tick in x]
    for index, row in enumerate(rows):
        top = index * _ROW
        body.append(f'<g class="row"><title>{escape(row.title)}</title>')
        body.append(f'<rect class="hit" x="0" y="{top}" width="100%" height="{_ROW}"/>')
        body.append(_name("name halo", top + 15, row.label, _NARROW_BESIDE))
        body.append(_text("value end halo", 100, top + 15, row.text))
        body.append(_bar("range", 100 * row.low, top + 24, max(0.0, 100 * (row.high - row.low)), height=4))
        body.append(f'<circle class="low" cx="{_share(100 * row.low)}" cy="{top + 26}" r="5"/>')
        body.append(f'<circle class="high" cx="{_share(100 * row.high)}" cy="{top + 26}" r="5"/>')
        if row.middle is not None:
            left = _share(100 * row.middle)
            body.append(f'<line class="mean" x1="{left}" x2="{left}" y1="{top + 19}" y2="{top + 33}"/>')
        body.append("</g>")
    return _rows(chart, "".join(body), height, axis=True)


def shorten(text: str) -> str:
    """At most MAX_LABEL characters, the cut shown by an ellipsis."""
    return text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 1] + "…"


def _plot(chart: Chart, body: str, y: Sequence[Tick], x: Sequence[Tick]) -> str:
    grid = "".join(_line("grid", 0, 100 - 100 * tick.at, 100, 100 - 100 * tick.at) for tick in y)
    labels = "".join(
        f'<text class="tick y" x="0" dx="-8" y="{_share(100 - 100 * t.at)}" dy=".32em">{escape(t.label)}</text>'
        for t in y
    )
    base = _line("axis", 0, 100, 100, 100)
    return (
        f'<div class="plot{" tall" if chart.tall else ""}">{_open(chart)}'
        f"{grid}{body}{base}{labels}{''.join(_x_label(tick) for tick in x)}</svg></div>"
    )


def _rows(chart: Chart, body: str, height: int, axis: bool = False) -> str:
    return f'<div class="rows{" axed" if axis else ""}">{_open(chart, height)}{body}</svg></div>'


def _open(chart: Chart, height: int | None = None) -> str:
    ident = escape(chart.ident)
    size = "" if height is None else f' height="{height}"'
    return (
        f'<svg class="chart" role="img" width="100%"{size} aria-labelledby="{ident}-t {ident}-d">'
        f'<title id="{ident}-t">{escape(chart.title)}</title><desc id="{ident}-d">{escape(chart.description)}</desc>'
    )


def _x_label(tick: Tick, flush: bool = False) -> str:
    """Centred under its place, but for what would stick out: `flush` when nothing is left of the plot either."""
    place = "start" if flush and tick.at < 0.005 else "end" if tick.at > 0.995 and len(tick.label) > 2 else "mid"
    css = f"tick x {place}{' minor' if tick.minor else ''}"
    return f'<text class="{css}" x="{_share(100 * tick.at)}" y="100%" dy="18">{escape(tick.label)}</text>'


def _text(css: str, left: float, baseline: float, text: str, dx: int = 0) -> str:
    shift = f' dx="{dx}"' if dx else ""
    return f'<text class="{css}" x="{_share(left)}" y="{baseline:g}"{shift}>{escape(text)}</text>'


def _name(css: str, baseline: float, text: str, narrow: float) -> str:
    """A row's name; what is longer than `narrow` pixels gives way to an ellipsis on a narrow screen."""
    whole = shorten(text)
    words = escape(whole)
    widths = list(accumulate(map(_pixels, whole)))
    if widths and widths[-1] > narrow:
        room = bisect_right(widths, narrow - _pixels("…"))
        head, tail = escape(whole[:room]), escape(whole[room:])
        words = f'{head}<tspan class="rest">{tail}</tspan><tspan class="cut">…</tspan>'
    return f'<text class="{css}" x="0" y="{baseline:g}">{words}</text>'


def _pixels(letter: str) -> float:
    """Width of a letter of a row's name in the widest of the usual system fonts."""
    if not letter.isascii():
        return 12.5
    return 9.8 if letter.isupper() or letter in "mw@%&" else 7.4


def _bar(css: str, left: float, top: float, width: float, height: int = _BAR) -> str:
    return f'<rect class="{escape(css)}" x="{_share(left)}" y="{top:g}" width="{_share(width)}" height="{height}"/>'


def _rect(css: str, left: float, top: float, width: float, height: float) -> str:
    place = f'x="{_share(left)}" y="{_share(top)}" width="{_share(width)}" height="{_share(height)}"'
    return f'<rect class="{escape(css)}" {place}/>'


def _hit(left: float, width: float) -> str:
    return f'<rect class="hit" x="{_share(left)}" y="0" width="{_share(width)}" height="100%"/>'


def _line(css: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{css}" x1="{_share(x1)}" y1="{_share(y1)}" x2="{_share(x2)}" y2="{_share(y2)}"/>'


def _circles(marks: Iterable[Mark]) -> str:
    return "".join(
        f'<circle class="dot {escape(mark.css)}" cx="{_share(100 * mark.x)}" cy="{_share(100 - 100 * mark.y)}" r="5">'
        f"<title>{escape(mark.title)}</title></circle>"
        for mark in marks
    )


def _stretched(path: str) -> str:
    return (
        f'<svg class="fit" viewBox="0 0 1000 1000" preserveAspectRatio="none" width="100%" height="100%">{path}</svg>'
    )


def _share(number: float) -> str:
    return f"{number:.3f}".rstrip("0").rstrip(".") + "%"


def _unit(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
