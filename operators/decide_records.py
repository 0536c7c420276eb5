"""Records of the step `decide`: a payment that waits for its label, labels that wait for their payment, and their keys.

The layout stands in `operators.decide`.
"""

from __future__ import annotations

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


def pending_key(seen_at_us: int, transaction_id: str) -> bytes:
    """Where a scored payment waits; by the time it was seen, for expiry."""
    return b"p" + seen_at_us.to_bytes(8, "big") + transaction_id.encode()


def label_key(label: Any) -> bytes:
    """Where the payment of a label waits."""
    return pending_key(label.payment_seen_at_us, label.transaction_id)
