"""What a step sees of its state: the records of one shard and one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class StepStore(Protocol):
    """Byte records of one step in one shard; a version is a commit, and opening at a version is an exact rollback.

    Attributes:
        shard: Name of the shard.
        step: Name of the step.
        version: Last committed version, 0 before the first commit.
        memo: Anything worth keeping decoded; empty after open, never stored.
    """

    shard: str
    step: str
    version: int
    memo: dict[str, Any]

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Records of `keys`, None where there is none; sees all earlier writes."""
        ...

    def put_many(self, items: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Write records in one atomic batch; None deletes. The last item of a key repeated in `items` wins."""
        ...

    def scan(self, start: bytes, stop: bytes | None, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to `limit` records with start <= key < stop (None: to the end) in key order; sees all earlier writes.

        An encrypted store keeps an order of its own among keys that differ in identifying bytes only
        (`state.record_format`): go on behind the last key of a page, and do not rely on more.
        """
        ...

    def commit(self) -> int:
        """Make everything written so far a version that can be opened again; returns its number."""
        ...
