"""The summary's numbers, on an example worked out by hand, and its measures against scikit-learn's."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from rich.console import Console
from sklearn.metrics import average_precision_score, roc_auc_score

from load_tests.demo import show
from load_tests.summary import Caught, Summary, area_under_roc, average_precision, summarise

TRUTH: list[dict[str, Any]] = [
    {"transaction_id": "a", "fraud": False, "amount_eur": 10.0},
    {"transaction_id": "b", "fraud": True, "pattern": "impossible_travel", "episode": 0, "amount_eur": 100.0},
    {"transaction_id": "c", "fraud": True, "pattern": "impossible_travel", "episode": 0, "amount_eur": 50.0},
    {"transaction_id": "d", "fraud": True, "pattern": "impossible_travel", "episode": 1, "amount_eur": 30.0},
    {"transaction_id": "e", "fraud": False, "amount_eur": 20.0},
    {"transaction_id": "f", "fraud": True, "pattern": "card_testing", "episode": 2, "amount_eur": 0.0},
    {"transaction_id": "g", "fraud": False, "amount_eur": 20.0},
    {"transaction_id": "h", "fraud": False, "amount_eur": 20.0},
]


def decision(transaction_id: str, action: str, **fields: Any) -> dict[str, Any]:
    return {
        "decision_id": f"d-{transaction_id}",
        "transaction_id": transaction_id,
        "event_time": "2026-06-01T00:00:00.000000Z",
        "action": action,
        "score": None,
        "reason_codes": [],
        "rule_hits": [],
        "features": {"card.speed_kmh": 8123.456, "card.count_1h": 2.0, "hour": None},
        "duplicate": False,
        **fields,
    }


TRAVEL = {"reason_codes": ["IMPOSSIBLE_TRAVEL"], "rule_hits": [{"rule": "impossible-travel", "action": "challenge"}]}
DECISIONS = [
    decision("a", "approve", score=0.1),
    decision("e", "challenge", score=0.7, **TRAVEL),
    decision("b", "approve", score=0.2),
    decision("d", "review", score=None, **TRAVEL),
    decision("c", "decline", score=0.9, **TRAVEL, contributions=[{"feature": "amount", "value": 1.5}]),
    decision("a", "approve", score=0.1, duplicate=True),
    decision("f", "approve"),
    decision("g", "approve", score=0.1),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    def write(name: str, records: list[dict[str, Any]]) -> None:
        (tmp_path / name).write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))

    write("truth.jsonl", TRUTH)
    write("decisions.jsonl", DECISIONS)
    bad = {"partition": 0, "offset": 1, "detail": "x", "payload": "y", "seen_at": "2026-06-01T00:00:00.000000Z"}
    write(
        "dead_letters.jsonl",
        [
            {"topic": "transactions.jsonl", "reason": "NOT_JSON", **bad},
            {"topic": "transactions.jsonl", "reason": "NOT_JSON", **bad},
            {"topic": "outcomes.v1", "reason": "BAD_TIME", **bad},
        ],
    )
    return tmp_path


def summary_of(run: Path) -> Summary:
    return summarise(run / "truth.jsonl", run)


def test_patterns_count_payments_money_and_episodes_with_their_first_stopped_payment(run: Path) -> None:
    assert summary_of(run).patterns == {
        "card_testing": Caught(1, 0, 0.0, 0.0, 1, 0, []),
        "impossible_travel": Caught(3, 2, 180.0, 80.0, 2, 2, [2, 1]),
    }
    assert summary_of(run).total == Caught(4, 2, 180.0, 80.0, 3, 2, [2, 1])
    assert summary_of(run).patterns["impossible_travel"].median_first_stopped == 1.5


def test_actions_retries_and_what_is_undecided_are_counted_once(run: Path) -> None:
    summary = summary_of(run)
    assert summary.genuine == {"approve": 2, "challenge": 1}
    assert summary.fraud == {"approve": 2, "decline": 1, "review": 1}
    assert summary.false_positive_rate == pytest.approx(1 / 3)
    assert summary.retries == 1
    assert summary.undecided == 1
    assert summary.reasons == {"IMPOSSIBLE_TRAVEL": (1, 2)}


def test_scores_are_judged_where_there_are_any(run: Path) -> None:
    summary = summary_of(run)
    assert (summary.scored, summary.scored_frauds) == (5, 2)
    # Frauds .9 and .2, genuine .7, .1 and .1: 3 + 2 of 6 pairs are in order.
    assert summary.auc == pytest.approx(5 / 6)
    assert summary.average_precision == pytest.approx((1 + 2 / 3) / 2)


def test_dead_letters_are_counted_by_stream_and_reason(run: Path) -> None:
    assert summary_of(run).dead_letters == {("transactions", "NOT_JSON"): 2, ("outcomes", "BAD_TIME"): 1}


def test_the_example_is_a_scored_fraud_of_impossible_travel_even_if_others_come_first(run: Path) -> None:
    example = summary_of(run).example
    assert example is not None
    assert orjson.loads(example)["transaction_id"] == "c"


def test_measures_agree_with_scikit_learn_with_and_without_ties() -> None:
    rng = np.random.default_rng(3)
    for digits in (1, 2, 12):
        labels = rng.random(3000) < 0.05
        scores = np.round(np.clip(rng.normal(0.3, 0.2, 3000) + 0.2 * labels, 0, 1), digits)
        assert area_under_roc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
        assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores))


def test_measures_of_nothing_are_none() -> None:
    assert area_under_roc(np.array([], dtype=np.bool_), np.array([])) is None
    assert area_under_roc(np.array([True]), np.array([0.5])) is None
    assert average_precision(np.array([False]), np.array([0.5])) is None


def test_the_terminal_shows_patterns_dead_letters_and_the_decision_in_full(run: Path) -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    show(summary_of(run), console)
    text = console.export_text()
    for part in (
        "impossible travel", "67%", "€180", "44%", "1.5.", "stopped wrongly: 33.33%", "NOT_JSON",
        "AUC 0.833", "average precision 0.833", "1 payments have no decision", "impossible-travel → challenge",
        "8,123.46", "amount +1.50", "The card or account was further away",
    ):  # fmt: skip
        assert part in text, part
