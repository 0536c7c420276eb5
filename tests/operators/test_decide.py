"""With several processes labels of their payment's epoch wait for its end; those without a payment are told then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from operators.decide import Decide, DecideConfig
from operators.features import load_feature_set
from operators.inflight import DEAD_LETTER, LABEL, PAYMENT, TICK, InFlight
from operators.policy import empty_policy
from schemas.events import Label, Tick, Transaction
from state.testing import DictHome, DictStore

HOUR_US = 3_600_000_000
SEEN_US = 500_000 * HOUR_US
KEEP_US = 10 * HOUR_US

FEATURES = """
id = "small-1"
base_currency = "EUR"

[entities.account]
key = "account_id"
windows = ["1h"]
amount = ["count"]
"""


class Setting:
    """A step in both modes and the events to give it."""

    def __init__(self, directory: Path) -> None:
        (directory / "features.toml").write_text(FEATURES)
        self.features = load_feature_set(directory / "features.toml")
        self._number = 0

    def step(self, *, may_overtake: bool) -> Decide:
        config = DecideConfig(KEEP_US, None, None, may_overtake=may_overtake)
        return Decide(self.features, empty_policy(self.features), None, config)

    def _item(self, kind: int, event: Any) -> InFlight:
        self._number += 1
        values = self.features.new_values() if kind == PAYMENT else []
        return InFlight(kind, (self._number,), event, ("t", 0, self._number), SEEN_US, [None], values)

    def payment(self, name: str) -> InFlight:
        return self._item(
            PAYMENT,
            Transaction(
                transaction_id=name,
                event_time_us=SEEN_US,
                account_id="a",
                channel="ecommerce",
                amount_minor=100,
                currency="EUR",
            ),
        )

    def label(self, name: str) -> InFlight:
        label = Label(
            transaction_id=name,
            event_time_us=SEEN_US + HOUR_US,
            payment_event_time_us=SEEN_US,
            payment_seen_at_us=SEEN_US,
            fraud=True,
            weight=1.0,
            source="chargeback",
        )
        return self._item(LABEL, label)

    def tick(self, hours: int) -> InFlight:
        return self._item(TICK, Tick(event_time_us=SEEN_US + hours * HOUR_US))


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def end_epoch(step: Decide, store: DictStore) -> None:
    step.on_snapshot(store)
    store.commit()


def told(items: list[InFlight]) -> list[tuple[int, str]]:
    out = []
    for item in items:
        detail: Any = item.detail
        out.append((item.kind, detail[2].transaction_id if item.kind == DEAD_LETTER else detail["transaction_id"]))
    return out


@pytest.mark.parametrize("overtaken", [True, False])
@pytest.mark.parametrize("restarted", [True, False])
def test_a_label_of_its_payments_epoch_is_told_when_that_is_over(
    setting: Setting, overtaken: bool, restarted: bool
) -> None:
    home = DictHome()
    step, store = setting.step(may_overtake=True), home.open("s", "decide", None)
    both = [setting.label("a"), setting.payment("a")]
    told_at_once = [told(step.on_batch(store, [one])) for one in (both if overtaken else both[::-1])]
    assert sorted(told_at_once) == [[], [(PAYMENT, "a")]]
    assert told(step.on_batch(store, [setting.payment("b")])) == [(PAYMENT, "b")]
    step.on_snapshot(store)
    version = store.commit()
    if restarted:
        step, store = setting.step(may_overtake=True), home.open("s", "decide", version)
    later = step.on_batch(store, [setting.payment("c"), setting.label("b")])
    assert told(later) == [(LABEL, "a"), (PAYMENT, "c"), (LABEL, "b")]
    assert store.scan(b"w", b"x", 1) == []
    end_epoch(step, store)
    assert told(step.on_batch(store, [setting.tick(hours=1)])) == []


@pytest.mark.parametrize("may_overtake", [True, False])
@pytest.mark.parametrize("restarted", [True, False])
def test_a_label_whose_payment_did_not_come_in_its_epoch_is_told_and_forgotten(
    setting: Setting, may_overtake: bool, restarted: bool
) -> None:
    home = DictHome()
    store = home.open("s", "decide", None)
    before = setting.step(may_overtake=True)
    assert before.on_batch(store, [setting.label("gone"), setting.label("gone")]) == []
    before.on_snapshot(store)
    version = store.commit()
    if restarted or not may_overtake:
        store = home.open("s", "decide", version)
    after = setting.step(may_overtake=may_overtake)
    first = after.on_batch(store, [setting.payment("a"), setting.label("a")])
    label = [] if may_overtake else [(LABEL, "a")]
    assert told(first) == [(DEAD_LETTER, "gone"), (DEAD_LETTER, "gone"), (PAYMENT, "a"), *label]
    assert {item.detail[0] for item in first[:2] if isinstance(item.detail, tuple)} == {"UNMATCHED_OUTCOME"}
    assert first[0].origin != first[1].origin
    assert len(store.scan(b"w", b"x", 2)) == may_overtake
    assert told(after.on_batch(store, [setting.payment("b")])) == [(PAYMENT, "b")]


def test_a_tick_that_overtakes_a_label_does_not_take_its_payment_away(setting: Setting) -> None:
    step, store = setting.step(may_overtake=True), DictStore(step="decide")
    step.on_batch(store, [setting.payment("a")])
    end_epoch(step, store)
    step.on_batch(store, [setting.tick(hours=20)])
    assert told(step.on_batch(store, [setting.label("a")])) == [(LABEL, "a")]


def test_a_decision_is_forgotten_at_the_end_of_the_epoch_in_which_its_time_ran_out(setting: Setting) -> None:
    step, store = setting.step(may_overtake=False), DictStore(step="decide")
    step.on_batch(store, [setting.payment("a"), setting.tick(hours=9)])
    end_epoch(step, store)
    assert store.scan(b"p", b"q", 9) != []
    step.on_batch(store, [setting.tick(hours=11)])
    end_epoch(step, store)
    assert store.scan(b"p", b"q", 9) == []
    assert told(step.on_batch(store, [setting.label("a")])) == [(DEAD_LETTER, "a")]
