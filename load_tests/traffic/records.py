"""Rows as the contracts' fields: columns of plain Python values, None where there is nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from load_tests.traffic.layout import (
    CHANNELS,
    DEVICE_KINDS,
    ENTRY_MODES,
    IDENTITY_KINDS,
    LABELS,
    PATTERNS,
    PAYMENT_TYPES,
    SOURCES,
    THREE_DS,
)
from load_tests.traffic.names import addresses, identifiers, trial_pan
from load_tests.traffic.simulate import Traffic

Columns = dict[str, list[Any]]


def payment_columns(traffic: Traffic) -> Columns:
    """Fields of contract `transaction`; `event_time` in µs."""
    params, cities, rows = traffic.world.params, traffic.world.cities, traffic.payments
    seed = params.seed
    raw, bins, last4 = _cards(rows["card"], 4 if params.pans else 0)
    card_ids = identifiers("crd", seed, rows["card"])
    if params.pans:
        card_ids = [None if pan else card for pan, card in zip(raw, card_ids, strict=True)]
    return {
        "transaction_id": [f"tx-{number:09d}" for number in range(len(rows))],
        "event_time": rows["time_us"].tolist(),
        "account_id": identifiers("acc", seed, rows["account"]),
        "card_id": card_ids,
        "pan": raw,
        "bin": bins,
        "last4": last4,
        "device_id": identifiers("dev", seed, rows["device"]),
        "ip": addresses(rows["ip"]),
        "merchant_id": identifiers("mer", seed, rows["merchant"]),
        "terminal_id": identifiers("trm", seed, rows["terminal"]),
        "counterparty_id": identifiers("pay", seed, rows["payee"]),
        "mcc": [f"{code:04d}" if code else None for code in rows["mcc"].tolist()],
        "channel": _words(rows["channel"], CHANNELS),
        "payment_type": _words(rows["payment_type"], PAYMENT_TYPES),
        "amount_minor": rows["amount_minor"].tolist(),
        "currency": _words(rows["currency"], cities.currencies),
        "country": _words(rows["country"], cities.countries),
        "latitude": _numbers(rows["latitude"], 5),
        "longitude": _numbers(rows["longitude"], 5),
        "location_accuracy_km": _numbers(rows["accuracy_km"], 2),
        "entry_mode": _words(rows["entry"], ENTRY_MODES),
        "three_ds_result": _words(rows["three_ds"], THREE_DS),
        "recurring": [flag or None for flag in rows["recurring"].tolist()],
    }


def device_event_columns(traffic: Traffic) -> Columns:
    """Fields of contract `device_event`."""
    seed, cities, rows = traffic.world.params.seed, traffic.world.cities, traffic.device_events
    return {
        "event_id": [f"de-{number:09d}" for number in range(len(rows))],
        "event_time": rows["time_us"].tolist(),
        "device_id": identifiers("dev", seed, rows["device"]),
        "account_id": identifiers("acc", seed, rows["account"]),
        "kind": _words(rows["kind"], DEVICE_KINDS),
        "ip": addresses(rows["ip"]),
        "country": _words(rows["country"], cities.countries),
        "latitude": _numbers(rows["latitude"], 5),
        "longitude": _numbers(rows["longitude"], 5),
    }


def identity_event_columns(traffic: Traffic) -> Columns:
    """Fields of contract `identity_event`."""
    rows = traffic.identity_events
    return {
        "event_id": [f"ie-{number:09d}" for number in range(len(rows))],
        "event_time": rows["time_us"].tolist(),
        "account_id": identifiers("acc", traffic.world.params.seed, rows["account"]),
        "kind": _words(rows["kind"], IDENTITY_KINDS),
    }


def outcome_columns(traffic: Traffic) -> Columns:
    """Fields of contract `outcome`."""
    rows = traffic.outcomes
    return {
        "outcome_id": [f"oc-{number:09d}" for number in range(len(rows))],
        "event_time": rows["time_us"].tolist(),
        "transaction_id": [f"tx-{number:09d}" for number in rows["payment"].tolist()],
        "label": _words(rows["label"], LABELS),
        "source": _words(rows["source"], SOURCES),
        "fraud_type": _words(rows["pattern"], PATTERNS),
    }


def truth_columns(traffic: Traffic) -> Columns:
    """What every payment really is: `pattern` and `episode` for frauds, `amount_eur` at the generator's rough rates."""
    rows = traffic.payments
    fraud = rows["pattern"] > 0
    return {
        "transaction_id": [f"tx-{number:09d}" for number in range(len(rows))],
        "fraud": fraud.tolist(),
        "pattern": [PATTERNS[code] if code else None for code in rows["pattern"].tolist()],
        "episode": [number if number >= 0 else None for number in rows["episode"].tolist()],
        "amount_eur": np.round(rows["euro"], 2).tolist(),
    }


def _words(codes: NDArray[np.integer[Any]], words: tuple[str, ...]) -> list[str | None]:
    """Words by their codes, None for -1."""
    table: tuple[str | None, ...] = (*words, None)
    return [table[code] for code in codes.tolist()]


def _numbers(values: NDArray[np.float64], digits: int) -> list[float | None]:
    """Rounded numbers, None for NaN."""
    missing = np.isnan(values).tolist()
    return [None if gone else value for value, gone in zip(np.round(values, digits).tolist(), missing, strict=True)]


def _cards(cards: NDArray[np.int32], raw_every: int) -> tuple[list[str | None], list[str | None], list[str | None]]:
    """Raw card number of every `raw_every`-th account's cards (none for 0), beginning and last four of the others."""
    distinct, at = np.unique(cards, return_inverse=True)
    raw: list[str | None] = []
    bins: list[str | None] = []
    last4: list[str | None] = []
    for card in distinct.tolist():
        pan = trial_pan(card) if card >= 0 else None
        in_the_clear = pan is not None and raw_every > 0 and card // 2 % raw_every == 0
        raw.append(pan if in_the_clear else None)
        bins.append(pan[:6] if pan and not in_the_clear else None)
        last4.append(pan[-4:] if pan and not in_the_clear else None)
    places = at.ravel().tolist()
    return [raw[p] for p in places], [bins[p] for p in places], [last4[p] for p in places]
