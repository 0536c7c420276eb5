"""Why it was decided: the score and how well it ranks, the rules, the reasons."""

from __future__ import annotations

import math

from flows.report_axis import Tick, counted, percent, short, unit_axis, whole
from flows.report_charts import MAX_LABEL, Chart, Mark, Row, Series, bars, histogram, step_curve
from flows.report_data import APPROVE, ReportData, RuleTally, Tally, ordered_actions
from flows.report_decisions import css
from flows.report_page import (
    Column,
    Section,
    axis_name,
    behind,
    card,
    empty,
    heading,
    legend,
    pair,
    paragraph,
)
from flows.report_scores import Curve, Scores

# More rows than this make a chart that nobody reads to its end; the table has them all.
_MOST_ROWS = 20


def score(data: ReportData) -> Section:
    """Distribution of the score by label, and precision against recall."""
    scores = data.scores
    if not scores.scored:
        text = "No payment has a score: no model was trained, and rules alone decided."
        return Section("score", "Score", "The score", empty(text))
    unscored = data.payments - scores.scored
    note = f"Scored: {counted(scores.scored, 'payment')}, {whole(scores.frauds)} of them fraud."
    if unscored:
        note += (
            f" Without a score, and in neither picture: {counted(unscored, 'payment')}, "
            f"{whole(data.frauds - scores.frauds)} of them fraud."
        )
    return Section("score", "Score", "The score", paragraph(note) + pair(_distribution(scores), _tradeoff(scores)))


def _distribution(scores: Scores) -> str:
    most = max(*scores.genuine, *scores.fraud)
    # Half a payment lies at the bottom, so that a bin with one payment stands above the axis.
    low = math.log10(0.5)
    span = math.log10(max(10.0, 1.3 * most)) - low
    y = [Tick((power - low) / span, short(10.0**power)) for power in range(math.floor(low + span) + 1)]
    bins = list(zip(scores.edges[:-1], scores.edges[1:], scores.genuine, scores.fraud, strict=True))
    titles = [
        f"score {left:.2f} to {right:.2f}\ngenuine: {whole(genuine)}\nfraud: {whole(fraud)}"
        for left, right, genuine, fraud in bins
    ]
    chart = histogram(
        Chart(
            "chart-scores",
            "Score distribution by label",
            "Two outlines over fifty equal bins of the score, counts on a logarithmic axis.",
            tall=True,
        ),
        titles,
        [
            Series("genuine", "genuine", [_log(count) for count in scores.genuine]),
            Series("fraud", "fraud", [_log(count) for count in scores.fraud]),
        ],
        (low, span),
        y,
        unit_axis(),
    )
    rows = [
        [f"{left:.2f} to {right:.2f}", whole(genuine), whole(fraud), percent(fraud, genuine + fraud)]
        for left, right, genuine, fraud in bins
        if genuine or fraud
    ]
    header = [Column("score"), *(Column(name, number=True) for name in ("genuine", "fraud", "of them fraud"))]
    return card(
        heading("Distribution by label"),
        legend([("genuine", "genuine"), ("fraud", "fraud")]),
        axis_name("payments a bin of 0.02, logarithmic"),
        chart,
        axis_name("score", below=True),
        behind("Table of scores by label", header, rows),
    )


def _log(count: int) -> float:
    return math.log10(count) if count else -math.inf


def _tradeoff(scores: Scores) -> str:
    curve = scores.curve
    if curve is None:
        return card(
            heading("Precision and recall"),
            paragraph("The curve needs scored frauds and scored genuine payments.", "empty"),
        )
    stages = _cumulative(scores)
    chart = step_curve(
        Chart(
            "chart-precision",
            f"Precision and recall, average precision {curve.average_precision:.3f}",
            "Precision at each recall as the threshold on the score falls; points show what the decisions reached.",
            tall=True,
        ),
        curve.recall,
        curve.precision,
        [
            Mark(
                found / scores.frauds,
                found / count,
                css(action),
                f"{words}\nrecall {found / scores.frauds:.3f}\nprecision {found / count:.3f}",
            )
            for action, words, count, found in stages
        ],
        scores.frauds / scores.scored,
        unit_axis(),
        unit_axis(),
    )
    header = [
        Column("reached by"),
        *(Column(name, number=True) for name in ("score from", "payments", "recall", "precision")),
    ]
    rows = [
        [f"decision: {words}", "—", whole(count), f"{found / scores.frauds:.3f}", f"{found / count:.3f}"]
        for _, words, count, found in stages
    ]
    rows += [_at_recall(curve, scores.frauds, target / 10) for target in range(1, 10)]
    return card(
        heading(f"Precision and recall: AP {curve.average_precision:.3f}"),
        legend(
            [
                ("bar accent", "threshold on the score"),
                *((f"round {css(action)}", words) for action, words, _, _ in stages),
                ("dashed", f"no skill, {percent(scores.frauds, scores.scored)}"),
            ]
        ),
        axis_name("precision: share of the payments above the threshold that were fraud"),
        chart,
        axis_name("recall: share of the frauds above the threshold", below=True),
        behind("Table of precision and recall", header, rows),
    )


def _cumulative(scores: Scores) -> list[tuple[str, str, int, int]]:
    """(mildest action, words, payments, frauds) for decline, decline or review, ...; scored payments only."""
    actions = [a for a in ordered_actions({a: [] for a in scores.actions}) if a != APPROVE and a in scores.actions]
    stages: list[tuple[str, str, int, int]] = []
    count = found = 0
    for action in reversed(actions):
        count += scores.actions[action][0]
        found += scores.actions[action][1]
        stages.append((action, action if not stages else f"{action} or stronger", count, found))
    return stages


def _at_recall(curve: Curve, frauds: int, target: float) -> list[str]:
    at = next(index for index, recall in enumerate(curve.recall) if recall >= target - 1e-12)
    recall, precision = curve.recall[at], curve.precision[at]
    flagged = recall * frauds / precision
    return [
        f"score, recall {target:.1f}",
        f"{curve.threshold[at]:.4f}",
        whole(flagged),
        f"{recall:.3f}",
        f"{precision:.3f}",
    ]


def rules(data: ReportData) -> Section:
    """Rules by hits, with the share of their hits that was fraud."""
    if not data.rules:
        return Section("rules", "Rules", "The rules", empty("No rule hit, or the profile has none."))
    shown = sorted(data.rules, key=lambda rule: -rule.hits)[:_MOST_ROWS]
    title = f"The {_MOST_ROWS} rules with most hits" if len(data.rules) > _MOST_ROWS else "Rules by hits"
    chart = bars(
        Chart("chart-rules", title, "Hits of each rule split by label, and the share of its hits that was fraud."),
        [_rule_row(rule, data) for rule in shown],
    )
    header = [
        Column("rule", wide=True),
        Column("action"),
        Column("mode"),
        *(Column(name, number=True) for name in ("hits", "fraud", "genuine", "precision", "of all fraud")),
    ]
    rows = [
        [
            rule.rule,
            rule.action,
            "shadow" if rule.shadow else "active",
            whole(rule.hits),
            whole(rule.fraud),
            whole(rule.hits - rule.fraud),
            percent(rule.fraud, rule.hits),
            percent(rule.fraud, data.frauds),
        ]
        for rule in data.rules
    ]
    note = (
        "Precision is the share of a rule's hits that was fraud. Shadow rules, drawn lighter, had no say in the action."
    )
    body = card(
        heading(title, note),
        legend([("genuine", "hits on genuine payments"), ("fraud", "hits on frauds, and precision")]),
        chart,
        behind("Table of all rules that hit", header, rows),
    )
    return Section("rules", "Rules", "The rules", body)


def _rule_row(rule: RuleTally, data: ReportData) -> Row:
    mode = "shadow " if rule.shadow else ""
    return Row(
        label=_with_mode(rule),
        parts=[("fraud", rule.fraud), ("genuine", rule.hits - rule.fraud)],
        text=whole(rule.hits),
        share=rule.fraud / rule.hits if data.frauds else None,
        share_text=percent(rule.fraud, rule.hits) if data.frauds else "",
        title=f"{rule.rule}\n{mode}{rule.action}: {whole(rule.hits)} hits, {whole(rule.fraud)} of them fraud "
        f"({percent(rule.fraud, rule.hits)})",
        faint=rule.shadow,
    )


def _with_mode(rule: RuleTally) -> str:
    tail = " · shadow" if rule.shadow else f" · {rule.action}"
    room = MAX_LABEL - len(tail)
    return (rule.rule if len(rule.rule) <= room else rule.rule[: room - 1] + "…") + tail


def reasons(data: ReportData) -> Section:
    """Reason codes by how often they were given; drawn for payments that were not approved."""
    title = "The reasons given"
    if not data.reasons:
        return Section("reasons", "Reasons", title, empty("No decision has a reason code."))
    header = [
        Column("reason", wide=True),
        *(Column(name, number=True) for name in ("payments", "share", "fraud", "of them fraud", "not approved")),
    ]
    stopped = {one.name: one.count for one in data.stop_reasons}
    rows = [
        [
            one.name,
            whole(one.count),
            percent(one.count, data.payments),
            whole(one.fraud),
            percent(one.fraud, one.count),
            whole(stopped.get(one.name, 0)),
        ]
        for one in data.reasons
    ]
    figures = behind("Table of all reasons, approved payments included", header, rows)
    if not data.stop_reasons:
        return Section("reasons", "Reasons", title, card(paragraph("Every payment was approved.", "empty"), figures))
    shown = data.stop_reasons[:_MOST_ROWS]
    name = "Reasons for not approving"
    if len(data.stop_reasons) > len(shown):
        name += f", the {_MOST_ROWS} most frequent"
    chart = bars(
        Chart(
            "chart-reasons", name, "Payments not approved with each reason, split by label, and their share of fraud."
        ),
        [_reason_row(one, data) for one in shown],
    )
    body = card(
        heading(name, "A decision may give several reasons, the strongest action's first."),
        legend([("genuine", "genuine payments"), ("fraud", "frauds, and their share")]),
        chart,
        figures,
    )
    return Section("reasons", "Reasons", title, body)


def _reason_row(one: Tally, data: ReportData) -> Row:
    return Row(
        label=one.name,
        parts=[("fraud", one.fraud), ("genuine", one.count - one.fraud)],
        text=whole(one.count),
        share=one.fraud / one.count if data.frauds else None,
        share_text=percent(one.fraud, one.count) if data.frauds else "",
        title=f"{one.name}\n{counted(one.count, 'payment')} not approved, {whole(one.fraud)} of them fraud "
        f"({percent(one.fraud, one.count)})",
    )
