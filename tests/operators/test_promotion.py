"""Who moves between champion, canary and challenger: on evidence, at most once a period, never while frozen."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import pytest

from load_tests.bench_promotion import ERRORS, simulate
from operators.loop_config import PromotionConfig
from operators.promotion import Change, Promotion, loss
from schemas.codec import encode_avro
from schemas.errors import StateLayoutError

DAY_US = 86_400_000_000
CONFIG = PromotionConfig(min_frauds=10)


def days(
    promotion: Promotion, first: int, last: int, scores: dict[str, tuple[float, float]], *, jitter: float = 0.02
) -> list[Change]:
    """Ten frauds and ten genuine payments a day; `scores` is (of frauds, of genuine) by model."""
    changes = []
    for day in range(first, last):
        for number in range(20):
            fraud = number < 10
            off = jitter * math.sin(day * 20 + number)
            told: dict[str, float | None] = {
                name: min(max((high if fraud else low) + off, 0.01), 0.99) for name, (high, low) in scores.items()
            }
            changes += promotion.observe(day * DAY_US + number, fraud=fraud, weight=1.0, scores=told)
    return changes


GOOD, FAIR, BAD = (0.9, 0.1), (0.7, 0.2), (0.4, 0.5)


def test_a_better_challenger_becomes_canary_and_then_champion_on_fresh_labels() -> None:
    promotion = Promotion(CONFIG, "a", ["b", "c"])
    changes = days(promotion, 0, 60, {"a": FAIR, "b": GOOD, "c": BAD})
    assert [(change.move, change.model, change.role) for change in changes] == [
        ("canary", "b", "canary"),
        ("promotion", "b", "champion"),
    ]
    assert (promotion.champion, promotion.canary) == ("b", None)
    first, second = changes
    assert first.threshold == 0.025  # two challengers share the level of 0.05
    assert second.threshold == 0.05
    assert second.measured is not None and second.measured <= 0.05
    # Each stage has its own labels: the second counts from the first move on.
    assert int(second.evidence["labels"]) == (second.event_time_us - first.event_time_us) // DAY_US * 20


def test_a_worse_canary_is_sent_back_and_barred() -> None:
    promotion = Promotion(CONFIG, "a", ["b"], canary="b")
    changes = days(promotion, 0, 50, {"a": FAIR, "b": BAD})
    assert [(change.move, change.model, change.role) for change in changes] == [("rollback", "b", "challenger")]
    # Better from now on, but barred for `patience`, 60 days.
    back = changes[0].event_time_us
    later = days(promotion, 50, 200, {"a": FAIR, "b": GOOD})
    assert later[0].move == "canary"
    assert later[0].event_time_us >= back + CONFIG.patience_us


def test_a_canary_that_proves_nothing_goes_back_when_patience_runs_out() -> None:
    promotion = Promotion(CONFIG, "a", ["b"], canary="b")
    changes = days(promotion, 0, 70, {"a": FAIR, "b": FAIR})
    assert [(change.move, change.model, change.measured) for change in changes] == [("withdrawal", "b", None)]


def test_a_new_champion_that_turns_bad_gives_its_place_back() -> None:
    promotion = Promotion(dataclasses.replace(CONFIG, probation_us=60 * DAY_US), "a", ["b"], canary="b")
    promoted = days(promotion, 0, 30, {"a": FAIR, "b": GOOD})
    assert [change.move for change in promoted] == ["promotion"]
    # It was the better one for weeks after its promotion; what counts is that it no longer is.
    changes = days(promotion, 30, 60, {"a": FAIR, "b": BAD})
    assert [(change.move, change.model, change.role) for change in changes] == [("rollback", "a", "champion")]
    assert changes[0].evidence["from"] == "b"
    assert promotion.champion == "a"


def test_nobody_moves_while_frozen_and_evidence_goes_on() -> None:
    promotion = Promotion(dataclasses.replace(CONFIG, frozen=True), "a", ["b"], canary="b")
    assert days(promotion, 0, 40, {"a": FAIR, "b": GOOD}) == []
    assert promotion.standing()["b"]["better"] > 20.0
    promotion.frozen = False
    assert [change.move for change in days(promotion, 40, 42, {"a": FAIR, "b": GOOD})] == ["promotion"]


def test_at_most_one_change_is_made_in_a_period() -> None:
    config = dataclasses.replace(CONFIG, period_us=20 * DAY_US)
    promotion = Promotion(config, "a", ["b", "c"])
    changes = days(promotion, 0, 200, {"a": BAD, "b": FAIR, "c": GOOD})
    assert len(changes) >= 3
    times = [change.event_time_us for change in changes]
    assert min(later - earlier for earlier, later in pairwise(times)) >= 20 * DAY_US
    quick = days(Promotion(CONFIG, "a", ["b", "c"]), 0, 200, {"a": BAD, "b": FAIR, "c": GOOD})
    assert quick[1].event_time_us - quick[0].event_time_us < 20 * DAY_US


def test_too_few_frauds_move_nobody() -> None:
    promotion = Promotion(dataclasses.replace(CONFIG, min_frauds=1_000), "a", ["b"], canary="b")
    assert days(promotion, 0, 50, {"a": FAIR, "b": GOOD}) == []


def test_payments_that_one_of_them_could_not_score_count_for_neither() -> None:
    promotion = Promotion(CONFIG, "a", ["b"])
    promotion.observe(0, fraud=True, weight=1.0, scores={"a": None, "b": 0.9})
    promotion.observe(1, fraud=True, weight=1.0, scores={"a": 0.9, "b": None})
    promotion.observe(2, fraud=True, weight=1.0, scores={"a": 0.9})
    assert promotion.standing()["b"]["labels"] == 0


def test_what_a_person_orders_holds_at_once_and_the_next_move_waits() -> None:
    config = dataclasses.replace(CONFIG, period_us=30 * DAY_US, probation_us=60 * DAY_US, frozen=True)
    promotion = Promotion(config, "a", ["b"])
    promotion.place("b", "canary", 0)
    assert promotion.role("b") == "canary"
    promotion.place("b", "champion", 1)
    assert (promotion.champion, promotion.canary, promotion.role("a")) == ("b", None, "challenger")
    promotion.frozen = False
    changes = days(promotion, 0, 40, {"a": GOOD, "b": BAD})
    assert [change.move for change in changes] == ["rollback"]
    assert changes[0].event_time_us >= 30 * DAY_US


@pytest.mark.parametrize(
    ("model", "role", "expected"),
    [
        ("x", "canary", "place 'x' as 'canary': expected one of a, b"),
        ("b", "king", "place 'b' as 'king': expected one of a, b"),
        ("a", "challenger", "'a' is champion; make another one champion instead"),
    ],
)
def test_orders_that_make_no_sense_are_refused(model: str, role: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Promotion(CONFIG, "a", ["b"]).place(model, role, 0)


def test_roles_and_evidence_survive_as_bytes_and_go_on_the_same() -> None:
    whole = Promotion(CONFIG, "a", ["b", "c"])
    cut = Promotion(CONFIG, "a", ["b", "c"])
    scores = {"a": FAIR, "b": GOOD, "c": BAD}
    told: list[Change] = []
    for day in range(60):
        told += days(cut, day, day + 1, scores)
        cut = Promotion.from_bytes(CONFIG, cut.to_bytes(), ["a", "b", "c"])
    assert told == days(whole, 0, 60, scores)
    assert cut.to_bytes() == whole.to_bytes()


def test_models_that_come_and_go_are_taken_up() -> None:
    promotion = Promotion(CONFIG, "a", ["b", "c"])
    days(promotion, 0, 60, {"a": FAIR, "b": GOOD, "c": BAD})
    assert promotion.champion == "b"
    without = Promotion.from_bytes(CONFIG, promotion.to_bytes(), ["a", "b", "d"])
    assert (without.champion, set(without.standing())) == ("b", {"a", "d"})
    anew = Promotion.from_bytes(CONFIG, promotion.to_bytes(), ["a", "c"])
    assert anew.champion == "a"
    tried = Promotion(CONFIG, "b", ["a", "c"], canary="c")
    gone = Promotion.from_bytes(CONFIG, tried.to_bytes(), ["a", "b"])
    assert (gone.champion, gone.canary) == ("b", None)  # a canary that is gone unseats nobody


@pytest.mark.parametrize("packed", [b"", b"WPR\x02abc", b"WPR\x01abc"])
def test_bytes_of_something_else_are_refused(packed: bytes) -> None:
    with pytest.raises(StateLayoutError, match="roles of the models: no record of format"):
        Promotion.from_bytes(CONFIG, packed, ["a"])


@pytest.mark.parametrize(("rivals", "canary"), [(["a"], None), (["b", "b"], None), (["b"], "c")])
def test_roles_without_sense_are_refused(rivals: list[str], canary: str | None) -> None:
    with pytest.raises(ValueError, match="expected different ids"):
        Promotion(CONFIG, "a", rivals, canary)


def test_every_change_is_an_alert_of_the_contract() -> None:
    changes = days(Promotion(CONFIG, "a", ["b"], canary="b"), 0, 30, {"a": FAIR, "b": GOOD})
    alert = changes[0].alert()
    assert encode_avro("alert", alert)
    assert (alert["kind"], alert["subject"], alert["runbook"]) == ("model_promoted", "b", "docs/runbooks/models.md")
    assert alert["evidence"]["champion"] == "b"
    assert float(alert["evidence"]["mean_gain"]) > 0


def test_losses_are_what_they_are_called() -> None:
    assert loss(0.8, fraud=True, kind="log") == pytest.approx(-math.log(0.8))
    assert loss(0.8, fraud=False, kind="log") == pytest.approx(-math.log(0.2))
    assert loss(0.0, fraud=True, kind="log") == pytest.approx(-math.log(1e-4))
    assert loss(0.8, fraud=False, kind="brier") == pytest.approx(0.64)


def test_simulated_canaries_fare_as_they_deserve() -> None:
    equal = [simulate(ERRORS["equal"], seed, 60, 30) for seed in range(20)]
    better = [simulate(ERRORS["better"], seed, 60, 30) for seed in range(8)]
    worse = [simulate(ERRORS["worse"], seed, 60, 30) for seed in range(8)]
    assert sum(run.promoted_day is not None for run in equal) <= 3
    assert sum(run.promoted_day is not None for run in better) >= 6
    assert all(run.promoted_day is None for run in worse)
    assert sum(run.returned_day is not None for run in worse) >= 5
