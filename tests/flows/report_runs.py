"""Replay outputs for the tests of the report."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

DAY0 = datetime(2026, 3, 2, 10, tzinfo=UTC)  # a Monday


def rfc3339(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def decision(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "transaction_id": f"t{number}",
        "event_time": rfc3339(DAY0 + timedelta(hours=number)),
        "action": "approve",
        "amount_minor": 1000,
        "currency": "EUR",
        "score": None,
        "reason_codes": [],
        "rule_hits": [],
        "shadow_hits": [],
        "features": {"amount": 10.0, "note": 'quoted " and \\ and {'},
        "quality": [],
        "versions": {"policy_id": "p", "model_version": str(number // 4), "model_hash": None},
        "duplicate": False,
    } | changes


def outcome(number: int, label: str = "fraud", days: float = 7) -> dict[str, Any]:
    return {
        "outcome_id": f"o{number}-{label}-{days}",
        "event_time": rfc3339(DAY0 + timedelta(days=days)),
        "transaction_id": f"t{number}",
        "label": label,
        "source": "chargeback",
    }


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


HOSTILE = '</title><script>alert(1)</script><img src=x onerror="alert(2)">\'&amp;'


def hostile_run(directory: Path) -> None:
    """A run in which every text that comes from outside tries to get out of its place."""
    changes = {
        "reason_codes": [HOSTILE, "R" * 200, "<s>&amp;</s>"],
        "rule_hits": [{"rule": HOSTILE, "action": HOSTILE}, {"rule": "r" * 200, "action": "decline"}],
        "shadow_hits": [{"rule": HOSTILE, "action": "review"}],
        "quality": [HOSTILE + ":card"],
        "versions": {"policy_id": HOSTILE, HOSTILE: "v"},
        "currency": HOSTILE,
        "action": HOSTILE,
        "score": 0.5,
    }
    write_lines(
        directory / "decisions.jsonl",
        [decision(0, **changes), decision(1, **changes | {"action": "review"}), decision(2, score=0.2)],
    )
    write_lines(directory / "outcomes.jsonl", [outcome(0)])
    write_lines(directory / "dead_letters.jsonl", [{"topic": HOSTILE, "reason": HOSTILE, "detail": HOSTILE}])


HOSTILE_METRICS: dict[str, Any] = {
    "stages": {HOSTILE: {"count": 1, "p50_us": 3.0, "p99_us": 9.0, HOSTILE: 1.0}, "cold": {"count": 0, "p50_us": 0.0}},
    HOSTILE: {HOSTILE: HOSTILE},
}
