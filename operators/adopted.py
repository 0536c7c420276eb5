"""Decisions that were published and whose epoch was never committed: what waits for their labels is what was published.

After a kill their payments are decided again. The output keeps the decision that stands there (flows/publish.py), and
so must what waits for the label: with several processes, or under another profile, the payment may be scored on other
features than before, and the model would learn from what nobody ever saw.

An epoch may be committed before the flow has come to all of them again, and a second kill would then find their places
behind the committed length. So the step keeps the places of those that are still to come:

    b"u" transaction_id          offset (8, big endian), length (4) of the decision in its output
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from state.api import StepStore

ADOPTED_PREFIX: Final = b"u"
_STOP: Final = b"v"
_ALL: Final = 1 << 62

Place = tuple[int, int]
"""Offset and length of a record in its output."""

ReadDecision = Callable[[int, int], Mapping[str, Any]]
"""(offset, length) -> the published decision, times in microseconds, features as a map."""


class Adopted:
    """Published decisions that the flow has still to come to again."""

    def __init__(self, places: Mapping[str, Place], read: ReadDecision) -> None:
        """Prepare.

        Args:
            places: By transaction, where the decisions stand that were published behind the committed length.
            read: Reads one of them.
        """
        self._places = dict(places)
        self._new = set(self._places)
        self._met: set[str] = set()
        self._read = read
        self._opened = False

    def open(self, store: StepStore) -> bool:
        """Take over what an earlier run left, once; whether there is anything to come."""
        if not self._opened:
            self._opened = True
            for key, value in store.scan(ADOPTED_PREFIX, _STOP, _ALL):
                place = int.from_bytes(value[:8], "big"), int.from_bytes(value[8:], "big")
                self._places.setdefault(key[1:].decode(), place)
        return bool(self._places)

    def take(self, transaction_id: str) -> Mapping[str, Any] | None:
        """The decision published of this payment, which is not to come again; None when there is none."""
        place = self._places.pop(transaction_id, None)
        if place is None:
            return None
        if transaction_id in self._new:
            self._new.discard(transaction_id)
        else:
            self._met.add(transaction_id)
        return self._read(*place)

    def writes(self) -> list[tuple[bytes, bytes | None]]:
        """What must be in the store when the epoch is committed."""
        if not self._new and not self._met:
            return []
        made: list[tuple[bytes, bytes | None]] = [(_key(name), None) for name in sorted(self._met)]
        for name in sorted(self._new):
            offset, length = self._places[name]
            made.append((_key(name), offset.to_bytes(8, "big") + length.to_bytes(4, "big")))
        self._new.clear()
        self._met.clear()
        return made


def _key(transaction_id: str) -> bytes:
    return ADOPTED_PREFIX + transaction_id.encode()
