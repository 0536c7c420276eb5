"""Records from outside → typed events; what breaks its contract → ContractError with a stable reason.

JSON and Avro share everything behind their parsers: a mapping of fields passes the door (`_admit`), which exchanges a
card number for its token, refuses identifiers that look like one, blanks them in free text, and converts to the
struct, and then the checks of its contract. Success is the fast path; which field was wrong is worked out only after
something failed, by `schemas.validate_faults`.

What is normalised: an IPv6 address to its short form (and ::ffff:192.0.2.1 to 192.0.2.1), so that one address is one
entity. Nothing else is: codes in lower case are refused, not raised.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from schemas.codec import contract, read_avro, read_json
from schemas.errors import ConfigError, ContractError
from schemas.events import DeviceEvent, IdentityEvent, Outcome, Transaction
from schemas.pan import looks_like_pan, may_hold_pan, pan_digits, redact_text
from schemas.reasons import (
    BAD_ID,
    BAD_IP,
    BAD_PAN,
    BAD_TEXT,
    BAD_TIME,
    FUTURE_EVENT,
    PAN_CONFLICT,
    PAN_IN_IDENTIFIER,
    PAN_WITHOUT_KEY,
    TOO_LARGE,
    WRONG_TYPE,
)
from schemas.times import EPOCH, MICROS, parse_rfc3339_us
from schemas.tokens import TokenKeys
from schemas.validate_checks import (
    canonical_ip,
    check_device_event,
    check_identity_event,
    check_outcome,
    check_transaction,
)
from schemas.validate_faults import Field, fault, fields_of

Event = Transaction | DeviceEvent | IdentityEvent | Outcome

EARLIEST_US: Final = parse_rfc3339_us("2000-01-01T00:00:00Z")
INBOUND: Final = ("transaction", "device_event", "identity_event", "outcome")

_MICROSECOND: Final = dt.timedelta(microseconds=1)
_BACKSLASH: Final = 0x5C
_SPACE: Final = 0x20
_DELETE: Final = 0x7F
# Control characters would let two pairs of ids make the same composite key, or break a log line; halves of a surrogate
# pair cannot be encoded. Not str.isprintable: what it accepts grows with Python's version.
_BAD_IN_ID: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _identifier_fields() -> frozenset[str]:
    return frozenset(field.name for name in INBOUND for field in fields_of(contract(name)) if field.format == "id")


IDENTIFIER_FIELDS: Final = _identifier_fields()


@dataclass(frozen=True, slots=True)
class Limits:
    """What a deployment may set of validation.

    Attributes:
        max_payload_bytes: A longer payload is TOO_LARGE, before anything of it is parsed.
        max_future_us: An event time further ahead of now is FUTURE_EVENT. Too small, and payments of a sender whose
            clock runs ahead are lost; too large, and a wrong year enters the windows.
        safe_fields: Identifier fields in which a number that looks like a card's is known to be none.
    """

    max_payload_bytes: int = 65_536
    max_future_us: int = 24 * 3600 * MICROS
    safe_fields: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Refuse safe_fields that are no identifiers."""
        unknown = sorted(self.safe_fields - IDENTIFIER_FIELDS)
        if unknown:
            msg = f"safe_fields: {unknown} are no identifier fields; expected some of {sorted(IDENTIFIER_FIELDS)}"
            raise ConfigError(msg)


DEFAULT_LIMITS: Final = Limits()


def decode_json(
    name: str, payload: bytes, *, now_us: int, limits: Limits = DEFAULT_LIMITS, tokeniser: TokenKeys | None = None
) -> Event:
    """The event in a JSON payload.

    Args:
        name: Contract: transaction, device_event, identity_event or outcome.
        payload: One JSON object in UTF-8. Unknown fields are ignored, null means absent.
        now_us: The flow's clock, to tell what lies in the future.
        limits: Bounds of the deployment.
        tokeniser: Keys for `pan`; without, a payment that carries one is PAN_WITHOUT_KEY.

    Raises:
        ContractError: The record breaks its contract; its reason is one of `schemas.reasons`. Nothing else is raised,
            whatever the bytes.
        KeyError: `name` is no inbound contract.
    """
    spec = _SPECS[name]
    if len(payload) > limits.max_payload_bytes:
        raise ContractError(TOO_LARGE, f"{len(payload)} bytes, allowed are {limits.max_payload_bytes}")
    record = read_json(payload)
    if payload.isascii() and _BACKSLASH not in payload:
        suspect = may_hold_pan(payload)
        odd = _SPACE in payload or _DELETE in payload
    else:
        suspect = odd = True  # an escape may hide a digit, another script may have its own
    text = record.get("event_time")
    if type(text) is not str:
        raise fault(spec.fields, record, time_was_read=False)
    return _admit(spec, record, _from_text(text), suspect, odd, now_us, limits, tokeniser)


def decode_avro(
    name: str, payload: bytes, *, now_us: int, limits: Limits = DEFAULT_LIMITS, tokeniser: TokenKeys | None = None
) -> Event:
    """The event in a bare Avro record of the contract; else as `decode_json`."""
    spec = _SPECS[name]
    if len(payload) > limits.max_payload_bytes:
        raise ContractError(TOO_LARGE, f"{len(payload)} bytes, allowed are {limits.max_payload_bytes}")
    record = read_avro(name, payload)
    suspect, odd = _looks(record)
    return _admit(spec, record, record["event_time"], suspect, odd, now_us, limits, tokeniser)


def from_mapping(
    name: str,
    fields: Mapping[str, Any],
    *,
    now_us: int,
    limits: Limits = DEFAULT_LIMITS,
    tokeniser: TokenKeys | None = None,
) -> Event:
    """The event in a row of an Avro container or Parquet file; else as `decode_json`.

    Args:
        name: Contract.
        fields: event_time is a datetime, whole microseconds, or RFC 3339 text. A datetime without a zone is UTC: the
            contract's times are, and a column file keeps no text from which an offset could have been lost.
            `attributes` may be a list of pairs, as Arrow gives maps.
        now_us: See `decode_json`.
        limits: See `decode_json`; the payload's size does not apply.
        tokeniser: See `decode_json`.
    """
    spec = _SPECS[name]
    record = {key: value for key, value in fields.items() if value is not None}
    attributes = record.get("attributes")
    if isinstance(attributes, list | dict):
        pairs = attributes.items() if isinstance(attributes, dict) else attributes
        try:
            # A Parquet struct has all of its columns in every row: null is absent here too.
            record["attributes"] = {key: value for key, value in pairs if value is not None}
        except (TypeError, ValueError):
            raise ContractError(WRONG_TYPE, "attributes: expected a map of strings") from None
    suspect, odd = _looks(record)
    moment = record.get("event_time")
    if isinstance(moment, str):
        event_time_us = _from_text(moment)
    elif isinstance(moment, dt.datetime):
        event_time_us = ((moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)) - EPOCH) // _MICROSECOND
    elif type(moment) is int:
        event_time_us = moment
    else:
        raise fault(spec.fields, record, time_was_read=False)
    return _admit(spec, record, event_time_us, suspect, odd, now_us, limits, tokeniser)


def _from_text(text: str) -> int:
    try:
        return parse_rfc3339_us(text)
    except ValueError as error:
        # datetime's messages speak of the component (month must be in 1..12), never of the whole text.
        raise ContractError(BAD_TIME, f"event_time: {error}") from None


def _looks(record: dict[str, Any]) -> tuple[bool, bool]:
    """Whether card numbers, and whether characters that an id must not have, are possible in the record's strings."""
    texts = [value for value in record.values() if type(value) is str]
    attributes = record.get("attributes")
    if isinstance(attributes, dict):
        texts += [text for pair in attributes.items() for text in pair if type(text) is str]
    joined = "|".join(texts)
    if not joined.isascii():
        return True, True
    return may_hold_pan(joined), " " in joined or not joined.isprintable()


def _admit(
    spec: _Spec,
    record: dict[str, Any],
    event_time_us: int,
    suspect: bool,
    odd: bool,
    now_us: int,
    limits: Limits,
    tokeniser: TokenKeys | None,
) -> Event:
    if event_time_us > now_us + limits.max_future_us:
        ahead_s = (event_time_us - now_us) // MICROS
        detail = f"event_time: {ahead_s} s in the future, allowed are {limits.max_future_us // MICROS} s"
        raise ContractError(FUTURE_EVENT, detail)
    if event_time_us < EARLIEST_US:
        raise ContractError(BAD_TIME, "event_time: before 2000-01-01T00:00:00Z")
    record["event_time_us"] = event_time_us
    ip = record.get("ip")
    if type(ip) is str and spec.has_ip:
        ip = record["ip"] = canonical_ip(ip)
        if ip is None:
            raise ContractError(BAD_IP, "ip: neither IPv4 nor IPv6")
    if spec.has_pan and record.get("pan") is not None:
        _exchange_pan(record, tokeniser)
        suspect, odd = _looks(record)  # it was the pan that made the payload suspect
    if suspect:
        _blank_pans(spec, record, limits)
    if odd:
        _check_characters(spec, record)
    try:
        event: Event = msgspec.convert(record, spec.struct)
    except Exception:  # msgspec's own, and what a value of a strange type in a mapping raises
        event = _again_without_nulls(spec, record)
    spec.check(event)
    return event


def _again_without_nulls(spec: _Spec, record: dict[str, Any]) -> Event:
    """A null in a field with a default (payment_type) means absent; every other record gets its fault told."""
    present = {key: value for key, value in record.items() if value is not None}
    try:
        event: Event = msgspec.convert(present, spec.struct)
    except Exception:
        raise fault(spec.fields, present, time_was_read=True) from None
    return event


def _exchange_pan(record: dict[str, Any], tokeniser: TokenKeys | None) -> None:
    pan = record.pop("pan")
    if type(pan) is not str:
        raise ContractError(WRONG_TYPE, f"pan: expected a string, got {type(pan).__name__}")
    digits = pan_digits(pan)
    if digits is None:
        raise ContractError(BAD_PAN, "pan: expected 12 to 19 digits with a right check digit")
    if tokeniser is None:
        raise ContractError(PAN_WITHOUT_KEY, "pan: no key to tokenise it is configured (WEIR_PAN_KEYS_FILE)")
    token = tokeniser.tokenise(digits)
    given = record.get("card_id")
    if given is not None and given != token.card_id:
        raise ContractError(PAN_CONFLICT, "card_id: is not the token of the pan it came with; send one of the two")
    given = record.get("bin")
    if given is not None and not (isinstance(given, str) and digits.startswith(given)):
        raise ContractError(PAN_CONFLICT, "bin: is not the beginning of the pan it came with")
    given = record.get("last4")
    if given is not None and given != token.last4:
        raise ContractError(PAN_CONFLICT, "last4: is not the end of the pan it came with")
    record["card_id"], record["bin"], record["last4"] = token


def _blank_pans(spec: _Spec, record: dict[str, Any], limits: Limits) -> None:
    for name in spec.identifiers:
        value = record.get(name)
        if type(value) is str and looks_like_pan(value) and name not in limits.safe_fields:
            detail = f"{name}: looks like a card number; send it as pan, or declare the field safe if it is none"
            raise ContractError(PAN_IN_IDENTIFIER, detail)
    for name in spec.texts:
        value = record.get(name)
        if type(value) is str:
            record[name] = redact_text(value)
    attributes = record.get("attributes")
    if isinstance(attributes, dict):
        record["attributes"] = {
            redact_text(key) if type(key) is str else key: redact_text(value) if type(value) is str else value
            for key, value in attributes.items()
        }


def _check_characters(spec: _Spec, record: dict[str, Any]) -> None:
    # One look at all of them together is enough for nearly every record that merely has a space somewhere.
    together = f"|{'|'.join([value for value in record.values() if type(value) is str])}|"
    clean = together.isascii() and together.isprintable() and "| " not in together and " |" not in together
    if clean and record.get("attributes") is None:
        return
    for name in spec.identifiers:
        value = record.get(name)
        if type(value) is str and (value != value.strip() or _BAD_IN_ID.search(value)):
            raise ContractError(BAD_ID, f"{name}: padded with spaces, or holds control characters")
    texts = [(name, record.get(name)) for name in spec.texts]
    attributes = record.get("attributes")
    if isinstance(attributes, dict):
        texts += [("attributes", text) for pair in attributes.items() for text in pair]
    for name, text in texts:
        if type(text) is str:
            try:
                text.encode()
            except UnicodeEncodeError:
                raise ContractError(BAD_TEXT, f"{name}: is not Unicode text") from None


class _Spec:
    """What decoding needs to know of one inbound contract, worked out from its schema at import."""

    __slots__ = ("check", "fields", "has_ip", "has_pan", "identifiers", "struct", "texts")

    def __init__(self, name: str, struct: type[Event], check: Callable[..., None]) -> None:
        self.struct: Any = struct
        self.check = check
        self.fields: tuple[Field, ...] = fields_of(contract(name))
        self.identifiers = tuple(field.name for field in self.fields if field.format == "id")
        self.texts = tuple(field.name for field in self.fields if field.format == "text")
        self.has_ip = any(field.format == "ip" for field in self.fields)
        self.has_pan = any(field.format == "pan" for field in self.fields)


_SPECS: Final = {
    "transaction": _Spec("transaction", Transaction, check_transaction),
    "device_event": _Spec("device_event", DeviceEvent, check_device_event),
    "identity_event": _Spec("identity_event", IdentityEvent, check_identity_event),
    "outcome": _Spec("outcome", Outcome, check_outcome),
}
