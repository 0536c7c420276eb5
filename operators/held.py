"""An outcome that came before its payment, as the step `seen` and the label join keep it."""

from __future__ import annotations

from typing import Final

import msgspec

from operators.inflight import InFlight
from schemas.events import Outcome
from schemas.positions import Position, parse_position


class Held(msgspec.Struct, array_like=True, gc=False):
    """An outcome that waits for its payment.

    Attributes:
        outcome: The outcome.
        topic: Where it was read from.
        partition: Likewise.
        offset: Likewise; a sequence number of Kinesis, which has more than 64 bits, as text.
    """

    outcome: Outcome
    topic: str
    partition: int
    offset: int | str

    @property
    def origin(self) -> tuple[str, int, int]:
        """Where it was read from, as an item has it."""
        place = self.offset
        return self.topic, self.partition, parse_position(place) if isinstance(place, str) else place


def held_of(item: InFlight, outcome: Outcome) -> Held:
    """What is kept of an item."""
    topic, partition, offset = item.origin
    return Held(outcome, topic, partition, str(offset) if isinstance(offset, Position) else offset)


decode_held: Final = msgspec.msgpack.Decoder(list[Held]).decode
