"""The model: gives each payment a probability of fraud, and learns from its label when that comes.

`Model` (operators/model_protocol.py) is all that deciding knows. `OnlineModel` is River's logistic regression
(operators/model_linear.py) over curves and crosses of the features (operators/model_terms.py);
docs/adr/0006-online-model.md says why. Beside it there are forests (operators/forest.py) and stacks
(operators/stack.py): docs/adr/0017-learners.md.

Its memory is bounded by what learning.toml declares, whatever the traffic: `Terms.cells` weights. What a term "adds on
average" is its mean over all labels learned, with the weights as they are now.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np

from operators.features import FeatureSet
from operators.forest import ForestModel
from operators.inflight import Value
from operators.learner_config import ForestConfig, Learner, StackConfig
from operators.learning import LearningConfig
from operators.model_config import ModelConfig
from operators.model_linear import LinearLearner
from operators.model_protocol import Contributions, Model, Part, check_weight
from operators.model_state import Header, pack, unpack
from operators.model_terms import Floats, Terms, added, logits, strongest
from operators.stack import StackModel
from schemas.errors import ProfileError

__all__ = ["Contributions", "Model", "OnlineModel", "restore_learner", "restore_model"]


class OnlineModel:
    """Logistic regression over curves and crosses; see the module and `Model`.

    Attributes:
        frauds: Fraud labels learned so far.
        weight: Sum of the weights of the labels learned so far.
    """

    def __init__(self, feature_set: FeatureSet, config: ModelConfig) -> None:
        self.id = config.id
        self.version = config.version
        self.feature_set_hash = feature_set.hash
        self.labels = 0
        self.frauds = 0
        self.weight = 0.0
        self.terms = Terms(feature_set, config)
        self._config_hash = config.hash
        self._min_labels = config.min_labels
        self._learner = LinearLearner(
            self.terms.cells, config.learning_rate, config.intercept_learning_rate, config.l2, config.base_logit
        )
        self._met: Floats = np.zeros(self.terms.cells, dtype=np.float64)
        self._means: Floats | None = None
        self._packed: bytes | None = None
        self._hash: str | None = None

    @property
    def trained(self) -> bool:
        """Whether it has met enough labels to score, and fraud among them."""
        return self.labels >= self._min_labels and self.frauds > 0

    @property
    def baseline(self) -> float:
        """Logit from which contributions are told: the intercept and what each term adds on average."""
        return float(self._learner.intercept) + math.fsum(self._average().tolist())

    def score_one(self, values: Sequence[Value]) -> float | None:
        """See `Model`."""
        return self.score_many((values,))[0]

    def score_many(self, values_list: Sequence[Sequence[Value]]) -> list[float | None]:
        """See `Model`."""
        if not self.trained or not values_list:
            return [None] * len(values_list)
        return self._scores(self.terms.rows(values_list))

    def logits(self, values_list: Sequence[Sequence[Value]]) -> Floats:
        """Log odds of fraud, trained or not; (payments,)."""
        return self._logits(self.terms.rows(values_list))

    def explain_many(
        self, values_list: Sequence[Sequence[Value]], top: int
    ) -> tuple[list[float | None], list[Contributions]]:
        """See `Model`."""
        if not self.trained or not values_list:
            return [None] * len(values_list), [()] * len(values_list)
        rows = self.terms.rows(values_list)
        return self._scores(rows), self._strongest(rows, top) if top > 0 else [()] * len(values_list)

    def _scores(self, rows: Floats) -> list[float | None]:
        probability = self._learner.probability
        return [probability(logit) for logit in self._logits(rows).tolist()]

    def _logits(self, rows: Floats) -> Floats:
        terms, learner = self.terms, self._learner
        found: Floats = logits(rows, *terms.layout, terms.touched, learner.mirror, float(learner.intercept))
        return found

    def contributions(self, values: Sequence[Value], top: int) -> Contributions:
        """See `Model`."""
        return self.contributions_many((values,), top)[0]

    def contributions_many(self, values_list: Sequence[Sequence[Value]], top: int) -> list[Contributions]:
        """See `Model`; contributions of all terms and the `baseline` sum up to the logit."""
        if not self.trained or not values_list or top <= 0:
            return [()] * len(values_list)
        return self._strongest(self.terms.rows(values_list), top)

    def _strongest(self, rows: Floats, top: int) -> list[Contributions]:
        terms = self.terms
        names = terms.names
        places, added = strongest(
            rows,
            *terms.layout,
            terms.touched,
            self._learner.mirror,
            self._average(),
            min(top, len(names)),
        )
        return [
            tuple((names[at], value) for at, value in zip(row, sizes, strict=True))
            for row, sizes in zip(places.tolist(), added.tolist(), strict=True)
        ]

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the terms."""
        return self.terms.names

    def added(self, values_list: Sequence[Sequence[Value]]) -> Floats:
        """What each term adds to the logit beyond what it adds on average; (payments, terms)."""
        terms, rows = self.terms, self.terms.rows(values_list)
        found: Floats = added(rows, *terms.layout, terms.touched, self._learner.mirror, self._average())
        return found

    def learn_one(self, values: Sequence[Value], fraud: bool, weight: float) -> None:
        """See `Model`.

        Raises:
            ValueError: the weight is not above 0, or beyond a million.
        """
        check_weight(weight)
        cells, counts = self.terms.spread(self.terms.rows((values,))[0])
        self._learner.learn_one(dict(zip(cells.tolist(), counts.tolist(), strict=True)), fraud, weight)
        self._met[cells] += weight * counts
        self.labels += 1
        self.frauds += fraud
        self.weight += weight
        self._means = self._packed = self._hash = None

    def _average(self) -> Floats:
        """What each term adds to the payments learned, on average, with the weights as they are now; (terms,)."""
        if self._means is None:
            terms = self.terms
            sums = np.bincount(terms.owner, self._learner.mirror * self._met, len(terms.names))
            self._means = np.divide(sums, self.weight or 1.0, dtype=np.float64)
        return self._means

    def to_bytes(self) -> bytes:
        """See `Model`; layout in operators/model_state.py."""
        if self._packed is None:
            learner = self._learner
            header = Header(
                model_id=self.id,
                model_version=self.version,
                config_hash=self._config_hash,
                feature_set_hash=self.feature_set_hash,
                labels=self.labels,
                frauds=self.frauds,
                weight=self.weight,
                steps=learner.optimizer.n_iterations,
                intercept=float(learner.intercept),
            )
            cells, weights, squares = learner.learned()
            self._packed = pack(header, cells, weights, squares, self._met[cells])
        return self._packed

    def artefact_hash(self) -> str:
        """See `Model`."""
        if self._hash is None:
            self._hash = hashlib.sha256(self.to_bytes()).hexdigest()
        return self._hash

    @classmethod
    def from_bytes(cls, artefact: bytes, feature_set: FeatureSet, config: ModelConfig) -> OnlineModel:
        """The model that `to_bytes` was called on.

        Raises:
            StateLayoutError: the bytes are of another format, cut off or altered.
            ProfileError: they were learned under another feature set or another [model] table.
        """
        header, cells, weights, squares, met = unpack(artefact)
        for what, learned, declared in (
            ("feature set hash", header.feature_set_hash, feature_set.hash),
            ("[model] hash", header.config_hash, config.hash),
        ):
            if learned != declared:
                message = (
                    f"model {header.model_id} {header.model_version}: its state was learned under {what} "
                    f"{learned[:12]}, the profile has {declared[:12]}; go back to that profile, or start from new state"
                )
                raise ProfileError(message)
        model = cls(feature_set, config)
        model.labels, model.frauds, model.weight = header.labels, header.frauds, header.weight
        model._learner.restore(cells, weights, squares, header.intercept, header.steps)
        model._met[cells] = met
        return model


def restore_model(feature_set: FeatureSet, learning: LearningConfig) -> Callable[[bytes | None], Model]:
    """How to make the profile's model: from its bytes; from None as learning.toml has it start.

    Raises:
        ProfileError: learning.toml declares no model, or starts from one of another profile.
        StateLayoutError: the model to start from is no model, cut off or altered.
    """
    config = learning.model
    if config is None:
        message = "learning.toml: there is no [model]; expected one where a model is asked for"
        raise ProfileError(message)

    if learning.start is not None:
        restore_learner(feature_set, config, learning.start)  # refused at the start, not at the first payment

    def restore(artefact: bytes | None) -> Model:
        return restore_learner(feature_set, config, learning.start if artefact is None else artefact)

    return restore


def restore_learner(feature_set: FeatureSet, config: Learner, artefact: bytes | None) -> Part:
    """A learner of any kind from its bytes; an untrained one from None.

    Raises:
        StateLayoutError: the bytes are of another format or kind, cut off or altered.
        ProfileError: they were learned under another feature set or another table of learning.toml.
    """
    if isinstance(config, ForestConfig):
        if artefact is None:
            return ForestModel(feature_set, config)
        return ForestModel.from_bytes(artefact, feature_set, config)
    if isinstance(config, StackConfig):

        def part(one: ModelConfig | ForestConfig, packed: bytes | None) -> Part:
            return restore_learner(feature_set, one, packed)

        if artefact is None:
            return StackModel(feature_set, config, [part(one, None) for one in config.parts])
        return StackModel.from_bytes(artefact, feature_set, config, part)
    if artefact is None:
        return OnlineModel(feature_set, config)
    return OnlineModel.from_bytes(artefact, feature_set, config)
