"""Roles in the learning flow: evidence moves models, people order, and models.v1 is what both go by."""

from __future__ import annotations

import random
from typing import Any

import pytest

from operators.learn_roles import Roles, Sent
from operators.loop_config import CanaryConfig, LoopConfig, PromotionConfig
from operators.releases import AUTOMATIC, HUMAN, LEARN, Release, ReleaseLog

DAY = 86_400_000_000
LOOP = LoopConfig(canary=CanaryConfig(0.1, "s", "b"), promotion=PromotionConfig(min_frauds=5, period_us=DAY))


def _release(model: str, stage: str = "champion", origin: str = HUMAN, at: int = 1, **told: Any) -> Release:
    record = {
        "model_id": model,
        "version": "1",
        "stage": stage,
        "sha256": model * 8,
        "artefact_uri": "file:///x",
        "origin": origin,
        "created_at": at,
        **told,
    }
    return Release(record, 0)


def _roles(**told: Any) -> Roles:
    return Roles(["a", "b", "c"], LOOP, **told)


def _observe(roles: Roles, days: int, rng: random.Random, start: int = 0) -> list[Any]:
    """Days of labels by which b is much better than a; returns the moves."""
    moves: list[Any] = []
    for day in range(start, start + days):
        for _ in range(40):
            fraud = rng.random() < 0.3
            scores = {"a": 0.5, "b": 0.9 if fraud else 0.1, "c": 0.5}
            moves += roles.observe(day * DAY + rng.randrange(DAY), fraud=fraud, weight=1.0, scores=scores)
        moves += roles.advance((day + 1) * DAY)
    return moves


def test_a_better_canary_is_promoted_and_a_freeze_by_a_person_holds_it() -> None:
    roles = _roles()
    assert [(one.move, one.model) for one in _observe(roles, 40, random.Random(1))][:1] == [("promotion", "b")]
    held = _roles()
    assert not held.hear(_release("a", frozen=True), 0)
    assert held.frozen
    assert not _observe(held, 40, random.Random(1))
    assert (held.champion, held.role("b")) == ("a", "canary")
    held.hear(_release("a", frozen=False), 40 * DAY)
    moves = _observe(held, 5, random.Random(2), 40)  # evidence was gathered meanwhile
    assert [(one.move, one.model) for one in moves][:1] == [("promotion", "b")]


def test_a_person_promotes_and_the_rest_follows() -> None:
    roles = _roles()
    assert roles.hear(_release("b"), DAY)
    assert [roles.role(name) for name in "abc"] == ["challenger", "champion", "challenger"]
    assert not roles.hear(_release("b", frozen=True), DAY)
    assert roles.hear(_release("a"), 2 * DAY)
    assert not roles.frozen
    assert roles.champion == "a"


def test_a_move_that_a_freeze_overtook_is_taken_back_once_it_is_read() -> None:
    roles = _roles()
    (move,) = _observe(roles, 40, random.Random(1))[:1]
    roles.announced(Sent("b", "1", "champion", move.event_time_us, "bbbb"))
    assert roles.champion == "b"
    # The person's freeze stands before the promotion in the topic, and was read behind it in the flow.
    assert roles.hear(_release("a", frozen=True), 41 * DAY)
    assert roles.champion == "a"
    assert not roles.hear(_release("b", origin=AUTOMATIC, at=move.event_time_us), 41 * DAY)
    assert roles.champion == "a"
    canary = _roles()
    canary.announced(Sent("b", "1", "canary", 5, "bbbb"))
    canary.hear(_release("a", frozen=True), DAY)
    canary.hear(_release("b", stage="challenger", origin=LEARN, at=1), DAY)
    canary.hear(_release("b", stage="canary", origin=AUTOMATIC, at=5), DAY)
    assert canary.role("b") == "challenger"


def test_what_is_ours_and_under_way_is_not_taken_back() -> None:
    roles = _roles()
    roles.hear(_release("a", origin=LEARN), 0)
    roles.hear(_release("b", "canary", LEARN), 0)
    (move,) = _observe(roles, 40, random.Random(1))[:1]
    roles.announced(Sent("a", "1", "champion", 7, "old"))  # released before the move and read after it
    roles.announced(Sent("b", "1", "champion", move.event_time_us, "bbbb"))
    assert not roles.hear(_release("a", origin=LEARN, at=7), 41 * DAY)
    assert roles.champion == "b"
    assert not roles.hear(_release("b", origin=AUTOMATIC, at=move.event_time_us), 41 * DAY)
    assert roles.champion == "b"


def test_a_learner_that_begins_anew_takes_over_the_roles_announced_before() -> None:
    roles = _roles()
    roles.hear(_release("a", origin=LEARN), 0)
    roles.hear(_release("b", "canary", AUTOMATIC), 0)
    assert roles.hear(_release("b", origin=AUTOMATIC, at=9), 0)
    roles.hear(_release("c", "canary", AUTOMATIC, at=10), 0)
    assert [roles.role(name) for name in "abc"] == ["challenger", "champion", "canary"]


def test_a_champion_names_the_one_before_it() -> None:
    roles = _roles()
    assert roles.announced(Sent("a", "1+5", "champion", 1, "first")) is None
    assert roles.announced(Sent("c", "1+5", "challenger", 1, "other")) is None
    assert roles.announced(Sent("a", "1+6", "champion", 2, "second")) == ("1+5", "first")
    roles.hear(_release("a", frozen=True, sha256="hand"), 0)
    assert roles.announced(Sent("a", "1+7", "champion", 3, "third")) == ("1", "hand")


@pytest.mark.parametrize("seed", range(3))
def test_bytes_carry_on_wherever_they_were_cut(seed: int) -> None:
    rng = random.Random(seed)
    events: list[Any] = [("day", day) for day in range(60)]
    events.insert(rng.randrange(60), ("hear", _release("c", frozen=rng.random() < 0.5)))
    events.insert(rng.randrange(60), ("hear", _release("a", frozen=False)))
    events.insert(rng.randrange(60), ("sent", Sent("b", "1", "champion", 5, "x")))
    whole, cut = _roles(), _roles()
    for number, (what, told) in enumerate(events):
        for roles in (whole, cut):
            if what == "day":
                _observe(roles, 1, random.Random(told), told)
            elif what == "hear":
                roles.hear(told, number * DAY)
            else:
                roles.announced(told)
        packed, heard = cut.to_bytes()
        cut = _roles(packed=packed, heard=heard)
    assert cut.to_bytes() == whole.to_bytes()
    assert [cut.role(name) for name in "abc"] == [whole.role(name) for name in "abc"]


def test_where_nothing_decides_without_a_person_nobody_moves() -> None:
    assert not _observe(_roles(moves=False), 40, random.Random(1))
    bare = Roles(["a", "b"], LoopConfig())
    assert not bare.observe(0, fraud=True, weight=1.0, scores={"a": 0.1, "b": 0.9})
    assert bare.hear(_release("b"), 0)
    assert bare.champion == "b"


@pytest.mark.parametrize("seed", range(12))
def test_whatever_people_and_evidence_do_meanwhile_learner_and_decide_come_to_the_same_roles(seed: int) -> None:
    rng = random.Random(seed)
    loop = LoopConfig(
        canary=CanaryConfig(0.1, "s", rng.choice([None, "b"])),
        promotion=PromotionConfig(
            min_frauds=2, level=0.5, rollback_level=0.5, period_us=DAY, patience_us=12 * DAY, probation_us=8 * DAY
        ),
    )
    models = ["a", "b", "c"]
    topic: list[Release] = []
    roles, heard = Roles(models, loop), 0
    moves = orders = 0

    def folded() -> ReleaseLog:
        log = ReleaseLog()
        for release in topic:
            log.apply(release)
        return log

    def announce(model: str, at: int, origin: str) -> None:
        stage = roles.role(model)
        roles.announced(Sent(model, "1", stage, at, f"{model}{at}"))
        topic.append(_release(model, stage, origin, at, sha256=f"{model}{at}"))

    def read(count: int, day: int) -> int:
        for release in topic[heard : heard + count]:
            roles.hear(release, day * DAY)
        return min(len(topic), heard + count)

    best = "b"
    for day in range(500):
        if day % 9 == 0:
            best = rng.choice(models)
        found: list[Any] = []
        for _ in range(12):
            fraud = rng.random() < 0.4
            scores: dict[str, float | None] = {
                name: (0.9 if fraud else 0.1) if name == best else 0.5 + rng.uniform(-0.1, 0.1) for name in models
            }
            found += roles.observe(day * DAY + 1, fraud=fraud, weight=1.0, scores=scores)
        for move in found:
            moves += 1
            announce(move.model, day * DAY + 1, AUTOMATIC)
        if day % 4 == 0:
            for name in models:
                announce(name, day * DAY + 2, LEARN)
        log = folded()
        if rng.random() < 0.1 and log.champion is not None:
            orders += 1
            what = rng.choice(["freeze", "unfreeze", "promote", "canary", "withdraw"])
            other = rng.choice([name for name in models if name != log.champion.model_id])
            if what in ("freeze", "unfreeze"):
                topic.append(_release(log.champion.model_id, frozen=what == "freeze", sha256=log.champion.sha256))
            elif what == "promote":
                topic.append(_release(other, frozen=rng.random() < 0.5))
            elif what == "canary":
                topic.append(_release(other, "canary"))
            elif log.canary is not None:
                topic.append(_release(log.canary.model_id, "challenger"))
        heard = read(rng.randrange(4), day)  # it lags behind, and catches up now and then
        if rng.random() < 0.2:
            heard = read(len(topic), day)
    heard = read(len(topic), 500)
    for name in models:
        announce(name, 500 * DAY + 2, LEARN)
    heard = read(len(topic), 500)
    log = folded()
    assert moves > 3
    assert orders > 3
    assert log.champion is not None
    assert roles.champion == log.champion.model_id
    assert roles.frozen == log.frozen
    by_topic = {name: "challenger" for name in models} | {log.champion.model_id: "champion"}
    if log.canary is not None:
        by_topic[log.canary.model_id] = "canary"
    assert {name: roles.role(name) for name in models} == by_topic
