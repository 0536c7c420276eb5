"""The model card: what a release learned from, how well it scored, what it goes by, and how to roll it back.

Figures are of the latest labels (`operators.learn.MOST_LATEST` at most), by the score that was given before the label
was known: the one that decided, and the learner's own before it learned the label (prequential).

Interval of the area under the ROC curve: Hanley and McNeil 1982, Radiology 143:29-36, normal at 95 %. Interval of the
average precision: percentiles of 200 bootstrap resamples of the labels (Efron 1979), seeded, so that a card repeats.
Genuine labels that were down-sampled count with their weight in the average precision; the area does not depend on it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from operators.learn_made import Made, Scored
from schemas.times import format_rfc3339_us

_RESAMPLES: Final = 200
_TOP: Final = 20
_AT_DECISION: Final = 0
_BEFORE_LEARNING: Final = 1
Floats = NDArray[np.float64]
Interval = tuple[float, float, float]
"""Value, lower and upper end at 95 %."""


def ranked_auc(scores: Floats, frauds: NDArray[np.bool_]) -> Interval | None:
    """Area under the ROC curve with Hanley and McNeil's interval; None without both kinds of label."""
    count, positives = len(scores), int(frauds.sum())
    negatives = count - positives
    if not positives or not negatives:
        return None
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2.0)[places]  # the mean rank of equal scores
    area = (float(ranks[frauds].sum()) - positives * (positives + 1) / 2) / (positives * negatives)
    first, second = area / (2 - area), 2 * area * area / (1 + area)
    spread = (positives - 1) * (first - area * area) + (negatives - 1) * (second - area * area)
    error = math.sqrt(max(0.0, area * (1 - area) + spread) / (positives * negatives))
    return area, max(0.0, area - 1.96 * error), min(1.0, area + 1.96 * error)


def average_precision(scores: Floats, frauds: NDArray[np.bool_], weights: Floats) -> float | None:
    """Sum of precision times gain of recall over falling thresholds; None without fraud."""
    if not frauds.any():
        return None
    order = np.argsort(-scores, kind="stable")
    hit = np.where(frauds, weights, 0.0)[order]
    caught, looked_at = np.cumsum(hit), np.cumsum(weights[order])
    last = np.append(np.diff(scores[order]) != 0, True)  # equal scores fall together
    recall = caught[last] / caught[-1]
    precision = caught[last] / looked_at[last]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def _bootstrapped(scores: Floats, frauds: NDArray[np.bool_], weights: Floats) -> Interval | None:
    value = average_precision(scores, frauds, weights)
    if value is None:
        return None
    rng = np.random.default_rng(1)
    found = []
    for _ in range(_RESAMPLES):
        drawn = rng.integers(0, len(scores), len(scores))
        one = average_precision(scores[drawn], frauds[drawn], weights[drawn])
        if one is not None:
            found.append(one)
    low, high = np.percentile(found, [2.5, 97.5])
    return value, float(low), float(high)


def measured(latest: Sequence[Scored], which: int) -> dict[str, Interval]:
    """`auc` and `ap` with their intervals, of the scores that there are; empty without both kinds of label."""
    rows = [one for one in latest if one[which] is not None]
    if not rows:
        return {}
    scores = np.array([one[which] for one in rows], dtype=np.float64)
    frauds = np.array([one[2] for one in rows], dtype=np.bool_)
    weights = np.array([one[3] for one in rows], dtype=np.float64)
    found = {"auc": ranked_auc(scores, frauds), "ap": _bootstrapped(scores, frauds, weights)}
    return {name: interval for name, interval in found.items() if interval is not None}


def figures(made: Made) -> dict[str, float]:
    """The figures that a release's record tells."""
    told = {
        "labels": float(made.labels),
        "frauds": float(made.ledger.frauds),
        "genuine": float(made.ledger.genuine),
        "latest_labels": float(len(made.latest)),
        **(made.evidence or {}),
    }
    for prefix, which in (("decided", _AT_DECISION), ("prequential", _BEFORE_LEARNING)):
        for name, (value, low, high) in measured(made.latest, which).items():
            told |= {f"{prefix}_{name}": value, f"{prefix}_{name}_low": low, f"{prefix}_{name}_high": high}
    return told


def _tables(record: Mapping[str, Any], made: Made) -> list[tuple[str, list[str], list[list[str]]]]:
    ledger = made.ledger
    facts = [
        ["model", f"{made.model_id} {made.version}"],
        ["stage announced", str(record["stage"])],
        ["made at", format_rfc3339_us(made.created_at_us)],
        ["feature set", f"{record['feature_set_id']}, hash {record['feature_set_hash']}"],
        ["artefact", f"{record['artefact_uri']} ({len(made.artefact)} bytes)"],
        ["why", made.reason],
        ["release before", str(ledger.version or "none")],
        ["champion before", made.before[0] if made.before else "none, or it is none itself"],
    ]
    data = [
        ["payments decided from", format_rfc3339_us(ledger.first_us) if ledger.first_us else "none"],
        ["to", format_rfc3339_us(ledger.last_us) if ledger.last_us else "none"],
        ["labels learned", str(made.labels)],
        ["of them fraud", str(ledger.frauds)],
        ["of them genuine", str(ledger.genuine)],
        ["corrections of earlier labels", str(ledger.corrections)],
        ["labels passed by: another feature set, declined, or left out of the share learned", str(ledger.passed)],
    ]
    scored = []
    for title, which in (("score that decided", _AT_DECISION), ("learner, before it learned", _BEFORE_LEARNING)):
        for name, (value, low, high) in measured(made.latest, which).items():
            scored.append([title, name.upper(), f"{value:.4f}", f"{low:.4f} to {high:.4f}"])
    importances = [[name, f"{size:.4f}"] for name, size in made.importances[:_TOP]]
    return [
        ("What it is", ["", ""], facts),
        ("What it learned from", ["", ""], data),
        (f"How it scored the latest {len(made.latest)} labels", ["score", "figure", "value", "95 %"], scored),
        ("What it goes by: mean size in logits", ["term", "size"], importances),
    ]


_BACK: Final = "weir models rollback --config weir.toml --author YOU --reason WHY"
_HOW: Final = (
    "AUC: Hanley and McNeil's interval. AP: 200 bootstrap resamples; down-sampled genuine labels count by their weight."
)


def card_markdown(record: Mapping[str, Any], made: Made) -> str:
    """The card in markdown."""
    lines = [f"# Model card: {made.model_id} {made.version}", ""]
    for title, heads, rows in _tables(record, made):
        lines += [f"## {title}", ""]
        if rows:
            lines += [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
            lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
        else:
            lines.append("Nothing to tell yet: it takes labels of both kinds, and a model that scores.")
        lines.append("")
    lines += [_HOW, "", "## How to roll back", "", f"    {_BACK}", ""]
    return "\n".join(lines)


def card_html(record: Mapping[str, Any], made: Made) -> str:
    """The card as a page of its own; nothing is loaded from elsewhere."""
    title = html.escape(f"Model card: {made.model_id} {made.version}")
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>',
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ddd}</style>",
        f"<h1>{title}</h1>",
    ]
    for name, heads, rows in _tables(record, made):
        parts.append(f"<h2>{html.escape(name)}</h2><table>")
        if any(heads):
            parts.append("<tr>" + "".join(f"<th>{html.escape(head)}</th>" for head in heads) + "</tr>")
        parts += ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
        parts.append("</table>")
    parts.append(f"<p>{html.escape(_HOW)}</p><h2>How to roll back</h2><pre>{html.escape(_BACK)}</pre></html>")
    return "".join(parts)
