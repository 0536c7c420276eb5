"""Where people are: at home, at work, on the road, at an airport, in the air, at the place they travel to.

A journey takes its realistic time, door to door, so a payment's place never outruns its payer:

    plane   way to the airport 0.75 h, at the airport 2 h, flight at 800 km/h plus 0.6 h of taxi and climb, out 1 h
    train   straight line at 150 km/h plus 0.7 h of ways and changes
    car     straight line at 72 km/h (90 on the road, a quarter more road than line), half an hour's rest every 2.5 h
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from load_tests.traffic.cities import Cities, haversine_km, offset_position
from load_tests.traffic.layout import DAY_US, HOUR_US, Params, Rng, Rows, stack
from load_tests.traffic.population import Customers

PLANE, TRAIN, CAR = range(3)
AT_HOME, AT_WORK, AWAY, AIRPORT, ON_ROAD, NOWHERE = range(6)
"""Phases of a person; NOWHERE: in the air or on the way to an airport, where nothing is paid in person."""

TO_AIRPORT_US: Final = 3 * HOUR_US // 4
AT_AIRPORT_US: Final = 2 * HOUR_US
FROM_AIRPORT_US: Final = HOUR_US
AIRPORT_NORTH_KM, AIRPORT_EAST_KM = 14.0, 11.0  # of every city's airport, from its centre

TRIP: Final = np.dtype(
    [
        ("customer", np.int32),
        ("mode", np.int8),
        ("depart_us", np.int64),
        ("arrive_us", np.int64),
        ("leave_us", np.int64),
        ("back_us", np.int64),
        ("city", np.int32),  # -1: a place in the country
        ("latitude", np.float64),
        ("longitude", np.float64),
    ]
)


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where each of some people is at some instant.

    Attributes:
        phase: AT_HOME to NOWHERE.
        latitude: Degrees.
        longitude: Degrees.
        city: City whose places are near, -1 on the road and in the country.
    """

    phase: NDArray[np.int8]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    city: NDArray[np.int64]


def journey_us(mode: NDArray[np.int8], distance_km: NDArray[np.float64]) -> NDArray[np.int64]:
    """Time from door to door, µs."""
    access_us = TO_AIRPORT_US + AT_AIRPORT_US + FROM_AIRPORT_US
    plane = distance_km / 800 + 0.6 + access_us / HOUR_US
    train = distance_km / 150 + 0.7
    car = distance_km / 72
    hours = np.select([mode == PLANE, mode == TRAIN], [plane, train], car + 0.5 * np.floor(car / 2.5))
    return np.asarray(hours * HOUR_US).astype(np.int64)


def make_trips(params: Params, cities: Cities, customers: Customers, rng: Rng) -> Rows:
    """Journeys of everybody, sorted by customer and departure, none overlapping."""
    eager = 1.8 if params.movement else 1.0
    trips = stack(
        TRIP,
        [
            _city_trips(params, cities, customers, rng, PLANE, 3.0 * eager),
            _city_trips(params, cities, customers, rng, TRAIN, 3.0 * eager),
            _city_trips(params, cities, customers, rng, CAR, 3.0 * eager),
            _country_trips(params, customers, rng, 8.0 * eager),
        ],
    )
    trips = trips[np.lexsort((trips["depart_us"], trips["customer"]))]
    free_us: dict[int, int] = {}
    kept = []
    for at, (customer, depart_us, back_us) in enumerate(
        zip(trips["customer"].tolist(), trips["depart_us"].tolist(), trips["back_us"].tolist(), strict=True)
    ):
        if depart_us >= free_us.get(customer, 0):
            kept.append(at)
            free_us[customer] = back_us + 10 * HOUR_US
    return trips[kept]


def whereabouts(
    cities: Cities,
    customers: Customers,
    trips: Rows,
    who: NDArray[np.int64],
    time_us: NDArray[np.int64],
) -> Whereabouts:
    """Where customer `who[i]` is at `time_us[i]`."""
    local_us = time_us + cities.utc_offset_us[customers.city[who]]
    hour = local_us // HOUR_US % 24
    working = ((local_us // DAY_US + 3) % 7 < 5) & (hour >= 9) & (hour < 17)  # 1970-01-01 was a Thursday
    phase = np.where(working, AT_WORK, AT_HOME).astype(np.int8)
    latitude = np.where(working, customers.work_latitude[who], customers.latitude[who])
    longitude = np.where(working, customers.work_longitude[who], customers.longitude[who])
    city = customers.city[who].copy()

    span_us = 4000 * DAY_US  # longer than any simulation: customers do not overlap on one axis
    origin_us = int(time_us.min()) - span_us // 2 if len(time_us) else 0
    starts = trips["customer"].astype(np.int64) * span_us + (trips["depart_us"] - origin_us)
    at = np.searchsorted(starts, who * span_us + (time_us - origin_us), side="right") - 1
    if not len(trips):
        return Whereabouts(phase, latitude, longitude, city)
    trip = trips[np.maximum(at, 0)]
    out = (at >= 0) & (trip["customer"] == who) & (time_us < trip["back_us"])

    away = out & (time_us >= trip["arrive_us"]) & (time_us < trip["leave_us"])
    going = out & (time_us < trip["arrive_us"])
    since_us = np.where(going, time_us - trip["depart_us"], time_us - trip["leave_us"])
    whole_us = np.where(going, trip["arrive_us"] - trip["depart_us"], trip["back_us"] - trip["leave_us"])
    underway = out & ~away
    flying = underway & (trip["mode"] == PLANE)
    before = (since_us >= TO_AIRPORT_US) & (since_us < TO_AIRPORT_US + AT_AIRPORT_US)
    after = since_us >= whole_us - FROM_AIRPORT_US // 2
    home_lat, home_lon = customers.latitude[who], customers.longitude[who]

    # On the road: straight on, at constant speed. No land trip comes near the date line.
    done = np.clip(since_us / np.maximum(whole_us, 1), 0.0, 1.0)
    done = np.where(going, done, 1.0 - done)
    road_lat = home_lat + (trip["latitude"] - home_lat) * done
    road_lon = home_lon + (trip["longitude"] - home_lon) * done

    at_origin = flying & (before & going | after & ~going)
    at_target = flying & (before & ~going | after & going)
    airport_city = np.where(at_origin, customers.city[who], np.maximum(trip["city"], 0))
    airport_lat, airport_lon = airport(cities, airport_city)
    waiting = at_origin | at_target
    phase = np.select([away, waiting, flying, underway], [AWAY, AIRPORT, NOWHERE, ON_ROAD], phase).astype(np.int8)
    return Whereabouts(
        phase=phase,
        latitude=np.select([away, waiting, underway], [trip["latitude"], airport_lat, road_lat], latitude),
        longitude=np.select([away, waiting, underway], [trip["longitude"], airport_lon, road_lon], longitude),
        city=np.select([away, waiting, underway], [trip["city"], airport_city, -1], city).astype(np.int64),
    )


def airport(cities: Cities, city: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Position of a city's airport."""
    ones = np.ones(len(city))
    return offset_position(
        cities.latitude[city], cities.longitude[city], AIRPORT_NORTH_KM * ones, AIRPORT_EAST_KM * ones
    )


def nearest_city(cities: Cities, latitude: NDArray[np.float64], longitude: NDArray[np.float64]) -> NDArray[np.int64]:
    """The city nearest to each point; its country stands for the point's."""
    return np.asarray(
        haversine_km(latitude[:, None], longitude[:, None], cities.latitude[None, :], cities.longitude[None, :]).argmin(
            1
        )
    )


def _city_trips(params: Params, cities: Cities, customers: Customers, rng: Rng, mode: int, per_year: float) -> Rows:
    """Journeys to other cities: far ones by plane, near ones over land."""
    distance = cities.distance_km
    if mode == PLANE:
        weight = np.where(distance > 450, cities.population**0.4 * np.exp(-distance / 4500), 0.0)
    else:
        weight = np.where((distance > 70) & (distance < 650), cities.population**0.4 * np.exp(-distance / 250), 0.0)
        overland = cities.latitude[:, None] > 36  # islands of the table and other continents are left to the planes
        weight = np.where(overland & ~_across_water(cities), weight, 0.0)
    total = weight.sum(axis=1)
    count = rng.poisson(per_year * params.days / 365, len(customers))
    count[total[customers.city] == 0] = 0
    who = np.repeat(np.arange(len(customers)), count)
    origin = customers.city[who]
    cumulative = np.cumsum(weight / np.where(total == 0, 1, total)[:, None], axis=1)
    target = np.minimum((rng.random(len(who))[:, None] > cumulative[origin]).sum(axis=1), len(total) - 1)
    stay_days = np.clip(rng.lognormal(np.log(5.0 if mode == PLANE else 1.8), 0.6, len(who)), 0.6, 25.0)
    near = rng.normal(0, 2.5, (2, len(who)))
    latitude, longitude = offset_position(cities.latitude[target], cities.longitude[target], near[0], near[1])
    return _trips(params, cities, customers, rng, who, mode, target, latitude, longitude, stay_days)


def _country_trips(params: Params, customers: Customers, rng: Rng, per_year: float) -> Rows:
    """Days out by car, 30 to 140 km away."""
    who = np.repeat(np.arange(len(customers)), rng.poisson(per_year * params.days / 365, len(customers)))
    km, bearing = rng.uniform(30, 140, len(who)), rng.uniform(0, 2 * np.pi, len(who))
    latitude, longitude = offset_position(
        customers.latitude[who], customers.longitude[who], km * np.cos(bearing), km * np.sin(bearing)
    )
    stay_days = rng.uniform(0.15, 0.4, len(who))
    none = np.full(len(who), -1, dtype=np.int64)
    return _trips(params, None, customers, rng, who, CAR, none, latitude, longitude, stay_days)


def _trips(
    params: Params,
    cities: Cities | None,
    customers: Customers,
    rng: Rng,
    who: NDArray[np.int64],
    mode: int,
    city: NDArray[np.int64],
    latitude: NDArray[np.float64],
    longitude: NDArray[np.float64],
    stay_days: NDArray[np.float64],
) -> Rows:
    trips = np.zeros(len(who), dtype=TRIP)
    distance = haversine_km(customers.latitude[who], customers.longitude[who], latitude, longitude)
    if cities is not None and mode == PLANE:
        distance = np.maximum(distance, cities.distance_km[customers.city[who], city])
    trips["customer"], trips["mode"], trips["city"] = who, mode, city
    trips["latitude"], trips["longitude"] = latitude, longitude
    day = rng.integers(-3, params.days, len(who))  # some are away when the simulation starts
    if mode != PLANE:
        weekday = (params.start_us // DAY_US + 3 + day) % 7
        day += np.where(rng.random(len(who)) < 0.75, (5 - weekday) % 7, 0)  # most on a Saturday
    trips["depart_us"] = params.start_us + day * DAY_US + (rng.uniform(4.5, 14, len(who)) * HOUR_US).astype(np.int64)
    travel_us = journey_us(trips["mode"], distance)
    trips["arrive_us"] = trips["depart_us"] + travel_us
    trips["leave_us"] = trips["arrive_us"] + (stay_days * DAY_US).astype(np.int64)
    trips["back_us"] = trips["leave_us"] + travel_us
    return trips


def _across_water(cities: Cities) -> NDArray[np.bool_]:
    """Pairs of cities without a road or a bridge between them, as far as the table goes."""
    island = np.zeros(len(cities.names), dtype=np.int64)
    for group, codes in enumerate((("GB",), ("IE",), ("IS",), ("CY",), ("MT",), ("JP",)), start=1):
        island[[cities.countries[c] in codes for c in cities.country]] = group
    for group, name in enumerate(("Palma", "Palermo", "Sapporo", "Osaka"), start=10):
        island[cities.names.index(name)] = group
    island[cities.names.index("Osaka")] = island[cities.names.index("Tokyo")]
    return np.asarray(island[:, None] != island[None, :])
