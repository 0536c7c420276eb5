"""Microseconds a touch of the windows, cold and hot, beside the store's own get and put.

    python -m load_tests.bench_windows

Cold: batches of 30 payments of 30 entities that hold 0 to 10 rows. Hot: batches of 30 payments of one entity that holds
4,096 rows in its longest window. Busy: the same beyond the limit, on panes. Six windows, five aggregates each; a store
in memory, whose get and put alone are timed beside.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from operators.features import FeatureSet, load_feature_set
from operators.inflight import PAYMENT, InFlight
from operators.velocity import Velocity
from schemas.events import Transaction
from state.testing import DictStore

FEATURES = """
id = "bench"
base_currency = "EUR"
[entities.account]
key = "account_id"
windows = ["1m", "10m", "1h", "24h", "7d", "30d"]
amount = ["count", "sum", "mean", "max", "stddev"]
"""
SECOND = 1_000_000
BATCH = 30


def _payment(feature_set: FeatureSet, number: int, t: int, account: str) -> InFlight:
    event = Transaction(
        transaction_id=str(number),
        event_time_us=t,
        account_id=account,
        channel="ecommerce",
        amount_minor=1,
        currency="EUR",
    )
    item = InFlight(PAYMENT, (number,), event, ("", 0, 0), 0, feature_set.keys_of(event), feature_set.new_values())
    item.amount_micros = (number * 7919) % 500_000_000
    return item


def _run(name: str, batches: list[list[InFlight]], measured: int, work: Callable[[list[InFlight]], object]) -> None:
    """Time the last `measured` batches: median and total."""
    times = []
    for at, batch in enumerate(batches):
        started = time.perf_counter()
        work(batch)
        if at >= len(batches) - measured:
            times.append((time.perf_counter() - started) / len(batch) * 1e6)
    times.sort()
    print(f"{name:34s} median {times[len(times) // 2]:7.2f} µs a touch, mean {sum(times) / len(times):7.2f}")


def _cold(feature_set: FeatureSet, each: int) -> list[list[InFlight]]:
    rng = random.Random(7)
    entities = [f"card-{n:08d}" for n in range(BATCH * 100)]
    flat = entities * each
    rng.shuffle(flat)
    items = [_payment(feature_set, n, n * SECOND, account) for n, account in enumerate(flat)]
    return [items[at : at + BATCH] for at in range(0, len(items), BATCH)]


def _hot(feature_set: FeatureSet, rows: int) -> list[list[InFlight]]:
    items = [_payment(feature_set, n, n * 20 * SECOND, "merchant") for n in range(rows + 100 * BATCH)]
    return [items[:rows]] + [items[at : at + BATCH] for at in range(rows, len(items), BATCH)]


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.toml"
        path.write_text(FEATURES)
        feature_set = load_feature_set(path)
    velocity = Velocity(feature_set, feature_set.entities[0])

    store = DictStore()
    cold = _cold(feature_set, 10)
    _run("cold, 0 to 10 rows", cold, len(cold) - 1, partial(velocity.on_batch, store))

    def store_alone(batch: list[InFlight]) -> None:
        keys = [item.keys[0] or b"" for item in batch]
        store.put_many([(key, record or b"") for key, record in zip(keys, store.get_many(keys), strict=True)])

    _run("the same batches, store alone", cold, len(cold) - 1, store_alone)
    for rows, name in ((4_000, "hot, 4,096 rows in 7 d and 30 d"), (12_000, "busy, 30 d on panes")):
        store = DictStore()
        _run(name, _hot(feature_set, rows), 90, partial(velocity.on_batch, store))


if __name__ == "__main__":
    main()
