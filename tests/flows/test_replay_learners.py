"""A replay with learners of every kind: what each said recomputes from the record, and a stop changes nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import orjson
import pytest

from flows.evaluation import evaluate
from operators.features import load_feature_set
from operators.inflight import Value
from operators.learner_config import StackConfig
from operators.learning import load_learning
from operators.model import restore_learner
from operators.prequential import PrequentialConfig
from tests.flows.test_replay import output, replay
from tests.flows.traffic import LEARNING, decisions, write_events, write_profile

LEARNERS = f"""
{LEARNING.partition("[model]")[0]}
champion = "stack"
[[learners]]
id = "linear"
version = "1"
min_labels = 20
[[learners]]
kind = "forest"
id = "forest"
version = "1"
min_labels = 20
min_frauds = 2
tau = 0.5
trees = 5
drift_threshold = 20.0
[[learners]]
kind = "stack"
id = "stack"
version = "1"
of = ["linear", "forest"]
"""


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_profile(tmp_path_factory.mktemp("profile"))
    (folder / "learning.toml").write_text(LEARNERS)
    return folder


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_events(tmp_path_factory.mktemp("events"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, profile: Path, events: Path) -> Path:
    out = tmp_path_factory.mktemp("whole")
    assert replay(profile, events, out).finished
    return out


def lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_every_score_recomputes_from_the_record_and_the_artefact_to_the_bit(profile: Path, whole: Path) -> None:
    """The labelled outcomes teach a second set of models; after as many labels as a decision names they say the same.

    Each model goes through its bytes every 40 labels: it is the artefact that scores, not the object that learned.
    """
    features = load_feature_set(profile / "features.toml")
    learning = load_learning(profile / "learning.toml", features)
    assert isinstance(learning.model, StackConfig)
    configs = {one.id: one for one in (learning.model, *learning.challengers)}
    models = {name: restore_learner(features, config, None) for name, config in configs.items()}
    names = [feature.name for feature in features.features]
    numbers = {feature.name for feature in features.features if feature.kind == "number"}

    def values(record: dict[str, Any]) -> list[Value]:
        told = record["features"]
        return [math.nan if told[name] is None and name in numbers else told[name] for name in names]

    labels = iter(lines(whole / "labelled_outcomes.jsonl"))
    learned = 0
    scored = dict.fromkeys(models, 0)
    for decision in decisions(whole):
        if decision["duplicate"]:
            continue
        version = int(decision["versions"]["model_version"].split("+")[1])
        while learned < version:
            label = next(labels)
            learned += 1
            for name, model in models.items():
                model.learn_one(values(label), label["label"] == "fraud", label["weight"])
                if learned % 40 == 0:
                    models[name] = restore_learner(features, configs[name], model.to_bytes())
        said = {one["model_id"]: one["score"] for one in decision["challenger_scores"]}
        said[decision["versions"]["model_id"]] = decision["score"]
        assert said == {name: model.score_one(values(decision)) for name, model in models.items()}
        for name, score in said.items():
            scored[name] += score is not None
        if decision["score"] is not None:
            told = tuple((one["feature"], one["value"]) for one in decision["contributions"])
            assert told == models["stack"].contributions(values(decision), 5)

    assert min(scored.values()) > 100


def test_a_stopped_replay_ends_the_same_to_the_byte(whole: Path, profile: Path, events: Path, tmp_path: Path) -> None:
    runs = 1
    while not replay(profile, events, tmp_path / "out", state=tmp_path / "state", batch=100, stop_after=12).finished:
        runs += 1

    assert runs >= 2
    assert output(tmp_path / "out") == output(whole)


def test_champion_and_challengers_are_judged_by_the_labels_that_came(whole: Path) -> None:
    labelled = {one["transaction_id"] for one in lines(whole / "labelled_outcomes.jsonl")}
    told = evaluate(whole, PrequentialConfig())

    assert told["judged"] == len(labelled)
    assert list(told["models"]) == ["stack", "linear", "forest"]
