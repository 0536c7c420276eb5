"""All streams of one simulation: population → habits, returns → fraud → trimmed to size → sessions, outcomes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from load_tests.traffic.cities import load_cities
from load_tests.traffic.drift import apply_drift
from load_tests.traffic.fraud import make_fraud
from load_tests.traffic.habits import World, make_habits, make_recurring, make_returns
from load_tests.traffic.layout import (
    DEVICE_EVENT,
    IDENTITY_EVENT,
    OUTCOME,
    PAYMENT,
    Params,
    Rows,
    by_time,
    stack,
)
from load_tests.traffic.movement import make_trips
from load_tests.traffic.outcomes import make_outcomes, replace_cards
from load_tests.traffic.population import make_customers, make_merchants
from load_tests.traffic.sessions import make_device_events, make_identity_events


@dataclass(frozen=True, slots=True)
class Traffic:
    """Streams of a simulation, each by event time.

    Attributes:
        world: Who and where.
        payments: Rows of `layout.PAYMENT`.
        device_events: Rows of `layout.DEVICE_EVENT`.
        identity_events: Rows of `layout.IDENTITY_EVENT`.
        outcomes: Rows of `layout.OUTCOME`.
    """

    world: World
    payments: Rows
    device_events: Rows
    identity_events: Rows
    outcomes: Rows


def make_world(params: Params) -> World:
    """The part of a simulation that payments do not change."""
    cities = load_cities()
    customers = make_customers(params, cities, params.rng("customers"))
    merchants = make_merchants(cities, customers, params.rng("merchants"))
    return World(params, cities, customers, merchants, make_trips(params, cities, customers, params.rng("trips")))


def simulate(params: Params) -> Traffic:
    """Run a simulation.

    Raises:
        ValueError: So few customers cannot make so many payments without being in two places at once.
    """
    world = make_world(params)
    genuine = _genuine(world)
    if params.movement:
        payments = _trim(genuine, params)
        none = np.zeros(0, dtype=OUTCOME)
        return Traffic(world, payments, np.zeros(0, DEVICE_EVENT), np.zeros(0, IDENTITY_EVENT), none)
    frauds, fraud_devices, fraud_identities = make_fraud(world, genuine, params.rng("fraud")).rows()
    payments = apply_drift(_trim(by_time(stack(PAYMENT, [genuine, frauds])), params), params)
    own = payments[(payments["pattern"] == 0) & (payments["account"] < len(world.customers))]
    devices = make_device_events(world, own, params.rng("devices"))
    identities = make_identity_events(world, own, params.rng("identities"))
    outcomes = make_outcomes(payments, params.rng("outcomes"))
    return Traffic(
        world=world,
        payments=replace_cards(payments, outcomes),
        device_events=by_time(stack(DEVICE_EVENT, [devices, fraud_devices])),
        identity_events=by_time(stack(IDENTITY_EVENT, [identities, fraud_identities])),
        outcomes=outcomes,
    )


def _genuine(world: World) -> Rows:
    """Genuine payments by time, at least as many as asked for; what is too much is trimmed later."""
    params = world.params
    recurring = make_recurring(world, params.rng("recurring"))
    wanted = max(1, params.payments - len(recurring))
    for surplus in (1.0, 1.4, 2.0, 3.0):
        habits = make_habits(world, int(wanted * surplus), params.rng("habits"))
        returns = make_returns(world, habits, params.rng("returns"))
        rows = by_time(stack(PAYMENT, [habits, recurring, returns]))
        if len(rows) >= params.payments:
            return rows
    message = (
        f"{params.customer_count} customers make at most {len(rows)} plausible payments in {params.days} days, "
        f"{params.payments} were asked for: raise --customers or --days"
    )
    raise ValueError(message)


def _trim(rows: Rows, params: Params) -> Rows:
    """Exactly as many rows as asked for: some of those that nothing hangs on are left out."""
    spare = np.flatnonzero(~rows["keep"])
    excess = max(0, len(rows) - params.payments)
    dropped = params.rng("trim").choice(spare, min(excess, len(spare)), replace=False)
    return np.delete(rows, dropped)
