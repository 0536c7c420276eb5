"""What goes wrong on the way: payments that arrive late, retries, lines that nobody can read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from load_tests.traffic.layout import DAY_US, HOUR_US, MINUTE_US, SECOND_US, Params, Rng, Rows

LATE_SHARE: Final = 0.005
RETRY_SHARE: Final = 0.002
_LONGEST_DELAY_US: Final = 30 * HOUR_US  # beyond the default allowed lateness of a day: a few are late_incomplete

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Order in which payments are delivered.

    Attributes:
        row: Row of each delivery; a retried payment's row appears twice.
        late: Rows that were held up.
        retried: Rows that are delivered twice.
    """

    row: NDArray[np.int64]
    late: NDArray[np.int64]
    retried: NDArray[np.int64]


def order_of_arrival(params: Params, payments: Rows) -> Arrivals:
    """Hold some genuine payments up by minutes to hours, deliver some payments again seconds to days later."""
    rng = params.rng("arrivals")
    n = len(payments)
    arrival_us = payments["time_us"].copy()
    if params.movement:
        none = np.zeros(0, dtype=np.int64)
        return Arrivals(np.arange(n), none, none)
    late = np.flatnonzero(~payments["keep"] & (rng.random(n) < LATE_SHARE))
    delay_us = np.clip(rng.lognormal(np.log(25), 1.3, len(late)) * MINUTE_US, 2 * MINUTE_US, _LONGEST_DELAY_US)
    arrival_us[late] += delay_us.astype(np.int64)
    retried = np.flatnonzero(rng.random(n) < RETRY_SHARE)
    again_us = np.where(
        rng.random(len(retried)) < 0.93,
        SECOND_US + rng.exponential(40 * SECOND_US, len(retried)),
        rng.uniform(0.5, 5, len(retried)) * DAY_US,
    ).astype(np.int64)
    delivered = np.concatenate([np.arange(n), retried])
    delivered_us = np.concatenate([arrival_us, arrival_us[retried] + again_us])
    return Arrivals(delivered[np.argsort(delivered_us, kind="stable")], late, retried)


def broken_payments(
    params: Params, delivered: Sequence[Record | bytes], *, as_text: bool
) -> list[tuple[int, Record | bytes]]:
    """Deliveries that end as dead letters: (behind which record, what).

    Args:
        params: Seed of the choice.
        delivered: Payments in order of arrival, as JSON or as typed records.
        as_text: JSON lines can be broken in more ways than typed records.
    """
    rng = params.rng("broken")
    if params.movement or len(delivered) < 100:
        return []
    breakers = _TYPED + (_TEXTUAL if as_text else ())
    places = np.sort(rng.choice(len(delivered) - 1, 2 * len(breakers), replace=False)).tolist()
    broken: list[tuple[int, Record | bytes]] = []
    for number, place in enumerate(places):
        record = _fields(delivered[place])
        breaker = breakers[number % len(breakers)]
        if breaker is not _another_amount:
            record["transaction_id"] = f"tx-b{number:08d}"
        broken.append((place, breaker(record)))
    return broken


def broken_events(lines: Sequence[bytes], rng: Rng) -> list[tuple[int, Record | bytes]]:
    """Two unreadable lines for one of the other streams."""
    if len(lines) < 100:
        return []
    first, second = np.sort(rng.choice(len(lines) - 1, 2, replace=False)).tolist()
    unknown = {name: value for name, value in _fields(lines[second]).items() if name != "event_time"}
    return [(first, b'{"event_time": "tomorrow", '), (second, unknown)]


def _fields(item: Record | bytes) -> Record:
    return dict(orjson.loads(item)) if isinstance(item, bytes) else dict(item)


def _another_amount(record: Record) -> Record:
    return {**record, "amount_minor": record["amount_minor"] + 100}


def _wrong_currency(record: Record) -> Record:
    return {**record, "currency": "EUX"}


def _wrong_channel(record: Record) -> Record:
    return {**record, "channel": "telepathy"}


def _negative(record: Record) -> Record:
    return {**record, "amount_minor": -record["amount_minor"] - 1}


def _off_the_globe(record: Record) -> Record:
    return {**record, "latitude": 123.4, "longitude": 5.6}


def _wrong_country(record: Record) -> Record:
    return {**record, "country": "UK"}


def _no_account(record: Record) -> Record:
    return {name: value for name, value in record.items() if name != "account_id"}


def _amount_in_words(record: Record) -> Record:
    return {**record, "amount_minor": "a lot"}


def _someday(record: Record) -> Record:
    return {**record, "event_time": "2026-13-41T99:00:00Z"}


def _cut_off(record: Record) -> bytes:
    return f'{{"transaction_id":"{record["transaction_id"]}","event_time":"20'.encode()


_Breaker = Callable[[Record], Record | bytes]
_TYPED: Final[tuple[_Breaker, ...]] = (
    _another_amount, _wrong_currency, _wrong_channel, _negative, _off_the_globe, _wrong_country,
)  # fmt: skip
_TEXTUAL: Final[tuple[_Breaker, ...]] = (_no_account, _amount_in_words, _someday, _cut_off)
