from __future__ import annotations

import math
from pathlib import Path

import pytest

from operators.features import FACTS, load_feature_set
from schemas.errors import ProfileError
from schemas.events import DeviceEvent, IdentityEvent, Transaction

REPO = Path(__file__).parents[2]
FULL = """
id = "cards-1"
base_currency = "EUR"
rates = "rates.csv"
allowed_lateness = "12h"
seen_ttl = "9d"
fraud_rate_prior = { rate = 0.01, strength = 50 }
[geo]
city = "city.mmdb"
anonymous_lists = ["vpn.txt"]

[entities.card]
key = "card_id"
windows = ["10m", "24h"]
amount = ["count", "sum"]
distinct = { merchant_id = ["1h"] }
fraud_rate = ["7d"]
travel = true
since_last = true
[[entities.card.filtered]]
name = "small"
where = "amount < 5"
windows = ["10m"]
amount = ["count", "mean"]

[entities.device]
key = "device_id"
reputation = true
[[entities.device.streams]]
event = "device_event"
kinds = ["login", "login_failed"]
windows = ["10m"]
[[entities.device.streams]]
event = "device_event"
kinds = ["rooted", "blocked"]
name = "bad"
windows = ["30d"]

[entities.account]
key = "account_id"
identity = true

[entities.visit]
key = ["account_id", "terminal_id"]
since_last = true
"""


def write(folder: Path, text: str) -> Path:
    (folder / "rates.csv").write_text("day,currency,rate\n")
    (folder / "city.mmdb").write_bytes(b"")
    (folder / "vpn.txt").write_text("")
    (folder / "features.toml").write_text(text)
    return folder


def test_features_stand_in_the_documented_order(tmp_path: Path) -> None:
    feature_set = load_feature_set(write(tmp_path, FULL))
    names = [feature.name for feature in feature_set.features]
    assert names[: len(FACTS)] == [
        "amount", "hour", "weekday", "channel", "payment_type", "currency", "country", "mcc", "entry_mode",
        "three_ds_result", "ip_country", "recurring", "anonymous_ip",
    ]  # fmt: skip
    assert names[len(FACTS) :] == [
        "card.count_10m", "card.sum_10m", "card.count_24h", "card.sum_24h", "card.distinct_merchant_id_1h",
        "card.fraud_rate_7d", "card.fraud_count_7d", "card.label_count_7d", "card.small_count_10m",
        "card.small_mean_10m", "card.seconds_since_last", "card.seconds_since_first_seen", "card.speed_kmh",
        "card.distance_km", "card.travel_seconds",
        "device.login_count_10m", "device.login_failed_count_10m", "device.bad_count_30d", "device.blocked",
        "device.rooted", "device.emulator", "device.accounts", "device.seconds_since_fingerprint_changed",
        "device.seconds_since_first_event",
        "account.kyc", "account.sanctions_hit", "account.pep_hit", "account.closed", "account.seconds_since_opened",
        "account.seconds_since_credentials_changed", "account.seconds_since_address_changed", "account.mfa",
        "account.seconds_since_mfa",
        "visit.seconds_since_last", "visit.seconds_since_first_seen",
    ]  # fmt: skip
    assert feature_set.slots == {name: slot for slot, name in enumerate(names)}
    for entity in feature_set.entities:
        for start, stop in (entity.velocity_slots, entity.travel_slots, entity.reputation_slots, entity.identity_slots):
            assert {feature.entity for feature in feature_set.features[start:stop]} <= {entity.name}
    card = feature_set.entities[0]
    assert [names[start] for start in (card.velocity_slots[0], card.travel_slots[0])] == [
        "card.count_10m",
        "card.speed_kmh",
    ]
    assert card.longest_window_us == 7 * 86_400_000_000


def test_every_feature_says_what_it_is(tmp_path: Path) -> None:
    docs = {feature.name: feature.doc for feature in load_feature_set(write(tmp_path, FULL)).features}
    assert docs["card.sum_24h"] == "sum of the amounts of payments of this card in the last 24 hours"
    assert docs["card.small_count_10m"] == "number of payments with amount < 5 of this card in the last 10 minutes"
    assert (
        docs["card.distinct_merchant_id_1h"] == "number of different merchant_id values of this card in the last hour"
    )
    assert not [name for name, doc in docs.items() if "{" in doc or not doc]


def test_settings_are_read_with_their_defaults(tmp_path: Path) -> None:
    full = load_feature_set(write(tmp_path, FULL))
    assert (full.allowed_lateness_us, full.seen_ttl_us) == (12 * 3_600_000_000, 9 * 86_400_000_000)
    assert (full.fraud_rate_prior.rate, full.fraud_rate_prior.strength) == (0.01, 50.0)
    assert full.rates_path == tmp_path / "rates.csv"
    assert full.geo.city == tmp_path / "city.mmdb"
    assert full.geo.anonymous_lists == (tmp_path / "vpn.txt",)
    plain = load_feature_set(write(tmp_path, 'id = "x"\nbase_currency = "EUR"\n'))
    assert (plain.allowed_lateness_us, plain.seen_ttl_us) == (24 * 3_600_000_000, 7 * 86_400_000_000)
    assert (plain.rates_path, plain.geo.city, plain.entities) == (None, None, ())
    assert (plain.fraud_rate_prior.rate, plain.fraud_rate_prior.strength) == (0.005, 20.0)


def test_absent_values_are_nan_for_numbers_and_none_for_the_others(tmp_path: Path) -> None:
    feature_set = load_feature_set(write(tmp_path, FULL))
    values = feature_set.new_values()
    for feature, value in zip(feature_set.features, values, strict=True):
        if feature.kind == "number":
            assert isinstance(value, float)
            assert math.isnan(value)
        else:
            assert value is None
    values[0] = 1.0
    assert feature_set.new_values()[0] != 1.0


def _paid(**more: object) -> Transaction:
    fields = {
        "transaction_id": "t", "event_time_us": 0, "account_id": "a", "channel": "atm", "amount_minor": 1,
        "currency": "EUR", **more,
    }  # fmt: skip
    return Transaction(**fields)  # type: ignore[arg-type]


def test_keys_are_taken_from_what_the_event_holds(tmp_path: Path) -> None:
    feature_set = load_feature_set(write(tmp_path, FULL))
    assert feature_set.keys_of(_paid()) == [None, None, b"a", None]
    assert feature_set.keys_of(_paid(card_id="c", device_id="d", terminal_id="t")) == [b"c", b"d", b"a", b"a\x1ft"]
    device = DeviceEvent(event_id="e", event_time_us=0, device_id="d", kind="seen")
    assert feature_set.keys_of(device) == [None, b"d", None, None]
    identity = IdentityEvent(event_id="e", event_time_us=0, account_id="ä", kind="opened")
    assert feature_set.keys_of(identity) == [None, None, "ä".encode(), None]


def test_different_pairs_never_share_a_key(tmp_path: Path) -> None:
    feature_set = load_feature_set(write(tmp_path, FULL))
    parts = ["a", "a\x1f", "\x1fa", "\x1b", "a\x1b", "\x1b\x1f", "\x1f"]
    keys = [feature_set.keys_of(_paid(account_id=one, terminal_id=two))[3] for one in parts for two in parts]
    assert len(set(keys)) == len(keys)


def test_the_hash_names_the_content_and_not_its_spelling(tmp_path: Path) -> None:
    first = load_feature_set(write(tmp_path, FULL)).hash
    assert len(first) == 64
    assert load_feature_set(write(tmp_path, "# a comment\n" + FULL.replace("amount < 5", "amount < 5"))).hash == first
    assert load_feature_set(write(tmp_path, FULL.replace("amount < 5", "amount < 6"))).hash != first
    write(tmp_path, FULL)
    (tmp_path / "rates.csv").write_text("day,currency,rate\n2026-01-01,USD,0.9\n")
    assert load_feature_set(tmp_path).hash != first


def test_the_handbook_profile_declares_account_and_terminal_windows() -> None:
    feature_set = load_feature_set(REPO / "deploy" / "profiles" / "handbook")
    assert feature_set.base_currency == "EUR"
    for name in ("account.mean_30d", "account.stddev_1d", "terminal.count_7d", "terminal.fraud_rate_30d"):
        assert name in feature_set.slots
    assert [entity.key for entity in feature_set.entities] == [
        ("account_id",), ("terminal_id",), ("account_id", "terminal_id"),
    ]  # fmt: skip


HEAD = 'id = "x"\nbase_currency = "EUR"\n'
CARD = f'{HEAD}[entities.card]\nkey = "card_id"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('base_currency = "EUR"', "id is None; expected the feature set's id"),
        (HEAD.replace("EUR", "eur"), "base_currency is 'eur'; expected an ISO 4217 code"),
        (f"{HEAD}colour = 1", "colour is 1; expected no such key; known here: id, base_currency"),
        (f'{HEAD}rates = "none.csv"', "rates is 'none.csv'; expected a file; there is none at"),
        (f'{HEAD}allowed_lateness = "1w"', "allowed_lateness is '1w'; expected a whole number of s, m, h or d"),
        (f'{HEAD}seen_ttl = "0d"', "seen_ttl is '0d'; expected a whole number"),
        (f"{HEAD}[fraud_rate_prior]\nrate = 2", "fraud_rate_prior.rate is 2; expected a share from 0 to 1"),
        (f"{HEAD}[fraud_rate_prior]\nstrength = 0", "fraud_rate_prior.strength is 0; expected a number of labels > 0"),
        (f'{HEAD}[geo]\ncity = "x.mmdb"', "geo.city is 'x.mmdb'; expected a file"),
        (f'{HEAD}[entities.Card]\nkey = "card_id"', "entities.Card is 'Card'; expected a name of lower-case letters"),
        (f'{HEAD}[entities.in]\nkey = "card_id"', "entities.in is 'in'; expected a name of lower-case letters"),
        (f'{HEAD}[entities.amount]\nkey = "card_id"', "expected a name that is not a fact of the payment"),
        (f'{HEAD}[entities.card]\nkey = "card"', "entities.card.key is 'card'; expected a string field of the payment"),
        (f'{HEAD}[entities.card]\nkey = "latitude"', "entities.card.key is 'latitude'; expected a string field"),
        (f'{HEAD}[entities.card]\nkey = ["ip", "ip"]', "expected different fields, none twice"),
        (CARD, "entities.card.key is .*; expected something to keep beside it"),
        (f'{CARD}windows = ["10m"]', r"entities.card.windows is \['10m'\]; expected windows and amount together"),
        (f'{CARD}windows = ["10 m"]\namount = ["count"]', "entities.card.windows is '10 m'; expected a whole number"),
        (f'{CARD}windows = ["9999d"]\namount = ["count"]', "is '9999d'; expected .* up to ten years"),
        (f'{CARD}windows = ["1m", "1m"]\namount = ["count"]', "expected different windows such as .*, none twice"),
        (f'{CARD}windows = ["1m"]\namount = ["median"]', "entities.card.amount is 'median'; expected aggregates"),
        (f"{CARD}since_last = 1", "entities.card.since_last is 1; expected true or false"),
        (f'{CARD}distinct = {{ colour = ["1h"] }}', "entities.card.distinct.colour is .*; expected a string field"),
        (f"{CARD}distinct = {{ mcc = [] }}", r"entities.card.distinct.mcc is \[\]; expected at least one window"),
        (f"{CARD}reputation = true", "entities.card.reputation is True; expected key = 'device_id' beside it"),
        (f"{CARD}identity = true", "entities.card.identity is True; expected key = 'account_id' beside it"),
        (f"{CARD}since_last = true\nwindow = 1", "entities.card.window is 1; expected no such key; known here: key,"),
        (
            f'{CARD}[[entities.card.filtered]]\nname = "x"\nwhere = "card.count_1m > 2"\nwindows = ["1m"]\n'
            'amount = ["count"]',
            r"features.toml: entities.card.filtered\[0\].where",
        ),
        (
            f'{CARD}[[entities.card.streams]]\nevent = "device_event"\nkinds = ["seen"]\nwindows = ["1m"]',
            "expected a stream whose events hold the entity's key; these have no card_id",
        ),
        (
            f'{HEAD}[entities.device]\nkey = "device_id"\n[[entities.device.streams]]\nevent = "device_event"\n'
            'kinds = ["seen", "opened"]\nwindows = ["1m"]',
            "kinds is 'opened'; expected kinds of device_event: seen, login",
        ),
        (
            f'{HEAD}[entities.device]\nkey = "device_id"\n'
            + 2 * '[[entities.device.streams]]\nevent = "device_event"\nkinds = ["seen"]\nwindows = ["1m"]\n',
            "feature 'device.seen_count_1m' is declared twice; expected different names",
        ),
        ("id = ", "is not TOML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_by_file_key_and_value(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, text)
    with pytest.raises(ProfileError, match=message) as refused:
        load_feature_set(tmp_path)
    assert str(refused.value).startswith(str(tmp_path / "features.toml"))


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"features.toml: cannot be read \(No such file or directory\)"):
        load_feature_set(tmp_path / "features.toml")
