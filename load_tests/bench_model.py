"""What a score, an explanation and a label cost in each learner of a profile: µs each, its artefact and its memory.

    python -m load_tests.bench_model [PROFILE ...]        default: deploy/profiles/handbook and deploy/profiles/cards

Values are random (log-normal numbers, a tenth absent, one payment in twenty fraud), so the figures are about cost only.
The best of five rounds over 2,000 payments, on one thread; "in batches" are the 32 that decide scores at once.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from operators.features import FeatureSet, load_feature_set
from operators.inflight import Value
from operators.learner_config import Learner, StackConfig
from operators.learning import load_learning
from operators.model import restore_learner

_PAYMENTS = 2_000
_BATCH = 32
_ROUNDS = 5
_TOP = 5
_DEFAULTS = ("deploy/profiles/handbook", "deploy/profiles/cards")


def random_values(feature_set: FeatureSet, rng: random.Random) -> list[Value]:
    """Values of one payment that nobody made."""
    values = feature_set.new_values()
    for slot, feature in enumerate(feature_set.features):
        if rng.random() < 0.1:
            continue
        if feature.kind == "number":
            values[slot] = rng.lognormvariate(2.0, 2.0)
        elif feature.kind == "boolean":
            values[slot] = rng.random() < 0.5
        else:
            values[slot] = f"{feature.name}-{rng.randrange(20)}"
    return values


def best_us(work: Callable[[], object]) -> float:
    """µs a payment, best of the rounds."""
    best = float("inf")
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best / _PAYMENTS * 1e6


def measure(feature_set: FeatureSet, config: Learner) -> list[str]:
    """One row of the table."""
    rng = random.Random(7)
    payments = [random_values(feature_set, rng) for _ in range(_PAYMENTS)]
    batches: list[Sequence[list[Value]]] = [payments[at : at + _BATCH] for at in range(0, _PAYMENTS, _BATCH)]
    model = restore_learner(feature_set, config, None)

    def learn() -> None:
        for at, values in enumerate(payments):
            model.learn_one(values, at % 20 == 0, 1.0)

    learn()
    figures = [
        best_us(lambda: [model.score_many(batch) for batch in batches]),
        best_us(lambda: [model.explain_many(batch, _TOP) for batch in batches]),
        best_us(lambda: [model.score_one(values) for values in payments]),
        best_us(learn),
    ]
    start = time.perf_counter()
    artefact = model.to_bytes()
    written_ms = (time.perf_counter() - start) * 1e3
    start = time.perf_counter()
    restore_learner(feature_set, config, artefact)
    read_ms = (time.perf_counter() - start) * 1e3
    return [*(f"{figure:.1f}" for figure in figures), f"{len(artefact):,}", f"{written_ms:.1f}", f"{read_ms:.1f}"]


def learners(model: Learner | None, challengers: Sequence[Learner]) -> list[Learner]:
    """Those that are declared, the parts of stacks before them, none twice."""
    found: dict[str, Learner] = {}
    for one in (*challengers, *(() if model is None else (model,))):
        if isinstance(one, StackConfig):
            found.update({part.id: part for part in one.parts})
        found[one.id] = one
    return list(found.values())


def main() -> None:
    """Measure the profiles given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profiles", nargs="*", default=_DEFAULTS)
    for name in parser.parse_args().profiles:
        profile = Path(name)
        feature_set = load_feature_set(profile / "features.toml")
        learning = load_learning(profile / "learning.toml", feature_set)
        table = Table(title=f"{profile}: µs each, bytes, ms")
        columns = ("score, in batches", "with reasons", "score alone", "label", "artefact", "written ms", "read ms")
        table.add_column("learner")
        for column in columns:
            table.add_column(column, justify="right")
        for config in learners(learning.model, learning.challengers):
            table.add_row(config.id, *measure(feature_set, config))
        Console(width=120).print(table)


if __name__ == "__main__":
    main()
