"""Input of the throughput benchmark: a million payments of a million cards at a steady rate, one merchant at 5 %.

81,920 payments a day, and every twentieth is the busiest merchant's: at any payment of this merchant its 24-hour
window holds exactly 4,096 of them, itself included, once a day has passed. That is the most for which a window is
exact; its 7- and 30-day windows grow beyond it. Nothing is fraudulent and nothing is late.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from load_tests.traffic.layout import DAY_US, Params
from load_tests.traffic.writer import rfc3339

PAYMENTS_A_DAY: Final = 81_920
TOP_EVERY: Final = 20
_CHUNK: Final = 50_000
_MERCHANTS: Final = 20_000
_TERMINALS: Final = 5  # of each merchant

_LINE: Final = (
    b'{"transaction_id":"tx-%09d","event_time":"%s","account_id":"acc-%07d","card_id":"crd-%07d","device_id":"dev-%07d",'
    b'"ip":"10.%d.%d.%d","merchant_id":"mer-%05d","terminal_id":"trm-%05d-%d","mcc":"%s","channel":"%s",'
    b'"amount_minor":%d,"currency":"%s","country":"%s","latitude":%.4f,"longitude":%.4f}\n'
)
_CHANNELS: Final = (b"card_present", b"ecommerce", b"wallet")
_CODES: Final = (b"5411", b"5812", b"5814", b"5541", b"5651", b"5732", b"4111", b"5262", b"5912", b"5499")
_MONEY: Final = ((b"EUR", b"DE"), (b"EUR", b"FR"), (b"EUR", b"ES"), (b"GBP", b"GB"), (b"USD", b"US"), (b"CHF", b"CH"))


def write_bench(params: Params, cards: int, out: Path) -> Path:
    """Write `transactions.jsonl`.

    Every payment has all six entities: account, card, device, ip, merchant, terminal. Cards are drawn log-normally
    (a tenth of the cards makes about half of the payments); four cards in five have an account of their own; most
    accounts have a device and an address, some share one.

    Args:
        params: payments, seed and start.
        cards: Cards to draw from.
        out: Folder.
    """
    rng = params.rng("bench")
    out.mkdir(parents=True, exist_ok=True)
    path = out / "transactions.jsonl"
    activity = np.cumsum(rng.lognormal(0.0, 1.2, cards))
    # Zipf's law, flattened at the top so that nobody but the first comes near 5 %.
    tail = np.cumsum(1.0 / (np.arange(1, _MERCHANTS) + 15.0))
    place = rng.uniform((36.0, -9.0), (60.0, 25.0), (_MERCHANTS, 2))
    money_of = rng.choice(len(_MONEY), _MERCHANTS, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
    with path.open("wb", buffering=1 << 22) as lines:
        for first in range(0, params.payments, _CHUNK):
            number = np.arange(first, min(first + _CHUNK, params.payments))
            n = len(number)
            time_us = params.start_us + number * DAY_US // PAYMENTS_A_DAY
            card = np.searchsorted(activity, rng.random(n) * activity[-1])
            account = np.where(card % 5 == 4, card - 1, card)
            device = np.where(account % 50 == 0, account // 500, account)
            address = np.where(account % 3 == 0, account // 30, account)
            merchant = 1 + np.searchsorted(tail, rng.random(n) * tail[-1])
            merchant = np.where(number % TOP_EVERY == 0, 0, merchant)
            amount = np.maximum(100, np.exp(rng.normal(7.9, 1.0, n))).astype(np.int64)
            rows = zip(
                number.tolist(), rfc3339(time_us.tolist()), account.tolist(), card.tolist(), device.tolist(),
                (address >> 16).tolist(), (address >> 8 & 255).tolist(), (address & 255).tolist(),
                merchant.tolist(), merchant.tolist(), rng.integers(0, _TERMINALS, n).tolist(),
                (merchant % len(_CODES)).tolist(), rng.choice(3, n, p=[0.6, 0.25, 0.15]).tolist(), amount.tolist(),
                money_of[merchant].tolist(), place[merchant, 0].tolist(), place[merchant, 1].tolist(), strict=True,
            )  # fmt: skip
            lines.writelines(
                _LINE
                % (tx, stamp.encode(), acc, crd, dev, a, b, c, mer, trm, t, _CODES[code], _CHANNELS[chan], minor,
                   *_MONEY[money], lat, lon)
                for tx, stamp, acc, crd, dev, a, b, c, mer, trm, t, code, chan, minor, money, lat, lon in rows
            )  # fmt: skip
    return path
