"""Seven ways to steal.

Card testing, account takeover, impossible travel, merchant compromise and payee scam stand here; bust-out and device
farm, which open accounts of their own, in `fraud_accounts`.

Every pattern invents episodes until its share of the frauds is used up; an episode is one crime, whose payments are
stopped early or late. Sizes shrink with the budget, so that a small simulation still has an episode of each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from load_tests.traffic.cities import haversine_km
from load_tests.traffic.fraud_accounts import bust_out, device_farm
from load_tests.traffic.habits import TERMINALS_PER_MERCHANT, World
from load_tests.traffic.layout import (
    ACCOUNT_TAKEOVER,
    ATM,
    CARD_PRESENT,
    CARD_TESTING,
    CREDENTIALS_CHANGED,
    DAY_US,
    EMULATOR_DETECTED,
    FRICTIONLESS,
    HOUR_US,
    IMPOSSIBLE_TRAVEL,
    LOGIN,
    LOGIN_FAILED,
    MAGSTRIPE,
    MERCHANT_COMPROMISE,
    MFA_FAILED,
    MFA_PASSED,
    MINUTE_US,
    PAYEE_SCAM,
    ROOTED,
    SECOND_US,
    VERIFICATION,
    Fresh,
    Rng,
    Row,
    Rows,
)
from load_tests.traffic.population import CASH_INDEX, PLACES
from load_tests.traffic.scene import Scene, far_city

_LOOT: Final = ("electronics_online", "travel_agency", "airline", "digital_goods", "fashion")
_CHEAP: Final = ("digital_goods", "books", "tickets")
_CLONED: Final = np.array([0, 5, 7, 10, 16, CASH_INDEX, CASH_INDEX])  # groceries, fuel, clothing, electronics, cash

Pattern = Callable[[Scene, int], None]


def make_fraud(world: World, genuine: Rows, rng: Rng) -> Scene:
    """Invent all fraud: about `fraud_share` of the payments; `genuine` is sorted by time, some rows get `keep`."""
    scene = Scene(world, genuine, Fresh(len(world.customers)), rng)
    budget = world.params.payments * world.params.fraud_share
    for pattern, share in PATTERN_SHARES:
        target = scene.frauds + round(budget * share)
        barren = 0  # an episode may come to nothing: too late in the simulation, nobody left to rob
        while scene.frauds < target and barren < 20:
            before = scene.frauds
            pattern(scene, target - scene.frauds)
            barren += scene.frauds == before
    return scene


def card_testing(scene: Scene, budget: int) -> None:
    """Stolen cards are tried one by one at one merchant with nothing or small change; some are then used."""
    rng, world = scene.rng, scene.world
    episode = scene.fresh.episode()
    cards = min(scene.between(20, 70), max(12, budget * 4 // 5))
    merchant = scene.online_merchant(_CHEAP, skew=1.0)
    device = scene.fresh.device() if rng.random() < 0.7 else -1
    addresses = [scene.address() for _ in range(scene.between(1, 4))]
    time_us = scene.moment(0.02, 0.95)
    victims = [scene.victim() for _ in range(cards)]
    seems = scene.disguise(int(world.customers.city[victims[0]]))
    if device >= 0 and rng.random() < 0.4:
        scene.device_event(time_us=time_us - HOUR_US, device=device, kind=EMULATOR_DETECTED)
    for who in victims:
        time_us += int(min(rng.exponential(25), 120) * SECOND_US) + 2 * SECOND_US
        checked = rng.random() < 0.5
        card = 2 * who + int(rng.integers(0, world.customers.cards[who]))
        common: Row = {"account": who, "card": card, **seems}
        currency = int(world.customers.currency[who])
        scene.pay(
            0.0 if checked else float(rng.uniform(0.5, 2.9)), currency, CARD_TESTING, episode,
            time_us=time_us, payment_type=VERIFICATION if checked else 0, device=device,
            ip=addresses[int(rng.integers(0, len(addresses)))], **merchant, **common,
        )  # fmt: skip
        if rng.random() < 0.22:
            scene.pay(
                float(rng.uniform(150, 900)), currency, CARD_TESTING, episode,
                time_us=time_us + int(rng.uniform(0.5, 48) * HOUR_US), device=scene.fresh.device(),
                ip=scene.address(), **scene.online_merchant(_LOOT), **common,
            )  # fmt: skip
    if device >= 0:
        scene.block_later(device, time_us, 0.3)


def account_takeover(scene: Scene, budget: int) -> None:
    """Passwords are guessed on a new device, credentials changed, the account emptied within two hours."""
    rng, world = scene.rng, scene.world
    who, episode, device, ip = scene.victim(), scene.fresh.episode(), scene.fresh.device(), scene.address()
    currency = int(world.customers.currency[who])
    seems = scene.disguise(int(world.customers.city[who]))
    located = {name: value for name, value in seems.items() if name != "accuracy_km"}
    time_us = scene.moment()
    for _ in range(scene.between(2, 8)):
        scene.device_event(time_us=time_us, device=device, account=who, kind=LOGIN_FAILED, ip=ip, **located)
        time_us += int(rng.uniform(6, 90) * SECOND_US)
    scene.device_event(time_us=time_us, device=device, account=who, kind=LOGIN, ip=ip, **located)
    if rng.random() < 0.25:
        scene.device_event(time_us=time_us + SECOND_US, device=device, account=who, kind=ROOTED, ip=ip)
    if rng.random() < 0.4:
        scene.identity_event(time_us + 30 * SECOND_US, who, MFA_FAILED)
    time_us += int(rng.uniform(1, 6) * MINUTE_US)
    scene.identity_event(time_us - 20 * SECOND_US, who, MFA_PASSED)
    scene.identity_event(time_us, who, CREDENTIALS_CHANGED)
    mules = [scene.fresh.payee() for _ in range(scene.between(1, 3))]
    for _ in range(min(scene.between(2, 7), max(2, budget))):
        time_us += int(rng.uniform(2, 25) * MINUTE_US)
        if rng.random() < 0.65:
            how, euro = scene.to_payee(mules[int(rng.integers(0, len(mules)))]), float(rng.uniform(700, 4500))
        else:
            how, euro = scene.online_merchant(_LOOT), float(rng.uniform(150, 1500))
            how["card"] = 2 * who
        scene.pay(
            euro,
            currency,
            ACCOUNT_TAKEOVER,
            episode,
            time_us=time_us,
            account=who,
            device=device,
            ip=ip,
            **how,
            **seems,
        )
    scene.block_later(device, time_us, 0.5)


def impossible_travel(scene: Scene, budget: int) -> None:
    """A copy of the magnetic stripe pays far away, sooner than its owner could get there."""
    rng, world, genuine = scene.rng, scene.world, scene.genuine
    cities, customers, merchants = world.cities, world.customers, world.merchants
    candidates = np.flatnonzero(
        (genuine["channel"] == CARD_PRESENT) & ~genuine["keep"] & ~np.isnan(genuine["latitude"])
    )
    if not len(candidates):
        return
    for _ in range(200):
        anchor = genuine[int(rng.choice(candidates))]
        who = int(anchor["account"])
        home = int(customers.city[who])
        if int(anchor["country"]) == int(cities.country[home]) and scene.rob(who):
            break
    city = far_city(cities, home, 2500.0, rng)
    currency = int(cities.currency_of_country[cities.country[city]])
    episode = scene.fresh.episode()
    gap_us = 0
    for turn in range(min(scene.between(1, 6), max(1, budget))):
        kind = int(rng.choice(_CLONED))
        merchant = int(merchants.place_start[city, kind] + rng.integers(0, merchants.place_count[city, kind]))
        apart_km = float(
            haversine_km(
                float(anchor["latitude"]), float(anchor["longitude"]),
                float(merchants.latitude[merchant]), float(merchants.longitude[merchant]),
            )
        )  # fmt: skip
        if turn == 0:
            gap_us = int(apart_km / rng.uniform(1500, 8000) * HOUR_US)
        else:
            gap_us += int(rng.uniform(6, 45) * MINUTE_US)
        terminal = int(rng.integers(0, merchants.terminals[merchant])) % TERMINALS_PER_MERCHANT
        euro = float(np.clip(rng.lognormal(np.log(180), 0.7), 20, 1500))
        scene.pay(
            round(euro / 10) * 10.0 if kind == CASH_INDEX else euro, currency, IMPOSSIBLE_TRAVEL, episode,
            time_us=int(anchor["time_us"]) + gap_us, account=who, card=int(anchor["card"]),
            channel=ATM if kind == CASH_INDEX else CARD_PRESENT, merchant=merchant,
            terminal=merchant * TERMINALS_PER_MERCHANT + terminal, mcc=PLACES[kind].mcc, entry=MAGSTRIPE,
            country=int(cities.country[city]), latitude=float(merchants.latitude[merchant]),
            longitude=float(merchants.longitude[merchant]),
        )  # fmt: skip
    anchor["keep"] = True


def merchant_compromise(scene: Scene, budget: int) -> None:
    """A shop's terminals leak cards for a week; days later they are used online from many devices."""
    rng, world, genuine = scene.rng, scene.world, scene.genuine
    begin_us = scene.moment(0.03, 0.55)
    until_us = begin_us + min(8, max(2, world.params.days // 6)) * DAY_US
    inside = genuine[(genuine["time_us"] >= begin_us) & (genuine["time_us"] < until_us)]
    inside = inside[(inside["channel"] == CARD_PRESENT) & (inside["card"] >= 0)]
    if not len(inside):
        return
    # A merchant with many customers that week: the one of the busiest of a few payments picked by chance.
    names, visits = np.unique(inside["merchant"], return_counts=True)
    tries = inside["merchant"][rng.integers(0, len(inside), 8)]
    merchant = max(tries.tolist(), key=lambda name: (int(visits[np.searchsorted(names, name)]), name))
    cards = np.unique(inside["card"][inside["merchant"] == merchant])
    genuine["keep"][np.isin(genuine["card"], cards) & (genuine["merchant"] == merchant)] = True
    episode = scene.fresh.episode()
    devices = [scene.fresh.device() for _ in range(6)]
    spent = 0
    for card in rng.permutation(cards).tolist():
        if spent >= min(budget, 60):
            break
        who = card // 2
        if not scene.rob(who):
            continue
        seems = scene.disguise(int(world.customers.city[who]))
        time_us = until_us + int(rng.uniform(0.5, 14) * DAY_US)
        for _ in range(scene.between(1, 4)):
            scene.pay(
                float(np.clip(rng.lognormal(np.log(140), 0.8), 15, 1200)), int(world.customers.currency[who]),
                MERCHANT_COMPROMISE, episode, time_us=time_us, account=who, card=card, ip=scene.address(),
                device=devices[int(rng.integers(0, len(devices)))],
                three_ds=FRICTIONLESS if rng.random() < 0.3 else -1,
                **scene.online_merchant((*_LOOT, "marketplace")), **seems,
            )  # fmt: skip
            spent += 1
            time_us += int(rng.uniform(2, 90) * MINUTE_US)


def payee_scam(scene: Scene, budget: int) -> None:
    """Customers are talked into sending money to one payee, from their own devices, over a few days."""
    rng, world = scene.rng, scene.world
    customers, cities = world.customers, world.cities
    episode, payee = scene.fresh.episode(), scene.fresh.payee()
    begin_us = scene.moment(0.02, 0.93)
    for _ in range(min(scene.between(5, 15), max(4, budget))):
        who = scene.victim()
        device, ip = 4 * who, int(customers.home_ip[who])
        country = int(cities.country[customers.city[who]])
        time_us = begin_us + int(rng.uniform(0, 3.5) * DAY_US)
        scene.device_event(
            time_us=time_us - 3 * MINUTE_US, device=device, account=who, kind=LOGIN, ip=ip, country=country
        )
        for _ in range(2 if rng.random() < 0.3 else 1):
            if rng.random() < 0.6:
                scene.identity_event(time_us - 12 * SECOND_US, who, MFA_PASSED)
            scene.pay(
                float(np.clip(rng.lognormal(np.log(1700), 0.6), 250, 9000)), int(customers.currency[who]),
                PAYEE_SCAM, episode, time_us=time_us, account=who, device=device, ip=ip, country=country,
                **scene.to_payee(payee),
            )  # fmt: skip
            time_us += int(rng.uniform(5, 60) * MINUTE_US)


PATTERN_SHARES: Final[tuple[tuple[Pattern, float], ...]] = (
    (card_testing, 0.27),
    (account_takeover, 0.13),
    (impossible_travel, 0.13),
    (merchant_compromise, 0.20),
    (bust_out, 0.09),
    (payee_scam, 0.09),
    (device_farm, 0.09),
)
