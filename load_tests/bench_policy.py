"""What rules cost a payment in a profile's policy: µs to evaluate, to name absent features, to decide.

    python -m load_tests.bench_policy [PROFILE ...]        default: deploy/profiles/cards

Two payments that no rule stops, so that every rule is looked at: a web purchase, which has every entity, and a payment
at a till, which has no device, address or payee. CPU time, the best of nine rounds of 10,000 calls, on one thread.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

from operators.features import FeatureSet, load_feature_set
from operators.inflight import Value
from operators.policy import load_policy

_CALLS = 10_000
_ROUNDS = 9
_AT_A_TILL = ("device", "ip", "payee", "account_payee", "account_device")


def quiet_values(feature_set: FeatureSet, without: tuple[str, ...]) -> tuple[list[Value], list[bytes | None]]:
    """Values and entity keys of an ordinary payment that lacks the entities `without`."""
    values = feature_set.new_values()
    for slot, feature in enumerate(feature_set.features):
        if feature.entity in without:
            continue
        long_ago = "seconds_since" in feature.name
        happened = not feature.name.endswith(("_changed", "_mfa"))
        number = (3e6 if happened else math.nan) if long_ago else 0.0 if "fraud" in feature.name else 1.0
        quiet: dict[str, Value] = {"number": number, "boolean": False, "string": "passed"}
        values[slot] = quiet[feature.kind]
    for name, value in (("amount", 25.0), ("hour", 12.0), ("channel", "card_present"), ("payment_type", "purchase")):
        values[feature_set.slots[name]] = value
    return values, [None if entity.name in without else b"key" for entity in feature_set.entities]


def best_us(work: Callable[[], object]) -> float:
    """µs a call, best of the rounds."""
    best = math.inf
    for _ in range(_ROUNDS):
        start = time.thread_time()
        for _ in range(_CALLS):
            work()
        best = min(best, time.thread_time() - start)
    return best / _CALLS * 1e6


def bench(profile: Path) -> None:
    """Measure one profile and print it."""
    feature_set = load_feature_set(profile)
    policy = load_policy(profile, feature_set)
    modes = [rule.mode for rule in policy.rules]
    print(f"{profile}: {modes.count('active')} active and {modes.count('shadow')} shadow rules, CPU µs a payment")
    for name, without in (("web purchase", ()), ("at a till", _AT_A_TILL)):
        values, keys = quiet_values(feature_set, without)
        active = policy.evaluate(values)
        figures = {
            "active rules": best_us(lambda v=values: policy.evaluate(v)),  # type: ignore[misc]  # bound here, not later
            "shadow rules": best_us(lambda v=values: policy.evaluate_shadow(v)),  # type: ignore[misc]  # as above
            "absent": best_us(lambda v=values, k=keys: policy.absent(v, k)),  # type: ignore[misc]  # as above
            "decide": best_us(lambda a=active: policy.decide(a, 0.1)),  # type: ignore[misc]  # as above
        }
        told = ", ".join(f"{what} {figure:.2f}" for what, figure in figures.items())
        print(f"  {name}: {told}; {len(active.hits)} hits")


def main() -> None:
    """Measure the profiles of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profiles", nargs="*", type=Path, default=[Path("deploy/profiles/cards")])
    for profile in parser.parse_args().profiles:
        bench(profile)


if __name__ == "__main__":
    main()
