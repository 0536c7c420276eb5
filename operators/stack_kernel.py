"""One step of the stack's regression: a logistic regression learned as a Kalman filter does, exactly and in order."""

from __future__ import annotations

import math

from operators.jit import Array, jit


@jit("void(float64[::1], float64[:,::1], float64[::1], float64, float64, float64)")
def learn(mean: Array, covariance: Array, inputs: Array, label: float, weight: float, keep: float) -> None:
    """Move the weights' mean and covariance by one label.

    Args:
        mean: (inputs,), changed.
        covariance: (inputs, inputs), changed.
        inputs: 1 and the parts' logits.
        label: 1 for fraud, else 0.
        weight: Payments the label stands for.
        keep: Share of what was learned before that still counts, at most 1.

    Source: extended Kalman filter on the logistic model; Penny, Roberts 1999, Dynamic logistic regression, IJCNN.
    """
    size = len(mean)
    logit = 0.0
    for i in range(size):
        logit += mean[i] * inputs[i]
    p = 1.0 / (1.0 + math.exp(-logit)) if logit > -30.0 else 0.0
    steep = max(p * (1.0 - p), 1e-9) * weight
    spread = 0.0
    gains = inputs.copy()
    for i in range(size):
        total = 0.0
        for j in range(size):
            total += covariance[i, j] * inputs[j]
        gains[i] = total
        spread += inputs[i] * total
    shrink = 1.0 + steep * spread
    for i in range(size):
        mean[i] += gains[i] / shrink * weight * (label - p)
        for j in range(size):
            covariance[i, j] = (covariance[i, j] - gains[i] * gains[j] * steep / shrink) / keep
