"""A small, seeded day of payments for tests: retries, late events, bad records, outcomes, every stream."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

START = datetime(2026, 3, 1, tzinfo=UTC)

FEATURES = """
id = "test-1"
base_currency = "EUR"

[entities.account]
key = "account_id"
windows = ["10m", "1h", "24h"]
amount = ["count", "sum", "mean", "max", "stddev"]
fraud_rate = ["24h"]
since_last = true
travel = true
identity = true

[entities.device]
key = "device_id"
windows = ["1h"]
amount = ["count"]
distinct = { account_id = ["24h"] }
reputation = true

[[entities.device.streams]]
event = "device_event"
kinds = ["login_failed"]
windows = ["1h"]

[entities.merchant]
key = "merchant_id"
windows = ["1h", "24h"]
amount = ["count", "max"]
distinct = { account_id = ["1h"] }
fraud_rate = ["24h"]

[entities.pair]
key = ["account_id", "merchant_id"]
windows = ["24h"]
amount = ["count"]
since_last = true
"""

POLICY = """
id = "test"
version = "1"
thresholds = { challenge = 0.5, review = 0.7, decline = 0.9 }

[[rules]]
id = "travel"
when = "account.speed_kmh > 1000 and account.distance_km > 200"
action = "challenge"
reason = "IMPOSSIBLE_TRAVEL"

[[rules]]
id = "burst"
when = "account.count_10m >= 4"
action = "review"
reason = "VELOCITY_BURST"

[[rules]]
id = "many"
when = "device.distinct_account_id_24h >= 5"
action = "decline"
reason = "MANY_ACCOUNTS_ON_DEVICE"
mode = "shadow"
"""

LEARNING = """
tick = "1h"
maturity = "6h"
correction_horizon = "2d"
genuine_sample = 0.5

[model]
id = "test-linear"
version = "1"
features = ["amount", "account.count_1h", "merchant.fraud_rate_24h"]
categorical = ["channel", "hour"]
crosses = [["amount", "account.count_1h"]]
min_labels = 50
"""


def write_profile(directory: Path) -> Path:
    """A profile that uses every part of a feature set."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "features.toml").write_text(FEATURES)
    (directory / "policy.toml").write_text(POLICY)
    (directory / "learning.toml").write_text(LEARNING)
    return directory


def rfc3339(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def payment(rng: random.Random, number: int, at: datetime) -> dict[str, Any]:
    """A payment of one of 40 accounts."""
    account = min(int(rng.expovariate(1 / 8)), 39)
    place = rng.choice([(52.52, 13.4, "DE"), (52.5, 13.3, "DE"), (48.86, 2.35, "FR"), (-33.87, 151.21, "AU")])
    return {
        "transaction_id": f"T{number:06d}",
        "event_time": rfc3339(at),
        "account_id": f"A{account:03d}",
        "card_id": f"C{account:03d}",
        "device_id": f"D{rng.randrange(30):03d}",
        "merchant_id": f"M{int(rng.paretovariate(1.2)) % 50:03d}",
        "channel": rng.choice(["card_present", "ecommerce", "wallet"]),
        "payment_type": rng.choice(["purchase"] * 8 + ["refund", "verification"]),
        "amount_minor": int(rng.lognormvariate(8, 1)),
        "currency": "EUR",
        "country": place[2],
        "latitude": place[0] + rng.uniform(-0.1, 0.1),
        "longitude": place[1] + rng.uniform(-0.1, 0.1),
    }


def write_events(directory: Path, payments: int = 2_000, hours: float = 30.0, seed: int = 1) -> Path:
    """All four streams as .jsonl.

    Of the payments 3 % arrive late, 2 % are sent twice, some lines are broken, and one id comes with two contents.
    """
    rng = random.Random(seed)
    directory.mkdir(parents=True, exist_ok=True)
    lines: list[bytes] = []
    outcomes: list[tuple[datetime, dict[str, Any]]] = []
    for number in range(payments):
        now = START + timedelta(hours=hours * number / payments, microseconds=rng.randrange(1000) * 1000)
        late = timedelta(minutes=rng.randrange(1, 300)) if rng.random() < 0.03 else timedelta()
        record = payment(rng, number, now - late)
        lines.append(orjson.dumps(record))
        if rng.random() < 0.02:
            lines.append(orjson.dumps(record))
        if rng.random() < 0.01:
            earlier = orjson.loads(rng.choice(lines[-200:]))
            if "transaction_id" in earlier:
                lines.append(orjson.dumps(earlier))
        if rng.random() < 0.005:
            lines.append(rng.choice([b"{broken", b"[]", b'{"transaction_id": "only"}', b"\xff\xfe"]))
        if record["amount_minor"] > 9_000 and rng.random() < 0.7:
            told = now + timedelta(hours=rng.uniform(1, 12))
            outcomes.append((told, _outcome(record["transaction_id"], told, "fraud")))
        elif rng.random() < 0.02:
            told = now + timedelta(hours=rng.uniform(1, 8))
            outcomes.append((told, _outcome(record["transaction_id"], told, "genuine")))
    lines.append(orjson.dumps({**orjson.loads(lines[0]), "amount_minor": 1}))
    (directory / "transactions.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    outcomes.sort(key=lambda pair: pair[0])
    _write(directory / "outcomes.jsonl", [record for _, record in outcomes])
    devices = []
    identities = []
    for number in range(payments // 5):
        at = START + timedelta(hours=hours * number * 5 / payments)
        devices.append(
            {
                "event_id": f"E{number}",
                "event_time": rfc3339(at),
                "device_id": f"D{rng.randrange(30):03d}",
                "account_id": f"A{rng.randrange(40):03d}",
                "kind": rng.choice(["seen", "login", "login_failed", "blocked", "unblocked", "rooted"]),
            }
        )
        identities.append(
            {
                "event_id": f"I{number}",
                "event_time": rfc3339(at),
                "account_id": f"A{rng.randrange(40):03d}",
                "kind": rng.choice(["kyc_passed", "credentials_changed", "mfa_failed", "sanctions_hit", "hit_cleared"]),
            }
        )
    _write(directory / "device_events.jsonl", devices)
    _write(directory / "identity_events.jsonl", identities)
    return directory


def _outcome(transaction_id: str, at: datetime, label: str) -> dict[str, Any]:
    return {
        "outcome_id": f"O-{transaction_id}",
        "event_time": rfc3339(at),
        "transaction_id": transaction_id,
        "label": label,
        "source": "chargeback" if label == "fraud" else "customer",
    }


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))


def decisions(out: Path) -> list[dict[str, Any]]:
    """All published decisions, in order."""
    return [orjson.loads(line) for line in (out / "decisions.jsonl").read_bytes().splitlines()]
