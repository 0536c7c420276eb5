"""Windows against brute force, and against themselves with other batches, commits and rollbacks."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from operators.features import FeatureSet
from operators.inflight import PAYMENT, InFlight
from operators.velocity import Velocity
from operators.window_plan import Limits
from state.testing import DictStore
from tests.operators.windows_oracle import (
    SECOND,
    Oracle,
    device_event,
    differences,
    feature_set_of,
    label,
    payment,
)

FEATURES = """
allowed_lateness = "10s"
[entities.account]
key = "account_id"
windows = ["1s", "5s", "30s"]
amount = ["count", "sum", "mean", "max", "stddev"]
distinct = { merchant_id = ["5s", "30s"], terminal_id = ["1s"] }
fraud_rate = ["5s", "20s"]
since_last = true
[[entities.account.filtered]]
name = "small"
where = "amount < 5"
windows = ["5s", "10s"]
amount = ["count", "sum"]
[[entities.account.streams]]
event = "device_event"
kinds = ["login", "login_failed"]
windows = ["5s"]
[[entities.account.streams]]
event = "device_event"
kinds = ["login_failed", "blocked"]
name = "bad"
windows = ["5s", "8s"]
[entities.visit]
key = ["account_id", "terminal_id"]
since_last = true
"""
PROMISED = Limits()
CHUNKED = Limits(chunk=4, tail=6)
BUSY = Limits(exact=12, chunk=4, tail=6)


@pytest.fixture(scope="module")
def feature_set(tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    return feature_set_of(tmp_path_factory.mktemp("profile"), FEATURES)


@dataclass(frozen=True)
class Step:
    """One event to come, told apart from the InFlight it becomes, which a run changes."""

    kind: str  # payment, duplicate, label, or a kind of device event
    t: int
    account: str
    amount: float | None = None
    payment_type: str = "purchase"
    merchant: str | None = None
    terminal: str | None = None
    fraud: bool = False
    weight: float = 1.0
    previous: tuple[int, bool, float] | None = None

    def item(self, feature_set: FeatureSet) -> InFlight:
        if self.kind in ("payment", "duplicate"):
            return payment(
                feature_set, self.t, account=self.account, amount=self.amount, payment_type=self.payment_type,
                merchant_id=self.merchant, terminal_id=self.terminal, duplicate=self.kind == "duplicate",
            )  # fmt: skip
        if self.kind == "label":
            return label(
                feature_set, self.t, account=self.account, fraud=self.fraud, weight=self.weight, previous=self.previous
            )
        return device_event(feature_set, self.t, self.kind, account=self.account)


def steps_from(draw: Callable[[int], int], count: int, pace_us: int, late_percent: int) -> list[Step]:
    """A sequence of events with ties, late and future-dated ones; draw(n) chooses one of 0..n-1."""
    now = 1_000 * SECOND
    steps: list[Step] = []
    labels: list[Step] = []
    for _ in range(count):
        now += (0, 0, 1, pace_us // 2, draw(pace_us) + 1)[draw(5)]
        t = now
        if draw(100) < late_percent:
            t -= draw(15 * SECOND) + 1
        if draw(100) == 0:
            t += 100 * SECOND
        account = "aab"[draw(3)]
        kind = draw(20)
        if kind < 14:
            steps.append(
                Step(
                    "duplicate" if draw(20) == 0 else "payment", t, account,
                    amount=(None, 0.0, 0.01, 3.5, 3.5, 1e9, 9_999_999_999.99, 17.29)[draw(8)],
                    payment_type=("purchase", "purchase", "purchase", "verification", "refund", "reversal")[draw(6)],
                    merchant=(None, "m1", "m2", "m3", "m4")[draw(5)], terminal=(None, "t1", "t2")[draw(3)],
                )
            )  # fmt: skip
        elif kind < 17:
            previous = labels.pop(draw(len(labels))) if labels and draw(2) else None
            step = Step(
                "label", t, previous.account if previous else account, fraud=draw(2) == 0,
                weight=(1.0, 3.25, 1 / 0.3)[draw(3)],
                previous=(previous.t, previous.fraud, previous.weight) if previous else None,
            )  # fmt: skip
            labels.append(step)
            steps.append(step)
        else:
            steps.append(Step(("login", "login_failed", "blocked", "seen")[draw(4)], t, account))
    return steps


def random_steps(seed: int, count: int, pace_us: int, late_percent: int) -> list[Step]:
    rng = random.Random(seed)
    return steps_from(rng.randrange, count, pace_us, late_percent)


def run(
    feature_set: FeatureSet, entity: int, steps: list[Step], limits: Limits, cut: Callable[[], int],
    crash: random.Random | None = None,
) -> list[InFlight]:  # fmt: skip
    """Feed the steps; with `crash`, commit now and then, and sometimes lose what came after and start again from it."""
    velocity = Velocity(feature_set, feature_set.entities[entity], limits)
    store = DictStore()
    items: list[InFlight] = []
    while len(items) < len(steps):
        batch = [step.item(feature_set) for step in steps[len(items) : len(items) + cut()]]
        assert velocity.on_batch(store, batch) == batch
        items += batch
        if crash is not None and crash.random() < 0.3:
            velocity.on_snapshot(store)
            version = store.commit()
            if crash.random() < 0.5:
                velocity.on_batch(
                    store, [step.item(feature_set) for step in steps[len(items) :][: crash.randrange(40)]]
                )
                store = store.reopened(version)
    return items


def check(feature_set: FeatureSet, entity: int, steps: list[Step], items: list[InFlight], exact: int) -> int:
    """Compare with brute force; returns how many payments had a window that was too busy."""
    oracle = Oracle(feature_set, feature_set.entities[entity], exact)
    busy = 0
    for at, (step, item) in enumerate(zip(steps, items, strict=True)):
        expected = oracle.take(item)
        if step.kind == "payment" and expected is not None:
            assert differences(item, feature_set, expected[0]) == [], f"event {at}: {step}"
            assert sorted(item.flags) == sorted(expected[1]), f"event {at}: {step}"
            busy += any(flag.startswith("approximated") for flag in item.flags)
        elif step.kind == "duplicate":
            assert item.flags == []
            assert differences(item, feature_set, {"account.count_5s": [float("nan")]}) == []
    return busy


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_sequence_gives_what_brute_force_gives(feature_set: FeatureSet, data: st.DataObject) -> None:
    def draw(n: int) -> int:
        return data.draw(st.integers(0, n - 1))

    steps = steps_from(draw, draw(25) + 1, 2 * SECOND, 30)
    for entity, limits in ((0, PROMISED), (0, CHUNKED), (1, CHUNKED)):
        items = run(feature_set, entity, steps, limits, lambda: draw(8) + 1)
        check(feature_set, entity, steps, items, PROMISED.exact)


@pytest.mark.parametrize("limits", [PROMISED, CHUNKED], ids=["one record", "chunks"])
@pytest.mark.parametrize("pace_us", [3 * SECOND, 100_000])
def test_long_sequences_give_what_brute_force_gives(feature_set: FeatureSet, limits: Limits, pace_us: int) -> None:
    for seed in range(2):
        rng = random.Random(seed)
        steps = random_steps(seed, 300, pace_us, 20)
        for entity in (0, 1):
            items = run(feature_set, entity, steps, limits, partial(rng.randrange, 1, 40), random.Random(seed))
            assert check(feature_set, entity, steps, items, PROMISED.exact) == 0


@pytest.mark.parametrize("late_percent", [0, 20])
def test_busier_windows_are_flagged_and_exact_for_a_length_less_than_a_pane_longer(
    feature_set: FeatureSet, late_percent: int
) -> None:
    """All events stay within the allowed lateness here, so that nothing but the panes can make a difference."""
    busy = 0
    for seed in range(2):
        rng = random.Random(seed)
        steps = random_steps(seed, 300, 50_000, 0)
        if late_percent:
            steps = [
                Step(**{**vars(step), "t": step.t - rng.randrange(5 * SECOND)})
                if step.kind == "payment" and rng.randrange(100) < late_percent
                else step
                for step in steps
            ]
        items = run(feature_set, 0, steps, BUSY, partial(rng.randrange, 1, 60), random.Random(seed))
        busy += check(feature_set, 0, steps, items, BUSY.exact)
    assert busy > 100


@pytest.mark.parametrize(
    "limits", [Limits(exact=8, raw=24, chunk=4, tail=6), Limits(exact=16, raw=64, chunk=4, tail=6),
               Limits(exact=5, raw=5, chunk=2, tail=3), Limits(exact=50, raw=60, chunk=16, tail=40)], ids=repr,
)  # fmt: skip
def test_results_are_byte_identical_however_batches_are_cut_and_whatever_is_lost(
    feature_set: FeatureSet, limits: Limits
) -> None:
    approximated = 0
    for seed in range(3):
        rng = random.Random(seed)
        pace_us = (1_500_000, 100_000, 20_000)[seed]
        steps = random_steps(seed, 250, pace_us, (5, 30, 10)[seed])
        one_by_one = [_bytes(item) for item in run(feature_set, 0, steps, limits, lambda: 1)]
        others: list[tuple[Callable[[], int], random.Random | None]] = [
            (lambda: 7, None),
            (lambda: 1_000, None),
            (partial(rng.randrange, 1, 60), random.Random(seed)),
            (lambda: 1, random.Random(seed + 1)),
        ]
        for cut, crash in others:
            assert [_bytes(item) for item in run(feature_set, 0, steps, limits, cut, crash)] == one_by_one
        approximated += sum("approximated" in repr(flags) for _, flags in one_by_one)
    assert approximated > 20


def _bytes(item: InFlight) -> tuple[bytes, list[str]]:
    if item.kind != PAYMENT:
        return b"", []
    numbers: list[Any] = item.values[13:]
    return struct.pack(f"{len(numbers)}d", *numbers), item.flags
