"""The contracts, and the codecs of what Weir publishes.

A record on our side is a plain mapping with the contract's field names; its times are whole microseconds since the
epoch. In Avro they are timestamp-micros, in JSON RFC 3339 text. What comes in from outside goes through
`schemas.validate` instead.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Final, cast

import fastavro
import orjson
from fastavro.schema import fingerprint as _fingerprint
from fastavro.schema import parse_schema, to_parsing_canonical_form

from schemas.avro_writer import make_writer
from schemas.errors import ContractError
from schemas.reasons import NOT_AVRO, NOT_JSON, WRONG_TYPE
from schemas.times import format_rfc3339_us, parse_rfc3339_us

CONTRACTS: Final = (
    "transaction",
    "device_event",
    "identity_event",
    "outcome",
    "decision",
    "labelled_outcome",
    "model_release",
    "policy_release",
    "alert",
    "dead_letter",
)
"""Names of all contracts, version 1."""

Schema = dict[str, Any]


@cache
def contract(name: str) -> Schema:
    """Parsed Avro schema of a contract, with Weir's own properties.

    On the record: owner, topic, retention, promised_delay. On each field: sensitivity ("public", "internal",
    "personal", "pci"), and where it applies format (what validation expects) or values (the words it may take).

    Raises:
        KeyError: `name` is not in `CONTRACTS`.
    """
    if name not in CONTRACTS:
        raise KeyError(name)
    text = (resources.files("schemas") / "contracts" / f"{name}.avsc").read_text(encoding="utf-8")
    return cast(Schema, parse_schema(json.loads(text)))


@cache
def fingerprint(name: str, algorithm: str = "CRC-64-AVRO") -> str:
    """Fingerprint of a contract's canonical form, in hex: what the header of a bare Avro message carries.

    Args:
        name: Contract.
        algorithm: "CRC-64-AVRO", "sha256" or another one that fastavro knows.
    """
    return str(_fingerprint(to_parsing_canonical_form(contract(name)), algorithm))


def without_logical_types(node: Any) -> Any:
    """A schema whose values are told as what they are stored as: microseconds, not datetimes."""
    if isinstance(node, dict):
        return {
            key: without_logical_types(item)
            for key, item in node.items()
            if key != "logicalType" and not key.startswith("__")
        }
    if isinstance(node, list):
        return [without_logical_types(item) for item in node]
    return node


@cache
def plain_contract(name: str) -> Schema:
    """The contract with times as plain longs: the same bytes, read and written as microseconds without datetimes."""
    return cast(Schema, parse_schema(without_logical_types(contract(name))))


@cache
def time_fields(name: str) -> tuple[str, ...]:
    """Names of a contract's time fields; all stand on the top level."""
    return tuple(field["name"] for field in contract(name)["fields"] if field.get("format") == "time")


def encode_json(name: str, record: Mapping[str, Any], feature_names: Sequence[str] | None = None) -> bytes:
    """JSON form of a record of ours.

    Args:
        name: Contract.
        record: Fields of the contract. A time is microseconds, or text already; a number that is not finite becomes
            null. Not checked any further: a wrong record is a defect of ours, which `encode_avro` finds in tests.
        feature_names: Names of `features.values` in their order; `features` then becomes a map of name to value.

    Returns:
        UTF-8, keys in the order of `record`, no line end.

    Raises:
        ValueError: `feature_names` and values differ in number.
        TypeError: A value that JSON does not have.
    """
    result = dict(record)
    for field in time_fields(name):
        us = result.get(field)
        if type(us) is int:
            result[field] = format_rfc3339_us(us)
    if feature_names is not None:
        result["features"] = dict(zip(feature_names, result["features"]["values"], strict=True))
    return orjson.dumps(result)


def feature_map_json(names: Sequence[str]) -> Callable[[Sequence[Any]], orjson.Fragment]:
    """How to write feature values as a JSON map of name to value, ready to stand in a record for `encode_json`.

    Args:
        names: Names of the values, in their order.

    Returns:
        Function of the values; NaN becomes null. It raises ValueError when they differ from the names in number.
    """
    reused: dict[str, Any] = {}  # a dict of 200 entries is 10 KB: to make one costs as much as to encode it

    def encode(values: Sequence[Any]) -> orjson.Fragment:
        reused.update(zip(names, values, strict=True))
        return orjson.Fragment(orjson.dumps(reused))

    return encode


def encode_avro(name: str, record: Mapping[str, Any]) -> bytes:
    """One bare Avro record of a contract (no container, no framing).

    Args:
        name: Contract.
        record: Fields of the contract, times in microseconds; NaN in an optional number or in `features.values` is
            written as null. Optional fields may be left out.

    Raises:
        ValueError: A field that the contract does not have, a required one is missing, or a number is out of range.
        TypeError: A value of another type.
    """
    return _writer(name)(record)


@cache
def _writer(name: str) -> Callable[[Mapping[str, Any]], bytes]:
    return make_writer(plain_contract(name))


def read_avro(name: str, payload: bytes) -> dict[str, Any]:
    """Fields of one bare Avro record, times in microseconds, null fields as None.

    Raises:
        ContractError: NOT_AVRO, whatever the bytes hold.
    """
    stream = io.BytesIO(payload)
    try:
        record = fastavro.schemaless_reader(stream, plain_contract(name), None)
    except Exception as error:
        # fastavro lets through whatever a decoder trips over: EOFError, IndexError, UnicodeDecodeError, OverflowError,
        # MemoryError for a length of exabytes, ... None of their messages is passed on: they may quote the payload.
        detail = f"not one {name} record in Avro: {type(error).__name__} after {stream.tell()} of {len(payload)} bytes"
        raise ContractError(NOT_AVRO, detail) from None
    if stream.tell() != len(payload):
        detail = f"not one {name} record in Avro: it ends after {stream.tell()} of {len(payload)} bytes"
        raise ContractError(NOT_AVRO, detail)
    if not isinstance(record, dict):
        raise ContractError(NOT_AVRO, f"not one {name} record in Avro")
    return record


def read_json(payload: bytes) -> dict[str, Any]:
    """Fields of one JSON object, unchecked.

    Raises:
        ContractError: NOT_JSON or, for JSON that is no object, WRONG_TYPE.
    """
    try:
        record = orjson.loads(payload)
    except ValueError as error:
        position = getattr(error, "pos", 0)
        raise ContractError(NOT_JSON, f"not JSON: syntax or encoding, at character {position}") from None
    if type(record) is not dict:
        raise ContractError(WRONG_TYPE, f"expected a JSON object, got {type(record).__name__}")
    return record


def decode_avro_mapping(name: str, payload: bytes) -> dict[str, Any]:
    """A record of ours from bare Avro: the inverse of `encode_avro`.

    Raises:
        ContractError: NOT_AVRO.
    """
    return read_avro(name, payload)


def decode_json_mapping(name: str, payload: bytes) -> dict[str, Any]:
    """A record of ours from JSON: the inverse of `encode_json`; a map of features stays a map.

    Raises:
        ContractError: NOT_JSON, or WRONG_TYPE for what is no object or a time that is none.
    """
    record = read_json(payload)
    for field in time_fields(name):
        text = record.get(field)
        if text is None:
            continue
        try:
            record[field] = parse_rfc3339_us(text)
        except (ValueError, TypeError):
            raise ContractError(WRONG_TYPE, f"{field}: expected an RFC 3339 date-time") from None
    return record
