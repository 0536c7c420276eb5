"""Forgetting what nobody asks for any more, without a full scan and without a trace in any decision.

A record has expired when its own last time lies before the horizon: the shard clock minus what the part keeps. Steps
treat an expired record as absent whether it is still there or not, and the clock never goes back, so the moment at
which a sweep deletes it cannot be seen in a decision.

The clock counts whole hours: expiry is a matter of days, and a clock that moves once an hour need not be written with
every batch. It stands at the 16th largest hour seen in the shard, so that a few events dated ahead cannot move it.

Record of a clock, under the bare prefix of its part (entity keys are never empty): little-endian, u8 layout (1), then
up to 16 i64, whole hours since 1970-01-01T00:00Z, ascending.
"""

from __future__ import annotations

import struct
from bisect import insort
from collections.abc import Callable
from typing import Final

from schemas.errors import StateLayoutError
from state.api import StepStore

HOUR_US: Final = 3_600_000_000

RANK: Final = 16
"""How many events the clock wants to see beyond an hour before it believes in it. Smaller: a handful of future-dated
events expires records too early; larger: a quiet shard expires late."""

LAYOUT: Final = 1

NEVER: Final = -(2**62)
"""A time before all others."""

SWEEP_RECORDS: Final = 256
"""Records looked at in one snapshot, under 1 ms. Larger delays the commit; smaller lets one-time keys live on."""


class ShardClock:
    """Event time of a shard, in whole hours.

    Attributes:
        us: The clock in µs, NEVER until enough events were seen.
        next_us: An event at or after this time must be given to `observe`; an earlier one changes nothing.
        changed: Whether the record differs from what is stored.
    """

    __slots__ = ("_hours", "changed", "next_us", "us")

    def __init__(self, hours: list[int]) -> None:
        self._hours = hours
        self.changed = False
        self.us = NEVER
        self.next_us = NEVER
        self._stand()

    def observe(self, event_time_us: int) -> None:
        """Count an event; calling it for an event before `next_us` is allowed and useless."""
        if event_time_us < self.next_us:
            return
        insort(self._hours, event_time_us // HOUR_US)
        if len(self._hours) > RANK:
            del self._hours[0]
        self.changed = True
        self._stand()

    def encode(self) -> bytes:
        """The clock's record."""
        return struct.pack(f"<B{len(self._hours)}q", LAYOUT, *self._hours)

    def _stand(self) -> None:
        if len(self._hours) == RANK:
            self.us = self._hours[0] * HOUR_US
            self.next_us = self.us + HOUR_US


def clock_of(store: StepStore, prefix: bytes) -> ShardClock:
    """The clock of the part whose records start with `prefix`, kept decoded in the store's memo.

    Raises:
        StateLayoutError: the record was written by another layout.
    """
    name = f"clock {prefix.decode()}"
    clock = store.memo.get(name)
    if isinstance(clock, ShardClock):
        return clock
    record = store.get_many([prefix])[0]
    if record is not None:
        check_layout(store, record, LAYOUT)
    hours = [] if record is None else list(struct.unpack(f"<{len(record) // 8}q", record[1:]))
    store.memo[name] = clock = ShardClock(hours)
    return clock


def clock_writes(clock: ShardClock, prefix: bytes) -> list[tuple[bytes, bytes | None]]:
    """What to write for `clock`, together with the batch that moved it."""
    if not clock.changed:
        return []
    clock.changed = False
    return [(prefix, clock.encode())]


def check_layout(store: StepStore, record: bytes, layout: int) -> None:
    """Refuse a record whose first byte is not `layout`.

    Raises:
        StateLayoutError: naming the shard, what was found and what to do.
    """
    if record[:1] != bytes((layout,)):
        msg = (
            f"shard {store.step}/{store.shard}: found a record of layout {record[:1].hex() or 'none'}, this program "
            f"reads {layout:02x}; start the release that wrote it, or restore a backup of this one "
            f"(docs/runbooks/restore.md)"
        )
        raise StateLayoutError(msg)


def sweep(store: StepStore, prefix: bytes, clock: ShardClock, every_us: int, expired: Callable[[bytes], bool]) -> None:
    """Delete some of the part's expired records: one bounded step of a pass that begins every `every_us` of event time.

    Where the pass stands lives in the store's memo; a restart begins a new one.
    """
    if clock.us == NEVER:
        return
    name = f"sweep {prefix.decode()}"
    due_us, start = store.memo.get(name, (NEVER, b""))
    if not start:
        if clock.us < due_us:
            return
        due_us, start = clock.us + every_us, prefix + b"\x00"
    found = store.scan(start, prefix[:-1] + bytes((prefix[-1] + 1,)), SWEEP_RECORDS)
    gone: list[tuple[bytes, bytes | None]] = [(key, None) for key, record in found if expired(record)]
    if gone:
        store.put_many(gone)
        store.memo["swept"] = store.memo.get("swept", 0) + len(gone)
    store.memo[name] = (due_us, found[-1][0] + b"\x00" if len(found) == SWEEP_RECORDS else b"")
