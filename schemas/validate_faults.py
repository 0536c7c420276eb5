"""What is wrong with a record that did not fit its struct: walks the contract field by field, off the fast path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from schemas.errors import ContractError
from schemas.reasons import BAD_ID, MISSING_FIELD, OUT_OF_RANGE, WRONG_TYPE

MAX_ID_LENGTH: Final = 128
MAX_AMOUNT_MINOR: Final = 10**15

# Type in the contract to the types a decoded value may have, and how a message calls it. A bool is an int to Python,
# not to a contract; a whole number is a fine double.
_TYPES: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    "string": ((str,), "a string"),
    "long": ((int,), "an integer"),
    "double": ((float, int), "a number"),
    "boolean": ((bool,), "true or false"),
    "map": ((dict,), "a map of strings"),
}


class Field(NamedTuple):
    """A field of a contract as validation sees it.

    Attributes:
        name: Name.
        type: Avro type, without null: string, long, double, boolean, map.
        required: Neither nullable nor with a default.
        format: id, text, time, ip ..., or empty.
        values: Words it may take, or empty.
    """

    name: str
    type: str
    required: bool
    format: str
    values: tuple[str, ...]


def fields_of(schema: Mapping[str, Any]) -> tuple[Field, ...]:
    """Fields of a parsed inbound contract."""
    return tuple(
        Field(
            field["name"],
            _type_of(field["type"]),
            "default" not in field,
            field.get("format", ""),
            tuple(field.get("values", ())),
        )
        for field in schema["fields"]
    )


def _type_of(node: Any) -> str:
    if isinstance(node, list):
        node = next(branch for branch in node if branch != "null")
    return str(node["type"] if isinstance(node, dict) else node)


def fault(fields: Iterable[Field], record: Mapping[str, Any], *, time_was_read: bool) -> ContractError:
    """The first fault of a record, in the contract's order.

    Args:
        fields: The contract's fields.
        record: The record as decoded; None means absent. Values never enter the message.
        time_was_read: The event time is fine; what it looked like differs between encodings.

    Returns:
        MISSING_FIELD, WRONG_TYPE, BAD_ID or OUT_OF_RANGE, naming the field.
    """
    for field in fields:
        value = record.get(field.name)
        if value is None:
            if field.required:
                return ContractError(MISSING_FIELD, f"{field.name}: required")
            continue
        error = None if field.format == "time" and time_was_read else _fault_of(field, value)
        if error is not None:
            return error
    return ContractError(WRONG_TYPE, "the record does not fit its contract")


def _fault_of(field: Field, value: object) -> ContractError | None:
    if field.format == "time":
        return ContractError(WRONG_TYPE, f"{field.name}: expected a date-time, got {type(value).__name__}")
    types, called = _TYPES[field.type]
    if type(value) not in types:
        return ContractError(WRONG_TYPE, f"{field.name}: expected {called}, got {type(value).__name__}")
    if isinstance(value, str) and field.format == "id" and not 0 < len(value) <= MAX_ID_LENGTH:
        return ContractError(BAD_ID, f"{field.name}: {len(value)} characters, expected 1..{MAX_ID_LENGTH}")
    if isinstance(value, int) and field.format == "amount" and not 0 <= value <= MAX_AMOUNT_MINOR:
        return ContractError(OUT_OF_RANGE, f"{field.name}: expected 0..10^15")
    if isinstance(value, int) and field.type == "double":
        return ContractError(OUT_OF_RANGE, f"{field.name}: too large") if abs(value) > 2**63 else None
    if isinstance(value, dict) and not all(type(key) is str and type(item) is str for key, item in value.items()):
        return ContractError(WRONG_TYPE, f"{field.name}: expected {called}")
    return None
