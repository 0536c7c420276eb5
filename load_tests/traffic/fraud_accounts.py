"""Fraud with accounts made for it: bust-outs and device farms."""

from __future__ import annotations

from typing import Final

import numpy as np

from load_tests.traffic.categories import SHOPS
from load_tests.traffic.habits import TERMINALS_PER_MERCHANT
from load_tests.traffic.layout import (
    ATM,
    BUST_OUT,
    CARD_PRESENT,
    CHIP,
    CONTACTLESS,
    DAY_US,
    DEVICE_FARM,
    EMULATOR_DETECTED,
    GENUINE,
    HOUR_US,
    KYC_PASSED,
    LOGIN,
    MINUTE_US,
    OPENED,
    ROOTED,
    SECOND_US,
    VERIFICATION,
    Row,
)
from load_tests.traffic.population import CASH_INDEX, PLACES
from load_tests.traffic.scene import Scene, place_of

_EVERYDAY: Final = np.array([0, 1, 2, 3, 5, 6])
_DEAR: Final = np.array([7, 10, 10, 16, CASH_INDEX])
_FARMED: Final = ("marketplace", "food_delivery", "tickets", "digital_goods", "fashion")


def bust_out(scene: Scene, budget: int) -> None:
    """An account opened for it behaves well for weeks, then spends all it can in a day or two.

    The payments of the good weeks are genuine in the truth: nobody ever disputes them.
    """
    rng, world = scene.rng, scene.world
    cities = world.cities
    account, episode, device = scene.fresh.account(), scene.fresh.episode(), scene.fresh.device()
    city = int(rng.choice(len(cities.names), p=cities.home_weight))
    currency = int(cities.currency_of_country[cities.country[city]])
    ip = scene.address()
    opened_us = scene.moment(0.02, 0.55)
    scene.identity_event(opened_us, account, OPENED)
    scene.identity_event(opened_us + 25 * MINUTE_US, account, KYC_PASSED)
    good_days = float(min(rng.uniform(12, 25), world.params.days * 0.35))
    visits = scene.between(8, 18)
    for turn in range(visits):
        # One a slot, in its first half: never two so close that their places could contradict each other.
        time_us = opened_us + int((turn + rng.uniform(0.1, 0.5)) / visits * good_days * DAY_US) + HOUR_US
        kind = int(rng.choice(_EVERYDAY))
        scene.pay(
            float(np.clip(rng.lognormal(np.log(SHOPS[kind].median_eur), 0.5), 2, 120)), currency, GENUINE, -1,
            time_us=time_us, account=account, card=2 * account, channel=CARD_PRESENT, entry=CONTACTLESS,
            **_shop(scene, city, kind),
        )  # fmt: skip
    time_us = opened_us + int(good_days * DAY_US) + 6 * HOUR_US
    for _ in range(min(scene.between(8, 20), max(6, budget))):
        time_us += int(rng.uniform(20, 150) * MINUTE_US)
        chance = rng.random()
        euro = float(np.clip(rng.lognormal(np.log(420), 0.6), 120, 2500))
        if chance < 0.55:
            kind = int(rng.choice(_DEAR))
            how = _shop(scene, city, kind)
            how["channel"] = ATM if kind == CASH_INDEX else CARD_PRESENT
            how["entry"] = CHIP
            euro = min(500.0, round(euro / 10) * 10.0) if kind == CASH_INDEX else euro
        elif chance < 0.9:
            how = scene.online_merchant(("electronics_online", "travel_agency", "marketplace"))
            how |= {"device": device, "ip": ip, **place_of(cities, city, rng, 10.0)}
        else:
            how = {**scene.to_payee(scene.fresh.payee()), "device": device, "ip": ip}
            how["country"] = int(cities.country[city])
        if "payee" not in how:
            how["card"] = 2 * account
        scene.pay(euro, currency, BUST_OUT, episode, time_us=time_us, account=account, **how)


def device_farm(scene: Scene, budget: int) -> None:
    """Dozens of accounts opened within days are all used from one device, a few purchases each."""
    rng, world = scene.rng, scene.world
    cities = world.cities
    episode, device = scene.fresh.episode(), scene.fresh.device()
    city = int(rng.choice(len(cities.names), p=cities.home_weight))
    currency = int(cities.currency_of_country[cities.country[city]])
    addresses = [scene.address() for _ in range(scene.between(1, 4))]
    begin_us = scene.moment(0.05, 0.88)
    if rng.random() < 0.6:
        kind = EMULATOR_DETECTED if rng.random() < 0.5 else ROOTED
        scene.device_event(time_us=begin_us - DAY_US, device=device, kind=kind)
    accounts = min(scene.between(10, 30), max(8, budget // 2))
    last_us = begin_us
    for _ in range(accounts):
        account = scene.fresh.account()
        opened_us = begin_us - int(rng.uniform(2, 72) * HOUR_US)
        scene.identity_event(opened_us, account, OPENED)
        scene.identity_event(opened_us + 12 * MINUTE_US, account, KYC_PASSED)
        time_us = begin_us + int(rng.uniform(0, 36) * HOUR_US)
        ip = addresses[int(rng.integers(0, len(addresses)))]
        seen: Row = {"device": device, "account": account, "ip": ip, "country": int(cities.country[city])}
        scene.device_event(time_us=time_us - 90 * SECOND_US, kind=LOGIN, **seen)
        for turn in range(scene.between(1, 4)):
            tried = turn == 0 and rng.random() < 0.2
            scene.pay(
                0.0 if tried else float(rng.uniform(18, 160)), currency, DEVICE_FARM, episode, time_us=time_us,
                card=2 * account, payment_type=VERIFICATION if tried else 0, **seen, **scene.online_merchant(_FARMED),
            )  # fmt: skip
            time_us += int(rng.uniform(2, 40) * MINUTE_US)
        last_us = max(last_us, time_us)
    blocked_us = scene.block_later(device, last_us, 0.6)
    if blocked_us > 0:
        for _ in range(scene.between(2, 5)):
            account = scene.fresh.account()
            scene.identity_event(blocked_us - 5 * HOUR_US, account, OPENED)
            scene.pay(
                float(rng.uniform(30, 200)), currency, DEVICE_FARM, episode,
                time_us=blocked_us + int(rng.uniform(1, 300) * MINUTE_US), account=account, card=2 * account,
                device=device, ip=addresses[0], country=int(cities.country[city]), **scene.online_merchant(_FARMED),
            )  # fmt: skip


def _shop(scene: Scene, city: int, kind: int) -> Row:
    """Columns of a place with a door in a city."""
    merchants, cities = scene.world.merchants, scene.world.cities
    merchant = int(merchants.place_start[city, kind] + scene.rng.integers(0, merchants.place_count[city, kind]))
    terminal = int(scene.rng.integers(0, merchants.terminals[merchant])) % TERMINALS_PER_MERCHANT
    return {
        "merchant": merchant,
        "terminal": merchant * TERMINALS_PER_MERCHANT + terminal,
        "mcc": PLACES[kind].mcc,
        "country": int(cities.country[city]),
        "latitude": float(merchants.latitude[merchant]),
        "longitude": float(merchants.longitude[merchant]),
    }
