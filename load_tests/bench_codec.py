"""What a decision costs on the wire: CPU µs to write and read it, in Avro and JSON.

    python -m load_tests.bench_codec [--features N]

A decision with 190 features by default, one in ten absent, five of them words or yes and no. CPU time of this thread,
the best of nine rounds of 300 calls. fastavro stands beside as the reference whose bytes Weir's writer gives, once as
it is and once with every union's branch named beforehand (a tuple), which is the quickest it can be asked.
"""

from __future__ import annotations

import argparse
import io
import math
import random
import time
from collections.abc import Callable
from typing import Any

import fastavro

from schemas.codec import encode_avro, encode_json, plain_contract, read_avro, read_json

_CALLS = 300
_ROUNDS = 9
_MICROS = 1_000_000


def decision(features: int, rng: random.Random) -> dict[str, Any]:
    """A decision as the step `decide` makes it."""
    numbers: list[Any] = [math.nan if rng.random() < 0.1 else rng.random() * 100 for _ in range(features - 5)]
    entities = {name: f"{name}-{rng.randrange(10**9)}" for name in ("device_id", "merchant_id", "terminal_id")}
    return {
        "decision_id": f"{rng.getrandbits(128):032x}",
        "transaction_id": f"T-{rng.randrange(10**9)}",
        **dict.fromkeys(("event_time", "decided_at", "ingested_at"), 1_793_534_400 * _MICROS),
        "source": {"topic": "transactions.v1", "partition": 3, "offset": 2**33},
        "account_id": f"A{rng.randrange(10**7)}",
        "card_id": f"C{rng.randrange(10**7)}",
        **entities,
        "ip": "81.2.69.142",
        "counterparty_id": None,
        "amount_minor": 12_345,
        "currency": "EUR",
        "channel": "ecommerce",
        "country": "NL",
        **dict.fromkeys(("action", "proposed_action"), "challenge"),
        "score": 0.71,
        "contributions": [{"feature": f"card.count_{n}m", "value": 0.3 * n} for n in range(5)],
        "reason_codes": ["VELOCITY_BURST", "ELEVATED_SCORE"],
        "rule_hits": [{"rule": "velocity-burst", "action": "challenge"}],
        "shadow_hits": [{"rule": "new-payee", "action": "review"}],
        "challenger_scores": [],
        "features": {"feature_set": "cards-1", "values": [*numbers, "ecommerce", True, None, False, "purchase"]},
        "quality_flags": ["absent:account.speed_kmh"],
        "versions": {
            **dict.fromkeys(("policy_id", "policy_version", "feature_set_id", "model_id", "model_version"), "cards-1"),
            **dict.fromkeys(("policy_hash", "feature_set_hash", "model_hash", "rates_hash", "geo_hash"), "ab" * 32),
        },
        "role": "champion",
        **dict.fromkeys(("exploration", "propensity", "fallback", "trace_id"), None),
        "deadline_missed": False,
        "duplicate": False,
    }


def _named(value: Any) -> tuple[str, Any]:
    """A feature's value with the name of its branch, as fastavro takes it."""
    if value is None or value != value:  # noqa: PLR0124 - NaN is what differs from itself
        return ("null", None)
    return ({float: "double", bool: "boolean", str: "string"}[type(value)], value)


def best_us(work: Callable[[], object]) -> float:
    """CPU µs a call, best of the rounds."""
    best = math.inf
    for _ in range(_ROUNDS):
        start = time.thread_time()
        for _ in range(_CALLS):
            work()
        best = min(best, time.thread_time() - start)
    return best / _CALLS * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=190)
    features = parser.parse_args().features
    record = decision(features, random.Random(1))
    schema = plain_contract("decision")
    values = record["features"]["values"]
    named = {**record, "features": {"feature_set": "cards-1", "values": [_named(value) for value in values]}}
    as_it_is = {**record, "features": {"feature_set": "cards-1", "values": [value for _, value in map(_named, values)]}}

    def by_fastavro(one: dict[str, Any]) -> bytes:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, schema, one)
        return out.getvalue()

    avro, text = encode_avro("decision", record), encode_json("decision", record)
    if not avro == by_fastavro(named) == by_fastavro(as_it_is):
        message = "the writers differ in their bytes; see tests/schemas/test_avro_writer.py"
        raise SystemExit(message)
    print(f"a decision with {features} features: {len(avro):,} bytes in Avro, {len(text):,} in JSON; CPU µs each")
    for what, work in {
        "write Avro": lambda: encode_avro("decision", record),
        "write Avro by fastavro": lambda: by_fastavro(as_it_is),
        "write Avro by fastavro, branches named": lambda: by_fastavro(named),
        "read Avro": lambda: read_avro("decision", avro),
        "write JSON": lambda: encode_json("decision", record),
        "read JSON": lambda: read_json(text),
    }.items():
        print(f"  {what}: {best_us(work):.1f}")


if __name__ == "__main__":
    main()
