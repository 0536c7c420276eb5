"""Scores with labels → histogram, exact precision-recall curve, and average precision over time."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

BINS: Final = 50

# Points of the curve that are drawn. More make a larger page with the same picture: the plot is at most some 600
# pixels wide; fewer show as corners.
DRAWN: Final = 400


@dataclass(frozen=True, slots=True)
class Curve:
    """Precision at each recall, thinned for drawing.

    Attributes:
        recall: Rising, 0..1.
        precision: Same length.
        threshold: Score at and above which a payment is counted as flagged.
        average_precision: Sum of precision times step in recall over all distinct scores, not thinned.
    """

    recall: tuple[float, ...]
    precision: tuple[float, ...]
    threshold: tuple[float, ...]
    average_precision: float


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model said of the payments it scored.

    Attributes:
        scored: Payments with a score.
        frauds: Of those, frauds.
        edges: BINS + 1 edges of the histogram, 0 to 1.
        genuine: Genuine payments a bin.
        fraud: Frauds a bin.
        curve: None when nothing, no fraud or only fraud was scored.
        actions: Action to (scored payments, frauds among them).
        hours: Hour since 1970 of each scored payment, in the order of the decisions.
        values: The scores.
        labels: True for a fraud.
    """

    scored: int
    frauds: int
    edges: tuple[float, ...]
    genuine: tuple[int, ...]
    fraud: tuple[int, ...]
    curve: Curve | None
    actions: dict[str, tuple[int, int]]
    hours: NDArray[np.int32]
    values: NDArray[np.float64]
    labels: NDArray[np.bool_]

    def average_precision_between(self, start_hour: int, end_hour: int) -> float | None:
        """AP over the payments with start_hour <= hour < end_hour; None where it is undefined."""
        chosen = (self.hours >= start_hour) & (self.hours < end_hour)
        return average_precision(self.values[chosen], self.labels[chosen])


def summarise_scores(
    values: array[float], hours: array[int], labels: array[int], actions: dict[str, list[int]]
) -> Scores:
    """Histogram and curve of parallel arrays: score, hour of event time, 1 for a fraud."""
    score = np.frombuffer(values, dtype=np.float64) if values else np.empty(0, dtype=np.float64)
    hour = np.frombuffer(hours, dtype=np.int32) if hours else np.empty(0, dtype=np.int32)
    fraud = np.frombuffer(labels, dtype=np.int8).astype(np.bool_) if labels else np.empty(0, dtype=np.bool_)
    inside = np.clip(score, 0.0, 1.0)
    edges = np.linspace(0.0, 1.0, BINS + 1)
    return Scores(
        scored=len(score),
        frauds=int(fraud.sum()),
        edges=tuple(edges.tolist()),
        genuine=tuple(np.histogram(inside[~fraud], edges)[0].tolist()),
        fraud=tuple(np.histogram(inside[fraud], edges)[0].tolist()),
        curve=_curve(score, fraud),
        actions={action: (count, frauds) for action, (count, frauds) in actions.items()},
        hours=hour,
        values=score,
        labels=fraud,
    )


def average_precision(score: NDArray[np.float64], fraud: NDArray[np.bool_]) -> float | None:
    """Area under the precision-recall steps; equal scores are one step.

    Args:
        score: Higher means more likely fraud.
        fraud: Same length.

    Returns:
        0..1, or None without a fraud or without a genuine payment: then there is nothing to rank.
    """
    if not fraud.any() or fraud.all():
        return None
    precision, recall, _ = _steps(score, fraud)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def _steps(
    score: NDArray[np.float64], fraud: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Precision, recall and threshold at each distinct score, highest score first."""
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    found = np.cumsum(fraud[order])
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    return found[ends] / (ends + 1.0), found[ends] / float(found[-1]), ranked[ends]


def _curve(score: NDArray[np.float64], fraud: NDArray[np.bool_]) -> Curve | None:
    average = average_precision(score, fraud)
    if average is None:
        return None
    precision, recall, threshold = _steps(score, fraud)
    # Within one column of pixels recall hardly moves while precision falls: the first and the last point say it all.
    column = np.floor(recall * (DRAWN // 2)).astype(np.int64)
    change = np.flatnonzero(np.diff(column))
    kept = np.unique(np.concatenate(([0], change, change + 1, [len(column) - 1])))
    return Curve(
        recall=tuple(recall[kept].tolist()),
        precision=tuple(precision[kept].tolist()),
        threshold=tuple(threshold[kept].tolist()),
        average_precision=average,
    )
