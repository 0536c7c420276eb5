from __future__ import annotations

import random
from typing import Any

import pytest

from operators.releases import HUMAN, LEARN, Release, ReleaseLog, checked, follows, message_key
from schemas.errors import ContractError


def _record(model: str = "m", sha256: str = "a" * 64, **told: Any) -> dict[str, Any]:
    return {
        "model_id": model,
        "version": "1",
        "stage": "champion",
        "feature_set_id": "f",
        "feature_set_hash": "h",
        "metrics": {},
        "artefact_uri": f"file:///x/{sha256}",
        "sha256": sha256,
        "created_at": 1,
        "origin": LEARN,
        **told,
    }


def _folded(records: list[dict[str, Any]]) -> ReleaseLog:
    log = ReleaseLog()
    for offset, record in enumerate(records):
        log.apply(Release(record, offset))
    return log


def test_a_frozen_champion_stands_until_a_person_says_otherwise() -> None:
    log = _folded([_record(sha256="1"), _record(sha256="1", origin=HUMAN, frozen=True), _record(sha256="2")])
    assert log.champion is not None
    assert (log.champion.sha256, log.frozen, log.held_up) == ("1", True, 1)
    log.apply(Release(_record(sha256="1", origin=HUMAN, frozen=False), 3))
    log.apply(Release(_record(sha256="3"), 4))
    assert (log.champion.sha256, log.frozen) == ("3", False)


def test_challengers_and_canaries_are_no_champions() -> None:
    log = _folded([_record(stage="challenger"), _record(stage="canary"), _record(stage="retired")])
    assert log.champion is None
    assert len(log.latest) == 3


def _roles(log: ReleaseLog) -> dict[str, str]:
    """Stage by model, with the artefact."""
    told = {name: f"challenger {one.sha256}" for name, one in log.challengers.items()}
    for stage, one in (("champion", log.champion), ("canary", log.canary)):
        if one is not None:
            assert one.model_id not in told
            told[one.model_id] = f"{stage} {one.sha256}"
    return told


def test_a_new_champion_or_canary_makes_the_one_before_it_a_challenger() -> None:
    log = _folded([_record("a", "1"), _record("b", "2", stage="canary"), _record("c", "3", stage="challenger")])
    assert _roles(log) == {"a": "champion 1", "b": "canary 2", "c": "challenger 3"}
    log.apply(Release(_record("c", "4", stage="canary"), 3))
    assert _roles(log) == {"a": "champion 1", "b": "challenger 2", "c": "canary 4"}
    log.apply(Release(_record("c", "5"), 4))
    assert _roles(log) == {"a": "challenger 1", "b": "challenger 2", "c": "champion 5"}
    log.apply(Release(_record("c", "6", stage="challenger"), 5))  # a newer state of the champion waits for a person
    log.apply(Release(_record("a", "7", stage="retired"), 6))
    assert _roles(log) == {"b": "challenger 2", "c": "champion 5"}
    log.apply(Release(_record("b", "8", stage="canary"), 7))
    log.apply(Release(_record("b", "9", stage="challenger"), 8))
    assert _roles(log) == {"b": "challenger 9", "c": "champion 5"}


def test_behind_a_freeze_no_model_begins_to_decide_and_one_that_decides_may_be_sent_back() -> None:
    frozen = [_record("a", "1", origin=HUMAN, frozen=True), _record("b", "2", stage="challenger")]
    log = _folded([*frozen, _record("b", "3", stage="canary"), _record("b", "4", origin="automatic")])
    assert (_roles(log), log.held_up) == ({"a": "champion 1", "b": "challenger 2"}, 2)
    log = _folded([_record("b", "2", stage="canary"), frozen[0], _record("b", "3", stage="canary")])
    assert _roles(log) == {"a": "champion 1", "b": "canary 3"}  # it goes on learning
    log.apply(Release(_record("b", "4", stage="challenger"), 3))
    assert _roles(log) == {"a": "champion 1", "b": "challenger 4"}


@pytest.mark.parametrize("seed", range(40))
def test_compaction_leaves_all_roles(seed: int) -> None:
    rng = random.Random(seed)
    records = [
        _record(
            rng.choice("abc"),
            str(number),
            stage=rng.choice(["champion", "canary", "challenger", "challenger", "retired"]),
            origin=rng.choice([LEARN, HUMAN, "automatic"]),
        )
        for number in range(rng.randrange(1, 60))
    ]
    last = {message_key(record): number for number, record in enumerate(records)}
    compacted = [record for number, record in enumerate(records) if last[message_key(record)] == number]
    left, whole = _roles(_folded(compacted)), _roles(_folded(records))
    # Of one that only scores in the shadow another state may be left; whose it is, and who decides, is not.
    assert left.keys() == whole.keys()
    for name, role in whole.items():
        assert left[name] == role or {left[name].split()[0], role.split()[0]} == {"challenger"}


@pytest.mark.parametrize("seed", range(40))
def test_compaction_leaves_the_champion_and_the_one_before_it(seed: int) -> None:
    rng = random.Random(seed)
    records: list[dict[str, Any]] = []
    log = ReleaseLog()
    for offset in range(rng.randrange(1, 60)):
        sha256 = str(rng.randrange(12))
        record = _record(
            rng.choice("mn"),
            sha256,
            stage=rng.choice(["champion", "champion", "challenger", "canary"]),
            origin=rng.choice([LEARN, LEARN, HUMAN, "automatic"]),
        )
        record |= {"frozen": record["origin"] == HUMAN and rng.random() < 0.4, **follows(log.champion, sha256)}
        records.append(record)
        log.apply(Release(record, offset))
    last = {message_key(record): offset for offset, record in enumerate(records)}
    compacted = _folded([record for offset, record in enumerate(records) if last[message_key(record)] == offset])
    assert (compacted.champion is None) == (log.champion is None)
    if log.champion is not None and compacted.champion is not None:
        assert compacted.champion.record == log.champion.record
        assert compacted.frozen == log.frozen


def test_a_champion_announced_again_keeps_the_one_before_it() -> None:
    first = Release(_record(sha256="1"), 0)
    second = Release({**_record(sha256="2"), **follows(first, "2")}, 1)
    assert second.record["previous_sha256"] == "1"
    assert follows(second, "2")["previous_sha256"] == "1"
    assert follows(None, "1")["previous_sha256"] is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sha256": None}, "sha256: a release has one"),
        ({"stage": "boss"}, "stage: expected one of"),
        ({"origin": "thief"}, "origin: expected one of"),
        ({"version": 3}, "version: expected a string"),
        ({"created_at": "now"}, "created_at: expected a time"),
        ({"metrics": []}, "metrics: expected a map"),
    ],
)
def test_what_is_no_release_is_refused_by_field(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ContractError, match=told):
        checked(_record(**changes))
