"""What becomes known, days later: chargebacks, reports, confirmations, and a few verdicts that are taken back."""

from __future__ import annotations

from typing import Final

import numpy as np

from load_tests.traffic.layout import (
    ANALYST,
    CHARGEBACK,
    CUSTOMER,
    DAY_US,
    OUTCOME,
    REFUND,
    REVERSAL,
    SCHEME_REPORT,
    TRANSFER,
    Rng,
    Rows,
    blank,
    by_time,
    stack,
)

NEVER_REPORTED: Final = 0.05
REPLACEMENT: Final = 200_000_000
"""Number of the card that replaces card c: c plus this."""

_MEDIAN_DAYS: Final = 6.0
_SPREAD: Final = 0.7  # of the logarithm


def make_outcomes(payments: Rows, rng: Rng) -> Rows:
    """Outcomes by time; `payment` is the row in `payments`.

    Frauds are reported 1 to 30 days later, log-normally, one in twenty never; those of nothing paid by the scheme or
    an analyst, since there is nothing to charge back. One genuine payment in a thousand is confirmed, one in ten
    thousand is charged back at first and found genuine ten days after.
    """
    frauds = np.flatnonzero(payments["pattern"] > 0)
    frauds = frauds[rng.random(len(frauds)) >= NEVER_REPORTED]
    reported = blank(OUTCOME, len(frauds))
    days = np.clip(rng.lognormal(np.log(_MEDIAN_DAYS), _SPREAD, len(frauds)), 1.0, 30.0)
    chance = rng.random(len(frauds))
    by_scheme = (chance < 0.12) | (payments["euro"][frauds] == 0)
    by_customer = payments["channel"][frauds] == TRANSFER
    reported["source"] = np.select(
        [by_scheme, chance < 0.18, by_customer], [SCHEME_REPORT, ANALYST, CUSTOMER], CHARGEBACK
    )
    reported["payment"], reported["label"] = frauds, 1
    reported["pattern"] = payments["pattern"][frauds]
    reported["time_us"] = payments["time_us"][frauds] + (days * DAY_US).astype(np.int64)

    genuine = np.flatnonzero((payments["pattern"] == 0) & (payments["payment_type"] == 0))
    draw = rng.random(len(genuine))
    sure = genuine[draw < 0.001]
    confirmed = blank(OUTCOME, len(sure))
    confirmed["payment"], confirmed["label"], confirmed["pattern"] = sure, 0, -1
    confirmed["source"] = np.where(rng.random(len(sure)) < 0.7, CUSTOMER, ANALYST)
    confirmed["time_us"] = payments["time_us"][sure] + (rng.uniform(0.05, 3, len(sure)) * DAY_US).astype(np.int64)

    disputed = genuine[draw > 0.9999]
    first = blank(OUTCOME, len(disputed))
    first["payment"], first["label"], first["source"], first["pattern"] = disputed, 1, CHARGEBACK, -1
    first["time_us"] = payments["time_us"][disputed] + (rng.uniform(2, 9, len(disputed)) * DAY_US).astype(np.int64)
    second = first.copy()
    second["label"], second["source"] = 0, ANALYST
    second["time_us"] += (rng.uniform(6, 12, len(disputed)) * DAY_US).astype(np.int64)
    return by_time(stack(OUTCOME, [reported, confirmed, first, second]))


def replace_cards(payments: Rows, outcomes: Rows) -> Rows:
    """Give everybody whose card was abused a new one once that is known: later payments carry the new card.

    Without it, honest payments of an abused card would go on for weeks, which no issuer lets happen. Refunds and
    reversals still go to the old card.
    """
    reports = outcomes[outcomes["pattern"] > 0]
    cards = payments["card"][reports["payment"]]
    known_us = dict(zip(cards[::-1].tolist(), reports["time_us"][::-1].tolist(), strict=True))  # the earliest stays
    known_us.pop(-1, None)
    reported = np.array(sorted(known_us), dtype=np.int64)
    if not len(reported):
        return payments
    since_us = np.array([known_us[card] for card in reported.tolist()])
    place = np.minimum(np.searchsorted(reported, payments["card"]), len(reported) - 1)
    own = (payments["pattern"] == 0) & ~np.isin(payments["payment_type"], (REFUND, REVERSAL))
    renewed = own & (reported[place] == payments["card"]) & (payments["time_us"] > since_us[place])
    payments = payments.copy()
    payments["card"][renewed] += REPLACEMENT
    return payments
