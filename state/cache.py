"""Hot records of all stores of a process, bounded in bytes.

Two generations instead of a list in order of use: a lookup that hits costs one dict.get and moves nothing. New and
newly read records enter the young generation; once that is full, it becomes the old one, and what was old is
forgotten. A record that is used while old is young again, so whatever was used within the last half of the bound is
still there. An entry of None says that RocksDB has no such record.
"""

from __future__ import annotations

from typing import Final

ENTRY_OVERHEAD: Final = 180
"""Bytes of two bytes objects' headers, of a hash table entry at its usual load, and of malloc's rounding."""


class CachedRecords:
    """The cached records of one store; the store reads and writes both dicts itself, one call a record is too dear."""

    __slots__ = ("old", "young")

    def __init__(self) -> None:
        self.young: dict[bytes, bytes | None] = {}
        self.old: dict[bytes, bytes | None] = {}

    def clear(self) -> None:
        """Forget everything."""
        self.young = {}
        self.old = {}


class RecordCache:
    """Accounts for the records of all stores of a process.

    Stores charge what they write in full, also when it replaces a cached record, as looking at each replaced one
    would cost more than to count once in a while. So charges only bound the bytes of the young generation from above;
    when they reach half of the limit the true size is counted, and only if it has reached a quarter the generations
    move on.

    Two worker threads may lose a charge to each other; a lock would cost more than those bytes.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._half = limit_bytes // 2
        self._charged = 0
        self._old_bytes = 0
        self._members: list[CachedRecords] = []

    def member(self) -> CachedRecords:
        """Records of one more store."""
        records = CachedRecords()
        self._members.append(records)
        return records

    def dismiss(self, records: CachedRecords) -> None:
        """Forget the records of a store that is closed."""
        records.clear()
        self._members = [member for member in self._members if member is not records]

    def charge(self, size_bytes: int) -> None:
        """Account for `size_bytes` (keys, values and overhead) that a store has just put into its young dict."""
        self._charged += size_bytes
        if self._charged > self._half:
            self._move_on()

    def records(self) -> int:
        """Entries in both generations; one that is in both counts twice."""
        return sum(len(member.young) + len(member.old) for member in self._members)

    def bytes(self) -> int:
        """What both generations hold at most: the old one as counted, the young one as charged."""
        return self._charged + self._old_bytes

    def young_bytes(self) -> int:
        """True size of the young generation."""
        return sum(_size(member.young) for member in self._members)

    def _move_on(self) -> None:
        size = self.young_bytes()
        if size * 2 <= self._half:
            self._charged = size
            return
        for member in self._members:
            member.old = member.young
            member.young = {}
        self._charged = 0
        self._old_bytes = size


def _size(records: dict[bytes, bytes | None]) -> int:
    entries = list(records.items())  # one call, so that no other thread changes the dict in the middle
    return sum(len(key) + (len(value) if value else 0) for key, value in entries) + ENTRY_OVERHEAD * len(entries)
