"""Teaches the declared models the labels, in their order, and makes releases of them from time to time.

Prequential: what a model says of a payment is asked before it learns the payment's label. All learn every label, from
the very values that were scored, and only where they are of the models' feature set; every other label passes by. The
scores that champion, canary and challengers gave when the payment was decided are weighed against each other
(operators/learn_roles.py). The same labels in the same order give the same bytes, whatever happened between: the
models, and what the rest goes by, are records of the step.

A release is made at a tick, so that when it comes depends on the labels' clock alone; one more is made of a model that
moves, when it does. It leaves as an item of kind RELEASE with a `Made` in `detail`; flows/ stores, signs and announces
it. One that comes in, with a `Release` in `detail`, is what was read of models.v1. Alerts leave as items of kind ALERT.

Records:

    b"M" id     a model, as it writes itself
    b"A" id     Ledger (msgpack): what it learned, and of the release before
    b"E" id     msgpack: the latest labels [(score at decision, score before learning, fraud, weight)], newest last
    b"R", b"H"  see operators/learn_roles.py
    b"D"        what is watched for drift: operators/drift.py
    b"F", b"N"  see operators/feature_change.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from operators.drift import DriftWatch
from operators.exploration import label_weight
from operators.feature_change import note_features
from operators.features import FeatureSet
from operators.inflight import ALERT, LABEL, PAYMENT, RELEASE, TICK, InFlight, Value
from operators.learn_made import CHANGES, LearnLedger, Made, Scored, figures_of, importances, told_of
from operators.learn_roles import HEARD, ROLES, Roles, Sent
from operators.loop_config import LoopConfig
from operators.model import Model
from operators.promotion import Change
from operators.releases import AUTOMATIC, CHALLENGER, CHAMPION, LEARN, Release
from schemas.events import Label
from state.api import StepStore

NAME: Final = "learn"
SHADOWS: Final = "challenger_scores"
"""Of a label's `detail`: [(model id, score at decision)] of the models that did not decide; taken out here."""
_MODEL: Final = b"M"
_LEDGER: Final = b"A"
_LATEST: Final = b"E"
_DRIFT: Final = b"D"
MOST_LATEST: Final = 5_000
"""Labels that figures of a release are of. Fewer: intervals too wide to tell anything; more: each snapshot, which
writes them, takes longer (28 bytes each)."""
_MOST_KEPT: Final = 300
"""Payments, in memory only, by which importances are told: a mean over as many is stable to some percent."""
_BEHIND: Final = 1 << 62
"""Place of what the step makes of an item, behind all that others made of it."""

TellLearned = Callable[[str, str, int], None]
"""(label, source, µs from the payment's decision to the label): a label was learned."""
RestoreModel = Callable[[bytes | None], Model]
"""A model from its bytes, or a new one."""

_encode = msgspec.msgpack.Encoder().encode
_decode_ledger = msgspec.msgpack.Decoder(LearnLedger).decode
_decode_latest = msgspec.msgpack.Decoder(list[Scored]).decode


class _Pupil:
    """A model with what is remembered beside it."""

    __slots__ = ("latest", "ledger", "model")

    def __init__(self, model: Model, ledger: LearnLedger, latest: list[Scored]) -> None:
        self.model = model
        self.ledger = ledger
        self.latest = latest

    def learn(self, values: list[Value], label: Label, weight: float, decided_us: int, said: float | None) -> None:
        ledger = self.ledger
        before = self.model.score_one(values)
        self.model.learn_one(values, label.fraud, weight)
        self.latest.append((said, before, label.fraud, weight))
        if len(self.latest) > MOST_LATEST + MOST_LATEST // 10:
            del self.latest[: len(self.latest) - MOST_LATEST]
        ledger.trained = before is not None
        ledger.since += 1
        ledger.first_us = min(ledger.first_us or decided_us, decided_us)
        ledger.last_us = max(ledger.last_us, decided_us)
        ledger.frauds += label.fraud
        ledger.genuine += not label.fraud
        ledger.corrections += label.previous_fraud is not None


class _Opened:
    """What the step has at hand of its store."""

    __slots__ = ("kept", "pupils", "roles", "watch")

    def __init__(self, pupils: dict[str, _Pupil], roles: Roles, watch: DriftWatch | None) -> None:
        self.pupils = pupils
        self.roles = roles
        self.watch = watch
        self.kept: list[list[Value]] = []


class Learn:
    """The step; it must run over one single shard."""

    name = NAME

    def __init__(
        self,
        feature_set: FeatureSet,
        restores: Mapping[str, RestoreModel],
        release_every_us: int | None,
        learned: TellLearned | None = None,
        loop: LoopConfig | None = None,
        *,
        announces: str = CHAMPION,
    ) -> None:
        """Make the step.

        Args:
            feature_set: Of the profile.
            restores: Makes the models, by id, the declared champion first; empty: labels only pass through.
            release_every_us: Between releases of a model at the least; None: none is made.
            learned: Told of each label learned.
            loop: Who may move and on which evidence, what is watched, what is explored, and whether declined payments
                teach anything.
            announces: champion: releases take effect in their model's role; challenger: nothing decides, and nobody
                moves, unless a person says so.
        """
        self._loop = loop or LoopConfig()
        self._features = feature_set
        self._restores = dict(restores)
        self._every_us = release_every_us
        self._learned = learned
        self._decides = announces == CHAMPION
        self._model_keys = (ROLES, _DRIFT, *(key for name in self._restores for key in _keys(name)))

    def on_batch(self, store: StepStore, batch: list[InFlight]) -> list[InFlight]:
        """Learn labels in order, release at ticks; labels and ticks pass on, and whatever is no business of this."""
        if not self._restores:
            return [item for item in batch if _passes(item)]
        note_features(store, self._features, self._model_keys)
        opened = self._opened(store)
        out: list[InFlight] = []
        for item in batch:
            event = item.event
            if item.kind == LABEL and isinstance(event, Label):
                out.append(item)
                self._learn(store, item, event, opened, out)
            elif item.kind == TICK and event is not None:
                out.append(item)
                self._tick(store, item, event.event_time_us, opened, out)
            elif item.kind == PAYMENT:
                self._watch(store, item, opened)
            elif item.kind == RELEASE:
                self._hear(store, item, opened)
            else:
                out.append(item)
        return out

    def on_snapshot(self, store: StepStore) -> None:
        """Write what has changed since the last snapshot."""
        if not store.memo.get("changed"):
            return
        store.memo["changed"] = False
        opened = self._opened(store)
        writes: list[tuple[bytes, bytes | None]] = []
        if store.memo.get("learned"):
            store.memo["learned"] = False
            for name, pupil in opened.pupils.items():
                records = (pupil.model.to_bytes(), _encode(pupil.ledger), _encode(pupil.latest))
                writes += zip(_keys(name), records, strict=True)
        writes += zip((ROLES, HEARD), opened.roles.to_bytes(), strict=True)
        if opened.watch is not None and opened.watch.take_dirty():
            writes.append((_DRIFT, opened.watch.to_bytes()))
        store.put_many(writes)

    def _opened(self, store: StepStore) -> _Opened:
        opened: _Opened | None = store.memo.get("opened")
        if opened is None:
            pupils = {}
            for name, restore in self._restores.items():
                kept, ledger, latest = store.get_many(_keys(name))
                pupils[name] = _Pupil(
                    restore(kept),
                    _decode_ledger(ledger) if ledger else LearnLedger(),
                    _decode_latest(latest) if latest else [],
                )
            loop = self._loop
            packed, heard, drift = store.get_many([ROLES, HEARD, _DRIFT])
            roles = Roles(list(self._restores), loop, packed, heard, moves=self._decides)
            watch = None if loop.drift is None else DriftWatch(loop.drift, self._features, drift)
            opened = store.memo["opened"] = _Opened(pupils, roles, watch)
        return opened

    def _learn(self, store: StepStore, item: InFlight, label: Label, opened: _Opened, out: list[InFlight]) -> None:
        store.memo["changed"] = store.memo["learned"] = True
        values = item.known
        detail: Any = item.detail
        scores = dict(detail.pop(SHADOWS, ()))
        decider = detail["versions"].get("model_id")
        if decider is not None:
            scores[decider] = detail["score"]
        loop = self._loop
        weight = label.weight * label_weight(detail, loop.exploration, withheld=loop.withhold_declined)
        if not values or weight <= 0.0:
            for pupil in opened.pupils.values():
                pupil.ledger.passed += 1
            return
        lesson = weight * loop.lessons.weight(label)
        if lesson > 0.0:
            self._teach(label, lesson, values, scores, detail, opened)
        else:
            for pupil in opened.pupils.values():
                pupil.ledger.passed += 1
        if opened.watch is not None:
            opened.watch.label(label, scores.get(opened.roles.champion), weight)
        changes = opened.roles.observe(item.ingested_at_us, fraud=label.fraud, weight=weight, scores=scores)
        self._changed(item, changes, opened, out)

    def _teach(
        self,
        label: Label,
        weight: float,
        values: list[Value],
        scores: Mapping[str, float | None],
        detail: Any,
        opened: _Opened,
    ) -> None:
        decided_us = detail["decided_at"]
        for name, pupil in opened.pupils.items():
            pupil.learn(values, label, weight, decided_us, scores.get(name))
        opened.kept.append(values)
        if len(opened.kept) > 2 * _MOST_KEPT:
            del opened.kept[:_MOST_KEPT]
        if self._learned is not None:
            self._learned(detail["label"], label.source, label.event_time_us - decided_us)

    def _tick(self, store: StepStore, item: InFlight, now_us: int, opened: _Opened, out: list[InFlight]) -> None:
        store.memo["changed"] = True
        self._changed(item, opened.roles.advance(now_us), opened, out)
        if opened.watch is not None:
            out += [_alert(item, alert, len(out)) for alert in opened.watch.advance(now_us)]
        if self._every_us is None:
            return
        for name, pupil in opened.pupils.items():
            ledger = pupil.ledger
            if ledger.trained and ledger.since and now_us - ledger.released_at_us >= self._every_us:
                store.memo["learned"] = True
                stage = opened.roles.role(name)
                if not self._decides and stage == CHAMPION:
                    stage = CHALLENGER
                out.append(self._release(item, now_us, name, opened, stage))

    def _watch(self, store: StepStore, item: InFlight, opened: _Opened) -> None:
        """Count a payment that was decided, as the join has let it through."""
        if opened.watch is not None:
            store.memo["changed"] = True
            detail: Any = item.detail
            opened.watch.payment(item.known, detail)

    def _hear(self, store: StepStore, item: InFlight, opened: _Opened) -> None:
        if isinstance(item.detail, Release):
            store.memo["changed"] = True
            if opened.roles.hear(item.detail, item.ingested_at_us) and opened.watch is not None:
                opened.watch.another_champion()

    def _changed(self, item: InFlight, changes: Iterable[Change], opened: _Opened, out: list[InFlight]) -> None:
        """Tell of moves: an alert, and a release of the model as it is now, in its new role."""
        for change in changes:
            out.append(_alert(item, change.alert(), len(out)))
            if change.role == CHAMPION and opened.watch is not None:
                opened.watch.another_champion()
            if self._every_us is not None:
                now_us = change.event_time_us
                out.append(self._release(item, now_us, change.model, opened, change.role, change))

    def _release(
        self, item: InFlight, now_us: int, name: str, opened: _Opened, stage: str, change: Change | None = None
    ) -> InFlight:
        pupil = opened.pupils[name]
        model, ledger = pupil.model, pupil.ledger
        version, sha256 = f"{model.version}+{model.labels}", model.artefact_hash()
        before = opened.roles.announced(Sent(name, version, stage, now_us, sha256))
        made = Made(
            artefact=model.to_bytes(),
            sha256=sha256,
            model_id=name,
            version=version,
            labels=model.labels,
            created_at_us=now_us,
            ledger=msgspec.structs.replace(ledger),
            latest=list(pupil.latest[-MOST_LATEST:]),
            importances=importances(model, opened.kept[-_MOST_KEPT:]),
            stage=stage,
            change="release" if change is None else CHANGES[change.move],
            origin=LEARN if change is None else AUTOMATIC,
            reason=f"{model.labels} labels learned" if change is None else told_of(change),
            evidence=None if change is None else figures_of(change),
            before=before,
        )
        ledger.since, ledger.released_at_us = 0, now_us
        ledger.version, ledger.sha256 = version, sha256
        release = _behind(item, RELEASE, 0)
        release.detail = made
        return release


def _keys(model: str) -> tuple[bytes, bytes, bytes]:
    name = model.encode()
    return _MODEL + name, _LEDGER + name, _LATEST + name


def _passes(item: InFlight) -> bool:
    """Whether it goes on without models: payments and what was announced are for those alone."""
    if item.kind == LABEL:
        detail: Any = item.detail
        detail.pop(SHADOWS, None)
    return item.kind not in (PAYMENT, RELEASE)


def _behind(item: InFlight, kind: int, place: int) -> InFlight:
    return InFlight(kind, (*item.order, _BEHIND, place), None, item.origin, item.ingested_at_us, [], [])


def _alert(item: InFlight, alert: Mapping[str, Any], place: int) -> InFlight:
    made = _behind(item, ALERT, place)
    made.detail = alert
    return made
