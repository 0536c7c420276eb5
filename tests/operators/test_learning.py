from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from operators.features import FeatureSet, load_feature_set
from operators.learner_config import ForestConfig, StackConfig
from operators.learning import LearningConfig, load_learning
from operators.model_config import ModelConfig, Ratio
from schemas.errors import ProfileError

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US

FEATURES = """
id = "small-1"
base_currency = "EUR"

[entities.account]
key = "account_id"
windows = ["30d"]
amount = ["count", "mean"]

[entities.device]
key = "device_id"
reputation = true
"""

MODEL = """
[model]
id = "small"
version = "3"
"""


@pytest.fixture
def feature_set(tmp_path: Path) -> FeatureSet:
    path = tmp_path / "features.toml"
    path.write_text(FEATURES)
    return load_feature_set(path)


def load(tmp_path: Path, feature_set: FeatureSet, text: str) -> LearningConfig:
    path = tmp_path / "learning.toml"
    path.write_text(text)
    return load_learning(path, feature_set)


def load_model(tmp_path: Path, feature_set: FeatureSet, text: str) -> ModelConfig:
    model = load(tmp_path, feature_set, MODEL + text).model
    assert isinstance(model, ModelConfig)
    return model


def test_without_the_file_labels_mature_and_there_is_no_model(tmp_path: Path, feature_set: FeatureSet) -> None:
    config = load_learning(tmp_path / "learning.toml", feature_set)

    assert config == LearningConfig.default()
    assert (config.tick_us, config.maturity_us, config.correction_horizon_us) == (HOUR_US, 7 * DAY_US, 60 * DAY_US)
    assert config.genuine_sample == 1.0
    assert config.model is None


def test_all_keys_are_read(tmp_path: Path, feature_set: FeatureSet) -> None:
    text = """
    tick = "30m"
    maturity = "10d"
    correction_horizon = "90d"
    genuine_sample = 0.25
    [model]
    id = "small"
    version = "3"
    features = ["amount", "device.rooted", "amount_to_mean"]
    categorical = ["channel", "hour"]
    crosses = [["amount", "channel"], ["country", "ip_country"]]
    cells_per_octave = 4
    cross_cells_per_octave = 2
    category_slots = 32
    learning_rate = 0.5
    intercept_learning_rate = 0
    l2 = 0.001
    min_labels = 10
    base_rate = 0.02
    [[model.ratios]]
    name = "amount_to_mean"
    numerator = "amount"
    denominator = "account.mean_30d"
    """
    config = load(tmp_path, feature_set, text)

    assert (config.tick_us, config.maturity_us, config.correction_horizon_us) == (
        HOUR_US // 2,
        10 * DAY_US,
        90 * DAY_US,
    )
    assert config.genuine_sample == 0.25
    assert config.model == ModelConfig(
        id="small",
        version="3",
        features=("amount", "device.rooted", "amount_to_mean"),
        categorical=("channel", "hour"),
        crosses=(("amount", "channel"), ("country", "ip_country")),
        ratios=(Ratio("amount_to_mean", "amount", "account.mean_30d"),),
        cells_per_octave=4,
        cross_cells_per_octave=2,
        category_slots=32,
        learning_rate=0.5,
        intercept_learning_rate=0.0,
        l2=0.001,
        min_labels=10,
        base_rate=0.02,
    )


def test_by_default_every_feature_and_ratio_is_an_input(tmp_path: Path, feature_set: FeatureSet) -> None:
    text = '[[model.ratios]]\nname = "r"\nnumerator = "amount"\ndenominator = "account.mean_30d"'
    model = load_model(tmp_path, feature_set, text)

    assert set(model.features) | set(model.categorical) == {*feature_set.slots, "r"}
    assert not set(model.features) & set(model.categorical)
    assert {"hour", "weekday", "channel", "country"} <= set(model.categorical)
    assert {"amount", "device.blocked", "r"} <= set(model.features)
    assert model.crosses == ()


def test_the_hash_of_the_model_holds_its_defaults_too(tmp_path: Path, feature_set: FeatureSet) -> None:
    implied = load_model(tmp_path, feature_set, "")
    stated = load_model(tmp_path, feature_set, "min_labels = 1000")

    assert stated.hash == implied.hash
    assert replace(implied, min_labels=999).hash != implied.hash
    assert replace(implied, features=implied.features[::-1]).hash != implied.hash


def test_the_hash_of_the_file_changes_with_its_content(tmp_path: Path, feature_set: FeatureSet) -> None:
    first = load(tmp_path, feature_set, 'tick = "1h"')

    assert load(tmp_path, feature_set, '# a comment\ntick = "1h"').hash == first.hash
    assert load(tmp_path, feature_set, 'tick = "2h"').hash != first.hash


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('tock = "1h"', r"learning\.toml: tock is '1h'; expected no such key; known here: tick, maturity"),
        ("tick = 3600", r"tick is 3600; expected a string"),
        ('maturity = "a week"', r"maturity is 'a week'; expected a whole number of s, m, h or d"),
        ("genuine_sample = 0", r"genuine_sample is 0; expected the share of genuine payments to tell"),
        ("genuine_learned = 2.0", r"genuine_learned is 2.0; expected the share of genuine labels to learn"),
        ("genuine_sample = 1.5", r"genuine_sample is 1\.5; expected the share"),
        ("genuine_sample = true", r"genuine_sample is True; expected the share"),
        ("genuine_sample = nan", r"genuine_sample is nan; expected the share"),
        ("model = 3", r"model is 3; expected a table"),
        ('[model]\nversion = "1"', r"model\.id is None; expected the model's id"),
        ('[model]\nid = "a"\nversion = 1', r"model\.version is 1; expected the model's version"),
        ("tick = ", r"learning\.toml: is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, feature_set: FeatureSet, text: str, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        load(tmp_path, feature_set, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bins = 20", r"model\.bins is 20; expected no such key; known here: id, version, features"),
        ("min_labels = 0", r"model\.min_labels is 0; expected a whole number from 1"),
        ("min_labels = 1.0", r"model\.min_labels is 1\.0; expected a whole number"),
        ("cells_per_octave = 17", r"model\.cells_per_octave is 17; expected a whole number from 1 to 16"),
        ("learning_rate = 0", r"model\.learning_rate is 0; expected a step of AdaGrad"),
        ('learning_rate = "fast"', r"model\.learning_rate is 'fast'; expected a step of AdaGrad"),
        ("base_rate = 1", r"model\.base_rate is 1; expected the share of fraud"),
        ('features = ["amuont"]', r"model\.features is 'amuont'; expected a number, boolean or ratio"),
        (
            'features = ["channel"]',
            r"model\.features is 'channel'; expected a number, boolean or ratio that is not cat",
        ),
        ('features = ["hour"]', r"model\.features is 'hour'; expected .* not categorical"),
        ('features = ["amount", "amount"]', r"model\.features is \['amount', 'amount'\]; expected different names"),
        ('categorical = ["device.rooted"]', r"model\.categorical is 'device\.rooted'; expected a string or number"),
        ("crosses = 3", r"model\.crosses is 3; expected pairs of two different inputs"),
        ('crosses = [["amount"]]', r"model\.crosses is \['amount'\]; expected pairs"),
        ('crosses = [["amount", "amount"]]', r"model\.crosses is \['amount', 'amount'\]; expected pairs of two diff"),
        ('crosses = [["amount", 4]]', r"model\.crosses is 4; expected a feature out of the feature set, or a ratio"),
        ('crosses = [["amount", "nothing"]]', r"model\.crosses is 'nothing'; expected a feature"),
        (
            'crosses = [["amount", "hour"], ["hour", "amount"]]',
            r"model\.crosses is \['hour', 'amount'\]; expected different pairs, none twice",
        ),
        ("features = []\ncategorical = []", r"model\.features is \[\]; expected at least one input"),
        (
            'category_slots = 65536\ncrosses = [["country", "mcc"]]',
            r"model\.crosses is 1; expected at most 2000000 weights; these inputs have \d{10}",
        ),
        (
            '[[model.ratios]]\nname = "r"\nnumerator = "channel"\ndenominator = "amount"',
            r"model\.ratios\[0\]\.numerator is 'channel'; expected a number out of the feature set",
        ),
        (
            '[[model.ratios]]\nname = "r"\nnumerator = "amount"\ndenominator = "device.rooted"',
            r"model\.ratios\[0\]\.denominator is 'device\.rooted'; expected a number",
        ),
        (
            '[[model.ratios]]\nname = "amount"\nnumerator = "amount"\ndenominator = "hour"',
            r"model\.ratios\[0\]\.name is 'amount'; expected a name that no feature and no other ratio has",
        ),
        (
            '[[model.ratios]]\nname = "r"\nnumerator = "amount"\ndenominator = "hour"\nlog = true',
            r"model\.ratios\[0\]\.log is True; expected no such key",
        ),
    ],
)
def test_a_wrong_model_is_refused_by_name(tmp_path: Path, feature_set: FeatureSet, text: str, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        load_model(tmp_path, feature_set, text)


@pytest.mark.parametrize("profile", ["handbook", "cards"])
def test_the_profiles_of_the_house_have_a_model(profile: str) -> None:
    folder = Path(__file__).parents[2] / "deploy" / "profiles" / profile
    config = load_learning(folder / "learning.toml", load_feature_set(folder / "features.toml"))

    assert config.model is not None
    assert 0 < config.genuine_sample <= 1
    parts = config.model.parts if isinstance(config.model, StackConfig) else (config.model,)
    assert any(isinstance(part, ModelConfig) and part.crosses for part in parts)


LEARNERS = """
champion = "both"
[[ratios]]
name = "amount_to_mean"
numerator = "amount"
denominator = "account.mean_30d"
[[learners]]
id = "line"
version = "1"
features = ["amount", "amount_to_mean"]
alone = false
[[learners]]
kind = "forest"
id = "trees"
version = "2"
features = ["amount_to_mean", "device.rooted"]
categorical = ["channel"]
trees = 3
[[learners]]
kind = "stack"
id = "both"
version = "3"
of = ["line", "trees"]
"""


def test_learners_stand_side_by_side_and_one_of_them_decides(tmp_path: Path, feature_set: FeatureSet) -> None:
    config = load(tmp_path, feature_set, LEARNERS)
    stack, (forest,) = config.model, config.challengers

    assert isinstance(stack, StackConfig) and isinstance(forest, ForestConfig)
    assert stack.id == "both"
    assert [part.id for part in stack.parts] == ["line", "trees"]
    assert stack.parts[1] == forest
    assert (forest.trees, forest.inputs.features, forest.inputs.crosses) == (3, ("amount_to_mean", "device.rooted"), ())
    assert forest.hash != replace(forest, trees=4).hash
    assert stack.hash != replace(stack, parts=stack.parts[:1]).hash
    assert stack.hash != replace(stack, weights=(0.5, 0.5)).hash


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('champion = "both"', "", r"champion is None; expected the id of the learner that decides"),
        ('champion = "both"', 'champion = "line"', r"champion is 'line'; expected one of trees, both"),
        ('champion = "both"', 'champion = "none"', r"champion is 'none'; expected one of trees, both"),
        (
            'kind = "forest"',
            'kind = "jungle"',
            r"learners\[1\].kind is 'jungle'; expected one of linear, forest, stack",
        ),
        ('id = "trees"', 'id = "line"', r"learners\[1\].id is 'line'; expected an id that no learner above has"),
        ("trees = 3", "trees = 0", r"learners\[1\].trees is 0; expected a whole number from 1 to 200"),
        (
            "trees = 3",
            "learning_rate = 1.0",
            r"learners\[1\].learning_rate is 1.0; expected no such key; known here: kind",
        ),
        (
            "trees = 3",
            "trees = 200\nmax_leaves = 4096",
            r"max_leaves is 4096; expected at most 256 MiB in all; 200 trees",
        ),
        (
            'of = ["line", "trees"]',
            'of = ["trees", "wood"]',
            r"learners\[2\].of is 'wood'; expected the id of a linear model",
        ),
        (
            'of = ["line", "trees"]',
            'of = ["line", "trees"]\nweights = [0.4, 0.7]',
            r"learners\[2\].weights is \[0.4, 0.7\]; expected 2 numbers from 0 to 1 that add up to 1",
        ),
        (
            'of = ["line", "trees"]',
            'of = ["line", "trees"]\nweights = [1.0]',
            r"weights is \[1.0\]; expected 2 numbers",
        ),
        ('of = ["line", "trees"]', 'of = ["line", "trees"]\nweights = 1', r"weights is 1; expected 2 numbers"),
        ('of = ["line", "trees"]', "of = []", r"learners\[2\].of is \[\]; expected at least one id"),
        ('of = ["line", "trees"]', 'of = ["trees"]', r"learners is 'line'; expected a stack that is made of it"),
        ("[[ratios]]", '[model]\nid = "m"\nversion = "1"\n[[ratios]]', r"learners is 'given'; expected either"),
    ],
)
def test_a_wrong_learner_is_refused_by_name(
    tmp_path: Path, feature_set: FeatureSet, old: str, new: str, message: str
) -> None:
    assert old in LEARNERS
    with pytest.raises(ProfileError, match=message):
        load(tmp_path, feature_set, LEARNERS.replace(old, new, 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "windows_days = [7, 7]",
            r"evaluation\.windows_days is \[7, 7\]; expected up to 8 rising numbers from 1 to 366",
        ),
        ("windows_days = [1.5]", r"evaluation\.windows_days is \[1\.5\]; expected whole days"),
        ("amount_bands = []", r"evaluation\.amount_bands is \[\]; expected up to 8 rising numbers"),
        ("cards_a_day = 0", r"evaluation\.cards_a_day is 0; expected a number of cards from 1 to 10000"),
        ("cards = 5", r"evaluation\.cards is 5; expected no such key"),
    ],
)
def test_a_wrong_evaluation_is_refused_by_name(
    tmp_path: Path, feature_set: FeatureSet, text: str, message: str
) -> None:
    with pytest.raises(ProfileError, match=message):
        load(tmp_path, feature_set, f"[evaluation]\n{text}\n")


def test_evaluation_waits_for_the_maturity_that_is_declared(tmp_path: Path, feature_set: FeatureSet) -> None:
    config = load(tmp_path, feature_set, 'maturity = "9d"\n[evaluation]\nwindows_days = [3, 9]\ncards_a_day = 7\n')

    assert (config.evaluation.windows, config.evaluation.cards_a_day) == ((3, 9), 7)
    assert config.evaluation.mature_after_us == 9 * DAY_US
