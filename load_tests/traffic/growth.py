"""Input of the growth benchmark: payments that fill the state to given sizes, and payments spread over what is there.

One file with a pair of parts a size: first payments of cards that were never seen, each with an account, a device and
an address of its own (four entities a payment), until the size is reached; then payments of cards drawn uniformly from
all there are. Uniformly is the hard case for caches: no card is busier than another. Merchants and terminals are
MERCHANTS each, used in turn; two entities more a merchant. They are as many at every size and hence busier at a larger
one: some 150 payments each in their 30-day windows at 5 million entities, 10 at 100 thousand. All have the steady pace
of `load_tests.traffic.bench`, and everything lies within the longest window for the sizes meant here (5 million
entities: 19 days), so nothing expires.

Numbers of cards are scattered over all of 24 bits, or their keys would come in ascending order, which a sorted store
never has to merge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from load_tests.traffic.bench import PAYMENTS_A_DAY
from load_tests.traffic.layout import DAY_US, Params
from load_tests.traffic.writer import rfc3339

MERCHANTS: Final = 10_000
OF_A_CARD: Final = 4
"""Entities that a new card brings: itself, its account, device and address."""
_CHUNK: Final = 50_000
_SCATTER: Final = 2_654_435_761  # odd, so a bijection of 24 bits (Knuth, TAOCP vol. 3, 6.4)
_BITS: Final = (1 << 24) - 1

_LINE: Final = (
    b'{"transaction_id":"tx-%09d","event_time":"%s","account_id":"acc-%08d","card_id":"crd-%08d","device_id":"dev-%08d",'
    b'"ip":"10.%d.%d.%d","merchant_id":"mer-%05d","terminal_id":"trm-%05d","mcc":"5411","channel":"card_present",'
    b'"amount_minor":%d,"currency":"EUR","country":"DE","latitude":%.4f,"longitude":%.4f}\n'
)


@dataclass(frozen=True, slots=True)
class Stretch:
    """The part of the file for one size.

    Attributes:
        entities: Entities there are once its filling payments are decided.
        fill_until: Number of the first payment that is spread.
        until: Number of the first payment behind the stretch.
        cards: Cards there are.
    """

    entities: int
    fill_until: int
    until: int
    cards: int


def stretches(sizes: Sequence[int], spread: int) -> list[Stretch]:
    """Where each size's payments stand, for ascending sizes and `spread` payments at each."""
    made = []
    number = cards = 0
    for size in sizes:
        more = max(0, -(-(size - 2 * MERCHANTS) // OF_A_CARD) - cards)
        cards += more
        number += more
        made.append(Stretch(OF_A_CARD * cards + 2 * min(MERCHANTS, number), number, number + spread, cards))
        number += spread
    return made


def write_growth(parts: Sequence[Stretch], params: Params, out: Path) -> Path:
    """Write `transactions.jsonl`.

    Args:
        parts: As `stretches` made them.
        params: seed and start.
        out: Folder.
    """
    rng = params.rng("growth")
    out.mkdir(parents=True, exist_ok=True)
    path = out / "transactions.jsonl"
    written = path.with_suffix(".part")
    place = rng.uniform((36.0, -9.0), (60.0, 25.0), (MERCHANTS, 2))
    begun = known = 0
    with written.open("wb", buffering=1 << 22) as lines:
        for part in parts:
            for first in range(begun, part.until, _CHUNK):
                number = np.arange(first, min(first + _CHUNK, part.until))
                fresh = known + number - begun
                drawn = rng.integers(0, part.cards, len(number))
                card = np.where(number < part.fill_until, fresh, drawn) * _SCATTER & _BITS
                lines.writelines(_rows(params, number, card, rng.normal(7.9, 1.0, len(number)), place))
            begun, known = part.until, part.cards
    written.rename(path)
    return path


def _rows(
    params: Params,
    number: NDArray[np.int64],
    card: NDArray[np.int64],
    size: NDArray[np.float64],
    place: NDArray[np.float64],
) -> list[bytes]:
    times = rfc3339((params.start_us + number * DAY_US // PAYMENTS_A_DAY).tolist())
    merchant = number % MERCHANTS
    amount = np.maximum(100, np.exp(size)).astype(np.int64)
    rows = zip(
        number.tolist(), times, card.tolist(), merchant.tolist(), amount.tolist(), *place[merchant].T.tolist(),
        strict=True,
    )  # fmt: skip
    return [
        _LINE % (tx, at.encode(), c, c, c, c >> 16, c >> 8 & 255, c & 255, mer, mer, minor, lat, lon)
        for tx, at, c, mer, minor, lat, lon in rows
    ]
