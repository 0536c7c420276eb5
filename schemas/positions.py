"""Where a record stands in a stream: an offset, or in Kinesis a sequence number, and how contracts tell it.

A contract's `offset` is 64 bits wide; a sequence number of Kinesis has up to 128 digits, and one record of it may hold
many records that its producer library aggregated. So there the place is told by `sequence`, "SEQUENCE" or
"SEQUENCE.SUB" (SUB: number within the aggregate, from 1 on; the first one bears none), and `offset` is NO_OFFSET.
Inside, a place in a shard is one number, so that "behind it" is plus one, and the later of two the larger:

    bits 24..    sequence number, as an unsigned integer
    bits 0..23   number within the aggregate; a record may have 10 MiB, and no aggregate of 2 ** 24 fits in there
"""

from __future__ import annotations

import re
from typing import Any, Final

NO_OFFSET: Final = -1
"""`offset` of a record that has a sequence number instead."""
_SUB_BITS: Final = 24
_FORM: Final = re.compile(r"([0-9]{1,128})(?:\.([0-9]{1,8}))?\Z")


class Position(int):
    """Place of a record in a shard; an arithmetic result is a plain int."""

    __slots__ = ()

    @property
    def sequence(self) -> str:
        """The sequence number, as Kinesis tells it."""
        return str(int(self) >> _SUB_BITS)

    @property
    def sub(self) -> int:
        """Number within the aggregate, 0 in a record that is none."""
        return int(self) & ((1 << _SUB_BITS) - 1)

    def __str__(self) -> str:
        """SEQUENCE or SEQUENCE.SUB."""
        return f"{self.sequence}.{self.sub}" if self.sub else self.sequence


def position(sequence: str, sub: int = 0) -> Position:
    """The place of a record.

    Args:
        sequence: Its sequence number, decimal digits.
        sub: Its number within the aggregate, from 0 on.
    """
    return Position((int(sequence) << _SUB_BITS) | sub)


def parse_position(text: str) -> Position:
    """The inverse of `str(position)`.

    Raises:
        ValueError: It is no SEQUENCE or SEQUENCE.SUB.
    """
    match = _FORM.match(text)
    if match is None:
        message = f"{text!r}: expected a sequence number, SEQUENCE or SEQUENCE.SUB"
        raise ValueError(message)
    return position(match[1], int(match[2] or 0))


def told_place(topic: str, partition: int, offset: int) -> dict[str, Any]:
    """Fields `topic`, `partition`, `offset`, and with a sequence number `sequence`, as contracts have them."""
    if isinstance(offset, Position):
        return {"topic": topic, "partition": partition, "offset": NO_OFFSET, "sequence": str(offset)}
    return {"topic": topic, "partition": partition, "offset": offset}
