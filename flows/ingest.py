"""Reads one raw record: decode, validate, tokenise, enrich; what breaks its contract becomes a dead letter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from operators.enrich import Enricher
from operators.features import FeatureSet
from operators.inflight import DEAD_LETTER, DEVICE_EVENT, IDENTITY_EVENT, OUTCOME, PAYMENT, InFlight
from schemas.errors import ContractError
from schemas.events import Outcome, Transaction
from schemas.tokens import TokenKeys
from schemas.validate import Limits, decode_json, from_mapping

STREAMS: Final = {
    "transactions": ("transaction", PAYMENT),
    "device_events": ("device_event", DEVICE_EVENT),
    "identity_events": ("identity_event", IDENTITY_EVENT),
    "outcomes": ("outcome", OUTCOME),
}
"""By stream: contract and kind of its events."""


def ingest(
    stream: str, feature_set: FeatureSet, enricher: Enricher, limits: Limits, tokeniser: TokenKeys | None, now_us: int
) -> Callable[[bytes | dict[str, Any], tuple[str, int, int]], InFlight]:
    """The decoder of one stream.

    Args:
        stream: One of STREAMS.
        feature_set: Gives keys and empty values.
        enricher: Fills the bare facts of payments.
        limits: Bounds of what is accepted.
        tokeniser: Keys for card numbers; without, a payment that carries one is a dead letter.
        now_us: What "far in the future" is measured against.
    """
    contract, kind = STREAMS[stream]
    absent = [f"absent:{entity.name}" for entity in feature_set.entities]

    def make(payload: bytes | dict[str, Any], origin: tuple[str, int, int]) -> InFlight:
        try:
            if isinstance(payload, bytes):
                event = decode_json(contract, payload, now_us=now_us, limits=limits, tokeniser=tokeniser)
            else:
                event = from_mapping(contract, payload, now_us=now_us, limits=limits, tokeniser=tokeniser)
        except ContractError as error:
            return dead_item(payload, origin, error)
        if isinstance(event, Outcome):
            return InFlight(kind, (), event, origin, 0, [], [])
        keys = feature_set.keys_of(event)
        if not isinstance(event, Transaction):
            item = InFlight(kind, (), event, origin, 0, keys, [])
        else:
            item = InFlight(kind, (), event, origin, 0, keys, feature_set.new_values())
            if None in keys:
                item.flags = [flag for flag, key in zip(absent, keys, strict=True) if key is None]
        enricher.enrich(item)
        return item

    return make


def dead_item(payload: bytes | dict[str, Any], origin: tuple[str, int, int], error: ContractError) -> InFlight:
    """The dead letter of a record that cannot be read."""
    if isinstance(payload, bytes):
        raw = payload
    else:
        try:
            raw = orjson.dumps(payload, default=str, option=orjson.OPT_NON_STR_KEYS)
        except TypeError:  # integers beyond 64 bits, keys of bytes: told as Python would
            raw = repr(payload).encode("utf-8", "backslashreplace")
    item = InFlight(DEAD_LETTER, (), None, origin, 0, [], [])
    item.detail = (error.reason, error.detail, raw)
    return item
