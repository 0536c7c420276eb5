"""Records of the step `decide`: a payment that waits for its label, labels that wait for their payment, and their keys.

The layout stands in `operators.decide`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from operators.inflight import Value
from schemas.events import Label


class Pending(msgspec.Struct, array_like=True, gc=False):
    """What a labelled outcome needs of its decision."""

    values: list[Value]
    decision: dict[str, Any]


class Waiting(msgspec.Struct, array_like=True, gc=False):
    """A label that overtook its payment, and where it was read."""

    label: Label
    topic: str
    partition: int
    offset: int


encode = msgspec.msgpack.Encoder().encode
decode_waiting = msgspec.msgpack.Decoder(list[Waiting]).decode
decode_pending = msgspec.msgpack.Decoder(Pending).decode

# Fields of a decision that its labelled outcome repeats.
CARRIED: Final = (
    "decision_id",
    "transaction_id",
    "decided_at",
    "account_id",
    "card_id",
    "device_id",
    "ip",
    "merchant_id",
    "terminal_id",
    "counterparty_id",
    "amount_minor",
    "currency",
    "channel",
    "country",
    "action",
    "proposed_action",
    "score",
    "versions",
)


_SHADOWS: Final = "challenger_scores"


def carried(decision: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a decision until its label comes; what few decisions have is kept of those only."""
    kept = {name: decision[name] for name in CARRIED}
    if decision.get("exploration") is not None:
        kept |= {name: decision[name] for name in ("exploration", "propensity")}
    shadows = decision.get(_SHADOWS)
    if shadows:
        kept[_SHADOWS] = [[one["model_id"], one["score"]] for one in shadows]
    return kept


def all_scores(kept: dict[str, Any]) -> dict[str, float | None]:
    """What each model said of a payment, by id; of a decision as `carried` keeps it."""
    scores = dict(kept.get(_SHADOWS, ()))
    decider = kept["versions"].get("model_id")
    if decider is not None:
        scores[decider] = kept["score"]
    return scores


def for_outcome(kept: dict[str, Any]) -> dict[str, Any]:
    """What a labelled outcome repeats of it."""
    return {name: value for name, value in kept.items() if name != _SHADOWS}


def pending_key(seen_at_us: int, transaction_id: str) -> bytes:
    """Where a scored payment waits; by the time it was seen, for expiry."""
    return b"p" + seen_at_us.to_bytes(8, "big") + transaction_id.encode()


def label_key(label: Any) -> bytes:
    """Where the payment of a label waits."""
    return pending_key(label.payment_seen_at_us, label.transaction_id)
