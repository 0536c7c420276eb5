from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from operators.centroids import COUNTRY_CIRCLES
from operators.expiry import RANK
from operators.features import FeatureSet
from operators.inflight import Fix, InFlight
from operators.travel import (
    EARTH_RADIUS_KM,
    MAX_FIXES,
    Travel,
    certain_distance_km,
    great_circle_km,
    implied_speed_kmh,
)
from schemas.errors import StateLayoutError
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

# Coordinates: GeoNames (geonames.org), main place of each city, to 0.0001 degrees.
PARIS = (48.8534, 2.3488)
BERLIN = (52.5244, 13.4105)
LONDON = (51.5085, -0.1257)
BRUSSELS = (50.8505, 4.3488)
NEW_YORK = (40.7143, -74.0060)
TOKYO = (35.6895, 139.6917)
SYDNEY = (-33.8678, 151.2073)
SUVA = (-18.1416, 178.4415)
APIA = (-13.8333, -171.7667)


def at(place: tuple[float, float], radius_km: float = 0.0) -> Fix:
    return Fix(place[0], place[1], radius_km, "event")


@pytest.fixture
def features(tmp_path: Path) -> FeatureSet:
    return feature_set(tmp_path)


def travelled(features: FeatureSet, *items: InFlight) -> dict[str, object]:
    """What the last of `items` was told."""
    Travel(features, features.entities[0]).on_batch(DictStore(), list(items))
    return dict(told(features, items[-1], "card"))


def by_chord_km(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Great circle by vectors: another formula than the one under test, exact at antipodes."""

    def vector(place: tuple[float, float]) -> tuple[float, float, float]:
        latitude, longitude = map(math.radians, place)
        return math.cos(latitude) * math.cos(longitude), math.cos(latitude) * math.sin(longitude), math.sin(latitude)

    (ax, ay, az), (bx, by, bz) = vector(a), vector(b)
    cross = math.hypot(ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx)
    return EARTH_RADIUS_KM * math.atan2(cross, ax * bx + ay * by + az * bz)


@pytest.mark.parametrize(
    ("a", "b", "geodesic_km"),
    # Geodesics on WGS 84, by the formula of Vincenty 1975 (Survey Review 23(176):88); the sphere may be 0.56 % off.
    [(PARIS, BERLIN, 880.6), (LONDON, NEW_YORK, 5585.2), (TOKYO, SYDNEY, 7792.8), (SUVA, APIA, 1151.1)],
)
def test_known_city_pairs_are_as_far_apart_as_on_the_ellipsoid(
    a: tuple[float, float], b: tuple[float, float], geodesic_km: float
) -> None:
    assert great_circle_km(*a, *b) == pytest.approx(geodesic_km, rel=0.0056)
    assert great_circle_km(*b, *a) == pytest.approx(great_circle_km(*a, *b), rel=1e-12)


def test_the_date_line_is_no_border() -> None:
    assert great_circle_km(0, 179.5, 0, -179.5) == pytest.approx(EARTH_RADIUS_KM * math.radians(1))
    assert great_circle_km(60, 180, 60, -180) == pytest.approx(0, abs=1e-6)


def test_at_a_pole_all_longitudes_are_one_place() -> None:
    assert great_circle_km(90, 10, 90, -130) == pytest.approx(0, abs=1e-6)
    assert great_circle_km(-90, 0, -90, 180) == pytest.approx(0, abs=1e-6)
    assert great_circle_km(89, 0, 89, 180) == pytest.approx(EARTH_RADIUS_KM * math.radians(2))
    assert great_circle_km(90, 77, 0, -55) == pytest.approx(EARTH_RADIUS_KM * math.pi / 2)


def test_antipodes_are_half_the_circumference_apart() -> None:
    for latitude, longitude in [(0.0, 0.0), (37.1234567, -3.6), (90.0, 0.0), (-12.3, 179.9)]:
        opposite = longitude - 180 if longitude > 0 else longitude + 180
        assert great_circle_km(latitude, longitude, -latitude, opposite) == pytest.approx(EARTH_RADIUS_KM * math.pi)


@settings(max_examples=300)
@given(
    a=st.tuples(st.floats(-90, 90), st.floats(-180, 180)),
    b=st.tuples(st.floats(-90, 90), st.floats(-180, 180)),
)
def test_distance_agrees_with_the_vector_formula_everywhere(a: tuple[float, float], b: tuple[float, float]) -> None:
    assert great_circle_km(*a, *b) == pytest.approx(by_chord_km(a, b), rel=1e-9, abs=1e-3)


def test_radii_are_taken_off_and_never_below_zero() -> None:
    assert certain_distance_km(at(PARIS, 100), at(BERLIN, 50)) == pytest.approx(
        certain_distance_km(at(PARIS), at(BERLIN)) - 150
    )
    assert certain_distance_km(at(PARIS, 800), at(BERLIN, 200)) == 0


def test_no_time_means_no_speed() -> None:
    assert implied_speed_kmh(100, 0) is None
    assert implied_speed_kmh(100, HOUR_US // 2) == 200


def test_first_payment_of_a_card_has_no_travel(features: FeatureSet) -> None:
    assert travelled(features, payment(features, NOON_US, at(PARIS))) == {
        "speed_kmh": None,
        "distance_km": None,
        "travel_seconds": None,
    }


def test_paris_to_new_york_in_an_hour_is_told(features: FeatureSet) -> None:
    seen = travelled(
        features, payment(features, NOON_US, at(PARIS, 1)), payment(features, NOON_US + HOUR_US, at(NEW_YORK, 1))
    )
    distance_km = by_chord_km(PARIS, NEW_YORK) - 2
    assert seen["distance_km"] == pytest.approx(distance_km, abs=1e-3)
    assert seen["speed_kmh"] == pytest.approx(distance_km, abs=1e-3)
    assert seen["travel_seconds"] == 3600


def test_two_fixes_in_one_place_have_speed_zero_whatever_their_radii(features: FeatureSet) -> None:
    seen = travelled(features, payment(features, NOON_US, at(PARIS)), payment(features, NOON_US + SECOND_US, at(PARIS)))
    assert (seen["speed_kmh"], seen["distance_km"]) == (0, 0)


def test_a_country_circle_proves_no_travel_to_its_neighbour(features: FeatureSet) -> None:
    latitude, longitude, radius_km = COUNTRY_CIRCLES["FR"]
    france = Fix(latitude, longitude, radius_km, "country")
    seen = travelled(
        features, payment(features, NOON_US, france), payment(features, NOON_US + SECOND_US, at(BRUSSELS, 1))
    )
    assert (seen["speed_kmh"], seen["distance_km"]) == (0, 0)
    far = travelled(features, payment(features, NOON_US, france), payment(features, NOON_US + HOUR_US, at(TOKYO, 1)))
    assert far["speed_kmh"] == pytest.approx(by_chord_km((latitude, longitude), TOKYO) - radius_km - 1, abs=1e-3)


def test_payments_at_the_same_time_have_distance_but_no_speed(features: FeatureSet) -> None:
    seen = travelled(features, payment(features, NOON_US, at(PARIS)), payment(features, NOON_US, at(TOKYO)))
    assert seen["speed_kmh"] is None
    assert seen["travel_seconds"] == 0
    assert seen["distance_km"] == pytest.approx(by_chord_km(PARIS, TOKYO), abs=1e-3)


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ("card_present", "atm", True),
        ("ecommerce", "wallet", True),
        ("transfer", "ecommerce", True),
        ("card_present", "ecommerce", False),
        ("wallet", "atm", False),
    ],
)
def test_in_person_and_remote_payments_are_kept_apart(
    features: FeatureSet, first: str, second: str, together: bool
) -> None:
    seen = travelled(
        features,
        payment(features, NOON_US, at(PARIS), channel=first),
        payment(features, NOON_US + HOUR_US, at(TOKYO), channel=second),
    )
    assert (seen["speed_kmh"] is not None) is together


def test_a_payment_without_a_fix_is_neither_measured_nor_remembered(features: FeatureSet) -> None:
    paris, unknown = payment(features, NOON_US, at(PARIS)), payment(features, NOON_US + HOUR_US)
    berlin = payment(features, NOON_US + 2 * HOUR_US, at(BERLIN))
    seen = travelled(features, paris, unknown, berlin)
    assert told(features, unknown, "card")["distance_km"] is None
    assert seen["travel_seconds"] == 7200


def test_a_duplicate_is_neither_measured_nor_remembered(features: FeatureSet) -> None:
    paris, again = payment(features, NOON_US, at(PARIS)), payment(features, NOON_US + HOUR_US, at(TOKYO))
    again.duplicate = True
    seen = travelled(features, paris, again, payment(features, NOON_US + 2 * HOUR_US, at(BERLIN)))
    assert told(features, again, "card")["distance_km"] is None
    assert seen["travel_seconds"] == 7200


def test_a_late_payment_is_measured_against_what_came_before_it(features: FeatureSet) -> None:
    items = [
        payment(features, NOON_US, at(PARIS)),
        payment(features, NOON_US + 10 * HOUR_US, at(NEW_YORK)),
        payment(features, NOON_US + 2 * HOUR_US, at(BERLIN)),
    ]
    seen = travelled(features, *items)
    assert seen["travel_seconds"] == 7200
    assert seen["distance_km"] == pytest.approx(by_chord_km(PARIS, BERLIN), abs=1e-3)
    # And it is itself what a later one, still before New York, is measured against.
    seen = travelled(features, *items, payment(features, NOON_US + 3 * HOUR_US, at(LONDON)))
    assert seen["distance_km"] == pytest.approx(by_chord_km(BERLIN, LONDON), abs=1e-3)


def test_a_login_places_the_device_and_a_failed_one_or_a_block_does_not(features: FeatureSet) -> None:
    def seen_after(kind: str) -> object:
        items = [
            device_event(features, NOON_US, kind, at(TOKYO)),
            payment(features, NOON_US + HOUR_US, at(PARIS), channel="ecommerce"),
        ]
        Travel(features, features.entities[1]).on_batch(DictStore(), items)
        return told(features, items[1], "device")["travel_seconds"]

    assert [seen_after(kind) for kind in ("login", "seen")] == [3600, 3600]
    assert [seen_after(kind) for kind in ("login_failed", "blocked", "rooted")] == [None, None, None]


def test_a_device_event_does_not_meet_payments_at_a_terminal(features: FeatureSet) -> None:
    items = [device_event(features, NOON_US, "login", at(TOKYO)), payment(features, NOON_US + HOUR_US, at(PARIS))]
    Travel(features, features.entities[1]).on_batch(DictStore(), items)
    assert told(features, items[1], "device")["speed_kmh"] is None


def test_history_is_bounded_by_number(features: FeatureSet) -> None:
    store, travel = DictStore(), Travel(features, features.entities[0])
    for number in range(MAX_FIXES + 5):
        travel.on_batch(store, [payment(features, NOON_US + number * SECOND_US, at(PARIS))])
    assert len(store.as_dict()[b"tpC1"]) == 1 + 20 * MAX_FIXES
    late = [
        payment(features, NOON_US + 4 * SECOND_US, at(BERLIN)),
        payment(features, NOON_US + 6 * SECOND_US, at(LONDON)),
    ]
    travel.on_batch(store, late)
    assert told(features, late[0], "card")["travel_seconds"] is None, "older than all that is kept"
    assert told(features, late[1], "card")["travel_seconds"] == 0


def test_history_is_bounded_by_age_but_for_the_last_fix_before(features: FeatureSet) -> None:
    store, travel = DictStore(), Travel(features, features.entities[0])
    for hours in (0, 1, 2, 26):
        travel.on_batch(store, [payment(features, NOON_US + hours * HOUR_US, at(PARIS))])
    assert len(store.as_dict()[b"tpC1"]) == 1 + 20 * 2, "26 h, and 2 h: exactly allowed_lateness before"
    travel.on_batch(store, [payment(features, NOON_US + 27 * HOUR_US, at(PARIS))])
    assert len(store.as_dict()[b"tpC1"]) == 1 + 20 * 3, "a payment of 3 h may still come, and wants the one of 2 h"


def test_a_payment_as_late_as_allowed_finds_its_predecessor(features: FeatureSet) -> None:
    places = ((0, PARIS), (1.5, LONDON), (25, NEW_YORK), (1, BERLIN))
    items = [payment(features, NOON_US + int(hours * HOUR_US), at(place)) for hours, place in places]
    assert travelled(features, *items)["distance_km"] == pytest.approx(by_chord_km(PARIS, BERLIN), abs=1e-3)


def test_a_track_that_was_still_for_too_long_is_forgotten_before_and_after_the_sweep(features: FeatureSet) -> None:
    travel = Travel(features, features.entities[0])

    def run(snapshots: bool) -> tuple[object, bool]:
        store = DictStore()
        travel.on_batch(store, [payment(features, NOON_US, at(PARIS))])
        later_us = NOON_US + 32 * DAY_US
        travel.on_batch(store, [payment(features, later_us, at(PARIS), card_id=f"C{n}") for n in range(2, 2 + RANK)])
        if snapshots:
            travel.on_snapshot(store)
        there = b"tpC1" in store.as_dict()
        late = payment(features, NOON_US + HOUR_US, at(TOKYO))
        travel.on_batch(store, [late])
        return told(features, late, "card")["speed_kmh"], there

    assert run(snapshots=False) == (None, True)
    assert run(snapshots=True) == (None, False)


def test_a_track_of_another_layout_is_refused(features: FeatureSet) -> None:
    store = DictStore("s01", "card")
    store.put_many([(b"tpC1", b"\x02" + bytes(20))])
    with pytest.raises(StateLayoutError, match="shard card/s01: found a record of layout 02, this program reads 01"):
        Travel(features, features.entities[0]).on_batch(store, [payment(features, NOON_US, at(PARIS))])


PLACES = (PARIS, BERLIN, LONDON, NEW_YORK, TOKYO, SYDNEY, SUVA, APIA)
# (card, channel, hours by which the newest time moves on, hours late, place, radius, located)
STEP = st.tuples(
    st.sampled_from(("C1", "C2")),
    st.sampled_from(("card_present", "atm", "ecommerce", "wallet")),
    st.integers(0, 20),
    st.sampled_from((0, 0, 0, 0, 1, 5, 24)),
    st.sampled_from(PLACES),
    st.sampled_from((0.0, 1.0, 700.0)),
    st.sampled_from((True, True, True, False)),
)
STEPS = st.lists(STEP, max_size=MAX_FIXES)
Steps = list[tuple[str, str, int, int, tuple[float, float], float, bool]]


def made(features: FeatureSet, steps: Steps, pace: int = 1) -> list[InFlight]:
    """Payments of `steps`; at a pace above 1 a long pause is followed by what moves the shard clock."""
    items, newest_us = [], NOON_US
    for card_id, channel, onward, late, place, radius_km, located in steps:
        newest_us += onward * pace * HOUR_US
        if pace > 1 and onward > 10:
            items += [payment(features, newest_us, at(PARIS), card_id=f"X{number}") for number in range(RANK)]
        fix = at(place, radius_km) if located else None
        items.append(payment(features, newest_us - late * HOUR_US, fix, channel=channel, card_id=card_id))
    return items


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_every_payment_is_measured_as_of_its_event_time(features: FeatureSet, steps: Steps) -> None:
    items = made(features, steps)
    Travel(features, features.entities[0]).on_batch(DictStore(), items)
    for now, (item, step) in enumerate(zip(items, steps, strict=True)):
        event_time_us = item.event.event_time_us  # type: ignore[union-attr]  # all are payments
        remote = step[1] in {"ecommerce", "wallet"}
        before = [
            (other.event.event_time_us, arrival)  # type: ignore[union-attr]
            for arrival, (other, its) in enumerate(zip(items[:now], steps[:now], strict=True))
            if its[0] == step[0]
            and (its[1] in {"ecommerce", "wallet"}) == remote
            and its[6]
            and other.event.event_time_us <= event_time_us  # type: ignore[union-attr]
        ]
        seen = told(features, item, "card")
        if not before or not step[6]:
            assert set(seen.values()) == {None}
            continue
        previous_us, arrival = max(before)
        distance_km = max(0.0, by_chord_km(steps[arrival][4], step[4]) - steps[arrival][5] - step[5])
        elapsed_s = (event_time_us - previous_us) / 1e6
        assert seen["travel_seconds"] == elapsed_s
        assert seen["distance_km"] == pytest.approx(distance_km, abs=1e-3)
        assert seen["speed_kmh"] == (pytest.approx(distance_km / elapsed_s * 3600, abs=1e-2) if elapsed_s else None)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, cuts=st.lists(st.integers(0, 200), max_size=8), pace=st.sampled_from((1, 60)))
def test_cuts_snapshots_sweeps_and_rollbacks_change_nothing(
    features: FeatureSet, steps: Steps, cuts: list[int], pace: int
) -> None:
    travel = Travel(features, features.entities[0])

    def make() -> list[InFlight]:
        return made(features, steps, pace)

    whole, store = run_in_pieces(travel, make, [], snapshots=False, resume=False)
    pieces, cut_store = run_in_pieces(travel, make, cuts, snapshots=False, resume=False)
    assert pieces == whole
    assert cut_store.as_dict() == store.as_dict()
    assert run_in_pieces(travel, make, cuts, snapshots=True, resume=False)[0] == whole
    assert run_in_pieces(travel, make, cuts, snapshots=True, resume=True)[0] == whole
