from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import times
from schemas.times import MAX_US, MIN_US, format_rfc3339_us, parse_rfc3339_us

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
moments = st.integers(MIN_US, MAX_US)


@given(moments)
def test_every_microsecond_survives_the_round_trip(us: int) -> None:
    text = format_rfc3339_us(us)
    assert len(text) == 27
    assert text.endswith("Z")
    assert parse_rfc3339_us(text) == us
    assert parse_rfc3339_us(text) == us  # the second time through the cache


@given(moments)
def test_formatting_agrees_with_the_standard_library(us: int) -> None:
    moment = (EPOCH + dt.timedelta(microseconds=us)).replace(tzinfo=None)
    assert format_rfc3339_us(us) == moment.isoformat(timespec="microseconds") + "Z"


@given(
    st.datetimes(dt.datetime(2, 1, 1), dt.datetime(9998, 12, 31)),  # noqa: DTZ001 - the zone is drawn beside it
    st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)).map(lambda d: dt.timedelta(minutes=d.seconds // 60)),
)
def test_offsets_agree_with_the_standard_library(naive: dt.datetime, offset: dt.timedelta) -> None:
    moment = naive.replace(tzinfo=dt.timezone(offset))
    assert parse_rfc3339_us(moment.isoformat(timespec="microseconds")) == (moment - EPOCH) // dt.timedelta(
        microseconds=1
    )


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00z", 0),
        ("1970-01-01T00:00:00.5Z", 500_000),
        ("1970-01-01T00:00:00.123456789Z", 123_456),
        ("1970-01-01T00:00:00.999999999Z", 999_999),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1969-12-31T18:30:00-05:30", 0),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
        ("2017-01-01T00:59:60+01:00", 1_483_228_800_000_000),
        ("2024-02-29T00:00:00.000000Z", 1_709_164_800_000_000),
    ],
)
def test_accepted_forms_give_their_microseconds(text: str, us: int) -> None:
    assert parse_rfc3339_us(text) == us


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-01",
        "2026-11-01T12:00:00",
        "2026-11-01T12:00:00.000000",
        "2026-11-01 12:00:00Z",
        "2026-11-01T12:00Z",
        "2026-11-01T12:00:00.Z",
        "2026-11-01T12:00:00.1234567890Z",
        "2026-11-01T12:00:00,5Z",
        "2026-11-01T24:00:00Z",
        "2026-11-01T12:60:00Z",
        "2026-11-01T12:00:60Z",
        "2026-11-01T23:59:61Z",
        "2026-02-29T12:00:00Z",
        "2026-13-01T12:00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "2026-11-01T12:00:00+24:00",
        "2026-11-01T12:00:00+01:60",
        "2026-11-01T12:00:00+0100",
        "2026-11-01T12:00:00.+12345Z",
        "2026-11-01T12:00:00.1_2345Z",
        "2026-11-01T12:00:00. 12345Z",
        "2026-11-01T12:00:00.१२३४५६Z",
        "2026-11-01T12:00:0१.000000Z",
        "2026-11-01T12:00:00.000000Z\n",
        " 2026-11-01T12:00:00.000000Z",
        "-026-11-01T12:00:00.000000Z",
    ],
)
def test_anything_else_is_refused_also_when_its_minute_is_known(text: str) -> None:
    parse_rfc3339_us("2026-11-01T12:00:00.000000Z")
    with pytest.raises(ValueError, match=r"RFC 3339|must be in|out of range|zone's offset|second 60|years 0001|day"):
        parse_rfc3339_us(text)


def test_times_outside_of_four_digit_years_cannot_be_formatted() -> None:
    for us in (MIN_US - 1, MAX_US + 1, 10**30, -(10**30)):
        with pytest.raises(ValueError, match="years 0001 to 9999"):
            format_rfc3339_us(us)


def test_caches_stay_within_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(times, "_CACHED_MINUTES", 10)
    monkeypatch.setattr(times, "_minute_us", {})
    monkeypatch.setattr(times, "_minute_text", {})
    for minute in range(100):
        assert parse_rfc3339_us(format_rfc3339_us(minute * times.MINUTE_US)) == minute * times.MINUTE_US
        assert len(times._minute_us) <= 10
    assert len(times._minute_text) <= 10
