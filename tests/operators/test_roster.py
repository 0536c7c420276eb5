"""Who decides a payment, and that a score in the shadow cannot: by hash of the account, and by type."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mypy.api
import pytest

from operators.actions import ActiveHits
from operators.features import load_feature_set
from operators.inflight import Value
from operators.loop_config import CanaryConfig, PromotionConfig
from operators.model import Contributions
from operators.policy import Thresholds, empty_policy
from operators.promotion import Promotion
from operators.roster import Roster, Scored, ShadowScore

ROOT = Path(__file__).resolve().parents[2]


class Fixed:
    """A model that always says the same."""

    def __init__(self, name: str, said: float | None) -> None:
        self.id, self.version, self.labels, self.feature_set_hash = name, "1", 0, ""
        self._said = said

    def score_one(self, _values: Sequence[Value]) -> float | None:
        return self._said

    def score_many(self, values_list: Sequence[Sequence[Value]]) -> list[float | None]:
        return [self._said for _ in values_list]

    def contributions(self, _values: Sequence[Value], _top: int) -> Contributions:
        return ((self.id, 1.0),)

    def contributions_many(self, values_list: Sequence[Sequence[Value]], _top: int) -> list[Contributions]:
        return [((self.id, 1.0),) for _ in values_list]

    def explain_many(
        self, values_list: Sequence[Sequence[Value]], top: int
    ) -> tuple[list[float | None], list[Contributions]]:
        return self.score_many(values_list), self.contributions_many(values_list, top)

    def learn_one(self, _values: Sequence[Value], _fraud: bool, _weight: float) -> None:
        self.labels += 1

    def to_bytes(self) -> bytes:
        return self.id.encode()

    def artefact_hash(self) -> str:
        return self.id


ACCOUNTS = [f"account-{number}" for number in range(2_000)]
CANARY = CanaryConfig(0.1, "salt", "b")


def scored(roster: Roster, accounts: Sequence[str] = ACCOUNTS) -> list[Scored]:
    values: list[list[Value]] = [[0.0] for _ in accounts]
    return roster.score(accounts, values, 5)


def models(*names: str) -> list[Fixed]:
    return [Fixed(name, 0.1 * (at + 1)) for at, name in enumerate(names)]


def test_a_canary_decides_its_share_of_the_accounts_and_always_the_same() -> None:
    told = scored(Roster(models("a", "b"), CANARY))
    canarys = {account for account, one in zip(ACCOUNTS, told, strict=True) if one.role == "canary"}
    assert 0.07 * len(ACCOUNTS) < len(canarys) < 0.13 * len(ACCOUNTS)
    again = scored(Roster(models("a", "b", "c"), CANARY), ACCOUNTS[::-1])
    assert canarys == {account for account, one in zip(ACCOUNTS[::-1], again, strict=True) if one.role == "canary"}
    other = scored(Roster(models("a", "b"), CanaryConfig(0.1, "another", "b")))
    assert canarys != {account for account, one in zip(ACCOUNTS, other, strict=True) if one.role == "canary"}


def test_each_payment_is_decided_by_one_and_shadowed_by_all_others() -> None:
    for one in scored(Roster(models("a", "b", "c"), CANARY)):
        expected = {"champion": ("a", 0.1), "canary": ("b", 0.2)}[one.role]
        assert (one.model, one.score) == expected
        assert one.why == ((one.model, 1.0),)
        assert [shadow.model_id for shadow in one.shadows] == [name for name in "abc" if name != one.model]
        for shadow in one.shadows:
            said = {"a": 0.1, "b": 0.2, "c": 0.30000000000000004}[shadow.model_id]
            assert shadow.record() == {"model_id": shadow.model_id, "model_version": "1+0", "score": said}


def test_challengers_without_a_canary_decide_nothing() -> None:
    told = scored(Roster(models("a", "b"), None))
    assert {(one.model, one.role) for one in told} == {("a", "champion")}
    assert {(one.model, one.role) for one in scored(Roster(models("a"), CANARY))} == {("a", "champion")}


def test_roles_follow_the_promotion() -> None:
    promotion = Promotion(PromotionConfig(), "a", ["b"], None)
    roster = Roster(models("a", "b"), CanaryConfig(0.5, "s"), promotion)
    assert {one.role for one in scored(roster)} == {"champion"}
    promotion.place("b", "canary", 0)
    assert {(one.model, one.role) for one in scored(roster)} == {("a", "champion"), ("b", "canary")}
    promotion.place("b", "champion", 1)
    assert {(one.model, one.role) for one in scored(roster)} == {("b", "champion")}


def test_every_model_learns_every_label() -> None:
    roster = Roster(models("a", "b"), CANARY)
    roster.learn([0.0], fraud=True, weight=1.0)
    assert [model.labels for model in roster.models.values()] == [1, 1]


def test_two_models_of_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="expected different ids"):
        Roster(models("a", "a"))


def test_a_shadow_score_is_refused_wherever_an_action_is_chosen(tmp_path: Path) -> None:
    (tmp_path / "features.toml").write_text('id = "f"\nbase_currency = "EUR"\n')
    policy = empty_policy(load_feature_set(tmp_path / "features.toml"))
    shadow = ShadowScore("b", "1", 0.99)
    with pytest.raises(TypeError, match="decide takes the score of the model that decides, found ShadowScore"):
        policy.decide(ActiveHits(), shadow)  # type: ignore[arg-type]  # what this test is about
    with pytest.raises(TypeError, match="'>=' not supported"):
        Thresholds(0.1, 0.2, 0.3).action(shadow)  # type: ignore[arg-type]  # as above


SNIPPET = """
from operators.actions import ActiveHits, Verdict
from operators.policy import Policy, Thresholds
from operators.roster import Scored, ShadowScore


def decide(policy: Policy, levels: Thresholds, active: ActiveHits, scored: Scored, shadow: ShadowScore) -> Verdict:
    {line}
    return policy.decide(active, scored.score)
"""

WAYS: dict[str, str | None] = {
    "pass": None,
    "policy.decide(active, shadow)": 'Argument 2 to "decide" of "Policy" has incompatible type "ShadowScore"',
    "policy.decide(active, scored.shadows[0])": '"decide" of "Policy" has incompatible type "ShadowScore"',
    'policy.decide(active, shadow.record()["score"])': '"decide" of "Policy" has incompatible type "object"',
    "levels.action(shadow)": 'Argument 1 to "action" of "Thresholds" has incompatible type "ShadowScore"',
    'levels.action(shadow.record()["score"])': 'Argument 1 to "action" of "Thresholds" has incompatible type "object"',
    'Scored(shadow, (), "champion", "a")': 'Argument 1 to "Scored" has incompatible type "ShadowScore"',
    "shadow >= 0.5": "Unsupported",
    "float(shadow)": 'Argument 1 to "float" has incompatible type "ShadowScore"',
}


def test_type_checker_refuses_every_way_from_a_shadow_score_to_an_action(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    snippets = []
    for at, line in enumerate(WAYS):
        snippet = tmp_path / f"shadow_{at}.py"
        snippet.write_text(SNIPPET.format(line=line))
        snippets.append(str(snippet))
    options = ["--strict", "--config-file", "", "--follow-imports", "silent", "--cache-dir", str(tmp_path / "cache")]
    out, err, _ = mypy.api.run([*options, "--ignore-missing-imports", *snippets])
    assert err == ""
    for snippet_path, expected in zip(snippets, WAYS.values(), strict=True):
        complaints = [line for line in out.splitlines() if Path(snippet_path).name in line and " error: " in line]
        if expected is None:
            assert complaints == []
        else:
            assert any(expected in complaint for complaint in complaints), (expected, out)
