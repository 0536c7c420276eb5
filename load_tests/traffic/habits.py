"""What genuine customers do: they shop near home and work, order online, draw cash, send money, travel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from load_tests.traffic.categories import (
    CASH,
    ONLINE,
    SHOPS,
    SUBSCRIPTIONS,
    TRANSFERS,
    Category,
    day_profile,
    hour_profile,
)
from load_tests.traffic.cities import Cities, haversine_km
from load_tests.traffic.layout import (
    ATM,
    ATTEMPTED,
    AUTHENTICATED,
    CARD_PRESENT,
    CHIP,
    CONTACTLESS,
    DAY_US,
    ECOMMERCE,
    FAILED,
    FRICTIONLESS,
    HOUR_US,
    MAGSTRIPE,
    MINUTE_US,
    PAYMENT,
    REFUND,
    REVERSAL,
    TRANSFER,
    VERIFICATION,
    WALLET,
    Params,
    Rng,
    Rows,
    blank,
    pick_row,
    stack,
)
from load_tests.traffic.movement import AIRPORT, AT_HOME, AT_WORK, AWAY, NOWHERE, ON_ROAD, nearest_city, whereabouts
from load_tests.traffic.population import (
    CASH_INDEX,
    CASHED,
    NET,
    PAYEES,
    SENT,
    SHOP,
    Customers,
    Merchants,
    skewed,
)

ROADSIDE_BASE: Final = 10_000_000  # merchants along roads and at airports: this plus their cell of a tenth of a degree
TERMINALS_PER_MERCHANT: Final = 16
_ON_THE_WAY: Final = np.array([1, 2, 3, 5])  # convenience, restaurant, fast food, fuel
_ABROAD: Final = np.array([2, 2, 2, 3, 4, 7, 9, 11, 17, 17])  # restaurants, bars, taxis, hotels
_SPREE: Final = np.array([7, 10, 11])  # clothing, electronics, department stores
_HOTEL: Final = (10 << 24) + (3 << 22)

# Faster than this between two payments in person would not look like a human being in a town or on a road;
# planes are slower, door to door, than the second bound. Pairs beyond are thinned out.
_TOWN_KMH: Final = 100.0
_TOWN_KM: Final = 300.0
_FAR_KMH: Final = 850.0


@dataclass(frozen=True, slots=True)
class World:
    """All that does not change while payments happen."""

    params: Params
    cities: Cities
    customers: Customers
    merchants: Merchants
    trips: Rows


def make_habits(world: World, count: int, rng: Rng) -> Rows:
    """About `count` payments of everyday life, in no order; rather more than fewer."""
    draws = int(count * (1.16 if not world.params.movement else 1.3)) + 50
    customers = world.customers
    who = rng.choice(len(customers), draws, p=customers.activity / customers.activity.sum())
    way = pick_row(rng, customers.ways[who])
    shop_kind = pick_row(rng, customers.shop_taste[who])
    net_kind = pick_row(rng, customers.online_taste[who])
    time_us = np.zeros(draws, dtype=np.int64)
    for which, kinds, categories in ((SHOP, shop_kind, SHOPS), (NET, net_kind, ONLINE)):
        for index, category in enumerate(categories):
            at = np.flatnonzero((way == which) & (kinds == index))
            time_us[at] = _local_times(world, category, len(at), rng)
    for which, category in ((CASHED, CASH), (SENT, TRANSFERS)):
        at = np.flatnonzero(way == which)
        time_us[at] = _local_times(world, category, len(at), rng)
    time_us += customers.hour_shift_us[who]

    spree = np.flatnonzero((way == SHOP) & np.isin(shop_kind, _SPREE) & (rng.random(draws) < 0.05))
    more = np.repeat(spree, 3)
    gap_us = np.cumsum(rng.integers(8 * MINUTE_US, 35 * MINUTE_US, (len(spree), 3)), axis=1).ravel()
    who, way, net_kind = (np.concatenate([column, column[more]]) for column in (who, way, net_kind))
    shop_kind = np.concatenate([shop_kind, rng.choice(_SPREE, len(more))])
    time_us = np.concatenate([time_us, time_us[more] + gap_us])

    # Drawn as local time of home; who is away lives by the clock of the place.
    time_us -= world.cities.utc_offset_us[customers.city[who]]
    first = whereabouts(world.cities, customers, world.trips, who, time_us)
    abroad = (first.phase == AWAY) & (first.city >= 0)
    offsets = world.cities.utc_offset_us
    time_us += np.where(abroad, offsets[customers.city[who]] - offsets[np.maximum(first.city, 0)], 0)

    alive = (time_us >= np.maximum(customers.opened_us[who] + HOUR_US, world.params.start_us)) & (
        time_us < np.minimum(customers.closed_us[who], world.params.end_us)
    )
    who, way, shop_kind, net_kind, time_us = (column[alive] for column in (who, way, shop_kind, net_kind, time_us))
    rows = _place(world, who, way, shop_kind, net_kind, time_us, rng)
    rows = thin(rows, (CARD_PRESENT, ATM, WALLET))
    return thin(rows, (CARD_PRESENT, ATM, WALLET, ECOMMERCE, TRANSFER))


def make_recurring(world: World, rng: Rng) -> Rows:
    """Subscriptions and standing orders: no device, no address, no place, since the payer does nothing."""
    params, customers, merchants = world.params, world.customers, world.merchants
    n = len(customers)
    subscriber = np.repeat(np.arange(n), rng.poisson(1.6, n))
    renter = np.flatnonzero(rng.random(n) < 0.45)
    who = np.concatenate([subscriber, renter])
    kind = rng.integers(0, len(merchants.subscription_start), len(who))
    merchant = skewed(rng, merchants.subscription_start[kind], merchants.subscription_count[kind], 1.6)
    median = np.array([category.median_eur for category in SUBSCRIPTIONS])[kind]
    mcc = np.array([category.mcc for category in SUBSCRIPTIONS])[kind]
    euro = median * rng.lognormal(0, 0.3, len(who))
    rent = np.arange(len(who)) >= len(subscriber)
    euro = np.where(rent, rng.lognormal(np.log(620), 0.4, len(who)), euro)
    day = rng.integers(0, 30, len(who))
    second_us = rng.integers(2 * HOUR_US, 7 * HOUR_US, len(who))
    parts = []
    for month in range(params.days // 30 + 1):
        rows = blank(PAYMENT, len(who))
        rows["time_us"] = params.start_us + (day + 30 * month) * DAY_US + second_us
        rows["time_us"] += rng.integers(0, 10 * MINUTE_US, len(who))
        rows["account"] = who
        rows["card"] = np.where(rent, -1, 2 * who)
        rows["channel"] = np.where(rent, TRANSFER, ECOMMERCE)
        rows["merchant"] = np.where(rent, -1, merchant)
        rows["terminal"] = np.where(rent, -1, merchant * TERMINALS_PER_MERCHANT)
        rows["payee"] = np.where(rent, customers.payees[who, 0], -1)
        rows["mcc"] = np.where(rent, 0, mcc)
        rows["recurring"] = True
        rows["currency"] = customers.currency[who]
        set_amount(rows, world.cities, euro)
        inside = (rows["time_us"] < np.minimum(params.end_us, customers.closed_us[who])) & (
            rows["time_us"] > customers.opened_us[who] + DAY_US
        )
        parts.append(rows[inside])
    return stack(PAYMENT, parts)


def make_returns(world: World, rows: Rows, rng: Rng) -> Rows:
    """Refunds days later and reversals minutes later of some purchases; the merchant's doing, so without a place."""
    bought = rows[(rows["payment_type"] == 0) & ((rows["channel"] <= ECOMMERCE) | (rows["channel"] == WALLET))]
    chance = rng.random(len(bought))
    refunded = chance < np.where(bought["channel"] == ECOMMERCE, 0.03, 0.006)
    reversed_ = (chance > 0.997) & ~refunded
    back = bought[refunded | reversed_].copy()
    is_refund = refunded[refunded | reversed_]
    later_us = np.where(
        is_refund,
        np.clip(rng.lognormal(np.log(5), 0.6, len(back)), 0.5, 20) * DAY_US,
        rng.uniform(0.5, 30, len(back)) * MINUTE_US,
    )
    back["time_us"] += later_us.astype(np.int64)
    back["payment_type"] = np.where(is_refund, REFUND, REVERSAL)
    for name in ("device", "ip", "country", "entry", "three_ds"):
        back[name] = -1
    for name in ("latitude", "longitude", "accuracy_km"):
        back[name] = np.nan
    part = is_refund & (rng.random(len(back)) < 0.2)
    share = np.where(part, rng.uniform(0.2, 0.9, len(back)), 1.0)
    back["amount_minor"] = np.maximum(1, (back["amount_minor"] * share).astype(np.int64))
    back["euro"] *= share
    return np.asarray(back[back["time_us"] < world.params.end_us])


def set_amount(
    rows: Rows, cities: Cities, euro: NDArray[np.float64], *, endings: NDArray[np.float64] | None = None
) -> None:
    """Fill amounts worth about `euro` euros in the currency of each row; `endings` are draws for prices like 9.99."""
    currency = rows["currency"]
    minor = cities.minor_per_unit[currency]
    units = euro * cities.per_euro[currency]
    if endings is not None:
        units = np.select(
            [endings < 0.18, endings < 0.26, endings < 0.36],
            [np.floor(units) + 0.99, np.floor(units) + 0.5, np.maximum(np.round(units), 1.0)],
            units,
        )
    rows["amount_minor"] = np.maximum(1, np.round(units * minor)).astype(np.int64)
    rows["euro"] = rows["amount_minor"] / minor / cities.per_euro[currency]


def thin(rows: Rows, channels: tuple[int, ...]) -> Rows:
    """Drop payments that their payer could not reach in person after the one before, among those in `channels`."""
    located = np.flatnonzero(np.isin(rows["channel"], channels) & ~np.isnan(rows["latitude"]))
    order = located[np.lexsort((rows["time_us"][located], rows["account"][located]))]
    account, time_us = rows["account"][order], rows["time_us"][order]
    latitude, longitude = rows["latitude"][order], rows["longitude"][order]
    radius_km = np.nan_to_num(rows["accuracy_km"][order])
    kept = np.arange(len(order))
    while True:
        one, two = kept[:-1], kept[1:]
        apart_km = haversine_km(latitude[one], longitude[one], latitude[two], longitude[two])
        apart_km -= radius_km[one] + radius_km[two]
        hours = (time_us[two] - time_us[one]) / HOUR_US
        limit = np.where(apart_km > _TOWN_KM, _FAR_KMH, _TOWN_KMH)
        wrong = (account[one] == account[two]) & (apart_km > 0.2) & (apart_km > limit * hours)
        if not wrong.any():
            break
        # Of a run of wrong pairs only the first goes in one round: its successor may be fine without it.
        wrong[1:] &= ~wrong[:-1]
        kept = kept[np.concatenate([[True], ~wrong])]
    dropped = np.zeros(len(rows), dtype=np.bool_)
    dropped[np.delete(order, kept)] = True
    return np.asarray(rows[~dropped])


def _local_times(world: World, category: Category, count: int, rng: Rng) -> NDArray[np.int64]:
    """Instants by the clock and calendar of a home, µs; a day more at both ends, for all time zones."""
    days = np.arange(-1, world.params.days + 1)
    weight = day_profile(category.days)[(world.params.start_us // DAY_US + 3 + days) % 7]
    day = rng.choice(days, count, p=weight / weight.sum())
    hour = rng.choice(24, count, p=hour_profile(category.hours))
    within = rng.integers(0, HOUR_US, count)
    return np.asarray(world.params.start_us + day * DAY_US + hour * HOUR_US + within)


def _place(
    world: World,
    who: NDArray[np.int64],
    way: NDArray[np.int64],
    shop_kind: NDArray[np.int64],
    net_kind: NDArray[np.int64],
    time_us: NDArray[np.int64],
    rng: Rng,
) -> Rows:
    """Payments by what is wanted, when; the place, merchant, device and amount follow from where the payer is."""
    cities, customers, merchants = world.cities, world.customers, world.merchants
    where = whereabouts(cities, customers, world.trips, who, time_us)
    n = len(who)
    rows = blank(PAYMENT, n)
    rows["time_us"] = time_us
    rows["account"] = who
    second = (customers.cards[who] == 2) & (rng.random(n) < 0.3)
    rows["card"] = np.where(way == SENT, -1, 2 * who + second)

    # Places with a door.
    in_person = (way == SHOP) | (way == CASHED)
    roadside = in_person & ((where.phase == AIRPORT) | (where.phase == ON_ROAD) | (where.city < 0))
    kind = np.where(way == CASHED, CASH_INDEX, shop_kind)
    kind = np.where((way == SHOP) & (where.phase == AWAY) & (rng.random(n) < 0.5), rng.choice(_ABROAD, n), kind)
    kind = np.where(roadside, rng.choice(_ON_THE_WAY, n), kind)
    city = np.where(where.city >= 0, where.city, customers.city[who])
    merchant = skewed(rng, merchants.place_start[city, kind], merchants.place_count[city, kind], 1.8)
    at_home = (where.phase == AT_HOME) | (where.phase == AT_WORK)
    rank = np.where(where.phase == AT_WORK, 2, (rng.random(n) < 0.35).astype(np.int64))
    merchant = np.where(at_home & (rng.random(n) < 0.82), merchants.favourites[who, kind, rank], merchant)
    latitude, longitude = merchants.latitude[merchant], merchants.longitude[merchant]
    cell_lat, cell_lon = np.round(where.latitude * 10), np.round(where.longitude * 10)
    cell = (cell_lat + 900).astype(np.int64) * 3601 + (cell_lon + 1800).astype(np.int64)
    merchant = np.where(roadside, ROADSIDE_BASE + cell, merchant)
    latitude, longitude = np.where(roadside, cell_lat / 10, latitude), np.where(roadside, cell_lon / 10, longitude)
    terminals = np.where(roadside, 4, merchants.terminals[np.where(roadside, 0, merchant)])
    terminal = (terminals * rng.random(n)).astype(np.int64) % TERMINALS_PER_MERCHANT

    # Online and transfers.
    online = way == NET
    remote = online | (way == SENT)
    liked = rng.random((len(customers), len(ONLINE), 2))[who, net_kind, rng.integers(0, 2, n)]
    reach = np.where(rng.random(n) < 0.6, liked, rng.random(n)) ** 2.2
    shop_count = merchants.online_count[net_kind]
    web = merchants.online_start[net_kind] + np.minimum((shop_count * reach).astype(np.int64), shop_count - 1)
    rows["merchant"] = np.select([in_person, online], [merchant, web], -1)
    rows["terminal"] = np.select(
        [in_person, online], [merchant * TERMINALS_PER_MERCHANT + terminal, web * TERMINALS_PER_MERCHANT], -1
    )
    known = customers.payees[who, (PAYEES * rng.random(n) ** 2).astype(np.int64)]
    new_payee = rng.integers(0, int(customers.payees.max()) + 1, n)
    rows["payee"] = np.where(way == SENT, np.where(rng.random(n) < 0.04, new_payee, known), -1)

    # Devices, addresses and where the device thinks it is.
    phone = rng.random(n) < customers.wallet[who]
    wallet = (way == SHOP) & phone
    rows["channel"] = np.select(
        [wallet, way == SHOP, online, way == CASHED], [WALLET, CARD_PRESENT, ECOMMERCE, ATM], TRANSFER
    )
    rows["device"] = np.where(remote | wallet, device_of(customers, who, time_us, rng), -1)
    rows["ip"] = np.where(remote, address_of(customers, who, time_us, where.phase, where.city, rng), -1)
    radius = np.where(rng.random(n) < 0.7, rng.uniform(0.05, 2.0, n), rng.uniform(5.0, 25.0, n))
    share, bearing = 0.9 * np.sqrt(rng.random(n)), rng.uniform(0, 2 * np.pi, n)
    degree_km = 111.2
    device_lat = where.latitude + radius * share * np.cos(bearing) / degree_km
    device_lon = where.longitude + radius * share * np.sin(bearing) / degree_km / np.cos(np.radians(where.latitude))
    shared = remote & (rng.random(n) < 0.55)
    rows["latitude"] = np.select([in_person, shared], [latitude, device_lat], np.nan)
    rows["longitude"] = np.select([in_person, shared], [longitude, device_lon], np.nan)
    rows["accuracy_km"] = np.where(shared, radius, np.nan)
    unsure = np.flatnonzero((where.city < 0) | roadside)
    city[unsure] = nearest_city(cities, where.latitude[unsure], where.longitude[unsure])
    rows["country"] = cities.country[city]
    rows["currency"] = np.where(in_person, cities.currency_of_country[cities.country[city]], customers.currency[who])

    # Amounts.
    place_categories = (*SHOPS, CASH)
    medians = [np.array([c.median_eur for c in group]) for group in (place_categories, ONLINE)]
    sigmas = [np.array([c.sigma for c in group]) for group in (place_categories, ONLINE)]
    codes = [np.array([c.mcc for c in group]) for group in (place_categories, ONLINE)]
    median = np.select([in_person, online], [medians[0][kind], medians[1][net_kind]], TRANSFERS.median_eur)
    sigma = np.select([in_person, online], [sigmas[0][kind], sigmas[1][net_kind]], TRANSFERS.sigma)
    rows["mcc"] = np.select([in_person, online], [codes[0][kind], codes[1][net_kind]], 0)
    own_way = rng.lognormal(0, 0.25, (len(customers), len(place_categories)))[who, kind]
    euro = median * np.exp(sigma * rng.standard_normal(n)) * customers.spend[who] * own_way
    euro = np.clip(euro, 0.3, 9000.0)
    set_amount(rows, cities, euro, endings=rng.random(n))
    notes = (
        10.0 * 10.0 ** np.round(np.log10(cities.per_euro[rows["currency"]])) * cities.minor_per_unit[rows["currency"]]
    )
    cash = np.clip(np.round(rows["amount_minor"] / notes), 1, 50) * notes
    rows["amount_minor"] = np.where(way == CASHED, cash.astype(np.int64), rows["amount_minor"])
    verified = online & (rng.random(n) < 0.01)
    rows["payment_type"] = np.where(verified, VERIFICATION, 0)
    rows["amount_minor"] = np.where(verified, 0, rows["amount_minor"])
    rows["euro"] = rows["amount_minor"] / cities.minor_per_unit[rows["currency"]] / cities.per_euro[rows["currency"]]

    chance = rng.random(n)
    tap = wallet | (rows["euro"] < 50) & (chance < 0.85)
    rows["entry"] = np.select(
        [~in_person, way == CASHED, tap, chance > 0.992], [-1, CHIP, CONTACTLESS, MAGSTRIPE], CHIP
    )
    rows["three_ds"] = np.select(
        [~online, chance < 0.45, chance < 0.75, chance < 0.88, chance < 0.886],
        [-1, FRICTIONLESS, AUTHENTICATED, ATTEMPTED, FAILED],
        -1,
    )
    return np.asarray(rows[where.phase != NOWHERE])


def device_of(customers: Customers, who: NDArray[np.int64], time_us: NDArray[np.int64], rng: Rng) -> NDArray[np.int64]:
    """One of the payer's devices, mostly the first; device 4c + 3 has taken its place once the phone is new."""
    rank = (customers.devices[who] * rng.random(len(who)) ** 2).astype(np.int64)
    return 4 * who + np.where((rank == 0) & (time_us >= customers.new_phone_us[who]), 3, rank)


def address_of(
    customers: Customers,
    who: NDArray[np.int64],
    time_us: NDArray[np.int64],
    phase: NDArray[np.int8],
    city: NDArray[np.int64],
    rng: Rng,
) -> NDArray[np.int64]:
    """The address the payer's device comes from: home, a hotel's, or the carrier's gateway."""
    home = np.where(time_us >= customers.ip_changes_us[who], customers.next_ip[who], customers.home_ip[who])
    hotel = _HOTEL + np.maximum(city, 0) * 32 + rng.integers(0, 24, len(who))
    fixed = rng.random(len(who))
    return np.select(
        [(phase == AT_HOME) & (fixed < 0.75), (phase == AWAY) & (city >= 0) & (fixed < 0.4)],
        [home, hotel],
        customers.mobile_ip[who],
    )
