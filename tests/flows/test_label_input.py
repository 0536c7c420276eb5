from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from flows.label_input import label_input
from flows.profile import load_profile
from operators.inflight import DEAD_LETTER, LABEL
from schemas.validate import Limits
from tests.flows.traffic import write_profile

ORIGIN = ("labelled-outcomes.v1", 0, 7)
RECORD: dict[str, Any] = {
    "transaction_id": "T1",
    "outcome_id": "O1",
    "label": "fraud",
    "source": "chargeback",
    "event_time": "2026-03-02T10:00:00.000000Z",
    "payment_event_time": "2026-03-01T10:00:00.000000Z",
    "decided_at": "2026-03-01T10:00:00.100000Z",
    "account_id": "A1",
    "merchant_id": "M1",
    "channel": "ecommerce",
    "currency": "EUR",
    "weight": 1.0,
    "correction_of": None,
}


@pytest.fixture
def make(tmp_path: Path) -> Any:
    return label_input(load_profile(write_profile(tmp_path)).features, Limits(max_payload_bytes=2_000), 0.25)


def test_a_labelled_outcome_becomes_a_label_with_the_keys_of_its_payment(make: Any) -> None:
    item = make(orjson.dumps(RECORD), ORIGIN)
    assert item.kind == LABEL
    assert item.keys == [b"A1", None, b"M1", b"A1\x1fM1"]
    assert item.event.fraud
    assert item.event.previous_fraud is None
    assert item.event.event_time_us - item.event.payment_event_time_us == 86_400_000_000


def test_a_correction_takes_back_what_was_said_before_with_its_weight(make: Any) -> None:
    told = {**RECORD, "label": "fraud", "correction_of": "genuine 2026-03-02T09:00:00.000000Z"}
    item = make(orjson.dumps(told), ORIGIN)
    assert item.event.previous_fraud is False
    assert item.event.previous_weight == 4.0
    assert item.event.event_time_us - item.event.previous_event_time_us == 3_600_000_000


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"label": "perhaps"}, "UNKNOWN_VALUE"),
        ({"weight": 0}, "OUT_OF_RANGE"),
        ({"weight": "1"}, "OUT_OF_RANGE"),
        ({"weight": True}, "OUT_OF_RANGE"),
        ({"account_id": None}, "MISSING_FIELD"),
        ({"merchant_id": 5}, "WRONG_TYPE"),
        ({"decided_at": "yesterday"}, "WRONG_TYPE"),
        ({"correction_of": "fraud at noon"}, "WRONG_TYPE"),
        ({"source": "x" * 3_000}, "TOO_LARGE"),
    ],
)
def test_what_is_no_labelled_outcome_is_a_dead_letter(make: Any, change: dict[str, Any], reason: str) -> None:
    item = make(orjson.dumps({**RECORD, **change}), ORIGIN)
    assert item.kind == DEAD_LETTER
    assert item.detail[0] == reason
    assert item.origin == ORIGIN
