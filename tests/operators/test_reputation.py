from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from operators.expiry import RANK
from operators.features import FeatureSet
from operators.inflight import InFlight, Value
from operators.reputation import MAX_ACCOUNTS, Reputation
from operators.timeline import LIMIT
from schemas.errors import StateLayoutError
from schemas.events import DeviceEvent, Transaction
from state.testing import DictStore
from tests.operators.entity_parts import (
    DAY_US,
    HOUR_US,
    NOON_US,
    SECOND_US,
    device_event,
    feature_set,
    payment,
    run_in_pieces,
    told,
)


@pytest.fixture
def features(tmp_path: Path) -> FeatureSet:
    return feature_set(tmp_path)


@pytest.fixture
def reputation(features: FeatureSet) -> Reputation:
    return Reputation(features, features.entities[1])


def of_device(features: FeatureSet, item: InFlight) -> dict[str, Value]:
    """What reputation told, without the entity's travel."""
    found = told(features, item, "device")
    return {name: value for name, value in found.items() if name not in {"speed_kmh", "distance_km", "travel_seconds"}}


def test_an_unknown_device_has_nothing_against_it(features: FeatureSet, reputation: Reputation) -> None:
    item = payment(features, NOON_US)
    reputation.on_batch(DictStore(), [item])
    assert of_device(features, item) == {
        "blocked": False,
        "rooted": False,
        "emulator": False,
        "accounts": 1,
        "seconds_since_fingerprint_changed": None,
        "seconds_since_first_event": 0,
    }


def test_a_payment_without_a_device_is_told_nothing(features: FeatureSet, reputation: Reputation) -> None:
    item, store = payment(features, NOON_US, device_id=None), DictStore()
    reputation.on_batch(store, [item])
    assert set(of_device(features, item).values()) == {None}
    assert store.as_dict() == {}


def test_everything_reported_of_a_device_is_told(features: FeatureSet, reputation: Reputation) -> None:
    item = payment(features, NOON_US + 10 * SECOND_US, account_id="A2")
    kinds = ("seen", "rooted", "emulator_detected", "fingerprint_changed", "blocked")
    events = [
        device_event(features, NOON_US + second * SECOND_US, kind, account_id="A1" if kind == "seen" else None)
        for second, kind in enumerate(kinds)
    ]
    reputation.on_batch(DictStore(), [*events, item])
    assert of_device(features, item) == {
        "blocked": True,
        "rooted": True,
        "emulator": True,
        "accounts": 2,
        "seconds_since_fingerprint_changed": 7,
        "seconds_since_first_event": 10,
    }


def test_a_later_report_does_not_show_in_a_late_payment(features: FeatureSet, reputation: Reputation) -> None:
    late = payment(features, NOON_US)
    kinds = ("seen", "rooted", "emulator_detected", "fingerprint_changed", "blocked")
    events = [device_event(features, NOON_US + HOUR_US, kind, account_id="A2") for kind in kinds]
    reputation.on_batch(DictStore(), [*events, late])
    assert of_device(features, late) == {
        "blocked": False,
        "rooted": False,
        "emulator": False,
        "accounts": 1,
        "seconds_since_fingerprint_changed": None,
        "seconds_since_first_event": 0,
    }


def test_an_unblock_that_is_reported_late_takes_its_place(features: FeatureSet, reputation: Reputation) -> None:
    store = DictStore()
    for second, kind in ((1, "blocked"), (9, "blocked"), (5, "unblocked")):
        reputation.on_batch(store, [device_event(features, NOON_US + second * SECOND_US, kind)])
    items = [payment(features, NOON_US + second * SECOND_US) for second in (0, 1, 4, 5, 8, 9, 20)]
    reputation.on_batch(store, items)
    assert [of_device(features, item)["blocked"] for item in items] == [False, True, True, False, False, True, True]


def test_a_blocker_naming_an_account_does_not_make_it_a_user(features: FeatureSet, reputation: Reputation) -> None:
    item = payment(features, NOON_US + SECOND_US)
    events = [
        device_event(features, NOON_US, "blocked", account_id="A8"),
        device_event(features, NOON_US, "login_failed", account_id="A9"),
    ]
    reputation.on_batch(DictStore(), [*events, item])
    assert of_device(features, item)["accounts"] == 2, "its own account and the one that failed to log in"


def test_a_duplicate_is_not_counted(features: FeatureSet, reputation: Reputation) -> None:
    again, item = payment(features, NOON_US, account_id="A7"), payment(features, NOON_US)
    again.duplicate = True
    reputation.on_batch(DictStore(), [again, item])
    assert of_device(features, item)["accounts"] == 1
    assert set(of_device(features, again).values()) == {None}


def test_accounts_saturate_with_a_flag(features: FeatureSet, reputation: Reputation) -> None:
    store = DictStore()
    items = [payment(features, NOON_US + n, account_id=f"A{n}") for n in range(MAX_ACCOUNTS + 2)]
    reputation.on_batch(store, items)
    counts = [of_device(features, item)["accounts"] for item in items]
    assert counts == [*range(1, MAX_ACCOUNTS + 1), MAX_ACCOUNTS, MAX_ACCOUNTS]
    flagged = ["approximated:device.accounts"]
    assert [item.flags for item in items[-3:]] == [[], flagged, flagged]
    known = payment(features, NOON_US + DAY_US, account_id="A3")
    reputation.on_batch(store, [known])
    assert (of_device(features, known)["accounts"], known.flags) == (MAX_ACCOUNTS, flagged)


def test_a_known_device_is_not_written_again_the_same_day(features: FeatureSet, reputation: Reputation) -> None:
    store = DictStore()
    reputation.on_batch(store, [payment(features, NOON_US + n) for n in range(RANK)])
    before = store.as_dict()
    store.put_many = None  # type: ignore[method-assign,assignment]  # any write fails
    reputation.on_batch(store, [payment(features, NOON_US + HOUR_US // 2)])
    assert store.as_dict() == before


def test_a_device_of_another_layout_is_refused(features: FeatureSet, reputation: Reputation) -> None:
    store = DictStore("s01", "device")
    store.put_many([(b"rD1", b"\x07" + bytes(47))])
    with pytest.raises(StateLayoutError, match="shard device/s01: found a record of layout 07, this program reads 01"):
        reputation.on_batch(store, [payment(features, NOON_US)])


def test_a_device_in_use_is_never_forgotten(features: FeatureSet, reputation: Reputation) -> None:
    store = DictStore()
    for days in (0, 150, 300):
        others = [payment(features, NOON_US + days * DAY_US, device_id=f"X{number}") for number in range(RANK)]
        item = payment(features, NOON_US + days * DAY_US)
        reputation.on_batch(store, [*others, item])
        reputation.on_snapshot(store)
    assert of_device(features, item)["seconds_since_first_event"] == 300 * 86_400


def test_a_device_with_one_account_is_forgotten_like_any_other(features: FeatureSet, reputation: Reputation) -> None:
    store = DictStore()
    later_us = NOON_US + 200 * DAY_US
    reputation.on_batch(store, [payment(features, NOON_US)])
    reputation.on_batch(store, [payment(features, later_us, device_id=f"X{number}") for number in range(RANK)])
    late = payment(features, NOON_US + 1)  # its record still says the same day
    reputation.on_batch(store, [late])
    assert of_device(features, late)["seconds_since_first_event"] == 0


@pytest.mark.parametrize("snapshot", [False, True])
@pytest.mark.parametrize(
    ("kind", "kept"),
    [("seen", False), ("unblocked", False), ("blocked", True), ("rooted", True), ("emulator_detected", True)],
)
def test_only_what_stands_against_a_device_outlives_its_silence(
    features: FeatureSet, reputation: Reputation, kind: str, kept: bool, snapshot: bool
) -> None:
    store = DictStore()
    reputation.on_batch(store, [device_event(features, NOON_US, kind)])
    later_us = NOON_US + 200 * DAY_US
    reputation.on_batch(store, [payment(features, later_us, device_id=f"D{n}") for n in range(2, 2 + RANK)])
    if snapshot:
        reputation.on_snapshot(store)
        assert (b"rD1" in store.as_dict()) is kept
    item = payment(features, later_us)
    reputation.on_batch(store, [item])
    assert of_device(features, item)["seconds_since_first_event"] == (200 * 86_400 if kept else 0)


# (kind or "payment", device, account, hours by which the newest time moves on, hours late)
STEP = st.tuples(
    st.sampled_from(
        ("payment",) * 6 + ("seen", "blocked", "unblocked", "rooted", "emulator_detected", "fingerprint_changed")
    ),
    st.sampled_from(("D1", "D2")),
    st.sampled_from(("A1", "A2", "A3")),
    st.integers(0, 5),
    st.sampled_from((0, 0, 0, 1, 30)),
)
STEPS = st.lists(STEP, max_size=LIMIT)
MANY_STEPS = st.lists(STEP, max_size=40)
Steps = list[tuple[str, str, str, int, int]]


def made(features: FeatureSet, steps: Steps, pace: int = 1) -> list[InFlight]:
    """Events of `steps`; at a pace above 1 a long pause is followed by what moves the shard clock."""
    items, newest_us = [], NOON_US
    for kind, device_id, account_id, onward, late in steps:
        newest_us += onward * pace * HOUR_US
        if pace > 1 and onward > 2:
            items += [payment(features, newest_us, device_id=f"X{number}") for number in range(RANK)]
        event_time_us = newest_us - late * HOUR_US
        if kind == "payment":
            items.append(payment(features, event_time_us, device_id=device_id, account_id=account_id))
        else:
            items.append(device_event(features, event_time_us, kind, device_id=device_id, account_id=account_id))
    return items


def expected(item: InFlight, arrived: list[InFlight]) -> dict[str, Value]:
    """From all of the device's events that have arrived, by brute force."""
    payment_event = item.event
    assert isinstance(payment_event, Transaction)
    past: list[tuple[int, int, Transaction | DeviceEvent]] = []
    for arrival, other in enumerate(arrived):
        event = other.event
        assert isinstance(event, Transaction | DeviceEvent)
        if event.device_id == payment_event.device_id and event.event_time_us <= payment_event.event_time_us:
            past.append((event.event_time_us, arrival, event))
    past.sort(key=lambda one: one[:2])
    kinds = [(event.kind if isinstance(event, DeviceEvent) else "payment", time_us) for time_us, _, event in past]
    blocks = [kind for kind, _ in kinds if kind in {"blocked", "unblocked"}]
    changes = [time_us for kind, time_us in kinds if kind == "fingerprint_changed"]
    users = {
        event.account_id for (_, _, event), (kind, _) in zip(past, kinds, strict=True) if not kind.endswith("blocked")
    }
    now_us = payment_event.event_time_us
    return {
        "blocked": blocks[-1:] == ["blocked"],
        "rooted": "rooted" in dict(kinds),
        "emulator": "emulator_detected" in dict(kinds),
        "accounts": len(users),
        "seconds_since_fingerprint_changed": (now_us - changes[-1]) / 1e6 if changes else None,
        "seconds_since_first_event": (now_us - past[0][0]) / 1e6,
    }


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_everything_is_told_as_of_event_time(features: FeatureSet, reputation: Reputation, steps: Steps) -> None:
    items = made(features, steps)
    store = DictStore()
    for now, (item, step) in enumerate(zip(items, steps, strict=True)):
        reputation.on_batch(store, [item])
        if step[0] == "payment":
            assert of_device(features, item) == expected(item, items[: now + 1])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=MANY_STEPS, cuts=st.lists(st.integers(0, 300), max_size=8), pace=st.sampled_from((1, 1500)))
def test_cuts_snapshots_sweeps_and_rollbacks_change_nothing(
    features: FeatureSet, reputation: Reputation, steps: Steps, cuts: list[int], pace: int
) -> None:
    def make() -> list[InFlight]:
        return made(features, steps, pace)

    whole, store = run_in_pieces(reputation, make, [], snapshots=False, resume=False)
    pieces, cut_store = run_in_pieces(reputation, make, cuts, snapshots=False, resume=False)
    assert pieces == whole
    assert cut_store.as_dict() == store.as_dict()
    assert run_in_pieces(reputation, make, cuts, snapshots=True, resume=False)[0] == whole
    assert run_in_pieces(reputation, make, cuts, snapshots=True, resume=True)[0] == whole
