"""Tests of operators/model.py. One file, because all of it shares one small feature set and its labels."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from river import linear_model, optim

from operators.features import FeatureSet, load_feature_set
from operators.inflight import Value
from operators.learning import LearningConfig, load_learning
from operators.model import OnlineModel, restore_model
from operators.model_config import ModelConfig
from schemas.errors import ProfileError, StateLayoutError

FEATURES = """
id = "small-1"
base_currency = "EUR"

[entities.account]
key = "account_id"
windows = ["30d"]
amount = ["count", "mean"]
fraud_rate = ["7d"]

[entities.device]
key = "device_id"
reputation = true
"""

LEARNING = """
[model]
id = "small"
version = "3"
features = ["amount", "account.fraud_rate_7d", "device.rooted", "amount_to_mean"]
categorical = ["hour", "channel"]
crosses = [["amount", "account.fraud_rate_7d"], ["channel", "amount_to_mean"], ["device.rooted", "country"]]
min_labels = 50
l2 = 0.0001
[[model.ratios]]
name = "amount_to_mean"
numerator = "amount"
denominator = "account.mean_30d"
"""

Example = tuple[list[Value], bool]


def profile(folder: Path, learning: str = LEARNING, features: str = FEATURES) -> tuple[FeatureSet, LearningConfig]:
    (folder / "features.toml").write_text(features)
    (folder / "learning.toml").write_text(learning)
    feature_set = load_feature_set(folder / "features.toml")
    return feature_set, load_learning(folder / "learning.toml", feature_set)


def new_model(feature_set: FeatureSet, config: LearningConfig) -> OnlineModel:
    assert isinstance(config.model, ModelConfig)
    return OnlineModel(feature_set, config.model)


def examples(feature_set: FeatureSet, count: int, seed: int) -> list[Example]:
    """Fraud is likelier for large amounts, at high fraud rates and on rooted devices; a tenth of values is absent."""
    rng = random.Random(seed)
    made: list[Example] = []
    for _ in range(count):
        values = feature_set.new_values()
        told: dict[str, Value] = {
            "amount": rng.lognormvariate(3, 1),
            "hour": float(rng.randrange(24)),
            "channel": rng.choice(["atm", "ecommerce", "card_present"]),
            "country": rng.choice(["DE", "FR", "IT"]),
            "account.mean_30d": rng.lognormvariate(3, 0.5),
            "account.fraud_rate_7d": rng.betavariate(0.5, 20),
            "device.rooted": rng.random() < 0.1,
        }
        logit = -5.5 + 0.03 * float(told["amount"] or 0) + 2.0 * bool(told["device.rooted"])
        logit += 20 * float(told["account.fraud_rate_7d"] or 0)
        for name, value in told.items():
            if rng.random() >= 0.1:
                values[feature_set.slots[name]] = value
        made.append((values, rng.random() < 1 / (1 + math.exp(-logit))))
    return made


def teach(model: OnlineModel, labels: list[Example], weight: float = 1.0) -> OnlineModel:
    for values, fraud in labels:
        model.learn_one(values, fraud, weight)
    return model


@pytest.fixture
def small(tmp_path: Path) -> tuple[FeatureSet, LearningConfig]:
    return profile(tmp_path)


def test_an_untrained_model_gives_no_score_and_no_contributions(small: tuple[FeatureSet, LearningConfig]) -> None:
    model = new_model(*small)
    labels = examples(small[0], 50, seed=1)
    payment = labels[0][0]
    genuine = [(values, False) for values, _ in labels]
    teach(model, genuine[:40])

    assert model.score_many([payment, payment]) == [None, None]
    assert model.score_one(payment) is None
    assert model.contributions(payment, 5) == ()

    teach(model, genuine[:30])
    assert model.labels == 70
    assert model.score_one(payment) is None, "enough labels, but no fraud among them"

    model.learn_one(payment, True, 1.0)
    assert model.score_one(payment) is not None
    assert model.contributions(payment, 5) != ()


def test_fraud_alone_does_not_make_a_score_before_enough_labels(small: tuple[FeatureSet, LearningConfig]) -> None:
    model = teach(new_model(*small), [(values, True) for values, _ in examples(small[0], 49, seed=1)])
    payment = examples(small[0], 1, seed=2)[0][0]

    assert model.score_one(payment) is None
    assert teach(model, [(payment, True)]).score_one(payment) is not None


def test_no_payments_give_no_scores(small: tuple[FeatureSet, LearningConfig]) -> None:
    model = teach(new_model(*small), examples(small[0], 400, seed=1))

    assert model.score_many([]) == []
    assert model.contributions_many([], 5) == []


def test_it_learns_what_fraud_looks_like(small: tuple[FeatureSet, LearningConfig]) -> None:
    model = teach(new_model(*small), examples(small[0], 4_000, seed=1))
    unseen = examples(small[0], 2_000, seed=2)
    scores = model.score_many([values for values, _ in unseen])
    frauds = [score or 0.0 for score, (_, fraud) in zip(scores, unseen, strict=True) if fraud]
    genuine = [score or 0.0 for score, (_, fraud) in zip(scores, unseen, strict=True) if not fraud]
    auc = sum(f > g for f in frauds for g in genuine) / (len(frauds) * len(genuine))

    assert auc > 0.75
    assert sum(frauds + genuine) / len(unseen) == pytest.approx(len(frauds) / len(unseen), rel=0.25)


def test_scores_and_weights_are_those_of_rivers_own_logistic_regression(
    small: tuple[FeatureSet, LearningConfig],
) -> None:
    feature_set, config = small
    assert isinstance(config.model, ModelConfig)
    model = new_model(feature_set, config)
    river: Any = linear_model.LogisticRegression(
        optim.AdaGrad(config.model.learning_rate),
        l2=config.model.l2,
        intercept_lr=config.model.intercept_learning_rate,
        intercept_init=config.model.base_logit,
    )

    def cells(values: list[Value]) -> dict[int, float]:
        numbers, counts = model.terms.spread(model.terms.rows([values])[0])
        return dict(zip(numbers.tolist(), counts.tolist(), strict=True))

    for values, fraud in examples(feature_set, 600, seed=1):
        model.learn_one(values, fraud, 3.0 if not fraud else 1.0)
        river.learn_one(cells(values), fraud, 3.0 if not fraud else 1.0)
    learned, weights, _ = model._learner.learned()
    unseen = [values for values, _ in examples(feature_set, 300, seed=2)]

    assert dict(zip(learned.tolist(), weights.tolist(), strict=True)) == river.weights
    assert model.score_many(unseen) == [river.predict_proba_one(cells(values))[True] for values in unseen]


def test_scores_and_contributions_do_not_depend_on_the_batch(small: tuple[FeatureSet, LearningConfig]) -> None:
    model = teach(new_model(*small), examples(small[0], 600, seed=1))
    unseen = [values for values, _ in examples(small[0], 300, seed=2)]
    scores = model.score_many(unseen)
    told = model.contributions_many(unseen, 4)

    assert [model.score_one(values) for values in unseen] == scores
    assert [score for at in range(0, 300, 7) for score in model.score_many(unseen[at : at + 7])] == scores
    assert [model.contributions(values, 4) for values in unseen] == told


def test_scoring_changes_nothing(small: tuple[FeatureSet, LearningConfig]) -> None:
    model = teach(new_model(*small), examples(small[0], 300, seed=1))
    before = model.to_bytes()
    unseen = [values[:] for values, _ in examples(small[0], 100, seed=2)]
    model.score_many(unseen)
    model.contributions_many(unseen, 3)
    model._packed = None

    assert model.to_bytes() == before
    assert repr(unseen) == repr([values for values, _ in examples(small[0], 100, seed=2)])


def test_contributions_and_the_baseline_sum_up_to_the_logit(small: tuple[FeatureSet, LearningConfig]) -> None:
    model = teach(new_model(*small), examples(small[0], 1_000, seed=1))
    unseen = [values for values, _ in examples(small[0], 50, seed=2)]

    for values, logit in zip(unseen, model.logits(unseen).tolist(), strict=True):
        told = model.contributions(values, 100)
        assert sorted(name for name, _ in told) == sorted(model.terms.names)
        assert math.fsum(value for _, value in told) + model.baseline == pytest.approx(logit, abs=1e-9)
        assert model.score_one(values) == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-12)


def test_contributions_come_largest_first_and_name_what_made_the_score(
    small: tuple[FeatureSet, LearningConfig],
) -> None:
    feature_set, _ = small
    model = teach(new_model(*small), examples(feature_set, 4_000, seed=1))
    payment = feature_set.new_values()
    told_facts: dict[str, Value] = {"amount": 20.0, "channel": "atm", "country": "DE", "account.fraud_rate_7d": 0.3}
    for name, value in told_facts.items():
        payment[feature_set.slots[name]] = value
    payment[feature_set.slots["device.rooted"]] = False
    told = model.contributions(payment, 3)

    assert [abs(value) for _, value in told] == sorted((abs(value) for _, value in told), reverse=True)
    assert told[0][0] in ("account.fraud_rate_7d", "amount*account.fraud_rate_7d")
    assert told[0][1] > 1
    assert told == model.contributions(payment, 100)[:3]


def test_on_average_over_all_labels_no_term_contributes(small: tuple[FeatureSet, LearningConfig]) -> None:
    labels = examples(small[0], 1_000, seed=1)
    model = new_model(*small)
    weights = [1.0 if fraud else 5.0 for _, fraud in labels]
    for (values, fraud), weight in zip(labels, weights, strict=True):
        model.learn_one(values, fraud, weight)
        model.contributions(values, 1)  # told now and then, and not of the past the next time
    totals = dict.fromkeys(model.terms.names, 0.0)
    sizes = dict.fromkeys(model.terms.names, 0.0)
    told = model.contributions_many([values for values, _ in labels], 100)
    for row, weight in zip(told, weights, strict=True):
        for name, value in row:
            totals[name] += weight * value
            sizes[name] += weight * abs(value)

    for name in model.terms.names:
        assert sizes[name] > 1.0
        assert totals[name] == pytest.approx(0.0, abs=1e-9 * sizes[name]), name


def test_absent_values_have_weights_of_their_own(small: tuple[FeatureSet, LearningConfig]) -> None:
    feature_set, config = small
    nothing = feature_set.new_values()
    labels = [(nothing, True)] * 40 + [(values, False) for values, _ in examples(feature_set, 200, seed=1)]
    model = teach(new_model(feature_set, config), labels)
    cells, counts = model.terms.spread(model.terms.rows([nothing])[0])

    assert counts.tolist() == [1.0] * len(model.terms.names), "one cell a term"
    assert model.terms.owner[cells].tolist() == list(range(len(model.terms.names)))
    assert (model.score_one(nothing) or 0.0) > 0.5
    assert math.isfinite(float(model.logits([nothing])[0]))


def test_cells_of_a_payment_count_one_a_term_and_never_meet(small: tuple[FeatureSet, LearningConfig]) -> None:
    model = new_model(*small)
    limits = [-math.inf, -1.0, 0.0, 1e-9, 23.0, 1e9, 1e300, math.inf, math.nan]
    rng = random.Random(5)
    for _ in range(500):
        values = small[0].new_values()
        for slot, feature in enumerate(small[0].features):
            if feature.kind == "number":
                values[slot] = rng.choice(limits)
            elif feature.kind == "boolean":
                values[slot] = rng.choice([True, False, None])
            else:
                values[slot] = rng.choice(["", "x", "ö", None])
        cells, counts = model.terms.spread(model.terms.rows([values])[0])
        sums = np.bincount(model.terms.owner[cells], counts, len(model.terms.names))

        assert len(cells) <= model.terms.touched
        assert len(set(cells.tolist())) == len(cells)
        assert cells.min() >= 0 and cells.max() < model.terms.cells
        assert (counts > 0).all()
        assert sums == pytest.approx(1.0)


def test_different_values_of_a_boolean_and_of_a_category_have_different_weights(
    small: tuple[FeatureSet, LearningConfig],
) -> None:
    model = new_model(*small)

    def cells(name: str, value: Value) -> tuple[int, ...]:
        values = small[0].new_values()
        values[small[0].slots[name]] = value
        return tuple(model.terms.spread(model.terms.rows([values])[0])[0].tolist())

    assert len({cells("device.rooted", value) for value in (None, False, True)}) == 3
    assert len({cells("channel", value) for value in (None, "atm", "ecommerce", "wallet")}) == 4
    assert len({cells("hour", float(value)) for value in range(24)}) == 24


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e300, 2.0**31, -(2.0**31)])
def test_a_number_too_large_for_a_category_counts_as_absent(
    small: tuple[FeatureSet, LearningConfig], value: float
) -> None:
    model = new_model(*small)
    absent, beyond = small[0].new_values(), small[0].new_values()
    beyond[small[0].slots["hour"]] = value

    assert model.terms.spread(model.terms.rows([beyond])[0])[0].tolist() == (
        model.terms.spread(model.terms.rows([absent])[0])[0].tolist()
    )


def test_a_ratio_is_absent_without_a_positive_denominator(small: tuple[FeatureSet, LearningConfig]) -> None:
    model = new_model(*small)
    term = model.terms.names.index("amount_to_mean")

    def cell_of_ratio(amount: float, mean: float) -> list[int]:
        values = small[0].new_values()
        values[small[0].slots["amount"]], values[small[0].slots["account.mean_30d"]] = amount, mean
        cells, _ = model.terms.spread(model.terms.rows([values])[0])
        return cells[model.terms.owner[cells] == term].tolist()  # type: ignore[no-any-return]

    absent = cell_of_ratio(math.nan, 5.0)
    assert absent == cell_of_ratio(5.0, math.nan) == cell_of_ratio(5.0, 0.0) == cell_of_ratio(5.0, -1.0)
    assert cell_of_ratio(8.0, 4.0) == cell_of_ratio(2.0, 1.0) != absent


def test_weights_restore_what_sampling_left_out(small: tuple[FeatureSet, LearningConfig]) -> None:
    labels = examples(small[0], 20_000, seed=1)
    everything = teach(new_model(*small), labels)
    sampled, unweighted = new_model(*small), new_model(*small)
    rng = random.Random(4)
    for values, fraud in labels:
        if fraud or rng.random() < 0.2:
            sampled.learn_one(values, fraud, 1.0 if fraud else 5.0)
            unweighted.learn_one(values, fraud, 1.0)
    unseen = [values for values, _ in examples(small[0], 2_000, seed=2)]

    def mean_score(model: OnlineModel) -> float:
        return sum(score or 0.0 for score in model.score_many(unseen)) / len(unseen)

    assert mean_score(sampled) == pytest.approx(mean_score(everything), rel=0.15)
    assert mean_score(unweighted) > 2 * mean_score(everything)
    assert sampled.weight == pytest.approx(everything.weight, rel=0.05)


def test_a_weight_multiplies_the_gradient(small: tuple[FeatureSet, LearningConfig]) -> None:
    assert isinstance(small[1].model, ModelConfig)
    start = small[1].model.base_logit
    values = examples(small[0], 1, seed=1)[0][0]
    steps = []
    for weight in (1.0, 10.0):
        model = new_model(*small)
        model.learn_one(values, True, weight)
        steps.append(model._learner.intercept - start)

    assert steps[1] == pytest.approx(10 * steps[0], rel=1e-12)
    assert steps[0] > 0


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf, 2e6])
def test_a_senseless_weight_is_refused(small: tuple[FeatureSet, LearningConfig], weight: float) -> None:
    model = new_model(*small)
    with pytest.raises(ValueError, match=r"weight of a label is .*; expected more than 0"):
        model.learn_one(examples(small[0], 1, seed=1)[0][0], False, weight)
    assert model.labels == 0


def test_a_restored_model_goes_on_like_the_uninterrupted_one(small: tuple[FeatureSet, LearningConfig]) -> None:
    labels = examples(small[0], 900, seed=1)
    unseen = [values for values, _ in examples(small[0], 200, seed=2)]
    uninterrupted = teach(new_model(*small), labels, 1 / 0.3)
    restore = restore_model(*small)
    model = restore(None)
    for at, (values, fraud) in enumerate(labels):
        if at % 100 == 30:
            model = restore(model.to_bytes())
        model.learn_one(values, fraud, 1 / 0.3)

    assert model.to_bytes() == uninterrupted.to_bytes()
    assert model.score_many(unseen) == uninterrupted.score_many(unseen)
    assert model.contributions_many(unseen, 5) == uninterrupted.contributions_many(unseen, 5)
    assert model.artefact_hash() == uninterrupted.artefact_hash()
    assert (model.labels, model.id, model.version) == (900, "small", "3")


def test_a_new_model_survives_its_bytes_too(small: tuple[FeatureSet, LearningConfig]) -> None:
    restore = restore_model(*small)

    assert restore(restore(None).to_bytes()).to_bytes() == restore(None).to_bytes()


def test_the_artefact_hash_follows_the_labels(small: tuple[FeatureSet, LearningConfig]) -> None:
    model = teach(new_model(*small), examples(small[0], 60, seed=1))
    first = model.artefact_hash()
    assert model.artefact_hash() == first

    teach(model, examples(small[0], 1, seed=2))
    assert model.artefact_hash() != first


def test_equal_histories_give_equal_bytes_in_another_process(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from tests.operators.test_model import examples, new_model, profile, teach\n"
        "small = profile(Path(sys.argv[1]))\n"
        "print(teach(new_model(*small), examples(small[0], 300, seed=9)).artefact_hash())\n"
    )
    root = str(Path(__file__).parents[2])
    small = profile(tmp_path)
    here = teach(new_model(*small), examples(small[0], 300, seed=9)).artefact_hash()
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), root],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert run.stdout.strip() == here


def test_memory_is_bounded_by_the_declaration(small: tuple[FeatureSet, LearningConfig]) -> None:
    model = new_model(*small)
    rng = random.Random(11)
    for _ in range(3_000):
        values = small[0].new_values()
        values[small[0].slots["country"]] = f"{rng.getrandbits(60):x}"
        values[small[0].slots["channel"]] = f"{rng.getrandbits(60):x}" if rng.random() < 0.9 else None
        values[small[0].slots["amount"]] = math.exp(rng.uniform(-30, 30))
        model.learn_one(values, rng.random() < 0.1, 1.0)

    learned = model._learner.learned()[0]
    by_term = dict(zip(model.terms.names, np.bincount(model.terms.owner[learned]).tolist(), strict=True))
    assert by_term["channel"] == 256 + 1, "3,000 different channels in 256 slots"
    assert by_term["amount"] <= 84
    assert len(model._learner.weights) == len(learned) <= model.terms.cells
    assert len(model.to_bytes()) <= 28 * model.terms.cells + 1_000


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda artefact: b"", r"model artefact: starts with b'', expected b'WLM\\x01'"),
        (lambda artefact: b"WLM\x02" + artefact[4:], r"starts with b'WLM\\x02', expected b'WLM\\x01'"),
        (lambda artefact: artefact[:-1], r"sha256 is not the one they end with: cut off or altered"),
        (lambda artefact: artefact[:200] + b"\x00" + artefact[201:], r"cut off or altered"),
        (lambda artefact: artefact[:4], r"cut off or altered; restore an intact one"),
    ],
)
def test_a_spoilt_artefact_is_refused(small: tuple[FeatureSet, LearningConfig], spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    artefact = teach(new_model(*small), examples(small[0], 60, seed=1)).to_bytes()
    with pytest.raises(StateLayoutError, match=message):
        restore_model(*small)(spoil(artefact))


def test_a_model_is_not_served_under_another_feature_set_or_configuration(
    tmp_path: Path, small: tuple[FeatureSet, LearningConfig]
) -> None:
    artefact = teach(new_model(*small), examples(small[0], 60, seed=1)).to_bytes()
    other_features = profile(tmp_path, features=FEATURES.replace("small-1", "small-2"))
    other_model = profile(tmp_path, learning=LEARNING.replace("min_labels = 50", "min_labels = 51"))

    with pytest.raises(ProfileError, match=r"model small 3: its state was learned under feature set hash .*go back"):
        restore_model(*other_features)(artefact)
    with pytest.raises(ProfileError, match=r"learned under \[model\] hash .*, the profile has .*start from new state"):
        restore_model(*other_model)(artefact)


def test_there_is_no_model_without_a_declaration(small: tuple[FeatureSet, LearningConfig]) -> None:
    with pytest.raises(ProfileError, match=r"there is no \[model\]"):
        restore_model(small[0], LearningConfig.default())


@pytest.mark.parametrize(
    "declared", ['features = ["amount"]\ncategorical = []', 'features = []\ncategorical = ["mcc"]']
)
def test_a_model_of_one_single_input_works(tmp_path: Path, declared: str) -> None:
    small = profile(tmp_path, f'[model]\nid = "one"\nversion = "1"\nmin_labels = 1\n{declared}')
    values = small[0].new_values()
    values[small[0].slots["amount"]], values[small[0].slots["mcc"]] = 3.0, "5411"
    model = teach(new_model(*small), [(values, True)] * 5)

    assert (model.score_one(values) or 0.0) > 0.01
    assert len(model.contributions(values, 5)) == 1
