"""How the run went: quality of the features, latency by stage, dead letters, versions and other figures."""

from __future__ import annotations

import math

from flows.report_axis import counted, duration, duration_axis, percent, whole
from flows.report_charts import Chart, Row, Span, bars, spans
from flows.report_data import ReportData, Tally
from flows.report_page import Column, Section, axis_name, behind, card, empty, heading, legend, table

FLAGS = {
    "late": "a later event of the entity had been counted before",
    "late_incomplete": "older than the history that is kept",
    "approximated": "a window held more events than are kept one by one",
    "warming": "a window reaches back before the state began",
    "absent": "an entity or a feature that a rule wanted is missing",
    "no_rate": "no exchange rate for the currency and day",
    "no_model_score": "no model could score it",
    "no_location": "the place is not known",
}

# A table of a thousand values does not help; the first are the most frequent.
_MOST_VALUES = 3


def quality(data: ReportData) -> Section:
    """Share of payments with each quality flag."""
    title = "Quality of the features"
    if not data.flag_groups:
        return Section("quality", "Quality", title, empty("No decision has a quality flag."))
    chart = bars(
        Chart("chart-quality", "Payments by quality flag", "Share of the payments that have each kind of flag."),
        [_flag_row(group, data.payments) for group in data.flag_groups],
    )
    header = [
        Column("flag", wide=True),
        *(Column(name, number=True) for name in ("payments", "share", "fraud", "of them fraud")),
    ]
    rows = [
        [
            flag.name,
            whole(flag.count),
            percent(flag.count, data.payments),
            whole(flag.fraud),
            percent(flag.fraud, flag.count),
        ]
        for flag in data.flags
    ]
    note = "Payments with at least one flag of the kind; a payment may have several."
    return Section(
        "quality",
        "Quality",
        title,
        card(
            heading("By kind", note), chart, behind("Table of all flags, with their entities and windows", header, rows)
        ),
    )


def _flag_row(group: Tally, payments: int) -> Row:
    words = FLAGS.get(group.name, "")
    return Row(
        label=f"{group.name}",
        parts=[("accent", group.count)],
        text=f"{whole(group.count)} · {percent(group.count, payments)}",
        title=f"{group.name}: {words}\n{counted(group.count, 'payment')}" if words else group.name,
    )


def latency(metrics: dict[str, object]) -> Section:
    """Time an event by stage: p50 to p99 on a logarithmic axis."""
    stages = _stages(metrics)
    measured = {name: row for name, row in stages.items() if row.get("p50_us", 0) > 0 and row.get("p99_us", 0) > 0}
    title = "Latency by stage"
    if not measured:
        return Section("latency", "Latency", title, empty("The run measured no stages."))
    every = [row[key] for row in measured.values() for key in ("p50_us", "p99_us", "mean_us") if row.get(key, 0) > 0]
    low, span, ticks = duration_axis(min(every), max(every))

    def place(microseconds: float) -> float:
        return (math.log10(microseconds) - low) / span

    rows = []
    for name, row in measured.items():
        p50, p99, mean = row["p50_us"], row["p99_us"], row.get("mean_us", 0.0)
        rows.append(
            Span(
                label=name,
                low=place(min(p50, p99)),
                high=place(p99),
                middle=place(mean) if mean > 0 else None,
                text=f"p50 {duration(p50)} · p99 {duration(p99)}",
                title=f"{name}\np50 {duration(p50)}, p99 {duration(p99)}, mean {duration(mean)}, "
                f"{whole(row.get('count', 0))} events",
            )
        )
    chart = spans(
        Chart("chart-latency", "Time an event by stage", "From the median to the 99th percentile, logarithmic."),
        rows,
        ticks,
    )
    keys = sorted({key for row in stages.values() for key in row}, key=_column_order)
    header = [Column("stage"), *(Column(_words(key), number=True) for key in keys)]
    table_rows = [[name, *(_figure(key, row.get(key)) for key in keys)] for name, row in stages.items()]
    return Section(
        "latency",
        "Latency",
        title,
        card(
            heading("Time an event", "The time of a batch is shared evenly among its events."),
            legend([("ring", "p50"), ("round accent", "p99"), ("stick", "mean")]),
            chart,
            axis_name("time an event, logarithmic", below=True),
            behind("Table of all stage figures", header, table_rows),
        ),
    )


def _stages(metrics: dict[str, object]) -> dict[str, dict[str, float]]:
    stages = metrics.get("stages")
    if not isinstance(stages, dict):
        return {}
    return {
        str(name): {str(key): float(value) for key, value in row.items() if _is_number(value)}
        for name, row in stages.items()
        if isinstance(row, dict)
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _column_order(key: str) -> tuple[int, str]:
    known = ("count", "total_s", "mean_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us")
    return (known.index(key), key) if key in known else (len(known), key)


def _words(key: str) -> str:
    return key.removesuffix("_us").removesuffix("_s").replace("_", " ")


def _figure(key: str, value: float | None) -> str:
    if value is None:
        return "—"
    if key.endswith("_us"):
        return duration(value)
    if key.endswith("_s"):
        return duration(value * 1e6)
    return whole(value)


def dead_letters(data: ReportData) -> Section:
    """Records that could not be used, by reason."""
    title = "Dead letters"
    if not data.dead_letters:
        return Section("dead-letters", title, title, empty("Every record could be read: there are no dead letters."))
    header = [
        Column("reason"),
        Column("records", number=True),
        Column("stream"),
        Column("the first one says", prose=True),
    ]
    rows = [[one.reason, whole(one.count), one.topic, one.example] for one in data.dead_letters]
    return Section("dead-letters", title, title, card(table("Dead letters by reason", header, rows)))


def versions(data: ReportData, metrics: dict[str, object]) -> Section:
    """Versions of policy, features and model, and whatever else the run measured."""
    parts = []
    if data.versions:
        header = [
            Column("version of"),
            Column("values", number=True),
            Column("most frequent, with payments", wide=True),
        ]
        rows = [
            [
                name,
                whole(len(values)),
                "; ".join(f"{value} ({whole(count)})" for value, count in values[:_MOST_VALUES])
                + ("; …" if len(values) > _MOST_VALUES else ""),
            ]
            for name, values in data.versions.items()
        ]
        parts.append(card(heading("Versions"), table("Versions the decisions were made with", header, rows)))
    run = [[name, value] for name, value in _flat("", metrics) if name]
    if run:
        parts.append(
            card(
                heading("Figures of the run"),
                table("Figures of the run", [Column("figure"), Column("value", wide=True)], run),
            )
        )
    body = "".join(parts) or empty("Nothing is known of versions.")
    return Section("versions", "Versions", "Versions and figures", body)


def _flat(prefix: str, value: object) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [
            pair
            for key, inner in value.items()
            if prefix or key != "stages"
            for pair in _flat(f"{prefix}.{key}" if prefix else str(key), inner)
        ]
    if value is None:
        return [(prefix, "—")]
    if isinstance(value, bool):
        return [(prefix, "yes" if value else "no")]
    if isinstance(value, int):
        return [(prefix, whole(value))]
    if isinstance(value, float):
        return [(prefix, f"{value:,.4g}" if abs(value) < 1000 else whole(value))]
    return [(prefix, str(value))]
