"""The [model] table of learning.toml and its like: inputs, ratios, crosses, and what else a linear model needs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from operators.binning import grid_cells
from operators.features import FeatureSet
from operators.section import Section, check_name

MOST_CELLS: Final = 2_000_000
"""Bound of a model's weights, and so of its memory: 32 MB in arrays, and at worst, with every cell met, some 300 MB in
River's dictionaries. Larger invites crosses of categories that are never learned."""

_CYCLIC: Final = ("hour", "weekday")
"""Numbers that are names in truth: 23 is next to 0."""
_NUMBERS: Final = {
    # key: (default, least, most, what is expected)
    "learning_rate": (0.3, 1e-6, 10.0, "a step of AdaGrad from 0.000001 to 10"),
    "intercept_learning_rate": (0.02, 0.0, 1.0, "a step from 0 (fixed) to 1"),
    "l2": (0.0, 0.0, 1.0, "a penalty from 0 to 1"),
    "base_rate": (0.01, 1e-6, 0.5, "the share of fraud believed before the first label, from 0.000001 to 0.5"),
}
_COUNTS: Final = {
    "cells_per_octave": (2, 1, 16, "a whole number from 1 to 16"),
    "cross_cells_per_octave": (1, 1, 8, "a whole number from 1 to 8"),
    "category_slots": (256, 2, 65_536, "a whole number from 2 to 65536"),
    "min_labels": (1_000, 1, 10_000_000, "a whole number from 1 to 10000000"),
}


@dataclass(frozen=True, slots=True)
class Ratio:
    """An input made of two numbers; absent when either is, or when the denominator is 0."""

    name: str
    numerator: str
    denominator: str


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The model, all defaults filled in.

    Attributes:
        id: Name of the model, in decisions.
        version: Version given by its author, in decisions.
        features: Inputs with a curve of their own: numbers, booleans, ratios.
        categorical: Inputs with one weight a value: strings, and numbers whose size means nothing.
        crosses: Pairs of inputs with a surface of their own, named "a*b".
        ratios: Inputs made of two others.
        cells_per_octave: Grid points of a curve from one power of two to the next.
        cross_cells_per_octave: The same for surfaces.
        category_slots: Weights of a categorical input; values are hashed into them.
        learning_rate: Step of AdaGrad.
        intercept_learning_rate: Step of the intercept.
        l2: Penalty on the weights that a label touches.
        min_labels: No score before this many labels, and none before the first fraud.
        base_rate: Share of fraud that the intercept starts from.
    """

    id: str
    version: str
    features: tuple[str, ...]
    categorical: tuple[str, ...]
    crosses: tuple[tuple[str, str], ...]
    ratios: tuple[Ratio, ...]
    cells_per_octave: int
    cross_cells_per_octave: int
    category_slots: int
    learning_rate: float
    intercept_learning_rate: float
    l2: float
    min_labels: int
    base_rate: float

    @property
    def hash(self) -> str:
        """sha256 (hex) of the content, defaults included: a model goes on learning under the very same one only."""
        return sha256_of(asdict(self))

    @property
    def base_logit(self) -> float:
        """Intercept of a model that has learned nothing."""
        return math.log(self.base_rate / (1.0 - self.base_rate))


def parse_model(
    section: Section, feature_set: FeatureSet, shared: tuple[Ratio, ...] = (), closing: tuple[str, ...] | None = None
) -> ModelConfig:
    """Parse a linear model, or the inputs of another learner.

    Args:
        section: The table; keys of another learner are taken out before.
        feature_set: What the inputs must be found in.
        shared: Ratios declared for all learners.
        closing: Keys known here, told when another one stands there; default: those of a linear model, `kind` and all.

    Raises:
        ProfileError: naming file, key, value and what was expected.
    """
    kinds = {feature.name: feature.kind for feature in feature_set.features}
    model_id = section.text("id", expected="the model's id, such as 'cards-linear'")
    version = section.text("version", expected="the model's version, such as '1'")
    ratios = (*shared, *parse_ratios(section, kinds, shared))
    strings = tuple(name for name, kind in kinds.items() if kind == "string")
    given = section.keys()
    categorical = section.texts("categorical", None, "names of features")
    if "categorical" not in given:
        categorical = (*_CYCLIC, *strings)
    for name in categorical:
        if kinds.get(name) not in ("string", "number"):
            section.refuse("categorical", name, "a string or number out of the feature set")
    usable = [name for name in kinds if name not in strings and name not in categorical]
    usable += [ratio.name for ratio in ratios]
    features = section.texts("features", None, "names of features")
    if "features" not in given:
        features = tuple(usable)
    for name in features:
        if name not in usable:
            section.refuse("features", name, "a number, boolean or ratio that is not categorical")
    crosses = _crosses(section, {*usable, *categorical, *strings})
    counts = {key: count(section, key, *limits) for key, limits in _COUNTS.items()}
    numbers = {key: number(section, key, *limits) for key, limits in _NUMBERS.items()}
    section.close(closing or (*ModelConfig.__dataclass_fields__, "kind"))
    if not features and not categorical and not crosses:
        section.refuse("features", list(features), "at least one input: a feature, a category or a cross")
    config = ModelConfig(
        id=model_id,
        version=version,
        features=features,
        categorical=categorical,
        crosses=crosses,
        ratios=ratios,
        cells_per_octave=counts["cells_per_octave"],
        cross_cells_per_octave=counts["cross_cells_per_octave"],
        category_slots=counts["category_slots"],
        learning_rate=numbers["learning_rate"],
        intercept_learning_rate=numbers["intercept_learning_rate"],
        l2=numbers["l2"],
        min_labels=counts["min_labels"],
        base_rate=numbers["base_rate"],
    )
    cells = sum(input_cells(config, kinds, name, cross=False) for name in (*features, *categorical))
    cells += sum(
        input_cells(config, kinds, a, cross=True) * input_cells(config, kinds, b, cross=True) for a, b in crosses
    )
    if cells > MOST_CELLS:
        section.refuse("crosses", len(crosses), f"at most {MOST_CELLS} weights; these inputs have {cells}")
    return config


def is_categorical(config: ModelConfig, kinds: dict[str, Any], name: str) -> bool:
    """Whether an input is seen through slots: strings always are."""
    return name in config.categorical or kinds.get(name) == "string"


def input_cells(config: ModelConfig, kinds: dict[str, Any], name: str, *, cross: bool) -> int:
    """Weights that an input takes, the one of its absence included.

    Args:
        config: The model.
        kinds: Kind of each feature of the feature set.
        name: Feature or ratio.
        cross: As one side of a cross, which has a coarser grid.
    """
    if is_categorical(config, kinds, name):
        return 1 + config.category_slots
    if kinds.get(name) == "boolean":
        return 3
    return grid_cells(config.cross_cells_per_octave if cross else config.cells_per_octave)


def parse_ratios(section: Section, kinds: Mapping[str, Any], shared: tuple[Ratio, ...] = ()) -> tuple[Ratio, ...]:
    """The tables [[ratios]] of a section, beside those of all learners."""
    ratios: list[Ratio] = []
    taken = {ratio.name for ratio in shared}
    for one in section.tables("ratios"):
        name = one.text("name")
        if name in kinds or name in taken or any(name == ratio.name for ratio in ratios):
            one.refuse("name", name, "a name that no feature and no other ratio has")
        ratio = Ratio(check_name(one, "name", name), one.text("numerator"), one.text("denominator"))
        for key in ("numerator", "denominator"):
            operand = getattr(ratio, key)
            if kinds.get(operand) != "number":
                one.refuse(key, operand, "a number out of the feature set")
        one.close(("name", "numerator", "denominator"))
        ratios.append(ratio)
    return tuple(ratios)


def _crosses(section: Section, known: set[str]) -> tuple[tuple[str, str], ...]:
    value = section.take("crosses")
    crosses: list[tuple[str, str]] = []
    for pair in [] if value is None else value if isinstance(value, list) else [value]:
        if not isinstance(pair, list) or len(pair) != 2 or pair[0] == pair[1]:
            section.refuse("crosses", pair, "pairs of two different inputs")
        for name in pair:
            if not isinstance(name, str) or name not in known:
                section.refuse("crosses", name, "a feature out of the feature set, or a ratio")
        if (pair[0], pair[1]) in crosses or (pair[1], pair[0]) in crosses:
            section.refuse("crosses", pair, "different pairs, none twice")
        crosses.append((pair[0], pair[1]))
    return tuple(crosses)


def number(section: Section, key: str, default: float, least: float, most: float, expected: str) -> float:
    """A number from `least` to `most`."""
    value = section.take(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        section.refuse(key, value, expected)
    return float(value)


def count(section: Section, key: str, default: int, least: int, most: int, expected: str) -> int:
    """A whole number from `least` to `most`."""
    value = section.take(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        section.refuse(key, value, expected)
    return int(value)


def sha256_of(content: dict[str, Any]) -> str:
    """sha256 (hex) of plain content, whatever the order of its keys."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()
