from __future__ import annotations

import os
from pathlib import Path

import pytest

from operators.centroids import COUNTRY_CIRCLES
from operators.features import Geo as GeoSettings
from operators.geo import EVENT_RADIUS_KM, NO_FACTS, UNSTATED_IP_RADIUS_KM, Geo, IpFacts
from operators.inflight import Fix
from schemas.errors import ProfileError
from schemas.events import DeviceEvent, Transaction
from tests.operators.mmdb import Field, write_mmdb

SHARED = Path(os.environ.get("WEIR_SHARED") or Path(__file__).resolve().parents[2].parent / "shared") / "data"

LONDON: dict[str, Field] = {
    "country": {"iso_code": "GB"},
    "location": {"latitude": 51.5, "longitude": -0.1, "accuracy_radius": 20},
}
CITY: dict[str, dict[str, Field]] = {
    "192.0.2.0/25": LONDON,
    "192.0.2.128/25": {"country": {"iso_code": "FR"}},
    "198.51.100.0/24": {"country": {"iso_code": "FR"}, "location": {"latitude": 48.9, "longitude": 2.3}},
    "203.0.113.0/24": {"location": {"latitude": 1.0, "longitude": 2.0}},
    "100.64.0.0/10": {"registered_country": {"iso_code": "DE"}},
}
GB = Fix(51.5, -0.1, 20.0, "ip")


def transaction(channel: str = "ecommerce", **fields: object) -> Transaction:
    return Transaction(
        transaction_id="T1",
        event_time_us=0,
        account_id="A1",
        channel=channel,
        amount_minor=1,
        currency="EUR",
        **fields,  # type: ignore[arg-type]  # a test names what it gives
    )


def device(**fields: object) -> DeviceEvent:
    return DeviceEvent(event_id="E1", event_time_us=0, device_id="D1", kind="seen", **fields)  # type: ignore[arg-type]


def parts(fix: Fix | None) -> tuple[float, float, float, str] | None:
    return None if fix is None else (fix.latitude, fix.longitude, fix.radius_km, fix.source)


def circle(country: str, source: str) -> tuple[float, float, float, str]:
    return (*COUNTRY_CIRCLES[country], source)


@pytest.fixture
def city(tmp_path: Path) -> Geo:
    return Geo.load(GeoSettings(city=write_mmdb(tmp_path / "city.mmdb", "Tiny-City", CITY, build_epoch=77)))


def test_an_address_has_a_country_and_a_place_with_its_radius(city: Geo) -> None:
    facts = city.of_ip("192.0.2.5")
    assert (facts.country, facts.anonymous, parts(facts.fix)) == ("GB", None, parts(GB))


def test_an_address_known_by_its_country_alone_is_somewhere_in_it(city: Geo) -> None:
    assert parts(city.of_ip("192.0.2.200").fix) == circle("FR", "ip")


def test_a_place_without_a_stated_radius_is_somewhere_in_its_country_or_far_around(city: Geo) -> None:
    assert parts(city.of_ip("198.51.100.1").fix) == (48.9, 2.3, COUNTRY_CIRCLES["FR"][2], "ip")
    assert parts(city.of_ip("203.0.113.1").fix) == (1.0, 2.0, UNSTATED_IP_RADIUS_KM, "ip")


@pytest.mark.parametrize("ip", [None, "", "not an address", "10.0.0.1", "100.64.0.1", "2001:db8::1"])
def test_an_address_nothing_is_known_of_has_no_facts(city: Geo, ip: str | None) -> None:
    assert city.of_ip(ip) == NO_FACTS


def test_a_mapped_address_is_looked_up_as_ipv4(city: Geo) -> None:
    assert city.of_ip("::ffff:192.0.2.5").country == "GB"


def test_without_data_there_are_no_facts_and_no_version() -> None:
    geo = Geo.load(GeoSettings())
    assert (geo.active, geo.version, geo.of_ip("192.0.2.5")) == (False, None, NO_FACTS)


@pytest.mark.parametrize(
    "field",
    ["is_anonymous", "is_anonymous_vpn", "is_hosting_provider", "is_public_proxy", "is_tor_exit_node"],
)
def test_any_sort_of_anonymising_network_makes_an_address_anonymous_and_takes_its_place(
    tmp_path: Path, field: str
) -> None:
    networks: dict[str, dict[str, Field]] = {"192.0.2.0/26": {field: True}, "192.0.2.64/26": {field: False}}
    geo = Geo.load(
        GeoSettings(
            city=write_mmdb(tmp_path / "city.mmdb", "Tiny-City", CITY),
            anonymous=write_mmdb(tmp_path / "anonymous.mmdb", "Tiny-Anonymous", networks),
        )
    )
    assert geo.of_ip("192.0.2.1") == IpFacts("GB", True, None)
    assert (geo.of_ip("192.0.2.65").anonymous, parts(geo.of_ip("192.0.2.65").fix)) == (False, parts(GB))
    assert geo.of_ip("203.0.113.1").anonymous is False


def test_lists_and_database_of_anonymising_networks_add_up(tmp_path: Path) -> None:
    (tmp_path / "vpn.txt").write_text("192.0.2.0/24\n")
    database = write_mmdb(tmp_path / "a.mmdb", "Tiny-Anonymous", {"198.51.100.0/24": {"is_anonymous": True}})
    geo = Geo.load(GeoSettings(anonymous=database, anonymous_lists=(tmp_path / "vpn.txt",)))
    found = [geo.of_ip(ip).anonymous for ip in ("192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1")]
    assert found == [True, True, False, False]


def test_the_version_names_all_data(tmp_path: Path) -> None:
    (tmp_path / "vpn.txt").write_text("192.0.2.0/24\n")
    settings = GeoSettings(
        city=write_mmdb(tmp_path / "city.mmdb", "Tiny-City", CITY, build_epoch=77),
        anonymous=write_mmdb(tmp_path / "a.mmdb", "Tiny-Anonymous", {"192.0.2.0/24": {"is_anonymous": True}}, 78),
        anonymous_lists=(tmp_path / "vpn.txt",),
    )
    version = Geo.load(settings).version
    assert version is not None
    assert version.startswith("Tiny-City@77+Tiny-Anonymous@78+lists@")
    (tmp_path / "vpn.txt").write_text("192.0.3.0/24\n")
    assert Geo.load(settings).version != version


ABROAD = IpFacts("GB", False, GB)
ANONYMOUS = IpFacts("GB", True, None)
HERE = {"latitude": 48.85, "longitude": 2.35}
HERE_FIX = (48.85, 2.35, EVENT_RADIUS_KM, "event")


@pytest.mark.parametrize(
    ("channel", "fields", "ip", "expected"),
    [
        # coordinates come first, with their own accuracy if they state one
        ("card_present", HERE, ABROAD, HERE_FIX),
        ("ecommerce", HERE, ABROAD, HERE_FIX),
        ("wallet", {**HERE, "location_accuracy_km": 0.0}, NO_FACTS, (48.85, 2.35, 0.0, "event")),
        ("atm", {**HERE, "location_accuracy_km": 30.0}, NO_FACTS, (48.85, 2.35, 30.0, "event")),
        # half a pair, and 0, 0, are none; a single 0 is one
        ("atm", {"latitude": 48.85}, NO_FACTS, None),
        ("atm", {"latitude": 0.0, "longitude": 0.0}, NO_FACTS, None),
        ("atm", {"latitude": 0.0, "longitude": 9.45}, NO_FACTS, (0.0, 9.45, EVENT_RADIUS_KM, "event")),
        # then the address: in person only where the country does not contradict it
        ("ecommerce", {"country": "FR"}, ABROAD, parts(GB)),
        ("card_present", {}, ABROAD, parts(GB)),
        ("card_present", {"country": "GB"}, ABROAD, parts(GB)),
        ("card_present", {"country": "FR"}, ABROAD, circle("FR", "country")),
        # then the country: in person only
        ("card_present", {"country": "FR"}, NO_FACTS, circle("FR", "country")),
        ("atm", {"country": "ZZ"}, NO_FACTS, None),
        ("ecommerce", {"country": "FR"}, NO_FACTS, None),
        ("transfer", {}, NO_FACTS, None),
        # over an anonymising network nothing places a remote payer; a terminal stands where it stands
        ("ecommerce", HERE, ANONYMOUS, None),
        ("ecommerce", {"country": "FR"}, ANONYMOUS, None),
        ("card_present", HERE, ANONYMOUS, HERE_FIX),
        ("card_present", {"country": "GB"}, ANONYMOUS, circle("GB", "country")),
    ],
)
def test_a_payment_is_placed_by_the_best_that_is_known(
    channel: str, fields: dict[str, object], ip: IpFacts, expected: tuple[float, float, float, str] | None
) -> None:
    assert parts(Geo().locate_payment(transaction(channel, **fields), ip)) == expected


@pytest.mark.parametrize(
    ("fields", "ip", "expected"),
    [
        ({**HERE, "country": "DE"}, ABROAD, HERE_FIX),
        ({"country": "FR"}, ABROAD, parts(GB)),
        ({"country": "FR"}, NO_FACTS, circle("FR", "country")),
        ({}, NO_FACTS, None),
        ({**HERE, "country": "FR"}, ANONYMOUS, None),
    ],
)
def test_a_device_is_placed_by_the_best_that_is_known(
    fields: dict[str, object], ip: IpFacts, expected: tuple[float, float, float, str] | None
) -> None:
    assert parts(Geo().locate_device(device(**fields), ip)) == expected


def test_a_missing_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"none\.mmdb: cannot be read .*; expected a City database"):
        Geo.load(GeoSettings(city=tmp_path / "none.mmdb"))


def test_a_corrupt_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "city.mmdb"
    path.write_text("not a database")
    with pytest.raises(ProfileError, match=r"city\.mmdb: is not a readable mmdb file .*; expected a City database"):
        Geo.load(GeoSettings(city=path))
    whole = write_mmdb(path, "Tiny-City", CITY).read_bytes()
    path.write_bytes(whole[:100] + whole[whole.index(b"\xab\xcd\xefMaxMind.com") :])
    with pytest.raises(ProfileError, match=r"city\.mmdb: is not a readable mmdb file"):
        Geo.load(GeoSettings(city=path))


def test_a_database_of_another_sort_is_refused_in_either_place(tmp_path: Path) -> None:
    city = write_mmdb(tmp_path / "city.mmdb", "Tiny-City", CITY)
    anonymous = write_mmdb(tmp_path / "anonymous.mmdb", "Tiny-Anonymous", {"192.0.2.0/24": {"is_anonymous": True}})
    with pytest.raises(ProfileError, match="found a database of type 'Tiny-City'; expected an Anonymous-IP database"):
        Geo.load(GeoSettings(anonymous=city))
    with pytest.raises(ProfileError, match="found a database of type 'Tiny-Anonymous'; expected a City database"):
        Geo.load(GeoSettings(city=anonymous))


def shared(*names: str) -> list[Path]:
    paths = [SHARED / name for name in names]
    for path in paths:
        if not path.exists():
            pytest.skip(f"no development data at {path}")
    return paths


def test_maxminds_own_test_databases_are_read() -> None:
    city, anonymous = shared("geo/GeoIP2-City-Test.mmdb", "geo/GeoIP2-Anonymous-IP-Test.mmdb")
    geo = Geo.load(GeoSettings(city=city, anonymous=anonymous))
    london = geo.of_ip("81.2.69.142")
    assert london.country == "GB"
    assert london.anonymous is True
    assert london.fix is None
    assert geo.of_ip("1.2.0.1").anonymous is True
    linkoeping = geo.of_ip("89.160.20.112")
    assert (linkoeping.country, linkoeping.anonymous) == ("SE", False)
    assert parts(linkoeping.fix) == (58.4167, 15.6167, 76.0, "ip")
    assert geo.of_ip("2001:218::1").country == "JP"
    assert geo.version is not None
    assert geo.version.startswith("GeoIP2-City@")


def test_all_of_maxminds_anonymous_databases_pass_and_the_others_do_not() -> None:
    good = shared(
        "geo/GeoIP-Anonymous-Plus-Test.mmdb", "geo/GeoIP2-Anonymous-IP-Test.mmdb", "geo/GeoIP2-IP-Risk-Test.mmdb"
    )
    for path in good:
        assert Geo.load(GeoSettings(anonymous=path)).of_ip("203.0.113.1").anonymous is False
    for path in shared("geo/GeoLite2-ASN-Test.mmdb"):
        with pytest.raises(ProfileError, match="expected an Anonymous-IP database"):
            Geo.load(GeoSettings(anonymous=path))
        with pytest.raises(ProfileError, match="expected a City database"):
            Geo.load(GeoSettings(city=path))


def test_a_public_list_of_vpn_networks_is_read() -> None:
    geo = Geo.load(GeoSettings(anonymous_lists=tuple(shared("lists/x4b_vpn_ipv4.txt"))))
    assert [geo.of_ip(ip).anonymous for ip in ("2.26.157.9", "192.0.2.1")] == [True, False]
