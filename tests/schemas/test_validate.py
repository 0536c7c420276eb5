"""Tests of schemas/validate.py. One file, because JSON, Avro and rows are held against one list of faults."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import reasons
from schemas.codec import contract
from schemas.errors import ConfigError, ContractError
from schemas.events import Transaction
from schemas.times import format_rfc3339_us
from schemas.tokens import TokenKeys
from schemas.validate import INBOUND, Limits, decode_avro, decode_json, from_mapping
from schemas.validate_checks import canonical_ip
from tests.schemas.samples import (
    AMEX,
    EVENT_TIME_US,
    NOW_US,
    SAMPLES,
    VISA,
    as_avro,
    as_json,
    records,
    sample,
)

KEYS = TokenKeys("k1", {"k1": bytes(range(32))}, {})
HOUR_US = 3_600_000_000


def refusal(name: str, payload: bytes, **options: Any) -> ContractError:
    with pytest.raises(ContractError) as caught:
        decode_json(name, payload, now_us=NOW_US, **options)
    assert caught.value.reason in reasons.DEAD_LETTER_REASONS
    return caught.value


@pytest.mark.parametrize("name", INBOUND)
def test_sample_reads_the_same_from_json_avro_and_a_row(name: str) -> None:
    record = SAMPLES[name]
    event = decode_json(name, as_json(record), now_us=NOW_US)
    assert event == decode_avro(name, as_avro(name, record), now_us=NOW_US)
    assert event == from_mapping(name, record, now_us=NOW_US)
    assert event.event_time_us == EVENT_TIME_US
    for field, value in record.items():
        assert getattr(event, "event_time_us" if field == "event_time" else field) == value


@pytest.mark.parametrize("name", INBOUND)
def test_json_avro_and_rows_give_equal_events(name: str) -> None:
    @settings(max_examples=120, deadline=None)
    @given(records(name))
    def run(record: dict[str, Any]) -> None:
        event = decode_json(name, as_json(record), now_us=NOW_US)
        escaped = json.dumps({**record, "event_time": format_rfc3339_us(record["event_time"])}).encode()
        moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=record["event_time"])
        assert decode_json(name, escaped, now_us=NOW_US) == event
        assert decode_avro(name, as_avro(name, record), now_us=NOW_US) == event
        assert from_mapping(name, {**record, "event_time": moment}, now_us=NOW_US) == event

    run()


@pytest.mark.parametrize("name", INBOUND)
def test_every_required_field_is_missed_by_name(name: str) -> None:
    required = [field["name"] for field in contract(name)["fields"] if "default" not in field]
    assert required
    for field in required:
        for record in (sample(name, **{field: ...}), sample(name, **{field: None})):
            error = refusal(name, as_json(record))
            assert (error.reason, error.detail) == (reasons.MISSING_FIELD, f"{field}: required")


@pytest.mark.parametrize("name", INBOUND)
def test_every_field_of_a_wrong_type_is_named(name: str) -> None:
    for field in contract(name)["fields"]:
        kind = str(field["type"])
        for wrong in ([1], {"a": 1}, 1.5, True, 7, "7"):
            is_number = isinstance(wrong, int | float) and not isinstance(wrong, bool)
            if (
                ("double" in kind and is_number)
                or ("boolean" in kind and wrong is True)
                or (("string" in kind or field["name"] == "event_time") and "map" not in kind and wrong == "7")
                or (field["name"] == "amount_minor" and wrong == 7)
            ):
                continue
            error = refusal(name, orjson.dumps({**orjson.loads(as_json(SAMPLES[name])), field["name"]: wrong}))
            assert error.reason == reasons.WRONG_TYPE, (field["name"], wrong)
            assert error.detail.startswith(f"{field['name']}: expected "), error.detail


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("transaction", {"channel": "carrier_pigeon"}, "UNKNOWN_VALUE"),
        ("transaction", {"channel": ""}, "UNKNOWN_VALUE"),
        ("transaction", {"payment_type": "PURCHASE"}, "UNKNOWN_VALUE"),
        ("device_event", {"kind": "stolen"}, "UNKNOWN_VALUE"),
        ("identity_event", {"kind": "login"}, "UNKNOWN_VALUE"),
        ("outcome", {"label": "maybe"}, "UNKNOWN_VALUE"),
        ("outcome", {"source": "maturity"}, "UNKNOWN_VALUE"),
        ("transaction", {"currency": "eur"}, "BAD_CURRENCY"),
        ("transaction", {"currency": "XXX"}, "BAD_CURRENCY"),
        ("transaction", {"country": "UK"}, "BAD_COUNTRY"),
        ("device_event", {"country": "nl"}, "BAD_COUNTRY"),
        ("transaction", {"account_id": ""}, "BAD_ID"),
        ("transaction", {"account_id": "a" * 129}, "BAD_ID"),
        ("transaction", {"account_id": " "}, "BAD_ID"),
        ("transaction", {"account_id": "a "}, "BAD_ID"),
        ("transaction", {"account_id": " a", "attributes": ...}, "BAD_ID"),
        ("transaction", {"device_id": "a\x1fb"}, "BAD_ID"),
        ("transaction", {"device_id": "a\x7fb"}, "BAD_ID"),
        ("transaction", {"device_id": "a\u0085b"}, "BAD_ID"),
        ("outcome", {"transaction_id": "a\nb"}, "BAD_ID"),
        ("transaction", {"entry_mode": "x" * 65}, "BAD_TEXT"),
        ("transaction", {"three_ds_result": "x" * 65}, "BAD_TEXT"),
        ("outcome", {"fraud_type": "x" * 65}, "BAD_TEXT"),
        ("transaction", {"attributes": {"": "x"}}, "BAD_TEXT"),
        ("transaction", {"attributes": {"x" * 65: "x"}}, "BAD_TEXT"),
        ("transaction", {"attributes": {"x": "x" * 1025}}, "BAD_TEXT"),
        ("transaction", {"attributes": {f"k{i}": "" for i in range(65)}}, "BAD_TEXT"),
        ("transaction", {"mcc": "541"}, "BAD_CODE"),
        ("transaction", {"mcc": "54११"}, "BAD_CODE"),
        ("transaction", {"bin": "41111"}, "BAD_CODE"),
        ("transaction", {"bin": "4111111"}, "BAD_CODE"),
        ("transaction", {"last4": "111a"}, "BAD_CODE"),
        ("transaction", {"ip": "81.2.69.256"}, "BAD_IP"),
        ("transaction", {"ip": "081.2.69.25"}, "BAD_IP"),
        ("transaction", {"ip": "fe80::1%eth0"}, "BAD_IP"),
        ("transaction", {"ip": ""}, "BAD_IP"),
        ("device_event", {"ip": "localhost\x00"}, "BAD_IP"),
        ("transaction", {"amount_minor": -1}, "OUT_OF_RANGE"),
        ("transaction", {"amount_minor": 10**15 + 1}, "OUT_OF_RANGE"),
        ("transaction", {"latitude": 90.0001}, "OUT_OF_RANGE"),
        ("transaction", {"latitude": -91}, "OUT_OF_RANGE"),
        ("transaction", {"longitude": 180.5}, "OUT_OF_RANGE"),
        ("device_event", {"longitude": -181.0}, "OUT_OF_RANGE"),
        ("transaction", {"location_accuracy_km": -0.1}, "OUT_OF_RANGE"),
        ("transaction", {"location_accuracy_km": 30_000.0}, "OUT_OF_RANGE"),
        ("transaction", {"latitude": ...}, "MISSING_FIELD"),
        ("device_event", {"longitude": ...}, "MISSING_FIELD"),
        ("transaction", {"event_time": EVENT_TIME_US - 27 * 365 * 24 * HOUR_US}, "BAD_TIME"),
        ("transaction", {"event_time": NOW_US + 24 * HOUR_US + 1}, "FUTURE_EVENT"),
        ("transaction", {"transaction_id": VISA}, "PAN_IN_IDENTIFIER"),
    ],
)
def test_each_fault_has_its_reason_in_json_avro_and_rows(name: str, changes: dict[str, Any], reason: str) -> None:
    record = sample(name, **changes)
    error = refusal(name, as_json(record))
    assert error.reason == reason
    assert next(iter(changes)) in error.detail
    with pytest.raises(ContractError, match=reason):
        decode_avro(name, as_avro(name, record), now_us=NOW_US)
    with pytest.raises(ContractError, match=reason):
        from_mapping(name, record, now_us=NOW_US)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "NOT_JSON"),
        (b"{", "NOT_JSON"),
        (b"\xff\xfe{\x00}\x00", "NOT_JSON"),
        (b'{"account_id": "\xff"}', "NOT_JSON"),
        (b'{"account_id": "\\ud800"}', "NOT_JSON"),
        (b'{"latitude": NaN}', "NOT_JSON"),
        (b'{"latitude": 1e999}', "NOT_JSON"),
        (b"[" * 60_000, "NOT_JSON"),
        (b'{"a":' * 2_000, "NOT_JSON"),
        (b"null", "WRONG_TYPE"),
        (b"[]", "WRONG_TYPE"),
        (b'"transaction"', "WRONG_TYPE"),
        (b"{}", "MISSING_FIELD"),
        (b" " * 65_537, "TOO_LARGE"),
    ],
)
def test_payload_that_is_no_record_has_its_reason(payload: bytes, reason: str) -> None:
    assert refusal("transaction", payload).reason == reason


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x00",
        b"\xff" * 100,
        as_avro("outcome", SAMPLES["outcome"])[:-1],
        as_avro("outcome", SAMPLES["outcome"]) + b"\x00",
        b"\x04\xff\xfe" + as_avro("outcome", SAMPLES["outcome"])[3:],  # an id that is not UTF-8
        b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01" + b"x" * 50,  # a length of eight exabytes
        b"\x01" + as_avro("outcome", SAMPLES["outcome"]),  # a negative length
    ],
)
def test_bytes_that_are_no_avro_record_are_not_avro(payload: bytes) -> None:
    with pytest.raises(ContractError, match="NOT_AVRO"):
        decode_avro("outcome", payload, now_us=NOW_US)


def test_nan_and_infinite_coordinates_in_avro_are_out_of_range() -> None:
    for value in (float("inf"), float("-inf")):
        payload = as_avro("transaction", sample("transaction", latitude=value))
        with pytest.raises(ContractError, match="OUT_OF_RANGE: latitude"):
            decode_avro("transaction", payload, now_us=NOW_US)
    for field in ("latitude", "longitude", "location_accuracy_km"):
        with pytest.raises(ContractError, match=f"OUT_OF_RANGE: {field}"):
            from_mapping("transaction", sample("transaction", **{field: float("nan")}), now_us=NOW_US)


def test_size_and_future_limits_are_configurable() -> None:
    payload = as_json(SAMPLES["transaction"])
    assert refusal("transaction", payload, limits=Limits(max_payload_bytes=100)).reason == reasons.TOO_LARGE
    avro = as_avro("transaction", SAMPLES["transaction"])
    with pytest.raises(ContractError, match="TOO_LARGE"):
        decode_avro("transaction", avro, now_us=NOW_US, limits=Limits(max_payload_bytes=100))
    ahead = as_json(sample("transaction", event_time=NOW_US + 2 * HOUR_US))
    assert decode_json("transaction", ahead, now_us=NOW_US).event_time_us == NOW_US + 2 * HOUR_US
    error = refusal("transaction", ahead, limits=Limits(max_future_us=HOUR_US))
    assert error.reason == reasons.FUTURE_EVENT
    assert error.detail == "event_time: 7200 s in the future, allowed are 3600 s"


def test_unknown_fields_are_ignored_and_nulls_mean_absent() -> None:
    bare = {
        name: SAMPLES["transaction"][name]
        for name in ("transaction_id", "event_time", "account_id", "channel", "amount_minor", "currency")
    }
    event = decode_json("transaction", as_json(bare), now_us=NOW_US)
    assert isinstance(event, Transaction)
    assert event.payment_type == "purchase"
    optional = [field["name"] for field in contract("transaction")["fields"] if "default" in field]
    extended = {**bare, **dict.fromkeys(optional), "event_time_us": 5, "loyalty": {"points": [1]}}
    assert decode_json("transaction", as_json(extended), now_us=NOW_US) == event
    assert from_mapping("transaction", extended, now_us=NOW_US) == event


def test_whole_number_coordinates_and_zero_amounts_are_fine() -> None:
    event = decode_json(
        "transaction",
        as_json(sample("transaction", latitude=52, longitude=-180, amount_minor=0, payment_type="verification")),
        now_us=NOW_US,
    )
    assert isinstance(event, Transaction)
    assert (event.latitude, event.longitude, event.amount_minor) == (52.0, -180.0, 0)
    assert type(event.latitude) is float


def test_fraction_of_a_minor_unit_is_refused_even_when_whole() -> None:
    payload = as_json(SAMPLES["transaction"]).replace(b'"amount_minor":1234', b'"amount_minor":1234.0')
    assert refusal("transaction", payload).detail == "amount_minor: expected an integer, got float"


def test_time_in_json_must_be_text_with_a_zone() -> None:
    for moment, reason in ((EVENT_TIME_US, "WRONG_TYPE"), ("2026-11-01T12:00:00", "BAD_TIME")):
        payload = orjson.dumps({**SAMPLES["transaction"], "event_time": moment})
        assert refusal("transaction", payload).reason == reason


def test_rows_take_datetimes_microseconds_and_text_and_read_naive_ones_as_utc() -> None:
    moment = dt.datetime(2026, 11, 1, 12, 0, 0, 123456, tzinfo=dt.UTC)
    for value in (
        moment,
        moment.replace(tzinfo=None),
        moment.astimezone(dt.timezone(dt.timedelta(hours=5))),
        EVENT_TIME_US,
        "2026-11-01T12:00:00.123456Z",
    ):
        assert (
            from_mapping("outcome", sample("outcome", event_time=value), now_us=NOW_US).event_time_us == EVENT_TIME_US
        )
    for wrong in (1.5, True, dt.date(2026, 11, 1)):
        with pytest.raises(ContractError, match="WRONG_TYPE: event_time: expected a date-time"):
            from_mapping("outcome", sample("outcome", event_time=wrong), now_us=NOW_US)


def test_rows_take_maps_as_pairs_and_drop_null_columns_of_structs() -> None:
    fine: list[Any] = [[("note", "gift")], {"note": "gift", "basket": None}]
    for attributes in fine:
        event = from_mapping("transaction", sample("transaction", attributes=attributes), now_us=NOW_US)
        assert isinstance(event, Transaction)
        assert event.attributes == {"note": "gift"}
    wrong: list[Any] = [["gift"], [1], "gift", [("a", "b", "c")], [([], "a")], {"a": 1}]
    for attributes in wrong:
        with pytest.raises(ContractError, match="WRONG_TYPE: attributes: expected a map of strings"):
            from_mapping("transaction", sample("transaction", attributes=attributes), now_us=NOW_US)


def test_rows_with_values_of_strange_types_are_refused_not_raised() -> None:
    for value in (
        object(),
        10**400,
        -(10**400),
        b"x",
        "\ud800",
        {1: 2},
        {"\ud800": "a"},
        {"a": "\ud800"},
        float("nan"),
    ):
        for field in ("account_id", "latitude", "amount_minor", "recurring", "entry_mode", "attributes", "event_time"):
            with pytest.raises(ContractError) as caught:
                from_mapping("transaction", sample("transaction", **{field: value}), now_us=NOW_US)
            assert field in caught.value.detail


@given(
    st.one_of(
        st.ip_addresses(v=4).map(str),
        st.ip_addresses(v=6).map(lambda ip: ip.exploded),
        st.text("0123456789abcdef.:%x ", max_size=24),
    )
)
def test_ip_addresses_are_judged_as_the_standard_library_does(text: str) -> None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        assert canonical_ip(text) is None
        return
    if "%" in text:
        assert canonical_ip(text) is None
    elif isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        assert canonical_ip(text) == str(address.ipv4_mapped)
    else:
        assert canonical_ip(text) == str(address)


def test_one_ipv6_address_is_one_text() -> None:
    for text in ("2001:DB8::1", "2001:db8:0:0:0:0:0:1", "2001:0db8::0001"):
        event = decode_json("device_event", as_json(sample("device_event", ip=text)), now_us=NOW_US)
        assert getattr(event, "ip", None) == "2001:db8::1"
    assert canonical_ip("::ffff:192.0.2.1") == "192.0.2.1"


@pytest.mark.parametrize("pan", [VISA, "4111 1111 1111 1111", "4111-1111-1111-1111"])
def test_card_number_becomes_token_and_the_digits_that_may_be_kept(pan: str) -> None:
    record = sample("transaction", pan=pan, card_id=..., bin=..., last4=...)
    for event in (
        decode_json("transaction", as_json(record), now_us=NOW_US, tokeniser=KEYS),
        decode_avro("transaction", as_avro("transaction", record), now_us=NOW_US, tokeniser=KEYS),
        from_mapping("transaction", record, now_us=NOW_US, tokeniser=KEYS),
    ):
        assert isinstance(event, Transaction)
        assert (event.card_id, event.bin, event.last4) == (KEYS.tokenise(VISA).card_id, "411111", "1111")
        assert VISA not in repr(event)


@pytest.mark.parametrize(
    "pan", ["", "7", "41111111111", "4111111111111112", "४१११११११११११११११", "4111111111111111x", "0" * 20]
)
def test_wrong_card_number_is_refused_without_being_told(pan: str) -> None:
    for tokeniser in (KEYS, None):
        error = refusal("transaction", as_json(sample("transaction", pan=pan)), tokeniser=tokeniser)
        assert error.reason == reasons.BAD_PAN
        assert error.detail == "pan: expected 12 to 19 digits with a right check digit"


def test_card_number_without_a_key_or_of_another_type_is_refused() -> None:
    payload = as_json(sample("transaction", pan=VISA, card_id=..., bin=..., last4=...))
    assert refusal("transaction", payload).reason == reasons.PAN_WITHOUT_KEY
    error = refusal("transaction", as_json(sample("transaction", pan=int(VISA))), tokeniser=KEYS)
    assert (error.reason, error.detail) == (reasons.WRONG_TYPE, "pan: expected a string, got int")
    with pytest.raises(ContractError, match="WRONG_TYPE: pan"):
        from_mapping("transaction", sample("transaction", pan=int(VISA)), now_us=NOW_US, tokeniser=KEYS)


def test_card_number_may_come_with_its_own_token_and_with_no_other() -> None:
    token = KEYS.tokenise(VISA)
    fine = sample("transaction", pan=VISA, card_id=token.card_id, bin="41111111", last4="1111")
    event = decode_json("transaction", as_json(fine), now_us=NOW_US, tokeniser=KEYS)
    assert isinstance(event, Transaction)
    assert event.bin == "411111"
    for field, value in (("card_id", "C1"), ("bin", "511111"), ("last4", "1112"), ("bin", 4)):
        error = refusal("transaction", as_json({**fine, field: value}), tokeniser=KEYS)
        assert error.reason == reasons.PAN_CONFLICT
        assert error.detail.startswith(f"{field}: ")


@pytest.mark.parametrize("name", INBOUND)
def test_card_number_in_any_identifier_is_refused_unless_declared_safe(name: str) -> None:
    identifiers = [field["name"] for field in contract(name)["fields"] if field.get("format") == "id"]
    for field in identifiers:
        for value in (
            VISA,
            "4111-1111-1111-1111",
            f"order-{AMEX}",
            "".join(chr(0xFF10 + int(digit)) for digit in AMEX),
        ):
            record = sample(name, **{field: value})
            error = refusal(name, as_json(record))
            assert error.reason == reasons.PAN_IN_IDENTIFIER
            assert field in error.detail
            assert value not in error.detail
            escaped = json.dumps(orjson.loads(as_json(record))).replace(value, f"\\u{ord(value[0]):04x}{value[1:]}")
            assert refusal(name, escaped.encode()).reason == reasons.PAN_IN_IDENTIFIER
            event = decode_json(name, as_json(record), now_us=NOW_US, limits=Limits(safe_fields=frozenset({field})))
            assert getattr(event, field) == value


def test_ids_that_merely_contain_many_digits_are_accepted() -> None:
    for value in ("C4111111111111111", "3f2504e0-4f89-41d3-9a0c-0305e82c3301", "4111111111111112", "1234567890123456"):
        event = decode_json("transaction", as_json(sample("transaction", transaction_id=value)), now_us=NOW_US)
        assert getattr(event, "transaction_id", None) == value


def test_card_numbers_in_texts_and_attributes_are_blanked() -> None:
    record = sample(
        "transaction",
        entry_mode=f"keyed {VISA}",
        attributes={f"ref {AMEX}": "call 4111 1111 1111 1111 now", "raw": f"x{VISA}x", "n": "1234567890123456"},
    )
    for event in (
        decode_json("transaction", as_json(record), now_us=NOW_US),
        decode_avro("transaction", as_avro("transaction", record), now_us=NOW_US),
        from_mapping("transaction", record, now_us=NOW_US),
    ):
        assert isinstance(event, Transaction)
        assert event.entry_mode == "keyed [PAN]"
        assert event.attributes == {"ref [PAN]": "call [PAN] now", "raw": "x[PAN]x", "n": "1234567890123456"}


def test_safe_fields_must_be_identifiers() -> None:
    with pytest.raises(ConfigError, match=r"safe_fields: \['amount_minor', 'pan'\] are no identifier fields"):
        Limits(safe_fields=frozenset({"pan", "amount_minor", "card_id"}))


def test_unknown_contract_is_our_own_mistake() -> None:
    with pytest.raises(KeyError, match="decision"):
        decode_json("decision", b"{}", now_us=NOW_US)
