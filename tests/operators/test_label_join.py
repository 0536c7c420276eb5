"""The label join against an oracle that knows everything at once, in any order of arrival and however cut."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from operators.features import FeatureSet, load_feature_set
from operators.inflight import DEAD_LETTER, LABEL, OUTCOME, PAYMENT, TICK, InFlight, Value
from operators.label_join import KEPT, LabelJoin, Scored
from operators.learn import SHADOWS
from operators.seen import SeenConfig
from schemas.events import Outcome, Tick, Transaction
from state.testing import DictStore

S = 1_000_000
CONFIG = SeenConfig(
    seen_ttl_us=0, maturity_us=100 * S, correction_horizon_us=300 * S, genuine_share=1.0, held_us=50 * S
)


@pytest.fixture
def features(tmp_path: Path) -> FeatureSet:
    path = tmp_path / "features.toml"
    path.write_text(
        'id = "f"\nbase_currency = "EUR"\n[entities.account]\nkey = "account_id"\nwindows = ["1h"]\n'
        'amount = ["count"]\n'
    )
    return load_feature_set(path)


def _join(features: FeatureSet, pending: list[tuple[str, int, int]] | None = None) -> LabelJoin:
    told = [] if pending is None else pending
    return LabelJoin(CONFIG, features, lambda *what: told.append(what), maps_features=False)


def _values(features: FeatureSet, number: int) -> list[Value]:
    values = features.new_values()
    values[0] = float(number)
    return values


def _decision(
    features: FeatureSet, number: int, at: int, action: str = "approve", feature_set: str | None = None
) -> InFlight:
    name = f"t{number}"
    event = Transaction(
        transaction_id=name,
        event_time_us=number,
        account_id="a",
        channel="atm",
        amount_minor=0,
        currency="EUR",
        attributes={"action": action, "score": "0.5"},
    )
    item = InFlight(PAYMENT, (at,), event, ("decisions", 0, at), at * S, [], [])
    kept: dict[str, Any] = dict.fromkeys(KEPT) | {"transaction_id": name, "action": action, "score": 0.5}
    versions = {"feature_set_id": "f", "feature_set_hash": feature_set or features.hash}
    own = feature_set is None
    told = None if own else {"old": 1.0}
    item.detail = Scored(kept, versions, _values(features, number) if own else None, told)
    return item


def _outcome(number: int, at: int, label: str = "fraud", source: str = "chargeback") -> InFlight:
    event = Outcome(outcome_id=f"o{at}", event_time_us=at * S, transaction_id=f"t{number}", label=label, source=source)
    return InFlight(OUTCOME, (at,), event, ("outcomes", 0, at), at * S, [], [])


def _tick(at: int) -> InFlight:
    return InFlight(TICK, (at,), Tick(event_time_us=at * S), ("ticks", 0, 0), at * S, [], [])


def _details(items: list[InFlight]) -> list[dict[str, Any]]:
    found: list[Any] = [item.detail for item in items if item.kind == LABEL]
    return found


@pytest.mark.parametrize("seed", range(6))
def test_labels_are_those_of_an_oracle_however_the_records_are_cut(features: FeatureSet, seed: int) -> None:
    rng = random.Random(seed)
    decided = {number: rng.randrange(1, 90) for number in range(60)}
    outcomes = {number: rng.randrange(1, 95) for number in range(60) if rng.random() < 0.4}
    items = [_decision(features, number, at) for number, at in decided.items()]
    items += [_outcome(number, at) for number, at in outcomes.items()]
    items.sort(key=lambda item: item.ingested_at_us)
    items.append(_tick(250))
    store, join, out = DictStore(), _join(features), []
    at = 0
    while at < len(items):
        size = rng.randrange(1, 9)
        out += join.on_batch(store, items[at : at + size])
        at += size
        if rng.random() < 0.3:
            join.on_snapshot(store)
            store = store.reopened(store.commit())
    labels = {one["transaction_id"]: one for one in _details(out)}
    wanted = {}
    for number, seen_at in decided.items():
        told_at = outcomes.get(number)
        # An outcome that came 50 s and more before its decision is buried at a tick only, and the only one is the last.
        wanted[f"t{number}"] = (
            ("fraud", "chargeback", told_at * S) if told_at else ("genuine", "maturity", (seen_at + 100) * S)
        )
    assert {name: (one["label"], one["source"], one["event_time"]) for name, one in labels.items()} == wanted
    for number in decided:
        told: Any = labels[f"t{number}"]["features"]
        assert told["values"][0] == float(number)
    assert len(_details(out)) == len(wanted)


def _challenged(features: FeatureSet, number: int, at: int, said: float | None = 0.25) -> InFlight:
    item = _decision(features, number, at)
    told: Any = item.detail
    item.detail = msgspec.structs.replace(told, shadows={"r": said, "q": 0.5})
    return item


def test_what_challengers_said_waits_for_the_label_at_nine_bytes_each(features: FeatureSet) -> None:
    told: list[tuple[str, int, int]] = []
    store, join = DictStore(), _join(features, told)
    join.on_batch(store, [_decision(features, 1, 1)])
    bare = told[-1][2]
    join.on_batch(store, [_challenged(features, 2, 2), _challenged(features, 3, 3, None)])
    assert told[-1][2] - bare == 2 * bare + 3 * 9 + 1
    store.memo.clear()
    out = join.on_batch(store, [_outcome(2, 5), _outcome(3, 6), _outcome(1, 7)])
    assert [one[SHADOWS] for one in _details(out)] == [
        [("r", 0.25), ("q", 0.5)],
        [("r", None), ("q", 0.5)],
        [],
    ]


def test_that_nobody_complained_of_a_declined_payment_is_no_label(features: FeatureSet) -> None:
    store, join = DictStore(), _join(features)
    declined = [_decision(features, number, number, action="decline") for number in (1, 2)]
    join.on_batch(store, [*declined, _decision(features, 3, 3)])
    out = join.on_batch(store, [_outcome(2, 50, "genuine", "analyst"), _tick(250)])
    assert [(one["transaction_id"], one["source"]) for one in _details(out)] == [("t2", "analyst"), ("t3", "maturity")]


def test_a_share_of_the_payments_goes_on_once_with_what_was_scored(features: FeatureSet) -> None:
    pending: list[Any] = []
    join = LabelJoin(CONFIG, features, lambda *what: pending.append(what), maps_features=False, watched=0.3)
    store = DictStore()
    out = join.on_batch(store, [_decision(features, number, number) for number in range(200)])
    assert 35 < len(out) < 85
    assert {(item.kind, item.detail) for item in out} == {(PAYMENT, 0.5)}
    assert all(item.known[0] == float(item.order[0]) for item in out)
    assert not join.on_batch(store, [_decision(features, number, 300 + number) for number in range(200)])


def test_a_retry_counts_once_and_a_contradiction_is_a_dead_letter(features: FeatureSet) -> None:
    store, join = DictStore(), _join(features)
    out = join.on_batch(store, [_decision(features, 1, 1), _decision(features, 1, 2)])
    assert out == []
    out = join.on_batch(store, [_decision(features, 1, 3, action="decline"), _outcome(1, 4)])
    assert [item.kind for item in out] == [DEAD_LETTER, LABEL]
    reason: Any = out[0].detail
    assert reason[0] == "CONFLICTING_DUPLICATE"
    assert _details(out)[0]["action"] == "approve"


def test_a_correction_tells_what_was_said_before_and_a_repetition_says_nothing(features: FeatureSet) -> None:
    store, join = DictStore(), _join(features)
    join.on_batch(store, [_decision(features, 1, 1), _outcome(1, 2), _outcome(1, 3)])
    out = join.on_batch(store, [_outcome(1, 4, "genuine", "analyst")])
    assert _details(out)[0]["correction_of"] == "fraud 1970-01-01T00:00:02.000000Z"


def test_an_outcome_without_a_decision_is_buried_after_a_while_and_not_before(features: FeatureSet) -> None:
    store, join = DictStore(), _join(features)
    assert [item.kind for item in join.on_batch(store, [_outcome(7, 10), _tick(59)])] == [TICK]
    out = join.on_batch(store, [_tick(61)])
    assert [item.kind for item in out] == [DEAD_LETTER, TICK]
    told: Any = out[0].detail
    assert told[0] == "UNMATCHED_OUTCOME"
    assert join.on_batch(store, [_tick(70)])[0].kind == TICK


def test_a_decision_of_another_feature_set_is_labelled_and_not_for_learning(features: FeatureSet) -> None:
    store, join = DictStore(), _join(features)
    out = join.on_batch(store, [_decision(features, 1, 1, feature_set="older"), _outcome(1, 2)])
    assert _details(out)[0]["features"] == {"feature_set": "f", "values": [1.0]}
    assert out[0].known == []


def test_values_that_waited_through_a_change_of_the_feature_set_keep_their_names(
    features: FeatureSet, tmp_path: Path
) -> None:
    store = DictStore()
    _join(features).on_batch(store, [_decision(features, 1, 1)])
    path = tmp_path / "other.toml"
    path.write_text(
        'id = "g"\nbase_currency = "EUR"\n[entities.account]\nkey = "account_id"\nwindows = ["2h"]\n'
        'amount = ["count"]\n'
    )
    other = LabelJoin(CONFIG, load_feature_set(path), lambda *_: None, maps_features=True)
    store.memo.clear()
    out = other.on_batch(store, [_outcome(1, 2)])
    told: Any = _details(out)[0]["features"]
    assert list(told) == [one.name for one in features.features]
    assert out[0].known == []
    assert not any(isinstance(value, float) and math.isnan(value) for value in told.values())


def test_what_waits_is_counted_and_dropped_when_no_label_can_come(features: FeatureSet) -> None:
    told: list[tuple[str, int, int]] = []
    store, join = DictStore(), _join(features, told)
    join.on_batch(store, [_decision(features, number, 1) for number in range(20)])
    assert told[-1][1] == 20
    assert told[-1][2] == sum(len(key) + len(value) for key, value in store.as_dict().items() if key[:1] == b"p")
    join.on_batch(store, [_tick(402)])
    join.on_snapshot(store)
    store.commit()
    join.on_batch(store, [_tick(403)])
    assert told[-1][1:] == (0, 0)
    assert not [key for key in store.as_dict() if key[:1] in b"psd"]
