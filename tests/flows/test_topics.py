from __future__ import annotations

from dataclasses import replace

import pytest

from flows.topics import DAY_MS, Topic, plan, promised
from schemas.codec import CONTRACTS, contract
from schemas.errors import ConfigError

WANTED = {topic.name: topic for topic in promised(12, 3, 2)}
DECISIONS = WANTED["decisions.v1"]


def told(found: Topic, *, grow: bool = False) -> list[tuple[str, str]]:
    return [(step.action, step.told) for step in plan([WANTED[found.name]], {found.name: found}, grow=grow)]


def changed(topic: Topic, **config: str) -> Topic:
    return replace(topic, config={**topic.config, **{key.replace("_", "."): value for key, value in config.items()}})


def test_every_contract_has_its_topic_with_its_retention() -> None:
    assert WANTED.keys() == {contract(name)["topic"] for name in CONTRACTS}
    assert DECISIONS.config["cleanup.policy"] == "delete"
    assert DECISIONS.config["retention.ms"] == str(90 * DAY_MS)
    for name in ("models.v1", "policies.v1"):
        assert WANTED[name].config["cleanup.policy"] == "compact"
        assert WANTED[name].partitions == 1
    assert {topic.config["message.timestamp.type"] for topic in WANTED.values()} == {"LogAppendTime"}


def test_what_is_missing_is_created_and_what_is_there_is_kept() -> None:
    assert {step.action for step in plan(list(WANTED.values()), {}, grow=False)} == {"create"}
    assert {step.action for step in plan(list(WANTED.values()), WANTED, grow=False)} == {"keep"}


def test_what_exceeds_the_promise_is_kept() -> None:
    more = changed(DECISIONS, retention_ms="-1", min_insync_replicas="3", max_message_bytes="9000000")
    assert told(replace(more, partitions=50, replicas=5)) == [("keep", "decisions.v1: as promised")]


def test_safe_changes_are_set() -> None:
    less = changed(DECISIONS, retention_ms="1000", message_timestamp_type="CreateTime")
    assert told(less) == [
        (
            "set",
            f"decisions.v1: set retention.ms 1000 → {90 * DAY_MS}, message.timestamp.type CreateTime → LogAppendTime",
        )
    ]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (changed(DECISIONS, cleanup_policy="compact"), "cleanup.policy is compact, promised is delete; changing it"),
        (changed(WANTED["models.v1"], cleanup_policy="delete"), "cleanup.policy is delete, promised is compact"),
        (replace(DECISIONS, partitions=3), "3 partitions, promised are 12; adding some sends keys"),
        (replace(WANTED["models.v1"], partitions=3), "Kafka cannot take any away"),
        (replace(DECISIONS, replicas=2), "2 replicas, promised are 3; reassign"),
        (
            replace(changed(DECISIONS, min_insync_replicas="1"), replicas=1),
            "min.insync.replicas 2 with 1 replicas: nothing could be written",
        ),
    ],
)
def test_what_could_lose_records_or_move_keys_is_refused(found: Topic, message: str) -> None:
    refusals = [sentence for action, sentence in told(found) if action == "refuse"]
    assert any(message in sentence for sentence in refusals)
    assert not [action for action, _ in told(found) if action in {"create", "grow", "set"}]


def test_partitions_are_added_only_when_it_is_asked_for() -> None:
    assert told(replace(DECISIONS, partitions=3), grow=True) == [
        ("grow", "decisions.v1: 3 partitions, promised are 12: add 9")
    ]


def test_more_copies_in_sync_than_copies_are_refused() -> None:
    with pytest.raises(ConfigError, match="--min-in-sync 3: expected at most --replicas"):
        promised(12, 2, 3)
