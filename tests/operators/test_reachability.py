import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.expression import Names, compile_expression
from operators.inflight import Value
from operators.reachability import check_reachable
from schemas.errors import ProfileError

NAMES: Names = {
    "amount": (0, "number"),
    "hour": (1, "number"),
    "card.fraud_rate_7d": (2, "number"),
    "channel": (3, "string"),
    "country": (4, "string"),
    "account.kyc": (5, "string"),
    "recurring": (6, "boolean"),
    "entry_mode": (7, "string"),
}


def check(source: str) -> list[str]:
    return check_reachable(compile_expression(source, NAMES, "policy.toml: rule 'x': when"), NAMES)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("amount < 0", "1: can never be true: amount is never negative; the rule is unreachable"),
        ("amount <= -1", "amount is never negative"),
        ("amount in [-1, -2]", "amount is never negative"),
        ("hour > 23", "hour is from 0 to 23"),
        ("24 <= hour", "hour is from 0 to 23"),
        ("not hour <= 23", "hour is from 0 to 23"),
        ("card.fraud_rate_7d > 1", "card.fraud_rate_7d is from 0 to 1"),
        ("amount > 100 and amount < 50", "18: can never be true: it contradicts what is asked of amount before"),
        ("amount > 100 and amount <= 10 * 10", "contradicts"),
        ("100 < amount < 50", "contradicts"),
        ("amount >= 5 and amount <= 5 and amount != 5", "contradicts"),
        ("amount in [1, 2] and amount > 2", "contradicts"),
        ("amount in [1, 2] and amount not in [1, 2]", "contradicts"),
        ('channel == "atm" and channel == "transfer"', "contradicts what is asked of channel before"),
        ('channel != "atm" and not (channel != "atm")', "contradicts"),
        (
            'channel not in ["card_present", "ecommerce", "atm", "transfer", "wallet"]',
            "nothing is left for channel to be",
        ),
        ('account.kyc != "passed" and account.kyc != "failed"', "contradicts"),
        ("recurring and not recurring", "contradicts what is asked of recurring before"),
        ("recurring == True and recurring == False", "contradicts"),
        ("absent(amount) and amount > 5", "contradicts"),
        ("present(country) and absent(country)", "contradicts"),
        ("hour > 23 or amount < 0", "hour is from 0 to 23"),
        ("recurring and (hour > 23 or amount < 0)", "hour is from 0 to 23"),
    ],
)
def test_condition_that_can_never_be_true_is_refused(source: str, message: str) -> None:
    with pytest.raises(ProfileError, match=f"^policy.toml: rule 'x': when, column .*{message}"):
        check(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('channel == "card-present"', "channel is never 'card-present'; expected one of card_present, ecommerce, atm"),
        ('amount > 5 or channel != "web"', "channel is never 'web'"),
        ('channel in ["atm", "ATM"]', "channel is never 'ATM'"),
        ('account.kyc == "pending"', "account.kyc is never 'pending'; expected one of passed, failed"),
        ('country == "uk"', "country is never 'uk'; expected two capital letters"),
        ('country == "GBR"', "country is never 'GBR'"),
    ],
)
def test_word_that_a_feature_never_holds_is_refused(source: str, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        check(source)


@pytest.mark.parametrize(
    "source",
    [
        "amount >= 0",
        "amount <= 0",
        "hour >= 23",
        "amount > 50 and amount < 100",
        "amount >= 5 and amount <= 5",
        "amount != 5 and amount != 6",
        "absent(amount) or amount > 5",
        'channel == "atm" or channel == "transfer"',
        'channel in ["atm", "transfer"] and channel != "atm"',
        'entry_mode == "anything"',
        "recurring or not recurring",
        "amount > hour and hour > amount",
        "coalesce(amount, 0) < 0",
    ],
)
def test_condition_that_may_be_true_passes(source: str) -> None:
    assert check(source) == []


def test_dead_part_of_a_living_condition_is_told() -> None:
    assert check("hour < 6 or hour > 23") == [
        "policy.toml: rule 'x': when, column 13: this part can never be true: hour is from 0 to 23"
    ]


def test_condition_with_too_many_alternatives_is_left_alone() -> None:
    assert check(" and ".join(["(amount > 1 or hour > 1)"] * 12)) == []


def atoms() -> st.SearchStrategy[str]:
    symbols = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
    points = st.sampled_from(["0", "1", "2", "1 + 1", "3 / 2"])
    words = st.sampled_from(['"atm"', '"wallet"', '"ecommerce"'])
    return st.one_of(
        st.tuples(st.just("amount"), symbols, points).map(" ".join),
        st.tuples(points, symbols, st.just("amount")).map(" ".join),
        st.tuples(points, symbols, st.just("amount"), symbols, points).map(" ".join),
        st.tuples(st.just("hour"), symbols, points).map(" ".join),
        st.tuples(st.just("channel"), st.sampled_from(["==", "!="]), words).map(" ".join),
        st.tuples(st.sampled_from(["in", "not in"]), words, words).map(lambda t: f"channel {t[0]} [{t[1]}, {t[2]}]"),
        st.tuples(st.sampled_from(["in", "not in"]), points, points).map(lambda t: f"amount {t[0]} [{t[1]}, {t[2]}]"),
        st.sampled_from(["recurring", "recurring == False", "present(amount)", "absent(amount)", "absent(recurring)"]),
    )


CONDITIONS = st.recursive(
    atoms(),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" and ", " and ", " or "]), inner).map(lambda t: f"({''.join(t)})"),
        inner.map(lambda one: f"not ({one})"),
    ),
    max_leaves=6,
)
GRID: list[list[Value]] = [
    [amount, hour, math.nan, channel, None, None, recurring, None]
    for amount in (math.nan, 0.0, 0.5, 1.0, 1.2, 1.5, 1.7, 2.0, 3.0)
    for hour in (math.nan, 0.0, 1.0, 2.0, 3.0)
    for channel in (None, "atm", "wallet", "ecommerce", "transfer")
    for recurring in (None, True, False)
]


@settings(max_examples=150, deadline=None)
@given(CONDITIONS)
def test_no_condition_that_some_payment_meets_is_refused(source: str) -> None:
    condition = compile_expression(source, NAMES, "here")
    met = any(condition.function(found) for found in GRID)
    try:
        check_reachable(condition, NAMES)
    except ProfileError:
        assert not met
