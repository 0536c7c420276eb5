"""Alerts: what a person should look at, as mappings of the contract `alert`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import xxhash

Severity = Literal["info", "warning", "critical"]
Alert = dict[str, Any]
"""A mapping of the contract; times in microseconds."""

KINDS: Final = {
    # kind: (severity, runbook)
    "model_canary_started": ("info", "models"),
    "model_promoted": ("warning", "models"),
    "model_rolled_back": ("critical", "models"),
    "model_canary_withdrawn": ("info", "models"),
    "feature_drift": ("warning", "drift"),
    "feature_missing": ("warning", "drift"),
    "score_drift": ("warning", "drift"),
    "loss_drift": ("critical", "drift"),
    "label_delay_drift": ("warning", "drift"),
}
"""All kinds of alert with how urgent they are and the page of docs/runbooks/ that says what to do."""


def make_alert(
    kind: str,
    event_time_us: int,
    subject: str,
    measured: float | None,
    threshold: float | None,
    evidence: Mapping[str, str],
) -> Alert:
    """An alert; the same one told twice has the same id.

    Args:
        kind: One of KINDS.
        event_time_us: Of what it measures.
        subject: What it is about: a model, a feature.
        measured: What was measured.
        threshold: What it should have kept to.
        evidence: Figures and ids to start from.

    Raises:
        KeyError: There is no such kind.
    """
    severity, runbook = KINDS[kind]
    return {
        "alert_id": xxhash.xxh3_128_hexdigest(f"{kind}\x1f{subject}\x1f{event_time_us}".encode()),
        "event_time": event_time_us,
        "kind": kind,
        "severity": severity,
        "subject": subject,
        "measured": measured,
        "threshold": threshold,
        "evidence": dict(evidence),
        "runbook": f"docs/runbooks/{runbook}.md",
    }


def figure(value: float) -> str:
    """A number for `evidence`: six digits are more than anybody compares."""
    return f"{value:.6g}"
