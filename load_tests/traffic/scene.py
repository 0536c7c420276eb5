"""What fraud patterns write into, and what their episodes have in common: a place to pretend, merchants, amounts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from load_tests.traffic.categories import ONLINE
from load_tests.traffic.cities import Cities
from load_tests.traffic.habits import TERMINALS_PER_MERCHANT, World
from load_tests.traffic.layout import (
    BLOCKED,
    DAY_US,
    DEVICE_EVENT,
    ECOMMERCE,
    IDENTITY_EVENT,
    PAYMENT,
    TRANSFER,
    Fresh,
    Rng,
    Row,
    Rows,
    rows_of,
)

_BENCHMARK_NET = (198 << 24) + (18 << 16)  # 198.18.0.0/15, reserved for tests (RFC 2544): fraudsters' servers


@dataclass(slots=True)
class Scene:
    """Events of fraud episodes as they are invented, in no order.

    Attributes:
        world: Customers, merchants and cities.
        genuine: Genuine payments, by time; patterns mark those they hang on to as `keep`.
        fresh: Numbers for what fraudsters bring along.
        rng: Source of chance.
        payments: Payments so far.
        devices: Device events so far.
        identities: Identity events so far.
        frauds: Fraudulent payments so far.
        robbed: Customers who have been a victim.
    """

    world: World
    genuine: Rows
    fresh: Fresh
    rng: Rng
    payments: list[Row] = field(default_factory=list)
    devices: list[Row] = field(default_factory=list)
    identities: list[Row] = field(default_factory=list)
    frauds: int = 0
    robbed: set[int] = field(default_factory=set)

    def pay(self, euro: float, currency: int, pattern: int, episode: int, **columns: float) -> None:
        """Add a payment worth about `euro` euros, unless it falls behind the end."""
        if columns["time_us"] >= self.world.params.end_us:
            return
        cities = self.world.cities
        minor = float(cities.minor_per_unit[currency])
        rate = float(cities.per_euro[currency])
        amount_minor = round(euro * rate * minor)
        self.payments.append(
            {
                "amount_minor": amount_minor,
                "euro": amount_minor / minor / rate,
                "currency": currency,
                "pattern": pattern,
                "episode": episode,
                "keep": True,
                **columns,
            }
        )
        self.frauds += pattern != 0

    def device_event(self, **columns: float) -> None:
        """Add a device event, unless it falls behind the end."""
        if columns["time_us"] < self.world.params.end_us:
            self.devices.append(columns)

    def identity_event(self, time_us: int, account: int, kind: int) -> None:
        """Add an identity event, unless it falls behind the end."""
        if time_us < self.world.params.end_us:
            self.identities.append({"time_us": time_us, "account": account, "kind": kind})

    def block_later(self, device: int, time_us: int, chance: float) -> int:
        """The device may be blocked, days after; returns when, or -1."""
        if self.rng.random() >= chance:
            return -1
        blocked_us = time_us + int(self.rng.uniform(0.5, 6) * DAY_US)
        self.device_event(time_us=blocked_us, device=device, kind=BLOCKED)
        return blocked_us

    def moment(self, earliest: float = 0.02, latest: float = 0.97) -> int:
        """Some instant between two shares of the simulated time."""
        params = self.world.params
        return params.start_us + int(self.rng.uniform(earliest, latest) * params.days * DAY_US)

    def between(self, least: int, bound: int) -> int:
        """A whole number from `least` on, below `bound`."""
        return int(self.rng.integers(least, bound))

    def address(self) -> int:
        """An address of a rented server."""
        return _BENCHMARK_NET + int(self.rng.integers(1, 131_000))

    def victim(self) -> int:
        """A customer who holds an account throughout and has not been robbed yet, as long as there is one to be found.

        Robbed once: a card is replaced when its fraud is known, and who copied the old one could not go on using it.
        """
        customers, params = self.world.customers, self.world.params
        throughout = np.flatnonzero((customers.opened_us < params.start_us) & (customers.closed_us > params.end_us))
        for _ in range(200):
            who = int(throughout[self.between(0, len(throughout))])
            if self.rob(who):
                break
        return who

    def rob(self, who: int) -> bool:
        """Whether this is the customer's first time; from now on it is not."""
        first = who not in self.robbed
        self.robbed.add(who)
        return first

    def online_merchant(self, names: tuple[str, ...], skew: float = 2.2) -> Row:
        """Columns of an online merchant of one of the named categories: the popular ones more often, with a `skew`."""
        known = [index for index, category in enumerate(ONLINE) if category.name in names]
        kind = int(self.rng.choice(known))
        merchants = self.world.merchants
        merchant = int(merchants.online_start[kind] + merchants.online_count[kind] * self.rng.random() ** skew)
        return {
            "merchant": merchant,
            "terminal": merchant * TERMINALS_PER_MERCHANT,
            "mcc": ONLINE[kind].mcc,
            "channel": ECOMMERCE,
        }

    def disguise(self, home_city: int) -> Row:
        """Where fraudsters seem to be: through a proxy near the victim, nowhere, or openly far away."""
        cities = self.world.cities
        chance = self.rng.random()
        if chance < 0.4:
            return place_of(cities, home_city, self.rng, 25.0)
        if chance < 0.7:
            return {"country": int(cities.country[home_city])}
        return place_of(cities, far_city(cities, home_city, 1500.0, self.rng), self.rng, 25.0)

    def to_payee(self, payee: int) -> Row:
        """Columns of a transfer."""
        return {"payee": payee, "channel": TRANSFER}

    def rows(self) -> tuple[Rows, Rows, Rows]:
        """All payments, device events and identity events."""
        return (
            rows_of(PAYMENT, self.payments),
            rows_of(DEVICE_EVENT, self.devices),
            rows_of(IDENTITY_EVENT, self.identities),
        )


def place_of(cities: Cities, city: int, rng: Rng, accuracy_km: float) -> Row:
    """Columns of a device somewhere in a city, as located by its address."""
    return {
        "country": int(cities.country[city]),
        "latitude": float(cities.latitude[city] + rng.normal(0, 0.04)),
        "longitude": float(cities.longitude[city] + rng.normal(0, 0.04)),
        "accuracy_km": accuracy_km,
    }


def far_city(cities: Cities, city: int, at_least_km: float, rng: Rng) -> int:
    """A city at least so far from another, the large ones more often."""
    weight = np.where(cities.distance_km[city] >= at_least_km, np.sqrt(cities.population), 0.0)
    return int(rng.choice(len(weight), p=weight / weight.sum()))
