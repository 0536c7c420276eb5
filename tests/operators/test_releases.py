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
