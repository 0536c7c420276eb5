"""Amounts in the base currency, by dated exchange rates, in integer arithmetic.

Rates file, CSV in UTF-8 with the header `date,currency,rate`:

    date,currency,rate
    2026-01-02,USD,1.0353
    2026-01-02,JPY,162.58

A rate is the number of major units of `currency` for one major unit of the base currency, as the European Central Bank
publishes its reference rates; a decimal number without exponent. `date` is a day in UTC. Lines may come in any order.
A rate holds from 00:00 UTC of its date until the next one of its currency, however far away that is: weekends and
holidays have no rates of their own. Before its first date a currency has no rate.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from bisect import bisect_right
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Final, NoReturn

from schemas.errors import ProfileError
from schemas.iso import CURRENCY_EXPONENT

MICROS: Final = 1_000_000
"""Micros in one major unit of the base currency."""

DAY_US: Final = 86_400_000_000

MAX_MICROS: Final = 10**18
"""Largest amount that is converted, a million million major units: what is larger would leave 64 bits in sums (nine of
them just fit), and is somebody's error. Smaller would refuse honest amounts of a base currency like the rupiah."""

_HEADER: Final = ["date", "currency", "rate"]
_RATE: Final = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?", re.ASCII)
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()


class Rates:
    """Dated exchange rates into one base currency.

    Attributes:
        base: ISO 4217 code of the base currency.
        version: Latest date and content hash of the file, "2026-01-02@9f86d081884c"; None without a file.
    """

    def __init__(self, base: str, dated: dict[str, dict[int, Fraction]], version: str | None) -> None:
        """Prepare `dated`: by currency, days since 1970-01-01 to units of the currency for one unit of the base."""
        self.base = base
        self.version = version
        self._factor = 10 ** (6 - CURRENCY_EXPONENT[base])
        self._dated: dict[str, tuple[list[int], list[tuple[int, int]]]] = {}
        for currency, by_day in dated.items():
            minor = Fraction(MICROS, 10 ** CURRENCY_EXPONENT[currency])
            days = sorted(by_day)
            ratios = [(minor / by_day[day]).as_integer_ratio() for day in days]
            self._dated[currency] = (days, ratios)

    @classmethod
    def load(cls, path: Path | None, base: str) -> Rates:
        """Rates of the file at `path`; None: only the base currency can be converted.

        Raises:
            ProfileError: the file cannot be read, or a line is not as the module describes; names file, line and value.
        """
        if base not in CURRENCY_EXPONENT:
            msg = f"base_currency: found {base!r}; expected an ISO 4217 code, such as 'EUR'"
            raise ProfileError(msg)
        if path is None:
            return cls(base, {}, None)
        try:
            content = path.read_bytes()
            rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))
        except OSError as error:
            msg = f"{path}: cannot be read ({error.strerror}); expected a rates file, CSV with date,currency,rate"
            raise ProfileError(msg) from error
        except (UnicodeDecodeError, csv.Error) as error:
            msg = f"{path}: is not CSV in UTF-8: {error}"
            raise ProfileError(msg) from error
        dated = _parse(path, rows, base)
        last = max((day for by_day in dated.values() for day in by_day), default=None)
        latest = "none" if last is None else date.fromordinal(last + _EPOCH_ORDINAL).isoformat()
        return cls(base, dated, f"{latest}@{hashlib.sha256(content).hexdigest()[:12]}")

    def to_micros(self, amount_minor: int, currency: str, event_time_us: int) -> int | None:
        """Millionths of the base currency's major unit, rounded half to even.

        Args:
            amount_minor: Amount in ISO 4217 minor units of `currency`: cents, yen, thousandths of a dinar.
            currency: ISO 4217 code.
            event_time_us: When it was paid; the rate is the last one of this UTC day or before.

        Returns:
            None when no rate is known for that day, or when the result is above MAX_MICROS.
        """
        if currency == self.base:
            micros = amount_minor * self._factor
            return micros if micros <= MAX_MICROS else None
        dated = self._dated.get(currency)
        if dated is None:
            return None
        place = bisect_right(dated[0], event_time_us // DAY_US)
        if not place:
            return None
        numerator, denominator = dated[1][place - 1]
        micros, rest = divmod(amount_minor * numerator, denominator)
        twice = rest + rest
        if twice > denominator or (twice == denominator and micros & 1):
            micros += 1
        return micros if micros <= MAX_MICROS else None


def _parse(path: Path, rows: list[list[str]], base: str) -> dict[str, dict[int, Fraction]]:
    def refuse(line: int, found: object, expected: str) -> NoReturn:
        msg = f"{path}: line {line}: found {found!r}; expected {expected}"
        raise ProfileError(msg)

    if not rows or rows[0] != _HEADER:
        refuse(1, ",".join(rows[0]) if rows else "", "the header date,currency,rate")
    dated: dict[str, dict[int, Fraction]] = {}
    for line, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != len(_HEADER):
            refuse(line, ",".join(row), "three columns: date, currency, rate")
        day_text, currency, rate_text = row
        if currency not in CURRENCY_EXPONENT:
            refuse(line, currency, "an ISO 4217 code, such as 'USD'")
        if not _RATE.fullmatch(rate_text) or not (rate := Fraction(rate_text)):
            refuse(line, rate_text, "a positive decimal number without exponent, such as 1.0353")
        try:
            day = date.fromisoformat(day_text).toordinal() - _EPOCH_ORDINAL if _DATE.fullmatch(day_text) else None
        except ValueError:
            day = None
        if day is None:
            refuse(line, day_text, "a date YYYY-MM-DD")
        if currency == base:
            if rate != 1:
                refuse(line, rate_text, f"1 as the rate of the base currency {base}, or no line for it")
            continue
        by_day = dated.setdefault(currency, {})
        if day in by_day:
            refuse(line, f"{day_text},{currency}", "one rate a currency and day; this one has another above")
        by_day[day] = rate
    return dated
