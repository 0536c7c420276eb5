"""The checks of each inbound contract that types alone do not make: words, codes, ranges, bounds.

Each takes the converted struct and raises ContractError with the reason of the first fault; values never enter the
detail. The words that a field may take stand in the contract itself.
"""

from __future__ import annotations

import ipaddress
import socket
from functools import lru_cache
from typing import Final, NoReturn

from schemas.codec import contract
from schemas.errors import ContractError
from schemas.events import DeviceEvent, IdentityEvent, Outcome, Transaction
from schemas.iso import COUNTRIES, CURRENCIES
from schemas.reasons import (
    BAD_CODE,
    BAD_COUNTRY,
    BAD_CURRENCY,
    BAD_TEXT,
    MISSING_FIELD,
    OUT_OF_RANGE,
    UNKNOWN_VALUE,
)
from schemas.validate_faults import fields_of

MAX_TEXT_LENGTH: Final = 64
MAX_ATTRIBUTES: Final = 64
MAX_ATTRIBUTE_NAME_LENGTH: Final = 64
MAX_ATTRIBUTE_LENGTH: Final = 1024
MAX_DISTANCE_KM: Final = 20_040.0  # half of the equator: an accuracy beyond it says nothing


def _words(name: str, field_name: str) -> frozenset[str]:
    return frozenset(next(field.values for field in fields_of(contract(name)) if field.name == field_name))


_CHANNELS: Final = _words("transaction", "channel")
_PAYMENT_TYPES: Final = _words("transaction", "payment_type")
_DEVICE_KINDS: Final = _words("device_event", "kind")
_IDENTITY_KINDS: Final = _words("identity_event", "kind")
_LABELS: Final = _words("outcome", "label")
_LABEL_SOURCES: Final = _words("outcome", "source")


def check_transaction(event: Transaction) -> None:
    """A payment's words, currency, place, digits, texts and attributes."""
    if event.channel not in _CHANNELS:
        _refuse_word("channel", _CHANNELS)
    if event.payment_type not in _PAYMENT_TYPES:
        _refuse_word("payment_type", _PAYMENT_TYPES)
    if event.currency not in CURRENCIES:
        raise ContractError(BAD_CURRENCY, "currency: no ISO 4217 code in upper case that a payment can be made in")
    _check_place(event.country, event.latitude, event.longitude)
    _check_digits("mcc", event.mcc, 4)
    if event.bin is not None:
        _check_digits("bin", event.bin, 6, 8)
    if event.last4 is not None:
        _check_digits("last4", event.last4, 4)
    accuracy = event.location_accuracy_km
    if accuracy is not None and not 0.0 <= accuracy <= MAX_DISTANCE_KM:
        raise ContractError(OUT_OF_RANGE, f"location_accuracy_km: expected 0..{MAX_DISTANCE_KM:.0f}")
    if event.entry_mode is not None:
        _check_text("entry_mode", event.entry_mode)
    if event.three_ds_result is not None:
        _check_text("three_ds_result", event.three_ds_result)
    if event.attributes is not None:
        _check_attributes(event.attributes)


def check_device_event(event: DeviceEvent) -> None:
    """A device event's kind and place."""
    if event.kind not in _DEVICE_KINDS:
        _refuse_word("kind", _DEVICE_KINDS)
    _check_place(event.country, event.latitude, event.longitude)


def check_identity_event(event: IdentityEvent) -> None:
    """An identity event's kind."""
    if event.kind not in _IDENTITY_KINDS:
        _refuse_word("kind", _IDENTITY_KINDS)


def check_outcome(event: Outcome) -> None:
    """An outcome's label, source and text."""
    if event.label not in _LABELS:
        _refuse_word("label", _LABELS)
    if event.source not in _LABEL_SOURCES:
        _refuse_word("source", _LABEL_SOURCES)
    _check_text("fraud_type", event.fraud_type)


def canonical_ip(text: str) -> str | None:
    """An IP address as Weir writes it, or None when `text` is none (leading zeros and IPv6 zones are not accepted)."""
    try:
        socket.inet_pton(socket.AF_INET, text)
    except (OSError, ValueError):
        return _canonical_ipv6(text)
    return text


@lru_cache(maxsize=65_536)
def _canonical_ipv6(text: str) -> str | None:
    if len(text) > 45 or "%" in text:
        return None
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return None
    return str(address.ipv4_mapped or address)


def _check_place(country: str | None, latitude: float | None, longitude: float | None) -> None:
    if country is not None and country not in COUNTRIES:
        raise ContractError(BAD_COUNTRY, "country: no ISO 3166-1 alpha-2 code in upper case")
    if latitude is None and longitude is None:
        return
    if latitude is None or longitude is None:
        raise ContractError(MISSING_FIELD, "latitude and longitude go together, one is missing")
    # Written so that NaN fails.
    if not -90.0 <= latitude <= 90.0:
        raise ContractError(OUT_OF_RANGE, "latitude: expected -90..90")
    if not -180.0 <= longitude <= 180.0:
        raise ContractError(OUT_OF_RANGE, "longitude: expected -180..180")


def _check_text(name: str, text: str | None) -> None:
    if text is not None and len(text) > MAX_TEXT_LENGTH:
        raise ContractError(BAD_TEXT, f"{name}: {len(text)} characters, allowed are {MAX_TEXT_LENGTH}")


def _check_digits(name: str, text: str | None, *lengths: int) -> None:
    if text is not None and not (len(text) in lengths and text.isascii() and text.isdecimal()):
        raise ContractError(BAD_CODE, f"{name}: expected {' or '.join(map(str, lengths))} digits")


def _refuse_word(name: str, allowed: frozenset[str]) -> NoReturn:
    raise ContractError(UNKNOWN_VALUE, f"{name}: expected one of {', '.join(sorted(allowed))}")


def _check_attributes(attributes: dict[str, str]) -> None:
    if len(attributes) > MAX_ATTRIBUTES:
        raise ContractError(BAD_TEXT, f"attributes: {len(attributes)} of them, allowed are {MAX_ATTRIBUTES}")
    for key, value in attributes.items():
        if not 0 < len(key) <= MAX_ATTRIBUTE_NAME_LENGTH:
            raise ContractError(BAD_TEXT, f"attributes: names must have 1..{MAX_ATTRIBUTE_NAME_LENGTH} characters")
        if len(value) > MAX_ATTRIBUTE_LENGTH:
            raise ContractError(BAD_TEXT, f"attributes: values may have {MAX_ATTRIBUTE_LENGTH} characters")
