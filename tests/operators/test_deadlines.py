"""A missed deadline is flagged, its fallback recorded beside what was computed, and no active rule is ever weakened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.actions import ACTIONS, Action
from operators.decide import Decide, DecideConfig
from operators.features import FeatureSet, load_feature_set
from operators.inflight import PAYMENT, InFlight
from operators.policy import Policy, load_policy
from schemas.events import Transaction
from state.testing import DictStore

BEGAN_US = 1_760_000_000_000_000
ACTIONS_OF_RULES = ("challenge", "review", "decline")
FEATURES = """
id = "deadline-1"
base_currency = "EUR"

[entities.account]
key = "account_id"
windows = ["1h"]
amount = ["count"]
"""


class Clock:
    """A clock that tests turn."""

    def __init__(self, now_us: int) -> None:
        self.now_us = now_us

    def __call__(self) -> int:
        return self.now_us


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    directory = tmp_path_factory.mktemp("deadlines")
    (directory / "features.toml").write_text(FEATURES)
    return load_feature_set(directory / "features.toml")


def policy_of(features: FeatureSet, directory: Path, rules: list[tuple[str, str]], head: str) -> Policy:
    """A policy of rules (action, mode) that hold for every payment."""
    text = f'id = "deadlines"\nversion = "1"\n{head}\n'
    for number, (action, mode) in enumerate(rules):
        text += (
            f'[[rules]]\nid = "r{number}"\nwhen = "amount > 0"\naction = "{action}"\nreason = "AMOUNT_LIMIT"\n'
            f'mode = "{mode}"\n'
        )
    (directory / "policy.toml").write_text(text)
    return load_policy(directory / "policy.toml", features)


def decided(features: FeatureSet, policy: Policy, ingested_at_us: int, config: DecideConfig) -> dict[str, Any]:
    step = Decide(features, policy, None, config)
    event = Transaction(
        transaction_id="t1",
        event_time_us=ingested_at_us - 1_000,
        account_id="a",
        channel="ecommerce",
        amount_minor=100,
        currency="EUR",
    )
    values = features.new_values()
    values[features.slots["amount"]] = 1.0
    item = InFlight(PAYMENT, (1,), event, ("transactions.v1", 0, 1), ingested_at_us, [b"a"], values)
    (out,) = step.on_batch(DictStore(step="decide"), [item])
    detail: Any = out.detail
    return dict(detail)


def live(now_us: int, **more: Any) -> DecideConfig:
    return DecideConfig(None, None, None, now_us=Clock(now_us), began_us=BEGAN_US, **more)


HEAD = "deadline_ms = 100\non_deadline = 'review'\non_backlog = 'decline'"


@pytest.mark.parametrize(
    ("late_us", "missed"), [(0, False), (100_000, False), (100_001, True), (3_600_000_000, True), (-5_000_000, False)]
)
def test_deadline_counts_from_ingestion_to_the_microsecond(
    features: FeatureSet, tmp_path: Path, late_us: int, missed: bool
) -> None:
    policy = policy_of(features, tmp_path, [], HEAD)
    ingested = BEGAN_US + 1_000_000
    decision = decided(features, policy, ingested, live(ingested + late_us))
    assert decision["deadline_missed"] is missed
    assert decision["decided_at"] == max(ingested + late_us, ingested)
    assert decision["ingested_at"] == ingested
    assert decision["fallback"] == ("deadline" if missed else None)
    assert (decision["action"], decision["proposed_action"]) == ("review" if missed else "approve", "approve")
    assert ("DEADLINE_MISSED" in decision["reason_codes"]) is missed


def test_what_waited_for_the_process_falls_back_as_backlog(features: FeatureSet, tmp_path: Path) -> None:
    policy = policy_of(features, tmp_path, [], HEAD)
    decision = decided(features, policy, BEGAN_US - 1, live(BEGAN_US + 200_000))
    assert (decision["fallback"], decision["action"]) == ("backlog", "decline")
    in_time = decided(features, policy, BEGAN_US - 1, live(BEGAN_US + 50_000))
    assert (in_time["fallback"], in_time["deadline_missed"]) == (None, False)


def test_backlog_falls_back_as_a_missed_deadline_does_unless_said(features: FeatureSet, tmp_path: Path) -> None:
    policy = policy_of(features, tmp_path, [], "deadline_ms = 100\non_deadline = 'challenge'")
    decision = decided(features, policy, BEGAN_US - 1, live(BEGAN_US + 200_000))
    assert (decision["fallback"], decision["action"]) == ("backlog", "challenge")


def test_a_replay_misses_no_deadline_however_old_its_payments(features: FeatureSet, tmp_path: Path) -> None:
    policy = policy_of(features, tmp_path, [], HEAD)
    decision = decided(features, policy, 1_000_000, DecideConfig(None, None, None))
    assert decision["decided_at"] == decision["ingested_at"] == 1_000_000
    assert (decision["deadline_missed"], decision["fallback"], decision["action"]) == (False, None, "approve")


def test_deadlines_switched_off_keep_the_clock(features: FeatureSet, tmp_path: Path) -> None:
    policy = policy_of(features, tmp_path, [], HEAD)
    decision = decided(features, policy, BEGAN_US, live(BEGAN_US + 10_000_000, deadlines=False))
    assert decision["decided_at"] == BEGAN_US + 10_000_000
    assert (decision["deadline_missed"], decision["fallback"]) == (False, None)


def test_policy_without_a_deadline_never_misses_it(features: FeatureSet, tmp_path: Path) -> None:
    policy = policy_of(features, tmp_path, [], "on_deadline = 'decline'")
    assert not decided(features, policy, BEGAN_US, live(BEGAN_US + 10**12))["deadline_missed"]


@settings(max_examples=150, deadline=None)
@given(
    rules=st.lists(
        st.tuples(st.sampled_from(ACTIONS_OF_RULES), st.sampled_from(("active", "shadow", "off"))), max_size=5
    ),
    on_deadline=st.sampled_from(tuple(ACTIONS)),
    on_backlog=st.none() | st.sampled_from(tuple(ACTIONS)),
    ingested_us=st.integers(BEGAN_US - 1_000_000, BEGAN_US + 1_000_000),
    late_us=st.integers(-1_000_000, 1_000_000),
)
def test_no_fallback_weakens_an_active_rule(
    features: FeatureSet,
    tmp_path_factory: pytest.TempPathFactory,
    rules: list[tuple[str, str]],
    on_deadline: str,
    on_backlog: str | None,
    ingested_us: int,
    late_us: int,
) -> None:
    head = f"deadline_ms = 100\non_deadline = '{on_deadline}'\n"
    head += f"on_backlog = '{on_backlog}'\n" if on_backlog else ""
    policy = policy_of(features, tmp_path_factory.mktemp("p"), rules, head)
    decision = decided(features, policy, ingested_us, live(ingested_us + late_us))
    asked = max((ACTIONS[action] for action, mode in rules if mode == "active"), default=Action.APPROVE)
    action = ACTIONS[decision["action"]]
    assert action >= asked
    assert decision["proposed_action"] == asked.wire
    assert decision["deadline_missed"] == (late_us > 100_000)
    if decision["deadline_missed"]:
        backlog = ingested_us < BEGAN_US
        fallback = ACTIONS[on_backlog if backlog and on_backlog else on_deadline]
        assert action is max(asked, fallback)
        assert decision["fallback"] == ("backlog" if backlog else "deadline")
    else:
        assert action is asked


def test_no_fallback_weakens_an_active_rule_whatever_the_score(features: FeatureSet, tmp_path: Path) -> None:
    for on_deadline in ACTIONS:
        for action in ACTIONS_OF_RULES:
            head = (
                f"thresholds = {{ challenge = 0.2, review = 0.4, decline = 0.6 }}\n"
                f"deadline_ms = 1\non_deadline = '{on_deadline}'"
            )
            policy = policy_of(features, tmp_path, [(action, "active")], head)
            values = features.new_values()
            values[features.slots["amount"]] = 1.0
            active = policy.evaluate(values)
            for score in (None, 0.1, 0.3, 0.5, 0.9):
                computed = policy.decide(active, score)
                verdict = policy.fall_back(active, computed, "backlog")
                assert verdict.action is max(ACTIONS[action], ACTIONS[on_deadline])
                assert verdict.proposed_action is computed.action
