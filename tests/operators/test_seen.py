"""Retries are marked, contradictions refused, outcomes meet their payment, and what stays silent matures."""

from __future__ import annotations

import random

import msgspec
import pytest

from operators.inflight import DEAD_LETTER, LABEL, OUTCOME, PAYMENT, TICK, InFlight
from operators.seen import Seen, SeenConfig
from schemas.events import Label, Outcome, Tick, Transaction
from state.testing import DictStore

HOUR = 3_600_000_000
DAY = 24 * HOUR
START = 1_700_000_000_000_000 // HOUR * HOUR


def _config(**changes: float | None) -> SeenConfig:
    given: dict[str, float | None] = {
        "seen_ttl_us": 7 * DAY,
        "maturity_us": 7 * DAY,
        "correction_horizon_us": 60 * DAY,
        "genuine_share": 1.0,
    }
    return SeenConfig(**(given | changes))  # type: ignore[arg-type]  # the values fit, the mapping is only wider


def _payment(name: str, at_us: int = START, order: int = 0, amount: int = 100) -> InFlight:
    event = Transaction(
        transaction_id=name,
        event_time_us=at_us,
        account_id="a",
        channel="ecommerce",
        amount_minor=amount,
        currency="EUR",
    )
    return InFlight(PAYMENT, (order,), event, ("transactions", 0, order), at_us, [b"a", None], [])


def _outcome(name: str, label: str, at_us: int, order: int = 0, outcome_id: str = "o") -> InFlight:
    event = Outcome(
        outcome_id=outcome_id,
        event_time_us=at_us,
        transaction_id=name,
        label=label,
        source="chargeback",
        fraud_type="x",
    )
    return InFlight(OUTCOME, (order,), event, ("outcomes", 0, order), at_us, [], [])


def _tick(at_us: int, order: int = 0) -> InFlight:
    return InFlight(TICK, (order,), Tick(event_time_us=at_us), ("ticks", 0, 0), at_us, [], [])


def _labels(items: list[InFlight]) -> list[Label]:
    return [item.event for item in items if isinstance(item.event, Label)]


def test_a_retry_is_marked_and_the_first_copy_is_not() -> None:
    step, store = Seen(_config()), DictStore()
    first, retry, other = _payment("t"), _payment("t", order=1), _payment("u", order=2)
    step.on_batch(store, [first, retry, other])
    later = _payment("t", order=3)
    step.on_batch(store, [later])
    assert [item.duplicate for item in (first, retry, other, later)] == [False, True, False, True]


def test_the_same_id_with_other_content_is_a_dead_letter() -> None:
    step, store = Seen(_config()), DictStore()
    step.on_batch(store, [_payment("t")])
    [item] = step.on_batch(store, [_payment("t", amount=101)])
    assert item.kind == DEAD_LETTER
    assert isinstance(item.detail, tuple)
    assert item.detail[0] == "CONFLICTING_DUPLICATE"


def test_an_outcome_becomes_a_label_with_the_keys_of_its_payment() -> None:
    step, store = Seen(_config()), DictStore()
    step.on_batch(store, [_payment("t", START)])
    [item] = step.on_batch(store, [_outcome("t", "fraud", START + DAY, order=5)])
    assert (item.kind, item.order, item.keys, item.origin) == (LABEL, (5,), [b"a", None], ("outcomes", 0, 5))
    assert item.event == Label(
        transaction_id="t",
        event_time_us=START + DAY,
        payment_event_time_us=START,
        payment_seen_at_us=START,
        fraud=True,
        weight=1.0,
        source="chargeback",
        outcome_id="o",
        fraud_type="x",
    )


def test_an_outcome_before_its_payment_waits_for_it() -> None:
    step, store = Seen(_config()), DictStore()
    assert step.on_batch(store, [_outcome("t", "fraud", START, order=0)]) == []
    out = step.on_batch(store, [_payment("t", START, order=1), _payment("u", START, order=2)])
    assert [item.order for item in out] == [(1,), (1, 0), (2,)]
    assert [label.transaction_id for label in _labels(out)] == ["t"]
    assert _labels(step.on_batch(store, [_outcome("t", "fraud", START, order=3)])) == []


def test_an_outcome_whose_payment_never_comes_ends_as_a_dead_letter() -> None:
    step, store = Seen(_config()), DictStore()
    step.on_batch(store, [_outcome("t", "fraud", START, order=4)])
    assert [item.kind for item in step.on_batch(store, [_tick(START + 67 * DAY)])] == [TICK]
    dead, tick = step.on_batch(store, [_tick(START + 67 * DAY + HOUR)])
    assert (dead.kind, dead.origin, tick.kind) == (DEAD_LETTER, ("outcomes", 0, 4), TICK)
    assert isinstance(dead.detail, tuple)
    assert dead.detail[0] == "UNMATCHED_OUTCOME"
    assert store.as_dict() == {b"m": (START + 60 * DAY + HOUR).to_bytes(8, "big")}


def test_a_payment_without_outcome_matures_once_at_the_first_tick_after_maturity() -> None:
    step, store = Seen(_config()), DictStore()
    step.on_batch(store, [_payment("t", START + 1), _payment("u", START + HOUR)])
    assert _labels(step.on_batch(store, [_tick(START + 7 * DAY)])) == []
    [label] = _labels(step.on_batch(store, [_tick(START + 7 * DAY + HOUR - 1)]))
    assert (label.transaction_id, label.fraud, label.source, label.event_time_us) == (
        "t",
        False,
        "maturity",
        START + 1 + 7 * DAY,
    )
    [label] = _labels(step.on_batch(store, [_tick(START + 8 * DAY)]))
    assert label.transaction_id == "u"
    assert _labels(step.on_batch(store, [_tick(START + 9 * DAY)])) == []


def test_a_labelled_payment_does_not_mature() -> None:
    step, store = Seen(_config()), DictStore()
    step.on_batch(store, [_payment("t"), _outcome("t", "fraud", START + DAY)])
    assert _labels(step.on_batch(store, [_tick(START + 8 * DAY)])) == []


def test_without_outcomes_nothing_matures() -> None:
    step, store = Seen(_config(maturity_us=None)), DictStore()
    step.on_batch(store, [_payment("t")])
    assert _labels(step.on_batch(store, [_tick(START + 400 * DAY)])) == []


def test_a_later_outcome_that_contradicts_names_the_label_it_replaces() -> None:
    step, store = Seen(_config()), DictStore()
    step.on_batch(store, [_payment("t")])
    step.on_batch(store, [_tick(START + 7 * DAY)])
    [label] = _labels(step.on_batch(store, [_outcome("t", "fraud", START + 20 * DAY)]))
    assert (label.fraud, label.previous_fraud, label.previous_event_time_us, label.previous_weight) == (
        True,
        False,
        START + 7 * DAY,
        1.0,
    )
    assert _labels(step.on_batch(store, [_outcome("t", "fraud", START + 21 * DAY)])) == []


def test_a_payment_is_forgotten_when_neither_retries_nor_corrections_may_come() -> None:
    step, store = Seen(_config(maturity_us=None, correction_horizon_us=0)), DictStore()
    step.on_batch(store, [_payment("t", START)])
    step.on_batch(store, [_tick(START + 7 * DAY)])
    [again] = step.on_batch(store, [_payment("t", START)])
    assert again.duplicate
    step.on_batch(store, [_tick(START + 7 * DAY + HOUR)])
    assert store.as_dict() == {}


def test_an_early_outcome_is_found_though_another_payment_of_its_batch_came_between() -> None:
    step, store = Seen(_config()), DictStore()
    step.on_batch(store, [_outcome("t", "fraud", START, order=0), _payment("u", START, order=1)])
    out = step.on_batch(store, [_payment("t", START, order=2)])
    assert [label.transaction_id for label in _labels(out)] == ["t"]


def test_a_retry_whose_attributes_come_in_another_order_is_a_retry() -> None:
    step, store = Seen(_config()), DictStore()
    first, retry = _payment("t"), _payment("t", order=1)
    for item, attributes in ((first, {"a": "1", "b": "2"}), (retry, {"b": "2", "a": "1"})):
        assert isinstance(item.event, Transaction)
        item.event = msgspec.structs.replace(item.event, attributes=attributes)
    step.on_batch(store, [first, retry])
    assert retry.duplicate


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_genuine_labels_are_sampled_by_hash_and_weighted_by_the_inverse(share: float) -> None:
    step, store = Seen(_config(genuine_share=share)), DictStore()
    step.on_batch(store, [_payment(f"t{n}", order=n) for n in range(4000)])
    labels = _labels(step.on_batch(store, [_tick(START + 7 * DAY)]))
    # Four standard deviations of a binomial share.
    assert abs(len(labels) / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5
    assert {label.weight for label in labels} == {1 / share}
    assert [(label.event_time_us, label.payment_event_time_us) for label in labels[:1]] == [(START + 7 * DAY, START)]


def test_the_result_does_not_depend_on_how_the_sequence_is_cut_or_committed() -> None:
    rng = random.Random(5)

    def sequence() -> list[InFlight]:
        items: list[InFlight] = []
        for order in range(600):
            at_us = START + order * HOUR
            name = f"t{rng.randrange(150)}"
            kind = rng.random()
            if kind < 0.6:
                items.append(_payment(name, at_us, order, amount=rng.choice([1, 1, 1, 2])))
            elif kind < 0.9:
                items.append(_outcome(name, rng.choice(["fraud", "genuine"]), at_us, order, outcome_id=f"o{order}"))
            else:
                items.append(_tick(at_us, order))
        return items

    def run(size: int) -> tuple[list[tuple[object, ...]], dict[bytes, bytes]]:
        nonlocal rng
        rng = random.Random(5)
        items, store = sequence(), DictStore()
        step = Seen(_config(maturity_us=3 * DAY, correction_horizon_us=5 * DAY, seen_ttl_us=2 * DAY, genuine_share=0.5))
        out: list[InFlight] = []
        for start in range(0, len(items), size):
            out += step.on_batch(store, items[start : start + size])
            step.on_snapshot(store)
            store = store.reopened(store.commit())
        return [(item.kind, item.order, item.event, item.duplicate, item.detail) for item in out], store.as_dict()

    whole = run(1000)
    assert {item[0] for item in whole[0]} == {PAYMENT, LABEL, TICK, DEAD_LETTER}
    assert run(1) == whole
    assert run(7) == whole
