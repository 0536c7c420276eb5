"""Each fraud pattern has its signature, in the rows."""

from collections.abc import Iterator

import numpy as np
import pytest

from load_tests.traffic.cities import haversine_km
from load_tests.traffic.layout import (
    ACCOUNT_TAKEOVER,
    BUST_OUT,
    CARD_PRESENT,
    CARD_TESTING,
    CREDENTIALS_CHANGED,
    DAY_US,
    DEVICE_FARM,
    ECOMMERCE,
    HOUR_US,
    IMPOSSIBLE_TRAVEL,
    LOGIN_FAILED,
    MAGSTRIPE,
    MERCHANT_COMPROMISE,
    OPENED,
    PATTERNS,
    PAYEE_SCAM,
    TRANSFER,
    VERIFICATION,
    Params,
    Rows,
)
from load_tests.traffic.outcomes import NEVER_REPORTED, REPLACEMENT
from load_tests.traffic.simulate import Traffic, simulate

PARAMS = Params(payments=60_000, days=60, seed=11)


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    return simulate(PARAMS)


def episodes(traffic: Traffic, pattern: int) -> Iterator[Rows]:
    rows = traffic.payments[traffic.payments["pattern"] == pattern]
    found = np.unique(rows["episode"])
    assert len(found), PATTERNS[pattern]
    for episode in found:
        yield rows[rows["episode"] == episode]


def test_fraud_is_about_as_frequent_as_asked_for_and_every_pattern_takes_part(traffic: Traffic) -> None:
    counts = np.bincount(traffic.payments["pattern"], minlength=len(PATTERNS))
    assert len(traffic.payments) == PARAMS.payments
    share = counts[1:].sum() / PARAMS.payments
    assert 0.006 < share < 0.011
    assert (counts[1:] > 0.04 * counts[1:].sum()).all()


def test_card_testing_tries_many_cards_at_one_merchant_with_next_to_nothing(traffic: Traffic) -> None:
    for rows in episodes(traffic, CARD_TESTING):
        tries = rows[rows["euro"] < 5]
        assert len(np.unique(tries["card"])) >= 10
        assert len(np.unique(tries["merchant"])) == 1
        assert np.ptp(tries["time_us"]) < 2 * HOUR_US
        assert ((tries["payment_type"] == VERIFICATION) == (tries["amount_minor"] == 0)).all()
        used = rows[rows["euro"] >= 5]
        assert np.isin(used["card"], tries["card"]).all()
    paid = traffic.payments[(traffic.payments["pattern"] == CARD_TESTING) & (traffic.payments["euro"] > 100)]
    assert len(paid) > 5


def test_a_takeover_guesses_passwords_on_a_new_device_and_changes_credentials_first(traffic: Traffic) -> None:
    devices, identities = traffic.device_events, traffic.identity_events
    genuine = traffic.payments[traffic.payments["pattern"] == 0]
    for rows in episodes(traffic, ACCOUNT_TAKEOVER):
        account, device, first_us = rows["account"][0], rows["device"][0], rows["time_us"].min()
        assert (rows["device"] == device).all()
        assert not (genuine["device"] == device).any()
        failed = devices[(devices["device"] == device) & (devices["kind"] == LOGIN_FAILED)]
        assert len(failed) >= 2
        assert (failed["time_us"] < first_us).all()
        changed = identities[(identities["account"] == account) & (identities["kind"] == CREDENTIALS_CHANGED)]
        assert ((changed["time_us"] < first_us) & (changed["time_us"] > first_us - HOUR_US)).any()
        assert rows["euro"].mean() > 150


def test_a_cloned_card_pays_further_away_than_its_owner_could_have_travelled(traffic: Traffic) -> None:
    payments = traffic.payments
    for rows in episodes(traffic, IMPOSSIBLE_TRAVEL):
        first = rows[np.argmin(rows["time_us"])]
        own = payments[
            (payments["card"] == first["card"]) & (payments["pattern"] == 0) & (payments["channel"] == CARD_PRESENT)
            & ~np.isnan(payments["latitude"]) & (payments["time_us"] < first["time_us"])
        ]  # fmt: skip
        last = own[np.argmax(own["time_us"])]
        km = haversine_km(
            float(last["latitude"]), float(last["longitude"]), float(first["latitude"]), float(first["longitude"])
        )
        assert km > 2000
        assert km / ((first["time_us"] - last["time_us"]) / HOUR_US) > 1000
        assert (rows["entry"] == MAGSTRIPE).all()


def test_cards_abused_after_a_compromise_had_all_been_used_at_one_merchant(traffic: Traffic) -> None:
    payments = traffic.payments
    for rows in episodes(traffic, MERCHANT_COMPROMISE):
        assert (rows["channel"] == ECOMMERCE).all()
        before = payments[(payments["time_us"] < rows["time_us"].min()) & (payments["channel"] == CARD_PRESENT)]
        visited = [set(before["merchant"][before["card"] == card].tolist()) for card in np.unique(rows["card"])]
        assert set.intersection(*visited)


def test_a_bust_out_behaves_for_days_then_spends_much_in_two_days(traffic: Traffic) -> None:
    payments, identities = traffic.payments, traffic.identity_events
    for rows in episodes(traffic, BUST_OUT):
        account = rows["account"][0]
        assert OPENED in identities["kind"][identities["account"] == account]
        good = payments[(payments["account"] == account) & (payments["pattern"] == 0)]
        assert len(good) >= 5
        assert good["time_us"].max() < rows["time_us"].min()
        assert np.ptp(good["time_us"]) > 5 * DAY_US
        assert rows["euro"].mean() > 4 * good["euro"].mean()
        assert np.ptp(rows["time_us"]) < 3 * DAY_US


def test_a_payee_scam_collects_from_many_on_their_own_devices(traffic: Traffic) -> None:
    payments = traffic.payments
    for rows in episodes(traffic, PAYEE_SCAM):
        assert len(np.unique(rows["payee"])) == 1
        assert len(np.unique(rows["account"])) >= 4
        assert (rows["channel"] == TRANSFER).all()
        assert (rows["device"] // 4 == rows["account"]).all()
        assert not (payments["payee"][payments["pattern"] == 0] == rows["payee"][0]).any()


def test_a_device_farm_uses_many_fresh_accounts_on_one_device(traffic: Traffic) -> None:
    identities = traffic.identity_events
    for rows in episodes(traffic, DEVICE_FARM):
        accounts = np.unique(rows["account"])
        assert len(np.unique(rows["device"])) == 1
        assert len(accounts) >= 8
        opened = identities[(identities["kind"] == OPENED) & np.isin(identities["account"], accounts)]
        assert len(opened) == len(accounts)
        assert opened["time_us"].min() > rows["time_us"].min() - 5 * DAY_US


def test_genuine_payments_share_no_card_device_or_account_that_fraudsters_made(traffic: Traffic) -> None:
    payments = traffic.payments
    customers = len(traffic.world.customers)
    farmed = payments["account"][payments["pattern"] == DEVICE_FARM]
    assert (farmed >= customers).all()
    assert not np.isin(payments["account"][payments["pattern"] == 0], farmed).any()


def test_most_frauds_are_reported_days_later_and_some_never(traffic: Traffic) -> None:
    outcomes, payments = traffic.outcomes, traffic.payments
    reported = outcomes[outcomes["pattern"] > 0]
    frauds = int((payments["pattern"] > 0).sum())
    assert 1 - 3 * NEVER_REPORTED < len(reported) / frauds < 1
    delay_days = (reported["time_us"] - payments["time_us"][reported["payment"]]) / DAY_US
    assert delay_days.min() >= 1
    assert delay_days.max() <= 30
    assert 4.5 < np.median(delay_days) < 7.5
    assert (payments["pattern"][reported["payment"]] == reported["pattern"]).all()
    assert len(np.unique(reported["source"])) == 4
    genuine = outcomes[outcomes["label"] == 0]
    assert len(genuine) > 10
    assert (payments["pattern"][genuine["payment"]] == 0).all()


def test_some_genuine_payments_are_charged_back_first_and_cleared_later(traffic: Traffic) -> None:
    outcomes = traffic.outcomes
    wrong = outcomes[(outcomes["label"] == 1) & (outcomes["pattern"] == -1)]
    assert len(wrong)
    for row in wrong:
        later = outcomes[(outcomes["payment"] == row["payment"]) & (outcomes["label"] == 0)]
        assert later["time_us"] > row["time_us"]


def test_an_abused_card_is_replaced_once_its_fraud_is_known(traffic: Traffic) -> None:
    payments, outcomes = traffic.payments, traffic.outcomes
    frauds = outcomes[(outcomes["pattern"] > 0) & (payments["card"][outcomes["payment"]] >= 0)]
    renewed = 0
    for card in np.unique(payments["card"][frauds["payment"]]):
        known_us = frauds["time_us"][payments["card"][frauds["payment"]] == card].min()
        genuine = payments[(payments["pattern"] == 0) & (payments["payment_type"] == 0)]
        assert not ((genuine["card"] == card) & (genuine["time_us"] > known_us)).any()
        new = genuine[genuine["card"] == card + REPLACEMENT]
        assert (new["time_us"] > known_us).all()
        renewed += len(new) > 0
    assert renewed > 20
