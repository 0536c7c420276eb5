"""Figures of a ranking and of its probabilities, from counts by cells of the score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Columns of the counts, one row a cell, lowest scores first; all but the first two in sums over weight times ...
GENUINE: Final = 0
FRAUD: Final = 1
FRAUD_AMOUNT: Final = 2
AMOUNTS: Final = 3
SCORES: Final = 4
BRIER: Final = 5
COLUMNS: Final = 6

_GROUPS: Final = 20
"""Groups of the calibration error, of equal weight. More are noisier, fewer hide what errs up and down."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of a model over some payments; None where it is undefined: nothing, or one class only.

    Attributes:
        payments: Sum of the weights.
        frauds: Sum of the weights of frauds.
        auc: Chance that a fraud scores higher than a genuine payment.
        average_precision: Sum of precision times step in recall over the cells, highest first.
        recall_at_0_1_percent: Share of frauds above the score that 0.1 % of genuine payments exceed.
        recall_at_1_percent: The same for 1 %.
        money_at_1_percent: Share of the frauds' amount above the score that 1 % of genuine payments exceed.
        precision_at_cards: Share of frauds among the k cards of a day with the highest scores, mean over days.
        calibration_error: Mean distance of score and share of fraud, over 20 groups of payments by score.
            Source: Naeini, Cooper, Hauskrecht 2015, AAAI, "expected calibration error".
        brier: Mean of the squared distance of score and label. Source: Brier 1950, Monthly Weather Review 78(1).
    """

    payments: float
    frauds: float
    auc: float | None
    average_precision: float | None
    recall_at_0_1_percent: float | None
    recall_at_1_percent: float | None
    money_at_1_percent: float | None
    precision_at_cards: float | None
    calibration_error: float | None
    brier: float | None


def figures(counts: NDArray[np.float64], precision_at_cards: float | None) -> Figures:
    """Figures of counts: (cells, COLUMNS), lowest scores first."""
    down = counts[::-1]
    genuine, fraud = down[:, GENUINE], down[:, FRAUD]
    all_genuine, all_fraud = float(genuine.sum()), float(fraud.sum())
    payments = all_genuine + all_fraud
    if payments <= 0.0:
        return Figures(0.0, 0.0, None, None, None, None, None, None, None, None)
    calibration = _calibration(counts, payments)
    brier = float(counts[:, BRIER].sum()) / payments
    if all_genuine <= 0.0 or all_fraud <= 0.0:
        return Figures(payments, all_fraud, None, None, None, None, None, precision_at_cards, calibration, brier)
    found, false = np.cumsum(fraud), np.cumsum(genuine)
    recall = found / all_fraud
    below = all_genuine - false
    auc = float(np.sum(fraud * (below + genuine / 2.0))) / (all_fraud * all_genuine)
    flagged = found + false
    precision = np.divide(found, flagged, out=np.zeros_like(found), where=flagged > 0.0)
    average = float(np.sum(np.diff(recall, prepend=0.0) * precision))
    rate = false / all_genuine
    money = np.cumsum(down[:, FRAUD_AMOUNT])
    return Figures(
        payments=payments,
        frauds=all_fraud,
        auc=auc,
        average_precision=average,
        recall_at_0_1_percent=_at(0.001, rate, recall),
        recall_at_1_percent=_at(0.01, rate, recall),
        money_at_1_percent=_at(0.01, rate, money / money[-1]) if money[-1] > 0.0 else None,
        precision_at_cards=precision_at_cards,
        calibration_error=calibration,
        brier=brier,
    )


def _at(share: float, rate: NDArray[np.float64], reached: NDArray[np.float64]) -> float:
    """`reached` where `rate` comes to `share`; within a cell in proportion, since its scores count as equal."""
    at = int(np.searchsorted(rate, share, side="right"))
    if at >= len(rate):
        return float(reached[-1])
    rate_before, reached_before = (float(rate[at - 1]), float(reached[at - 1])) if at else (0.0, 0.0)
    part = (share - rate_before) / (float(rate[at]) - rate_before)
    return reached_before + part * (float(reached[at]) - reached_before)


def _calibration(counts: NDArray[np.float64], payments: float) -> float:
    weights = counts[:, GENUINE] + counts[:, FRAUD]
    # A cell belongs to the group in which its middle payment falls.
    middle = (np.cumsum(weights) - weights / 2.0) / payments
    group = np.minimum((middle * _GROUPS).astype(np.int64), _GROUPS - 1)
    said = np.bincount(group, counts[:, SCORES], _GROUPS)
    was = np.bincount(group, counts[:, FRAUD], _GROUPS)
    return float(np.abs(said - was).sum()) / payments
