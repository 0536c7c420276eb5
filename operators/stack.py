"""A stack: an online logistic regression over the logits of other models, which belong to it and learn with it.

Each label is first asked of the parts, as they are before it (prequential), then learned by the regression from their
answers, then by the parts. So no weight is given to what a part has by heart. A stack of one part is its calibration:
Platt's a·logit + b, online (Platt 1999, Probabilistic outputs for support vector machines). Where the parts' weights
are declared, their blend is calibrated so, and nothing else is learned of them: equal weights are hard to beat when the
parts are few and labels are noisy (Clemen 1989, Combining forecasts, International Journal of Forecasting 5:559-583).

The logit is a sum of the parts' logits by weight, so contributions are: a term's share is the sum of its shares in the
parts, by name, times their weights.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from operators import stack_kernel
from operators.array_artefact import Arrays, pack, refuse, unpack
from operators.features import FeatureSet
from operators.forest import check_origin
from operators.inflight import Value
from operators.learner_config import ForestConfig, StackConfig
from operators.model_config import ModelConfig
from operators.model_protocol import Contributions, Part, check_weight, told
from operators.model_terms import Floats

MAGIC: Final = b"WSM\x01"
_FURTHEST: Final = 15.0
"""Bound of a part's logit in the stack: beyond it a single wrong label would weigh more than all others."""

RestorePart = Callable[[ModelConfig | ForestConfig, bytes | None], Part]
"""A part from its table and its bytes; from None as it starts."""


class StackModel:
    """A stack; see the module and `Model`.

    Attributes:
        frauds: Fraud labels learned so far.
        parts: The models it is made of.
        weights: Of the regression: intercept, then one a part, or one of the declared blend.
    """

    def __init__(self, feature_set: FeatureSet, config: StackConfig, parts: Sequence[Part]) -> None:
        self.id = config.id
        self.version = config.version
        self.feature_set_hash = feature_set.hash
        self.labels = 0
        self.frauds = 0
        self.parts = tuple(parts)
        self._mix: Floats | None = None if config.weights is None else np.array(config.weights, dtype=np.float64)
        inputs = len(self.parts) if self._mix is None else 1
        size = 1 + inputs
        self.weights: Floats = np.full(size, 1.0 / inputs, dtype=np.float64)
        self.weights[0] = 0.0
        self._covariance: Floats = np.eye(size, dtype=np.float64) * config.spread
        self._keep = 1.0 if config.forget == 0 else math.exp(-1.0 / config.forget)
        self._config = config
        names = dict.fromkeys(name for part in self.parts for name in part.term_names)
        self._names = tuple(names)
        places = {name: at for at, name in enumerate(names)}
        self._places = [np.array([places[name] for name in part.term_names]) for part in self.parts]
        self._packed: bytes | None = None
        self._hash: str | None = None

    @property
    def trained(self) -> bool:
        """Whether all parts are."""
        return all(part.trained for part in self.parts)

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the parts' terms, none twice."""
        return self._names

    def score_one(self, values: Sequence[Value]) -> float | None:
        """See `Model`."""
        return self.score_many((values,))[0]

    def score_many(self, values_list: Sequence[Sequence[Value]]) -> list[float | None]:
        """See `Model`."""
        if not self.trained or not values_list:
            return [None] * len(values_list)
        return [_sigmoid(logit) for logit in self.logits(values_list).tolist()]

    def logits(self, values_list: Sequence[Sequence[Value]]) -> Floats:
        """Log odds of fraud; (payments,)."""
        total = np.full(len(values_list), self.weights[0], dtype=np.float64)
        for weight, part in zip(self._part_weights(), self.parts, strict=True):
            total += weight * _bounded(part.logits(values_list))
        return total

    def explain_many(
        self, values_list: Sequence[Sequence[Value]], top: int
    ) -> tuple[list[float | None], list[Contributions]]:
        """See `Model`."""
        return self.score_many(values_list), self.contributions_many(values_list, top)

    def contributions(self, values: Sequence[Value], top: int) -> Contributions:
        """See `Model`."""
        return self.contributions_many((values,), top)[0]

    def contributions_many(self, values_list: Sequence[Sequence[Value]], top: int) -> list[Contributions]:
        """See `Model`."""
        if not self.trained or not values_list or top <= 0:
            return [()] * len(values_list)
        return told(self._names, self.added(values_list), top)

    def added(self, values_list: Sequence[Sequence[Value]]) -> Floats:
        """What each term adds to the logit beyond what it adds on average; (payments, terms)."""
        total: Floats = np.zeros((len(values_list), len(self._names)), dtype=np.float64)
        for weight, part, places in zip(self._part_weights(), self.parts, self._places, strict=True):
            total[:, places] += weight * part.added(values_list)
        return total

    def _part_weights(self) -> list[float]:
        """Weight of each part's logit."""
        weights = self.weights[1:] if self._mix is None else self.weights[1] * self._mix
        found: list[float] = weights.tolist()
        return found

    def learn_one(self, values: Sequence[Value], fraud: bool, weight: float) -> None:
        """See `Model`.

        Raises:
            ValueError: the weight is not above 0, or beyond a million.
        """
        check_weight(weight)
        if self.trained:
            said = [float(_bounded(part.logits((values,)))[0]) for part in self.parts]
            inputs: Floats = np.array([1.0, *said] if self._mix is None else [1.0, float(self._mix @ said)])
            stack_kernel.learn(self.weights, self._covariance, inputs, 1.0 if fraud else 0.0, float(weight), self._keep)
        for part in self.parts:
            part.learn_one(values, fraud, weight)
        self.labels += 1
        self.frauds += fraud
        self._packed = self._hash = None

    def to_bytes(self) -> bytes:
        """See `Model`; layout in operators/array_artefact.py, the parts' artefacts among the arrays."""
        if self._packed is None:
            header = {
                "model_id": self.id,
                "model_version": self.version,
                "config_hash": self._config.hash,
                "feature_set_hash": self.feature_set_hash,
                "labels": self.labels,
                "frauds": self.frauds,
            }
            parts = {f"part {at}": np.frombuffer(part.to_bytes(), dtype=np.uint8) for at, part in enumerate(self.parts)}
            arrays: Arrays = {"weights": self.weights, "covariance": self._covariance, **parts}
            self._packed = pack(MAGIC, header, arrays)
        return self._packed

    def artefact_hash(self) -> str:
        """See `Model`."""
        if self._hash is None:
            self._hash = hashlib.sha256(self.to_bytes()).hexdigest()
        return self._hash

    @classmethod
    def from_bytes(
        cls, artefact: bytes, feature_set: FeatureSet, config: StackConfig, restore_part: RestorePart
    ) -> StackModel:
        """The model that `to_bytes` was called on.

        Raises:
            StateLayoutError: the bytes are of another format, cut off or altered.
            ProfileError: they were learned under another feature set or other tables of learning.toml.
        """
        header, arrays = unpack(MAGIC, artefact)
        check_origin(header, feature_set.hash, config.hash)
        parts = [restore_part(one, arrays[f"part {at}"].tobytes()) for at, one in enumerate(config.parts)]
        model = cls(feature_set, config, parts)
        for name, mine in (("weights", model.weights), ("covariance", model._covariance)):
            if arrays[name].shape != mine.shape or not np.isfinite(arrays[name]).all():
                refuse(f"array {name!r} is {arrays[name].shape} or not finite, expected {mine.shape}")
            mine[:] = arrays[name]
        model.labels, model.frauds = int(header["labels"]), int(header["frauds"])
        return model


def _bounded(logits: Floats) -> Floats:
    found: Floats = np.clip(logits, -_FURTHEST, _FURTHEST)
    return found


def _sigmoid(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-logit)) if logit > -500.0 else 0.0
