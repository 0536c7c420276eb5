"""Traffic that changes on a known day, and on that day only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from load_tests.generate import generate
from load_tests.traffic.drift import FACTOR
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
from load_tests.traffic.simulate import simulate

PLAIN = Params(payments=6_000, days=24, seed=3, fraud_share=0.03)


@pytest.fixture(scope="module")
def plain() -> Rows:
    return simulate(PLAIN).payments


def drifted(kind: str) -> tuple[Rows, Rows]:
    """Payments before and from the day on which it begins."""
    params = replace(PLAIN, drift=kind, drift_day=12)
    rows = simulate(params).payments
    after = rows["time_us"] >= params.start_us + 12 * DAY_US
    return rows[~after], rows[after]


def test_amounts_rise_on_the_day_and_nothing_else_does(plain: Rows) -> None:
    before, after = drifted("amounts")
    assert before.tobytes() == plain[: len(before)].tobytes()
    same = plain[len(before) :]
    assert np.abs(after["amount_minor"] - same["amount_minor"] * FACTOR).max() <= 0.5
    assert (after["merchant"] == same["merchant"]).all()


def test_crimes_change_on_the_day() -> None:
    before, after = drifted("patterns")
    early, late = set(before["pattern"].tolist()), set(after["pattern"].tolist())
    assert {CARD_TESTING, IMPOSSIBLE_TRAVEL} & early
    assert not {CARD_TESTING, IMPOSSIBLE_TRAVEL} & late
    assert {ACCOUNT_TAKEOVER, MERCHANT_COMPROMISE, BUST_OUT} & late
    assert not {ACCOUNT_TAKEOVER, MERCHANT_COMPROMISE, BUST_OUT} & early


def test_half_of_the_ecommerce_payments_lose_their_category_on_the_day(plain: Rows) -> None:
    before, after = drifted("missing")
    assert before.tobytes() == plain[: len(before)].tobytes()
    bare = (after["mcc"] == 0) & (after["channel"] == ECOMMERCE)
    assert 0.4 < bare.sum() / (after["channel"] == ECOMMERCE).sum() < 0.6


@pytest.mark.parametrize(("kind", "day"), [("weather", 5), ("amounts", 0), ("amounts", 24)])
def test_a_drift_that_cannot_be_is_refused(tmp_path: Path, kind: str, day: int) -> None:
    with pytest.raises(ValueError, match=f"drift: expected one of .* on a day from 1 to 23, got '{kind}' on {day}"):
        generate(replace(PLAIN, drift=kind, drift_day=day), tmp_path)
