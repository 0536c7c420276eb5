"""An adaptive forest: Hoeffding trees over the grid of operators/binning.py, learned online, told in a few arrays.

What River's ARFClassifier does (bagging by Poisson numbers, random inputs a leaf, splits by Hoeffding's bound, trees
replaced when their loss rises), in machine code and with bounded memory: 5 µs a label instead of 440, 1 µs a score
instead of 70, and an artefact of plain numbers (docs/adr/0017-learners.md). A leaf counts how often it met each cell of
the inputs it watches, so its splits lie on the grid, absent values are a cell like others, and nothing is fitted to
a bell curve.

A score is the mean of the trees' probabilities. What an input contributes is what the steps through the trees at its
splits add to that mean, in logits along the line from the roots' mean to the score: contributions and the baseline sum
up to the logit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from operators import forest_kernel as kernel
from operators.array_artefact import Arrays, pack, refuse, unpack
from operators.features import FeatureSet
from operators.inflight import Value
from operators.learner_config import ForestConfig
from operators.model_config import input_cells
from operators.model_protocol import Contributions, check_weight, told
from operators.model_terms import Floats, Terms
from schemas.errors import ProfileError

MAGIC: Final = b"WFM\x01"
_SEED_STEP: Final = 0xD1342543DE82EF95
"""Odd: seeds and trees give different starting points of the generators."""
_BELOW_2_64: Final = (1 << 64) - 1


# Machine code, typed by its signature; called with a dozen arrays that only numba tells apart.
_plant: Final[Any] = kernel.plant
_learn: Final[Any] = kernel.learn


class ForestModel:
    """An adaptive forest; see the module and `Model`.

    Attributes:
        frauds: Fraud labels learned so far.
        weight: Sum of the weights of the labels learned so far.
        replaced: Trees replaced so far because their loss had risen.
    """

    def __init__(self, feature_set: FeatureSet, config: ForestConfig) -> None:
        self.id = config.id
        self.version = config.version
        self.feature_set_hash = feature_set.hash
        self.labels = 0
        self.frauds = 0
        self.weight = 0.0
        self.replaced = 0
        self._config = config
        self._terms = terms = Terms(feature_set, config.inputs)
        kinds: dict[str, Any] = {feature.name: feature.kind for feature in feature_set.features}
        inputs = len(terms.names)
        self._widths = np.array(
            [input_cells(config.inputs, kinds, name, cross=False) for name in terms.names], dtype=np.int32
        )
        rows, leaves = config.rows, config.max_leaves
        self._nodes = np.zeros((rows, 2 * leaves - 1, 4), dtype=np.int32)
        self._sums: Floats = np.zeros((rows, 2 * leaves - 1, 5), dtype=np.float64)
        self._hists = np.zeros((rows, leaves, terms.cells, 2), dtype=np.float32)
        self._watched = np.zeros((rows, leaves, inputs), dtype=np.uint8)
        self._sizes = np.zeros((rows, 3), dtype=np.int32)
        self._drift: Floats = np.zeros((rows, 4), dtype=np.float64)
        self._random = np.array(
            [(config.seed * 1_000_003 + row + 1) * _SEED_STEP & _BELOW_2_64 for row in range(rows)], dtype=np.uint64
        )
        self._parameters = _parameters(config)
        for tree in range(config.trees):
            _plant(tree, config.inputs.base_rate, *self._state, config.features_watched)
        self._packed: bytes | None = None
        self._hash: str | None = None

    @property
    def _state(self) -> tuple[Any, ...]:
        return (self._nodes, self._sums, self._hists, self._watched, self._sizes, self._drift, self._random)

    @property
    def trained(self) -> bool:
        """Whether it has met enough labels to score, and fraud among them."""
        return self.labels >= self._config.inputs.min_labels and self.frauds > 0

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return self._terms.names

    @property
    def leaves(self) -> int:
        """Leaves of all trees that vote."""
        return int(self._sizes[: self._config.trees, 1].sum())

    @property
    def baseline(self) -> float:
        """Logit from which contributions are told: the mean of the roots' probabilities."""
        prior = self._config.prior_weight
        sums = self._sums[: self._config.trees, 0]
        p = (sums[:, 1] + prior * sums[:, 2]) / (sums[:, 0] + sums[:, 1] + prior)
        return _logit(float(np.mean(np.clip(p, 1e-6, 1.0 - 1e-6))))

    def score_one(self, values: Sequence[Value]) -> float | None:
        """See `Model`."""
        return self.score_many((values,))[0]

    def score_many(self, values_list: Sequence[Sequence[Value]]) -> list[float | None]:
        """See `Model`."""
        if not self.trained or not values_list:
            return [None] * len(values_list)
        scores: list[float | None] = self._probabilities(self._terms.rows(values_list)).tolist()
        return scores

    def logits(self, values_list: Sequence[Sequence[Value]]) -> Floats:
        """Log odds of fraud, trained or not; (payments,)."""
        found = self._probabilities(self._terms.rows(values_list))
        return np.array([_logit(p) for p in found.tolist()], dtype=np.float64)

    def _probabilities(self, rows: Floats) -> Floats:
        found: Floats = kernel.probabilities(rows, *self._terms.layout, self._config.trees, self._nodes, self._sums)
        return found

    def explain_many(
        self, values_list: Sequence[Sequence[Value]], top: int
    ) -> tuple[list[float | None], list[Contributions]]:
        """See `Model`."""
        return self.score_many(values_list), self.contributions_many(values_list, top)

    def contributions(self, values: Sequence[Value], top: int) -> Contributions:
        """See `Model`."""
        return self.contributions_many((values,), top)[0]

    def contributions_many(self, values_list: Sequence[Sequence[Value]], top: int) -> list[Contributions]:
        """See `Model`; contributions of all inputs and the `baseline` sum up to the logit."""
        if not self.trained or not values_list or top <= 0:
            return [()] * len(values_list)
        return told(self.term_names, self.added(values_list), top)

    def added(self, values_list: Sequence[Sequence[Value]]) -> Floats:
        """What each input adds to the logit beyond the baseline; (payments, inputs)."""
        steps = kernel.steps(
            self._terms.rows(values_list),
            *self._terms.layout,
            self._config.trees,
            self._nodes,
            self._sums,
            self._config.prior_weight,
        )
        added, start = steps[:, :-1], steps[:, -1]
        reached = start + added.sum(axis=1)
        slopes = np.array([_slope(a, b) for a, b in zip(start.tolist(), reached.tolist(), strict=True)])
        scaled: Floats = added * slopes[:, None]
        return scaled

    def learn_one(self, values: Sequence[Value], fraud: bool, weight: float) -> None:
        """See `Model`.

        Raises:
            ValueError: the weight is not above 0, or beyond a million.
        """
        check_weight(weight)
        row = self._terms.rows((values,))[0]
        self.replaced += int(
            _learn(
                row, *self._terms.layout, self._widths, 1 if fraud else 0, float(weight), *self._state, self._parameters
            )
        )
        self.labels += 1
        self.frauds += fraud
        self.weight += weight
        self._packed = self._hash = None

    def to_bytes(self) -> bytes:
        """See `Model`; layout in operators/array_artefact.py. Of the histograms only the counts that are not 0."""
        if self._packed is None:
            header = {
                "model_id": self.id,
                "model_version": self.version,
                "config_hash": self._config.hash,
                "feature_set_hash": self.feature_set_hash,
                "labels": self.labels,
                "frauds": self.frauds,
                "weight": self.weight.hex(),
                "replaced": self.replaced,
            }
            met, counts = self._met()
            arrays: Arrays = {
                "nodes": self._nodes,
                "sums": self._sums,
                "watched": self._watched,
                "sizes": self._sizes,
                "drift": self._drift,
                "random": self._random,
                "met": met,
                "counts": counts,
            }
            self._packed = pack(MAGIC, header, arrays)
        return self._packed

    def _met(self) -> tuple[Any, Any]:
        """Places in the flat histograms that are not 0, and what stands there; of trees that are alive."""
        places, counts = [], []
        width = self._hists[0, 0].size
        for tree in np.flatnonzero(self._sizes[:, 2]).tolist():
            used = self._hists[tree, : self._sizes[tree, 1]].reshape(-1)
            met = np.flatnonzero(used)
            places.append((met + tree * self._hists.shape[1] * width).astype(np.uint32))
            counts.append(used[met])
        return np.concatenate(places), np.concatenate(counts)

    def artefact_hash(self) -> str:
        """See `Model`."""
        if self._hash is None:
            self._hash = hashlib.sha256(self.to_bytes()).hexdigest()
        return self._hash

    @classmethod
    def from_bytes(cls, artefact: bytes, feature_set: FeatureSet, config: ForestConfig) -> ForestModel:
        """The model that `to_bytes` was called on.

        Raises:
            StateLayoutError: the bytes are of another format, cut off or altered.
            ProfileError: they were learned under another feature set or another table of learning.toml.
        """
        header, arrays = unpack(MAGIC, artefact)
        check_origin(header, feature_set.hash, config.hash)
        model = cls(feature_set, config)
        for name in ("nodes", "sums", "watched", "sizes", "drift", "random"):
            mine = getattr(model, f"_{name}")
            if arrays[name].shape != mine.shape or arrays[name].dtype != mine.dtype:
                refuse(f"array {name!r} is {arrays[name].shape}, expected {mine.shape}")
            mine[:] = arrays[name]
        met, counts = arrays["met"], arrays["counts"]
        flat = model._hists.reshape(-1)
        if len(met) != len(counts) or (len(met) and int(met.max()) >= len(flat)):
            refuse("counts of cells that the forest has not")
        flat[:] = 0
        flat[met] = counts
        model._check_trees()
        model.labels, model.frauds = int(header["labels"]), int(header["frauds"])
        model.weight, model.replaced = float.fromhex(header["weight"]), int(header["replaced"])
        return model

    def _check_trees(self) -> None:
        """Refuse trees that a walk would leave: the kernel does not look where it steps."""
        inputs = len(self.term_names)
        for tree in range(len(self._nodes)):
            used, histograms, alive = self._sizes[tree].tolist()
            if alive not in (0, 1) or (tree < self._config.trees and not alive):
                refuse(f"tree {tree} is neither alive nor dead")
            if not alive:
                continue
            if not (0 < used <= self._nodes.shape[1] and 0 < histograms <= self._hists.shape[1]):
                refuse(f"tree {tree} has {used} nodes and {histograms} histograms")
            nodes = self._nodes[tree, :used]
            leaf = nodes[:, 0] == kernel.LEAF
            inner = nodes[~leaf]
            sound = (
                (inner[:, 0] >= 0).all()
                and (inner[:, 0] < inputs).all()
                and (inner[:, 2] > np.flatnonzero(~leaf)).all()
                and (inner[:, 2] + 1 < used).all()
                and (nodes[leaf, 3] >= 0).all()
                and (nodes[leaf, 3] < histograms).all()
                and np.isfinite(self._sums[tree, :used]).all()
            )
            if not sound:
                refuse(f"tree {tree} has a node that leads nowhere")


def check_origin(header: dict[str, Any], feature_set_hash: str, config_hash: str) -> None:
    """Refuse an artefact that was learned under another profile.

    Raises:
        ProfileError: see there.
    """
    for what, learned, declared in (
        ("feature set hash", header["feature_set_hash"], feature_set_hash),
        ("settings hash", header["config_hash"], config_hash),
    ):
        if learned != declared:
            message = (
                f"model {header['model_id']} {header['model_version']}: its state was learned under {what} "
                f"{learned[:12]}, the profile has {declared[:12]}; go back to that profile, or start from new state"
            )
            raise ProfileError(message)


def _parameters(config: ForestConfig) -> Floats:
    found: Floats = np.zeros(kernel.PARAMETERS, dtype=np.float64)
    found[kernel.BAGGING] = config.bagging
    found[kernel.GRACE] = config.grace
    found[kernel.DELTA] = config.delta
    found[kernel.TAU] = config.tau
    found[kernel.LEAST_BRANCH] = config.least_branch
    found[kernel.PRIOR] = config.prior_weight
    found[kernel.DRIFT] = config.drift_threshold
    found[kernel.TOLERANCE] = config.drift_tolerance
    found[kernel.WATCHED] = config.features_watched
    found[kernel.DEPTH] = config.max_depth
    found[kernel.FRAUDS] = config.min_frauds
    return found


def _logit(p: float) -> float:
    return math.log(p / (1.0 - p))


def _slope(start: float, reached: float) -> float:
    """Logits a unit of probability between two probabilities; the derivative where they meet."""
    if abs(reached - start) < 1e-12:
        return 1.0 / (start * (1.0 - start))
    return (_logit(reached) - _logit(start)) / (reached - start)
