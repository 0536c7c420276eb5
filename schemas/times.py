"""RFC 3339 text to whole microseconds since 1970-01-01T00:00:00Z, and back.

Both ways keep the minute's part in a bounded cache: a stream's times stay close together, and what is left of a
conversion is then two look-ups and one integer.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Final

MICROS: Final = 1_000_000
MINUTE_US: Final = 60 * MICROS
EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MIN_US: Final = (dt.datetime(1, 1, 1, tzinfo=dt.UTC) - EPOCH) // dt.timedelta(microseconds=1)
MAX_US: Final = (dt.datetime.max.replace(tzinfo=dt.UTC) - EPOCH) // dt.timedelta(microseconds=1)

# A cached minute costs about 200 bytes. Fewer than the minutes of a day in flight (1,440) would miss on every event of
# a merge of streams with late ones; 60 days hold 86,400, so a replay of two months computes each minute once.
_CACHED_MINUTES: Final = 100_000

_TIME: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
_SECONDS: Final = {f"{second:02d}": second * MICROS for second in range(60)}
_SECOND_TEXTS: Final = tuple(f"{second:02d}" for second in range(60))

_minute_us: dict[str, int] = {}
_minute_text: dict[int, str] = {}


def parse_rfc3339_us(text: str) -> int:
    """Microseconds since the epoch of an RFC 3339 date-time.

    A zone is required: Z or an offset (lower-case t and z are allowed, a space instead of T is not). One to nine
    digits of a second's fraction are read; those beyond the sixth are cut off, never rounded, so that no event moves
    into the next window. A leap second (23:59:60 UTC) is the first moment of the next day, as POSIX counts.

    Args:
        text: The date-time, years 0001 to 9999.

    Returns:
        Whole microseconds, negative before 1970.

    Raises:
        ValueError: `text` is none of this.
    """
    if len(text) == 27 and text[19] == "." and text[26] == "Z":
        minute = _minute_us.get(text[:17])
        second = _SECONDS.get(text[17:19])
        micros = text[20:26]
        # int() alone would also take "+1", " 1", "1_0" and other scripts' digits.
        if minute is not None and second is not None and micros.isdecimal() and micros.isascii():
            return minute + second + int(micros)
    return _parse_us(text)


def _parse_us(text: str) -> int:
    match = _TIME.fullmatch(text)
    if match is None:
        msg = "not an RFC 3339 date-time with a zone, such as 2026-11-01T12:00:00.000000Z"
        raise ValueError(msg)
    year, month, day, hour, minute, second = (int(group) for group in match.groups()[:6])
    fraction, sign, offset_hours, offset_minutes = match.groups()[6:]
    leap = second == 60
    start = dt.datetime(year, month, day, hour, minute, 59 if leap else second, tzinfo=dt.UTC)
    us = (start - EPOCH) // dt.timedelta(microseconds=1)
    if sign is not None:
        if int(offset_hours) > 23 or int(offset_minutes) > 59:
            msg = "the zone's offset is not between -23:59 and +23:59"
            raise ValueError(msg)
        offset_us = (int(offset_hours) * 60 + int(offset_minutes)) * MINUTE_US
        us += -offset_us if sign == "+" else offset_us
    if leap:
        us += MICROS
        if us % (86_400 * MICROS) != 0:
            msg = "second 60 is not at 23:59 UTC"
            raise ValueError(msg)
    if fraction is not None:
        us += int(fraction.ljust(9, "0")) // 1000
    if not MIN_US <= us <= MAX_US:
        msg = "outside of the years 0001 to 9999"
        raise ValueError(msg)
    if sign is None and not leap and text[10] == "T":
        if len(_minute_us) >= _CACHED_MINUTES:
            _minute_us.clear()
        _minute_us[text[:17]] = us - us % MINUTE_US
    return us


def format_rfc3339_us(us: int) -> str:
    """RFC 3339 in UTC with exactly six fraction digits: 2026-11-01T12:00:00.000000Z.

    Args:
        us: Microseconds since the epoch, years 0001 to 9999.

    Raises:
        ValueError: Outside of these years.
    """
    minute, rest = divmod(us, MINUTE_US)
    prefix = _minute_text.get(minute)
    if prefix is None:
        prefix = _format_minute(minute, us)
    return f"{prefix}{_SECOND_TEXTS[rest // MICROS]}.{rest % MICROS:06d}Z"


def _format_minute(minute: int, us: int) -> str:
    if not MIN_US <= us <= MAX_US:
        msg = f"{us} µs lies outside of the years 0001 to 9999"
        raise ValueError(msg)
    # isoformat pads the year to four digits everywhere; strftime does not.
    prefix = (EPOCH + dt.timedelta(minutes=minute)).replace(tzinfo=None).isoformat(timespec="minutes") + ":"
    if len(_minute_text) >= _CACHED_MINUTES:
        _minute_text.clear()
    _minute_text[minute] = prefix
    return prefix
