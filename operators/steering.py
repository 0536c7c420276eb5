"""What steers the deciding step beside rules and score: models and their roles, exploration, drift; per shard.

All of it lives in the step's store, so that it is rolled back and goes on with everything else:

    b"M"            the declared champion, as it writes itself
    b"A"            sha256 (hex) of the artefact it started from
    b"C" model id   a challenger, as it writes itself; whoever decides, the models keep their places
    b"B" model id   sha256 (hex) of the artefact it started from
    b"R"            roles and evidence: operators/promotion.py
    b"X"            what exploration has spent: operators/exploration.py
    b"D"            what is watched for drift: operators/drift.py
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from operators.actions import ActiveHits, Verdict
from operators.alerts import Alert
from operators.drift import DriftWatch
from operators.exploration import Budget, Drawn, Exploration, label_weight
from operators.features import FeatureSet
from operators.inflight import InFlight, Value
from operators.loop_config import LoopConfig
from operators.model import Model
from operators.promotion import Promotion
from operators.roster import Announced, Roster, Scored
from schemas.events import Label
from state.api import StepStore

_MODEL_KEY: Final = b"M"
_START_KEY: Final = b"A"
_ROLES_KEY: Final = b"R"
_BUDGET_KEY: Final = b"X"
_DRIFT_KEY: Final = b"D"
_ALERTS: Final = "alerts"

RestoreModel = Callable[[bytes | None], Model]
"""The model from its bytes, or a new one."""

ModelSource = Callable[[], Announced]
"""The announced models; asked once a batch and shard, so that a batch has one roster."""


class Steering:
    """Keeps them; one object serves all shards, and what is of a shard lives in its store's memo."""

    def __init__(
        self,
        restore_model: RestoreModel | None,
        loop: LoopConfig | None = None,
        challengers: Mapping[str, RestoreModel] | None = None,
        features: FeatureSet | None = None,
        parts: int = 1,
        source: ModelSource | None = None,
    ) -> None:
        """Prepare.

        Args:
            restore_model: Makes the declared champion; None: payments have no score.
            loop: What is declared of the loop.
            challengers: Makes the others, by id.
            features: Of the profile; needed where drift is watched.
            parts: Shards that decide apart: each explores its even part of the budget.
            source: Gives the models in place of those declared; nothing is learned and no drift watched here then.
        """
        self._source = source
        self._loop = loop or LoopConfig()
        self._restore = restore_model
        self._challengers = dict(challengers or {})
        self._features = features
        exploration = self._loop.exploration
        self._exploration = None if exploration is None else Exploration(exploration, parts)
        self.model_keys: tuple[bytes, ...] = (_MODEL_KEY, _START_KEY, _ROLES_KEY, _DRIFT_KEY)
        for name in self._challengers:
            self.model_keys += (_challenger_key(name), _challenger_start(name))

    def roster(self, store: StepStore) -> Roster | None:
        """The models at hand, read once a store; None when none is declared."""
        if self._source is not None:
            announced = self._source()
            if store.memo.get("announced") is not announced:
                canary = self._loop.canary
                store.memo["announced"] = announced
                store.memo["started"] = announced.hashes
                store.memo["roster"] = Roster(
                    announced.models, None if canary is None else replace(canary, model=announced.canary)
                )
            served: Roster = store.memo["roster"]
            return served
        if self._restore is None:
            return None
        roster: Roster | None = store.memo.get("roster")
        if roster is None:
            roster = store.memo["roster"] = self._open(store, self._restore)
        return roster

    def started(self, store: StepStore, model: str) -> str | None:
        """sha256 of the artefact a model started from."""
        started: Mapping[str, str] = store.memo["started"]
        return started.get(model)

    def decided(
        self,
        store: StepStore,
        run: Sequence[InFlight],
        values_list: Sequence[Sequence[Value]],
        scores: Sequence[Scored],
    ) -> None:
        """Watch payments that are being decided."""
        watch = self._watch(store)
        if watch is not None:
            watch.payments(run, values_list, [scored.score for scored in scores])

    def draw(
        self, store: StepStore, decision_id: str, active: ActiveHits, verdict: Verdict, item: InFlight
    ) -> Drawn | None:
        """What exploration makes of a verdict; None when it is none of its business."""
        if self._exploration is None:
            return None
        budget: Budget | None = store.memo.get("budget")
        if budget is None:
            budget = store.memo["budget"] = Budget(store.get_many([_BUDGET_KEY])[0])
        return self._exploration.draw(budget, decision_id, active, verdict, item.amount_micros, item.ingested_at_us)

    def labelled(
        self,
        store: StepStore,
        label: Label,
        decision: Mapping[str, Any],
        scores: Mapping[str, float | None],
        values: Sequence[Value] | None,
    ) -> None:
        """Teach the models a label, and weigh them against each other by it.

        Args:
            store: Of the shard.
            label: The label.
            decision: What is kept of its decision.
            scores: What each model said when it was decided.
            values: What was scored; None when it was under another feature set: nobody learns from it.
        """
        roster = self.roster(store)
        loop = self._loop
        weight = label.weight * label_weight(decision, loop.exploration, withheld=loop.withhold_declined)
        if weight <= 0.0:
            return
        lesson = weight * loop.lessons.weight(label)
        if roster is not None and values is not None and lesson > 0.0:
            roster.learn(values, fraud=label.fraud, weight=lesson)
            store.memo["learned"] = True
        watch = self._watch(store)
        if watch is not None and roster is not None:
            watch.label(label, scores.get(roster.champion), weight)
        if roster is not None and roster.promotion is not None:
            changes = roster.promotion.observe(label.event_time_us, fraud=label.fraud, weight=weight, scores=scores)
            _tell(store, [change.alert() for change in changes])
            if watch is not None and any(change.role == "champion" for change in changes):
                watch.another_champion()
            store.memo["learned"] = True

    def tick(self, store: StepStore, now_us: int) -> None:
        """Let event time go on where no labels come."""
        roster = self.roster(store)
        watch = self._watch(store)
        if roster is not None and roster.promotion is not None:
            changes = roster.promotion.advance(now_us)
            _tell(store, [change.alert() for change in changes])
            if watch is not None and any(change.role == "champion" for change in changes):
                watch.another_champion()
            store.memo["learned"] = True
        if watch is not None:
            _tell(store, watch.advance(now_us))

    def on_snapshot(self, store: StepStore) -> None:
        """Write what has changed since the last one."""
        writes: list[tuple[bytes, bytes | None]] = []
        roster: Roster | None = store.memo.get("roster")
        if roster is not None and store.memo.get("learned"):
            first, *others = roster.models.values()
            writes.append((_MODEL_KEY, first.to_bytes()))
            writes += [(_challenger_key(model.id), model.to_bytes()) for model in others]
            if roster.promotion is not None:
                writes.append((_ROLES_KEY, roster.promotion.to_bytes()))
            store.memo["learned"] = False
        budget: Budget | None = store.memo.get("budget")
        if budget is not None and budget.take_dirty():
            writes.append((_BUDGET_KEY, budget.pack()))
        watch: DriftWatch | None = store.memo.get("watch")
        if watch is not None and watch.take_dirty():
            writes.append((_DRIFT_KEY, watch.to_bytes()))
        if writes:
            store.put_many(writes)

    def _open(self, store: StepStore, restore: RestoreModel) -> Roster:
        names = list(self._challengers)
        keys = [_MODEL_KEY, _START_KEY, _ROLES_KEY]
        keys += [key for name in names for key in (_challenger_key(name), _challenger_start(name))]
        kept, first, roles, *rest = store.get_many(keys)
        models = [restore(kept)]
        models += [self._challengers[name](packed) for name, packed in zip(names, rest[::2], strict=True)]
        started = {}
        starts = [(_START_KEY, first), *zip(map(_challenger_start, names), rest[1::2], strict=True)]
        for model, (key, start) in zip(models, starts, strict=True):
            began = start or model.artefact_hash().encode()
            started[model.id] = began.decode()
            if start is None:
                store.put_many([(key, began)])
        store.memo["started"] = started
        promotion = None
        config, canary = self._loop.promotion, self._loop.canary
        if config is not None:
            ids = [model.id for model in models]
            if roles is not None:
                promotion = Promotion.from_bytes(config, roles, ids)
            else:
                promotion = Promotion(config, ids[0], ids[1:], canary.model if canary else None)
        return Roster(models, canary, promotion)

    def _watch(self, store: StepStore) -> DriftWatch | None:
        config, features = self._loop.drift, self._features
        if config is None or features is None or self._source is not None:
            return None
        watch: DriftWatch | None = store.memo.get("watch")
        if watch is None:
            watch = store.memo["watch"] = DriftWatch(config, features, store.get_many([_DRIFT_KEY])[0])
        return watch


def take_alerts(store: StepStore) -> list[Alert]:
    """What there is to tell since the last time."""
    alerts: list[Alert] | None = store.memo.get(_ALERTS)
    if not alerts:
        return []
    store.memo[_ALERTS] = []
    return alerts


def _tell(store: StepStore, alerts: list[Alert]) -> None:
    if alerts:
        store.memo.setdefault(_ALERTS, []).extend(alerts)


def _challenger_key(model: str) -> bytes:
    return b"C" + model.encode()


def _challenger_start(model: str) -> bytes:
    return b"B" + model.encode()
