"""A changed feature set across a restart, against brute force: what stays is exact, what is new is once covered."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from operators.features import FeatureSet
from operators.inflight import InFlight
from operators.velocity import Velocity
from operators.window_migrate import LATER
from operators.window_plan import Limits
from operators.window_record import HEAD_PREFIX, HEAD_STOP, META_KEY, Meta, shape_number
from schemas.errors import StateLayoutError
from state.testing import DictStore
from tests.operators.test_velocity_oracle import BUSY, CHUNKED, PROMISED, Step, random_steps
from tests.operators.windows_oracle import SECOND, Oracle, differences, feature_set_of, payment

HEAD = """
allowed_lateness = "16s"
[entities.account]
key = "account_id"
"""
STREAM = """
[[entities.account.streams]]
event = "device_event"
kinds = ["login", "login_failed", "blocked", "seen"]
name = "all"
windows = ["5s"]
"""
COUNTS = HEAD + 'windows = ["1s", "30s"]\namount = ["count"]\n' + STREAM
FIRST = (
    HEAD
    + """
windows = ["1s", "5s", "30s"]
amount = ["count", "sum", "mean", "max", "stddev"]
distinct = { merchant_id = ["5s", "30s"] }
fraud_rate = ["5s", "20s"]
[[entities.account.filtered]]
name = "small"
where = "amount < 5"
windows = ["5s", "10s"]
amount = ["count", "sum"]
"""
    + STREAM
)
SECOND_SET = (
    HEAD
    + """
windows = ["2s", "5s", "30s", "90s"]
amount = ["sum", "count", "max"]
distinct = { terminal_id = ["4s"], merchant_id = ["30s", "40s"] }
fraud_rate = ["20s", "50s"]
since_last = true
[[entities.account.filtered]]
name = "large"
where = "amount > 5"
windows = ["7s"]
amount = ["count", "sum"]
[[entities.account.filtered]]
name = "little"
where = "amount < 5"
windows = ["10s", "45s"]
amount = ["count"]
"""
    + STREAM
    + """
[[entities.account.streams]]
event = "device_event"
kinds = ["login_failed"]
windows = ["6s"]
"""
)
SHORTER = HEAD + 'windows = ["5s"]\namount = ["count"]\n' + STREAM


@dataclass
class Outcome:
    """Of the payments after the last change: (feature, warming) pairs by whether they were right."""

    right_warm: int = 0
    right_cold: int = 0
    warming: dict[str, list[int]] | None = None


def sets(folder: Path, texts: list[str]) -> list[FeatureSet]:
    made = []
    for number, text in enumerate(texts):
        (folder / f"{number}").mkdir()
        made.append(feature_set_of(folder / f"{number}", text))
    return made


def run_through(
    folder: Path, texts: list[str], steps: list[Step], cuts: list[int], limits: Limits, seed: int
) -> tuple[Outcome, DictStore]:
    """Run pieces of `steps` under one feature set after the other, on one store, with restarts and lost epochs."""
    rng = random.Random(seed)
    feature_sets = sets(folder, texts)
    store = DictStore()
    done: list[InFlight] = []
    last = feature_sets[-1]
    oracle = Oracle(last, last.entities[0], limits.exact)
    outcome = Outcome(warming={})
    bounds = [0, *cuts, len(steps)]
    for feature_set, start, stop in zip(feature_sets, bounds, bounds[1:], strict=False):
        velocity = Velocity(feature_set, feature_set.entities[0], limits)
        at = start
        while at < stop:
            piece = steps[at : min(stop, at + rng.randrange(1, 40))]
            batch = [step.item(feature_set) for step in piece]
            if rng.random() < 0.4:  # lose this batch and do it again, as after a kill
                velocity.on_snapshot(store)
                version = store.commit()
                velocity.on_batch(store, [step.item(feature_set) for step in piece])
                store = store.reopened(version)
            velocity.on_batch(store, batch)
            done += batch
            at += len(piece)
        velocity.on_snapshot(store)
        store = store.reopened(store.commit())
    for at, step in enumerate(steps):
        of_last = done[at] if at >= bounds[-2] else None
        told = oracle.take(of_last or step.item(last))
        if of_last is None or step.kind != "payment" or told is None:
            continue
        for name, answers in told[0].items():
            if "seconds_since" in name:  # no window; of late payments before it was declared nothing is known
                continue
            if "fraud_rate" in name and len(answers) > 1:  # labels from panes over frauds from rows: neither answer
                continue
            label = name.rsplit("_", 1)[1]
            wrong = differences(of_last, last, {name: answers})
            if f"warming:{label}" not in of_last.flags:
                assert wrong == [], f"event {at}: {step}, flags {of_last.flags}"
                outcome.right_warm += 1
            else:
                assert outcome.warming is not None
                outcome.warming.setdefault(label, []).append(step.t)
                outcome.right_cold += not wrong
    return outcome, store


def on_time(steps: list[Step]) -> list[Step]:
    """`steps` without future-dated events: after one of them what is new would warm until its time is reached."""
    newest = steps[0].t
    made = []
    for step in steps:
        t = step.t - 100 * SECOND if step.t > newest + 50 * SECOND else step.t
        newest = max(newest, t)
        made.append(Step(**{**vars(step), "t": t}))
    return made


@pytest.mark.parametrize("limits", [PROMISED, CHUNKED, BUSY], ids=["one record", "chunks", "panes"])
@pytest.mark.parametrize(
    "texts",
    [[FIRST, SECOND_SET], [SECOND_SET, FIRST], [COUNTS, FIRST], [FIRST, COUNTS, SECOND_SET], [FIRST, SHORTER, FIRST]],
    ids=["richer", "poorer", "values new", "and back", "shorter between"],
)
def test_whatever_is_not_flagged_warming_is_exact_after_a_change(
    tmp_path: Path, texts: list[str], limits: Limits
) -> None:
    for seed in range(2):
        folder = tmp_path / f"{seed}"
        folder.mkdir()
        pace_us = 400_000 if limits is BUSY else 1_500_000
        steps = on_time(random_steps(seed, 500, pace_us, 0 if limits is BUSY else 15))
        cuts = [150, 190][: len(texts) - 1]
        outcome, _ = run_through(folder, texts, steps, cuts, limits, seed)
        assert outcome.right_warm > 300


def test_windows_that_stay_never_warm_and_new_ones_do_until_they_are_covered(tmp_path: Path) -> None:
    steps = [
        Step("payment", 1_000 * SECOND + n * SECOND // 2, "ab"[n % 2], amount=float(n % 9), merchant=f"m{n % 5}")
        for n in range(600)
    ]
    outcome, _ = run_through(tmp_path, [FIRST, SECOND_SET], steps, [300], CHUNKED, 1)
    assert outcome.warming is not None
    change = steps[300].t
    last = {label: max(times) - change for label, times in outcome.warming.items()}
    # 2s: of amounts that were kept long enough. 90s: rows reach back 46 s (30 s and the lateness) behind the clock,
    # which lags 15 payments. 40s: those rows do for it, too. 5s, 30s, 20s, 10s stay. 4s, 7s: begin at the change.
    assert last.keys() == {"90s", "4s", "7s", "6s", "50s", "45s"}
    assert 34 * SECOND < last["90s"] < 44 * SECOND
    for label, seconds in (("4s", 4), ("7s", 7), ("6s", 6)):
        assert (seconds - 1) * SECOND <= last[label] < seconds * SECOND
    # Small payments were kept for 10 s and the lateness.
    assert 9 * SECOND < last["45s"] < 19 * SECOND
    # Labels of 20 s and the lateness are kept: 36 s behind the clock, which itself lags 15 payments of half a second.
    assert 5 * SECOND < last["50s"] < 22 * SECOND


def test_entities_are_migrated_when_touched_or_swept_and_then_the_old_shapes_are_forgotten(tmp_path: Path) -> None:
    first, second = sets(tmp_path, [FIRST, SECOND_SET])
    store = DictStore()
    velocity = Velocity(first, first.entities[0])
    items = [payment(first, 1_000 * SECOND + n, account=f"account {n}", amount=1.0) for n in range(100)]
    velocity.on_batch(store, items)
    velocity.on_snapshot(store)
    store = store.reopened(store.commit())
    velocity = Velocity(second, second.entities[0])
    velocity.on_batch(store, [payment(second, 1_001 * SECOND, account="account 7", amount=2.0)])

    def numbers() -> list[int]:
        return [shape_number(head) for _, head in store.scan(HEAD_PREFIX, HEAD_STOP, 1_000)]

    assert (numbers().count(0), numbers().count(1)) == (99, 1)
    for _ in range(4):
        velocity.on_snapshot(store)
    assert (numbers().count(0), numbers().count(1)) == (0, 100)
    record = store.get_many([META_KEY])[0]
    assert record is not None
    assert Meta.decode(record, "test").history == []
    store = store.reopened(store.commit())
    item = payment(second, 1_002 * SECOND, account="account 7", amount=3.0)
    Velocity(second, second.entities[0]).on_batch(store, [item])
    assert item.values[second.slots["account.sum_5s"]] == 6.0


def test_an_entity_that_had_expired_before_the_change_is_new_after_it_swept_or_not(tmp_path: Path) -> None:
    first, second = sets(tmp_path, [SHORTER, SECOND_SET])
    store = DictStore()
    velocity = Velocity(first, first.entities[0])
    velocity.on_batch(store, [payment(first, 1_000 * SECOND, account="old")])
    velocity.on_batch(store, [payment(first, 1_060 * SECOND, account=f"other {n}") for n in range(16)])
    record = Meta(velocity.plan.shape, "test-1", first.hash, {"5s": 1_000 * SECOND}, velocity_clock(store))
    store.put_many([(META_KEY, record.encode())])
    store = store.reopened(store.commit())
    item = payment(second, 1_061 * SECOND, account="old")
    Velocity(second, second.entities[0]).on_batch(store, [item])
    assert item.values[second.slots["account.count_90s"]] == 1.0
    assert item.values[second.slots["account.seconds_since_first_seen"]] == 0.0


def test_rows_that_the_old_clock_had_let_go_are_gone_whether_the_entity_was_touched_since_or_not(
    tmp_path: Path,
) -> None:
    first, second = sets(tmp_path, [SHORTER, SECOND_SET])
    for touched in (False, True):
        store = DictStore()
        velocity = Velocity(first, first.entities[0])
        velocity.on_batch(store, [payment(first, t * SECOND, account="x") for t in (1_000, 1_019)])
        velocity.on_batch(store, [payment(first, 1_030 * SECOND, account=f"other {n}") for n in range(16)])
        if touched:  # a refund enters no window; the head is packed anew all the same
            velocity.on_batch(store, [payment(first, 1_030 * SECOND, account="x", payment_type="refund")])
        velocity.on_snapshot(store)
        store = store.reopened(store.commit())
        item = payment(second, 1_031 * SECOND, account="x")
        Velocity(second, second.entities[0]).on_batch(store, [item])
        assert item.values[second.slots["account.count_90s"]] == 2.0
        assert "warming:90s" in item.flags


def velocity_clock(store: DictStore) -> list[int]:
    clock: list[int] = store.memo["velocity"].clock.tolist()
    return clock


def test_a_payment_that_left_no_row_is_known_to_since_last_declared_later(tmp_path: Path) -> None:
    first, second = sets(tmp_path, [SHORTER, SECOND_SET])
    store = DictStore()
    velocity = Velocity(first, first.entities[0])
    velocity.on_batch(store, [payment(first, 1_000 * SECOND), payment(first, 1_003 * SECOND, payment_type="refund")])
    velocity.on_snapshot(store)
    store = store.reopened(store.commit())
    item = payment(second, 1_007 * SECOND)
    Velocity(second, second.entities[0]).on_batch(store, [item])
    assert item.values[second.slots["account.seconds_since_last"]] == 4.0


def test_labels_begin_anew_when_another_feature_set_ran_in_between(tmp_path: Path) -> None:
    (first,) = sets(tmp_path, [FIRST])
    for predecessor, begins in ((None, False), ("test-1", False), ("between", True)):
        store = DictStore()
        velocity = Velocity(first, first.entities[0])
        velocity.on_batch(store, [payment(first, 1_000 * SECOND + n * SECOND) for n in range(60)])
        velocity.on_snapshot(store)
        record = store.get_many([META_KEY])[0]
        assert record is not None
        meta = Meta.decode(record, "test")
        meta.feature_set = "test-0" if predecessor == "between" else "test-1"
        store.put_many([(META_KEY, meta.encode())])
        store = store.reopened(store.commit())
        item = payment(first, 1_061 * SECOND)
        Velocity(first, first.entities[0], predecessor=predecessor).on_batch(store, [item])
        assert ("warming:20s" in item.flags) is begins
        assert "warming:30s" not in item.flags
    assert LATER > 1_061 * SECOND


def test_a_shape_that_cannot_be_read_and_a_number_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    first, second = sets(tmp_path, [FIRST, SECOND_SET])
    store = DictStore()
    velocity = Velocity(first, first.entities[0])
    velocity.on_batch(store, [payment(first, 1_000 * SECOND)])
    velocity.on_snapshot(store)
    store = store.reopened(store.commit())
    record = store.get_many([META_KEY])[0]
    assert record is not None
    meta = Meta.decode(record, "test")
    meta.number = 5
    store.put_many([(META_KEY, meta.encode())])
    with pytest.raises(StateLayoutError, match="expected an entity of shape 6, found 0"):
        Velocity(second, second.entities[0]).on_batch(store, [payment(second, 1_001 * SECOND)])
    meta.shape = "[]"
    store.put_many([(META_KEY, meta.encode())])
    store = store.reopened(store.commit())
    with pytest.raises(StateLayoutError, match="shard step/s00: window records: expected the shape of its windows"):
        Velocity(second, second.entities[0]).on_batch(store, [payment(second, 1_001 * SECOND)])
