"""Traffic that changes on a known day: other amounts, other crimes, or a field that is no longer sent.

- amounts: everybody pays more from that day on, by a factor; as after a change of prices, or of a sender's unit;
- patterns: some crimes are committed before that day only, others from that day on only;
- missing: half of the ecommerce payments no longer say their merchant category.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from load_tests.traffic.layout import (
    ACCOUNT_TAKEOVER,
    BUST_OUT,
    CARD_TESTING,
    DAY_US,
    ECOMMERCE,
    IMPOSSIBLE_TRAVEL,
    MERCHANT_COMPROMISE,
    Params,
    Rows,
)

KINDS: Final = ("amounts", "patterns", "missing")
FACTOR: Final = 1.6
"""Of the amounts: a shift of half a standard deviation of their logarithm."""
_BEFORE: Final = (CARD_TESTING, IMPOSSIBLE_TRAVEL)
_AFTER: Final = (ACCOUNT_TAKEOVER, MERCHANT_COMPROMISE, BUST_OUT)


def apply_drift(payments: Rows, params: Params) -> Rows:
    """The payments as they are with the drift of `params`; without one, the very same rows."""
    if params.drift is None:
        return payments
    rng = params.rng("drift")
    after = payments["time_us"] >= params.start_us + params.drift_day * DAY_US
    if params.drift == "patterns":
        gone = np.where(after, np.isin(payments["pattern"], _BEFORE), np.isin(payments["pattern"], _AFTER))
        return payments[~gone]
    changed = payments.copy()
    if params.drift == "amounts":
        changed["amount_minor"][after] = np.round(changed["amount_minor"][after] * FACTOR)
        changed["euro"][after] *= FACTOR
    else:
        lost = after & (changed["channel"] == ECOMMERCE) & (rng.random(len(changed)) < 0.5)
        changed["mcc"][lost] = 0
    return changed
