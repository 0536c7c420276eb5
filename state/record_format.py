"""What the store must know of a step's records and cannot see in them: how new they are, which key bytes may be read.

A step's records are bytes to the store. Two things about them matter below the step: the number of their layout, so
that a program never reads records of a newer one and brings those of an older one up to date (`state.migrate`); and,
when state is encrypted, how many bytes at the front of a key stand on disk as they are, since scans go by them
(`state.seal`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

RecordMigration = Callable[[bytes, bytes], bytes | None]
"""(key, record of layout n) -> the record of layout n + 1 under the same key, or None to drop it.

Must be a function of its arguments alone: it is applied to records and to before-images alike, each once, so that
rolling back a migrated step gives what migrating a rolled-back one would. A layout that moves records to other keys
cannot be reached this way; give the new records a new prefix and let the step read both.
"""


@dataclass(frozen=True, slots=True)
class RecordFormat:
    """How the records of one step are to be treated.

    Attributes:
        layout: Number of the layout that the step reads and writes.
        clear: First byte of a key -> how many of its bytes identify nobody and may stand on disk as they are. Every
            bound of a scan must lie within them, or be a key with one zero byte behind it. Of a key whose first byte is
            not listed that byte alone is clear.
        migrations: Layout n -> how a record of it becomes one of n + 1.
    """

    layout: int = 1
    clear: Mapping[int, int] = field(default_factory=dict)
    migrations: Mapping[int, RecordMigration] = field(default_factory=dict)

    def clear_bytes(self, key: bytes) -> int:
        """How many bytes at the front of `key` stand on disk as they are."""
        return self.clear.get(key[0], 1) if key else 0


FormatOf = Callable[[str], RecordFormat]
"""The format of a step's records, by the step's name."""


def plain_format(_step: str) -> RecordFormat:
    """For steps that were not declared: layout 1, and of a key only the first byte may be seen."""
    return RecordFormat()
