from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import orjson
import pytest

from flows.decision_input import decision_input
from flows.profile import load_profile
from operators.inflight import DEAD_LETTER, PAYMENT
from tests.flows.traffic import write_profile

ORIGIN = ("decisions.v1", 0, 7)
AT = "2026-03-01T10:00:00.000000Z"


@pytest.fixture
def told(tmp_path: Path) -> tuple[Any, dict[str, Any]]:
    features = load_profile(write_profile(tmp_path)).features
    values: dict[str, Any] = {one.name: 1.5 if one.kind == "number" else None for one in features.features}
    values["amount"] = None
    record = {
        "decision_id": "d",
        "transaction_id": "T1",
        "event_time": AT,
        "decided_at": AT,
        "account_id": "A1",
        "channel": "ecommerce",
        "currency": "EUR",
        "amount_minor": 100,
        "action": "approve",
        "proposed_action": "approve",
        "score": 0.25,
        "features": values,
        "versions": {"feature_set_id": features.id, "feature_set_hash": features.hash},
        "duplicate": False,
    }
    return decision_input(features), record


def test_values_stand_in_the_feature_sets_order_and_an_absent_number_is_nan_again(told: Any) -> None:
    make, record = told
    shuffled = {**record, "features": dict(reversed(record["features"].items()))}
    one, other = make(orjson.dumps(record), ORIGIN), make(orjson.dumps(shuffled), ORIGIN)
    assert one.kind == PAYMENT
    assert math.isnan(one.detail.values[0])
    assert one.detail.values[1:] == other.detail.values[1:]
    assert one.detail.decision["score"] == 0.25


def test_what_challengers_said_is_read_with_it(told: Any) -> None:
    make, record = told
    said = [{"model_id": "r", "model_version": "1+5", "score": 0.5}, {"model_id": "q", "score": None}]
    assert make(orjson.dumps({**record, "challenger_scores": said}), ORIGIN).detail.shadows == {"r": 0.5, "q": None}
    assert make(orjson.dumps(record), ORIGIN).detail.shadows == {}


def test_a_retry_equals_its_decision_and_a_contradiction_does_not(told: Any) -> None:
    make, record = told
    first = make(orjson.dumps(record), ORIGIN).event
    assert make(orjson.dumps({**record, "duplicate": True}), ORIGIN).event == first
    assert make(orjson.dumps({**record, "action": "decline"}), ORIGIN).event != first
    assert make(orjson.dumps({**record, "score": 0.5}), ORIGIN).event != first


def test_a_decision_of_another_feature_set_keeps_its_features_as_told(told: Any) -> None:
    make, record = told
    versions = {"feature_set_id": "old", "feature_set_hash": "older"}
    item = make(orjson.dumps({**record, "versions": versions, "features": {"x": 1}}), ORIGIN)
    assert (item.detail.values, item.detail.features) == (None, {"x": 1})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"transaction_id": None}, "MISSING_FIELD"),
        ({"decided_at": "now"}, "WRONG_TYPE"),
        ({"action": "perhaps"}, "UNKNOWN_VALUE"),
        ({"score": 2}, "OUT_OF_RANGE"),
        ({"propensity": "0.1"}, "OUT_OF_RANGE"),
        ({"amount_minor": 1.5}, "WRONG_TYPE"),
        ({"versions": {}}, "MISSING_FIELD"),
        ({"features": None}, "MISSING_FIELD"),
        ({"challenger_scores": {}}, "WRONG_TYPE"),
        ({"challenger_scores": [0.5]}, "WRONG_TYPE"),
        ({"challenger_scores": [{"model_id": "r", "score": 1.5}]}, "OUT_OF_RANGE"),
        ({"features": {"amount": 1.0}}, "WRONG_TYPE"),
    ],
)
def test_what_is_no_decision_becomes_a_dead_letter(told: Any, change: dict[str, Any], reason: str) -> None:
    make, record = told
    item = make(orjson.dumps({**record, **change}), ORIGIN)
    assert item.kind == DEAD_LETTER
    assert item.detail[0] == reason


def test_features_of_other_types_or_numbers_are_refused(told: Any) -> None:
    make, record = told
    values = list(record["features"].values())
    assert (
        make(
            {**record, "event_time": 10**15, "decided_at": 10**15, "features": {"feature_set": "f", "values": values}},
            ORIGIN,
        ).kind
        == PAYMENT
    )
    for wrong in ([*values, 1.0], ["many", *values[1:]]):
        told_so = {
            **record,
            "event_time": 10**15,
            "decided_at": 10**15,
            "features": {"feature_set": "f", "values": wrong},
        }
        assert make(told_so, ORIGIN).detail[0] == "WRONG_TYPE"


def test_bytes_that_are_no_json_or_too_many_are_dead_letters(told: Any) -> None:
    make, _ = told
    assert make(b"{broken", ORIGIN).detail[0] == "NOT_JSON"
    assert make(b" " * (1 << 21), ORIGIN).detail[0] == "TOO_LARGE"
