"""Teaches the model the labels, in their order, and makes a release of it from time to time.

Prequential: what the model says of a payment is asked before it learns the payment's label. It learns from the very
values that were scored, and only where they are of the model's feature set; every other label passes by. The same
labels in the same order give the same bytes, whatever happened between: the model, and what the rest goes by, are
records of the step.

A release is made at a tick, so that when it comes depends on the labels' clock alone. It leaves as an item of kind
RELEASE with a `Made` in `detail`; flows/ stores, signs and announces it.

Records:

    b"M"        the model, as it writes itself
    b"A"        Ledger (msgpack): what was learned, and of the release before
    b"E"        msgpack: the latest labels [(score at decision, score before learning, fraud, weight)], newest last
    b"F", b"N"  see operators/feature_change.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from operators.exploration import label_weight
from operators.feature_change import note_features
from operators.features import FeatureSet
from operators.inflight import LABEL, RELEASE, TICK, InFlight, Value
from operators.loop_config import LoopConfig
from operators.model import Model
from schemas.events import Label
from state.api import StepStore

NAME: Final = "learn"
_MODEL: Final = b"M"
_LEDGER: Final = b"A"
_LATEST: Final = b"E"
MOST_LATEST: Final = 5_000
"""Labels that figures of a release are of. Fewer: intervals too wide to tell anything; more: each snapshot, which
writes them, takes longer (28 bytes each)."""
_MOST_KEPT: Final = 300
"""Payments, in memory only, by which importances are told: a mean over as many is stable to some percent."""


class LearnLedger(msgspec.Struct, array_like=True, gc=False):
    """What the step remembers beside the model; times in µs.

    Attributes:
        since: Labels learned since the release before.
        released_at_us: When that was.
        trained: Whether the model could score the latest payment.
        first_us: Decision time of the oldest payment learned.
        last_us: Of the newest.
        genuine: Genuine labels learned.
        frauds: Fraud labels learned.
        corrections: Of both, those that took an earlier label back.
        passed: Labels not learned: of another feature set, or of what was declined where that teaches nothing.
        version: Of the release before.
        sha256: Likewise.
    """

    since: int = 0
    released_at_us: int = 0
    trained: bool = False
    first_us: int = 0
    last_us: int = 0
    genuine: int = 0
    frauds: int = 0
    corrections: int = 0
    passed: int = 0
    version: str | None = None
    sha256: str | None = None


Scored = tuple[float | None, float | None, bool, float]
"""Score at decision, score before learning, fraud, weight."""


@dataclass(frozen=True, slots=True)
class Made:
    """A release on its way out.

    Attributes:
        artefact: The model's bytes.
        sha256: Of them.
        model_id: Of the model.
        version: Author's version, "+", labels learned.
        labels: Labels learned.
        created_at_us: The tick.
        ledger: What was learned.
        latest: The latest labels with their scores.
        importances: Term and its mean size in logits over the latest payments, largest first.
    """

    artefact: bytes
    sha256: str
    model_id: str
    version: str
    labels: int
    created_at_us: int
    ledger: LearnLedger
    latest: list[Scored]
    importances: list[tuple[str, float]]


TellLearned = Callable[[str, str, int], None]
"""(label, source, µs from the payment's decision to the label): a label was learned."""

_encode = msgspec.msgpack.Encoder().encode
_decode_ledger = msgspec.msgpack.Decoder(LearnLedger).decode
_decode_latest = msgspec.msgpack.Decoder(list[Scored]).decode


class Learn:
    """The step; it must run over one single shard."""

    name = NAME

    def __init__(
        self,
        feature_set: FeatureSet,
        restore_model: Callable[[bytes | None], Model] | None,
        release_every_us: int | None,
        learned: TellLearned | None = None,
        loop: LoopConfig | None = None,
    ) -> None:
        """Make the step.

        Args:
            feature_set: Of the profile.
            restore_model: Makes the model; None: labels only pass through.
            release_every_us: Between releases at the least; None: none is made.
            learned: Told of each label learned.
            loop: What is explored, and whether declined payments teach anything.
        """
        self._loop = loop or LoopConfig()
        self._features = feature_set
        self._restore_model = restore_model
        self._every_us = release_every_us
        self._learned = learned

    def on_batch(self, store: StepStore, batch: list[InFlight]) -> list[InFlight]:
        """Learn labels in order, release at ticks; everything passes on."""
        if self._restore_model is None:
            return batch
        note_features(store, self._features, (_MODEL, _LEDGER, _LATEST))
        model, ledger, latest = self._opened(store)
        out: list[InFlight] = []
        for item in batch:
            out.append(item)
            event = item.event
            if item.kind == LABEL and isinstance(event, Label):
                self._learn(store, item, event, model, ledger, latest)
            elif item.kind == TICK and event is not None and self._every_us is not None:
                now_us = event.event_time_us
                if ledger.trained and ledger.since and now_us - ledger.released_at_us >= self._every_us:
                    out.append(self._release(store, item, now_us, model, ledger, latest))
        return out

    def on_snapshot(self, store: StepStore) -> None:
        """Write what has changed since the last snapshot."""
        if not store.memo.get("changed"):
            return
        store.memo["changed"] = False
        model, ledger, latest = self._opened(store)
        store.put_many([(_MODEL, model.to_bytes()), (_LEDGER, _encode(ledger)), (_LATEST, _encode(latest))])

    def _opened(self, store: StepStore) -> tuple[Model, LearnLedger, list[Scored]]:
        opened: tuple[Model, LearnLedger, list[Scored]] | None = store.memo.get("opened")
        if opened is None:
            kept, ledger, latest = store.get_many([_MODEL, _LEDGER, _LATEST])
            restore: Any = self._restore_model
            opened = store.memo["opened"] = (
                restore(kept),
                _decode_ledger(ledger) if ledger else LearnLedger(),
                _decode_latest(latest) if latest else [],
            )
        return opened

    def _learn(
        self,
        store: StepStore,
        item: InFlight,
        label: Label,
        model: Model,
        ledger: LearnLedger,
        latest: list[Scored],
    ) -> None:
        store.memo["changed"] = True
        values = item.known
        detail: Any = item.detail
        loop = self._loop
        weight = label.weight * label_weight(detail, loop.exploration, withheld=loop.withhold_declined)
        if not values or weight <= 0.0:
            ledger.passed += 1
            return
        before = model.score_one(values)
        model.learn_one(values, label.fraud, weight)
        latest.append((detail["score"], before, label.fraud, weight))
        if len(latest) > MOST_LATEST + MOST_LATEST // 10:
            del latest[: len(latest) - MOST_LATEST]
        decided_us = detail["decided_at"]
        ledger.trained = before is not None
        ledger.since += 1
        ledger.first_us = min(ledger.first_us or decided_us, decided_us)
        ledger.last_us = max(ledger.last_us, decided_us)
        ledger.frauds += label.fraud
        ledger.genuine += not label.fraud
        ledger.corrections += label.previous_fraud is not None
        kept: list[list[Value]] = store.memo.setdefault("kept", [])
        kept.append(values)
        if len(kept) > 2 * _MOST_KEPT:
            del kept[:_MOST_KEPT]
        if self._learned is not None:
            self._learned(detail["label"], label.source, label.event_time_us - decided_us)

    def _release(
        self,
        store: StepStore,
        item: InFlight,
        now_us: int,
        model: Model,
        ledger: LearnLedger,
        latest: list[Scored],
    ) -> InFlight:
        sums: dict[str, float] = {}
        kept: list[list[Value]] = store.memo.get("kept", [])[-_MOST_KEPT:]
        for told in model.contributions_many(kept, 1_000):
            for name, size in told:
                sums[name] = sums.get(name, 0.0) + abs(size)
        importances = sorted(((name, total / len(kept)) for name, total in sums.items()), key=_size)
        made = Made(
            artefact=model.to_bytes(),
            sha256=model.artefact_hash(),
            model_id=model.id,
            version=f"{model.version}+{model.labels}",
            labels=model.labels,
            created_at_us=now_us,
            ledger=msgspec.structs.replace(ledger),
            latest=list(latest[-MOST_LATEST:]),
            importances=importances,
        )
        ledger.since, ledger.released_at_us = 0, now_us
        ledger.version, ledger.sha256 = made.version, made.sha256
        store.memo["changed"] = True
        release = InFlight(RELEASE, (*item.order, 1 << 62), None, item.origin, item.ingested_at_us, [], [])
        release.detail = made
        return release


def _size(told: tuple[str, float]) -> tuple[float, str]:
    return (-told[1], told[0])
