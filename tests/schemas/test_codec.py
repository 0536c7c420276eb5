from __future__ import annotations

import datetime as dt
import io
from typing import Any

import fastavro
import orjson
import pytest

from schemas.codec import (
    CONTRACTS,
    contract,
    decode_avro_mapping,
    decode_json_mapping,
    encode_avro,
    encode_json,
    time_fields,
)
from schemas.errors import ContractError
from tests.schemas.samples import EVENT_TIME_US, SAMPLES

VERSIONS = {
    "policy_id": "cards",
    "policy_version": "2026-11-01",
    "policy_hash": "ab",
    "feature_set_id": "cards-1",
    "feature_set_hash": "cd",
    "model_id": None,
    "model_version": None,
    "model_hash": None,
    "rates_hash": "ef",
    "geo_hash": None,
}
PAYMENT = {
    "decision_id": "d1",
    "transaction_id": "T1",
    "event_time": EVENT_TIME_US,
    "decided_at": EVENT_TIME_US + 5,
    "account_id": "A1",
    "amount_minor": 1234,
    "currency": "EUR",
    "channel": "ecommerce",
    "country": "NL",
    "action": "challenge",
    "proposed_action": "challenge",
    "score": 0.75,
    "features": {"feature_set": "cards-1", "values": [12.34, float("nan"), None, True, "ecommerce", 3.0]},
    "versions": VERSIONS,
}
NAMES = ["amount", "speed", "kyc", "recurring", "channel", "count"]
OURS: dict[str, dict[str, Any]] = {
    **SAMPLES,
    "decision": {
        **PAYMENT,
        "ingested_at": EVENT_TIME_US + 3,
        "source": {"topic": "transactions.v1", "partition": 3, "offset": 2**40},
        "contributions": [{"feature": "amount", "value": -0.5}],
        "reason_codes": ["CARD_TESTING"],
        "rule_hits": [{"rule": "card-testing", "action": "challenge"}],
        "shadow_hits": [{"rule": "new", "action": "decline"}],
        "challenger_scores": [{"model_id": "m2", "model_version": "1", "score": None}],
        "quality_flags": ["late:card"],
        "role": "champion",
        "deadline_missed": False,
        "duplicate": False,
    },
    "labelled_outcome": {
        **PAYMENT,
        "label": "fraud",
        "source": "chargeback",
        "payment_event_time": EVENT_TIME_US - 5,
        "weight": 1.0,
    },
    "model_release": {
        "model_id": "m1",
        "version": "1",
        "stage": "champion",
        "feature_set_id": "cards-1",
        "feature_set_hash": "cd",
        "metrics": {"ap": 0.7},
        "artefact_uri": "file://m1",
        "sha256": "ab",
        "signature": "sig",
        "created_at": EVENT_TIME_US,
    },
    "policy_release": {
        "policy_id": "p1",
        "version": "1",
        "body": "id = 'p1'",
        "sha256": "ab",
        "signature": "sig",
        "author": "someone",
        "reason": "because",
        "effective_at": EVENT_TIME_US,
    },
    "alert": {
        "alert_id": "a1",
        "event_time": EVENT_TIME_US,
        "kind": "drift",
        "severity": "warning",
        "subject": "card.count_10m",
        "measured": 0.3,
        "threshold": 0.2,
        "evidence": {"window": "7d"},
        "runbook": "docs/runbooks/drift.md",
    },
    "dead_letter": {
        "topic": "transactions.v1",
        "partition": 0,
        "offset": 7,
        "event_time": None,
        "reason": "NOT_JSON",
        "detail": "not JSON",
        "payload": "{",
        "seen_at": EVENT_TIME_US,
    },
}


def with_nulls(name: str) -> dict[str, Any]:
    """What comes back from Avro: all fields, NaN as null."""
    record = {field["name"]: OURS[name].get(field["name"], field.get("default")) for field in contract(name)["fields"]}
    if "features" in record:
        values = [None if value != value else value for value in record["features"]["values"]]  # noqa: PLR0124 - NaN
        record["features"] = {**record["features"], "values": values}
    if isinstance(record.get("source"), dict):
        record["source"] = {"sequence": None, **record["source"]}
    return record


@pytest.mark.parametrize("name", CONTRACTS)
def test_record_survives_avro(name: str) -> None:
    assert decode_avro_mapping(name, encode_avro(name, OURS[name])) == with_nulls(name)


@pytest.mark.parametrize("name", CONTRACTS)
def test_record_survives_json_with_times_as_text(name: str) -> None:
    payload = encode_json(name, OURS[name])
    for field in time_fields(name):
        text = orjson.loads(payload)[field]
        assert text is None or (isinstance(text, str) and len(text) == 27)
    back = decode_json_mapping(name, payload)
    told = {**with_nulls(name), **back}
    if isinstance(told.get("source"), dict):
        told["source"] = {"sequence": None, **told["source"]}
    assert told == with_nulls(name)
    assert back.keys() == OURS[name].keys()


def test_features_become_a_map_in_json_with_absent_numbers_as_null() -> None:
    payload = encode_json("decision", OURS["decision"], NAMES)
    features = {"amount": 12.34, "speed": None, "kyc": None, "recurring": True, "channel": "ecommerce", "count": 3.0}
    assert orjson.loads(payload)["features"] == features
    assert decode_json_mapping("decision", payload)["features"] == features
    assert OURS["decision"]["features"]["values"][4] == "ecommerce"  # the record itself is untouched


def test_times_given_as_text_are_left_alone() -> None:
    assert b'"event_time":"now"' in encode_json("alert", {**OURS["alert"], "event_time": "now"})


def test_names_that_do_not_match_the_values_are_a_defect_told_at_once() -> None:
    with pytest.raises(ValueError, match="argument 2 is longer than argument 1"):
        encode_json("decision", OURS["decision"], NAMES[:-1])


def test_container_file_of_the_contract_reads_as_datetimes_of_the_same_moment() -> None:
    file = io.BytesIO()
    fastavro.writer(file, contract("outcome"), [SAMPLES["outcome"]])
    file.seek(0)
    (row,) = fastavro.reader(file)
    assert isinstance(row, dict)
    moment = row["event_time"]
    assert isinstance(moment, dt.datetime)
    assert moment == dt.datetime(2026, 11, 1, 12, 0, 0, 123456, tzinfo=dt.UTC)


@pytest.mark.parametrize("name", CONTRACTS)
def test_required_field_left_out_is_a_defect_told_at_once(name: str) -> None:
    required = [field["name"] for field in contract(name)["fields"] if "default" not in field]
    for field in required:
        record = {key: value for key, value in OURS[name].items() if key != field}
        with pytest.raises((ValueError, TypeError), match=field):
            encode_avro(name, record)


def test_field_that_the_contract_lacks_is_a_defect_told_at_once() -> None:
    with pytest.raises(ValueError, match="colour"):
        encode_avro("alert", {**OURS["alert"], "colour": "red"})


def test_bad_bytes_of_ours_are_contract_errors_too() -> None:
    with pytest.raises(ContractError, match=r"NOT_AVRO: not one alert record in Avro"):
        decode_avro_mapping("alert", b"\x02")
    with pytest.raises(ContractError, match="NOT_JSON"):
        decode_json_mapping("alert", b"{")
    with pytest.raises(ContractError, match="WRONG_TYPE: expected a JSON object, got list"):
        decode_json_mapping("alert", b"[]")
    for moment in (b"5", b'"yesterday"', b"[]"):
        with pytest.raises(ContractError, match="WRONG_TYPE: event_time: expected an RFC 3339 date-time"):
            decode_json_mapping("alert", b'{"event_time":' + moment + b"}")
