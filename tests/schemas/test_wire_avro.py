from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.avro_writer import make_writer
from schemas.codec import CONTRACTS, contract, plain_contract, without_logical_types
from schemas.compatibility import incompatibilities
from schemas.errors import ContractError, StreamError
from schemas.validate import from_mapping
from schemas.wire_avro import (
    FINGERPRINT_HEADER,
    FingerprintDecoder,
    FingerprintEncoder,
    FramedDecoder,
    FramedEncoder,
    released,
    schema_fingerprint,
)
from tests.schemas.samples import NOW_US, SAMPLES, records
from tests.schemas.test_codec import OURS, with_nulls

BIT63 = 2**63 - 1


class Schemas:
    """A registry's content."""

    def __init__(self, **schemas: Any) -> None:
        self.by_id = {int(key[1:]): schema for key, schema in schemas.items()}
        self.asked: list[int] = []
        self.down = False

    def schema(self, schema_id: int) -> Any:
        self.asked.append(schema_id)
        if self.down:
            message = "registry: no answer"
            raise StreamError(message)
        return self.by_id.get(schema_id)


def changed(name: str, *, drop: tuple[str, ...] = (), add: tuple[dict[str, Any], ...] = ()) -> Any:
    schema = copy.deepcopy(contract(name))
    schema["fields"] = [field for field in schema["fields"] if field["name"] not in drop] + list(add)
    return {key: value for key, value in schema.items() if not key.startswith("__")}


@pytest.mark.parametrize("name", CONTRACTS)
def test_both_forms_give_the_record_back(name: str) -> None:
    value, headers = FramedEncoder({name: 7})(name, OURS[name])
    assert value[:5] == b"\x00\x00\x00\x00\x07"
    assert FramedDecoder(name, Schemas(_7=contract(name)))(value, headers) == with_nulls(name)
    value, headers = FingerprintEncoder()(name, OURS[name])
    assert FingerprintDecoder(name)(value, headers) == with_nulls(name)


def test_older_and_newer_writers_are_read_as_ours() -> None:
    extra = {"name": "colour", "type": ["null", "string"], "default": None}
    newer = changed("outcome", add=(extra,))
    older = changed("outcome", drop=("fraud_type",))
    record = SAMPLES["outcome"]
    write_newer, write_older = (make_writer(without_logical_types(schema)) for schema in (newer, older))
    decode = FramedDecoder("outcome", Schemas(_1=newer, _2=older))
    assert decode(b"\0\0\0\0\x01" + write_newer({**record, "colour": "red"}), []) == record
    without = {key: value for key, value in record.items() if key != "fraud_type"}
    assert decode(b"\0\0\0\0\x02" + write_older(without), []) == {**record, "fraud_type": None}
    by_header = FingerprintDecoder("outcome", [newer])
    named = [(FINGERPRINT_HEADER, schema_fingerprint(newer).encode())]
    assert by_header(write_newer({**record, "colour": "red"}), named) == record


def test_schema_is_asked_for_once_and_a_registry_that_is_down_is_no_dead_letter() -> None:
    schemas = Schemas(_7=contract("outcome"))
    schemas.down = True
    decode = FramedDecoder("outcome", schemas)
    value, _ = FramedEncoder({"outcome": 7})("outcome", OURS["outcome"])
    with pytest.raises(StreamError, match="no answer"):
        decode(value, [])
    schemas.down = False
    assert decode(value, []) == decode(value, []) == with_nulls("outcome")
    assert schemas.asked == [7, 7]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "NOT_AVRO: 0 bytes, expected a zero byte"),
        (b'{"outcome_id":"O1"}', "NOT_AVRO: 19 bytes, expected a zero byte"),
        (b"\0\0\0\0\x07", "NOT_AVRO: not one outcome record in Avro"),
        (b"\0\0\0\0\x09", "UNKNOWN_CONTRACT: schema id 9: the registry does not know it"),
        (b"\0\0\0\0\x08\0", "UNKNOWN_CONTRACT: schema id 8 cannot be read as outcome: the record: expected the record"),
        (b"\0\0\0\0\x06\0", "UNKNOWN_CONTRACT: schema id 6 cannot be read as outcome: event_time: expected timestamp-"),
        (b"\0\0\0\0\x05\0", r"UNKNOWN_CONTRACT: schema id 5 .* its schema cannot be used"),
    ],
)
def test_what_cannot_be_read_is_a_contract_error(value: bytes, message: str) -> None:
    millis = changed("outcome", drop=("event_time",))
    millis["fields"].append({"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}})
    schemas = Schemas(_7=contract("outcome"), _8=contract("alert"), _6=millis, _5={"fields": 7})
    with pytest.raises(ContractError, match=message):
        FramedDecoder("outcome", schemas)(value, [])


def test_bytes_behind_the_record_and_headers_that_name_nothing_are_contract_errors() -> None:
    value, headers = FingerprintEncoder()("outcome", OURS["outcome"])
    decode = FingerprintDecoder("outcome")
    with pytest.raises(ContractError, match="NOT_AVRO: not one outcome record in Avro: it ends after"):
        decode(value + b"\0", headers)
    with pytest.raises(ContractError, match="UNKNOWN_CONTRACT: no header avro-fingerprint"):
        decode(value, [("other", b"x")])
    with pytest.raises(ContractError, match="UNKNOWN_CONTRACT: header avro-fingerprint: not the fingerprint"):
        decode(value, [(FINGERPRINT_HEADER, b"\xff\xfe")])


@given(payload=st.binary(max_size=80))
def test_no_bytes_raise_anything_but_contract_errors(payload: bytes) -> None:
    decode = FramedDecoder("transaction", Schemas(_7=contract("transaction")))
    try:
        record = decode(b"\0\0\0\0\x07" + payload, [])
        from_mapping("transaction", record, now_us=NOW_US)
    except ContractError:
        pass


@pytest.mark.parametrize("moment", [BIT63, -BIT63, 0, 253_402_300_800_000_000])
def test_time_outside_the_calendar_is_a_contract_error(moment: int) -> None:
    value, headers = FingerprintEncoder()("outcome", {**SAMPLES["outcome"], "event_time": moment})
    record = FingerprintDecoder("outcome")(value, headers)
    assert record["event_time"] == moment
    with pytest.raises(ContractError, match=r"BAD_TIME|FUTURE_EVENT"):
        from_mapping("outcome", record, now_us=NOW_US)


@pytest.mark.parametrize("name", CONTRACTS)
def test_every_contract_reads_its_releases(name: str) -> None:
    assert released(name), "a contract without a release: copy it to schemas/released/<version> when it is released"
    for version, schema in released(name).items():
        assert incompatibilities(contract(name), schema) == [], version


@settings(deadline=None)  # a machine that is busy is no fault of the reader
@given(data=st.data(), name=st.sampled_from(["transaction", "device_event", "identity_event", "outcome"]))
def test_what_a_release_wrote_is_read_today(data: st.DataObject, name: str) -> None:
    record = data.draw(records(name))
    if name == "transaction":
        record.setdefault("payment_type", "purchase")
    for schema in released(name).values():
        value = make_writer(without_logical_types(schema))(record)
        read = FingerprintDecoder(name)(value, [(FINGERPRINT_HEADER, schema_fingerprint(schema).encode())])
        assert {key: item for key, item in read.items() if item is not None} == record


@pytest.mark.parametrize(
    ("reader", "writer", "message"),
    [
        ("long", "int", None),
        ("int", "long", "the record: expected int; it is written as long"),
        (["null", "string"], "string", None),
        ("string", ["null", "string"], "the record: expected string; it is written as null"),
        (["null", "double"], "string", "the record: expected one of null, double; it is written as string"),
        ({"type": "array", "items": "string"}, {"type": "array", "items": "int"}, r"\[\]: expected string"),
        ({"type": "map", "values": "long"}, {"type": "map", "values": "int"}, None),
        (
            {"type": "enum", "name": "e", "symbols": ["A"]},
            {"type": "enum", "name": "n.e", "symbols": ["A", "B"]},
            r"the writer may write \['B'\]",
        ),
        (
            {"type": "fixed", "name": "f", "size": 2},
            {"type": "fixed", "name": "f", "size": 3},
            "expected 2 bytes; it is written as 3",
        ),
    ],
)
def test_rules_of_resolution(reader: Any, writer: Any, message: str | None) -> None:
    faults = incompatibilities(reader, writer)
    if message is None:
        assert faults == []
    else:
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(faults[0])


def test_new_field_without_default_and_changed_inner_field_are_told_with_their_place() -> None:
    required = changed("decision", add=({"name": "colour", "type": "string"},))
    assert incompatibilities(required, contract("decision")) == [
        "colour: expected in every record; the writer has no such field and it has no default"
    ]
    inner = copy.deepcopy(plain_contract("decision"))
    source = next(field for field in inner["fields"] if field["name"] == "source")
    source["type"]["fields"][2]["type"] = "string"
    assert "source.offset: expected string; it is written as long" in incompatibilities(inner, contract("decision"))
