"""Who pays and who is paid: customers with homes, habits and devices; shops, cash machines and online merchants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from load_tests.traffic.categories import CASH, ONLINE, SHOPS, SUBSCRIPTIONS, shares
from load_tests.traffic.cities import Cities, haversine_km, offset_position
from load_tests.traffic.layout import DAY_US, HOUR_US, Params, Rng

PLACES: Final = (*SHOPS, CASH)  # what has a door; cash machines last
CASH_INDEX: Final = len(SHOPS)
SHOP, NET, CASHED, SENT = range(4)  # what a customer does with money: columns of `Customers.ways`
PAYEES: Final = 6  # known payees of a customer
FAVOURITES: Final = 3  # the first two near home, the third near work

_PRIVATE: Final = 10 << 24  # 10.0.0.0/8: homes, hotels (RFC 1918)
_CARRIER: Final = (100 << 24) + (64 << 16)  # 100.64.0.0/10: mobile carriers share addresses (RFC 6598)


@dataclass(frozen=True, slots=True)
class Customers:
    """Account holders, one row each.

    Attributes:
        city: Home city.
        latitude: Home, degrees.
        longitude: Home, degrees.
        work_latitude: Work, degrees.
        work_longitude: Work, degrees.
        currency: Currency of the account.
        activity: Relative number of payments.
        spend: Factor on every amount.
        ways: Running probabilities of paying in a shop, online, drawing cash, sending money.
        shop_taste: Running probabilities of the shop categories.
        online_taste: Running probabilities of the online categories.
        wallet: Probability that a shop is paid with the phone.
        cards: 1 or 2.
        devices: 1 to 3.
        home_ip: Address at home.
        next_ip: Address at home from `ip_changes_us` on.
        ip_changes_us: When the provider hands out another address.
        mobile_ip: Address of the carrier's gateway; shared.
        hour_shift_us: Early birds and night owls, µs.
        new_phone_us: When device 4c + 3 takes the place of device 4c; later than the end for most.
        payees: Known payees.
        opened_us: When the account was opened; earlier than the start for most.
        closed_us: When it was closed; later than the end for most.
    """

    city: NDArray[np.int64]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    work_latitude: NDArray[np.float64]
    work_longitude: NDArray[np.float64]
    currency: NDArray[np.int16]
    activity: NDArray[np.float64]
    spend: NDArray[np.float64]
    ways: NDArray[np.float64]
    shop_taste: NDArray[np.float64]
    online_taste: NDArray[np.float64]
    wallet: NDArray[np.float64]
    cards: NDArray[np.int64]
    devices: NDArray[np.int64]
    home_ip: NDArray[np.int64]
    next_ip: NDArray[np.int64]
    ip_changes_us: NDArray[np.int64]
    mobile_ip: NDArray[np.int64]
    hour_shift_us: NDArray[np.int64]
    new_phone_us: NDArray[np.int64]
    payees: NDArray[np.int64]
    opened_us: NDArray[np.int64]
    closed_us: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.city)


@dataclass(frozen=True, slots=True)
class Merchants:
    """Places with a door first, grouped by city and category; then online merchants, then subscriptions.

    Attributes:
        latitude: Of the place, NaN online.
        longitude: Of the place, NaN online.
        terminals: Terminals of the merchant.
        place_start: First merchant of [city, category].
        place_count: Merchants of [city, category].
        online_start: First merchant of each online category.
        online_count: Merchants of each online category.
        subscription_start: First merchant of each subscription category.
        subscription_count: Merchants of each subscription category.
        favourites: [customer, place category, rank].
    """

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    terminals: NDArray[np.int64]
    place_start: NDArray[np.int64]
    place_count: NDArray[np.int64]
    online_start: NDArray[np.int64]
    online_count: NDArray[np.int64]
    subscription_start: NDArray[np.int64]
    subscription_count: NDArray[np.int64]
    favourites: NDArray[np.int64]


def make_customers(params: Params, cities: Cities, rng: Rng) -> Customers:
    """Draw the account holders."""
    n = params.customer_count
    city = rng.choice(len(cities.names), n, p=cities.home_weight)
    spread = 2.0 + 6.0 * np.minimum(cities.population[city] / 4e6, 1.0)
    latitude, longitude = offset_position(
        cities.latitude[city], cities.longitude[city], rng.normal(0, spread), rng.normal(0, spread)
    )
    way_km = np.minimum(rng.lognormal(np.log(7.0), 0.8, n), 60.0)
    bearing = rng.uniform(0, 2 * np.pi, n)
    work = offset_position(latitude, longitude, way_km * np.cos(bearing), way_km * np.sin(bearing))
    ways = rng.dirichlet(6.0 * np.array([0.70, 0.195, 0.035, 0.07]), n)
    days = params.days * DAY_US
    new = rng.random(n) < (0.0 if params.movement else 0.06)
    left = rng.random(n) < (0.0 if params.movement else 0.004)
    never_us = params.end_us + 400 * DAY_US
    mobile_pool = max(8, n // 4)
    return Customers(
        city=city,
        latitude=latitude,
        longitude=longitude,
        work_latitude=work[0],
        work_longitude=work[1],
        currency=cities.currency_of_country[cities.country[city]],
        activity=rng.gamma(2.5, 1.0, n) + 0.15,
        spend=rng.lognormal(0.0, 0.35, n),
        ways=np.cumsum(ways, axis=1),
        shop_taste=_tastes(rng, n, shares(SHOPS)),
        online_taste=_tastes(rng, n, shares(ONLINE)),
        wallet=np.where(rng.random(n) < 0.45, rng.beta(2, 3, n), 0.0),
        cards=1 + (rng.random(n) < 0.35),
        devices=1 + (rng.random(n) < 0.45) + (rng.random(n) < 0.12),
        home_ip=_PRIVATE + rng.choice(1 << 22, n, replace=False) * 2,
        next_ip=_PRIVATE + (1 << 23) + rng.choice(1 << 22, n, replace=False) * 2,
        ip_changes_us=params.start_us + rng.integers(0, 4 * days, n),
        mobile_ip=_CARRIER + rng.integers(0, mobile_pool, n),
        hour_shift_us=(np.clip(rng.normal(0, 0.9, n), -3, 3) * HOUR_US).astype(np.int64),
        new_phone_us=np.where(
            rng.random(n) < min(0.5, params.days / 600), params.start_us + rng.integers(0, days, n), never_us
        ),
        payees=rng.integers(0, max(20, 2 * n), (n, PAYEES)),
        opened_us=np.where(new, params.start_us + rng.integers(0, days * 3 // 4, n), params.start_us - 400 * DAY_US),
        closed_us=np.where(left, params.end_us - rng.integers(0, days // 2, n), never_us),
    )


def make_merchants(cities: Cities, customers: Customers, rng: Rng) -> Merchants:
    """Draw the merchants: in every city some of every kind, the more the more customers live there."""
    living = np.bincount(customers.city, minlength=len(cities.names))
    density = np.array([6 * share for share in shares(SHOPS)] + [0.5])
    counts = np.maximum(2, np.round(0.25 * living[:, None] * density[None, :])).astype(np.int64)
    start = np.concatenate([[0], np.cumsum(counts.ravel())])
    places = int(start[-1])
    place_city = np.repeat(np.arange(len(cities.names)), counts.sum(axis=1))
    spread = 2.0 + 5.0 * np.minimum(cities.population[place_city] / 4e6, 1.0)
    latitude, longitude = offset_position(
        cities.latitude[place_city], cities.longitude[place_city], rng.normal(0, spread), rng.normal(0, spread)
    )
    online = np.maximum(4, np.round(shares(ONLINE) * max(100, len(customers) // 12))).astype(np.int64)
    subscriptions = np.full(len(SUBSCRIPTIONS), 6, dtype=np.int64)
    afar = np.full(int(online.sum() + subscriptions.sum()), np.nan)
    place_start = start[:-1].reshape(counts.shape)
    favourites = _favourites(customers, place_start, counts, latitude, longitude, rng)
    online_start = places + np.concatenate([[0], np.cumsum(online)])
    subscription_start = online_start[-1] + np.concatenate([[0], np.cumsum(subscriptions)])[:-1]
    return Merchants(
        latitude=np.concatenate([latitude, afar]),
        longitude=np.concatenate([longitude, afar]),
        terminals=np.concatenate([1 + rng.geometric(0.45, places), np.ones(len(afar), dtype=np.int64)]),
        place_start=place_start,
        place_count=counts,
        online_start=online_start[:-1],
        online_count=online,
        subscription_start=subscription_start,
        subscription_count=subscriptions,
        favourites=favourites,
    )


def skewed(rng: Rng, start: NDArray[np.int64], count: NDArray[np.int64], skew: float) -> NDArray[np.int64]:
    """One of `count` merchants from `start` on, for each row; the first ones are the popular ones."""
    return start + np.minimum((count * rng.random(len(count)) ** skew).astype(np.int64), count - 1)


def _tastes(rng: Rng, n: int, base: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running probabilities around `base`, different for everybody."""
    drawn = base * rng.gamma(1.2, 1.0, (n, len(base)))
    return np.asarray(np.cumsum(drawn / drawn.sum(axis=1, keepdims=True), axis=1))


def _favourites(
    customers: Customers,
    place_start: NDArray[np.int64],
    place_count: NDArray[np.int64],
    latitude: NDArray[np.float64],
    longitude: NDArray[np.float64],
    rng: Rng,
) -> NDArray[np.int64]:
    """Of a few popular places of each kind: the two nearest to home and the one nearest to work."""
    n, kinds, tries = len(customers), place_count.shape[1], 6
    start = np.repeat(place_start[customers.city].ravel(), tries)
    count = np.repeat(place_count[customers.city].ravel(), tries)
    candidates = skewed(rng, start, count, 1.4).reshape(n, kinds, tries)
    at = latitude[candidates], longitude[candidates]
    from_home = haversine_km(customers.latitude[:, None, None], customers.longitude[:, None, None], *at)
    from_work = haversine_km(customers.work_latitude[:, None, None], customers.work_longitude[:, None, None], *at)
    near_home = np.take_along_axis(candidates, np.argsort(from_home, axis=2, kind="stable")[:, :, :2], axis=2)
    near_work = np.take_along_axis(candidates, np.argmin(from_work, axis=2)[:, :, None], axis=2)
    return np.concatenate([near_home, near_work], axis=2)
