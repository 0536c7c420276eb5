"""People cannot be faster than their means of travel."""

import numpy as np
import pytest

from load_tests.traffic.cities import haversine_km
from load_tests.traffic.habits import World, make_habits, thin
from load_tests.traffic.layout import CARD_PRESENT, DAY_US, HOUR_US, MINUTE_US, PAYMENT, Params, Rows, blank
from load_tests.traffic.movement import (
    AIRPORT,
    AT_HOME,
    AT_WORK,
    AWAY,
    CAR,
    NOWHERE,
    ON_ROAD,
    PLANE,
    TRAIN,
    TRIP,
    journey_us,
    make_trips,
    whereabouts,
)
from load_tests.traffic.simulate import make_world, simulate

YEAR = Params(movement=True, customers=60, days=365, payments=17_000, seed=3, start="2025-06-02")


def speeds_kmh(rows: Rows) -> np.ndarray:
    """Between each located payment and the one before of the same account, radii taken off."""
    rows = rows[~np.isnan(rows["latitude"])]
    rows = rows[np.lexsort((rows["time_us"], rows["account"]))]
    before, after = rows[:-1], rows[1:]
    apart = haversine_km(before["latitude"], before["longitude"], after["latitude"], after["longitude"])
    apart -= np.nan_to_num(before["accuracy_km"]) + np.nan_to_num(after["accuracy_km"])
    hours = (after["time_us"] - before["time_us"]) / HOUR_US
    far = (before["account"] == after["account"]) & (apart > 1.0)
    return np.asarray(apart[far] / np.maximum(hours[far], 1e-9))


def test_a_year_of_movement_holds_flights_but_nobody_outruns_a_plane() -> None:
    traffic = simulate(YEAR)
    assert len(traffic.payments) == 17_000
    assert not (traffic.payments["pattern"] > 0).any()
    speeds = speeds_kmh(traffic.payments)
    assert speeds.max() < 950
    assert (speeds > 250).sum() > 20  # there really are people who fly
    in_person = traffic.payments[np.isin(traffic.payments["channel"], (0, 2, 4))]
    assert speeds_kmh(in_person).max() < 950
    modes = np.bincount(traffic.world.trips["mode"], minlength=3)
    assert (modes > 30).all()


def test_movement_is_plausible_before_anything_is_thinned_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("load_tests.traffic.habits.thin", lambda rows, _channels: rows)
    world = make_world(YEAR)
    speeds = speeds_kmh(make_habits(world, 15_000, YEAR.rng("habits")))
    # What is left for thinning are two shops of one town within minutes, not journeys.
    assert (speeds > 950).mean() < 0.005


def test_payments_follow_their_payers_around_the_world() -> None:
    rows = simulate(YEAR).payments
    homes = np.bincount(rows["country"][rows["country"] >= 0])
    assert (homes > 0).sum() > 15
    assert (rows["merchant"] >= 10_000_000).sum() > 50  # along roads and at airports


def test_a_flight_takes_hours_more_than_flying() -> None:
    mode = np.array([PLANE, TRAIN, CAR], dtype=np.int8)
    hours = journey_us(mode, np.array([800.0, 300.0, 360.0])) / HOUR_US
    assert hours == pytest.approx([1 + 0.6 + 3.75, 2.7, 6.0], abs=1e-6)


def test_nobody_makes_two_journeys_at_once() -> None:
    world = make_world(YEAR)
    trips = world.trips
    same = trips["customer"][1:] == trips["customer"][:-1]
    assert (trips["depart_us"][1:] >= trips["back_us"][:-1])[same].all()
    assert (trips["arrive_us"] > trips["depart_us"]).all()
    assert len(make_trips(YEAR, world.cities, world.customers, YEAR.rng("trips"))) == len(trips)


def one_trip(mode: int) -> tuple[World, Rows]:
    world = make_world(Params(payments=3000, customers=60, days=10))
    berlin = world.cities.names.index("Berlin")
    world.customers.city[0] = berlin
    world.customers.latitude[0], world.customers.longitude[0] = 52.5, 13.4
    trip = np.zeros(1, dtype=TRIP)
    start_us = world.params.start_us + 4 * DAY_US
    target = world.cities.names.index("Madrid")
    trip["mode"], trip["city"], trip["latitude"], trip["longitude"] = mode, target, 40.4, -3.7
    trip["depart_us"] = start_us
    trip["arrive_us"] = start_us + 10 * HOUR_US
    trip["leave_us"] = start_us + 50 * HOUR_US
    trip["back_us"] = start_us + 60 * HOUR_US
    return world, trip


def phases(world: World, trip: Rows, hours: list[float]) -> tuple[list[int], np.ndarray]:
    times = np.array([int(trip["depart_us"][0] + hour * HOUR_US) for hour in hours])
    where = whereabouts(world.cities, world.customers, trip, np.zeros(len(hours), dtype=np.int64), times)
    return where.phase.tolist(), where.latitude


def test_a_flyer_is_at_the_airport_then_nowhere_then_there() -> None:
    world, trip = one_trip(PLANE)
    found, latitude = phases(world, trip, [-1.0, 0.5, 2.0, 5.0, 9.8, 20.0, 52.0, 55.0, 59.9, 60.1])
    assert found[1:-1] == [NOWHERE, AIRPORT, NOWHERE, AIRPORT, AWAY, AIRPORT, NOWHERE, AIRPORT]
    assert {found[0], found[-1]} <= {AT_HOME, AT_WORK}
    assert latitude[2] == pytest.approx(52.6, abs=0.1)
    assert latitude[4] == pytest.approx(40.5, abs=0.1)
    assert latitude[5] == pytest.approx(40.4)


def test_a_driver_is_on_the_straight_line() -> None:
    world, trip = one_trip(CAR)
    found, latitude = phases(world, trip, [2.5, 5.0, 52.5])
    assert found == [ON_ROAD] * 3
    assert latitude == pytest.approx([52.5 - 12.1 * 0.25, 52.5 - 12.1 * 0.5, 40.4 + 12.1 * 0.25])


def test_thinning_drops_what_its_payer_could_not_reach_and_keeps_the_rest() -> None:
    rows = blank(PAYMENT, 5)
    rows["account"], rows["channel"] = [1, 1, 1, 1, 2], CARD_PRESENT
    rows["time_us"] = np.array([0, 5, 60, 400, 6]) * MINUTE_US
    rows["latitude"], rows["longitude"] = [50.0, 50.5, 50.5, 60.0, 10.0], 8.0  # 55 km in 5 min; in 60; 1,056 km in 340
    kept = thin(rows, (CARD_PRESENT,))
    assert kept["time_us"].tolist() == [0, 60 * MINUTE_US, 400 * MINUTE_US, 6 * MINUTE_US]
    rows["accuracy_km"][1] = 60.0  # nobody knows that it was far
    assert len(thin(rows, (CARD_PRESENT,))) == 5
    rows["time_us"][3] = 100 * MINUTE_US
    assert len(thin(rows, (CARD_PRESENT,))) == 4


def test_nothing_is_paid_in_the_air() -> None:
    traffic = simulate(YEAR)
    acting = traffic.payments[~traffic.payments["recurring"] & (traffic.payments["payment_type"] == 0)]
    world = traffic.world
    where = whereabouts(
        world.cities, world.customers, world.trips, acting["account"].astype(np.int64), acting["time_us"]
    )
    assert not (where.phase == NOWHERE).any()
    assert (where.phase == AIRPORT).any()
