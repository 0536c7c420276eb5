"""Tests of operators/policy.py. One file, because all of it shares one small feature set and its policies."""

import math
from collections.abc import Sequence
from pathlib import Path

import mypy.api
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.actions import ACTIONS, Action, ActiveHits, ShadowHits
from operators.features import FeatureSet, load_feature_set
from operators.inflight import Value
from operators.policy import (
    DEADLINE_MISSED,
    ELEVATED_SCORE,
    HIGH_SCORE,
    NO_RISK_FOUND,
    Policy,
    empty_policy,
    load_policy,
)
from operators.policy_check import check_policy
from schemas.errors import ProfileError
from schemas.reasons import REASON_CODES

ROOT = Path(__file__).parents[2]
FEATURES = """
id = "t"
base_currency = "EUR"
[entities.card]
key = "card_id"
windows = ["10m"]
amount = ["count", "sum"]
[entities.device]
key = "device_id"
reputation = true
"""
HEAD = 'id = "p"\nversion = "1"\n'
THRESHOLDS = "thresholds = { challenge = 0.6, review = 0.8, decline = 0.95 }\n"


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    path = tmp_path_factory.mktemp("features") / "features.toml"
    path.write_text(FEATURES)
    return load_feature_set(path)


def rule(rule_id: str, when: str, action: str = "decline", reason: str = "AMOUNT_LIMIT", more: str = "") -> str:
    return f"[[rules]]\nid = '{rule_id}'\nwhen = '''{when}'''\naction = '{action}'\nreason = '{reason}'\n{more}\n"


def policy_of(features: FeatureSet, path: Path, *rules: str, head: str = HEAD + THRESHOLDS) -> Policy:
    file = path / "policy.toml"
    file.write_text(head + "\n".join(rules))
    return load_policy(file, features)


def values_of(features: FeatureSet, known: dict[str, Value]) -> list[Value]:
    values = features.new_values()
    for name, value in known.items():
        values[features.slots[name]] = value
    return values


def ids(hits: ActiveHits | ShadowHits) -> list[str]:
    return [hit.rule_id for hit in hits.hits]


def test_all_that_hold_are_told_strongest_first_then_by_priority_then_in_the_order_of_the_file(
    features: FeatureSet, tmp_path: Path
) -> None:
    policy = policy_of(
        features,
        tmp_path,
        rule("c1", "amount > 1", "challenge"),
        rule("never", "amount > 1000"),
        rule("r1", "amount > 2", "review"),
        rule("c2", "amount > 3", "challenge", more="priority = 5"),
        rule("d1", "amount > 4", "decline", more="priority = -5"),
        rule("r2", "amount > 5", "review"),
    )
    active = policy.evaluate(values_of(features, {"amount": 100.0}))
    assert ids(active) == ["d1", "r1", "r2", "c2", "c1"]
    assert [hit.priority for hit in active.hits] == [-5, 0, 0, 5, 0]
    assert active.strongest is Action.DECLINE
    assert ids(policy.evaluate(values_of(features, {"amount": 3.5}))) == ["r1", "c2", "c1"]
    assert ids(policy.evaluate(values_of(features, {"amount": 1.5}))) == ["c1"]
    assert policy.evaluate(values_of(features, {})) == ActiveHits()


def test_strongest_action_wins_and_all_reasons_are_given_once(features: FeatureSet, tmp_path: Path) -> None:
    policy = policy_of(
        features,
        tmp_path,
        rule("c", "amount > 1", "challenge", "NIGHT_ACTIVITY"),
        rule("r", "amount > 2", "review", "AMOUNT_LIMIT"),
        rule("c2", "amount > 3", "challenge", "AMOUNT_LIMIT"),
        rule("c3", "amount > 4", "challenge", "DEVICE_NEW", "priority = 1"),
    )
    verdict = policy.decide(policy.evaluate(values_of(features, {"amount": 9.0})), None)
    assert verdict.action is verdict.proposed_action is Action.REVIEW
    assert verdict.reasons == ("AMOUNT_LIMIT", "DEVICE_NEW", "NIGHT_ACTIVITY")
    assert verdict.fallback is None


@pytest.mark.parametrize(
    ("score", "action", "reason"),
    [
        (None, "approve", NO_RISK_FOUND),
        (math.nan, "approve", NO_RISK_FOUND),
        (0.0, "approve", NO_RISK_FOUND),
        (0.5999, "approve", NO_RISK_FOUND),
        (0.6, "challenge", ELEVATED_SCORE),
        (0.7999, "challenge", ELEVATED_SCORE),
        (0.8, "review", HIGH_SCORE),
        (0.95, "decline", HIGH_SCORE),
        (1.0, "decline", HIGH_SCORE),
    ],
)
def test_score_asks_for_the_action_whose_threshold_it_reaches(
    features: FeatureSet, tmp_path: Path, score: float | None, action: str, reason: str
) -> None:
    policy = policy_of(features, tmp_path)
    verdict = policy.decide(ActiveHits(), score)
    assert (verdict.action.wire, verdict.reasons) == (action, (reason,))


@pytest.mark.parametrize(
    ("score", "action", "reasons"),
    [
        (0.1, "review", ("AMOUNT_LIMIT", "NIGHT_ACTIVITY")),
        (0.6, "review", ("AMOUNT_LIMIT", "NIGHT_ACTIVITY", ELEVATED_SCORE)),
        (0.8, "review", ("AMOUNT_LIMIT", HIGH_SCORE, "NIGHT_ACTIVITY")),
        (0.95, "decline", (HIGH_SCORE, "AMOUNT_LIMIT", "NIGHT_ACTIVITY")),
    ],
)
def test_reason_of_the_score_stands_where_its_action_ranks(
    features: FeatureSet, tmp_path: Path, score: float, action: str, reasons: tuple[str, ...]
) -> None:
    policy = policy_of(
        features, tmp_path, rule("c", "amount > 1", "challenge", "NIGHT_ACTIVITY"), rule("r", "amount > 1", "review")
    )
    verdict = policy.decide(policy.evaluate(values_of(features, {"amount": 9.0})), score)
    assert (verdict.action.wire, verdict.reasons) == (action, reasons)


def test_without_thresholds_the_score_asks_for_nothing(features: FeatureSet, tmp_path: Path) -> None:
    policy = policy_of(features, tmp_path, head=HEAD)
    assert policy.decide(ActiveHits(), 1.0).action is Action.APPROVE
    assert empty_policy(features).decide(ActiveHits(), 1.0).reasons == (NO_RISK_FOUND,)


@pytest.mark.parametrize(
    ("on_deadline", "amount", "action", "reasons"),
    [
        ("approve", 0.0, "approve", (DEADLINE_MISSED,)),
        ("approve", 2.0, "challenge", ("NIGHT_ACTIVITY",)),
        ("challenge", 2.0, "challenge", ("NIGHT_ACTIVITY",)),
        ("review", 2.0, "review", (DEADLINE_MISSED, "NIGHT_ACTIVITY")),
        ("review", 9.0, "decline", ("AMOUNT_LIMIT", "NIGHT_ACTIVITY")),
    ],
)
def test_fallback_never_weakens_what_an_active_rule_asks_for(
    features: FeatureSet, tmp_path: Path, on_deadline: str, amount: float, action: str, reasons: tuple[str, ...]
) -> None:
    policy = policy_of(
        features,
        tmp_path,
        rule("c", "amount > 1", "challenge", "NIGHT_ACTIVITY"),
        rule("d", "amount > 5"),
        head=f"{HEAD}{THRESHOLDS}deadline_ms = 100\non_deadline = '{on_deadline}'\n",
    )
    active = policy.evaluate(values_of(features, {"amount": amount}))
    verdict = policy.fall_back(active, policy.decide(active, 0.99))
    assert (verdict.action.wire, verdict.reasons, verdict.fallback) == (action, reasons, "deadline")
    assert verdict.proposed_action is Action.DECLINE
    assert policy.deadline_ms == 100


def test_rules_that_are_off_are_checked_and_never_evaluated(features: FeatureSet, tmp_path: Path) -> None:
    policy = policy_of(features, tmp_path, rule("o", "amount > 1", more='mode = "off"'))
    values = values_of(features, {"amount": 5.0})
    assert ids(policy.evaluate(values)) == ids(policy.evaluate_shadow(values)) == []
    assert policy.absent(values_of(features, {}), [None, None]) == []
    with pytest.raises(ProfileError, match="rule 'o': when, column 1: unknown feature 'amoun'"):
        policy_of(features, tmp_path, rule("o", "amoun > 1", more='mode = "off"'))


# Shadow


POOL: Sequence[tuple[str, str]] = (
    ("amount > 1", "challenge"),
    ("amount > 3", "decline"),
    ("card.count_10m >= 2", "review"),
    ("device.rooted", "decline"),
    ("not device.blocked and amount < 4", "review"),
    ("absent(card.sum_10m)", "decline"),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["active", "shadow", "off"]), min_size=6, max_size=6),
    st.sampled_from([math.nan, 0.5, 2.0, 5.0]),
    st.sampled_from([math.nan, 1.0, 3.0]),
    st.sampled_from([None, True, False]),
    st.sampled_from([None, 0.5, 0.7, 0.99]),
)
def test_shadow_rules_never_alter_the_decision(
    features: FeatureSet,
    tmp_path_factory: pytest.TempPathFactory,
    modes: list[str],
    amount: float,
    count: float,
    rooted: bool | None,
    score: float | None,
) -> None:
    path = tmp_path_factory.mktemp("policies")
    made = [
        rule(f"r{at}", when, action, more=f"mode = '{mode}'")
        for at, ((when, action), mode) in enumerate(zip(POOL, modes, strict=True))
    ]
    with_shadow = policy_of(features, path, *made)
    without = policy_of(features, path, *[one for one, mode in zip(made, modes, strict=True) if mode != "shadow"])
    everything = policy_of(features, path, *[one.replace("'shadow'", "'active'") for one in made])
    values = values_of(
        features, {"amount": amount, "card.count_10m": count, "device.rooted": rooted, "device.blocked": rooted}
    )
    keys = [b"c", b"d"]
    active, shadow = with_shadow.evaluate(values), with_shadow.evaluate_shadow(values)
    assert active == without.evaluate(values)
    assert with_shadow.decide(active, score) == without.decide(without.evaluate(values), score)
    assert with_shadow.absent(values, keys) == without.absent(values, keys)
    assert without.evaluate_shadow(values) == ShadowHits()
    assert sorted(ids(active) + ids(shadow)) == sorted(ids(everything.evaluate(values)))


def test_shadow_hits_say_by_name_what_they_would_have_asked_for(features: FeatureSet, tmp_path: Path) -> None:
    policy = policy_of(
        features,
        tmp_path,
        rule("s1", "amount > 1", "challenge", more='mode = "shadow"'),
        rule("s2", "amount > 1", "decline", "NIGHT_ACTIVITY", more='mode = "shadow"'),
    )
    shadow = policy.evaluate_shadow(values_of(features, {"amount": 2.0}))
    assert [(hit.rule_id, hit.would, hit.reason) for hit in shadow.hits] == [
        ("s2", "decline", "NIGHT_ACTIVITY"),
        ("s1", "challenge", "AMOUNT_LIMIT"),
    ]


def test_deciding_on_shadow_hits_is_refused_while_running(features: FeatureSet, tmp_path: Path) -> None:
    policy = policy_of(features, tmp_path, rule("s", "amount > 1", more='mode = "shadow"'))
    shadow = policy.evaluate_shadow(values_of(features, {"amount": 2.0}))
    with pytest.raises(TypeError, match="decide takes the hits of active rules, found ShadowHits"):
        policy.decide(shadow, None)  # type: ignore[arg-type]  # what this test is about


SNIPPET = """
from operators.actions import Action, ActiveHits, RuleHit, ShadowHits, Verdict
from operators.policy import Policy


def decide(policy: Policy, active: ActiveHits, shadow: ShadowHits) -> Verdict:
    {line}
    return policy.decide(active, 0.5)
"""


WAYS: dict[str, str | None] = {
    "pass": None,
    "policy.decide(shadow, 0.5)": 'Argument 1 to "decide" of "Policy" has incompatible type "ShadowHits"',
    "policy.fall_back(shadow, policy.decide(active, 0.5))": 'Argument 1 to "fall_back" of "Policy"',
    "active = ActiveHits(shadow.hits)": '"ActiveHits" has incompatible type "tuple[ShadowHit, ...]"',
    "active = ActiveHits((*active.hits, *shadow.hits))": 'incompatible type "*tuple[ShadowHit, ...]"',
    "action: Action = shadow.hits[0].would": "Incompatible types in assignment",
    'RuleHit("x", shadow.hits[0].would, "R", 0)': 'Argument 2 to "RuleHit" has incompatible type "str"',
}


def test_type_checker_refuses_every_way_from_shadow_hits_to_an_action(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    snippets = []
    for at, line in enumerate(WAYS):
        snippet = tmp_path / f"snippet_{at}.py"
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


# Missing features


def test_features_that_left_a_rule_undecided_are_named_in_slot_order(features: FeatureSet, tmp_path: Path) -> None:
    policy = policy_of(
        features,
        tmp_path,
        rule("a", "card.sum_10m > 100 and card.count_10m > 3"),
        rule("b", "device.rooted and amount > 100"),
        rule("c", "coalesce(device.accounts, 0) > 5"),
        rule("s", "device.blocked", more='mode = "shadow"'),
    )
    both = [b"card", b"device"]
    assert policy.absent(values_of(features, {"amount": 500.0}), both) == [
        "card.count_10m",
        "card.sum_10m",
        "device.rooted",
    ]
    assert policy.absent(values_of(features, {"amount": 500.0, "card.sum_10m": 7.0}), both) == ["device.rooted"]
    assert policy.absent(values_of(features, {"amount": 5.0, "card.sum_10m": 7.0}), both) == []
    assert policy.absent(values_of(features, {"amount": 500.0}), [b"card", None]) == ["card.count_10m", "card.sum_10m"]
    assert policy.absent(values_of(features, {"amount": 500.0}), [None, None]) == []


def test_missing_amount_is_told_of_a_rule_on_facts_alone(features: FeatureSet, tmp_path: Path) -> None:
    policy = policy_of(features, tmp_path, rule("a", "amount > 100"))
    assert policy.absent(values_of(features, {}), [None, None]) == ["amount"]


# The file


def test_policy_says_what_the_file_says(features: FeatureSet, tmp_path: Path) -> None:
    policy = policy_of(
        features,
        tmp_path,
        rule("a.b-c_1", "amount > 1", "review", "NIGHT_ACTIVITY", "mode = 'shadow'\npriority = 7\ndescription = 'why'"),
        head=f"{HEAD}{THRESHOLDS}deadline_ms = 250\non_deadline = 'challenge'\n",
    )
    (only,) = policy.rules
    assert (only.id, only.when, only.action, only.reason, only.mode, only.priority, only.description) == (
        "a.b-c_1",
        "amount > 1",
        Action.REVIEW,
        "NIGHT_ACTIVITY",
        "shadow",
        7,
        "why",
    )
    assert (policy.id, policy.version, policy.deadline_ms, policy.on_deadline) == ("p", "1", 250, Action.CHALLENGE)
    assert load_policy(tmp_path, features) == policy


def test_policy_without_a_deadline_has_none(features: FeatureSet, tmp_path: Path) -> None:
    policy = policy_of(features, tmp_path, head=HEAD)
    assert (policy.deadline_ms, policy.on_deadline, policy.rules) == (None, Action.APPROVE, ())


def test_hash_names_the_content_not_the_layout(features: FeatureSet, tmp_path: Path) -> None:
    plain = policy_of(features, tmp_path, rule("a", "amount > 1"))
    spaced = policy_of(features, tmp_path, "# a comment\n\n" + rule("a", "amount > 1").replace(" = ", "  =  "))
    other = policy_of(features, tmp_path, rule("a", "amount > 2"))
    assert len(plain.hash) == 64
    assert plain.hash == spaced.hash != other.hash


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id = 'p'", "policy.toml: version: expected the policy's version, such as '2026-11-01'; found nothing"),
        ("version = '1'", "policy.toml: id: expected the policy's id, such as 'cards'; found nothing"),
        ("id = 1\nversion = '1'", "policy.toml: id: expected the policy's id, such as 'cards'; found 1"),
        ("id = 'p'\nversion = 2026-11-01", "policy.toml: version: expected .*; found datetime.date"),
        (HEAD + "treshold = 1", "unknown key 'treshold'; expected one of .*; did you mean thresholds\\?"),
        (HEAD + "thresholds = 0.5", "policy.toml: thresholds: expected \\{ challenge = 0.60.*; found 0.5"),
        (HEAD + "thresholds = { challenge = 0.9, review = 0.8, decline = 0.95 }", "none below the one before; found"),
        (HEAD + "thresholds = { challenge = 0.6, review = 0.8 }", "thresholds: expected"),
        (HEAD + "thresholds = { challenge = 0.6, review = 0.8, decline = 1.1 }", "thresholds: expected"),
        (HEAD + "thresholds = { challenge = -0.1, review = 0.8, decline = 1 }", "thresholds: expected"),
        (HEAD + "thresholds = { challenge = nan, review = 0.8, decline = 1 }", "thresholds: expected"),
        (HEAD + "thresholds = { challenge = true, review = 1, decline = 1 }", "thresholds: expected"),
        (HEAD + "thresholds = { challenge = 0.6, review = 0.8, decline = 0.9, x = 1 }", "thresholds: expected"),
        (HEAD + "deadline_ms = 0", "deadline_ms: expected a whole number from 1 to 600000; found 0"),
        (HEAD + "deadline_ms = 1.5", "deadline_ms: expected a whole number"),
        (HEAD + "deadline_ms = true", "deadline_ms: expected a whole number"),
        (HEAD + "on_deadline = 'aprove'", "on_deadline: expected approve, .*; did you mean approve\\?; found 'aprove'"),
        (HEAD + "rules = 5", "rules: expected tables \\[\\[rules\\]\\]; found 5"),
        (HEAD + "[[rules]]\nwhen = 'amount > 1'", "policy.toml: rule 1: id: expected the rule's id"),
        (HEAD + rule("A B", "amount > 1"), "rule 'A B': id: expected up to 64 lower-case letters, digits and"),
        (HEAD + rule("a", "amount > 1") + rule("a", "amount > 2"), "rule 'a': id: expected an id of its own; rule 1"),
        (
            HEAD + rule("a", "amount > 1", "block"),
            "rule 'a': action: expected approve, challenge, review, decline; found",
        ),
        (
            HEAD + rule("a", "amount > 1", "approve"),
            "rule 'a': action: expected challenge, review or decline: .*unreachable",
        ),
        (
            HEAD + rule("a", "amount > 1", reason="AMOUNT_LIMITS"),
            "reason: expected a reason code .*mean AMOUNT_LIMIT\\?",
        ),
        (
            HEAD + rule("a", "amount > 1", more="mode = 'on'"),
            "rule 'a': mode: expected active, shadow or off; found 'on'",
        ),
        (
            HEAD + rule("a", "amount > 1", more="priority = 'high'"),
            "priority: expected a whole number from -1000 to 1000",
        ),
        (HEAD + rule("a", "amount > 1", more="prio = 1"), "rule 'a': unknown key 'prio'; .*did you mean priority\\?"),
        (HEAD + rule("a", "amount > 1", more="description = 1"), "rule 'a': description: expected a sentence; found 1"),
        (HEAD + rule("a", " "), "rule 'a': when: expected a condition, such as 'amount > 500'; found ' '"),
        (HEAD + rule("a", "amoun > 1"), "rule 'a': when, column 1: unknown feature 'amoun'; did you mean amount\\?"),
        (
            HEAD + rule("a", "amount > 1 and hour > 23"),
            "rule 'a': when, column 16: can never be true: hour is from 0 to 23",
        ),
        (HEAD + "x = ", "policy.toml: is not TOML: "),
    ],
)
def test_wrong_file_is_refused_by_file_rule_key_and_expectation(
    features: FeatureSet, tmp_path: Path, content: str, message: str
) -> None:
    with pytest.raises(ProfileError, match=message):
        policy_of(features, tmp_path, head=content)


def test_all_that_is_wrong_is_told_at_once(features: FeatureSet, tmp_path: Path) -> None:
    with pytest.raises(ProfileError) as refused:
        policy_of(
            features, tmp_path, rule("a", "amoun > 1", "block", "WHY"), rule("b", "channel > 1"), head="id = 'p'\n"
        )
    lines = str(refused.value).splitlines()
    assert len(lines) == 5
    assert all(line.startswith(str(tmp_path / "policy.toml")) for line in lines)


def test_file_that_is_not_there_is_refused(features: FeatureSet, tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"policy\.toml: cannot be read \(No such file or directory\)"):
        load_policy(tmp_path / "policy.toml", features)


def test_reasons_of_the_policy_itself_are_in_the_catalogue() -> None:
    assert {NO_RISK_FOUND, ELEVATED_SCORE, HIGH_SCORE, DEADLINE_MISSED} <= set(REASON_CODES)


def test_actions_rank_by_strength_and_have_the_names_of_the_contract() -> None:
    assert list(ACTIONS) == ["approve", "challenge", "review", "decline"]
    assert sorted(ACTIONS.values()) == list(ACTIONS.values())
    assert all(ACTIONS[action.wire] is action for action in Action)


# The check


def test_check_counts_and_warns(features: FeatureSet, tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    rules = [
        rule("a", "amount > 100 and hour > 22", "review"),
        rule("b", "amount > 100", "decline"),
        rule("c", "hour > 22 and amount > 100 and weekday == 5", "review", "NIGHT_ACTIVITY"),
        rule("d", "amount > 100", "decline", "NIGHT_ACTIVITY", "mode = 'shadow'"),
        rule("e", "card.count_10m > 7", more="mode = 'off'"),
        rule("f", "hour < 3 or hour > 23"),
    ]
    file.write_text(HEAD + "thresholds = { challenge = 0.5, review = 0.5, decline = 0.5 }\n" + "".join(rules))
    report = check_policy(file, features)
    assert (report.active, report.shadow, report.off) == (4, 1, 1)
    assert report.features == ("amount", "hour", "weekday", "card.count_10m")
    assert report.unused_entities == ("device",)
    assert report.warnings == (
        f"{file}: rule 'f': when, column 13: this part can never be true: hour is from 0 to 23",
        "rule 'e' is off: it is checked, never evaluated",
        "rule 'a' adds nothing: rule 'b' holds whenever it does",
        "rule 'c' adds its reason: rule 'a' holds whenever it does",
        "thresholds: no score asks for challenge, since review begins at 0.5 as well",
        "thresholds: no score asks for review, since decline begins at 0.5 as well",
    )
    assert report.hash == load_policy(file, features).hash


def test_check_of_twins_names_the_later_one(features: FeatureSet, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(HEAD + rule("a", "amount > 100") + rule("b", "(amount > 100)"))
    assert check_policy(tmp_path, features).warnings == (
        "rule 'b' adds nothing: rule 'a' holds whenever it does",
        "no thresholds: the score asks for nothing",
    )


def test_check_refuses_what_cannot_be_used(features: FeatureSet, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(HEAD + rule("a", "amoun > 100"))
    with pytest.raises(ProfileError, match="unknown feature 'amoun'"):
        check_policy(tmp_path, features)
