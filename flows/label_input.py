"""Labelled outcomes of another flow → labels for the fraud rates, with the keys of the payment they are about.

What `weir learn` publishes is read back here like any other input: it may be damaged, or of another deployment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from flows.ingest import dead_item
from flows.own_records import payment_of, text_of, time_of
from operators.features import FeatureSet
from operators.inflight import LABEL, InFlight
from schemas.codec import decode_json_mapping
from schemas.errors import ContractError
from schemas.events import Label
from schemas.reasons import OUT_OF_RANGE, TOO_LARGE, UNKNOWN_VALUE, WRONG_TYPE
from schemas.times import parse_rfc3339_us
from schemas.validate import Limits

CONTRACT: Final = "labelled_outcome"
_WORDS: Final = {"fraud": True, "genuine": False}
_WHAT: Final = "labelled outcome"


def label_input(
    feature_set: FeatureSet, limits: Limits, genuine_share: float
) -> Callable[[bytes | dict[str, Any], tuple[str, int, int]], InFlight]:
    """What makes a label's item of a record.

    Args:
        feature_set: Gives the keys; an entity keyed by a field that labelled outcomes do not have gets no labels.
        limits: Bounds of what is accepted.
        genuine_share: Share of genuine labels that the learning flow keeps; their weight is its inverse.
    """

    def make(payload: bytes | dict[str, Any], origin: tuple[str, int, int]) -> InFlight:
        try:
            if isinstance(payload, bytes) and len(payload) > limits.max_payload_bytes:
                raise ContractError(TOO_LARGE, f"{len(payload)} bytes, allowed are {limits.max_payload_bytes}")
            record = decode_json_mapping(CONTRACT, payload) if isinstance(payload, bytes) else payload
            label = _label(record, 1.0 / genuine_share)
            keys = feature_set.keys_of(payment_of(record, "payment_event_time", _WHAT))
        except ContractError as error:
            return dead_item(payload, origin, error)
        return InFlight(LABEL, (), label, origin, 0, keys, [])

    return make


def _label(record: Mapping[str, Any], genuine_weight: float) -> Label:
    word = text_of(record, "label", _WHAT)
    if word not in _WORDS:
        raise ContractError(UNKNOWN_VALUE, f"label: expected one of {', '.join(_WORDS)}")
    weight = record.get("weight")
    if type(weight) not in (int, float) or not 0 < float(weight) < 1e9:  # type: ignore[arg-type]  # a number by now
        raise ContractError(OUT_OF_RANGE, "weight: expected a number above 0")
    corrected = record.get("correction_of")
    previous = _corrected(corrected) if corrected is not None else None
    return Label(
        transaction_id=text_of(record, "transaction_id", _WHAT),
        event_time_us=time_of(record, "event_time", _WHAT),
        payment_event_time_us=time_of(record, "payment_event_time", _WHAT),
        payment_seen_at_us=time_of(record, "decided_at", _WHAT),
        fraud=_WORDS[word],
        weight=float(weight),  # type: ignore[arg-type]  # checked above
        source=text_of(record, "source", _WHAT),
        previous_fraud=previous[0] if previous else None,
        previous_event_time_us=previous[1] if previous else None,
        previous_weight=(1.0 if previous[0] else genuine_weight) if previous else None,
    )


def _corrected(text: object) -> tuple[bool, int]:
    """What the label before said and when; the inverse of how operators/decide.py tells it."""
    said, _, at = str(text).partition(" ")
    if said in _WORDS:
        try:
            return _WORDS[said], parse_rfc3339_us(at)
        except ValueError:
            pass
    raise ContractError(WRONG_TYPE, "correction_of: expected a label and an RFC 3339 date-time")
