"""What is watched for drift: shifts are told once and soon, what stays the same is not, and bytes go on as before."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from operators.drift import DriftWatch
from operators.features import FeatureSet, load_feature_set
from operators.inflight import Value
from operators.loop_config import DriftConfig
from schemas.codec import encode_avro
from schemas.errors import StateLayoutError
from schemas.events import Label

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US

FEATURES = """
id = "small-1"
base_currency = "EUR"
[entities.device]
key = "device_id"
reputation = true
"""
CONFIG = DriftConfig(
    ("amount", "channel", "device.rooted", "device.accounts"),
    warm_up_us=2 * DAY_US,
    reference_us=10 * DAY_US,
    min_payments=100,
)


@pytest.fixture
def features(tmp_path: Path) -> FeatureSet:
    (tmp_path / "features.toml").write_text(FEATURES)
    return load_feature_set(tmp_path / "features.toml")


class Stream:
    """Payments and labels of days of seeded traffic."""

    def __init__(self, features: FeatureSet, seed: int) -> None:
        self.features = features
        self.rng = np.random.default_rng(seed)

    def day(
        self,
        watch: DriftWatch,
        day: int,
        *,
        payments: int = 400,
        amount: float = 1.0,
        atm: float = 0.1,
        absent: float = 0.05,
        score: float = 1.0,
        delay_days: float = 6.0,
        error: float = 0.05,
    ) -> list[dict[str, Any]]:
        rng, slots = self.rng, self.features.slots
        told = []
        for hour in range(24):
            now_us = day * DAY_US + hour * HOUR_US
            told += watch.advance(now_us)
            for _ in range(payments // 24):
                values: list[Value] = self.features.new_values()
                values[slots["amount"]] = float(rng.lognormal(3.0, 1.0)) * amount
                values[slots["channel"]] = "atm" if rng.random() < atm else "ecommerce"
                values[slots["device.rooted"]] = bool(rng.random() < 0.1)
                if rng.random() >= absent:
                    values[slots["device.accounts"]] = float(rng.integers(1, 5))
                watch.payment(values, float(rng.beta(1, 50)) * score)
            fraud = rng.random() < 0.4
            label = Label(
                transaction_id="t",
                event_time_us=now_us,
                payment_event_time_us=now_us - int(delay_days * rng.lognormal(0, 0.5) * DAY_US),
                payment_seen_at_us=0,
                fraud=bool(fraud),
                weight=1.0,
                source="chargeback",
            )
            watch.label(label, min(0.99, max(0.01, abs(float(fraud) - error * float(rng.uniform(0.5, 1.5))))), 1.0)
        return told


def days(watch: DriftWatch, stream: Stream, first: int, last: int, **shift: float) -> list[tuple[int, str, str]]:
    """(day on which it was told, kind, subject)."""
    told = []
    for day in range(first, last):
        told += [(day, one["kind"], one["subject"]) for one in stream.day(watch, day, **shift)]  # type: ignore[arg-type]
    return told


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_month_without_change_is_told_nothing(features: FeatureSet, seed: int) -> None:
    assert days(DriftWatch(CONFIG, features), Stream(features, seed), 0, 42) == []


@pytest.mark.parametrize(
    ("shift", "kind", "subject"),
    [
        ({"amount": 1.8}, "feature_drift", "amount"),
        ({"atm": 0.5}, "feature_drift", "channel"),
        ({"absent": 0.4}, "feature_missing", "device.accounts"),
        ({"score": 3.0}, "score_drift", "score"),
        ({"delay_days": 16.0}, "label_delay_drift", "fraud"),
        ({"error": 0.5}, "loss_drift", "champion"),
    ],
)
def test_each_kind_of_drift_is_told_by_name_within_days_and_once(
    features: FeatureSet, shift: dict[str, float], kind: str, subject: str
) -> None:
    watch, stream = DriftWatch(CONFIG, features), Stream(features, 7)
    assert days(watch, stream, 0, 25) == []
    told = days(watch, stream, 25, 45, **shift)
    assert {(one, about) for _, one, about in told} == {(kind, subject)}
    assert told[0][0] <= 25 + 7
    assert len(told) == 1 or kind == "loss_drift"


def test_a_drift_that_is_over_and_comes_back_is_told_again(features: FeatureSet) -> None:
    watch, stream = DriftWatch(CONFIG, features), Stream(features, 7)
    days(watch, stream, 0, 20)
    assert len(days(watch, stream, 20, 25, amount=2.0)) == 1
    assert days(watch, stream, 25, 30) == []
    assert len(days(watch, stream, 30, 35, amount=2.0)) == 1


def test_one_odd_day_is_no_drift(features: FeatureSet) -> None:
    watch, stream = DriftWatch(CONFIG, features), Stream(features, 7)
    days(watch, stream, 0, 20)
    assert days(watch, stream, 20, 21, amount=2.0) + days(watch, stream, 21, 26) == []


def test_alerts_keep_their_contract_and_say_cause_size_and_runbook(features: FeatureSet) -> None:
    watch, stream = DriftWatch(CONFIG, features), Stream(features, 7)
    days(watch, stream, 0, 20)
    (alert,) = [one for day in range(20, 24) for one in stream.day(watch, day, amount=2.0)]
    assert encode_avro("alert", alert)
    assert alert["measured"] > alert["threshold"] >= 0.15
    assert alert["evidence"]["measure"] in {"psi", "ks"}
    assert alert["runbook"] == "docs/runbooks/drift.md"
    assert Path(alert["runbook"]).is_file()


def test_another_champion_has_a_reference_of_its_own(features: FeatureSet) -> None:
    watch, stream = DriftWatch(CONFIG, features), Stream(features, 7)
    days(watch, stream, 0, 20)
    watch.another_champion()
    told = days(watch, stream, 20, 40, score=3.0, error=0.3)
    assert told == []
    assert ("score_drift", "score") in {one[1:] for one in days(watch, stream, 40, 44, score=9.0, error=0.3)}


def test_a_watch_that_goes_on_from_its_bytes_ends_the_same(features: FeatureSet) -> None:
    whole, cut = DriftWatch(CONFIG, features), DriftWatch(CONFIG, features)
    one, other = Stream(features, 9), Stream(features, 9)
    told, expected = [], []
    for day in range(30):
        shift = {"amount": 2.0, "error": 0.5} if day >= 20 else {}
        expected += one.day(whole, day, payments=200, **shift)
        told += other.day(cut, day, payments=200, **shift)
        cut = DriftWatch(CONFIG, features, cut.to_bytes())
    assert told == expected != []
    assert cut.to_bytes() == whole.to_bytes()
    assert len(whole.to_bytes()) < 20_000


def test_other_features_begin_anew_and_other_bytes_are_refused(features: FeatureSet) -> None:
    watch, stream = DriftWatch(CONFIG, features), Stream(features, 9)
    days(watch, stream, 0, 8)
    fewer = dataclasses.replace(CONFIG, features=("amount",))
    assert len(DriftWatch(fewer, features, watch.to_bytes()).to_bytes()) < len(watch.to_bytes())
    for packed in (b"", b"WDR\x02", b"WDR\x01nonsense"):
        with pytest.raises(StateLayoutError, match="drift: no record of format"):
            DriftWatch(CONFIG, features, packed)


def test_nan_counts_as_absent_and_not_as_a_shift(features: FeatureSet) -> None:
    watch = DriftWatch(CONFIG, features)
    values = features.new_values()
    values[features.slots["amount"]] = math.nan
    watch.payment(values, None)
    watch.to_bytes()
    assert watch._today[0, 0] == 1
    assert watch._today[0].sum() == 1
