"""A decision that was published and not committed is what waits for its label, through any number of kills."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from operators.adopted import ADOPTED_PREFIX, Adopted
from operators.decide import Decide, DecideConfig
from operators.decide_records import CARRIED, pending_key
from operators.policy import empty_policy
from state.testing import DictHome, DictStore
from tests.operators.test_decide import KEEP_US, SEEN_US, Setting


def _opened(home: DictHome) -> DictStore:
    return home.open("00", "decide", None)


def _published(setting: Setting, name: str, **features: Any) -> dict[str, Any]:
    said: dict[str, Any] = dict.fromkeys(CARRIED)
    told = dict(zip(setting.features.slots, setting.features.new_values(), strict=True))
    told = {key: None if value != value else value for key, value in told.items()}  # noqa: PLR0124 - as JSON has NaN
    versions = {"feature_set_hash": setting.features.hash}
    return {**said, "transaction_id": name, "score": 0.25, "versions": versions, "features": {**told, **features}}


def _step(setting: Setting, adopted: Adopted) -> Decide:
    return Decide(
        setting.features, empty_policy(setting.features), None, DecideConfig(KEEP_US, None, None), None, adopted
    )


def _source(records: Mapping[str, dict[str, Any]]) -> tuple[dict[str, tuple[int, int]], Any]:
    names = list(records)
    return {name: (at, 1) for at, name in enumerate(names)}, lambda offset, _length: records[names[offset]]


def _waiting(store: DictStore, name: str) -> tuple[list[Any], dict[str, Any]]:
    record = store.get_many([pending_key(SEEN_US, name)])[0]
    assert record is not None
    values, carried = msgspec.msgpack.decode(record)
    return values, carried


def test_what_waits_for_a_label_is_what_was_published(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    records = {"known": _published(setting, "known", **{"account.count_1h": 7.0, "amount": None})}
    store = _opened(DictHome())
    _step(setting, Adopted(*_source(records))).on_batch(store, [setting.payment("known"), setting.payment("new")])
    slots = setting.features.slots
    values, carried = _waiting(store, "known")
    assert values[slots["account.count_1h"]] == 7.0
    assert math.isnan(values[slots["amount"]])
    assert values[slots["country"]] is None
    assert carried["score"] == 0.25
    values, carried = _waiting(store, "new")
    assert math.isnan(values[slots["account.count_1h"]])
    assert carried["score"] is None


def test_what_was_not_met_before_a_second_kill_is_remembered_and_what_was_met_is_not(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    records = {name: _published(setting, name, amount=float(at)) for at, name in enumerate("abc")}
    places, read = _source(records)
    store = _opened(DictHome())
    step = _step(setting, Adopted(places, read))
    step.on_batch(store, [setting.payment("a")])
    step.on_snapshot(store)
    assert [key for key, _ in store.scan(ADOPTED_PREFIX, b"v", 9)] == [b"ub", b"uc"]

    # The next run finds nothing behind the committed length any more.
    step = _step(setting, Adopted({}, read))
    step.on_batch(store, [setting.payment("c"), setting.payment("d")])
    step.on_snapshot(store)
    assert _waiting(store, "c")[0][setting.features.slots["amount"]] == 2.0
    assert [key for key, _ in store.scan(ADOPTED_PREFIX, b"v", 9)] == [b"ub"]

    step = _step(setting, Adopted({}, read))
    step.on_batch(store, [setting.payment("b")])
    step.on_snapshot(store)
    assert _waiting(store, "b")[0][setting.features.slots["amount"]] == 1.0
    assert not store.scan(ADOPTED_PREFIX, b"v", 9)


def test_a_label_names_the_values_as_the_feature_set_did_that_scored_them(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    of_other = {
        **_published(setting, "t"),
        "features": {"x": 1.0, "y": None},
        "versions": {"feature_set_hash": "other"},
    }
    store = _opened(DictHome())
    step = _step(setting, Adopted(*_source({"t": of_other})))
    label = setting.label("t")
    out = step.on_batch(store, [setting.payment("t")])
    out = step.on_batch(store, [label])
    detail: Any = out[0].detail
    assert detail["features"] == {"x": 1.0, "y": None}
