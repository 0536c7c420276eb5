"""What a score, an explanation and a label cost in the model of a profile: µs each, and the bytes of its artefact.

    python -m load_tests.bench_model [PROFILE ...]        default: deploy/profiles/handbook and deploy/profiles/cards

Values are random (log-normal numbers, a tenth absent, one payment in twenty fraud), so the figures are about cost only.
The best of five rounds over 2,000 payments, on one thread.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path

from operators.features import FeatureSet, load_feature_set
from operators.inflight import Value
from operators.learning import load_learning
from operators.model import OnlineModel

_PAYMENTS = 2_000
_ROUNDS = 5
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


def bench(profile: Path) -> None:
    """Measure one profile and print it."""
    feature_set = load_feature_set(profile / "features.toml")
    config = load_learning(profile / "learning.toml", feature_set).model
    if config is None:
        print(f"{profile}: no model")
        return
    rng = random.Random(7)
    payments = [random_values(feature_set, rng) for _ in range(_PAYMENTS)]
    labels = [at % 20 == 0 for at in range(_PAYMENTS)]
    model = OnlineModel(feature_set, config)
    for values, fraud in zip(payments, labels, strict=True):
        model.learn_one(values, fraud, 1.0)

    def learn() -> None:
        for values, fraud in zip(payments, labels, strict=True):
            model.learn_one(values, fraud, 1.0)

    print(
        f"{profile}: {len(model.terms.names)} terms, {model.terms.cells} cells, {model.terms.touched} touched at most"
    )
    print(f"  score_many          {best_us(lambda: model.score_many(payments)):8.2f} µs")
    print(f"  score_one           {best_us(lambda: [model.score_one(values) for values in payments]):8.2f} µs")
    print(f"  contributions_many  {best_us(lambda: model.contributions_many(payments, 5)):8.2f} µs")
    print(f"  contributions       {best_us(lambda: [model.contributions(values, 5) for values in payments]):8.2f} µs")
    print(f"  learn_one           {best_us(learn):8.2f} µs")
    start = time.perf_counter()
    artefact = model.to_bytes()
    written_ms = (time.perf_counter() - start) * 1e3
    start = time.perf_counter()
    OnlineModel.from_bytes(artefact, feature_set, config)
    print(f"  artefact            {len(artefact):8d} bytes, written in {written_ms:.1f} ms, ", end="")
    print(f"read in {(time.perf_counter() - start) * 1e3:.1f} ms")


def main() -> None:
    """Measure the profiles given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profiles", nargs="*", default=_DEFAULTS)
    for profile in parser.parse_args().profiles:
        bench(Path(profile))


if __name__ == "__main__":
    main()
