"""Fields of records of ours that are read back: they may be damaged, or of another deployment, like any other input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from schemas.errors import ContractError
from schemas.events import Transaction
from schemas.reasons import MISSING_FIELD, WRONG_TYPE
from schemas.validate import EARLIEST_US

_NEEDED: Final = ("account_id", "channel", "currency", "transaction_id")
_OPTIONAL: Final = ("card_id", "device_id", "ip", "merchant_id", "terminal_id", "counterparty_id", "country")
"""Fields of a payment that its decision and its labelled outcome repeat: those that must be there, those that may."""


def payment_of(record: Mapping[str, Any], time_field: str, what: str) -> Transaction:
    """The payment as far as a record of ours repeats it; its amount is left out.

    Raises:
        ContractError: A field is missing or of another type.
    """
    texts: dict[str, Any] = {name: text_of(record, name, what) for name in _NEEDED}
    texts |= {name: text_of(record, name, what) for name in _OPTIONAL if record.get(name) is not None}
    return Transaction(event_time_us=time_of(record, time_field, what), amount_minor=0, **texts)


def text_of(record: Mapping[str, Any], name: str, what: str) -> str:
    """A string that must be there.

    Raises:
        ContractError: It is not, or is none.
    """
    value = record.get(name)
    if value is None:
        raise ContractError(MISSING_FIELD, f"{name}: a {what} has one")
    if type(value) is not str or not 0 < len(value) <= 128:
        raise ContractError(WRONG_TYPE, f"{name}: expected a string of 1 to 128 characters")
    return value


def time_of(record: Mapping[str, Any], name: str, what: str) -> int:
    """A time in microseconds that must be there.

    Raises:
        ContractError: It is not, or is none.
    """
    value = record.get(name)
    if value is None:
        raise ContractError(MISSING_FIELD, f"{name}: a {what} has one")
    if type(value) is not int or value < EARLIEST_US:
        raise ContractError(WRONG_TYPE, f"{name}: expected a time after the year 2000")
    return value
