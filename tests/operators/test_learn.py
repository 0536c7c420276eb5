from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from operators.features import FeatureSet, load_feature_set
from operators.inflight import ALERT, LABEL, PAYMENT, RELEASE, TICK, InFlight
from operators.learn import SHADOWS, Learn
from operators.learn_made import Made
from operators.learning import LearningConfig, load_learning
from operators.lessons import Lessons
from operators.model import restore_model
from operators.releases import Release
from schemas.events import Label, Tick
from state.testing import DictStore

S = 1_000_000
Declared = tuple[FeatureSet, LearningConfig]


@pytest.fixture
def declared(tmp_path: Path) -> Declared:
    path = tmp_path / "features.toml"
    path.write_text(
        'id = "f"\nbase_currency = "EUR"\n[entities.account]\nkey = "account_id"\nwindows = ["1h"]\n'
        'amount = ["count"]\n'
    )
    features = load_feature_set(path)
    (tmp_path / "learning.toml").write_text('[model]\nid = "m"\nversion = "1"\nfeatures = ["amount"]\nmin_labels = 5\n')
    return features, load_learning(tmp_path / "learning.toml", features)


def _learn(declared: Declared, every_us: int | None = 10 * S) -> Learn:
    return Learn(declared[0], {"m": restore_model(*declared)}, every_us)


def _label(features: FeatureSet, number: int, rng: random.Random, *, own: bool = True) -> InFlight:
    fraud = rng.random() < 0.3
    label = Label(
        transaction_id=f"t{number}",
        event_time_us=number * S,
        payment_event_time_us=0,
        payment_seen_at_us=0,
        fraud=fraud,
        weight=1.0 if fraud else 2.0,
        source="chargeback",
    )
    item = InFlight(LABEL, (number,), label, ("outcomes", 0, number), number * S, [], [])
    if own:
        values = features.new_values()
        values[0] = rng.lognormvariate(3 if fraud else 2, 1)
        item.known = values
    item.detail = {
        "score": 0.5,
        "decided_at": number * S,
        "label": "fraud",
        "action": "approve",
        "versions": {"model_id": "m"},
    }
    return item


def _tick(at: int) -> InFlight:
    return InFlight(TICK, (at,), Tick(event_time_us=at * S), ("ticks", 0, 0), at * S, [], [])


def _made(items: list[InFlight]) -> list[Made]:
    found: list[Any] = [item.detail for item in items if item.kind == RELEASE]
    return found


def _items(features: FeatureSet) -> list[InFlight]:
    rng = random.Random(1)
    items = []
    for number in range(1, 101):
        items.append(_label(features, number, rng))
        if number % 20 == 0:
            items += [_tick(number)] * 4  # as every shard of the join passes one on
    return items


def test_the_model_and_its_releases_do_not_depend_on_batches_or_on_where_it_was_resumed(declared: Declared) -> None:
    once = _learn(declared)
    store = DictStore()
    whole = _made(once.on_batch(store, _items(declared[0])))
    once.on_snapshot(store)
    rng = random.Random(2)
    items, cut, other = _items(declared[0]), [], DictStore()
    learn = _learn(declared)
    while items:
        size = rng.randrange(1, 15)
        cut += learn.on_batch(other, items[:size])
        items = items[size:]
        learn.on_snapshot(other)
        other = other.reopened(other.commit())
        learn = _learn(declared)
    assert store.as_dict()[b"Mm"] == other.as_dict()[b"Mm"]
    assert [(one.sha256, one.version, one.created_at_us) for one in _made(cut)] == [
        (one.sha256, one.version, one.created_at_us) for one in whole
    ]
    assert [one.version for one in whole] == ["1+20", "1+40", "1+60", "1+80", "1+100"]


def test_what_was_learned_and_released_is_told(declared: Declared) -> None:
    learn, store = _learn(declared), DictStore()
    first, second, *_ = _made(learn.on_batch(store, _items(declared[0])))
    assert (first.labels, first.ledger.frauds + first.ledger.genuine, len(first.latest)) == (20, 20, 20)
    assert (second.ledger.version, second.ledger.sha256) == (first.version, first.sha256)
    assert first.latest[0][1] is None  # untrained when it met the first
    assert first.latest[-1][1] is not None
    assert second.importances


def test_labels_of_another_feature_set_pass_by_and_an_untrained_model_is_not_released(declared: Declared) -> None:
    learn, store = _learn(declared), DictStore()
    rng = random.Random(3)
    others = [_label(declared[0], number, rng, own=False) for number in range(1, 50)]
    assert not _made(learn.on_batch(store, [*others, _tick(100)]))
    out = learn.on_batch(store, [_label(declared[0], 101, rng), _tick(120)])
    assert [item.kind for item in out] == [LABEL, TICK]


def test_without_a_model_labels_pass_through(declared: Declared) -> None:
    learn, store = Learn(declared[0], {}, None), DictStore()
    items = _items(declared[0])
    assert learn.on_batch(store, items) == items
    learn.on_snapshot(store)
    assert not store.as_dict()


def _rivals(tmp_path: Path) -> Declared:
    """A champion that knows nothing, a canary that knows the amount; blocks of ten seconds; drift watched."""
    path = tmp_path / "features.toml"
    path.write_text(
        'id = "f"\nbase_currency = "EUR"\n[entities.account]\nkey = "account_id"\nwindows = ["1h"]\n'
        'amount = ["count"]\n'
    )
    features = load_feature_set(path)
    model = '\nid = "{}"\nversion = "1"\nfeatures = ["{}"]\nmin_labels = 5\n'
    (tmp_path / "learning.toml").write_text(
        f"[model]{model.format('m', 'account.count_1h')}[[challengers]]{model.format('r', 'amount')}"
        '[canary]\nmodel = "r"\nshare = 0.1\nsalt = "s"\n'
        '[promotion]\nblock = "10s"\nmin_frauds = 3\nlevel = 0.3\nperiod = "20s"\n'
        '[drift]\nfeatures = ["amount"]\nwarm_up = "1s"\nreference = "3d"\nsample = 1.0\nmin_payments = 20\n'
    )
    return features, load_learning(tmp_path / "learning.toml", features)


def _several(declared: Declared) -> Learn:
    features, config = declared
    restores = {"m": restore_model(features, config)}
    rival = replace(config, model=config.challengers[0])
    restores["r"] = restore_model(features, rival)
    return Learn(features, restores, 10 * S, loop=config.loop)


def _known(features: FeatureSet) -> list[InFlight]:
    """Labels of payments that the rival saw through, and ticks."""
    rng = random.Random(4)
    items = []
    for number in range(1, 401):
        item = _label(features, number, rng)
        label: Any = item.event
        detail: Any = item.detail
        detail[SHADOWS] = [("r", 0.9 if label.fraud else 0.1)]
        items.append(item)
        if number % 5 == 0:
            items.append(_tick(number))
    return items


def test_all_models_learn_and_a_better_canary_is_promoted_however_the_labels_are_cut(tmp_path: Path) -> None:
    declared = _rivals(tmp_path)
    features = declared[0]
    store, other = DictStore(), DictStore()
    once = _several(declared)
    whole = once.on_batch(store, _known(features))
    once.on_snapshot(store)
    cut: list[InFlight] = []
    rng, items = random.Random(5), _known(features)
    while items:
        size = rng.randrange(1, 40)
        learn = _several(declared)
        cut += learn.on_batch(other, items[:size])
        items = items[size:]
        learn.on_snapshot(other)
        other = other.reopened(other.commit())
    assert store.as_dict() == other.as_dict()
    assert {b"Mm", b"Mr", b"Am", b"Ar", b"R", b"H"} <= store.as_dict().keys()

    def told(items: list[InFlight]) -> list[Any]:
        made = [(one.model_id, one.stage, one.change, one.created_at_us, one.sha256) for one in _made(items)]
        return [made, [item.detail for item in items if item.kind == ALERT]]

    assert told(cut) == told(whole)
    made, alerts = told(whole)
    assert [(one["kind"], one["subject"]) for one in alerts] == [("model_promoted", "r")]
    moves = [one[:3] for one in made if one[2] != "release"]
    assert moves == [("r", "champion", "promote")]
    stages = [one[:2] for one in made]
    assert stages[:2] == [("m", "champion"), ("r", "canary")]
    assert stages[-2:] == [("m", "challenger"), ("r", "champion")]
    (promoted,) = [one for one in _made(whole) if one.change == "promote"]
    assert promoted.before is not None
    assert promoted.before[1] in {one.sha256 for one in _made(whole) if (one.model_id, one.stage) == ("m", "champion")}
    assert promoted.evidence is not None
    assert promoted.evidence["evidence_measured"] <= promoted.evidence["evidence_threshold"]


def test_a_champion_that_turns_bad_gives_its_place_back_and_that_is_announced(tmp_path: Path) -> None:
    declared = _rivals(tmp_path)
    features = declared[0]
    learn, store = _several(declared), DictStore()
    learn.on_batch(store, _known(features))
    rng = random.Random(8)
    out: list[InFlight] = []
    for number in range(401, 1_000):
        item = _label(features, number, rng)
        label: Any = item.event
        detail: Any = item.detail
        detail |= {"versions": {"model_id": "r"}, "score": 0.1 if label.fraud else 0.9, SHADOWS: [("m", 0.5)]}
        out += learn.on_batch(store, [item, _tick(number)])
    moves = [one for one in _made(out) if one.change != "release"]
    assert [(one.model_id, one.stage, one.change, one.origin) for one in moves] == [
        ("m", "champion", "rollback", "automatic")
    ]
    (alert,) = [item.detail for item in out if item.kind == ALERT]
    told: Any = alert
    assert (told["kind"], told["evidence"]["from"]) == ("model_rolled_back", "r")
    assert moves[0].before is not None
    assert moves[0].reason.startswith("rollback of m, now champion: ")


def test_what_challengers_said_goes_no_further_and_payments_are_watched_for_drift(tmp_path: Path) -> None:
    declared = _rivals(tmp_path)
    features = declared[0]
    learn, store = _several(declared), DictStore()
    (label, *_) = learn.on_batch(store, _known(features)[:1])
    detail: Any = label.detail
    assert SHADOWS not in detail
    day = 86_400
    rng, out = random.Random(6), []
    for number in range(9):
        items = []
        for at in range(200):
            values = features.new_values()
            values[0] = rng.lognormvariate(3, 1) * (1 if number < 5 else 40)
            item = InFlight(PAYMENT, (number, at), None, ("decisions", 0, at), number * day * S, [], values)
            item.detail = 0.1
            items.append(item)
        out += learn.on_batch(store, [*items, _tick((number + 1) * day)])
        learn.on_snapshot(store)
        store, learn = store.reopened(store.commit()), _several(declared)
    assert not [item for item in out if item.kind == PAYMENT]
    drifts: list[Any] = [item.detail for item in out if item.kind == ALERT]
    assert [(one["kind"], one["subject"]) for one in drifts] == [("feature_drift", "amount")]


def test_what_a_person_ordered_on_the_topic_of_releases_is_heard_and_goes_no_further(tmp_path: Path) -> None:
    declared = _rivals(tmp_path)
    features = declared[0]
    learn, store = _several(declared), DictStore()
    items = _known(features)
    record = {
        "model_id": "m",
        "version": "1",
        "stage": "champion",
        "sha256": "m" * 64,
        "origin": "human",
        "frozen": True,
    }
    order = InFlight(RELEASE, (60, 0), None, ("models", 0, 0), 60 * S, [], [])
    order.detail = Release(record, 0)
    refused = InFlight(RELEASE, (60, 1), None, ("models", 0, 1), 60 * S, [], [])  # detail None: not believed
    out = learn.on_batch(store, [*items[:60], order, refused, *items[60:]])
    assert not [item for item in out if item.kind == ALERT]
    assert {one.change for one in _made(out)} == {"release"}
    assert all(isinstance(item.detail, Made) for item in out if item.kind == RELEASE)
    # It is still frozen after a restart, and after a change of the feature set, which drops models and evidence.
    learn.on_snapshot(store)
    store = store.reopened(store.commit())
    path = tmp_path / "features.toml"
    path.write_text(path.read_text().replace('["1h"]', '["1h", "2h"]'))
    changed = load_feature_set(path)
    anew = changed, load_learning(tmp_path / "learning.toml", changed)
    out = _several(anew).on_batch(store, _known(changed))
    assert {one.change for one in _made(out)} == {"release"}
    assert {one.labels for one in _made(out)[:2]} == {10}


def test_where_nothing_decides_without_a_person_all_releases_are_challengers(declared: Declared) -> None:
    learn = Learn(declared[0], {"m": restore_model(*declared)}, 10 * S, announces="challenger")
    assert {one.stage for one in _made(learn.on_batch(DictStore(), _items(declared[0])))} == {"challenger"}
    assert {one.stage for one in _made(_learn(declared).on_batch(DictStore(), _items(declared[0])))} == {"champion"}


def test_a_share_of_the_genuine_labels_is_learned_and_all_of_them_are_evidence(declared: Declared) -> None:
    features, learning = declared
    loop = replace(learning.loop, lessons=Lessons(sample=1.0, learned=0.5))
    step = Learn(features, {"m": restore_model(features, learning)}, None, loop=loop)
    store = DictStore()
    items = _items(features)
    step.on_batch(store, items)
    step.on_snapshot(store)
    labels = [item.event for item in items if isinstance(item.event, Label)]
    taught = [one for one in labels if loop.lessons.weight(one) > 0.0]
    assert all(one in taught for one in labels if one.fraud)
    assert 0 < len([one for one in taught if not one.fraud]) < len([one for one in labels if not one.fraud])
    model = restore_model(features, learning)(store.as_dict()[b"Mm"])
    assert model.labels == len(taught)
