from __future__ import annotations

import io
import math
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.avro_writer import make_writer, zigzag
from schemas.codec import CONTRACTS, encode_avro, plain_contract
from tests.schemas.test_codec import OURS, with_nulls

LONGS = st.integers(-(2**63), 2**63 - 1)
VALUES = st.one_of(st.none(), st.floats(), st.booleans(), st.text(max_size=20))


def reference(schema: Any, record: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, record)
    return out.getvalue()


def without_nan(values: list[Any]) -> list[Any]:
    return [None if type(value) is float and math.isnan(value) else value for value in values]


@pytest.mark.parametrize("name", CONTRACTS)
def test_bytes_are_those_of_fastavro(name: str) -> None:
    for record in (OURS[name], with_nulls(name)):
        assert encode_avro(name, record) == reference(plain_contract(name), with_nulls(name))


@given(values=st.lists(VALUES, max_size=120), again=st.lists(VALUES, max_size=120))
def test_features_of_every_kind_are_the_bytes_of_fastavro(values: list[Any], again: list[Any]) -> None:
    for one in (values, again, values):
        ours = {**OURS["decision"], "features": {"feature_set": "f", "values": one}}
        theirs = {**with_nulls("decision"), "features": {"feature_set": "f", "values": without_nan(one)}}
        assert encode_avro("decision", ours) == reference(plain_contract("decision"), theirs)


@given(number=LONGS)
def test_whole_numbers_are_zigzag_varints(number: int) -> None:
    assert zigzag(number) == reference("long", number)


@given(
    texts=st.lists(st.text(max_size=30), min_size=1, max_size=3),
    long_text=st.sampled_from([1023, 1024, 70_000]),
    numbers=st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False)),
)
def test_texts_maps_and_records_of_texts_are_the_bytes_of_fastavro(
    texts: list[str], long_text: int, numbers: dict[str, float]
) -> None:
    hits = [{"rule": text, "action": text} for text in [*texts, *texts]]
    record = {**with_nulls("decision"), "rule_hits": hits, "country": "é" * long_text, "reason_codes": texts}
    assert encode_avro("decision", record) == reference(plain_contract("decision"), record)
    release = {**with_nulls("model_release"), "metrics": numbers}
    assert encode_avro("model_release", release) == reference(plain_contract("model_release"), release)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("amount_minor", 2**63, r"weir.v1.decision.amount_minor: 9223372036854775808 does not fit an Avro long"),
        ("amount_minor", True, r"weir.v1.decision.amount_minor: expected a whole number, got bool"),
        ("source", {"topic": "t", "partition": 2**31, "offset": 0}, "partition: 2147483648 does not fit an Avro int"),
        ("score", "high", r"weir.v1.decision.score: expected one of .*'double'.*, got str"),
        ("account_id", None, "account_id: expected a string, got NoneType"),
        ("card_id", 7, "card_id: expected a string or None, got int"),
        ("duplicate", 1, "duplicate: expected true or false, got int"),
        ("reason_codes", "ONE", "reason_codes: expected a list, got str"),
        ("features", {"feature_set": "f", "values": [[]] * 40}, "values: expected one of"),
        ("features", {"feature_set": "f", "values": [1.0] * 40 + [b"x"]}, "values: expected one of"),
        ("rule_hits", [{"rule": "r"}], r"weir.v1.RuleHit: field action is missing"),
        ("rule_hits", [7], r"weir.v1.RuleHit: expected a mapping, got int"),
        ("versions", {"policy_colour": "red", **OURS["decision"]["versions"]}, "no field .'policy_colour'"),
    ],
)
def test_wrong_value_is_a_defect_that_names_its_field(field: str, value: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        encode_avro("decision", {**OURS["decision"], field: value})


def test_schema_that_the_writer_cannot_write_is_refused_when_it_is_made() -> None:
    field = {"name": "f", "type": "bytes"}
    with pytest.raises(ValueError, match=r"r.f: no writer for the Avro type 'bytes'"):
        make_writer({"type": "record", "name": "r", "fields": [field]})
    both = {"name": "f", "type": ["int", "long"]}
    with pytest.raises(ValueError, match="a union in which int may mean two branches"):
        make_writer({"type": "record", "name": "r", "fields": [both]})
