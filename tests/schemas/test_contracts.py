from __future__ import annotations

import typing
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from schemas import iso, metrics
from schemas.codec import CONTRACTS, contract, fingerprint, plain_contract, time_fields
from schemas.events import DeviceEvent, IdentityEvent, Outcome, Transaction
from schemas.reasons import DEAD_LETTER_REASONS, REASON_CODES

SENSITIVITIES = {"public", "internal", "personal", "pci"}


def fields_in(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, list):
        for item in node:
            yield from fields_in(item)
    elif isinstance(node, dict):
        for field in node.get("fields", []):
            yield field
            yield from fields_in(field["type"])
        for key in ("items", "values", "type"):
            if isinstance(node.get(key), dict | list):
                yield from fields_in(node[key])


@pytest.mark.parametrize("name", CONTRACTS)
def test_contract_parses_and_says_who_owns_it_and_for_how_long(name: str) -> None:
    schema = contract(name)
    assert schema["name"] == f"weir.v1.{name}"
    for key in ("owner", "topic", "retention", "promised_delay", "doc"):
        assert schema[key], key
    assert schema["topic"].endswith(".v1")


@pytest.mark.parametrize("name", CONTRACTS)
def test_every_field_also_of_inner_records_carries_sensitivity_and_a_sentence(name: str) -> None:
    fields = list(fields_in(contract(name)))
    assert len(fields) >= len(contract(name)["fields"])
    for field in fields:
        assert field["sensitivity"] in SENSITIVITIES, field["name"]
        assert field["doc"], field["name"]


@pytest.mark.parametrize("name", CONTRACTS)
def test_optional_fields_are_null_first_with_a_null_default(name: str) -> None:
    for field in fields_in(contract(name)):
        if isinstance(field["type"], list):
            assert field["type"][0] == "null", field["name"]
            assert len(field["type"]) == 2
            assert field["default"] is None


@pytest.mark.parametrize("name", CONTRACTS)
def test_times_are_timestamp_micros_and_nothing_else_is(name: str) -> None:
    times = {field["name"] for field in contract(name)["fields"] if "timestamp-micros" in str(field["type"])}
    assert times == set(time_fields(name))
    assert "logicalType" not in str(plain_contract(name))


def test_every_avsc_shipped_is_a_contract() -> None:
    shipped = {entry.name.removesuffix(".avsc") for entry in (resources.files("schemas") / "contracts").iterdir()}
    assert shipped == set(CONTRACTS)


def test_records_shared_by_two_contracts_are_the_same() -> None:
    def inner(name: str, field: str) -> Any:
        return next(item["type"] for item in contract(name)["fields"] if item["name"] == field)

    for field in ("features", "versions"):
        assert inner("decision", field) == inner("labelled_outcome", field)


def test_only_the_card_number_is_pci_and_only_a_transaction_may_bring_it() -> None:
    pci = [
        (name, field["name"])
        for name in CONTRACTS
        for field in fields_in(contract(name))
        if field["sensitivity"] == "pci"
    ]
    assert pci == [("transaction", "pan")]


@pytest.mark.parametrize(
    ("name", "struct"),
    [
        ("transaction", Transaction),
        ("device_event", DeviceEvent),
        ("identity_event", IdentityEvent),
        ("outcome", Outcome),
    ],
)
def test_structs_have_the_fields_of_their_contract(name: str, struct: Any) -> None:
    expected = {field["name"] for field in contract(name)["fields"]} - {"pan", "event_time"} | {"event_time_us"}
    assert set(struct.__struct_fields__) == expected
    required = {field["name"] for field in contract(name)["fields"] if "default" not in field}
    hints = typing.get_type_hints(struct)
    for field in struct.__struct_fields__:
        if field not in required and field not in {"event_time_us", "payment_type"}:
            assert type(None) in typing.get_args(hints[field]), field


def test_fingerprints_ignore_our_properties_and_differ_between_contracts() -> None:
    assert len({fingerprint(name) for name in CONTRACTS}) == len(CONTRACTS)
    assert fingerprint("outcome") == fingerprint("outcome", "CRC-64-AVRO")
    assert len(fingerprint("outcome")) == 16
    assert len(fingerprint("outcome", "sha256")) == 64


def test_unknown_contract_is_refused() -> None:
    with pytest.raises(KeyError, match="payment"):
        contract("payment")


def test_reason_catalogues_are_frozen_and_each_code_has_its_sentence() -> None:
    for catalogue in (REASON_CODES, DEAD_LETTER_REASONS):
        for code, meaning in catalogue.items():
            assert code == code.upper(), code
            assert code.replace("_", "").isalnum(), code
            assert meaning.endswith("."), code
        with pytest.raises(TypeError, match="does not support item assignment"):
            catalogue["NEW"] = "x"  # type: ignore[index]  # that it is frozen is what is tested
    assert len(REASON_CODES) >= 45
    assert not REASON_CODES.keys() & DEAD_LETTER_REASONS.keys()


def test_currency_exponents_follow_iso_4217() -> None:
    for code, digits in {"EUR": 2, "USD": 2, "JPY": 0, "KRW": 0, "KWD": 3, "BHD": 3, "CLF": 4, "HRK": 2}.items():
        assert iso.CURRENCY_EXPONENT[code] == digits
    assert not {"XXX", "XTS", "XAU", "eur", ""} & iso.CURRENCIES
    assert all(len(code) == 3 and code.isascii() and code.isupper() for code in iso.CURRENCIES)


def test_countries_are_the_249_of_iso_3166_and_kosovo() -> None:
    assert len(iso.ISO_COUNTRIES) == 249
    assert {"XK"} == iso.COUNTRIES - iso.ISO_COUNTRIES
    assert not {"UK", "EU", "AN", "nl"} & iso.COUNTRIES


def test_documentation_names_every_contract_with_its_promises_and_every_reason() -> None:
    text = (Path(__file__).parents[2] / "docs" / "contracts.md").read_text(encoding="utf-8")
    for name in CONTRACTS:
        schema = contract(name)
        row = (name, schema["topic"], schema["owner"], schema["retention"], schema["promised_delay"], schema["doc"])
        assert f"| {' | '.join(row)} |" in text
    for reason, meaning in DEAD_LETTER_REASONS.items():
        assert f"| {reason} | {meaning} |" in text


def test_metric_names_are_unique_and_end_in_what_they_count() -> None:
    names = [metric.name for metric in metrics.METRICS]
    assert len(set(names)) == len(names)
    assert {value for value in vars(metrics).values() if isinstance(value, metrics.Metric)} == set(metrics.METRICS)
    for metric in metrics.METRICS:
        assert metric.name.startswith("weir_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert not {"card", "account", "transaction", "device", "ip"} & set(metric.labels)
