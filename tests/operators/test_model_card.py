"""The card tells what is known, in both forms, and nothing that breaks a page."""

from __future__ import annotations

import math

import numpy as np

from operators.model_card import Facts, Figure, auc_interval, model_card
from tests.operators.test_releases import released

FACTS = Facts(
    kind="logistic regression <over> curves",
    labels=12_345,
    frauds=67,
    first_us=0,
    last_us=86_400_000_000,
    figures=(Figure("ROC AUC", 0.871, 0.85, 0.89), Figure("average precision", math.nan)),
    segments=(("channel ecommerce", "0.9"),),
    segment_heads=("segment", "ROC AUC"),
    importances=(("amount|x", 0.7),),
    versions={"policy": "cards 1"},
)


def test_the_card_tells_data_quality_segments_inputs_and_how_to_undo_it() -> None:
    markdown, page = model_card(released("linear", "champion", 3), FACTS)
    for text in ("12,345", "67", "1970-01-01T00:00:00", "0.871", "0.85 to 0.89", "channel ecommerce", "0.7"):
        assert text in markdown
        assert text in page
    assert "weir models rollback" in markdown
    assert "| amount\\|x | 0.7 |" in markdown
    assert "&lt;over&gt;" in page
    assert "<over>" not in page


def test_a_model_of_which_nothing_is_known_has_a_card_too() -> None:
    markdown, _ = model_card(released("linear", "challenger", 1), Facts("linear", 0, 0, None, None))
    assert "none yet" in markdown
    assert "Nothing is known yet." in markdown


def test_the_interval_of_an_auc_covers_the_true_one_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(300):
        fraud, genuine = rng.normal(1.0, 1.0, 60), rng.normal(0.0, 1.0, 240)
        auc = float((fraud[:, None] > genuine[None, :]).mean())
        low, high = auc_interval(auc, 60, 240)
        covered += low <= 0.7602 <= high  # Phi(1 / sqrt 2)
    assert covered >= 0.9 * 300
    assert all(math.isnan(one) for one in auc_interval(0.9, 0, 10))
