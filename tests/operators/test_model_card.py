from __future__ import annotations

import random

import numpy as np
import pytest

from operators.learn_made import LearnLedger, Made, Scored
from operators.model_card import average_precision, card_html, card_markdown, figures, measured, ranked_auc


def _latest(count: int = 400, seed: int = 1) -> list[Scored]:
    rng = random.Random(seed)
    rows: list[Scored] = []
    for _ in range(count):
        fraud = rng.random() < 0.2
        score = round(min(1.0, max(0.0, rng.gauss(0.6 if fraud else 0.4, 0.15))), 2)
        rows.append((score, score / 2, fraud, 1.0 if fraud else 5.0))
    return rows


def _made(latest: list[Scored]) -> Made:
    ledger = LearnLedger(since=3, frauds=2, genuine=7, first_us=10**15, last_us=10**15 + 1, version="1+1", sha256="0")
    return Made(b"bytes", "ab" * 32, "m|<b>", "1+9", 9, 10**15, ledger, latest, [("amount", 0.5)])


def test_the_area_is_the_share_of_pairs_in_order_and_the_interval_is_hanley_and_mcneils() -> None:
    scores, frauds = np.array([0.1, 0.4, 0.35, 0.8, 0.4]), np.array([False, False, True, True, True])
    found = ranked_auc(scores, frauds)
    assert found is not None
    pairs = [
        1.0 if scores[one] > scores[other] else 0.5 if scores[one] == scores[other] else 0.0
        for one in (2, 3, 4)
        for other in (0, 1)
    ]
    assert found[0] == pytest.approx(sum(pairs) / len(pairs))
    # Their own example's shape: area 0.893 with 51 and 58 cases has a standard error of 0.032 (their table II).
    area, first, second = 0.893, 0.893 / 1.107, 2 * 0.893**2 / 1.893
    error = ((area * (1 - area) + 50 * (first - area**2) + 57 * (second - area**2)) / (51 * 58)) ** 0.5
    assert error == pytest.approx(0.032, abs=0.001)
    assert ranked_auc(scores, np.zeros(5, dtype=np.bool_)) is None


def test_average_precision_counts_equal_scores_together_and_weights_as_many() -> None:
    scores, frauds = np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, False, True, False])
    plain = average_precision(scores, frauds, np.ones(4))
    assert plain == pytest.approx(0.5 * 1.0 + 0.5 * 2 / 3)
    heavy = average_precision(scores, frauds, np.array([1.0, 3.0, 1.0, 3.0]))
    spread = average_precision(
        np.array([0.9, 0.5, 0.5, 0.5, 0.5, 0.1]), np.array([True, False, False, False, True, False]), np.ones(6)
    )
    assert heavy == pytest.approx(spread)
    assert average_precision(scores, np.zeros(4, dtype=np.bool_), np.ones(4)) is None


def test_a_card_repeats_and_its_intervals_hold_their_value() -> None:
    made = _made(_latest())
    told = figures(made)
    assert told == figures(made)
    for name in ("decided_auc", "decided_ap", "prequential_auc", "prequential_ap"):
        assert told[f"{name}_low"] <= told[name] <= told[f"{name}_high"]
    assert measured([(None, None, True, 1.0)], 0) == {}


def test_both_forms_tell_the_span_the_counts_the_figures_and_the_way_back() -> None:
    made = _made(_latest())
    record = {"stage": "champion", "feature_set_id": "f", "feature_set_hash": "h", "artefact_uri": "file:///a"}
    markdown, page = card_markdown(record, made), card_html(record, made)
    for words in ("of them fraud", "2001-09-09", "AUC", "AP", "amount", "weir models rollback", "Hanley"):
        assert words in markdown
        assert words in page
    assert "<b>" not in page
    assert "m\\|" not in markdown.splitlines()[0]
    assert "| model | m\\|<b> 1+9 |" in markdown


def test_a_card_without_figures_says_so() -> None:
    record = {"stage": "champion", "feature_set_id": "f", "feature_set_hash": "h", "artefact_uri": "file:///a"}
    assert "Nothing to tell yet" in card_markdown(record, _made([]))
