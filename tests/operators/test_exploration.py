"""A share of what would be declined is let through: by hash, within cap and budget, never over a hard rule."""

from __future__ import annotations

import dataclasses

import pytest

from operators.actions import Action, ActiveHits, RuleHit, Verdict
from operators.exploration import HELD, LET_THROUGH, Budget, Exploration, label_weight, silence_says_nothing
from operators.loop_config import ExplorationConfig
from schemas.errors import StateLayoutError

DAY_US = 86_400_000_000
CONFIG = ExplorationConfig(
    share=0.1,
    salt="s",
    instead={Action.DECLINE: Action.APPROVE, Action.REVIEW: Action.CHALLENGE},
    largest_micros=100_000_000,
    daily_budget_micros=10_000_000_000,
    largest_weight=50.0,
)
DECLINE = Verdict(Action.DECLINE, Action.DECLINE, ("HIGH_SCORE",))
SOFT = ActiveHits((RuleHit("r", Action.DECLINE, "R", 0),))
HARD = ActiveHits((RuleHit("s", Action.DECLINE, "S", 0, hard=True), RuleHit("r", Action.DECLINE, "R", 0)))


def let_through(exploration: Exploration, budget: Budget, count: int, amount: int = 1_000_000, day: int = 1) -> int:
    """How many of `count` would-be declines were let through."""
    drawn = [
        exploration.draw(budget, f"d{number}", ActiveHits(), DECLINE, amount, day * DAY_US) for number in range(count)
    ]
    return sum(one is not None and one.exploration == LET_THROUGH for one in drawn)


def test_the_declared_share_is_let_through_and_always_the_same_payments() -> None:
    exploration = Exploration(CONFIG)
    budget = Budget()
    assert 150 < let_through(exploration, budget, 2_000) < 250
    one = [exploration.draw(Budget(), f"d{n}", SOFT, DECLINE, 1, DAY_US) for n in range(200)]
    again = [exploration.draw(Budget(), f"d{n}", SOFT, DECLINE, 1, DAY_US) for n in range(200)]
    assert one == again
    other = Exploration(dataclasses.replace(CONFIG, salt="t"))
    assert one != [other.draw(Budget(), f"d{n}", SOFT, DECLINE, 1, DAY_US) for n in range(200)]


def test_what_is_drawn_says_how_likely_it_was_and_what_was_proposed() -> None:
    exploration = Exploration(CONFIG)
    drawn = [exploration.draw(Budget(), f"d{n}", SOFT, DECLINE, 1, DAY_US) for n in range(200)]
    for one in drawn:
        assert one is not None
        assert one.verdict.proposed_action is Action.DECLINE
        assert one.verdict.reasons == ("HIGH_SCORE",)
        if one.exploration == LET_THROUGH:
            assert (one.verdict.action, one.propensity) == (Action.APPROVE, 0.1)
        else:
            assert (one.exploration, one.verdict, one.propensity) == (HELD, DECLINE, 0.9)


def test_a_review_is_explored_as_declared_and_other_actions_never() -> None:
    exploration = Exploration(dataclasses.replace(CONFIG, share=0.5))
    review = Verdict(Action.REVIEW, Action.REVIEW, ("HIGH_SCORE",))
    drawn = [exploration.draw(Budget(), f"d{n}", SOFT, review, 1, DAY_US) for n in range(50)]
    assert {one.verdict.action for one in drawn if one} == {Action.CHALLENGE, Action.REVIEW}
    for action in (Action.APPROVE, Action.CHALLENGE):
        assert exploration.draw(Budget(), "d", SOFT, Verdict(action, action, ("X",)), 1, DAY_US) is None


def test_neither_hard_rules_nor_fallbacks_nor_large_or_unknown_amounts_are_explored() -> None:
    exploration = Exploration(dataclasses.replace(CONFIG, share=0.5))
    fallback = Verdict(Action.DECLINE, Action.APPROVE, ("DEADLINE_MISSED",), "deadline")
    for number in range(100):
        name = f"d{number}"
        assert exploration.draw(Budget(), name, HARD, DECLINE, 1, DAY_US) is None
        assert exploration.draw(Budget(), name, SOFT, fallback, 1, DAY_US) is None
        assert exploration.draw(Budget(), name, SOFT, DECLINE, CONFIG.largest_micros + 1, DAY_US) is None
        assert exploration.draw(Budget(), name, SOFT, DECLINE, None, DAY_US) is None
        assert exploration.draw(Budget(), name, SOFT, DECLINE, CONFIG.largest_micros, DAY_US) is not None


def test_no_more_than_the_budget_is_let_through_in_a_day_and_a_new_day_has_all_of_it() -> None:
    exploration = Exploration(dataclasses.replace(CONFIG, daily_budget_micros=5_500_000))
    budget = Budget()
    assert let_through(exploration, budget, 2_000) == 5
    assert budget.spent_micros == 5_000_000
    assert let_through(exploration, budget, 2_000, day=2) == 5
    assert let_through(exploration, budget, 2_000, day=1) == 0  # late: counts as the day at hand


def test_shards_share_the_budget_evenly() -> None:
    config = dataclasses.replace(CONFIG, daily_budget_micros=8_000_000)
    assert let_through(Exploration(config, parts=4), Budget(), 2_000) == 2


def test_a_budget_goes_on_from_its_record() -> None:
    budget = Budget()
    assert budget.spend(3 * DAY_US, 700, 1_000)
    again = Budget(budget.pack())
    assert (again.day, again.spent_micros) == (3, 700)
    assert not again.spend(3 * DAY_US, 400, 1_000)
    assert again.spend(4 * DAY_US, 400, 1_000)


@pytest.mark.parametrize("packed", [b"", b"\x02" + bytes(12), b"\x01"])
def test_a_record_of_another_format_is_refused(packed: bytes) -> None:
    with pytest.raises(StateLayoutError, match="exploration budget: expected 13 bytes of format 1"):
        Budget(packed)


def test_labels_of_declined_payments_teach_only_where_all_of_them_are_known() -> None:
    declined = {"action": "decline", "proposed_action": "decline", "exploration": HELD, "propensity": 0.9}
    approved = {"action": "approve", "proposed_action": "approve"}
    explored = {"action": "approve", "proposed_action": "decline", "exploration": LET_THROUGH, "propensity": 0.1}
    reviewed = {"action": "challenge", "proposed_action": "review", "exploration": LET_THROUGH, "propensity": 0.1}
    assert [label_weight(one, CONFIG, withheld=True) for one in (declined, approved, explored, reviewed)] == [
        0.0,
        1.0,
        10.0,
        1.0,
    ]
    assert [label_weight(one, None, withheld=False) for one in (declined, approved, explored)] == [1.0, 1.0, 1.0]
    bounded = dataclasses.replace(CONFIG, largest_weight=4.0)
    assert label_weight(explored, bounded, withheld=True) == 4.0


def test_nobody_complaining_of_a_declined_payment_says_nothing() -> None:
    assert silence_says_nothing({"action": "decline"}, "maturity")
    assert not silence_says_nothing({"action": "review"}, "maturity")
    assert not silence_says_nothing({"action": "decline"}, "analyst")


def test_weighted_labels_of_the_explored_give_the_true_share_of_fraud_among_the_declined() -> None:
    exploration = Exploration(dataclasses.replace(CONFIG, share=0.05, daily_budget_micros=10**15))
    budget = Budget()
    frauds = weights = 0.0
    for number in range(40_000):
        drawn = exploration.draw(budget, f"d{number}", SOFT, DECLINE, 1_000_000, DAY_US)
        assert drawn is not None
        kept = {
            "action": drawn.verdict.action.wire,
            "proposed_action": "decline",
            "exploration": drawn.exploration,
            "propensity": drawn.propensity,
        }
        weight = label_weight(kept, CONFIG, withheld=True)
        weights += weight
        frauds += weight * (number % 10 < 7)
    assert weights == pytest.approx(40_000, rel=0.05)
    assert frauds / weights == pytest.approx(0.7, abs=0.04)
