"""What was decided and what it was worth: headline numbers, actions, money, decisions over time, frauds over time."""

from __future__ import annotations

from typing import Final

from flows.report_axis import count_axis, counted, day, duration, minute, percent, short, time_axis, unit_axis, whole
from flows.report_charts import Chart, Mark, Row, Series, bars, columns, points
from flows.report_data import ACTIONS, APPROVE, ReportData
from flows.report_page import (
    Column,
    Section,
    Tile,
    axis_name,
    behind,
    card,
    empty,
    heading,
    legend,
    pair,
    paragraph,
    table,
    tiles,
)
from flows.report_time import PERIODS, TIMELINE, Bin, Bins, rebin
from schemas.iso import CURRENCY_EXPONENT

# Time ticks in a chart of half the page's width.
_HALF_WIDTH: Final = 7
WORDS: Final = {"approve": "approved", "challenge": "challenged", "review": "sent to review", "decline": "declined"}


def lead(data: ReportData) -> str:
    """The page's first sentences."""
    if not data.payments or data.first is None or data.last is None:
        return paragraph("No payments were decided: there is no decisions.jsonl, or it holds no decisions.", "lead")
    first, last = day(data.first), day(data.last)
    shares = [
        f"{percent(tally.count, data.payments)} {WORDS.get(tally.name, tally.name)}"
        for tally in data.actions
        if tally.count
    ]
    when = f"on {first}" if first == last else f"from {first} to {last}"
    text = f"{counted(data.payments, 'payment')} decided {when}: {', '.join(shares)}."
    if data.frauds:
        caught = _caught(data)
        stopped = any(tally.count for tally in data.actions if tally.name != APPROVE)
        found = f"of which {percent(caught, data.frauds)} were caught" if stopped else "none caught: all was approved"
        text += f" Known frauds: {whole(data.frauds)}, {found}."
    return paragraph(text, "lead") + "".join(paragraph(note, css) for note, css in _notes(data))


def _notes(data: ReportData) -> list[tuple[str, str]]:
    labels = data.labels
    notes = []
    if labels.source:
        missing = len(labels.fraud) - data.frauds
        text = (
            f"Labels are from {labels.source}. A payment without a fraud outcome counts as genuine here, so "
            "the newest payments look better than they will turn out when their outcomes have not arrived."
        )
        if missing:
            text += f" Fraud outcomes without a decision here: {whole(missing)}."
        notes.append((text, "note"))
    else:
        notes.append(("No outcomes were found: every payment counts as genuine here.", "warn"))
    if data.unreadable or labels.unreadable:
        lines = f"{counted(data.unreadable, 'line')} of the output, {counted(labels.unreadable, 'outcome')}"
        notes.append((f"Unreadable and left out: {lines}.", "warn"))
    return notes


def headline(data: ReportData, metrics: dict[str, object]) -> str:
    """The numbers at the top."""
    stopped = data.payments - next(tally.count for tally in data.actions if tally.name == APPROVE)
    caught = _caught(data)
    curve = data.scores.curve
    reasons = len({letters.reason for letters in data.dead_letters})
    dead = sum(letters.count for letters in data.dead_letters)
    entries = [
        Tile("payments decided", whole(data.payments), _span(data)),
        Tile("not approved", percent(stopped, data.payments), counted(stopped, "payment")),
        Tile("frauds caught", percent(caught, data.frauds), f"{whole(caught)} of {whole(data.frauds)} frauds"),
        Tile("of those not approved were fraud", percent(caught, stopped), f"{whole(stopped - caught)} were genuine"),
        Tile(
            "average precision of the score",
            f"{curve.average_precision:.3f}" if curve else "—",
            f"{percent(data.scores.scored, data.payments)} of payments scored",
        ),
        _rate(metrics),
        Tile("payments came late", whole(data.late), percent(data.late, data.payments)),
        Tile("duplicates answered", whole(data.duplicates), "with the decision already made"),
        Tile("dead letters", whole(dead), f"of {counted(reasons, 'kind')}" if dead else "every record could be read"),
    ]
    if data.deadline_missed or data.fallbacks:
        entries.append(
            Tile("deadlines missed", whole(data.deadline_missed), f"{whole(data.fallbacks)} decided by a fallback")
        )
    return tiles(entries)


def _span(data: ReportData) -> str:
    if data.first is None or data.last is None:
        return ""
    hours = (data.last - data.first).total_seconds() / 3600
    return f"over {whole(hours / 24)} days of event time" if hours >= 48 else f"over {hours:.3g} hours of event time"


def _rate(metrics: dict[str, object]) -> Tile:
    """Of the run that ended the replay: one that was resumed decided only a part of the payments."""
    rate, seconds = metrics.get("payments_per_s"), metrics.get("wall_s")
    if not isinstance(rate, int | float) or not isinstance(seconds, int | float):
        return Tile("payments a second", "—", "not measured")
    return Tile("payments a second", whole(rate), f"in {duration(seconds * 1e6)} of wall time")


def _caught(data: ReportData) -> int:
    return sum(tally.fraud for tally in data.actions if tally.name != APPROVE)


def decided(data: ReportData) -> Section:
    """Actions with the frauds among them, and money by currency."""
    shown = [tally for tally in data.actions if tally.count or tally.name in ACTIONS]
    rows = [
        [
            tally.name,
            whole(tally.count),
            percent(tally.count, data.payments),
            whole(tally.fraud),
            percent(tally.fraud, tally.count),
            percent(tally.fraud, data.frauds),
        ]
        for tally in shown
    ]
    actions = table(
        "Payments by action",
        [
            Column("action"),
            *(Column(name, number=True) for name in ("payments", "share", "frauds", "of them fraud", "of all fraud")),
        ],
        rows,
        whole=True,
    )
    where = bars(
        Chart(
            "chart-actions",
            "Where the frauds went",
            "Frauds by the action their payment got; the table beside it has all figures.",
        ),
        [
            Row(
                label=tally.name,
                parts=[(css(tally.name), tally.fraud)],
                text=f"{whole(tally.fraud)} · {percent(tally.fraud, data.frauds)}",
                title=f"{tally.name}: {whole(tally.fraud)} of {whole(data.frauds)} frauds",
            )
            for tally in shown
        ],
    )
    right = card(heading("Where the frauds went", "Frauds by the action their payment got."), where)
    left = card(heading("Actions", "A fraud is caught when its payment was anything but approved."), actions)
    body = pair(left, right) if data.frauds else card(heading("Actions"), actions)
    return Section("actions", "Actions", "What was decided", body + _money(data))


def _money(data: ReportData) -> str:
    if not data.money:
        return ""
    rows = [
        [
            money.currency,
            whole(money.payments),
            major(money.total, money.currency),
            major(money.fraud, money.currency),
            major(money.caught, money.currency),
            percent(money.caught, money.fraud),
        ]
        for money in data.money
    ]
    names = ("payments", "amount", "fraud", "fraud caught", "caught")
    caption = "Amounts by currency of the payment"
    header = [Column("currency"), *(Column(name, number=True) for name in names)]
    return card(heading("Money", "Amounts in the currency of the payment."), table(caption, header, rows))


def over_time(data: ReportData) -> Section:
    """Decisions by action along event time: all of them, and those that were not approved."""
    name = "Decisions over time"
    timeline = rebin(data.hours, TIMELINE)
    if not timeline.bins:
        return Section("time", "Over time", name, empty("There are no decisions to draw."))
    actions = [tally.name for tally in data.actions if tally.count]
    stopped = [action for action in actions if action != APPROVE]
    every = _timeline(timeline, actions, "all", "All decisions")
    rest = _timeline(timeline, stopped, "stopped", "Not approved") if stopped else ""
    header = [Column(f"{timeline.name} (UTC)"), *(Column(action, number=True) for action in actions)]
    rows = [[_label(one, timeline), *(whole(one.counts.get(action, 0)) for action in actions)] for one in timeline.bins]
    behind_it = behind(
        f"Table of decisions by {timeline.name}",
        [*header, Column("frauds", number=True)],
        [[*row, whole(one.fraud)] for row, one in zip(rows, timeline.bins, strict=True)],
    )
    return Section("time", "Over time", name, card(every, rest, behind_it))


def _timeline(timeline: Bins, actions: list[str], ident: str, title: str) -> str:
    totals = [sum(one.counts.get(action, 0) for action in actions) for one in timeline.bins]
    top, ticks = count_axis(max(totals))
    titles = [
        f"{_label(one, timeline)}\n" + "\n".join(f"{action}: {whole(one.counts.get(action, 0))}" for action in actions)
        for one in timeline.bins
    ]
    series = [Series(action, css(action), [one.counts.get(action, 0) for one in timeline.bins]) for action in actions]
    words = f"Stacked columns of payments a {timeline.name} by action, at most {short(max(totals))}."
    chart = columns(
        Chart(f"chart-time-{ident}", f"{title} a {timeline.name}", words),
        titles,
        series,
        top,
        ticks,
        time_axis(timeline.start, timeline.end),
    )
    keys = legend([(css(action), WORDS.get(action, action)) for action in actions])
    return heading(title) + keys + axis_name(f"payments a {timeline.name}, event time in UTC") + chart


def periods(data: ReportData) -> Section:
    """Frauds caught and missed a week, and how well the score ranked in that week."""
    weeks = rebin(data.hours, PERIODS)
    title = f"Frauds by {weeks.name}"
    if not data.frauds:
        return Section("frauds", "Frauds", title, empty("No decided payment has a fraud outcome."))
    ranked = [data.scores.average_precision_between(one.start_hour, one.end_hour) for one in weeks.bins]
    header = [
        Column(f"{weeks.name} from (UTC)"),
        *(Column(name, number=True) for name in ("payments", "not approved", "frauds", "caught", "recall")),
        *(Column(name, number=True) for name in ("precision", "average precision")),
    ]
    rows = []
    for one, ap in zip(weeks.bins, ranked, strict=True):
        caught = _caught_in(one)
        stopped = one.payments - one.counts.get(APPROVE, 0)
        rows.append(
            [
                _label(one, weeks),
                whole(one.payments),
                whole(stopped),
                whole(one.fraud),
                whole(caught),
                percent(caught, one.fraud),
                percent(caught, stopped),
                "—" if ap is None else f"{ap:.3f}",
            ]
        )
    left = card(_frauds(weeks))
    right = card(_ranking(weeks, ranked))
    caption = f"Table by {weeks.name}"
    return Section("frauds", "Frauds", title, pair(left, right) + card(behind(caption, header, rows)))


def _frauds(weeks: Bins) -> str:
    caught = [_caught_in(one) for one in weeks.bins]
    missed = [one.fraud - found for one, found in zip(weeks.bins, caught, strict=True)]
    top, ticks = count_axis(max(one.fraud for one in weeks.bins))
    titles = [
        f"{weeks.name} from {_label(one, weeks)}\ncaught: {whole(found)} of {whole(one.fraud)} frauds"
        f" ({percent(found, one.fraud)})"
        for one, found in zip(weeks.bins, caught, strict=True)
    ]
    chart = columns(
        Chart(
            "chart-frauds", f"Frauds a {weeks.name}, caught and missed", "Stacked columns; the table has the figures."
        ),
        titles,
        [Series("caught", "caught", caught), Series("approved", "fraud", missed)],
        top,
        ticks,
        time_axis(weeks.start, weeks.end, _HALF_WIDTH),
    )
    keys = legend([("caught", "caught"), ("fraud", "approved")])
    return (
        heading("Caught and missed") + keys + axis_name(f"frauds a {weeks.name}, by event time of the payment") + chart
    )


def _ranking(weeks: Bins, ranked: list[float | None]) -> str:
    name = "How well the score ranks"
    if all(ap is None for ap in ranked):
        return heading(name) + paragraph("No fraud was scored together with genuine payments.", "empty")
    count = len(weeks.bins)
    marks = [
        None
        if ap is None
        else Mark(
            (index + 0.5) / count, ap, "accent", f"{weeks.name} from {_label(one, weeks)}\naverage precision {ap:.3f}"
        )
        for index, (one, ap) in enumerate(zip(weeks.bins, ranked, strict=True))
    ]
    chart = points(
        Chart("chart-ranking", f"Average precision a {weeks.name}", "A line from 0 to 1; the table has the figures."),
        marks,
        unit_axis(),
        time_axis(weeks.start, weeks.end, _HALF_WIDTH),
    )
    keys = legend([("round accent", "average precision of the payments scored")])
    return heading(name) + keys + axis_name(f"average precision a {weeks.name}") + chart


def _caught_in(one: Bin) -> int:
    return sum(count for action, count in one.frauds.items() if action != APPROVE)


def _label(one: Bin, bins: Bins) -> str:
    return day(one.start) if bins.hours >= 24 else minute(one.start)


def css(action: str) -> str:
    """The colour class of an action; one class for all that are not of the contract."""
    return action if action in ACTIONS else "other"


def major(amount_minor: int, currency: str) -> str:
    """An amount in major units, 1,234.50, by the currency's number of minor digits."""
    digits = CURRENCY_EXPONENT.get(currency, 2)
    return f"{amount_minor / 10**digits:,.{digits}f}"
