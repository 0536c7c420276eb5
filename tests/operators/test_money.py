from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.money import DAY_US, MAX_MICROS, Rates
from schemas.errors import ProfileError
from schemas.iso import CURRENCY_EXPONENT

JANUARY_2 = 20_455 * DAY_US  # 2026-01-02T00:00:00Z


def rates(directory: Path, *lines: str, base: str = "EUR") -> Rates:
    path = directory / "rates.csv"
    path.write_text("\n".join(("date,currency,rate", *lines, "")))
    return Rates.load(path, base)


@pytest.mark.parametrize(
    ("base", "minor", "micros"),
    [("EUR", 1234, 12_340_000), ("JPY", 1234, 1_234_000_000), ("KWD", 1234, 1_234_000), ("CLF", 1234, 123_400)],
)
def test_the_base_currency_needs_no_rate_but_its_minor_unit(base: str, minor: int, micros: int) -> None:
    assert Rates.load(None, base).to_micros(minor, base, 0) == micros


def test_without_a_file_only_the_base_currency_is_convertible() -> None:
    loaded = Rates.load(None, "EUR")
    assert loaded.to_micros(100, "USD", JANUARY_2) is None
    assert loaded.version is None


@pytest.mark.parametrize(
    ("currency", "rate", "minor", "micros"),
    [
        ("USD", "1.25", 10_000, 80_000_000),  # 100.00 USD at 1.25 to the euro are 80.00 EUR
        ("JPY", "160", 16_000, 100_000_000),  # 16,000 yen, which have no minor unit, are 100 EUR
        ("KWD", "0.32", 32_000, 100_000_000),  # 32.000 dinar are 100 EUR
        ("USD", "1.0353", 1, 9_659),  # a cent is 0.009659... EUR
    ],
)
def test_amounts_are_divided_by_the_rate(tmp_path: Path, currency: str, rate: str, minor: int, micros: int) -> None:
    assert rates(tmp_path, f"2026-01-02,{currency},{rate}").to_micros(minor, currency, JANUARY_2) == micros


@pytest.mark.parametrize(("minor", "micros"), [(1, 0), (3, 2), (5, 2), (7, 4)])
def test_halves_are_rounded_to_even(tmp_path: Path, minor: int, micros: int) -> None:
    assert rates(tmp_path, "2026-01-02,JPY,2000000").to_micros(minor, "JPY", JANUARY_2) == micros


def test_a_rate_holds_from_its_day_until_the_next_one(tmp_path: Path) -> None:
    loaded = rates(tmp_path, "2026-01-05,USD,4", "2026-01-02,USD,2", "2026-01-03,GBP,1")

    def dollars_at(event_time_us: int) -> int | None:
        return loaded.to_micros(100, "USD", event_time_us)

    assert dollars_at(JANUARY_2 - 1) is None
    assert dollars_at(JANUARY_2) == 500_000
    assert dollars_at(JANUARY_2 + 3 * DAY_US - 1) == 500_000
    assert dollars_at(JANUARY_2 + 3 * DAY_US) == 250_000
    assert dollars_at(JANUARY_2 + 3_000 * DAY_US) == 250_000


@settings(max_examples=300)
@given(
    minor=st.integers(0, 2**63 - 1),
    currency=st.sampled_from(["USD", "JPY", "KWD", "CLF"]),
    base=st.sampled_from(["EUR", "KRW", "BHD"]),
    whole=st.integers(0, 10**15 - 1),
    decimals=st.integers(1, 10**15 - 1),
)
def test_conversion_is_exact_to_the_last_micro(
    tmp_path_factory: pytest.TempPathFactory, minor: int, currency: str, base: str, whole: int, decimals: int
) -> None:
    rate = f"{whole}.{decimals:015d}"
    loaded = rates(tmp_path_factory.getbasetemp(), f"2026-01-02,{currency},{rate}", base=base)
    exact = Fraction(minor, 10 ** CURRENCY_EXPONENT[currency]) / Fraction(rate) * 1_000_000
    expected = round(exact)  # a Fraction rounds half to even
    assert loaded.to_micros(minor, currency, JANUARY_2) == (expected if expected <= MAX_MICROS else None)


def test_what_exceeds_the_bound_is_not_converted(tmp_path: Path) -> None:
    loaded = rates(tmp_path, "2026-01-02,JPY,1")
    assert loaded.to_micros(10**14, "EUR", 0) == MAX_MICROS
    assert loaded.to_micros(10**14 + 1, "EUR", 0) is None
    assert loaded.to_micros(10**12, "JPY", JANUARY_2) == MAX_MICROS
    assert loaded.to_micros(10**12 + 1, "JPY", JANUARY_2) is None


def test_the_version_names_the_latest_day_and_the_content(tmp_path: Path) -> None:
    first = rates(tmp_path, "2026-01-05,USD,4", "2026-01-02,GBP,2").version
    assert first is not None
    assert re.fullmatch("2026-01-05@[0-9a-f]{12}", first)
    assert rates(tmp_path, "2026-01-05,USD,4.5", "2026-01-02,GBP,2").version != first


def test_the_base_currency_may_stand_in_the_file_at_one_and_blank_lines_and_a_bom_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    path.write_bytes(b"\xef\xbb\xbfdate,currency,rate\r\n2026-01-02,EUR,1.000\r\n\r\n2026-01-02,USD,2\r\n")
    loaded = Rates.load(path, "EUR")
    assert loaded.to_micros(100, "EUR", JANUARY_2) == 1_000_000
    assert loaded.to_micros(100, "USD", JANUARY_2) == 500_000


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2026-01-02,USD", "line 2: found '2026-01-02,USD'; expected three columns"),
        ("2026-01-02,DOLLAR,1", "line 2: found 'DOLLAR'; expected an ISO 4217 code"),
        ("2026-01-02,usd,1", "line 2: found 'usd'; expected an ISO 4217 code"),
        ("2026-02-30,USD,1", "line 2: found '2026-02-30'; expected a date YYYY-MM-DD"),
        ("20260102,USD,1", "line 2: found '20260102'; expected a date YYYY-MM-DD"),
        ("2026-01-02,USD,0.00", "line 2: found '0.00'; expected a positive decimal number"),
        ("2026-01-02,USD,-1", "line 2: found '-1'; expected a positive decimal number"),
        ("2026-01-02,USD,1e3", "line 2: found '1e3'; expected a positive decimal number"),
        ("2026-01-02,USD,nan", "line 2: found 'nan'; expected a positive decimal number"),
        ("2026-01-02,USD,1/3", "line 2: found '1/3'; expected a positive decimal number"),
        ("2026-01-02,USD,N/A", "line 2: found 'N/A'; expected a positive decimal number"),
        ("2026-01-02,EUR,1.01", "line 2: found '1.01'; expected 1 as the rate of the base currency EUR"),
        ("2026-01-02,USD,1\n2026-01-02,USD,1", "line 3: found '2026-01-02,USD'; expected one rate a currency and day"),
    ],
)
def test_a_malformed_line_is_refused_by_file_line_and_value(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ProfileError, match=re.escape(f"{tmp_path / 'rates.csv'}: {message}")):
        rates(tmp_path, line)


def test_a_file_that_is_no_rates_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    with pytest.raises(ProfileError, match=r"rates\.csv: cannot be read \(No such file or directory\)"):
        Rates.load(path, "EUR")
    path.write_text("day,code,rate\n")
    with pytest.raises(ProfileError, match="line 1: found 'day,code,rate'; expected the header date,currency,rate"):
        Rates.load(path, "EUR")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ProfileError, match="is not CSV in UTF-8"):
        Rates.load(path, "EUR")
    with pytest.raises(ProfileError, match="base_currency: found 'EURO'; expected an ISO 4217 code"):
        Rates.load(None, "EURO")
