"""learning.toml's tables of the loop, read strictly: every misuse is told by file, key, value and what was expected."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from operators.actions import Action
from operators.features import FeatureSet, load_feature_set
from operators.learning import LearningConfig, load_learning
from schemas.errors import ProfileError

DAY_US = 86_400_000_000
MODEL = '[model]\nid = "a"\nversion = "1"\nfeatures = ["amount"]\n'
RIVAL = '[[challengers]]\nid = "b"\nversion = "1"\nfeatures = ["amount"]\n'
CANARY = '[canary]\nshare = 0.1\nsalt = "s"\n'
EXPLORE = '[exploration]\nshare = 0.1\nsalt = "s"\ndeclined_to = "review"\nlargest_amount = 12.5\ndaily_budget = 100\n'


@pytest.fixture
def features(tmp_path: Path) -> FeatureSet:
    (tmp_path / "features.toml").write_text('id = "f"\nbase_currency = "EUR"\n')
    return load_feature_set(tmp_path / "features.toml")


def load(features: FeatureSet, folder: Path, text: str) -> LearningConfig:
    (folder / "learning.toml").write_text(text)
    return load_learning(folder / "learning.toml", features)


def test_nothing_declared_steers_nothing(features: FeatureSet, tmp_path: Path) -> None:
    loop = load(features, tmp_path, MODEL).loop
    assert (loop.canary, loop.promotion, loop.exploration, loop.drift) == (None, None, None, None)
    assert not loop.withhold_declined


def test_everything_declared_is_what_the_file_says(features: FeatureSet, tmp_path: Path) -> None:
    text = MODEL + RIVAL + CANARY + 'model = "b"\n' + EXPLORE + '[promotion]\nperiod = "2d"\nfrozen = true\n'
    learning = load(features, tmp_path, text + '[drift]\nfeatures = ["amount", "channel"]\npsi = 0.5\n')
    loop = learning.loop
    assert [one.id for one in learning.challengers] == ["b"]
    assert loop.canary is not None and (loop.canary.model, loop.canary.share) == ("b", 0.1)
    assert loop.promotion is not None and (loop.promotion.period_us, loop.promotion.frozen) == (2 * DAY_US, True)
    assert loop.exploration is not None
    assert loop.exploration.instead == {Action.DECLINE: Action.REVIEW}
    assert (loop.exploration.largest_micros, loop.exploration.daily_budget_micros) == (12_500_000, 100_000_000)
    assert loop.withhold_declined
    assert loop.drift is not None and (loop.drift.features, loop.drift.psi) == (("amount", "channel"), 0.5)


def test_labels_of_declined_payments_can_be_withheld_without_exploration(features: FeatureSet, tmp_path: Path) -> None:
    assert load(features, tmp_path, 'declined_outcomes = "withheld"\n' + MODEL).loop.withhold_declined


def test_the_hash_of_the_file_covers_the_loop(features: FeatureSet, tmp_path: Path) -> None:
    plain = load(features, tmp_path, MODEL + RIVAL + CANARY)
    assert plain.hash != load(features, tmp_path, MODEL + RIVAL + CANARY.replace("0.1", "0.2")).hash


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RIVAL, "challengers is ['b']; expected a [model] that they challenge"),
        (MODEL + RIVAL + RIVAL, "challengers is ['a', 'b', 'b']; expected models with ids of their own"),
        (MODEL + RIVAL.replace('"b"', '"a"'), "challengers is ['a', 'a']; expected models with ids of their own"),
        ("challengers = 3\n" + MODEL, "challengers is 3; expected tables [[challengers]]"),
        (MODEL + RIVAL + "nonsense = 1\n", "challengers[0].nonsense is 1; expected no such key"),
        ('declined_outcomes = "kept"\n' + MODEL, 'declined_outcomes is \'kept\'; expected "learned" or "withheld"'),
        (MODEL + CANARY.replace("0.1", "0.9"), "canary.share is 0.9; expected a number from 1e-06 to 0.5"),
        (MODEL + '[canary]\nshare = 0.1\nsalt = ""\n', "canary.salt is ''; expected a text of your choice"),
        (MODEL + CANARY + 'model = "b"\n', "canary.model is 'b'; expected challengers to choose one from"),
        (MODEL + RIVAL + CANARY + 'model = "c"\n', "canary.model is 'c'; expected the id of a challenger, one of b"),
        (MODEL + RIVAL + "[promotion]\n", "canary is None; expected a table [canary] beside [promotion]"),
        (MODEL + CANARY + "[promotion]\n", "promotion is 'given'; expected a challenger"),
        (MODEL + RIVAL + CANARY + '[promotion]\nloss = "auc"\n', "promotion.loss is 'auc'; expected log or brier"),
        (MODEL + RIVAL + CANARY + "[promotion]\nlevel = 2\n", "promotion.level is 2; expected a number from 1e-06 to"),
        (
            MODEL + RIVAL + CANARY + "[promotion]\nmin_frauds = 0\n",
            "promotion.min_frauds is 0; expected a whole number",
        ),
        (MODEL + RIVAL + CANARY + "[promotion]\nfrozen = 1\n", "promotion.frozen is 1; expected true or false"),
        (MODEL + RIVAL + CANARY + "[promotion]\nspeed = 1\n", "promotion.speed is 1; expected no such key"),
        (EXPLORE.replace("declined_to", "approved_to"), "exploration.declined_to is None; expected what to do instead"),
        (EXPLORE.replace('"review"', '"decline"'), "declined_to is 'decline'; expected approve, challenge, review"),
        (EXPLORE + 'reviewed_to = "review"\n', "exploration.reviewed_to is 'review'; expected approve, challenge"),
        (EXPLORE.replace("largest_amount = 12.5\n", ""), "exploration.largest_amount is None; expected a number from"),
        (EXPLORE.replace("budget = 100", "budget = true"), "exploration.daily_budget is True; expected a number from"),
        (EXPLORE + "largest_weight = 0.5\n", "exploration.largest_weight is 0.5; expected a number from 1 to 10000"),
        ('[drift]\nfeatures = ["nope"]\n', "drift.features is 'nope'; expected names of features"),
        ("[drift]\npsi = 0\n", "drift.psi is 0; expected a number from 0.01 to 10"),
        ('[drift]\nreference = "1d"\n', "drift.reference is '24h'; expected at least 3d"),
        ("[drift]\nsize = 1\n", "drift.size is 1; expected no such key; known here: features, sample, warm_up"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(features: FeatureSet, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ProfileError, match=re.escape(message)):
        load(features, tmp_path, text)
