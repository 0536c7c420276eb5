"""Tests of operators/lessons.py."""

from __future__ import annotations

import pytest
import xxhash

from operators.lessons import SEED, Lessons
from schemas.events import Label


def label(number: int, *, fraud: bool) -> Label:
    return Label(
        transaction_id=f"t{number}",
        event_time_us=1,
        payment_event_time_us=0,
        payment_seen_at_us=0,
        fraud=fraud,
        weight=1.0,
        source="maturity",
    )


def test_every_fraud_is_learned_and_a_share_of_the_genuine_stands_for_all() -> None:
    lessons = Lessons(sample=1.0, learned=0.2)

    assert {lessons.weight(label(number, fraud=True)) for number in range(200)} == {1.0}
    weights = [lessons.weight(label(number, fraud=False)) for number in range(20_000)]
    assert set(weights) == {0.0, 5.0}
    assert sum(weights) == pytest.approx(20_000, rel=0.05)


def test_who_is_learned_is_among_those_whose_label_is_told() -> None:
    """A sample of the sample: the same payments that a smaller sample would have told."""
    lessons = Lessons(sample=0.5, learned=0.4)
    for number in range(2_000):
        share = xxhash.xxh64_intdigest(f"t{number}".encode(), seed=SEED) / 2**64
        assert (lessons.weight(label(number, fraud=False)) > 0.0) == (share < 0.2)


def test_without_a_share_everything_is_learned_as_it_is() -> None:
    assert {Lessons(sample=0.1).weight(label(number, fraud=False)) for number in range(100)} == {1.0}
