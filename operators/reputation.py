"""What is known of a device as of a payment's time: blocked, rooted, emulator, accounts seen on it, how new it is.

Every fact is told as of event time: what happens to the device later does not show, whenever it arrives; what is
reported late is put at its place. Without a report a device counts as not blocked, not rooted and no emulator.

- **blocked**: the last of `blocked` and `unblocked` at or before the payment.
- **rooted, emulator**: from the first report on; there is no way back (a cleaned device comes with a new identity).
- **accounts**: different accounts that paid with it or were named in its events, this payment's included; blocks do not
  name users and do not count. Of 256 accounts and more only the first 256 to arrive are told apart: the
  number is then a lower bound, and the payment is flagged `approximated:<entity>.accounts`.
- **first event**: the earliest payment or event of any kind.

A device that is blocked, rooted or an emulator is never forgotten: a block must not end by itself. Any other is, when
nothing was heard of it for its longest window, at least 180 days, plus the allowed lateness; should it come back it
is new.

Record of a device, key b"r" + entity key, little-endian:
    u8 layout (1) | u8 flags (bit 0: an account was left out) | u8 entries of blocked | u8 entries of fingerprint |
    u16 accounts | u16 last day heard of, days since 1970 | i64 first event | i64 rooted since | i64 emulator since |
    i64 x entries of blocked | i64 x entries of fingerprint (both `operators.timeline`) |
    i64 x first time of each account | u64 x XXH3 hash of each account, in the same order, that of arrival.
Times in µs since 1970; FOREVER where there is none. Key b"r": the shard clock.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from xxhash import xxh3_64_intdigest

from operators.expiry import NEVER, check_layout, clock_of, clock_writes, sweep
from operators.features import EntitySpec, FeatureSet
from operators.inflight import InFlight
from operators.timeline import insert, seconds_since, state_at
from schemas.events import DeviceEvent, Transaction
from schemas.times import format_rfc3339_us
from state.api import StepStore

MAX_ACCOUNTS: Final = 256
"""Accounts told apart on one device. Larger: the record of a shared device (16 bytes an account) costs more to read and
write; smaller: rules on many accounts stop being exact too early. Beyond it no rule needs the exact number."""

SHORTEST_KEEP_US: Final = 180 * 86_400_000_000
"""Smaller forgets devices that are used once a season and calls them new; larger keeps one-time devices on disk."""

FOREVER: Final = 2**63 - 1
"""Later than any time: a thing that has not happened."""

DAY_US: Final = 86_400_000_000

PREFIX: Final = b"r"
LAYOUT: Final = 1

_HEAD: Final = struct.Struct("<BBBBHHqqq")
_PLAIN: Final = struct.Struct("<BBBBHHqqqqQ")  # no blocks, no fingerprints, one account
_PLAIN_HEAD: Final = (LAYOUT, 0, 0, 0, 1)
_BLOCKS: Final = {"blocked": 1, "unblocked": 0}


class _Device:
    """A decoded record. Mutable: it lives for one batch."""

    blocked: list[int]
    fingerprint: list[int]
    accounts: dict[int, int]

    __slots__ = ("accounts", "blocked", "changed", "emulator_us", "fingerprint", "first_us", "heard_day", "left_out",
                 "newest_us", "rooted_us")  # fmt: skip

    def __init__(self, record: bytes | None) -> None:
        self.changed = False
        if record is None:
            self.clear()
            return
        head = _HEAD.unpack_from(record)
        _, flags, blocked, fingerprint, accounts, self.heard_day, self.first_us, self.rooted_us, self.emulator_us = head
        tail = struct.unpack_from(f"<{blocked + fingerprint + accounts}q{accounts}Q", record, _HEAD.size)
        self.left_out = bool(flags & 1)
        self.blocked = list(tail[:blocked])
        self.fingerprint = list(tail[blocked : blocked + fingerprint])
        times = tail[blocked + fingerprint : len(tail) - accounts]
        self.accounts = dict(zip(tail[len(tail) - accounts :], times, strict=True))
        self.newest_us = max(times, default=NEVER)

    def clear(self) -> None:
        """Make it a device nothing is known of."""
        self.left_out = False
        self.heard_day = 0
        self.first_us = self.rooted_us = self.emulator_us = FOREVER
        self.blocked = []
        self.fingerprint = []
        self.accounts = {}
        self.newest_us = NEVER

    def encode(self) -> bytes:
        accounts = self.accounts
        head = _HEAD.pack(
            LAYOUT,
            self.left_out,
            len(self.blocked),
            len(self.fingerprint),
            len(accounts),
            self.heard_day,
            self.first_us,
            self.rooted_us,
            self.emulator_us,
        )
        times = (*self.blocked, *self.fingerprint, *accounts.values())
        return head + struct.pack(f"<{len(times)}q{len(accounts)}Q", *times, *accounts)

    def expired(self, horizon_us: int) -> bool:
        """Whether nothing was heard of it since `horizon_us` and nothing stands against it."""
        return (
            (self.heard_day + 1) * DAY_US < horizon_us
            and self.rooted_us == FOREVER
            and self.emulator_us == FOREVER
            and not (self.blocked and self.blocked[-1] & 1)
        )

    def hear(self, event_time_us: int) -> None:
        """Note that the device was heard of; by the day, so that a known device is not written with every payment."""
        if event_time_us < self.first_us:
            self.first_us = event_time_us
            self.changed = True
        day = event_time_us // DAY_US
        if day > self.heard_day:
            self.heard_day = min(day, 0xFFFF)
            self.changed = True

    def meet(self, account_id: str, event_time_us: int) -> None:
        """Note that the account was seen on the device."""
        account = xxh3_64_intdigest(account_id.encode())
        known_us = self.accounts.get(account)
        if known_us is None:
            if len(self.accounts) >= MAX_ACCOUNTS:
                self.changed |= not self.left_out
                self.left_out = True
                return
        elif known_us <= event_time_us:
            return
        self.accounts[account] = event_time_us
        self.newest_us = max(self.newest_us, event_time_us) if known_us is None else max(self.accounts.values())
        self.changed = True


class Reputation:
    """The reputation part of an entity's step; the entity's key is the device."""

    def __init__(self, feature_set: FeatureSet, entity: EntitySpec) -> None:
        slots = feature_set.slots
        self._index = entity.index
        self._blocked = slots[f"{entity.name}.blocked"]
        self._rooted = slots[f"{entity.name}.rooted"]
        self._emulator = slots[f"{entity.name}.emulator"]
        self._accounts = slots[f"{entity.name}.accounts"]
        self._since_fingerprint = slots[f"{entity.name}.seconds_since_fingerprint_changed"]
        self._since_first = slots[f"{entity.name}.seconds_since_first_event"]
        self._flag = f"approximated:{entity.name}.accounts"
        self._keep_us = max(entity.longest_window_us, SHORTEST_KEEP_US) + feature_set.allowed_lateness_us

    def on_batch(self, store: StepStore, batch: list[InFlight]) -> list[InFlight]:
        """Fill the slots of every payment of `batch` that names a device; remember payments and device events."""
        index = self._index
        touches: list[tuple[InFlight, bytes, Transaction | DeviceEvent]] = []
        for item in batch:
            if item.duplicate or not item.keys or (key := item.keys[index]) is None:
                continue
            event = item.event
            if isinstance(event, Transaction | DeviceEvent):
                touches.append((item, PREFIX + key, event))
        if not touches:
            return batch
        clock = clock_of(store, PREFIX)
        keys = list({key: None for _, key, _ in touches})
        records = dict(zip(keys, store.get_many(keys), strict=True))
        devices: dict[bytes, _Device] = {}
        for item, key, event in touches:
            event_time_us = event.event_time_us
            if event_time_us >= clock.next_us:
                clock.observe(event_time_us)
            horizon_us = clock.us - self._keep_us
            device = devices.get(key)
            if device is None:
                record = records[key]
                if (
                    record is not None
                    and isinstance(event, Transaction)
                    and self._nothing_new(item, record, horizon_us)
                ):
                    continue
                if record is not None:
                    check_layout(store, record, LAYOUT)
                devices[key] = device = _Device(record)
            if device.expired(horizon_us):
                device.clear()
            device.hear(event_time_us)
            if isinstance(event, Transaction):
                device.meet(event.account_id, event_time_us)
                self._tell(item, device, event_time_us)
            else:
                _learn(device, event)
        writes: list[tuple[bytes, bytes | None]] = [
            (key, device.encode()) for key, device in devices.items() if device.changed
        ]
        writes.extend(clock_writes(clock, PREFIX))
        if writes:
            store.put_many(writes)
        return batch

    def on_snapshot(self, store: StepStore) -> None:
        """Delete some devices that were not heard of for too long."""
        clock = clock_of(store, PREFIX)
        horizon_us = clock.us - self._keep_us
        sweep(store, PREFIX, clock, self._keep_us // 16, lambda record: _Device(record).expired(horizon_us))

    def _nothing_new(self, item: InFlight, record: bytes, horizon_us: int) -> bool:
        """Answer the common payment from the bytes: one known account on a device nothing was ever reported of.

        False when that is not so; then nothing has been written to `item`.
        """
        if len(record) != _PLAIN.size:
            return False
        head = _PLAIN.unpack(record)
        event = item.event
        if head[:5] != _PLAIN_HEAD or not isinstance(event, Transaction):
            return False
        _, _, _, _, _, heard_day, first_us, rooted_us, emulator_us, account_us, account = head
        event_time_us = event.event_time_us
        day = event_time_us // DAY_US
        if (
            day > heard_day
            or event_time_us < account_us
            or (heard_day + 1) * DAY_US < horizon_us
            or rooted_us != FOREVER
            or emulator_us != FOREVER
            or account != xxh3_64_intdigest(event.account_id.encode())
        ):
            return False
        values = item.known
        values[self._blocked] = values[self._rooted] = values[self._emulator] = False
        values[self._accounts] = 1.0
        values[self._since_first] = (event_time_us - first_us) / 1e6
        return True

    def _tell(self, item: InFlight, device: _Device, event_time_us: int) -> None:
        """Write what holds at the payment's time."""
        values = item.known
        values[self._blocked] = bool(device.blocked) and state_at(device.blocked, event_time_us) == 1
        values[self._rooted] = device.rooted_us <= event_time_us
        values[self._emulator] = device.emulator_us <= event_time_us
        if device.newest_us <= event_time_us:
            values[self._accounts] = float(len(device.accounts))
        else:
            values[self._accounts] = float(sum(first <= event_time_us for first in device.accounts.values()))
        if device.left_out:
            item.flags.append(self._flag)
        if device.fingerprint:
            changed_s = seconds_since(device.fingerprint, event_time_us)
            if changed_s is not None:
                values[self._since_fingerprint] = changed_s
        values[self._since_first] = (event_time_us - device.first_us) / 1e6


def _learn(device: _Device, event: DeviceEvent) -> None:
    """Take in a device event."""
    kind, event_time_us = event.kind, event.event_time_us
    blocked = _BLOCKS.get(kind)
    if blocked is not None:
        insert(device.blocked, event_time_us, blocked)
        device.changed = True
        return
    if kind == "rooted" and event_time_us < device.rooted_us:
        device.rooted_us = event_time_us
        device.changed = True
    elif kind == "emulator_detected" and event_time_us < device.emulator_us:
        device.emulator_us = event_time_us
        device.changed = True
    elif kind == "fingerprint_changed":
        insert(device.fingerprint, event_time_us, 1)
        device.changed = True
    if event.account_id is not None:
        device.meet(event.account_id, event_time_us)


def describe_device(record: bytes) -> dict[str, Any]:
    """What is known of a device; accounts are counted, as only their hashes are kept."""
    device = _Device(record)

    def time(us: int) -> str | None:
        return None if us == FOREVER else format_rfc3339_us(us)

    return {
        "first_event": time(device.first_us),
        "last_heard_of": format_rfc3339_us(device.heard_day * DAY_US)[:10],
        "rooted_since": time(device.rooted_us),
        "emulator_since": time(device.emulator_us),
        "blocks": [
            {"event_time": format_rfc3339_us(entry >> 1), "state": ("unblocked", "blocked")[entry & 1]}
            for entry in device.blocked
        ],
        "fingerprint_changes": [format_rfc3339_us(entry >> 1) for entry in device.fingerprint],
        "accounts": len(device.accounts),
        "accounts_is_a_lower_bound": device.left_out,
    }


def replace_account(record: bytes, account_id: str, stranger: int) -> bytes | None:
    """The record with the account's hash replaced by `stranger`; None when it does not hold it.

    The number of accounts stays what it was, and so does when each was first seen; who it was is gone.
    """
    device = _Device(record)
    gone = xxh3_64_intdigest(account_id.encode())
    if gone not in device.accounts:
        return None
    device.accounts = {stranger if name == gone else name: first_us for name, first_us in device.accounts.items()}
    return device.encode()
