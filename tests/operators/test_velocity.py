from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from operators.features import FeatureSet
from operators.inflight import TICK, InFlight
from operators.velocity import SWEEP_RECORDS, Velocity
from operators.window_plan import Limits
from operators.window_record import META_KEY, NEVER, Index, Meta, chunk_key, head_key, index_key
from schemas.errors import ProfileError, StateLayoutError
from schemas.events import Tick
from state.testing import DictStore
from tests.operators.windows_oracle import SECOND, device_event, feature_set_of, label, payment

HOUR = 3_600 * SECOND
DAY = 24 * HOUR
T0 = 1_700_000_000 * SECOND
FEATURES = """
fraud_rate_prior = { rate = 0.1, strength = 10 }
[entities.account]
key = "account_id"
windows = ["10m", "24h"]
amount = ["count", "sum", "mean", "max", "stddev"]
distinct = { merchant_id = ["24h"] }
fraud_rate = ["24h"]
since_last = true
[[entities.account.streams]]
event = "device_event"
kinds = ["login_failed"]
windows = ["10m"]
[entities.visit]
key = ["account_id", "terminal_id"]
since_last = true
"""


class Run:
    """One entity of the feature set above, on a store of its own."""

    def __init__(
        self, folder: Path, entity: str = "account", limits: Limits | None = None, text: str = FEATURES
    ) -> None:
        self.feature_set: FeatureSet = feature_set_of(folder, text)
        self.spec = next(spec for spec in self.feature_set.entities if spec.name == entity)
        self.velocity = Velocity(self.feature_set, self.spec, limits)
        self.store = DictStore()

    def pay(self, t: int, **more: object) -> InFlight:
        item = payment(self.feature_set, t, **more)  # type: ignore[arg-type]  # whatever the test says
        self.velocity.on_batch(self.store, [item])
        return item

    def feed(self, item: InFlight) -> None:
        self.velocity.on_batch(self.store, [item])

    def value(self, item: InFlight, name: str) -> object:
        return item.values[self.feature_set.slots[f"{self.spec.name}.{name}"]]

    def advance(self, t: int, events: int = 16) -> None:
        """Other accounts' payments take the shard clock to t."""
        for n in range(events):
            self.pay(t, account=f"other {n}", terminal_id="x")

    def sweep(self) -> None:
        for _ in range(1 + len(self.store.as_dict()) // SWEEP_RECORDS):
            self.velocity.on_snapshot(self.store)
            self.store.commit()


@pytest.fixture
def account(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_window_ends_with_the_payment_and_begins_just_after_its_length_before_it(account: Run) -> None:
    account.pay(T0, amount=1.0)
    account.pay(T0 + 1, amount=2.0)
    item = account.pay(T0 + 600 * SECOND, amount=4.0)
    assert account.value(item, "count_10m") == 2
    assert account.value(item, "sum_10m") == 6.0
    assert account.value(item, "count_24h") == 3


def test_equal_event_times_count_in_order_of_arrival(account: Run) -> None:
    counts = [account.value(account.pay(T0), "count_10m") for _ in range(3)]
    assert counts == [1, 2, 3]


def test_a_late_payment_gets_values_as_of_its_time_and_is_flagged(account: Run) -> None:
    account.pay(T0, amount=1.0)
    account.pay(T0 + 60 * SECOND, amount=50.0)
    late = account.pay(T0 + 30 * SECOND, amount=3.0)
    assert account.value(late, "count_10m") == 2
    assert account.value(late, "max_10m") == 3.0
    assert account.value(late, "seconds_since_last") == 30.0
    assert "late:account" in late.flags
    after = account.pay(T0 + 61 * SECOND)
    assert account.value(after, "count_10m") == 4
    assert "late:account" not in after.flags


def test_a_payment_earlier_than_the_first_one_has_been_seen_for_no_time(account: Run) -> None:
    account.pay(T0)
    late = account.pay(T0 - 10 * SECOND)
    assert account.value(late, "seconds_since_first_seen") == 0.0
    assert math.isnan(account.value(late, "seconds_since_last"))  # type: ignore[arg-type]
    assert account.value(account.pay(T0 + SECOND), "seconds_since_first_seen") == 11.0


def test_refunds_and_reversals_enter_no_amount_window_but_are_payments(account: Run) -> None:
    account.pay(T0, amount=10.0)
    refund = account.pay(T0 + SECOND, amount=99.0, payment_type="refund")
    assert account.value(refund, "count_10m") == 1
    assert account.value(refund, "sum_10m") == 10.0
    account.pay(T0 + 2 * SECOND, amount=99.0, payment_type="reversal")
    item = account.pay(T0 + 5 * SECOND, amount=1.0)
    assert account.value(item, "count_10m") == 2
    assert account.value(item, "max_10m") == 10.0
    assert account.value(item, "seconds_since_last") == 3.0


def test_a_verification_enters_the_windows_with_its_zero_amount(account: Run) -> None:
    account.pay(T0, amount=10.0)
    item = account.pay(T0 + 1, amount=0.0, payment_type="verification")
    assert account.value(item, "count_10m") == 2
    assert account.value(item, "mean_10m") == 5.0


def test_a_payment_without_a_rate_counts_but_has_no_amount(account: Run) -> None:
    first = account.pay(T0, amount=None)
    assert account.value(first, "count_10m") == 1
    assert account.value(first, "sum_10m") == 0.0
    for name in ("mean_10m", "max_10m", "stddev_10m"):
        assert math.isnan(account.value(first, name))  # type: ignore[arg-type]
    account.pay(T0 + 1, amount=2.0)
    item = account.pay(T0 + 2, amount=4.0)
    assert account.value(item, "count_10m") == 3
    assert account.value(item, "mean_10m") == 3.0
    assert account.value(item, "stddev_10m") == pytest.approx(math.sqrt(2.0), rel=1e-12)


def test_amounts_of_a_quadrillion_minor_units_are_summed_exactly(account: Run) -> None:
    for n in range(9):
        item = account.pay(T0 + n, amount=1e12)
    item = account.pay(T0 + 9, amount=0.000001)
    micros = 9 * 10**18 + 1
    assert account.value(item, "sum_10m") == micros / 1e6
    assert account.value(item, "mean_10m") == micros / 10 / 1e6
    for _ in range(2):
        item = account.pay(T0 + 10, amount=1e16)  # more than 64 bits of micros
    assert account.value(item, "max_10m") == pytest.approx(4.6e12, rel=0.01)
    assert account.value(item, "sum_10m") == pytest.approx(9e12 + 9.2e12, rel=0.01)


def test_the_spread_of_nearly_equal_large_amounts_is_not_lost(account: Run) -> None:
    for n in range(100):
        item = account.pay(T0 + n, amount=1e9 + (n % 2) * 0.01)
    assert account.value(item, "stddev_10m") == pytest.approx(0.005 * math.sqrt(100 / 99), rel=1e-9)


def test_absent_values_are_not_distinct_values(account: Run) -> None:
    for n, merchant in enumerate(["m1", None, "m2", "m1", None]):
        item = account.pay(T0 + n, merchant_id=merchant)
    assert account.value(item, "distinct_merchant_id_24h") == 2
    assert account.value(item, "count_24h") == 5


def test_a_label_counts_by_its_own_time_and_weight(account: Run) -> None:
    account.feed(label(account.feature_set, T0, fraud=True))
    account.feed(label(account.feature_set, T0 + HOUR, fraud=False, weight=4.0))
    before = account.pay(T0 + SECOND)
    assert account.value(before, "label_count_24h") == 1.0
    after = account.pay(T0 + 2 * HOUR)
    assert account.value(after, "fraud_count_24h") == 1.0
    assert account.value(after, "label_count_24h") == 5.0
    assert account.value(after, "fraud_rate_24h") == pytest.approx((1 + 10 * 0.1) / (5 + 10), rel=1e-12)
    assert account.value(account.pay(T0 + 24 * HOUR), "fraud_count_24h") == 0.0


def test_a_correction_takes_the_earlier_label_out(account: Run) -> None:
    account.feed(label(account.feature_set, T0, fraud=False, weight=2.0))
    account.feed(label(account.feature_set, T0, fraud=False, weight=3.0))
    account.feed(label(account.feature_set, T0 + HOUR, fraud=True, previous=(T0, False, 2.0)))
    item = account.pay(T0 + 2 * HOUR)
    assert account.value(item, "label_count_24h") == 4.0
    assert account.value(item, "fraud_count_24h") == 1.0
    account.feed(label(account.feature_set, T0 + 3 * HOUR, fraud=False, previous=(T0 + HOUR, True, 1.0)))
    assert account.value(account.pay(T0 + 4 * HOUR), "fraud_count_24h") == 0.0


def test_other_streams_count_by_kind_and_do_not_make_payments_late(account: Run) -> None:
    for n, kind in enumerate(["login_failed", "login", "login_failed"]):
        account.feed(device_event(account.feature_set, T0 + n, kind))
    item = account.pay(T0 + 1)
    assert account.value(item, "login_failed_count_10m") == 1
    assert "late:account" not in item.flags
    assert math.isnan(account.value(item, "seconds_since_last"))  # type: ignore[arg-type]


def test_a_pair_is_new_until_both_parts_have_met(tmp_path: Path) -> None:
    visit = Run(tmp_path, "visit")
    visit.pay(T0, account="a", terminal_id="t1")
    visit.pay(T0 + SECOND, account="b", terminal_id="t2")
    new = visit.pay(T0 + 2 * SECOND, account="a", terminal_id="t2")
    assert math.isnan(visit.value(new, "seconds_since_last"))  # type: ignore[arg-type]
    known = visit.pay(T0 + 3 * SECOND, account="a", terminal_id="t1")
    assert visit.value(known, "seconds_since_last") == 3.0


def test_a_payment_without_the_key_is_flagged_absent_and_nothing_else(tmp_path: Path) -> None:
    visit = Run(tmp_path, "visit")
    item = visit.pay(T0, terminal_id=None)
    assert item.flags == ["absent:visit"]
    assert math.isnan(visit.value(item, "seconds_since_last"))  # type: ignore[arg-type]
    assert visit.store.as_dict() == {}


def test_duplicates_and_other_kinds_pass_untouched(account: Run) -> None:
    account.pay(T0)
    before = account.store.as_dict()
    duplicate = payment(account.feature_set, T0 + 1, duplicate=True)
    tick = InFlight(TICK, (1,), Tick(event_time_us=T0), ("", 0, 0), 0, [], [])
    batch = [duplicate, tick, device_event(account.feature_set, T0, "seen")]
    assert account.velocity.on_batch(account.store, batch) is batch
    assert duplicate.flags == []
    assert math.isnan(account.value(duplicate, "count_10m"))  # type: ignore[arg-type]
    assert account.store.as_dict() == before


def test_windows_that_reach_back_further_than_the_state_are_warming(account: Run) -> None:
    assert account.pay(T0).flags == ["warming:10m", "warming:24h"]
    assert account.pay(T0 + 600 * SECOND - 2).flags == ["warming:10m", "warming:24h"]
    assert account.pay(T0 + 600 * SECOND - 1).flags == ["warming:24h"]
    assert account.pay(T0 + DAY - 1).flags == []


def test_coverage_and_clock_survive_a_restart_and_a_rollback(account: Run) -> None:
    account.pay(T0)
    account.velocity.on_snapshot(account.store)
    version = account.store.commit()
    account.advance(T0 + 90 * DAY)
    account.store = account.store.reopened(version)
    item = account.pay(T0 + 600 * SECOND)
    assert item.flags == ["warming:24h"]
    assert account.value(item, "count_24h") == 2
    account.velocity.on_snapshot(account.store)
    meta = Meta.decode(account.store.get_many([META_KEY])[0] or b"", "here")
    assert meta.covered == {"10m": T0, "24h": T0}
    assert (meta.feature_set, meta.hash) == (account.feature_set.id, account.feature_set.hash)
    assert meta.clock[-2:] == [T0, T0 + 600 * SECOND]
    assert meta.clock[0] == NEVER


def test_fifteen_future_dated_events_expire_nothing_and_the_sixteenth_does(account: Run) -> None:
    account.pay(T0)
    account.advance(T0 + 400 * DAY, events=15)
    account.sweep()
    item = account.pay(T0 + SECOND)
    assert account.value(item, "count_24h") == 2
    assert "late_incomplete" not in item.flags
    account.advance(T0 + 400 * DAY, events=1)
    item = account.pay(T0 + 2 * SECOND)
    assert "late_incomplete" in item.flags
    assert account.value(item, "count_24h") == 1


@pytest.mark.parametrize("limits", [None, Limits(exact=8, chunk=4, tail=6)], ids=["one record", "chunks and panes"])
def test_an_expired_entity_is_new_whether_it_was_swept_or_not(tmp_path: Path, limits: Limits | None) -> None:
    answers = []
    for swept in (False, True):
        run = Run(tmp_path, limits=limits)
        for n in range(40):
            run.pay(T0 + n * SECOND, merchant_id=f"m{n}")
            run.feed(label(run.feature_set, T0 + n * SECOND, fraud=True))
        run.advance(T0 + 3 * DAY)
        if swept:
            run.sweep()
            left = [key for key in run.store.as_dict() if b"other" not in key]
            assert left == [META_KEY]
        item = run.pay(T0 + 3 * DAY + 1)
        assert run.value(item, "seconds_since_first_seen") == 0.0
        assert math.isnan(run.value(item, "seconds_since_last"))  # type: ignore[arg-type]
        late = run.pay(T0 + 30 * SECOND)
        answers.append([[repr(value) for value in one.values] + one.flags for one in (item, late)])
    assert answers[0] == answers[1]


def test_the_sweep_looks_at_a_bounded_number_of_records_and_comes_round(account: Run) -> None:
    for n in range(3 * SWEEP_RECORDS):
        account.pay(T0, account=f"old {n:03}")
    account.advance(T0 + 3 * DAY)
    counts = []
    for _ in range(5):
        account.velocity.on_snapshot(account.store)
        counts.append(sum(b"old" in key for key in account.store.as_dict()))
    assert counts[0] >= 2 * SWEEP_RECORDS
    assert counts[-1] == 0


def test_rows_beyond_the_longest_window_and_the_allowed_lateness_leave_the_record(account: Run) -> None:
    for day in range(40):
        account.advance(T0 + day * DAY)
        item = account.pay(T0 + day * DAY)
        assert account.value(item, "seconds_since_first_seen") == day * 86_400.0
    head = account.store.get_many([head_key(b"a")])[0]
    assert head is not None
    assert len(head) < 8 * 30


def test_a_busy_entity_keeps_a_short_head_and_gives_up_rows_beyond_the_raw_limit(tmp_path: Path) -> None:
    run = Run(tmp_path, limits=Limits(exact=32, raw=64, chunk=8, tail=12))
    for n in range(300):
        item = run.pay(T0 + n * SECOND, amount=1.0, merchant_id=f"m{n % 5}")
    assert run.value(item, "count_24h") == 300
    assert run.value(item, "sum_24h") == 300.0
    assert run.value(item, "distinct_merchant_id_24h") == pytest.approx(5, abs=1)
    assert "approximated:account.24h" in item.flags
    records = run.store.as_dict()
    assert len(records[head_key(b"a")]) < 8 * (13 + 3 * 12)
    index = Index.decode(records[index_key(b"a")], 5, len(run.velocity.plan.windows), "here")
    assert 64 - 12 <= sum(chunk.rows for chunk in index.chunks[0]) <= 64 + 8
    assert len([key for key in records if key.startswith(b"vc")]) == sum(map(len, index.chunks))


def test_only_the_busy_window_is_approximated(tmp_path: Path) -> None:
    run = Run(tmp_path, limits=Limits(exact=32, raw=4_096, chunk=8, tail=12))
    for n in range(60):
        item = run.pay(T0 + n * 60 * SECOND)
    flags = [flag for flag in item.flags if flag.startswith("approximated")]
    assert flags == ["approximated:account.24h"]
    assert run.value(item, "count_10m") == 10
    for n in range(40):
        item = run.pay(T0 + 5 * DAY + n * HOUR)
    assert not [flag for flag in item.flags if flag.startswith("approximated")]
    assert run.value(item, "count_24h") == 24


def test_a_sketch_estimates_many_distinct_values_within_its_error(tmp_path: Path) -> None:
    run = Run(tmp_path, limits=Limits(exact=256, chunk=64, tail=96))
    items = [payment(run.feature_set, T0 + n * SECOND, merchant_id=f"merchant {n}") for n in range(5_000)]
    run.velocity.on_batch(run.store, items)
    errors = [
        run.value(items[n], "distinct_merchant_id_24h") / (n + 1) - 1  # type: ignore[operator]
        for n in range(500, 5_000, 100)
    ]
    assert np.abs(errors).max() < 4 * 0.065
    assert np.abs(errors).mean() < 0.065 * 1.5


def test_one_future_dated_event_pushes_no_panes_out(tmp_path: Path) -> None:
    run = Run(tmp_path, limits=Limits(exact=32, raw=64, chunk=8, tail=12))
    run.advance(T0)
    for n in range(200):
        run.pay(T0 + n * SECOND)
    run.pay(T0 + 900 * DAY)
    item = run.pay(T0 + 200 * SECOND)
    assert run.value(item, "count_24h") == 201


def test_a_late_payment_behind_panes_given_up_in_its_batch_finds_its_rows(tmp_path: Path) -> None:
    counts = []
    for batch_size in (1, 1_000):
        text = '[entities.account]\nkey = "account_id"\nwindows = ["10m"]\namount = ["count"]'
        run = Run(tmp_path, limits=Limits(exact=8, raw=1_000, chunk=4, tail=6), text=text)
        for n in range(200):
            run.pay(T0 + n * SECOND)
        times = [T0 + 3_000 * SECOND + n for n in range(17)] + [T0 + 199 * SECOND]
        items = [payment(run.feature_set, t) for t in times]
        for at in range(0, len(items), batch_size):
            run.velocity.on_batch(run.store, items[at : at + batch_size])
        counts.append(run.value(items[-1], "count_10m"))
    assert counts == [201, 201]


def test_keys_with_any_bytes_do_not_meet(account: Run) -> None:
    keys = ["a", "a\x00", "a\x00\x00\x00\x00\x00", "a\x00\x00\x00\x00\x01", "\x00"]
    for _ in range(2):
        counts = [account.value(account.pay(T0, account=key), "count_10m") for key in keys]
    assert counts == [2] * len(keys)
    assert chunk_key(b"a", 0, 1) != chunk_key(b"a\x00", 0, 1)


def test_a_missing_chunk_stops_the_shard(tmp_path: Path) -> None:
    run = Run(tmp_path, limits=Limits(chunk=4, tail=6))
    for n in range(20):
        run.pay(T0 + n)
    run.store.put_many([(chunk_key(b"a", 0, 0), None)])
    with pytest.raises(StateLayoutError, match="expected 4 chunks or panes named by an index, found 3"):
        run.pay(T0 + 20)


def test_more_windows_than_there_are_flags_are_refused(tmp_path: Path) -> None:
    windows = ", ".join(f'"{n}s"' for n in range(1, 62))
    with pytest.raises(ProfileError, match="61 different windows over 2 series of events; expected at most 60"):
        Run(tmp_path, text=f'[entities.account]\nkey = "account_id"\nwindows = [{windows}]\namount = ["count"]')
