"""decisions, outcomes, dead letters, metrics → report.html: one page that needs no network and no script."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from flows.report_data import ReportData
from flows.report_decisions import decided, headline, lead, over_time, periods
from flows.report_findings import reasons, rules, score
from flows.report_labels import read_labels
from flows.report_models import models
from flows.report_page import document
from flows.report_read import read_report_data
from flows.report_run import dead_letters, latency, quality, versions

_TERMS = {
    "genuine": "Any payment without a fraud outcome, or whose latest outcome takes the fraud back.",
    "caught": "A fraud whose payment was challenged, sent to review or declined; missed when it was approved.",
    "precision": "Share of the payments picked (by a rule, an action or a threshold) that were fraud.",
    "recall": "Share of all frauds that were picked.",
    "average precision": "Mean of precision over recall; a score without skill reaches the share of frauds.",
    "late": "By the time the payment arrived a later one of the same entity had been counted.",
    "duplicate": "A retry, answered with the decision already made; not counted anywhere else.",
}


def write_report(out_dir: Path, events_dir: Path | None, metrics: dict[str, Any], path: Path, *, profile: str) -> None:
    """Write the report of a replay as one self-contained HTML file, readable in light and dark and on a phone.

    Args:
        out_dir: Holds decisions.jsonl, dead_letters.jsonl and labelled_outcomes.jsonl; missing ones count as empty.
        events_dir: Holds outcomes.jsonl, .avro or .parquet. Without them the labels of labelled_outcomes.jsonl
            serve; without those too every payment counts as genuine, and the page says so.
        metrics: `stages`: stage -> {count, mean_us, p50_us, p99_us, ...}; `payments_per_s` and `wall_s`
            for the headline; everything is shown by its name.
        path: The file to write; it appears at once and whole, replacing an earlier one.
        profile: Name of the profile, for the title.

    Raises:
        OSError: A file cannot be read or written.
    """
    page = render_report(read_report_data(out_dir, read_labels(events_dir, out_dir)), metrics, profile=profile)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)


def render_report(data: ReportData, metrics: dict[str, Any], *, profile: str) -> str:
    """The page of numbers already read; equal numbers give an equal page."""
    header = f"<h1><small>Weir replay report</small>{escape(profile)}</h1>{lead(data)}{headline(data, metrics)}"
    sections = [
        decided(data),
        over_time(data),
        periods(data),
        score(data),
        models(metrics),
        rules(data),
        reasons(data),
        quality(data),
        latency(metrics),
        dead_letters(data),
        versions(data, {name: value for name, value in metrics.items() if name != "evaluation"}),
    ]
    terms = "".join(f"<dt>{escape(term)}</dt><dd>{escape(words)}</dd>" for term, words in _TERMS.items())
    return document(f"Weir replay report: {profile}", header, sections, f"<h2>Terms</h2><dl>{terms}</dl>")
