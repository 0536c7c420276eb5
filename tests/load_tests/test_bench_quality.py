from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from load_tests.bench_quality import PROFILES, by_truth, export_features, rows_of, side_by_side, split_scores
from operators.features import load_feature_set
from operators.learning import load_learning


def decision(number: int, score: float | None, shadow: float, **changes: object) -> dict[str, object]:
    return {
        "transaction_id": f"t{number}",
        "event_time": "2026-03-02T10:00:00.000000Z",
        "score": score,
        "challenger_scores": [{"model_id": "shadow", "model_version": "1", "score": shadow}],
        "versions": {"model_id": "champion"},
        "features": {"amount": float(number), "channel": "atm" if number % 2 else None, "flag": True},
        **changes,
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    lines = [decision(number, number / 10, 1 - number / 10) for number in range(10)]
    lines += [decision(3, 0.99, 0.99, duplicate=True), decision(10, None, 0.5)]
    (tmp_path / "decisions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.mark.parametrize("name", ["handbook", "cards"])
def test_in_the_bench_every_learner_of_a_profile_works_alone_too(tmp_path: Path, name: str) -> None:
    folder = side_by_side(PROFILES / name, tmp_path / name)
    learning = load_learning(folder / "learning.toml", load_feature_set(folder / "features.toml"))
    usual = load_learning(PROFILES / name / "learning.toml", load_feature_set(PROFILES / name / "features.toml"))

    assert learning.model == usual.model
    parts = getattr(learning.model, "parts", ())
    assert {part.id for part in parts} <= {one.id for one in learning.challengers}


def test_each_model_has_its_scores_and_a_retry_counts_once(run: Path) -> None:
    scores = split_scores(run, run / "scores")
    frauds, chosen = {"t8", "t9"}, {f"t{number}" for number in range(10)}
    champion, shadow = by_truth("x", scores, frauds, chosen)

    assert (champion.learner, champion.average_precision, champion.auc, champion.third) == ("champion", 1.0, 1.0, 1.0)
    assert (shadow.learner, shadow.auc) == ("shadow", 0.0)


def test_the_baseline_gets_the_features_that_were_scored(run: Path) -> None:
    export_features(run, {"t9"}, run / "features.npz")
    told = np.load(run / "features.npz")

    assert told["ids"].tolist() == [f"t{number}" for number in range(11)]
    assert told["features"][:3, 0].tolist() == [0.0, 1.0, 2.0]
    assert np.isnan(told["features"][0, 1]) and told["features"][1, 1] == 0.0
    assert told["fraud"].sum() == 1


def test_data_that_is_not_at_hand_is_left_out_and_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = argparse.Namespace(out=tmp_path, shared=tmp_path / "nowhere", keep=False, xgboost=None, payments=10)

    assert rows_of("handbook", given) == []
    assert "handbook: left out" in capsys.readouterr().out
