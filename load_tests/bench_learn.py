"""What learning costs, without a broker: decisions, outcomes and labels a second, bytes of a payment that waits.

    python -m load_tests.bench_learn [--payments 50000] [--profile deploy/profiles/cards]

Steps over a real store on disk, decoding of JSON decisions included; one core. Prints one line a figure. Values are
drawn at random, as many as the profile has features, which compresses worse than real ones.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson

from flows.decision_input import decision_input
from flows.learn import join_config
from flows.profile import Profile, load_profile
from operators.inflight import LABEL, OUTCOME, InFlight
from operators.label_join import KEPT, LabelJoin
from operators.learn import Learn
from operators.record_formats import format_of
from schemas.events import Outcome
from state.store import StateHome, StateOptions

_DAY_US: Final = 86_400_000_000
_BEGAN_US: Final = 1_790_000_000_000_000
_BATCH: Final = 2_000


def _decision(profile: Profile, rng: random.Random, number: int) -> bytes:
    features: dict[str, Any] = {}
    for one in profile.features.features:
        number_like = one.kind == "number"
        features[one.name] = round(rng.lognormvariate(3, 2), 2) if number_like else None
    versions = {
        "feature_set_id": profile.features.id,
        "feature_set_hash": profile.features.hash,
        "policy_hash": "p" * 64,
    }
    at = "2026-09-21T00:00:00.000000Z"
    told = dict.fromkeys(KEPT) | {
        **{
            "decision_id": f"{number:032x}",
            "transaction_id": f"T{number:012d}",
            "account_id": f"A{number % 9_999:06d}",
        },
        **{
            "channel": "ecommerce",
            "currency": "EUR",
            "amount_minor": rng.randrange(100, 99_999),
            "score": rng.random(),
        },
        **{"card_id": f"card_{number % 9_999:032d}", "merchant_id": f"M{number % 999:05d}", "event_time": at},
        **{"decided_at": at, "action": "approve", "proposed_action": "approve"},
        **{"versions": versions, "features": features},
    }
    return orjson.dumps(told)


def _outcome(number: int, at_us: int) -> InFlight:
    event = Outcome(
        outcome_id=f"O{number}",
        event_time_us=at_us,
        transaction_id=f"T{number:012d}",
        label="fraud" if number % 10 == 0 else "genuine",
        source="analyst",
    )
    return InFlight(OUTCOME, (at_us,), event, ("outcomes", 0, number), at_us, [], [])


def _timed(told: str, count: int, work: Callable[[], None]) -> None:
    began = time.perf_counter()
    work()
    print(f"{told}: {count / (time.perf_counter() - began):,.0f}/s")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--payments", type=int, default=50_000)
    parser.add_argument("--profile", type=Path, default=Path("deploy/profiles/cards"))
    options = parser.parse_args()
    profile, count = load_profile(options.profile), options.payments
    rng = random.Random(1)
    lines = [_decision(profile, rng, number) for number in range(count)]
    make = decision_input(profile.features)
    waits: list[tuple[str, int, int]] = []
    join = LabelJoin(
        join_config(profile, 7 * _DAY_US), profile.features, lambda *told: waits.append(told), maps_features=True
    )
    learn = Learn(profile.features, profile.restores(), None, loop=profile.learning.loop)
    labels: list[InFlight] = []
    print(f"{len(profile.features.features)} features, a decision in JSON {sum(map(len, lines)) // count} bytes")
    with tempfile.TemporaryDirectory() as folder:
        home = StateHome(Path(folder), StateOptions(), None, format_of)
        store, learned = home.open("s00", "label_join", None), home.open("s00", "learn", None)

        def decided() -> None:
            for start in range(0, count, _BATCH):
                items = []
                for number, line in enumerate(lines[start : start + _BATCH], start):
                    item = make(line, ("decisions", 0, number))
                    item.order, item.ingested_at_us = (number,), _BEGAN_US + number
                    items.append(item)
                join.on_batch(store, items)
                store.commit()
            home.sync()

        def labelled() -> None:
            for start in range(0, count, _BATCH):
                batch = [
                    _outcome(number, _BEGAN_US + count + number) for number in range(start, min(count, start + _BATCH))
                ]
                labels.extend(item for item in join.on_batch(store, batch) if item.kind == LABEL)
                store.commit()

        def taught() -> None:
            for start in range(0, len(labels), _BATCH):
                learn.on_batch(learned, labels[start : start + _BATCH])
                learn.on_snapshot(learned)
                learned.commit()

        _timed("decisions read and kept", count, decided)
        print(f"a payment that waits: {waits[-1][2] / waits[-1][1]:,.0f} bytes of record and key")
        disk = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        print(f"on disk, logs included: {disk / count:,.0f} bytes a payment")
        _timed("outcomes joined", count, labelled)
        learn.on_batch(learned, labels[:1])  # compiled before it is timed
        _timed("labels scored and learned", len(labels), taught)
        home.close()


if __name__ == "__main__":
    main()
