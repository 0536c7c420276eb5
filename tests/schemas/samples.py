"""Valid records of the inbound contracts, and strategies that make more of them."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import strategies as st

from schemas.codec import contract, encode_avro
from schemas.iso import COUNTRIES, CURRENCIES
from schemas.times import format_rfc3339_us, parse_rfc3339_us

NOW_US = parse_rfc3339_us("2026-11-02T00:00:00Z")
EVENT_TIME_US = parse_rfc3339_us("2026-11-01T12:00:00.123456Z")
VISA = "4111111111111111"
AMEX = "378282246310005"
MASTERCARD = "5555555555554444"

SAMPLES: dict[str, dict[str, Any]] = {
    "transaction": {
        "transaction_id": "T-00012345",
        "event_time": EVENT_TIME_US,
        "account_id": "A0001234",
        "card_id": "C0001234",
        "bin": "411111",
        "last4": "1111",
        "device_id": "D77123",
        "ip": "81.2.69.142",
        "merchant_id": "M000123",
        "terminal_id": "P000077",
        "counterparty_id": "payee 7",
        "mcc": "5411",
        "channel": "ecommerce",
        "payment_type": "purchase",
        "amount_minor": 1234,
        "currency": "EUR",
        "country": "NL",
        "latitude": 52.3702,
        "longitude": 4.8952,
        "location_accuracy_km": 1.5,
        "entry_mode": "chip",
        "three_ds_result": "frictionless",
        "recurring": False,
        "attributes": {"basket": "3 books", "note": "gift"},
    },
    "device_event": {
        "event_id": "E1",
        "event_time": EVENT_TIME_US,
        "device_id": "D77123",
        "account_id": "A0001234",
        "kind": "login_failed",
        "ip": "2001:db8::1",
        "country": "DE",
        "latitude": -33.9,
        "longitude": 151.2,
    },
    "identity_event": {"event_id": "E2", "event_time": EVENT_TIME_US, "account_id": "A0001234", "kind": "kyc_passed"},
    "outcome": {
        "outcome_id": "O1",
        "event_time": EVENT_TIME_US,
        "transaction_id": "T-00012345",
        "label": "fraud",
        "source": "chargeback",
        "fraud_type": "stolen card",
    },
}


def sample(name: str, **changes: Any) -> dict[str, Any]:
    """A valid record with `changes`; ... takes a field out."""
    return {key: value for key, value in {**SAMPLES[name], **changes}.items() if value is not ...}


def as_json(record: dict[str, Any]) -> bytes:
    """JSON form: times as text when they are microseconds."""
    moment = record.get("event_time")
    return orjson.dumps({**record, "event_time": format_rfc3339_us(moment)} if type(moment) is int else record)


def as_avro(name: str, record: dict[str, Any]) -> bytes:
    """Avro form; payment_type needs its default written."""
    return encode_avro(name, {**({"payment_type": "purchase"} if name == "transaction" else {}), **record})


# Ids without long runs of digits: one that looks like a card number is refused, which other tests are about.
ids = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp", "Nd"]), min_size=1, max_size=128)
_TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Nd"]), max_size=64)
_STRATEGIES: dict[str, st.SearchStrategy[Any]] = {
    "id": ids.filter(lambda text: text == text.strip()),
    "text": _TEXTS,
    "time": st.integers(parse_rfc3339_us("2000-01-01T00:00:00Z"), NOW_US),
    "ip": st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str),
    "mcc": st.from_regex(r"\A[0-9]{4}\Z"),
    "bin": st.from_regex(r"\A[0-9]{6}([0-9]{2})?\Z"),
    "last4": st.from_regex(r"\A[0-9]{4}\Z"),
    "amount": st.integers(0, 10**15),
    "currency": st.sampled_from(sorted(CURRENCIES)),
    "country": st.sampled_from(sorted(COUNTRIES)),
    "distance": st.floats(0, 20_040),
    "attributes": st.dictionaries(_TEXTS.filter(bool), _TEXTS, max_size=5),
}


@st.composite
def records(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """A valid record of an inbound contract, optional fields present or not."""
    record: dict[str, Any] = {}
    for field in contract(name)["fields"]:
        form = field.get("format")
        if form in {"pan", "latitude", "longitude"} or ("default" in field and draw(st.booleans())):
            continue
        if "values" in field:
            record[field["name"]] = draw(st.sampled_from(field["values"]))
        elif field["name"] == "recurring":
            record[field["name"]] = draw(st.booleans())
        else:
            record[field["name"]] = draw(_STRATEGIES[form])
    if name in {"transaction", "device_event"} and draw(st.booleans()):
        record |= {"latitude": draw(st.floats(-90, 90)), "longitude": draw(st.floats(-180, 180))}
    return record
