"""Windows against SQL: 50,000 payments with ties, late ones and one entity beyond the exact limit, joined in DuckDB."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from operators.panes import PANES
from operators.velocity import Velocity
from state.testing import DictStore
from tests.operators.windows_oracle import SECOND, feature_set_of, payment

EVENTS = 50_000
EXACT = 4_096
HOUR = 3_600 * SECOND
WINDOWS = {"10m": HOUR // 6, "24h": 24 * HOUR, "7d": 168 * HOUR}
FEATURES = """
[entities.account]
key = "account_id"
windows = ["10m", "24h", "7d"]
amount = ["count", "sum", "mean", "max", "stddev"]
distinct = { merchant_id = ["24h"] }
"""
# As of each payment: what arrived no later than it, with a time in (t - w, t]. `seq` is the order of arrival.
QUERY = """
select a.seq, count(*) as n, sum(b.micros) as total, max(b.micros) as largest,
    stddev_samp(b.micros::double - a.micros) as spread, {merchants} as merchants,
    count(*) filter (where b.t > a.t - $length) as exact_n,
    max(b.micros) filter (where b.t > a.t - $length) as exact_max,
    sum(b.micros) filter (where b.t > a.t - $length) as exact_total
from payments a join payments b
    on a.account = b.account and b.seq <= a.seq and b.t <= a.t and b.t >= {begin}
where {which}
group by a.seq order by a.seq
"""
EXACT_BEGIN = "a.t - $length + 1"
PANE_BEGIN = f"(a.t - $length + 1) // ($length // {PANES}) * ($length // {PANES})"


def _payments() -> pd.DataFrame:
    """20 days; one account makes a tenth of the payments, so that its 7 days hold more than 4,096 only in a part."""
    rng = random.Random(20)
    now = 1_700_000_000 * SECOND
    rows = []
    for seq in range(EVENTS):
        rush = 20_000 < seq < 26_000
        now += rng.choice([0, 0, rng.randrange(140 * SECOND), SECOND]) if not rush else rng.choice([0, 20 * SECOND])
        t = now - rng.randrange(24 * HOUR) if rng.random() < 0.05 else now
        account = "hot" if rng.random() < (0.9 if rush else 0.03) else f"a{int(2_000 * rng.random() ** 3)}"
        rows.append((seq, t, account, rng.choice([1, 99, 1_000_000, rng.randrange(10**9)]), f"m{rng.randrange(300)}"))
    return pd.DataFrame(rows, columns=["seq", "t", "account", "micros", "merchant"])


def test_every_window_equals_the_sql_over_the_same_events(tmp_path: Path) -> None:
    feature_set = feature_set_of(tmp_path, FEATURES)
    payments = _payments()
    items = [
        payment(feature_set, row.t, account=row.account, amount=row.micros / 1e6, merchant_id=row.merchant)
        for row in payments.itertuples()
    ]
    velocity, store = Velocity(feature_set, feature_set.entities[0]), DictStore()
    for at in range(0, EVENTS, 500):
        velocity.on_batch(store, items[at : at + 500])
        velocity.on_snapshot(store)
        store.commit()

    database = duckdb.connect()
    database.register("payments", payments)
    slots, busy = feature_set.slots, 0
    for window, length in WINDOWS.items():
        merchants_of = "count(distinct b.merchant)" if window == "24h" else "0"
        flag = f"approximated:account.{window}"
        flagged = {seq for seq, item in enumerate(items) if flag in item.flags}
        database.register("flagged", pd.DataFrame({"seq": sorted(flagged)}, dtype="int64"))
        which = "a.seq not in (select seq from flagged)"
        rows = database.execute(
            QUERY.format(begin=EXACT_BEGIN, which=which, merchants=merchants_of), {"length": length}
        ).fetchall()
        assert len(rows) + len(flagged) == EVENTS
        for seq, n, total, largest, spread, merchants, *_ in rows:
            values: Any = items[seq].values
            assert n <= EXACT, f"{window} of payment {seq} holds {n} events and is not flagged"
            got = [values[slots[f"account.{name}_{window}"]] for name in ("count", "sum", "max", "mean")]
            assert got == [n, int(total) / 1e6, largest / 1e6, int(total) / n / 1e6], f"{window} of payment {seq}"
            stddev = values[slots[f"account.stddev_{window}"]]
            if spread is None:
                assert math.isnan(stddev)
            else:
                assert math.isclose(stddev, spread / 1e6, rel_tol=1e-9, abs_tol=1e-9)
            if window == "24h":
                assert values[slots["account.distinct_merchant_id_24h"]] == merchants
        # Panes are exact for a window that begins with a whole pane; checked on some, for the join's sake.
        which = "a.seq in (select seq from flagged) and a.seq % 7 = 0"
        rows = database.execute(
            QUERY.format(begin=PANE_BEGIN, which=which, merchants=merchants_of), {"length": length}
        ).fetchall()
        for seq, n, total, largest, _, merchants, exact_n, exact_max, exact_total in rows:
            values = items[seq].values
            got = [values[slots[f"account.{name}_{window}"]] for name in ("count", "sum", "max")]
            assert exact_n > EXACT
            assert got in (
                [n, int(total) / 1e6, largest / 1e6],
                [exact_n, int(exact_total) / 1e6, exact_max / 1e6],
            ), f"{window} of payment {seq}"
            if window == "24h":
                assert math.isclose(values[slots["account.distinct_merchant_id_24h"]], merchants, rel_tol=0.26)
        busy += len(rows)
    assert busy > 300
