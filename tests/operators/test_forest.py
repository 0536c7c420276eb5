"""Tests of operators/forest.py and operators/stack.py: one small feature set and its labels serve both."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from river import drift, forest
from sklearn.metrics import average_precision_score, roc_auc_score

from operators import array_artefact
from operators.features import FeatureSet
from operators.forest import MAGIC, ForestModel
from operators.inflight import Value
from operators.learner_config import ForestConfig, StackConfig
from operators.learning import LearningConfig
from operators.model import restore_learner
from operators.model_protocol import Part
from operators.stack import StackModel
from schemas.errors import ProfileError, StateLayoutError
from tests.operators.test_model import Example, examples, profile

LEARNERS = """
champion = "stack"
[[ratios]]
name = "amount_to_mean"
numerator = "amount"
denominator = "account.mean_30d"
[[learners]]
id = "linear"
version = "1"
features = ["amount", "account.fraud_rate_7d", "device.rooted", "amount_to_mean"]
categorical = ["hour", "channel"]
min_labels = 50
[[learners]]
kind = "forest"
id = "forest"
version = "1"
features = ["amount", "account.fraud_rate_7d", "device.rooted", "amount_to_mean"]
categorical = ["hour", "channel"]
min_labels = 50
drift_threshold = 60.0
features_watched = 0.8
tau = 0.05
min_frauds = 2
[[learners]]
kind = "stack"
id = "stack"
version = "1"
of = ["linear", "forest"]
"""


@pytest.fixture
def small(tmp_path: Path) -> tuple[FeatureSet, LearningConfig]:
    return profile(tmp_path, LEARNERS)


def forest_of(small: tuple[FeatureSet, LearningConfig]) -> ForestModel:
    config = small[1].challengers[1]
    assert isinstance(config, ForestConfig)
    return ForestModel(small[0], config)


def learners(small: tuple[FeatureSet, LearningConfig]) -> list[Part]:
    assert small[1].model is not None
    return [restore_learner(small[0], one, None) for one in (*small[1].challengers, small[1].model)]


def teach(model: Part, labels: list[Example], weight: float = 1.0) -> None:
    for values, fraud in labels:
        model.learn_one(values, fraud, 1.0 if fraud else weight)


def area(model: Part, unseen: list[Example]) -> float:
    scores = [score or 0.0 for score in model.score_many([values for values, _ in unseen])]
    return float(roc_auc_score([fraud for _, fraud in unseen], scores))


def test_a_forest_learns_what_fraud_looks_like_nearly_as_fast_as_rivers(
    small: tuple[FeatureSet, LearningConfig],
) -> None:
    feature_set, _ = small
    labels, unseen = examples(feature_set, 6_000, seed=1), examples(feature_set, 4_000, seed=2)
    ours = forest_of(small)
    teach(ours, labels)
    names = ("amount", "account.fraud_rate_7d", "device.rooted", "hour")
    detectors: Any = drift
    still: Any = detectors.NoDrift()
    river: Any = forest.ARFClassifier  # without type information
    river = river(
        n_models=10, seed=1, max_features=0.8, grace_period=50, lambda_value=1, drift_detector=still,
        warning_detector=still,
    )  # fmt: skip

    def told(values: list[Value]) -> dict[str, float]:
        found = {name: values[feature_set.slots[name]] for name in names}
        return {
            name: -1.0 if value is None or math.isnan(float(value)) else float(value) for name, value in found.items()
        }

    for values, fraud in labels:
        river.learn_one(told(values), fraud)
    truth = [fraud for _, fraud in unseen]
    theirs = [river.predict_proba_one(told(values)).get(True, 0.0) for values, _ in unseen]
    mine = [score or 0.0 for score in ours.score_many([values for values, _ in unseen])]

    assert roc_auc_score(truth, mine) > roc_auc_score(truth, theirs) - 0.03
    assert average_precision_score(truth, mine) > average_precision_score(truth, theirs) - 0.1
    assert area(ours, unseen) > 0.75


def test_an_untrained_learner_gives_no_score(small: tuple[FeatureSet, LearningConfig]) -> None:
    payment = examples(small[0], 1, seed=2)[0][0]
    for model in learners(small):
        teach(model, [(payment, False)] * 60)
        assert (model.score_one(payment), model.contributions(payment, 3)) == (None, ())
        model.learn_one(payment, True, 1.0)
        assert model.score_one(payment) is not None
        assert model.contributions(payment, 3) != ()
        assert model.score_many([]) == []


def test_scores_and_contributions_do_not_depend_on_the_batch(small: tuple[FeatureSet, LearningConfig]) -> None:
    unseen = [values for values, _ in examples(small[0], 120, seed=2)]
    for model in learners(small):
        teach(model, examples(small[0], 1_500, seed=1))
        scores, told = model.explain_many(unseen, 4)

        assert [model.score_one(values) for values in unseen] == scores == model.score_many(unseen)
        assert [model.contributions(values, 4) for values in unseen] == told
        assert [one for at in range(0, 120, 7) for one in model.score_many(unseen[at : at + 7])] == scores
        assert all(0.0 <= (score or 0.0) <= 1.0 for score in scores)


def test_contributions_and_the_baseline_sum_up_to_the_logit(small: tuple[FeatureSet, LearningConfig]) -> None:
    unseen = [values for values, _ in examples(small[0], 50, seed=2)]
    model = forest_of(small)
    teach(model, examples(small[0], 3_000, seed=1))
    assert model.leaves > model._config.trees * 2

    for values, logit in zip(unseen, model.logits(unseen).tolist(), strict=True):
        told = model.contributions(values, 100)
        assert sorted(name for name, _ in told) == sorted(model.term_names)
        assert math.fsum(value for _, value in told) + model.baseline == pytest.approx(logit, abs=1e-9)
        assert model.score_one(values) == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-9)
        sizes = [abs(value) for _, value in told]
        assert sizes == sorted(sizes, reverse=True)


def test_a_stack_adds_up_its_parts(small: tuple[FeatureSet, LearningConfig]) -> None:
    labels, unseen = examples(small[0], 6_000, seed=1), examples(small[0], 4_000, seed=2)
    linear, trees, stack = learners(small)
    for model in (linear, trees, stack):
        teach(model, labels)
    assert isinstance(stack, StackModel)
    values_list = [values for values, _ in unseen[:40]]
    weights = stack.weights.tolist()
    expected = weights[0] + weights[1] * linear.logits(values_list) + weights[2] * trees.logits(values_list)

    assert stack.logits(values_list) == pytest.approx(expected)
    told = dict(stack.contributions(values_list[0], 100))
    for name in ("amount", "hour"):
        sums = [dict(part.contributions(values_list[0], 100))[name] for part in (linear, trees)]
        assert told[name] == pytest.approx(weights[1] * sums[0] + weights[2] * sums[1])
    assert area(stack, unseen) > max(area(linear, unseen), area(trees, unseen)) - 0.005


def test_a_stack_of_declared_weights_blends_by_them_and_calibrates_the_blend(tmp_path: Path) -> None:
    declared = LEARNERS.replace('of = ["linear", "forest"]', 'of = ["linear", "forest"]\nweights = [0.25, 0.75]')
    small = profile(tmp_path, declared)
    labels, unseen = examples(small[0], 6_000, seed=1), examples(small[0], 4_000, seed=2)
    linear, trees, stack = learners(small)
    for model in (linear, trees, stack):
        teach(model, labels)
    assert isinstance(stack, StackModel)
    values_list = [values for values, _ in unseen]
    blend = 0.25 * linear.logits(values_list) + 0.75 * trees.logits(values_list)
    intercept, slope = stack.weights.tolist()

    assert stack.logits(values_list) == pytest.approx(intercept + slope * blend)
    told, parts = dict(stack.contributions(values_list[0], 100)), (linear, trees)
    sums = [dict(part.contributions(values_list[0], 100))["amount"] for part in parts]
    assert told["amount"] == pytest.approx(slope * (0.25 * sums[0] + 0.75 * sums[1]))
    assert area(stack, unseen) > max(area(linear, unseen), area(trees, unseen)) - 0.005
    assert small[1].model is not None
    again = restore_learner(small[0], small[1].model, stack.to_bytes())
    assert again.to_bytes() == stack.to_bytes()
    teach(again, labels[:50])
    teach(stack, labels[:50])
    assert again.to_bytes() == stack.to_bytes()


def test_every_learner_goes_on_from_its_bytes_as_if_never_stopped(small: tuple[FeatureSet, LearningConfig]) -> None:
    labels = examples(small[0], 3_000, seed=1)
    assert small[1].model is not None
    configs = (*small[1].challengers, small[1].model)
    for config, whole in zip(configs, learners(small), strict=True):
        teach(whole, labels)
        resumed = restore_learner(small[0], config, None)
        for start in range(0, 3_000, 700):
            teach(resumed, labels[start : start + 700])
            resumed = restore_learner(small[0], config, resumed.to_bytes())

        assert resumed.to_bytes() == whole.to_bytes()
        assert resumed.artefact_hash() == whole.artefact_hash() == hashlib.sha256(whole.to_bytes()).hexdigest()
        assert (resumed.id, resumed.version, resumed.labels) == (whole.id, whole.version, 3_000)


def test_scoring_changes_nothing(small: tuple[FeatureSet, LearningConfig]) -> None:
    unseen = [values for values, _ in examples(small[0], 50, seed=2)]
    for model in learners(small):
        teach(model, examples(small[0], 600, seed=1))
        before = model.to_bytes()
        model.explain_many(unseen, 3)
        model._packed = None  # type: ignore[attr-defined]  # not of the protocol
        assert model.to_bytes() == before


def test_another_seed_is_another_forest(small: tuple[FeatureSet, LearningConfig], tmp_path: Path) -> None:
    labels = examples(small[0], 1_000, seed=1)
    one, other = forest_of(small), forest_of(profile(tmp_path, LEARNERS.replace("min_labels", "seed = 2\nmin_labels", 2)
                                                     .replace("seed = 2\n", "", 1)))  # fmt: skip
    teach(one, labels)
    teach(other, labels)
    unseen = [values for values, _ in examples(small[0], 50, seed=2)]

    assert one.score_many(unseen) != other.score_many(unseen)


def test_a_forest_forgets_what_is_no_longer_so(small: tuple[FeatureSet, LearningConfig]) -> None:
    """Fraud that was rooted devices becomes everything but rooted devices: only new trees can rank that."""
    feature_set, _ = small
    slot = feature_set.slots["device.rooted"]
    rng = random.Random(3)

    def labels(rooted: bool, count: int) -> list[Example]:
        made = []
        for values, _ in examples(feature_set, count, seed=rng.randrange(1_000)):
            values[slot] = rng.random() < 0.5
            made.append((values, rng.random() < (0.5 if values[slot] is rooted else 0.02)))
        return made

    model = forest_of(small)
    teach(model, labels(True, 4_000))
    assert model.replaced == 0, "nothing has changed yet"
    before = labels(False, 2_000)
    assert area(model, before) < 0.4
    teach(model, labels(False, 3_000))

    assert model.replaced >= model._config.trees // 2
    assert area(model, before) > 0.7
    restored = ForestModel.from_bytes(model.to_bytes(), feature_set, model._config)
    assert restored.to_bytes() == model.to_bytes()
    assert restored.replaced == model.replaced


def test_a_forest_stays_within_its_bounds(small: tuple[FeatureSet, LearningConfig], tmp_path: Path) -> None:
    tight = profile(tmp_path, LEARNERS.replace("features_watched = 0.8", "max_leaves = 4\ngrace = 5"))
    model = forest_of(tight)
    sizes = [array.nbytes for array in model._state]
    teach(model, examples(tight[0], 4_000, seed=1))

    assert model.leaves == 4 * model._config.trees, "full"
    assert [array.nbytes for array in model._state] == sizes
    assert model.score_many([values for values, _ in examples(tight[0], 5, seed=2)])


def test_weights_restore_what_sampling_left_out(small: tuple[FeatureSet, LearningConfig]) -> None:
    rng = random.Random(4)
    labels = examples(small[0], 20_000, seed=1)
    unseen = examples(small[0], 2_000, seed=2)
    for model in learners(small):
        teach(model, [(values, fraud) for values, fraud in labels if fraud or rng.random() < 0.2], weight=5.0)
        scores = [score or 0.0 for score in model.score_many([values for values, _ in unseen])]
        assert sum(scores) / len(scores) == pytest.approx(sum(fraud for _, fraud in unseen) / len(unseen), rel=0.2)


def test_a_stack_of_one_calibrates_it(tmp_path: Path) -> None:
    """The part learns genuine labels at a fifth of their weight less: its scores are five times too high."""
    alone = LEARNERS.replace('of = ["linear", "forest"]', 'of = ["forest"]').replace("drift_threshold = 60.0", "")
    small = profile(tmp_path, alone)
    labels, unseen = examples(small[0], 20_000, seed=1), examples(small[0], 5_000, seed=2)
    _, part, stack = learners(small)
    assert isinstance(stack, StackModel)
    original = stack.parts[0].learn_one

    def skewed(values: Any, fraud: bool, weight: float) -> None:
        original(values, fraud, weight if fraud else weight / 5)

    stack.parts[0].learn_one = skewed  # type: ignore[method-assign]  # a part that cannot weigh
    teach(stack, labels)
    truth = np.array([fraud for _, fraud in unseen], dtype=float)

    def error(model: Part) -> float:
        """Expected calibration error over tenths of the payments; Naeini et al. 2015, AAAI."""
        scores = np.array([score or 0.0 for score in model.score_many([values for values, _ in unseen])])
        tenths = np.array_split(np.argsort(scores, kind="stable"), 10)
        return float(sum(abs(scores[tenth].mean() - truth[tenth].mean()) * len(tenth) for tenth in tenths) / len(truth))

    assert error(stack.parts[0]) > 0.03
    assert error(stack) < 0.02
    assert part.labels == 0


def test_a_stack_gives_weight_to_the_part_that_knows(tmp_path: Path) -> None:
    blind = LEARNERS.replace('features = ["amount", "account.fraud_rate_7d", "device.rooted", "amount_to_mean"]',
                             "features = []", 1).replace('"hour", "channel"', '"hour"', 1)  # fmt: skip
    small = profile(tmp_path, blind)
    *_, stack = learners(small)
    teach(stack, examples(small[0], 8_000, seed=1))
    assert isinstance(stack, StackModel)

    assert stack.weights[2] > 2 * abs(stack.weights[1])


def test_an_artefact_is_no_pickle_and_an_altered_one_is_refused(small: tuple[FeatureSet, LearningConfig]) -> None:
    assert small[1].model is not None
    configs = (*small[1].challengers, small[1].model)
    for config, model in zip(configs, learners(small), strict=True):
        teach(model, examples(small[0], 200, seed=1))
        artefact = model.to_bytes()
        with pytest.raises(pickle.UnpicklingError):
            pickle.loads(artefact)  # noqa: S301  # our own bytes, to see that they are none
        for broken in (
            b"",
            artefact[:-1],
            artefact[:100],
            artefact[:-40] + b"\x01" + artefact[-39:],
            b"X" + artefact[1:],
        ):
            with pytest.raises(StateLayoutError, match=r"model artefact: .*; restore an intact one"):
                restore_learner(small[0], config, broken)
    other = next(config for config in configs if isinstance(config, StackConfig))
    with pytest.raises(StateLayoutError, match=r"starts with b'WFM\\x01', expected b'WSM\\x01'"):
        restore_learner(small[0], other, forest_of(small).to_bytes())


def test_a_forest_of_another_profile_is_refused(small: tuple[FeatureSet, LearningConfig], tmp_path: Path) -> None:
    model = forest_of(small)
    other = profile(tmp_path, LEARNERS.replace("features_watched = 0.8", "features_watched = 0.7"))
    with pytest.raises(ProfileError, match=r"model forest 1: its state was learned under settings hash"):
        restore_learner(other[0], other[1].challengers[1], model.to_bytes())


@pytest.mark.parametrize(
    ("array", "at", "value"),
    [
        ("nodes", (0, 0, 2), 10_000),
        ("nodes", (0, 0, 2), 0),
        ("nodes", (0, 0, 0), 99),
        ("nodes", (0, slice(None), 3), 64),
        ("sizes", (0, 0), 100_000),
        ("sizes", (0, 2), 0),
        ("sums", (0, 0, 3), math.nan),
        ("met", (0,), 2**31),
    ],
)
def test_trees_that_lead_out_of_their_arrays_are_refused(
    small: tuple[FeatureSet, LearningConfig], array: str, at: tuple[Any, ...], value: float
) -> None:
    """Machine code does not look where it steps: whoever can sign an artefact must not be able to lead it astray."""
    model = forest_of(small)
    teach(model, examples(small[0], 3_000, seed=1))
    header, arrays = array_artefact.unpack(MAGIC, model.to_bytes())
    assert arrays["nodes"][0, 0, 0] >= 0, "the first tree has split"
    arrays[array][at] = value
    with pytest.raises(StateLayoutError, match="model artefact"):
        ForestModel.from_bytes(array_artefact.pack(MAGIC, header, arrays), small[0], model._config)


def test_scores_of_recorded_features_recompute_from_the_artefact(small: tuple[FeatureSet, LearningConfig]) -> None:
    """What a decision keeps is its feature map in JSON; with the artefact it gives the score again, to the bit."""
    names = [feature.name for feature in small[0].features]
    unseen = [values for values, _ in examples(small[0], 200, seed=2)]
    assert small[1].model is not None
    configs = (*small[1].challengers, small[1].model)
    for config, model in zip(configs, learners(small), strict=True):
        teach(model, examples(small[0], 1_500, seed=1))
        records = [
            json.dumps(
                {
                    name: None if isinstance(value, float) and math.isnan(value) else value
                    for name, value in zip(names, values, strict=True)
                }
            )
            for values in unseen
        ]
        again = restore_learner(small[0], config, model.to_bytes())
        read = [[one[name] for name in names] for one in map(json.loads, records)]

        assert again.score_many(read) == model.score_many(unseen)
