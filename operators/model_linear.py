"""River's logistic regression with AdaGrad, its weights mirrored into an array from which payments are scored.

River keeps weights by name in dictionaries: to predict from 50 cells takes it 8 µs, to list all weights a millisecond.
Learning stays River's; every weight it changes is written to the mirror as well, by the optimiser, which sees them all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from river import linear_model, optim, utils

from operators.model_terms import Floats, Ints


class MirroredAdaGrad(optim.AdaGrad):
    """River's AdaGrad to the bit, at half its time, that also writes each new weight to `mirror`.

    River asks its scheduler for the learning rate at every weight; here it is asked once a label.
    Source: Duchi, Hazan, Singer 2011, Journal of Machine Learning Research 12:2121-2159.
    """

    def __init__(self, lr: float, mirror: Floats) -> None:
        super().__init__(lr)
        self.mirror = mirror

    def _step_with_dict(self, w: Any, g: Any) -> Any:
        squares, eps, rate = self.g2, self.eps, self.learning_rate
        cells = list(g)
        weights = []
        # The mirror holds what `w` holds, and gives it all at once.
        for cell, weight, gradient in zip(cells, self.mirror[cells].tolist(), g.values(), strict=True):
            total = squares[cell] + gradient**2
            squares[cell] = total
            weights.append(weight - rate / (total + eps) ** 0.5 * gradient)
        self.mirror[cells] = weights
        w.update(dict(zip(cells, weights, strict=True)))
        return w


class LinearLearner(linear_model.LogisticRegression):
    """River's logistic regression over numbered cells.

    Attributes:
        mirror: Weight of each cell, 0 for a cell never learned; (cells,).
    """

    def __init__(
        self, cells: int, learning_rate: float, intercept_learning_rate: float, l2: float, intercept: float
    ) -> None:
        self.mirror: Floats = np.zeros(cells, dtype=np.float64)
        super().__init__(
            optimizer=MirroredAdaGrad(learning_rate, self.mirror),
            l2=l2,
            intercept_init=intercept,
            intercept_lr=intercept_learning_rate,
        )

    def probability(self, logit: float) -> float:
        """What River makes of a logit: its sigmoid, which is 0 below -30 and 1 above 30."""
        return float(self.loss.mean_func(logit))

    def learned(self) -> tuple[Ints, Floats, Floats]:
        """Cells that were learned, rising, their weights, and their sums of squared gradients."""
        squares = self.optimizer.g2
        cells = np.array(sorted(squares), dtype=np.int32)
        return cells, self.mirror[cells], np.array([squares[cell] for cell in cells.tolist()], dtype=np.float64)

    def restore(self, cells: Ints, weights: Floats, squares: Floats, intercept: float, steps: int) -> None:
        """Become the learner that had learned this.

        Raises:
            ValueError: a cell out of range, or a number that is not finite.
        """
        sound = len(cells) == 0 or (int(cells.min()) >= 0 and int(cells.max()) < len(self.mirror))
        finite = np.isfinite(weights).all() and np.isfinite(squares).all() and math.isfinite(intercept)
        if not (sound and finite):
            message = f"weights outside the {len(self.mirror)} cells, or not finite"
            raise ValueError(message)
        self.mirror[:] = 0.0
        self.mirror[cells] = weights
        self.optimizer.g2.clear()
        self.optimizer.g2.update(_by_cell(cells, squares))
        self.optimizer.n_iterations = steps
        self._weights = utils.VectorDict(_by_cell(cells, weights))
        self.intercept = intercept


def _by_cell(cells: Ints, values: Floats) -> Mapping[int, float]:
    return dict(zip(cells.tolist(), values.tolist(), strict=True))
