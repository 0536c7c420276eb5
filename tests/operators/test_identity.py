from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from operators.features import FeatureSet
from operators.identity import CHANGES, Identity
from operators.inflight import InFlight, Value
from operators.timeline import LIMIT
from schemas.errors import StateLayoutError
from schemas.events import IdentityEvent, Transaction
from state.testing import DictStore
from tests.operators.entity_parts import (
    DAY_US,
    HOUR_US,
    NOON_US,
    SECOND_US,
    feature_set,
    identity_event,
    payment,
    run_in_pieces,
    told,
)

NOTHING_KNOWN = {
    "kyc": None,
    "sanctions_hit": False,
    "pep_hit": False,
    "closed": False,
    "seconds_since_opened": None,
    "seconds_since_credentials_changed": None,
    "seconds_since_address_changed": None,
    "mfa": None,
    "seconds_since_mfa": None,
}


@pytest.fixture
def features(tmp_path: Path) -> FeatureSet:
    return feature_set(tmp_path)


@pytest.fixture
def identity(features: FeatureSet) -> Identity:
    return Identity(features, features.entities[2])


def told_at(features: FeatureSet, identity: Identity, events: list[tuple[int, str]], second: int) -> dict[str, Value]:
    item = payment(features, NOON_US + second * SECOND_US)
    happened = [identity_event(features, NOON_US + at * SECOND_US, kind) for at, kind in events]
    identity.on_batch(DictStore(), [*happened, item])
    return told(features, item, "account")


def test_an_account_without_events_is_open_without_hits_and_else_unknown(
    features: FeatureSet, identity: Identity
) -> None:
    assert told_at(features, identity, [], 0) == NOTHING_KNOWN


def test_everything_learned_of_a_holder_is_told(features: FeatureSet, identity: Identity) -> None:
    events = [
        (0, "opened"),
        (1, "kyc_failed"),
        (2, "kyc_passed"),
        (3, "sanctions_hit"),
        (4, "pep_hit"),
        (5, "credentials_changed"),
        (6, "address_changed"),
        (7, "mfa_passed"),
        (8, "mfa_failed"),
        (9, "closed"),
    ]
    assert told_at(features, identity, events, 10) == {
        "kyc": "passed",
        "sanctions_hit": True,
        "pep_hit": True,
        "closed": True,
        "seconds_since_opened": 10,
        "seconds_since_credentials_changed": 5,
        "seconds_since_address_changed": 4,
        "mfa": "failed",
        "seconds_since_mfa": 2,
    }


def test_a_later_change_does_not_show_in_a_late_payment(features: FeatureSet, identity: Identity) -> None:
    assert told_at(features, identity, [(5, kind) for kind in CHANGES], 4) == NOTHING_KNOWN


@pytest.mark.parametrize("hit", ["sanctions_hit", "pep_hit"])
def test_a_hit_holds_for_years_until_it_is_cleared(features: FeatureSet, identity: Identity, hit: str) -> None:
    store = DictStore()
    identity.on_batch(store, [identity_event(features, NOON_US, hit)])
    before, cleared, after = (NOON_US + days * DAY_US for days in (1_500, 1_501, 1_502))
    items = [payment(features, before), identity_event(features, cleared, "hit_cleared"), payment(features, after)]
    identity.on_batch(store, items)
    identity.on_snapshot(store)
    assert [told(features, item, "account")[hit] for item in (items[0], items[2])] == [True, False]


def test_a_hit_after_the_clearance_counts_again(features: FeatureSet, identity: Identity) -> None:
    events = [(1, "sanctions_hit"), (3, "hit_cleared"), (4, "sanctions_hit")]
    assert [told_at(features, identity, events, second)["sanctions_hit"] for second in (2, 3, 4)] == [True, False, True]


def test_an_account_opened_again_is_not_closed(features: FeatureSet, identity: Identity) -> None:
    events = [(0, "opened"), (2, "closed"), (4, "opened")]
    assert [told_at(features, identity, events, second)["closed"] for second in (1, 2, 5)] == [False, True, False]
    assert [told_at(features, identity, events, second)["seconds_since_opened"] for second in (3, 5)] == [3, 1]


def test_before_the_oldest_change_that_is_kept_a_status_is_unknown(features: FeatureSet, identity: Identity) -> None:
    events = [(second, "mfa_failed") for second in range(LIMIT + 1)]
    assert told_at(features, identity, events, 0)["mfa"] is None
    assert told_at(features, identity, events, 1)["mfa"] == "failed"


def test_a_duplicate_is_told_nothing_and_a_payment_writes_nothing(features: FeatureSet, identity: Identity) -> None:
    store, again = DictStore(), payment(features, NOON_US)
    again.duplicate = True
    identity.on_batch(store, [again, payment(features, NOON_US)])
    assert set(told(features, again, "account").values()) == {None}
    assert store.as_dict() == {}


def test_a_record_of_another_layout_is_refused(features: FeatureSet, identity: Identity) -> None:
    store = DictStore("s01", "account")
    store.put_many([(b"iA1", b"\x02" + bytes(7))])
    with pytest.raises(StateLayoutError, match="shard account/s01: found a record of layout 02, this program reads 01"):
        identity.on_batch(store, [payment(features, NOON_US)])


# (kind or "payment", account, hours by which the newest time moves on, hours late)
STEP = st.tuples(
    st.sampled_from(("payment",) * 8 + tuple(CHANGES)),
    st.sampled_from(("A1", "A2")),
    st.integers(0, 5),
    st.sampled_from((0, 0, 0, 1, 30)),
)
STEPS = st.lists(STEP, max_size=LIMIT)
MANY_STEPS = st.lists(STEP, max_size=60)
Steps = list[tuple[str, str, int, int]]


def made(features: FeatureSet, steps: Steps) -> list[InFlight]:
    items, newest_us = [], NOON_US
    for kind, account_id, onward, late in steps:
        newest_us += onward * HOUR_US
        event_time_us = newest_us - late * HOUR_US
        if kind == "payment":
            items.append(payment(features, event_time_us, account_id=account_id))
        else:
            items.append(identity_event(features, event_time_us, kind, account_id=account_id))
    return items


def expected(item: InFlight, arrived: list[InFlight]) -> dict[str, Value]:
    """From all of the account's events that have arrived, by brute force."""
    event = item.event
    assert isinstance(event, Transaction)
    now_us = event.event_time_us
    past: list[tuple[int, int, str]] = []
    for arrival, other in enumerate(arrived):
        if isinstance(other.event, IdentityEvent) and other.event.account_id == event.account_id:
            past.append((other.event.event_time_us, arrival, other.event.kind))
    past = sorted(one for one in past if one[0] <= now_us)

    def last(*kinds: str) -> str | None:
        found = [kind for _, _, kind in past if kind in kinds]
        return found[-1] if found else None

    def since(*kinds: str) -> float | None:
        found = [time_us for time_us, _, kind in past if kind in kinds]
        return (now_us - found[-1]) / 1e6 if found else None

    kyc, mfa = last("kyc_passed", "kyc_failed"), last("mfa_passed", "mfa_failed")
    return {
        "kyc": kyc and kyc.removeprefix("kyc_"),
        "sanctions_hit": last("sanctions_hit", "hit_cleared") == "sanctions_hit",
        "pep_hit": last("pep_hit", "hit_cleared") == "pep_hit",
        "closed": last("opened", "closed") == "closed",
        "seconds_since_opened": since("opened"),
        "seconds_since_credentials_changed": since("credentials_changed"),
        "seconds_since_address_changed": since("address_changed"),
        "mfa": mfa and mfa.removeprefix("mfa_"),
        "seconds_since_mfa": since("mfa_passed", "mfa_failed"),
    }


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_every_status_is_told_as_of_event_time(features: FeatureSet, identity: Identity, steps: Steps) -> None:
    items = made(features, steps)
    identity.on_batch(DictStore(), items)
    for now, (item, step) in enumerate(zip(items, steps, strict=True)):
        if step[0] == "payment":
            assert told(features, item, "account") == expected(item, items[:now])


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=MANY_STEPS, cuts=st.lists(st.integers(0, 60), max_size=8))
def test_cuts_and_rollbacks_change_nothing(
    features: FeatureSet, identity: Identity, steps: Steps, cuts: list[int]
) -> None:
    def make() -> list[InFlight]:
        return made(features, steps)

    whole, store = run_in_pieces(identity, make, [], snapshots=False, resume=False)
    pieces, cut_store = run_in_pieces(identity, make, cuts, snapshots=False, resume=False)
    assert (pieces, cut_store.as_dict()) == (whole, store.as_dict())
    resumed, resumed_store = run_in_pieces(identity, make, cuts, snapshots=True, resume=True)
    assert (resumed, resumed_store.as_dict()) == (whole, store.as_dict())
