"""A replay with all of the loop declared: canary, promotion, exploration, drift; whatever cuts or kills it."""

from __future__ import annotations

import random
import signal
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from flows.publish import SLOTS
from schemas.codec import decode_avro_mapping, encode_avro
from schemas.times import parse_rfc3339_us
from tests.flows.running import Replay, ended, kill_tree, wait_for
from tests.flows.test_replay import replay
from tests.flows.traffic import LEARNING, write_events, write_profile

RIVAL = LEARNING.partition("[model]")[2].replace('id = "test-linear"', 'id = "rival"')
LOOP = f"""
[[challengers]]
{RIVAL}
learning_rate = 0.9

[canary]
model = "rival"
share = 0.3
salt = "s"

[promotion]
block = "1h"
min_frauds = 5
level = 0.5
rollback_level = 0.5
period = "2h"
patience = "3h"

[exploration]
share = 0.4
salt = "s"
declined_to = "approve"
reviewed_to = "challenge"
largest_amount = 150
daily_budget = 600

[drift]
warm_up = "1h"
reference = "3d"
min_payments = 20
sample = 1.0
"""


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_profile(tmp_path_factory.mktemp("profile"))
    (folder / "learning.toml").write_text(LEARNING + LOOP)
    policy = (folder / "policy.toml").read_text()
    (folder / "policy.toml").write_text(
        policy.replace('id = "travel"', 'id = "travel"\nhard = true').replace("decline = 0.9", "decline = 0.75")
    )
    return folder


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_events(tmp_path_factory.mktemp("events"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, profile: Path, events: Path) -> Path:
    out = tmp_path_factory.mktemp("whole")
    assert replay(profile, events, out).finished
    return out


def records(out: Path, slot: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (out / f"{slot}.jsonl").read_bytes().splitlines()]


def output(out: Path) -> dict[str, bytes]:
    return {slot: (out / f"{slot}.jsonl").read_bytes() for slot in SLOTS}


def test_a_canary_decides_its_accounts_and_each_decision_says_who_decided_and_what_the_others_said(whole: Path) -> None:
    made = [one for one in records(whole, "decisions") if not one["duplicate"]]
    moves = records(whole, "alerts")
    first_move_us = min(parse_rfc3339_us(one["event_time"]) for one in moves)
    before = [one for one in made if parse_rfc3339_us(one["decided_at"]) < first_move_us]
    assert {(one["role"], one["versions"]["model_id"]) for one in before} == {
        ("champion", "test-linear"),
        ("canary", "rival"),
    }
    roles: dict[str, set[str]] = {}
    for one in before:
        roles.setdefault(one["account_id"], set()).add(one["role"])
        (shadow,) = one["challenger_scores"]
        assert {shadow["model_id"], one["versions"]["model_id"]} == {"test-linear", "rival"}
        assert shadow["model_version"].rpartition("+")[2] == one["versions"]["model_version"].rpartition("+")[2]
    assert all(len(role) == 1 for role in roles.values())
    share = sum(role == {"canary"} for role in roles.values()) / len(roles)
    assert 0.1 < share < 0.55
    scored = [one for one in made if one["score"] is not None]
    assert scored
    assert any(one["challenger_scores"][0]["score"] not in (None, one["score"]) for one in scored)


def test_moves_are_alerts_of_the_contract_and_at_most_one_a_period(whole: Path) -> None:
    alerts = records(whole, "alerts")
    moves = [one for one in alerts if one["kind"].startswith("model_")]
    assert moves
    for one in alerts:
        plain = {**one, "event_time": parse_rfc3339_us(one["event_time"])}
        assert decode_avro_mapping("alert", encode_avro("alert", plain)) == plain
    times = [parse_rfc3339_us(one["event_time"]) for one in moves]
    assert all(later - earlier >= 2 * 3_600_000_000 for earlier, later in pairwise(times))
    for one in moves:
        assert {"labels", "frauds", "mean_gain", "against", "champion", "canary"} <= set(one["evidence"])


def test_exploration_is_told_with_its_propensity_and_keeps_to_cap_budget_and_hard_rules(whole: Path) -> None:
    made = [one for one in records(whole, "decisions") if not one["duplicate"]]
    told = Counter((one["exploration"], one["proposed_action"], one["action"]) for one in made)
    let_through = [one for one in made if one["exploration"] == "let_through"]
    assert let_through
    assert {(one["proposed_action"], one["action"]) for one in let_through} <= {
        ("decline", "approve"),
        ("review", "challenge"),
    }
    assert any(key[0] == "held" for key in told)
    spent: Counter[str] = Counter()
    for one in made:
        hard = any(hit["rule"] == "travel" for hit in one["rule_hits"])
        if one["exploration"] is None:
            assert one["propensity"] is None
            continue
        assert not hard
        assert one["features"]["amount"] <= 150
        assert one["propensity"] == pytest.approx(0.4 if one["exploration"] == "let_through" else 0.6)
        if one["exploration"] == "let_through":
            spent[one["ingested_at"][:10]] += one["features"]["amount"]
    assert all(day <= 600 for day in spent.values())
    labelled = {one["transaction_id"]: one for one in records(whole, "labelled_outcomes")}
    known = [one for one in let_through if one["transaction_id"] in labelled]
    assert known
    for one in known:
        label = labelled[one["transaction_id"]]
        assert (label["exploration"], label["propensity"]) == ("let_through", one["propensity"])
        assert (label["proposed_action"], label["action"]) == (one["proposed_action"], one["action"])


def test_silence_makes_no_declined_payment_genuine(whole: Path) -> None:
    labelled = records(whole, "labelled_outcomes")
    assert any(one["action"] == "decline" for one in records(whole, "decisions"))
    assert {one["action"] for one in labelled if one["source"] == "maturity"} == {"approve", "challenge", "review"}


@pytest.mark.parametrize("batch", [3, 250])
def test_the_loop_does_not_depend_on_batches(
    whole: Path, profile: Path, events: Path, tmp_path: Path, batch: int
) -> None:
    assert replay(profile, events, tmp_path / "out", batch=batch).finished
    assert output(tmp_path / "out") == output(whole)


def test_a_killed_replay_ends_with_the_same_roles_budget_and_records(
    whole: Path, profile: Path, events: Path, tmp_path: Path
) -> None:
    rng = random.Random(11)
    one = Replay(profile, events, tmp_path, "--epoch", "0.2", "--batch", "50")
    kills = 0
    for aim in (400, 1_200):
        wanted = aim + rng.randrange(200)
        process = one.start()
        try:
            wait_for(process, lambda wanted=wanted: one.published() >= wanted)  # type: ignore[misc]  # a lambda's default
            process.send_signal(signal.SIGKILL)
            kills += 1
        finally:
            kill_tree(process)
    process = one.start()
    code, _, errors = ended(process)
    assert code == 0, errors
    assert kills == 2
    assert output(one.out) == output(whole)
