"""What is known of an account's holder as of a payment's time: KYC, sanctions and PEP hits, fresh changes, last MFA.

Every status is told as of event time: a later change does not show, whenever it arrives; a change that is reported late
is put at its place.

- **kyc**, **mfa**: "passed" or "failed" by the last result; absent before the first.
- **sanctions_hit**, **pep_hit**: from a hit until `hit_cleared`, which clears both.
- **closed**: closed and not opened again. Without events an account counts as open and without hits: the
  streams report hits and closures, not their absence.
- **seconds since** it was opened, its credentials or its address changed, and MFA was last tried; absent before.

Nothing of an account is forgotten by age: KYC of years ago holds, and a sanctions hit must not end by itself. A record
is bounded (16 entries of each history, 904 bytes at most, seldom above 100), and there are as many as accounts. Of more
than 16 changes of one status the oldest go, and before the oldest that is left the status is unknown.

Record of an account, key b"i" + entity key, little-endian: u8 layout (1), then u8 entries of each of the seven
timelines (`operators.timeline`): holder (1 opened, 0 closed), kyc (1 passed), sanctions (1 hit), pep (1 hit),
credentials, address, mfa (1 passed); then their entries, i64 each, in the same order.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from operators.expiry import check_layout
from operators.features import EntitySpec, FeatureSet
from operators.inflight import InFlight
from operators.timeline import insert, seconds_since, state_at
from schemas.events import IdentityEvent, Transaction
from schemas.times import format_rfc3339_us
from state.api import StepStore

PREFIX: Final = b"i"
LAYOUT: Final = 1

HOLDER, KYC, SANCTIONS, PEP, CREDENTIALS, ADDRESS, MFA = range(7)

CHANGES: Final[dict[str, tuple[tuple[int, int], ...]]] = {
    "opened": ((HOLDER, 1),),
    "closed": ((HOLDER, 0),),
    "kyc_passed": ((KYC, 1),),
    "kyc_failed": ((KYC, 0),),
    "sanctions_hit": ((SANCTIONS, 1),),
    "pep_hit": ((PEP, 1),),
    "hit_cleared": ((SANCTIONS, 0), (PEP, 0)),
    "credentials_changed": ((CREDENTIALS, 1),),
    "address_changed": ((ADDRESS, 1),),
    "mfa_passed": ((MFA, 1),),
    "mfa_failed": ((MFA, 0),),
}
"""Kind of an identity event to (timeline, state) changes."""

_COUNTS: Final = struct.Struct("<8B")
_RESULTS: Final = ("failed", "passed")
_TOLD: Final = (
    ("holder", ("closed", "opened")),
    ("kyc", _RESULTS),
    ("sanctions", ("cleared", "hit")),
    ("pep", ("cleared", "hit")),
    ("credentials", ("changed", "changed")),
    ("address", ("changed", "changed")),
    ("mfa", _RESULTS),
)
"""Names of the timelines and of their states 0 and 1, in the order of the record."""

Timelines = list[list[int]]


class Identity:
    """The identity part of an entity's step; the entity's key is the account."""

    def __init__(self, feature_set: FeatureSet, entity: EntitySpec) -> None:
        def slot(name: str) -> int:
            return feature_set.slots[f"{entity.name}.{name}"]

        self._index = entity.index
        self._results = ((KYC, slot("kyc")), (MFA, slot("mfa")))
        self._hits = ((SANCTIONS, slot("sanctions_hit")), (PEP, slot("pep_hit")))
        self._closed = slot("closed")
        self._since_opened = slot("seconds_since_opened")
        self._since = (
            (CREDENTIALS, slot("seconds_since_credentials_changed")),
            (ADDRESS, slot("seconds_since_address_changed")),
            (MFA, slot("seconds_since_mfa")),
        )

    def on_batch(self, store: StepStore, batch: list[InFlight]) -> list[InFlight]:
        """Fill the slots of every payment of `batch`; remember identity events."""
        index = self._index
        touches: list[tuple[InFlight, bytes, Transaction | IdentityEvent]] = []
        for item in batch:
            if item.duplicate or not item.keys or (key := item.keys[index]) is None:
                continue
            event = item.event
            if isinstance(event, Transaction | IdentityEvent):
                touches.append((item, PREFIX + key, event))
        if not touches:
            return batch
        keys = list({key: None for _, key, _ in touches})
        accounts: dict[bytes, Timelines | None] = {}
        for key, record in zip(keys, store.get_many(keys), strict=True):
            accounts[key] = None if record is None else _decode(store, record)
        changed: dict[bytes, Timelines] = {}
        for item, key, event in touches:
            timelines = accounts[key]
            if isinstance(event, Transaction):
                self._tell(item, timelines, event.event_time_us)
                continue
            if timelines is None:
                accounts[key] = timelines = [[] for _ in range(7)]
            for timeline, state in CHANGES.get(event.kind, ()):
                insert(timelines[timeline], event.event_time_us, state)
                changed[key] = timelines
        if changed:
            store.put_many([(key, _encode(timelines)) for key, timelines in changed.items()])
        return batch

    def on_snapshot(self, store: StepStore) -> None:
        """Nothing is held back and nothing expires."""

    def _tell(self, item: InFlight, timelines: Timelines | None, event_time_us: int) -> None:
        """Write what holds at the payment's time."""
        values = item.known
        if timelines is None:
            values[self._closed] = False
            for _, slot in self._hits:
                values[slot] = False
            return
        holder = timelines[HOLDER]
        values[self._closed] = bool(holder) and state_at(holder, event_time_us) == 0
        for timeline, slot in self._hits:
            hits = timelines[timeline]
            values[slot] = bool(hits) and state_at(hits, event_time_us) == 1
        for timeline, slot in self._results:
            result = state_at(timelines[timeline], event_time_us)
            if result is not None:
                values[slot] = _RESULTS[result]
        opened_us = next((entry >> 1 for entry in reversed(holder) if entry & 1 and entry >> 1 <= event_time_us), None)
        if opened_us is not None:
            values[self._since_opened] = (event_time_us - opened_us) / 1e6
        for timeline, slot in self._since:
            if timelines[timeline]:
                changed_s = seconds_since(timelines[timeline], event_time_us)
                if changed_s is not None:
                    values[slot] = changed_s


def _decode(store: StepStore, record: bytes) -> Timelines:
    check_layout(store, record, LAYOUT)
    _, *counts = _COUNTS.unpack_from(record)
    entries = list(struct.unpack_from(f"<{sum(counts)}q", record, _COUNTS.size))
    timelines: Timelines = []
    start = 0
    for count in counts:
        timelines.append(entries[start : start + count])
        start += count
    return timelines


def _encode(timelines: Timelines) -> bytes:
    entries = [entry for timeline in timelines for entry in timeline]
    return struct.pack(f"<8B{len(entries)}q", LAYOUT, *map(len, timelines), *entries)


def describe_identity(record: bytes) -> dict[str, Any]:
    """An account's timelines: what changed when, oldest first; timelines without a change are left out."""
    _, *counts = _COUNTS.unpack_from(record)
    entries = iter(struct.unpack_from(f"<{sum(counts)}q", record, _COUNTS.size))
    told = {}
    for (name, states), count in zip(_TOLD, counts, strict=True):
        changes = [next(entries) for _ in range(count)]
        if changes:
            told[name] = [
                {"event_time": format_rfc3339_us(entry >> 1), "state": states[entry & 1]} for entry in changes
            ]
    return told
