"""The model card: what a released model was learned from, how good it was, what it looks at, and how to undo it.

After Mitchell et al. 2019, "Model Cards for Model Reporting" (FAT* 2019, 220-229), as far as a learner that runs by
itself knows the answers. One card in two forms, Markdown and HTML, from the same lines.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from operators.releases import Release
from schemas.times import format_rfc3339_us

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure of quality.

    Attributes:
        name: Such as "ROC AUC".
        value: NaN: there is none yet.
        low: Lower end of its 95 % interval, NaN where none is known.
        high: Upper end.
    """

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, slots=True)
class Facts:
    """What the learner knows of a model.

    Attributes:
        kind: Of learner, in words.
        labels: Learned so far.
        frauds: Of them fraud.
        first_us: Event time of the first label, None before one.
        last_us: Event time of the last label, None before one.
        figures: Quality, prequential: each payment's score was given before its label was known.
        segments: (segment, measures ...) with `segment_heads` above.
        segment_heads: Heads of `segments`.
        importances: Input -> mean size of what it adds to the logit, the largest first.
        versions: What it depends on, by name.
    """

    kind: str
    labels: int
    frauds: int
    first_us: int | None
    last_us: int | None
    figures: Sequence[Figure] = ()
    segments: Sequence[Row] = ()
    segment_heads: Row = ()
    importances: Sequence[tuple[str, float]] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Table:
    title: str
    heads: Row
    rows: Sequence[Row]
    note: str = ""


def model_card(release: Release, facts: Facts) -> tuple[str, str]:
    """The card of a release as (Markdown, HTML)."""
    title = f"Model {release.model_id}, version {release.version}"
    tables = _tables(release, facts)
    return _markdown(title, tables), _html(title, tables)


def _tables(release: Release, facts: Facts) -> list[_Table]:
    span = "none yet"
    if facts.first_us is not None and facts.last_us is not None:
        span = f"{format_rfc3339_us(facts.first_us)} to {format_rfc3339_us(facts.last_us)}"
    about = [
        ("released as", release.stage),
        ("released at", format_rfc3339_us(release.created_at_us)),
        ("by", release.author or "the learner"),
        ("because", release.reason or "-"),
        ("kind", facts.kind),
        ("artefact, sha256", release.sha256),
        ("feature set", f"{release.feature_set_id} {release.feature_set_hash}"),
        *facts.versions.items(),
    ]
    data = [
        ("labels learned", f"{facts.labels:,}"),
        ("of them fraud", f"{facts.frauds:,}"),
        ("label times", span),
    ]
    tables = [
        _Table("What it is", ("", ""), about),
        _Table("What it was learned from", ("", ""), data, "Declined payments get no label unless they were explored."),
        _Table(
            "How good it was",
            ("measure", "value", "95 % interval"),
            [(one.name, _number(one.value), _interval(one)) for one in facts.figures],
            "Prequential: every score was given when its payment was decided, before its label was known.",
        ),
    ]
    if facts.segments:
        tables.append(_Table("By segment", facts.segment_heads, facts.segments, "Look for groups that fare worse."))
    if facts.importances:
        rows = [(name, _number(value)) for name, value in facts.importances]
        tables.append(_Table("What it looks at", ("input", "mean size of what it adds, in logits"), rows))
    undo = [("previous champion", "weir models rollback --config weir.toml --reason ...")]
    undo.append(
        ("any other", f"weir models promote MODEL --config weir.toml --reason ... (this one: {release.model_id})")
    )
    undo.append(("stop the learner from moving models", "weir models freeze --config weir.toml --reason ..."))
    tables.append(_Table("How to undo it", ("go back to", "command"), undo, "docs/runbooks/models.md"))
    return tables


def _markdown(title: str, tables: Sequence[_Table]) -> str:
    lines = [f"# {title}", ""]
    for table in tables:
        lines += [f"## {table.title}", ""]
        if not table.rows:
            lines += ["Nothing is known yet.", ""]
            continue
        lines.append("| " + " | ".join(map(_cell, table.heads)) + " |")
        lines.append("| " + " | ".join("---" for _ in table.heads) + " |")
        lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in table.rows]
        lines += ["", *([table.note, ""] if table.note else [])]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _html(title: str, tables: Sequence[_Table]) -> str:
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>{html.escape(title)}</title>",
        "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
        "table{border-collapse:collapse;margin:.5rem 0}td,th{border-bottom:1px solid #ddd;padding:.25rem .75rem;"
        "text-align:left;overflow-wrap:anywhere}p{color:#555}</style>",
        f"<h1>{html.escape(title)}</h1>",
    ]
    for table in tables:
        parts.append(f"<h2>{html.escape(table.title)}</h2>")
        if not table.rows:
            parts.append("<p>Nothing is known yet.</p>")
            continue
        parts.append("<table>")
        if any(table.heads):
            parts.append("<tr>" + "".join(f"<th>{html.escape(head)}</th>" for head in table.heads) + "</tr>")
        for row in table.rows:
            parts.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
        parts.append("</table>")
        if table.note:
            parts.append(f"<p>{html.escape(table.note)}</p>")
    return "\n".join(parts) + "\n"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"


def _interval(figure: Figure) -> str:
    if math.isnan(figure.low) or math.isnan(figure.high):
        return "-"
    return f"{figure.low:.4g} to {figure.high:.4g}"


def auc_interval(auc: float, frauds: int, genuine: int) -> tuple[float, float]:
    """95 % interval of a ROC AUC; NaN where there is nothing to go by.

    Source: Hanley, McNeil 1982, Radiology 143(1):29-36; normal approximation, cut to 0..1.
    """
    if frauds < 1 or genuine < 1 or math.isnan(auc):
        return math.nan, math.nan
    q1 = auc / (2.0 - auc)
    q2 = 2.0 * auc * auc / (1.0 + auc)
    spread = auc * (1 - auc) + (frauds - 1) * (q1 - auc * auc) + (genuine - 1) * (q2 - auc * auc)
    half = 1.96 * math.sqrt(max(0.0, spread) / (frauds * genuine))
    return max(0.0, auc - half), min(1.0, auc + half)
