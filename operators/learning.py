"""learning.toml: when a payment counts as genuine, how many genuine ones are learned, and the model.

    tick = "1h"                  # event time at which labels take effect
    maturity = "7d"              # a payment without an outcome by then is genuine
    correction_horizon = "60d"   # a later outcome may still contradict the label for as long
    genuine_sample = 0.2         # share of genuine payments whose label is told, each with weight 1 / share
    genuine_learned = 1.0        # share of those that models learn, likewise; fraud rates count them all
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

    [evaluation]                 # optional: how the scores are judged by the labels
    windows_days = [7, 28]       # days up to the last one whose labels have matured
    cards_a_day = 100            # k of the precision at k cards a day
    amount_bands = [10, 50, 200, 1000]

operators/learner_config.py has what stands instead of [model] where learners of several kinds work side by side.
operators/loop_config.py has the tables that say who decides, who is promoted, what is explored and what is watched.
Without the file labels still mature (fraud rates need them), and there is no model.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from operators.features import FeatureSet
from operators.learner_config import Learner, parse_learner, parse_learners
from operators.lessons import Lessons
from operators.loop_config import LOOP_KEYS, LoopConfig, parse_loop
from operators.model_config import count, number, parse_ratios, sha256_of
from operators.prequential import PrequentialConfig
from operators.section import Section
from schemas.errors import ProfileError


@dataclass(frozen=True, slots=True)
class LearningConfig:
    """A parsed learning.toml; times in µs of event time.

    Attributes:
        tick_us: Labels and releases take effect at multiples of this.
        maturity_us: Age at which a payment without an outcome becomes genuine.
        correction_horizon_us: How much longer an outcome may contradict the label.
        genuine_sample: Share of genuine payments whose label is told, 0 < share <= 1; their weight is 1 / share. Which
            of those are learned: `loop.lessons`.
        model: None: payments get no score.
        hash: sha256 (hex) of the content, and of the model to start from.
        start: The model to start from, None for an untrained one.
        challengers: Models beside it.
        loop: Who decides, who is promoted, what is explored and watched.
        evaluation: How scores are judged by the labels.
    """

    tick_us: int
    maturity_us: int
    correction_horizon_us: int
    genuine_sample: float
    model: Learner | None
    hash: str
    start: bytes | None = field(default=None, repr=False)
    challengers: tuple[Learner, ...] = ()
    loop: LoopConfig = field(default_factory=LoopConfig)
    evaluation: PrequentialConfig = field(default_factory=PrequentialConfig)

    @classmethod
    def default(cls) -> LearningConfig:
        """What holds without a learning.toml."""
        hour_us = 3_600_000_000
        return cls(hour_us, 7 * 24 * hour_us, 60 * 24 * hour_us, 1.0, None, sha256_of({}))


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
    share = number(top, "genuine_sample", 1.0, 1e-4, 1.0, "the share of genuine payments to tell, from 0.0001 to 1")
    learned = number(top, "genuine_learned", 1.0, 1e-4, 1.0, "the share of genuine labels to learn, from 0.0001 to 1")
    ratios = parse_ratios(top, {feature.name: feature.kind for feature in feature_set.features})
    model = parse_learner(top.table("model"), feature_set, ratios, {}) if "model" in content else None
    start = _start(top, path) if "start" in content else None
    challengers = tuple(parse_learner(one, feature_set, ratios, {}) for one in _tables(top, "challengers"))
    if "learners" in content:
        if model is not None or challengers:
            top.refuse("learners", "given", "either [[learners]] or [model] and [[challengers]]")
        model, challengers = parse_learners(top, _tables(top, "learners"), feature_set, ratios)
    loop = parse_loop(top, feature_set, model.id if model else None, tuple(one.id for one in challengers))
    loop = replace(loop, lessons=Lessons(share, learned))
    if challengers and model is None:
        top.refuse("challengers", [one.id for one in challengers], "a [model] that they challenge")
    known = (
        "tick",
        "maturity",
        "correction_horizon",
        "genuine_sample",
        "genuine_learned",
        "start",
        "model",
        "challengers",
    )
    evaluation = _evaluation(top.table("evaluation"), maturity_us)
    top.close((*known, "ratios", "champion", "learners", "evaluation", *LOOP_KEYS))
    hashed = content if start is None else {**content, "start": hashlib.sha256(start).hexdigest()}
    return LearningConfig(
        tick_us,
        maturity_us,
        correction_horizon_us,
        share,
        model,
        sha256_of(hashed),
        start,
        challengers,
        loop,
        evaluation,
    )


def _evaluation(section: Section, maturity_us: int) -> PrequentialConfig:
    usual = PrequentialConfig(mature_after_us=maturity_us)
    windows = _rising(section, "windows_days", usual.windows, 1, 366)
    bands = _rising(section, "amount_bands", usual.amount_bands, 0.01, 1e9)
    cards = count(section, "cards_a_day", usual.cards_a_day, 1, 10_000, "a number of cards from 1 to 10000")
    section.close(("windows_days", "cards_a_day", "amount_bands"))
    if any(window != int(window) for window in windows):
        section.refuse("windows_days", list(windows), "whole days")
    return PrequentialConfig(tuple(int(window) for window in windows), maturity_us, cards, bands)


def _rising(section: Section, key: str, default: tuple[float, ...], least: float, most: float) -> tuple[float, ...]:
    value = section.take(key)
    if value is None:
        return default
    numbers = [one for one in value if isinstance(one, int | float)] if isinstance(value, list) else []
    sound = bool(numbers) and numbers == value and least <= numbers[0] and numbers[-1] <= most and len(numbers) <= 8
    if not sound or any(a >= b for a, b in pairwise(numbers)):
        section.refuse(key, value, f"up to 8 rising numbers from {least:g} to {most:g}")
    return tuple(float(one) for one in numbers)


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
