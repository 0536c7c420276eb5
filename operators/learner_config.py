"""Learners of several kinds in learning.toml, side by side on the same labels: linear models, forests, stacks of them.

    champion = "stack"           # who decides; all others are challengers, and score in the shadow

    [[ratios]]                   # inputs made of two features, for all learners; [[learners.ratios]] for one
    name = "amount_to_mean"
    numerator = "amount"
    denominator = "account.mean_30d"

    [[learners]]
    kind = "linear"              # the keys of [model]: operators/learning.py
    id = "linear"
    version = "1"
    alone = false                # only as a part of a stack; default: true, it scores and learns by itself as well

    [[learners]]
    kind = "forest"
    id = "forest"
    version = "1"
    features = ["amount", "amount_to_mean"]    # as in [model]; crosses are what trees find by themselves
    categorical = ["channel"]
    trees = 10
    max_leaves = 64              # of a tree: bounds size and memory
    drift_threshold = 0          # above it a tree's loss has risen for good and it is replaced; 0: never

    [[learners]]
    kind = "stack"
    id = "stack"
    version = "1"
    of = ["linear", "forest"]    # learners declared above; a stack of one is its online calibration
    weights = [0.4, 0.6]         # of their logits; only the blend is calibrated then. None: they are learned

A [model], or one of [[challengers]], may have a `kind` too; a stack needs the names of [[learners]].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from operators.features import FeatureSet
from operators.model_config import ModelConfig, Ratio, count, input_cells, number, parse_model, sha256_of
from operators.section import Section

MOST_FOREST_BYTES: Final = 256 * 1024 * 1024
"""Bound of a forest's memory while it learns. More would double the memory of a process that decides."""

_KINDS: Final = ("linear", "forest", "stack")
_INPUTS: Final = ("features", "categorical", "ratios", "cells_per_octave", "category_slots", "min_labels", "base_rate")
_NUMBERS: Final = {
    # key: (default, least, most, what is expected)
    "bagging": (1.0, 0.1, 10.0, "how often a tree meets a label, on average, from 0.1 to 10"),
    "delta": (0.01, 1e-9, 0.5, "the chance of a wrong split, from 0.000000001 to 0.5"),
    "tau": (0.01, 0.0, 1.0, "a bound below which a tie is broken, from 0 to 1"),
    "least_branch": (0.01, 0.0, 0.5, "the share of a leaf's labels on either side of a split, from 0 to 0.5"),
    "prior_weight": (20.0, 0.001, 1e6, "the weight of the parent in a leaf's estimate, from 0.001 to 1000000"),
    "features_watched": (0.5, 0.01, 1.0, "the share of the inputs that a leaf may split by, from 0.01 to 1"),
    "drift_threshold": (0.0, 0.0, 1e9, "a sum of losses, 0 or more"),
    "drift_tolerance": (0.005, 0.0, 10.0, "a rise of the mean loss that is none, from 0 to 10"),
}
_COUNTS: Final = {
    "trees": (10, 1, 200, "a whole number from 1 to 200"),
    "max_leaves": (64, 2, 4096, "a whole number from 2 to 4096"),
    "max_depth": (20, 1, 64, "a whole number from 1 to 64"),
    "grace": (50, 1, 1_000_000, "labels between two attempts to split a leaf, from 1 to 1000000"),
    "min_frauds": (10, 1, 1_000_000, "frauds a leaf has met before it may split, from 1 to 1000000"),
    "seed": (1, 0, 2**31 - 1, "a whole number from 0 to 2147483647"),
}


@dataclass(frozen=True, slots=True)
class ForestConfig:
    """An adaptive forest, all defaults filled in.

    Attributes:
        id: Name of the model, in decisions.
        version: Version given by its author, in decisions.
        inputs: Inputs and grid, as a linear model without crosses would have them.
        trees: Trees that vote.
        max_leaves: Of a tree.
        max_depth: Of a tree.
        grace: Labels of a leaf between two attempts to split it.
        min_frauds: Frauds of a leaf before it may split.
        seed: Of the forest's random numbers.
        bagging: Mean of the Poisson numbers of online bagging.
        delta: Of Hoeffding's bound.
        tau: Below it the bound breaks a tie.
        least_branch: Share of a leaf's labels on either side of a split.
        prior_weight: What a leaf's parent weighs in its estimate, in label weight.
        features_watched: Share of the inputs that a leaf may split by.
        drift_threshold: Of the Page-Hinkley test of each tree, 0: none.
        drift_tolerance: Of the same.
    """

    id: str
    version: str
    inputs: ModelConfig
    trees: int
    max_leaves: int
    max_depth: int
    grace: int
    min_frauds: int
    seed: int
    bagging: float
    delta: float
    tau: float
    least_branch: float
    prior_weight: float
    features_watched: float
    drift_threshold: float
    drift_tolerance: float

    @property
    def hash(self) -> str:
        """sha256 (hex) of the content, defaults included."""
        return sha256_of(asdict(self))

    @property
    def rows(self) -> int:
        """Trees in memory: those that vote, and as many in the background where drift may replace them."""
        return self.trees * 2 if self.drift_threshold > 0 else self.trees


@dataclass(frozen=True, slots=True)
class StackConfig:
    """A logistic regression over the logits of other learners, which are its own and learn with it.

    Attributes:
        id: Name of the model, in decisions.
        version: Version given by its author, in decisions.
        parts: The learners, in the order declared.
        forget: Labels after which what was learned weighs 1/e; 0: nothing is forgotten.
        spread: Variance believed of each weight before the first label.
        weights: Of the parts, adding up to 1, if they are given; what is learned then is the blend's calibration.
    """

    id: str
    version: str
    parts: tuple[ModelConfig | ForestConfig, ...]
    forget: int
    spread: float
    weights: tuple[float, ...] | None = None

    @property
    def hash(self) -> str:
        """sha256 (hex) of the content, that of the parts included."""
        return sha256_of(asdict(self))


Learner = ModelConfig | ForestConfig | StackConfig


def parse_learner(
    section: Section, feature_set: FeatureSet, ratios: tuple[Ratio, ...], declared: Mapping[str, Learner]
) -> Learner:
    """One learner's table.

    Args:
        section: The table.
        feature_set: What inputs must be found in.
        ratios: Those of all learners.
        declared: Learners declared above it, by id; what a stack may be made of.

    Raises:
        ProfileError: naming file, key, value and what was expected.
    """
    kind = section.text("kind", "linear", f"one of {', '.join(_KINDS)}")
    if kind not in _KINDS:
        section.refuse("kind", kind, f"one of {', '.join(_KINDS)}")
    if kind == "forest":
        return _forest(section, feature_set, ratios)
    if kind == "stack":
        return _stack(section, declared)
    return parse_model(section, feature_set, ratios)


def parse_learners(
    top: Section, tables: list[Section], feature_set: FeatureSet, ratios: tuple[Ratio, ...]
) -> tuple[Learner, tuple[Learner, ...]]:
    """The tables [[learners]]: who decides, and the challengers.

    Raises:
        ProfileError: naming file, key, value and what was expected.
    """
    declared: dict[str, Learner] = {}
    parts_only: set[str] = set()
    for one in tables:
        alone = one.truth("alone") if "alone" in one.keys() else True  # noqa: SIM118  # a Section, not a dict
        learner = parse_learner(one, feature_set, ratios, declared)
        if learner.id in declared:
            one.refuse("id", learner.id, "an id that no learner above has")
        declared[learner.id] = learner
        if not alone:
            parts_only.add(learner.id)
    champion = top.text("champion", expected="the id of the learner that decides")
    if champion not in declared or champion in parts_only:
        top.refuse("champion", champion, f"one of {', '.join(name for name in declared if name not in parts_only)}")
    used = {part.id for one in declared.values() if isinstance(one, StackConfig) for part in one.parts}
    for name in sorted(parts_only - used):
        top.refuse("learners", name, "a stack that is made of it, since it is not to work alone")
    others = tuple(one for name, one in declared.items() if name != champion and name not in parts_only)
    return declared[champion], others


def _forest(section: Section, feature_set: FeatureSet, ratios: tuple[Ratio, ...]) -> ForestConfig:
    numbers = {key: number(section, key, *limits) for key, limits in _NUMBERS.items()}
    counts = {key: count(section, key, *limits) for key, limits in _COUNTS.items()}
    given = section.keys()
    for key in given:
        if key not in ("id", "version", *_INPUTS):
            known = ("kind", "alone", "id", "version", *_INPUTS, *_COUNTS, *_NUMBERS)
            section.refuse(key, section.take(key), f"no such key; known here: {', '.join(known)}")
    inputs = parse_model(section, feature_set, ratios)
    config = ForestConfig(
        id=inputs.id,
        version=inputs.version,
        inputs=inputs,
        trees=counts["trees"],
        max_leaves=counts["max_leaves"],
        max_depth=counts["max_depth"],
        grace=counts["grace"],
        min_frauds=counts["min_frauds"],
        seed=counts["seed"],
        bagging=numbers["bagging"],
        delta=numbers["delta"],
        tau=numbers["tau"],
        least_branch=numbers["least_branch"],
        prior_weight=numbers["prior_weight"],
        features_watched=numbers["features_watched"],
        drift_threshold=numbers["drift_threshold"],
        drift_tolerance=numbers["drift_tolerance"],
    )
    kinds: dict[str, Any] = {feature.name: feature.kind for feature in feature_set.features}
    cells = sum(input_cells(inputs, kinds, name, cross=False) for name in (*inputs.features, *inputs.categorical))
    size = config.rows * config.max_leaves * cells * 8
    if size > MOST_FOREST_BYTES:
        section.refuse(
            "max_leaves",
            config.max_leaves,
            f"at most {MOST_FOREST_BYTES >> 20} MiB in all; {config.rows} trees over {cells} cells take {size >> 20}",
        )
    return config


def _stack(section: Section, declared: Mapping[str, Learner]) -> StackConfig:
    stack_id = section.text("id", expected="the model's id, such as 'cards-stack'")
    version = section.text("version", expected="the model's version, such as '1'")
    parts: list[ModelConfig | ForestConfig] = []
    for name in section.texts("of", None, "ids of learners declared above it"):
        part = declared.get(name)
        if part is None or isinstance(part, StackConfig):
            section.refuse("of", name, "the id of a linear model or a forest declared above it in [[learners]]")
        parts.append(part)
    if not parts:
        section.refuse("of", [], "at least one id of a learner declared above it in [[learners]]")
    forget = count(
        section, "forget", 100_000, 0, 1_000_000_000, "labels after which what was learned weighs 1/e; 0: never"
    )
    spread = number(section, "spread", 0.1, 1e-6, 100.0, "a variance from 0.000001 to 100")
    weights = _weights(section, len(parts))
    section.close(("kind", "alone", "id", "version", "of", "forget", "spread", "weights"))
    return StackConfig(stack_id, version, tuple(parts), forget, spread, weights)


def _weights(section: Section, parts: int) -> tuple[float, ...] | None:
    given = section.take("weights")
    if given is None:
        return None
    numbers = isinstance(given, list) and all(type(one) in (int, float) and 0 <= one <= 1 for one in given)
    if not numbers or len(given) != parts or not math.isclose(sum(given), 1.0, abs_tol=1e-6):
        section.refuse("weights", given, f"{parts} numbers from 0 to 1 that add up to 1, one a learner in `of`")
    return tuple(map(float, given))
