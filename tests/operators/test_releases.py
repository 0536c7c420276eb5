"""Who serves follows from signed releases, in whatever order they are heard."""

from __future__ import annotations

import base64
import itertools
from dataclasses import replace

import pytest

from operators.releases import Register, Release, Stage, describe_release, freeze_record, read_release
from schemas.errors import ReleaseError
from state.keys import ModelKeys

DAY_US = 86_400_000_000


def keys(*ids: str) -> ModelKeys:
    secrets = {name: bytes((17 * n + ord(name[-1])) % 251 for n in range(32)) for name in ids}
    return ModelKeys(ids[-1], secrets)


def released(model: str, stage: Stage, day: int, version: str = "1") -> Release:
    metrics = {"roc_auc": 0.9, "labels": 3}
    return Release(model, version, stage, "cards-1", "f" * 64, metrics, "file:///a", "a" * 64, day * DAY_US)


def test_a_signed_release_is_read_as_it_was_made() -> None:
    own = keys("k1")
    made = released("linear", "champion", 1).signed(own)
    assert read_release(made.record(), own) == made


@pytest.mark.parametrize("field", ["model_id", "version", "sha256", "feature_set_hash", "artefact_uri", "reason"])
def test_a_release_altered_in_any_field_is_refused(field: str) -> None:
    own = keys("k1")
    record = released("linear", "champion", 1).signed(own).record()
    with pytest.raises(ReleaseError, match=r"BAD_SIGNATURE.*of none of the keys k1"):
        read_release({**record, field: "b" * 64}, own)


def test_a_release_with_other_figures_or_another_stage_is_refused() -> None:
    own = keys("k1")
    record = released("linear", "challenger", 1).signed(own).record()
    for change in ({"stage": "champion"}, {"metrics": {"roc_auc": 0.99, "labels": 3.0}}, {"created_at": 5}):
        with pytest.raises(ReleaseError, match="BAD_SIGNATURE"):
            read_release({**record, **change}, own)


def test_a_release_without_signature_or_by_a_key_nobody_has_is_refused() -> None:
    made = released("linear", "champion", 1)
    with pytest.raises(ReleaseError, match="NOT_SIGNED"):
        read_release(made.record(), keys("k1"))
    with pytest.raises(ReleaseError, match="BAD_SIGNATURE"):
        read_release(made.signed(keys("k2")).record(), keys("k1"))


def test_what_an_earlier_key_signed_is_read_after_keys_have_rotated() -> None:
    made = released("linear", "champion", 1).signed(keys("k1"))
    assert read_release(made.record(), keys("k1", "k2")) == made
    assert released("linear", "champion", 2).signed(keys("k1", "k2")).signature.startswith("k2:")


@pytest.mark.parametrize(
    ("change", "what"),
    [({"stage": "king"}, "stage"), ({"created_at": "now"}, "created_at"), ({"metrics": [1]}, "metrics"),
     ({"model_id": None}, "model_id"), ({"sha256": 7}, "sha256")],
)  # fmt: skip
def test_a_record_that_is_no_release_is_refused_by_field(change: dict[str, object], what: str) -> None:
    record = {**released("linear", "champion", 1).signed(keys("k1")).record(), **change}
    with pytest.raises(ReleaseError, match=f"BAD_RECORD: {what}"):
        read_release(record, keys("k1"))


def test_who_serves_does_not_depend_on_the_order_in_which_releases_are_heard() -> None:
    told = [
        released("linear", "champion", 1),
        released("forest", "canary", 2),
        released("stack", "challenger", 3),
        released("forest", "champion", 4),
        released("linear", "challenger", 5),
    ]
    for order in itertools.permutations(told):
        standing = Register(order).standing()
        assert standing.champion == told[3]
        assert standing.canary is None
        assert [one.model_id for one in standing.challengers] == ["linear", "stack"]
        assert standing.previous == told[0]


def test_compaction_to_the_last_release_of_each_model_and_stage_changes_nobody() -> None:
    told = [released("linear", "champion", day, f"1+{day}") for day in range(1, 5)]
    told += [released("forest", "champion", 5), released("linear", "champion", 6, "1+6")]
    kept = {one.key: one for one in told}
    assert Register(kept.values()).standing() == Register(told).standing()


def test_a_retired_champion_leaves_its_place_to_the_one_before() -> None:
    told = [released("linear", "champion", 1), released("forest", "champion", 2), released("forest", "retired", 3)]
    standing = Register(told).standing()
    assert standing.champion == told[0]
    back = released("forest", "champion", 4)
    assert Register([*told, back]).standing().champion == back


def test_a_freeze_holds_until_it_is_lifted() -> None:
    frozen = freeze_record(frozen=True, author="ann", reason="audit", created_at_us=DAY_US)
    thawed = freeze_record(frozen=False, author="ann", reason="done", created_at_us=2 * DAY_US)
    register = Register([released("linear", "champion", 1)])
    assert not register.standing().frozen
    assert register.hear(frozen)
    assert register.standing().frozen
    assert register.hear(thawed)
    assert not register.hear(frozen)
    assert not register.standing().frozen
    assert register.last_us() == 2 * DAY_US
    assert [one.model_id for one in register.releases()] == ["linear"]


def test_a_release_is_told_in_a_line() -> None:
    made = replace(released("linear", "champion", 1), author="ann")
    assert describe_release(made) == (
        "linear 1 as champion, by ann at 1970-01-02T00:00:00.000000Z (labels 3, roc_auc 0.9)"
    )


def test_model_keys_come_from_the_environment_and_are_never_shown() -> None:
    secret = base64.b64encode(bytes(range(32))).decode()
    text = f'active = "k1"\n[keys.k1]\nsecret = "{secret}"\n'
    found = ModelKeys.from_environment({"WEIR_MODEL_KEYS": text})
    assert found is not None
    assert secret not in repr(found)
    assert ModelKeys.from_environment({}) is None
    assert found.signed(b"x", found.sign(b"x"))
    assert not found.signed(b"y", found.sign(b"x"))
    assert not found.signed(b"x", "no colon")
