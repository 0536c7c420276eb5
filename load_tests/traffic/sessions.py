"""What genuine customers leave behind besides payments: logins, new phones, changed credentials, checks of identity."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from load_tests.traffic.habits import World, address_of, device_of
from load_tests.traffic.layout import (
    ADDRESS_CHANGED,
    BLOCKED,
    CLOSED,
    CREDENTIALS_CHANGED,
    DAY_US,
    DEVICE_EVENT,
    ECOMMERCE,
    FINGERPRINT_CHANGED,
    HIT_CLEARED,
    HOUR_US,
    IDENTITY_EVENT,
    KYC_FAILED,
    KYC_PASSED,
    LOGIN,
    LOGIN_FAILED,
    MFA_FAILED,
    MFA_PASSED,
    MINUTE_US,
    OPENED,
    PEP_HIT,
    ROOTED,
    SANCTIONS_HIT,
    SECOND_US,
    SEEN,
    TRANSFER,
    UNBLOCKED,
    Rng,
    Rows,
    blank,
    stack,
)
from load_tests.traffic.movement import whereabouts


def make_device_events(world: World, payments: Rows, rng: Rng) -> Rows:
    """Logins before transfers and some orders, idle logins, new phones, updates, a few rooted or lost devices."""
    params, customers = world.params, world.customers
    n = len(customers)
    acting = payments[(payments["device"] >= 0) & (payments["payment_type"] == 0)]
    chance = rng.random(len(acting))
    acting = acting[(acting["channel"] == TRANSFER) | ((acting["channel"] == ECOMMERCE) & (chance < 0.18))]
    logins = blank(DEVICE_EVENT, len(acting))
    for name in ("device", "account", "ip", "country", "latitude", "longitude"):
        logins[name] = acting[name]
    logins["kind"] = LOGIN
    logins["time_us"] = acting["time_us"] - rng.integers(20 * SECOND_US, 5 * MINUTE_US, len(acting))

    who = rng.integers(0, n, int(n * params.days * 0.04))
    idle = blank(DEVICE_EVENT, len(who))
    idle["time_us"] = params.start_us + rng.integers(0, params.days * DAY_US, len(who))
    where = whereabouts(world.cities, customers, world.trips, who, idle["time_us"])
    idle["account"], idle["kind"] = who, LOGIN
    idle["device"] = device_of(customers, who, idle["time_us"], rng)
    idle["ip"] = address_of(customers, who, idle["time_us"], where.phase, where.city, rng)
    city = np.where(where.city >= 0, where.city, customers.city[who])
    idle["country"] = world.cities.country[city]

    logins = stack(DEVICE_EVENT, [logins, idle])
    fumbled = logins[rng.random(len(logins)) < 0.04].copy()
    fumbled["kind"] = LOGIN_FAILED
    fumbled["time_us"] -= rng.integers(8 * SECOND_US, 70 * SECOND_US, len(fumbled))

    bought = np.flatnonzero(customers.new_phone_us < params.end_us)
    phones = _of_devices(world, 4 * bought + 3, SEEN, customers.new_phone_us[bought])
    first = _of_devices(world, 4 * bought + 3, LOGIN, customers.new_phone_us[bought] + 2 * MINUTE_US)
    devices = np.repeat(4 * np.arange(n), customers.devices) + _ranks(customers.devices)
    updated = rng.choice(devices, rng.poisson(len(devices) * params.days / 250))
    updates = _of_devices(world, updated, FINGERPRINT_CHANGED, _anytime(world, len(updated), rng))
    tinkered = devices[rng.random(len(devices)) < 0.012]
    rooted = _of_devices(world, tinkered, ROOTED, _anytime(world, len(tinkered), rng))
    lost = rng.choice(devices, max(1, n // 1000))
    lost_us = _anytime(world, len(lost), rng)
    blocked = _of_devices(world, lost, BLOCKED, lost_us)
    found = _of_devices(world, lost, UNBLOCKED, lost_us + DAY_US)
    rows = stack(DEVICE_EVENT, [logins, fumbled, phones, first, updates, rooted, blocked, found])
    return _inside(world, rows)


def make_identity_events(world: World, payments: Rows, rng: Rng) -> Rows:
    """A snapshot of who is known on the eve, then accounts opened and closed, hits, changes, second factors."""
    params, customers = world.params, world.customers
    n = len(customers)
    everybody = np.arange(n)
    new = customers.opened_us >= params.start_us
    known = everybody[~new]
    opened = everybody[new]
    checked_us = customers.opened_us[new] + (rng.lognormal(np.log(20), 0.7, len(opened)) * MINUTE_US).astype(np.int64)
    failed = rng.random(len(opened)) < 0.05
    changed = rng.integers(0, n, rng.poisson(n * params.days / 365 * 0.5))
    changed_us = _anytime(world, len(changed), rng)
    moved = rng.integers(0, n, rng.poisson(n * params.days / 365 * 0.12))
    listed = rng.integers(0, n, max(1, int(n * 0.0015)))
    listed_us = _anytime(world, len(listed), rng)
    cleared = rng.random(len(listed)) < 0.85
    exposed = rng.integers(0, n, max(1, int(n * 0.003)))
    exposed_us = _anytime(world, len(exposed), rng)
    phones = np.flatnonzero(customers.new_phone_us < params.end_us)
    closed = np.flatnonzero(customers.closed_us < params.end_us)
    asked = payments[
        (payments["channel"] == TRANSFER) & (payments["device"] >= 0) & (payments["euro"] > 300)
        & (rng.random(len(payments)) < 0.5)
    ]  # fmt: skip
    asked_us = asked["time_us"] - rng.integers(5 * SECOND_US, 18 * SECOND_US, len(asked))
    missed = rng.random(len(asked)) < 0.04
    rows = stack(
        IDENTITY_EVENT,
        [
            _identity(known, KYC_PASSED, params.start_us - rng.integers(HOUR_US, DAY_US, len(known))),
            _identity(opened, OPENED, customers.opened_us[new]),
            _identity(opened[failed], KYC_FAILED, customers.opened_us[new][failed] + 4 * MINUTE_US),
            _identity(opened, KYC_PASSED, np.minimum(checked_us, customers.opened_us[new] + HOUR_US) + 5 * MINUTE_US),
            _identity(changed, CREDENTIALS_CHANGED, changed_us),
            _identity(changed, MFA_PASSED, changed_us - 40 * SECOND_US),
            _identity(moved, ADDRESS_CHANGED, _anytime(world, len(moved), rng)),
            _identity(listed, SANCTIONS_HIT, listed_us),
            _identity(listed[cleared], HIT_CLEARED, listed_us[cleared] + 2 * DAY_US),
            _identity(exposed, PEP_HIT, exposed_us),
            _identity(exposed, HIT_CLEARED, exposed_us + DAY_US),
            _identity(phones, MFA_PASSED, customers.new_phone_us[phones] + MINUTE_US),
            _identity(closed, CLOSED, customers.closed_us[closed] + HOUR_US),
            _identity(asked["account"], MFA_PASSED, asked_us),
            _identity(asked["account"][missed], MFA_FAILED, asked_us[missed] - 20 * SECOND_US),
        ],
    )
    return _inside(world, rows)


def _identity(account: NDArray[np.int64], kind: int, time_us: NDArray[np.int64]) -> Rows:
    rows = blank(IDENTITY_EVENT, len(account))
    rows["account"], rows["kind"], rows["time_us"] = account, kind, time_us
    return rows


def _of_devices(world: World, device: NDArray[np.int64], kind: int, time_us: NDArray[np.int64]) -> Rows:
    rows = blank(DEVICE_EVENT, len(device))
    rows["device"], rows["account"], rows["kind"], rows["time_us"] = device, device // 4, kind, time_us
    if kind == LOGIN:
        rows["ip"] = world.customers.home_ip[device // 4]
    return rows


def _ranks(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 to count - 1 for each count, one behind the other."""
    return np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)


def _anytime(world: World, count: int, rng: Rng) -> NDArray[np.int64]:
    return np.asarray(world.params.start_us + rng.integers(0, world.params.days * DAY_US, count))


def _inside(world: World, rows: Rows) -> Rows:
    """Rows before the end, and not before their account was opened."""
    own = np.clip(rows["account"], 0, None)
    alive = rows["time_us"] >= world.customers.opened_us[own]
    return np.asarray(rows[(rows["time_us"] < world.params.end_us) & (alive | (rows["account"] < 0))])
