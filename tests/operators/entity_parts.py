"""What the tests of travel, reputation and identity share: a feature set, events, and ways of running a part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from operators.features import FeatureSet, load_feature_set
from operators.inflight import DEVICE_EVENT, IDENTITY_EVENT, PAYMENT, Fix, InFlight, Value
from schemas.events import DeviceEvent, IdentityEvent, Transaction
from state.testing import DictStore

SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
DAY_US = 24 * HOUR_US
NOON_US = 1_767_268_800_000_000  # 2026-01-01T12:00:00Z

FEATURES = """
id = "parts-1"
base_currency = "EUR"
allowed_lateness = "24h"
[entities.card]
key = "card_id"
travel = true
[entities.device]
key = "device_id"
travel = true
reputation = true
[entities.account]
key = "account_id"
identity = true
"""


class Part(Protocol):
    def on_batch(self, store: DictStore, batch: list[InFlight]) -> list[InFlight]: ...

    def on_snapshot(self, store: DictStore) -> None: ...


def feature_set(directory: Path, text: str = FEATURES) -> FeatureSet:
    path = directory / "features.toml"
    path.write_text(text)
    return load_feature_set(path)


def payment(
    features: FeatureSet,
    event_time_us: int,
    fix: Fix | None = None,
    *,
    channel: str = "card_present",
    card_id: str = "C1",
    device_id: str | None = "D1",
    account_id: str = "A1",
) -> InFlight:
    event = Transaction(
        transaction_id=f"T{event_time_us}",
        event_time_us=event_time_us,
        account_id=account_id,
        card_id=card_id,
        device_id=device_id,
        channel=channel,
        amount_minor=100,
        currency="EUR",
    )
    item = InFlight(PAYMENT, (0,), event, ("t", 0, 0), 0, features.keys_of(event), features.new_values())
    item.fix = fix
    return item


def device_event(
    features: FeatureSet,
    event_time_us: int,
    kind: str,
    fix: Fix | None = None,
    *,
    device_id: str = "D1",
    account_id: str | None = None,
) -> InFlight:
    event = DeviceEvent(
        event_id=f"E{event_time_us}", event_time_us=event_time_us, device_id=device_id, kind=kind, account_id=account_id
    )
    item = InFlight(DEVICE_EVENT, (0,), event, ("d", 0, 0), 0, features.keys_of(event), [])
    item.fix = fix
    return item


def identity_event(features: FeatureSet, event_time_us: int, kind: str, *, account_id: str = "A1") -> InFlight:
    event = IdentityEvent(event_id=f"I{event_time_us}", event_time_us=event_time_us, account_id=account_id, kind=kind)
    return InFlight(IDENTITY_EVENT, (0,), event, ("i", 0, 0), 0, features.keys_of(event), [])


def told(features: FeatureSet, item: InFlight, entity: str) -> dict[str, Value]:
    """The entity's features of a payment, by name without the entity; NaN as None."""
    found: dict[str, Value] = {}
    for feature in features.features:
        if feature.entity == entity:
            value = item.values[features.slots[feature.name]]
            absent = isinstance(value, float) and math.isnan(value)
            found[feature.name.partition(".")[2]] = None if absent else value
    return found


def outcome_of(items: Sequence[InFlight]) -> list[tuple[str, list[str]]]:
    """All that a part told, comparable (NaN equals NaN)."""
    return [(repr(item.values), item.flags) for item in items]


def run_in_pieces(
    part: Part, make: Callable[[], list[InFlight]], cuts: Sequence[int], *, snapshots: bool, resume: bool
) -> tuple[list[tuple[str, list[str]]], DictStore]:
    """Run the items of `make` cut at `cuts`.

    With `snapshots` every piece ends in on_snapshot and a commit; with `resume` every piece is run, thrown away by a
    rollback, and run again on fresh items, as after a kill.
    """
    items = make()
    store = DictStore()
    bounds = sorted({0, len(items), *(cut % (len(items) + 1) for cut in cuts)})
    for start, stop in pairwise(bounds):
        if resume:
            version = store.version
            part.on_batch(store, make()[start:stop])
            part.on_snapshot(store)
            store = store.reopened(version)
        assert part.on_batch(store, items[start:stop]) == items[start:stop]
        if snapshots or resume:
            part.on_snapshot(store)
            store.commit()
    return outcome_of(items), store
