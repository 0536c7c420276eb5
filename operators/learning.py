"""learning.toml: when a payment counts as genuine, how many genuine ones are learned, and the model.

    tick = "1h"                  # event time at which labels take effect
    maturity = "7d"              # a payment without an outcome by then is genuine
    correction_horizon = "60d"   # a later outcome may still contradict the label for as long
    genuine_sample = 0.2         # share of genuine payments that are learned, each with weight 1 / share
    start = "model.bin"          # optional: the model to start from, as one wrote itself; default: an untrained one

    [model]                      # optional: without it payments get no score
    id = "cards-linear"
    version = "1"
    features = ["amount", "card.count_1h", "amount_to_mean"]     # default: all numbers, booleans and ratios
    categorical = ["hour", "channel"]                            # default: hour, weekday and all strings
    crosses = [["amount", "terminal.fraud_rate_7d"]]             # pairs learned together; default: none

    [[model.ratios]]             # more inputs, for features and crosses
    name = "amount_to_mean"
    numerator = "amount"
    denominator = "account.mean_30d"

    [[challengers]]              # optional: models that score and learn beside it, with the keys of [model]
    id = "cards-linear-2"
    version = "1"

operators/loop_config.py has the tables that say who decides, who is promoted, what is explored and what is watched.
Without the file labels still mature (fraud rates need them), and there is no model.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from operators.binning import grid_cells
from operators.feature_parse import Section, check_name
from operators.features import FeatureSet
from operators.loop_config import LOOP_KEYS, LoopConfig, parse_loop
from schemas.errors import ProfileError

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
        return _sha256(asdict(self))

    @property
    def base_logit(self) -> float:
        """Intercept of a model that has learned nothing."""
        return math.log(self.base_rate / (1.0 - self.base_rate))


@dataclass(frozen=True, slots=True)
class LearningConfig:
    """A parsed learning.toml; times in µs of event time.

    Attributes:
        tick_us: Labels and releases take effect at multiples of this.
        maturity_us: Age at which a payment without an outcome becomes genuine.
        correction_horizon_us: How much longer an outcome may contradict the label.
        genuine_sample: Share of genuine payments that are learned, 0 < share <= 1; their weight is 1 / share.
        model: None: payments get no score.
        hash: sha256 (hex) of the content, and of the model to start from.
        start: The model to start from, None for an untrained one.
        challengers: Models beside it.
        loop: Who decides, who is promoted, what is explored and watched.
    """

    tick_us: int
    maturity_us: int
    correction_horizon_us: int
    genuine_sample: float
    model: ModelConfig | None
    hash: str
    start: bytes | None = field(default=None, repr=False)
    challengers: tuple[ModelConfig, ...] = ()
    loop: LoopConfig = field(default_factory=LoopConfig)

    @classmethod
    def default(cls) -> LearningConfig:
        """What holds without a learning.toml."""
        hour_us = 3_600_000_000
        return cls(hour_us, 7 * 24 * hour_us, 60 * 24 * hour_us, 1.0, None, _sha256({}))


def load_learning(path: Path, feature_set: FeatureSet) -> LearningConfig:
    """Parse the learning.toml at `path`; `LearningConfig.default()` when there is no such file.

    Args:
        path: The file.
        feature_set: What the model's inputs must be found in.

    Raises:
        ProfileError: naming file, key, value and what was expected.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return LearningConfig.default()
    except OSError as error:
        text = f"{path}: cannot be read ({error.strerror}); expected learning.toml"
        raise ProfileError(text) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        text = f"{path}: is not TOML: {error}"
        raise ProfileError(text) from error
    top = Section(path, "", content)
    tick_us = top.us("tick", "1h")
    maturity_us = top.us("maturity", "7d")
    correction_horizon_us = top.us("correction_horizon", "60d")
    share = _number(top, "genuine_sample", 1.0, 1e-4, 1.0, "the share of genuine payments to learn, from 0.0001 to 1")
    model = _model(top.table("model"), feature_set) if "model" in content else None
    start = _start(top, path) if "start" in content else None
    challengers = tuple(_model(one, feature_set) for one in _tables(top, "challengers"))
    loop = parse_loop(top, feature_set, model.id if model else None, tuple(one.id for one in challengers))
    if challengers and model is None:
        top.refuse("challengers", [one.id for one in challengers], "a [model] that they challenge")
    top.close(("tick", "maturity", "correction_horizon", "genuine_sample", "start", "model", "challengers", *LOOP_KEYS))
    hashed = content if start is None else {**content, "start": hashlib.sha256(start).hexdigest()}
    return LearningConfig(
        tick_us, maturity_us, correction_horizon_us, share, model, _sha256(hashed), start, challengers, loop
    )


def _tables(top: Section, key: str) -> list[Section]:
    found = top.take(key)
    if found is not None and not (isinstance(found, list) and all(isinstance(one, dict) for one in found)):
        top.refuse(key, found, f"tables [[{key}]]")
    return [Section(top.file, f"{key}[{at}]", one) for at, one in enumerate(found or [])]


def _start(section: Section, path: Path) -> bytes:
    name = section.text("start", expected="the file of a model, beside learning.toml")
    try:
        return (path.parent / name).read_bytes()
    except OSError as error:
        section.refuse("start", name, f"the file of a model, beside learning.toml ({error.strerror})")


def _model(section: Section, feature_set: FeatureSet) -> ModelConfig:
    kinds = {feature.name: feature.kind for feature in feature_set.features}
    model_id = section.text("id", expected="the model's id, such as 'cards-linear'")
    version = section.text("version", expected="the model's version, such as '1'")
    ratios = _ratios(section, kinds)
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
    counts = {key: _count(section, key) for key in _COUNTS}
    numbers = {key: _number(section, key, *limits) for key, limits in _NUMBERS.items()}
    section.close((*ModelConfig.__dataclass_fields__,))
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


def _ratios(section: Section, kinds: dict[str, Any]) -> tuple[Ratio, ...]:
    ratios: list[Ratio] = []
    for one in section.tables("ratios"):
        name = one.text("name")
        if name in kinds or any(name == ratio.name for ratio in ratios):
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


def _number(section: Section, key: str, default: float, least: float, most: float, expected: str) -> float:
    value = section.take(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        section.refuse(key, value, expected)
    return float(value)


def _count(section: Section, key: str) -> int:
    default, least, most, expected = _COUNTS[key]
    value = section.take(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        section.refuse(key, value, expected)
    return int(value)


def _sha256(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()
