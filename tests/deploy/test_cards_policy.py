"""Every rule of the cards profile: a payment that it is about, and its neighbour that it leaves alone.

Long, because it is one table with a row for each of the rules, which is read and checked as a whole.
"""

from pathlib import Path

import pytest

from operators.actions import Action
from operators.features import FeatureSet, load_feature_set
from operators.inflight import Value
from operators.money import Rates
from operators.policy import NO_RISK_FOUND, Policy, load_policy
from operators.policy_check import check_policy
from schemas.reasons import REASON_CODES

PROFILE = Path(__file__).parents[2] / "deploy" / "profiles" / "cards"
HOUR, DAY = 3600.0, 86_400.0

Known = dict[str, Value]

# rule: (what the payment is like that fires it, what is different about the one that does not)
CASES: dict[str, tuple[Known, Known]] = {
    "sanctions-hit": ({"account.sanctions_hit": True}, {"account.sanctions_hit": False}),
    "pep-large": ({"account.pep_hit": True, "amount": 5000.01}, {"amount": 5000.0}),
    "kyc-failed": ({"account.kyc": "failed", "payment_type": "purchase"}, {"payment_type": "refund"}),
    "account-closed": ({"account.closed": True, "payment_type": "purchase"}, {"payment_type": "refund"}),
    "device-blocked": ({"device.blocked": True}, {"device.blocked": False}),
    "card-testing-small": ({"card.small_count_10m": 5.0}, {"card.small_count_10m": 4.0}),
    "card-testing-verifications": ({"card.verification_count_1h": 4.0}, {"card.verification_count_1h": 3.0}),
    "card-tested-then-used": (
        {"card.small_count_24h": 3.0, "amount": 400.0, "card.sum_24h": 404.0},
        {"card.sum_24h": 650.0},
    ),
    "card-testing-at-merchant": (
        {
            "channel": "ecommerce",
            "amount": 1.0,
            "merchant.small_count_10m": 20.0,
            "merchant.distinct_card_id_10m": 18.0,
            "merchant.count_10m": 24.0,
        },
        {"merchant.count_10m": 90.0},
    ),
    "card-testing-from-ip": (
        {"ip.small_count_10m": 6.0, "ip.distinct_card_id_1h": 5.0, "ip.count_10m": 6.0},
        {"ip.count_10m": 40.0},
    ),
    "cards-on-device": ({"device.distinct_card_id_24h": 5.0}, {"device.distinct_card_id_24h": 4.0}),
    "card-burst": ({"card.count_10m": 8.0}, {"card.count_10m": 7.0}),
    "card-burst-hour": ({"card.count_1h": 25.0}, {"card.count_1h": 24.0}),
    "account-burst": ({"account.count_1h": 15.0}, {"account.count_1h": 14.0}),
    "device-burst": ({"device.count_10m": 8.0}, {"device.count_10m": 7.0}),
    "ip-burst": ({"ip.count_10m": 25.0, "ip.count_24h": 30.0}, {"ip.count_24h": 3000.0}),
    "terminal-burst": ({"terminal.count_10m": 60.0, "channel": "wallet", "mcc": "5812"}, {"mcc": "4111"}),
    "merchant-burst": ({"merchant.count_10m": 50.0, "merchant.count_24h": 60.0}, {"merchant.count_24h": 5000.0}),
    "card-spend-burst": ({"card.count_1h": 3.0, "card.sum_1h": 3001.0}, {"card.count_1h": 1.0}),
    "account-spend-day": ({"account.count_24h": 2.0, "account.sum_24h": 15_001.0}, {"account.count_24h": 1.0}),
    "many-merchants": ({"card.distinct_merchant_id_1h": 7.0}, {"card.distinct_merchant_id_1h": 6.0}),
    "many-cards-on-account": ({"account.distinct_card_id_24h": 5.0}, {"account.distinct_card_id_24h": 4.0}),
    "digital-goods-burst": ({"mcc": "5816", "card.count_1h": 5.0, "card.sum_1h": 300.0}, {"mcc": "5812"}),
    "impossible-travel": ({"card.speed_kmh": 1200.0, "card.distance_km": 900.0}, {"card.speed_kmh": 820.0}),
    "two-places-at-once": ({"card.travel_seconds": 0.0, "card.distance_km": 900.0}, {"card.travel_seconds": 1.0}),
    "impossible-travel-account": (
        {"account.speed_kmh": 1600.0, "account.distance_km": 6000.0},
        {"account.distance_km": 300.0},
    ),
    "impossible-travel-cash": (
        {"channel": "atm", "card.speed_kmh": 1200.0, "card.distance_km": 900.0},
        {"channel": "card_present"},
    ),
    "many-countries": ({"card.distinct_country_24h": 4.0}, {"card.distinct_country_24h": 3.0}),
    "ip-country-mismatch": (
        {"channel": "ecommerce", "country": "DE", "ip_country": "NG", "amount": 600.0},
        {"ip_country": "DE"},
    ),
    "anonymous-ip-large": ({"anonymous_ip": True, "amount": 301.0}, {"amount": 300.0}),
    "anonymous-ip-new-device": (
        {
            "anonymous_ip": True,
            "amount": 60.0,
            "account_device.seconds_since_first_seen": 0.0,
            "account.seconds_since_first_seen": 90 * DAY,
        },
        {"account_device.seconds_since_first_seen": 90 * DAY},
    ),
    "device-emulated": ({"device.emulator": True}, {"device.emulator": False}),
    "device-rooted-large": ({"device.rooted": True, "amount": 251.0}, {"amount": 250.0}),
    "accounts-on-device": ({"device.accounts": 5.0}, {"device.accounts": 4.0}),
    "device-farm": ({"device.accounts": 10.0}, {"device.accounts": 9.0}),
    "device-changed-large": (
        {"device.seconds_since_fingerprint_changed": 600.0, "amount": 301.0},
        {"device.seconds_since_fingerprint_changed": 2 * HOUR},
    ),
    "new-device-large": (
        {
            "account_device.seconds_since_first_seen": 0.0,
            "account.seconds_since_first_seen": 90 * DAY,
            "amount": 501.0,
        },
        {"account.seconds_since_first_seen": 3 * DAY},
    ),
    "new-device-unauthenticated": (
        {
            "channel": "ecommerce",
            "amount": 151.0,
            "three_ds_result": "frictionless",
            "account_device.seconds_since_first_seen": 0.0,
            "account.seconds_since_first_seen": 90 * DAY,
        },
        {"three_ds_result": "authenticated"},
    ),
    "device-of-others": (
        {
            "device.accounts": 3.0,
            "amount": 51.0,
            "account_device.seconds_since_first_seen": 0.0,
            "account.seconds_since_first_seen": 90 * DAY,
        },
        {"device.accounts": 2.0},
    ),
    "many-devices-on-account": ({"account.distinct_device_id_24h": 5.0}, {"account.distinct_device_id_24h": 4.0}),
    "accounts-on-ip": ({"ip.distinct_account_id_24h": 25.0}, {"ip.distinct_account_id_24h": 24.0}),
    "cards-on-ip": ({"ip.distinct_card_id_1h": 12.0}, {"ip.distinct_card_id_1h": 11.0}),
    "takeover-transfer": (
        {
            "channel": "transfer",
            "amount": 400.0,
            "account.seconds_since_credentials_changed": 2 * HOUR,
            "account_device.seconds_since_first_seen": 0.0,
        },
        {"account_device.seconds_since_first_seen": 90 * DAY},
    ),
    "takeover-new-payee": (
        {
            "account.seconds_since_credentials_changed": 2 * HOUR,
            "account_payee.seconds_since_first_seen": 0.0,
            "amount": 201.0,
        },
        {"account.seconds_since_credentials_changed": 40 * DAY},
    ),
    "credentials-changed-purchase": (
        {
            "channel": "ecommerce",
            "amount": 251.0,
            "account.seconds_since_credentials_changed": 2 * HOUR,
            "account_device.seconds_since_first_seen": 60.0,
        },
        {"account.seconds_since_credentials_changed": 2 * DAY},
    ),
    "address-changed-purchase": (
        {"channel": "ecommerce", "account.seconds_since_address_changed": DAY, "amount": 801.0},
        {"channel": "card_present"},
    ),
    "login-failures": ({"device.login_failed_count_10m": 4.0}, {"device.login_failed_count_10m": 3.0}),
    "login-failures-account": ({"account.login_failed_count_1h": 10.0}, {"account.login_failed_count_1h": 9.0}),
    "mfa-failed": (
        {"account.mfa_failed_count_1h": 1.0, "account.mfa": "failed", "amount": 101.0},
        {"account.mfa": "passed"},
    ),
    "mfa-failed-often": ({"account.mfa_failed_count_1h": 4.0}, {"account.mfa_failed_count_1h": 3.0}),
    "new-payee-large": (
        {
            "channel": "transfer",
            "amount": 1600.0,
            "account_payee.seconds_since_first_seen": 0.0,
            "account.seconds_since_first_seen": 90 * DAY,
        },
        {"recurring": True},
    ),
    "payee-many-payers": (
        {
            "payee.distinct_account_id_24h": 6.0,
            "payee.seconds_since_first_seen": 2 * DAY,
            "account_payee.seconds_since_first_seen": 0.0,
            "account.seconds_since_first_seen": 90 * DAY,
        },
        {"payee.seconds_since_first_seen": 60 * DAY},
    ),
    "payee-repeated": (
        {
            "channel": "transfer",
            "account_payee.count_24h": 3.0,
            "account_payee.sum_24h": 2400.0,
            "account_payee.seconds_since_first_seen": 5 * HOUR,
            "account.seconds_since_first_seen": 90 * DAY,
        },
        {"account_payee.seconds_since_first_seen": 30 * DAY},
    ),
    "payee-fraud-history": (
        {"payee.fraud_count_30d": 2.0, "payee.fraud_rate_30d": 0.12},
        {"payee.fraud_count_30d": 1.0},
    ),
    "payee-collects": ({"payee.distinct_account_id_24h": 12.0, "payee.sum_24h": 6000.0}, {"payee.sum_24h": 900.0}),
    "transfers-spread": (
        {"channel": "transfer", "account.distinct_counterparty_id_24h": 5.0, "account.transfer_sum_24h": 3100.0},
        {"account.transfer_sum_24h": 700.0},
    ),
    "amount-limit": ({"amount": 10_001.0, "payment_type": "purchase"}, {"payment_type": "refund"}),
    "amount-unusual": (
        {"amount": 900.0, "payment_type": "purchase", "card.count_30d": 11.0, "card.sum_30d": 1200.0},
        {"card.sum_30d": 2400.0},
    ),
    "bust-out": (
        {
            "account.count_24h": 6.0,
            "account.sum_24h": 4000.0,
            "account.count_30d": 16.0,
            "account.sum_30d": 4300.0,
            "account.seconds_since_first_seen": 90 * DAY,
        },
        {"account.sum_30d": 6500.0},
    ),
    "new-account-spending": (
        {"account.seconds_since_opened": 12 * DAY, "account.sum_24h": 3001.0},
        {"account.seconds_since_opened": 400 * DAY},
    ),
    "dormant-awake": (
        {"account.seconds_since_last": 50 * DAY, "amount": 501.0},
        {"account.seconds_since_last": 5 * DAY},
    ),
    "night-large": ({"hour": 2.0, "amount": 1001.0, "channel": "ecommerce"}, {"hour": 9.0}),
    "high-risk-category": ({"mcc": "6051", "amount": 1001.0}, {"mcc": "4511"}),
    "high-risk-category-night": ({"mcc": "7995", "hour": 3.0, "amount": 251.0}, {"hour": 20.0}),
    "recurring-without-history": (
        {"recurring": True, "card.seconds_since_first_seen": 0.0, "amount": 101.0},
        {"card.seconds_since_first_seen": 30 * DAY},
    ),
    "cash-out": ({"channel": "atm", "card.atm_count_24h": 6.0}, {"card.atm_count_24h": 5.0}),
    "cash-out-sum": ({"channel": "atm", "card.atm_sum_24h": 2600.0}, {"card.atm_sum_24h": 2500.0}),
    "cash-after-credentials": (
        {"channel": "atm", "account.seconds_since_credentials_changed": HOUR, "amount": 301.0},
        {"amount": 100.0},
    ),
    "magstripe-fallback": (
        {"entry_mode": "magstripe", "channel": "card_present", "amount": 151.0},
        {"entry_mode": "chip"},
    ),
    "three-ds-failed": (
        {"channel": "ecommerce", "three_ds_result": "failed", "amount": 101.0},
        {"three_ds_result": "authenticated"},
    ),
    "three-ds-missing": (
        {"channel": "ecommerce", "payment_type": "purchase", "amount": 501.0},
        {"three_ds_result": "attempted"},
    ),
    "merchant-fraud-rate": (
        {"merchant.fraud_count_7d": 5.0, "merchant.fraud_rate_7d": 0.15, "amount": 51.0},
        {"merchant.fraud_rate_7d": 0.02},
    ),
    "terminal-fraud-rate": (
        {"channel": "card_present", "terminal.fraud_count_7d": 3.0, "terminal.fraud_rate_7d": 0.11},
        {"terminal.fraud_rate_7d": 0.05},
    ),
    "terminal-compromised": (
        {"channel": "atm", "terminal.fraud_count_7d": 20.0, "terminal.fraud_rate_7d": 0.5},
        {"channel": "ecommerce"},
    ),
    "card-fraud-history": (
        {
            "card.fraud_count_30d": 1.0,
            "amount": 30.0,
            "account_device.seconds_since_first_seen": HOUR,
            "account.seconds_since_first_seen": 90 * DAY,
        },
        {"account_device.seconds_since_first_seen": 90 * DAY},
    ),
    "refund-without-purchase": (
        {
            "payment_type": "refund",
            "amount": 150.0,
            "account.count_30d": 0.0,
            "account.seconds_since_first_seen": 60 * DAY,
        },
        {"account.count_30d": 4.0},
    ),
    "refund-exceeds-purchases": (
        {"payment_type": "refund", "amount": 900.0, "account.sum_30d": 300.0},
        {"account.sum_30d": 1400.0},
    ),
}


@pytest.fixture(scope="module")
def features() -> FeatureSet:
    return load_feature_set(PROFILE)


@pytest.fixture(scope="module")
def policy(features: FeatureSet) -> Policy:
    return load_policy(PROFILE, features)


def values_of(features: FeatureSet, known: Known) -> list[Value]:
    values = features.new_values()
    for name, value in known.items():
        values[features.slots[name]] = value
    return values


def holding(policy: Policy, values: list[Value]) -> set[str]:
    active = {hit.rule_id for hit in policy.evaluate(values).hits}
    return active | {hit.rule_id for hit in policy.evaluate_shadow(values).hits}


def test_every_rule_has_a_case(policy: Policy) -> None:
    assert [rule.id for rule in policy.rules] == list(CASES)
    assert sum(rule.mode == "active" for rule in policy.rules) >= 40
    assert sum(rule.mode == "shadow" for rule in policy.rules) >= 5


@pytest.mark.parametrize("rule_id", CASES)
def test_rule_fires(features: FeatureSet, policy: Policy, rule_id: str) -> None:
    fires, _ = CASES[rule_id]
    values = values_of(features, fires)
    (rule,) = [rule for rule in policy.rules if rule.id == rule_id]
    assert rule_id in holding(policy, values)
    verdict = policy.decide(policy.evaluate(values), None)
    if rule.mode == "active":
        assert verdict.action >= rule.action
        assert rule.reason in verdict.reasons
    else:
        assert rule_id not in {hit.rule_id for hit in policy.evaluate(values).hits}


@pytest.mark.parametrize("rule_id", CASES)
def test_rule_leaves_the_neighbour_alone(features: FeatureSet, policy: Policy, rule_id: str) -> None:
    fires, different = CASES[rule_id]
    assert rule_id not in holding(policy, values_of(features, fires | different))


@pytest.mark.parametrize("rule_id", CASES)
def test_rule_does_not_fire_without_one_of_its_features_and_says_so(
    features: FeatureSet, policy: Policy, rule_id: str
) -> None:
    fires, _ = CASES[rule_id]
    (rule,) = [rule for rule in policy.rules if rule.id == rule_id]
    keys = [b"key" for _ in features.entities]
    for name in rule.condition.wanted:
        values = values_of(features, {other: value for other, value in fires.items() if other != name})
        assert rule_id not in holding(policy, values), name
        if rule.mode == "active":
            assert name in policy.absent(values, keys)


# An ordinary customer of three months, by what is known at each payment. What is not given is missing, as in life.
QUIET_ACCOUNT: Known = {
    "account.count_1h": 1.0,
    "account.sum_1h": 40.0,
    "account.count_24h": 3.0,
    "account.sum_24h": 120.0,
    "account.count_30d": 60.0,
    "account.sum_30d": 2400.0,
    "account.distinct_card_id_24h": 1.0,
    "account.distinct_device_id_24h": 1.0,
    "account.distinct_country_24h": 1.0,
    "account.distinct_counterparty_id_24h": 0.0,
    "account.large_count_90d": 2.0,
    "account.transfer_sum_24h": 0.0,
    "account.mfa_failed_count_1h": 0.0,
    "account.login_failed_count_1h": 0.0,
    "account.seconds_since_last": 5 * HOUR,
    "account.seconds_since_first_seen": 90 * DAY,
    "account.speed_kmh": 14.0,
    "account.distance_km": 9.0,
    "account.travel_seconds": 2300.0,
    "account.kyc": "passed",
    "account.sanctions_hit": False,
    "account.pep_hit": False,
    "account.closed": False,
    "account.seconds_since_opened": 900 * DAY,
    "account.seconds_since_credentials_changed": 200 * DAY,
    "account.mfa": "passed",
    "account.seconds_since_mfa": 30 * DAY,
}
QUIET_CARD: Known = {
    "card.count_10m": 1.0,
    "card.sum_10m": 40.0,
    "card.count_1h": 1.0,
    "card.sum_1h": 40.0,
    "card.count_24h": 3.0,
    "card.sum_24h": 120.0,
    "card.count_30d": 50.0,
    "card.sum_30d": 2000.0,
    "card.distinct_merchant_id_1h": 1.0,
    "card.distinct_country_24h": 1.0,
    "card.fraud_rate_30d": 0.004,
    "card.fraud_count_30d": 0.0,
    "card.label_count_30d": 30.0,
    "card.small_count_10m": 0.0,
    "card.small_count_24h": 1.0,
    "card.verification_count_1h": 0.0,
    "card.atm_count_24h": 0.0,
    "card.atm_sum_24h": 0.0,
    "card.seconds_since_last": 5 * HOUR,
    "card.seconds_since_first_seen": 90 * DAY,
    "card.speed_kmh": 14.0,
    "card.distance_km": 9.0,
    "card.travel_seconds": 2300.0,
}
QUIET_DEVICE: Known = {
    "device.count_10m": 1.0,
    "device.count_24h": 2.0,
    "device.distinct_card_id_24h": 1.0,
    "device.login_failed_count_10m": 0.0,
    "device.blocked": False,
    "device.rooted": False,
    "device.emulator": False,
    "device.accounts": 1.0,
    "device.seconds_since_first_event": 90 * DAY,
    "account_device.count_90d": 30.0,
    "account_device.seconds_since_last": DAY,
    "account_device.seconds_since_first_seen": 90 * DAY,
    "ip.count_10m": 3.0,
    "ip.count_24h": 200.0,
    "ip.distinct_card_id_1h": 6.0,
    "ip.distinct_account_id_24h": 18.0,
    "ip.small_count_10m": 0.0,
}
QUIET_SHOP: Known = {
    "merchant.count_10m": 12.0,
    "merchant.count_24h": 900.0,
    "merchant.distinct_card_id_10m": 12.0,
    "merchant.small_count_10m": 2.0,
    "merchant.fraud_rate_7d": 0.005,
    "merchant.fraud_count_7d": 1.0,
    "merchant.label_count_7d": 300.0,
    "terminal.count_10m": 6.0,
    "terminal.count_24h": 150.0,
    "terminal.fraud_rate_7d": 0.005,
    "terminal.fraud_count_7d": 0.0,
    "terminal.label_count_7d": 60.0,
}
PURCHASE: Known = {"payment_type": "purchase", "currency": "EUR", "country": "DE", "weekday": 4.0, "hour": 17.0}
ORDINARY: dict[str, Known] = {
    "groceries by contactless card": PURCHASE
    | QUIET_ACCOUNT
    | QUIET_CARD
    | QUIET_SHOP
    | {"channel": "card_present", "amount": 41.2, "mcc": "5411", "entry_mode": "contactless"},
    "a phone bought in a web shop with 3-D Secure": PURCHASE
    | QUIET_ACCOUNT
    | QUIET_CARD
    | QUIET_SHOP
    | QUIET_DEVICE
    | {"channel": "ecommerce", "amount": 480.0, "mcc": "5732", "three_ds_result": "authenticated", "ip_country": "DE"}
    | {"card.sum_30d": 2480.0, "card.sum_24h": 560.0, "account.sum_24h": 560.0, "account.sum_30d": 2880.0},
    "a coffee by phone": PURCHASE
    | QUIET_ACCOUNT
    | QUIET_CARD
    | QUIET_SHOP
    | {name: value for name, value in QUIET_DEVICE.items() if not name.startswith("ip.")}
    | {"channel": "wallet", "amount": 3.4, "mcc": "5814", "entry_mode": "contactless"},
    "the rent by standing order, at night": PURCHASE
    | QUIET_ACCOUNT
    | {"channel": "transfer", "amount": 1150.0, "recurring": True, "hour": 3.0}
    | {
        "payee.count_24h": 40.0,
        "payee.sum_24h": 4500.0,
        "payee.distinct_account_id_24h": 9.0,
        "payee.fraud_rate_30d": 0.004,
        "payee.fraud_count_30d": 0.0,
        "payee.seconds_since_first_seen": 90 * DAY,
        "account_payee.count_24h": 1.0,
        "account_payee.sum_24h": 1150.0,
        "account_payee.seconds_since_first_seen": 60 * DAY,
    },
    "money for a friend, for the first time": PURCHASE
    | QUIET_ACCOUNT
    | QUIET_DEVICE
    | {"channel": "transfer", "amount": 85.0, "account.distinct_counterparty_id_24h": 1.0}
    | {"payee.distinct_account_id_24h": 1.0, "payee.seconds_since_first_seen": 0.0}
    | {"payee.fraud_rate_30d": 0.005, "payee.fraud_count_30d": 0.0, "payee.sum_24h": 85.0}
    | {"account_payee.count_24h": 1.0, "account_payee.sum_24h": 85.0, "account_payee.seconds_since_first_seen": 0.0},
    "cash on holiday, after a flight": PURCHASE
    | QUIET_ACCOUNT
    | QUIET_CARD
    | QUIET_SHOP
    | {"channel": "atm", "amount": 200.0, "mcc": "6011", "entry_mode": "chip", "country": "PT", "hour": 22.0}
    | {"card.atm_count_24h": 2.0, "card.atm_sum_24h": 350.0, "card.distinct_country_24h": 2.0}
    | {"card.speed_kmh": 610.0, "card.distance_km": 2300.0, "account.speed_kmh": 640.0, "account.distance_km": 2300.0},
    "a refund of a coat": PURCHASE
    | QUIET_ACCOUNT
    | QUIET_CARD
    | QUIET_SHOP
    | {"payment_type": "refund", "channel": "ecommerce", "amount": 189.0, "mcc": "5691"},
    "a streaming subscription": PURCHASE
    | QUIET_ACCOUNT
    | QUIET_CARD
    | {"channel": "ecommerce", "amount": 11.99, "mcc": "4899", "recurring": True, "hour": 3.0},
    "the first payment of a new customer": PURCHASE
    | {"channel": "card_present", "amount": 62.0, "mcc": "5541", "entry_mode": "chip"}
    | {"account.count_1h": 1.0, "account.count_24h": 1.0, "account.count_30d": 1.0, "account.sum_24h": 62.0}
    | {"account.sum_30d": 62.0, "account.seconds_since_first_seen": 0.0, "account.seconds_since_opened": 2 * DAY}
    | {"card.count_10m": 1.0, "card.count_1h": 1.0, "card.count_30d": 1.0, "card.sum_30d": 62.0, "card.sum_1h": 62.0}
    | {"card.seconds_since_first_seen": 0.0, "card.fraud_count_30d": 0.0},
}


@pytest.mark.parametrize("payment", ORDINARY)
def test_ordinary_payment_is_approved_without_a_hit(features: FeatureSet, policy: Policy, payment: str) -> None:
    values = values_of(features, ORDINARY[payment])
    assert holding(policy, values) == set()
    verdict = policy.decide(policy.evaluate(values), 0.05)
    assert (verdict.action, verdict.reasons) == (Action.APPROVE, (NO_RISK_FOUND,))


def test_payment_of_which_nothing_is_known_is_approved(features: FeatureSet, policy: Policy) -> None:
    assert holding(policy, features.new_values()) == set()


def test_account_takeover_is_declined_with_all_its_reasons(features: FeatureSet, policy: Policy) -> None:
    known = ORDINARY["money for a friend, for the first time"] | {
        "amount": 2400.0,
        "account.seconds_since_credentials_changed": HOUR,
        "account_device.seconds_since_first_seen": 0.0,
        "device.login_failed_count_10m": 6.0,
        "account.sum_24h": 2520.0,
    }
    verdict = policy.decide(policy.evaluate(values_of(features, known)), 0.97)
    assert verdict.action is Action.DECLINE
    assert verdict.reasons == ("ACCOUNT_TAKEOVER", "HIGH_SCORE", "DEVICE_NEW", "LOGIN_FAILURES", "NEW_PAYEE")


def test_policy_passes_its_own_check(features: FeatureSet) -> None:
    report = check_policy(PROFILE, features)
    assert report.warnings == ()
    assert report.unused_entities == ()
    assert {rule.reason for rule in load_policy(PROFILE, features).rules} <= set(REASON_CODES)


def test_every_rule_says_what_it_is_for(policy: Policy) -> None:
    assert [rule.id for rule in policy.rules if not rule.description.endswith(".")] == []


def test_feature_set_stays_small_enough_to_be_carried_by_every_decision(features: FeatureSet) -> None:
    assert len(features.features) <= 120


def test_rates_are_of_a_plausible_size(features: FeatureSet) -> None:
    rates = Rates.load(features.rates_path, features.base_currency)
    september_2026_us = 1_788_220_800_000_000
    for currency, minor, low, high in (
        ("USD", 10_000, 70, 110),
        ("GBP", 10_000, 105, 130),
        ("CHF", 10_000, 95, 115),
        ("JPY", 10_000, 45, 75),
        ("KWD", 10_000, 25, 37),
        ("PLN", 10_000, 20, 27),
    ):
        micros = rates.to_micros(minor, currency, september_2026_us)
        assert micros is not None
        assert low < micros / 1e6 < high, currency
