from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from operators.enrich import Enricher
from operators.features import FACTS, FeatureSet
from operators.features import Geo as GeoSettings
from operators.geo import Geo
from operators.inflight import DEVICE_EVENT, IDENTITY_EVENT, PAYMENT, InFlight, Value
from operators.money import Rates
from schemas.events import DeviceEvent, IdentityEvent, Transaction
from tests.operators.entity_parts import NOON_US, feature_set
from tests.operators.mmdb import write_mmdb

WITHOUT_TRAVEL = 'id = "plain-1"\nbase_currency = "EUR"\n[entities.card]\nkey = "card_id"\nsince_last = true\n'


@pytest.fixture
def features(tmp_path: Path) -> FeatureSet:
    return feature_set(tmp_path)


@pytest.fixture
def enricher(features: FeatureSet) -> Enricher:
    return Enricher(features, Rates.load(None, "EUR"), Geo())


@pytest.fixture
def located(tmp_path: Path, features: FeatureSet) -> Enricher:
    """With geo data: 192.0.2.0/24 is in London, half of it anonymous."""
    record = {"country": {"iso_code": "GB"}, "location": {"latitude": 51.5, "longitude": -0.1, "accuracy_radius": 20}}
    city = write_mmdb(tmp_path / "city.mmdb", "Tiny-City", {"192.0.2.0/24": record})  # type: ignore[dict-item]  # invariance
    (tmp_path / "vpn.txt").write_text("192.0.2.128/25\n")
    return Enricher(
        features, Rates.load(None, "EUR"), Geo.load(GeoSettings(city=city, anonymous_lists=(tmp_path / "vpn.txt",)))
    )


def payment(features: FeatureSet, **fields: object) -> InFlight:
    given: dict[str, object] = {
        "transaction_id": "T1",
        "event_time_us": NOON_US,
        "account_id": "A1",
        "channel": "ecommerce",
        "amount_minor": 1234,
        "currency": "EUR",
    }
    event = Transaction(**{**given, **fields})  # type: ignore[arg-type]  # a test names what it gives
    return InFlight(PAYMENT, (0,), event, ("t", 0, 0), 0, features.keys_of(event), features.new_values())


def facts(features: FeatureSet, item: InFlight) -> dict[str, Value]:
    return {name: item.values[features.slots[name]] for name, _, _ in FACTS}


def test_every_fact_of_a_full_payment_is_filled(features: FeatureSet, located: Enricher) -> None:
    item = payment(
        features,
        payment_type="verification",
        country="FR",
        mcc="5411",
        entry_mode="chip",
        three_ds_result="authenticated",
        recurring=False,
        ip="192.0.2.1",
    )
    before = list(item.values)
    located.enrich(item)
    assert facts(features, item) == {
        "amount": 12.34,
        "hour": 12.0,
        "weekday": 3.0,  # 2026-01-01 was a Thursday
        "channel": "ecommerce",
        "payment_type": "verification",
        "currency": "EUR",
        "country": "FR",
        "mcc": "5411",
        "entry_mode": "chip",
        "three_ds_result": "authenticated",
        "ip_country": "GB",
        "recurring": False,
        "anonymous_ip": False,
    }
    assert item.amount_micros == 12_340_000
    assert item.flags == []
    assert repr(item.values[len(FACTS) :]) == repr(before[len(FACTS) :]), "slots of entities are left alone"
    assert len(item.values) == len(before)


def test_what_a_bare_payment_lacks_is_absent(features: FeatureSet, enricher: Enricher) -> None:
    item = payment(features, ip="192.0.2.1")
    enricher.enrich(item)
    absent = {name for name, value in facts(features, item).items() if value is None}
    assert absent == {"country", "mcc", "entry_mode", "three_ds_result", "ip_country", "recurring", "anonymous_ip"}


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(event_time_us=st.integers(-(10**15), 4 * 10**15))
def test_hour_and_weekday_are_those_of_the_calendar(
    features: FeatureSet, enricher: Enricher, event_time_us: int
) -> None:
    item = payment(features, event_time_us=event_time_us)
    enricher.enrich(item)
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=event_time_us)
    found = facts(features, item)
    assert (found["hour"], found["weekday"]) == (moment.hour, moment.weekday())


def test_an_amount_without_a_rate_is_absent_and_flagged(features: FeatureSet, enricher: Enricher) -> None:
    item = payment(features, currency="USD", latitude=1.0, longitude=1.0)
    enricher.enrich(item)
    amount = facts(features, item)["amount"]
    assert isinstance(amount, float)
    assert math.isnan(amount)
    assert item.amount_micros is None
    assert item.flags == ["no_rate"]


def test_a_foreign_amount_is_converted_by_the_rate_of_its_day(features: FeatureSet, tmp_path: Path) -> None:
    (tmp_path / "rates.csv").write_text("date,currency,rate\n2025-12-31,JPY,200\n2026-01-02,JPY,100\n")
    item = payment(features, currency="JPY", amount_minor=1000)
    Enricher(features, Rates.load(tmp_path / "rates.csv", "EUR"), Geo()).enrich(item)
    assert (facts(features, item)["amount"], item.amount_micros) == (5.0, 5_000_000)


def test_a_payment_that_nothing_places_is_flagged_when_travel_is_declared(
    features: FeatureSet, enricher: Enricher, tmp_path: Path
) -> None:
    item = payment(features)
    enricher.enrich(item)
    assert (item.fix, item.flags) == (None, ["no_location"])
    plain = feature_set(tmp_path, WITHOUT_TRAVEL)
    item = payment(plain, latitude=1.0, longitude=1.0)
    Enricher(plain, Rates.load(None, "EUR"), Geo()).enrich(item)
    assert (item.fix, item.flags) == (None, []), "nobody asks where"


@pytest.mark.parametrize("fields", [{"payment_type": "refund"}, {"payment_type": "reversal"}, {"recurring": True}])
def test_where_nobody_was_there_is_neither_a_place_nor_a_flag(
    features: FeatureSet, enricher: Enricher, fields: dict[str, object]
) -> None:
    item = payment(features, latitude=1.0, longitude=1.0, **fields)
    enricher.enrich(item)
    assert (item.fix, item.flags) == (None, [])


@pytest.mark.parametrize(
    "fields", [{"payment_type": "purchase"}, {"payment_type": "verification"}, {"recurring": False}]
)
def test_who_pays_is_somewhere(features: FeatureSet, enricher: Enricher, fields: dict[str, object]) -> None:
    item = payment(features, latitude=1.0, longitude=2.0, **fields)
    enricher.enrich(item)
    assert item.fix is not None
    assert (item.fix.latitude, item.fix.longitude, item.fix.source) == (1.0, 2.0, "event")


def test_an_anonymising_network_sets_its_fact_and_takes_the_place(features: FeatureSet, located: Enricher) -> None:
    item = payment(features, ip="192.0.2.200", latitude=1.0, longitude=2.0)
    located.enrich(item)
    found = facts(features, item)
    assert (found["anonymous_ip"], found["ip_country"]) == (True, "GB")
    assert (item.fix, item.flags) == (None, ["no_location"])


def test_flags_of_earlier_steps_stay(features: FeatureSet, enricher: Enricher) -> None:
    item = payment(features, currency="USD")
    item.flags = ["absent:card"]
    enricher.enrich(item)
    assert item.flags == ["absent:card", "no_rate", "no_location"]


def test_a_device_event_is_placed_and_other_events_are_left_alone(features: FeatureSet, located: Enricher) -> None:
    seen = DeviceEvent(event_id="E1", event_time_us=NOON_US, device_id="D1", kind="seen", ip="192.0.2.1")
    opened = IdentityEvent(event_id="I1", event_time_us=NOON_US, account_id="A1", kind="opened")
    items = [
        InFlight(DEVICE_EVENT, (0,), seen, ("d", 0, 0), 0, features.keys_of(seen), []),
        InFlight(IDENTITY_EVENT, (1,), opened, ("i", 0, 0), 0, features.keys_of(opened), []),
    ]
    for item in items:
        located.enrich(item)
    assert items[0].fix is not None
    assert (items[0].fix.latitude, items[0].fix.source) == (51.5, "ip")
    assert (items[1].fix, items[1].values, items[1].flags) == (None, [], [])
