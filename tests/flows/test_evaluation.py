from __future__ import annotations

import math
import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from flows.evaluation import evaluate
from flows.report_models import models
from operators.prequential import DAY_US, PrequentialConfig
from tests.flows.report_runs import DAY0, decision, rfc3339, write_lines

CONFIG = PrequentialConfig(windows=(7,), mature_after_us=7 * DAY_US, cards_a_day=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Ten days of payments, each known by the seventeenth; the champion ranks well, the challenger by chance."""
    out = tmp_path_factory.mktemp("out")
    rng = random.Random(3)
    decisions, truth, labels = [], [], []
    start = DAY0.replace(hour=0)
    for number in range(2_000):
        fraud = rng.random() < 0.1
        one = decision(
            number,
            decided_at=rfc3339(start + timedelta(minutes=number * 7.2)),
            account_id=f"A{number % 90}",
            card_id=None,
            channel=rng.choice(["atm", "ecommerce"]),
            country=None,
            score=1 / (1 + math.exp(-rng.gauss(0.5 if fraud else -2.0, 1.0))),
            challenger_scores=[{"model_id": "shadow", "model_version": "1+9", "score": rng.random()}],
            versions={"model_id": "champion", "model_version": "1+9"},
        )
        decisions.append(one)
        if number % 10:
            truth.append({"fraud": fraud, "score": one["score"], "channel": one["channel"]})
            labels.append({"transaction_id": f"t{number}", "label": "fraud" if fraud else "genuine", "weight": 1.0})
    corrected = {"transaction_id": "t1", "label": "fraud", "weight": 1.0}
    truth[0]["fraud"] = True
    retry = {**decisions[5], "duplicate": True}
    late = decision(9_999, **{key: decisions[0][key] for key in ("account_id", "channel", "versions")},
                    decided_at=rfc3339(start + timedelta(days=17)), challenger_scores=[], score=0.5)  # fmt: skip
    write_lines(out / "decisions.jsonl", [*decisions, retry, late])
    write_lines(out / "labelled_outcomes.jsonl", [*labels, corrected])
    return out, truth


def test_scores_of_decisions_are_judged_by_the_labels_that_were_learned(
    run: tuple[Path, list[dict[str, Any]]],
) -> None:
    out, truth = run
    told = evaluate(out, CONFIG)
    week = [one for number, one in enumerate(truth) if 3 * 180 <= number < 10 * 180]
    fraud, scores = np.array([one["fraud"] for one in week]), np.array([one["score"] for one in week])
    champion = told["models"]["champion"]["7d"]

    assert told["judged"] == 1_800
    assert champion["all"]["payments"] == len(week)
    assert champion["all"]["frauds"] == fraud.sum()
    assert champion["all"]["auc"] == pytest.approx(roc_auc_score(fraud, scores), abs=0.003)
    assert champion["all"]["average_precision"] == pytest.approx(average_precision_score(fraud, scores), abs=0.01)
    assert champion["all"]["brier"] == pytest.approx(float(((scores - fraud) ** 2).mean()), abs=1e-6)
    assert told["models"]["shadow"]["7d"]["all"]["auc"] == pytest.approx(0.5, abs=0.08)
    assert champion["channel atm"]["payments"] == sum(one["channel"] == "atm" for one in week)


def test_the_report_has_a_row_a_model_and_one_a_segment(run: tuple[Path, list[dict[str, Any]]]) -> None:
    evaluation = evaluate(run[0], CONFIG)
    page = models({"evaluation": evaluation}).body

    assert page.count(">champion</th>") == 1 + 3
    assert page.count(">shadow</th>") == 1 + 3
    assert f"{evaluation['models']['champion']['7d']['all']['average_precision']:.4f}" in page
    assert "channel ecommerce" in page
    assert "No label has come" in models({}).body


def test_without_labels_there_is_nothing_to_judge(tmp_path: Path) -> None:
    write_lines(tmp_path / "decisions.jsonl", [])

    assert evaluate(tmp_path, CONFIG) == {"judged": 0, "cards_a_day": 3, "models": {}}
