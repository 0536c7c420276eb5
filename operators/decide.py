"""Decides payments: rules and score to an action with its reasons; and teaches the model what became of them.

What was scored is kept until the label can no longer come, so that the model learns from the very values it saw.
Payments leave with their decision in `detail`, labels with their labelled outcome; both are mappings of the contract,
times still in microseconds.

Records:

    b"p" seen_at_us (8, big endian) transaction_id              msgpack: Pending as an array
    b"M"                                                        the model, as it writes itself
    b"A"                                                        sha256 (hex) of the artefact the model started from
    b"w" seen_at_us (8, big endian) transaction_id              msgpack: labels that overtook their payment
    b"u" transaction_id                                         see operators/adopted.py
    b"C" model id, b"B" model id                                a challenger, and its start's sha256
    b"R", b"X", b"D"                                            see operators/steering.py

A model that learns has no artefact of its own for every payment. Its start's hash, its version and the number of
labels it has learned since name its state: learning is deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import xxhash

from operators.actions import Action
from operators.adopted import Adopted
from operators.decide_records import (
    Pending,
    Waiting,
    all_scores,
    carried,
    decode_pending,
    decode_waiting,
    encode,
    for_outcome,
    label_key,
    pending_key,
)
from operators.exploration import Drawn, silence_says_nothing
from operators.feature_change import NAMES_PREFIX, names_of, note_features
from operators.features import FeatureSet
from operators.inflight import ALERT, DEAD_LETTER, LABEL, PAYMENT, InFlight, Value
from operators.model import Model
from operators.policy import Cause, Policy
from operators.roster import Roster, Scored, version_of
from operators.steering import Steering, take_alerts
from schemas.events import Label, Tick, Transaction
from schemas.positions import told_place
from schemas.times import format_rfc3339_us
from state.api import StepStore

_TOP: Final = 5
"""Contributions told with a decision: more than five is a list, not an explanation, and costs bytes in each record."""
_AT_ONCE: Final = 32
"""Payments scored and told together. A payment's features are some 10 KB while it is decided: more at once than the
processor's cache holds cost twice the time; fewer call the model's machine code for too little."""
_NEVER: Final = 1 << 62
_UNSCORED: Final = Scored(None, (), "champion", "")
_PAGE: Final = 1_000
"""Records a scan reads at once; more holds the interpreter longer, fewer costs more calls."""


@dataclass(frozen=True, slots=True)
class DecideConfig:
    """What deciding needs beside rules and model.

    Attributes:
        keep_us: How long a scored payment waits for its label; None: labels are not expected, nothing is kept.
        geo_version: Version of the geo data, for the record.
        rates_version: Version of the exchange rates, for the record.
        may_overtake: Whether a label may come before its payment, as it may with several workers; it then waits, as
            does one that comes in its payment's epoch.
        now_us: The clock of a live flow, for `decided_at` and deadlines. None in a replay: its payments are decided as
            they come in, and no deadline is missed, so that it repeats to the byte.
        began_us: By that clock, when this process began: what came in before was waiting and is the backlog.
        deadlines: Whether the policy's deadline counts.
    """

    keep_us: int | None
    geo_version: str | None
    rates_version: str | None
    may_overtake: bool = False
    now_us: Callable[[], int] | None = None
    began_us: int = 0
    deadlines: bool = True


RestoreModel = Callable[[bytes | None], Model]
"""The model from its bytes, or a new one."""

TellFeatures = Callable[[list[Value]], object]
"""What stands under `features` in the records of a payment with these values."""


class Decide:
    """The step; see the module. With a learning model it must run over one single shard."""

    name = "decide"

    def __init__(
        self,
        feature_set: FeatureSet,
        policy: Policy,
        restore_model: RestoreModel | None,
        config: DecideConfig,
        tell_features: TellFeatures | None = None,
        adopted: Adopted | None = None,
        steering: Steering | None = None,
    ) -> None:
        """Make the step.

        Args:
            feature_set: Of the profile.
            policy: Rules and thresholds.
            restore_model: Makes the model; None: payments have no score.
            config: The rest.
            tell_features: Form of `features` in decisions and labelled outcomes; default: a map of name to value. A
                flow that publishes JSON has it encoded at once, while the values are at hand.
            adopted: Decisions that an earlier run published and did not commit.
            steering: Challengers, roles, exploration, drift; None: there are none.
        """
        self._steering = steering or Steering(restore_model)
        self._features = feature_set
        self._names = names = [feature.name for feature in feature_set.features]
        self._numbers = {feature.name for feature in feature_set.features if feature.kind == "number"}
        self._tell = tell_features or (lambda values: dict(zip(names, values, strict=True)))
        self._policy = policy
        self._config = config
        self._may_overtake = config.may_overtake
        self._adopted = adopted if config.keep_us is not None else None
        self._now_us = config.now_us
        deadline_ms = policy.deadline_ms if config.deadlines else None
        self._deadline_us = _NEVER if deadline_ms is None else deadline_ms * 1_000

    def on_batch(self, store: StepStore, batch: list[InFlight]) -> list[InFlight]:
        """Decide payments and learn labels, in order."""
        note_features(store, self._features, self._steering.model_keys)
        model = self._steering.roster(store)
        pending: dict[bytes, bytes | None] = {}
        found = self._load(store, batch)
        run: list[InFlight] = []
        out: list[InFlight] = self._held_back(store, batch[0], pending) if batch else []

        def decide_run() -> None:
            if run:
                for start in range(0, len(run), _AT_ONCE):
                    self._decide(store, run[start : start + _AT_ONCE], model, pending)
                out.extend(run)
                run.clear()

        for item in batch:
            event = item.event
            if item.kind == PAYMENT and not item.duplicate:
                run.append(item)
                continue
            # Labels change the model, so what came before them is scored first.
            decide_run()
            if isinstance(event, Label):
                if self._learn(store, item, event, pending, found):
                    out.append(item)
                    out.extend(_alerts(store, item))
            elif isinstance(event, Tick):
                self._note_expiry(store, event)
                self._steering.tick(store, event.event_time_us)
                out.extend(_alerts(store, item))
            else:
                out.append(item)
        decide_run()
        if pending:
            store.put_many(list(pending.items()))
        return out

    def on_snapshot(self, store: StepStore) -> None:
        """Write the model if it has learned since the last snapshot; drop decisions whose label can no longer come."""
        self._expire(store)
        if self._adopted is not None:
            store.put_many(self._adopted.writes())
        store.memo["fresh"] = set()
        if store.memo.get("any_waiting"):
            store.memo["held_back"] = True
        self._steering.on_snapshot(store)

    def _decide(
        self, store: StepStore, run: list[InFlight], model: Roster | None, pending: dict[bytes, bytes | None]
    ) -> None:
        values_list = [item.values for item in run]
        scores: list[Scored] = [_UNSCORED] * len(run)
        if model is not None:
            accounts = [getattr(item.event, "account_id", "") for item in run]
            scores = model.score(accounts, values_list, _TOP)
        versions = self._versions(store, model)
        adopted = self._adopted if self._adopted is not None and self._adopted.open(store) else None
        self._steering.decided(store, run, values_list, scores)
        for item, values, scored in zip(run, values_list, scores, strict=True):
            item.detail = decision = self._decision(store, item, values, scored, versions[scored.model])
            if self._config.keep_us is not None:
                key = pending_key(item.ingested_at_us, decision["transaction_id"])
                if self._may_overtake:
                    store.memo.setdefault("fresh", set()).add(key)
                published = None if adopted is None else adopted.take(decision["transaction_id"])
                pending[key] = encode(
                    Pending(values, carried(decision))
                    if published is None
                    else self._published_pending(published, pending)
                )
            item.known = []  # nobody behind this step asks for them, and a batch of them is large

    def _published_pending(self, published: Mapping[str, Any], pending: dict[bytes, bytes | None]) -> Pending:
        """What waits for the label of a published decision: what it says; an absent number is NaN again."""
        kept = carried(published)
        told = published["features"]
        scored_under = published["versions"]["feature_set_hash"]
        if scored_under == self._features.hash:
            numbers = self._numbers
            return Pending(
                [math.nan if told[name] is None and name in numbers else told[name] for name in self._names], kept
            )
        # Of another feature set the step may not have heard: it ran until the kill and committed nothing.
        pending[NAMES_PREFIX + scored_under.encode()] = encode(list(told))
        return Pending(list(told.values()), kept)

    def _decision(
        self,
        store: StepStore,
        item: InFlight,
        values: list[Value],
        scored: Scored,
        versions: dict[str, str | None],
    ) -> dict[str, Any]:
        event = item.event
        score = scored.score
        if not isinstance(event, Transaction):
            message = f"kind {item.kind} holds a {type(event).__name__}, expected a Transaction"
            raise TypeError(message)
        policy = self._policy
        active = policy.evaluate(values)
        verdict = policy.decide(active, score)
        decided_at_us = item.ingested_at_us
        missed = False
        if self._now_us is not None:
            # A broker's clock may run ahead of ours; nothing is decided before it came in.
            decided_at_us = max(self._now_us(), item.ingested_at_us)
            missed = decided_at_us - item.ingested_at_us > self._deadline_us
            if missed:
                cause: Cause = "backlog" if item.ingested_at_us < self._config.began_us else "deadline"
                verdict = policy.fall_back(active, verdict, cause)
        decision_id = xxhash.xxh3_128_hexdigest(event.transaction_id.encode())
        drawn: Drawn | None = None
        if verdict.action > Action.APPROVE and verdict.fallback is None:
            drawn = self._steering.draw(store, decision_id, active, verdict, item)
            if drawn is not None:
                verdict = drawn.verdict
        quality = item.flags + [f"absent:{name}" for name in policy.absent(values, item.keys)]
        if score is None:
            quality.append("no_model_score")
        return {
            "decision_id": decision_id,
            "transaction_id": event.transaction_id,
            "event_time": event.event_time_us,
            "decided_at": decided_at_us,
            "ingested_at": item.ingested_at_us,
            "source": told_place(*item.origin),
            "account_id": event.account_id,
            "card_id": event.card_id,
            "device_id": event.device_id,
            "ip": event.ip,
            "merchant_id": event.merchant_id,
            "terminal_id": event.terminal_id,
            "counterparty_id": event.counterparty_id,
            "amount_minor": event.amount_minor,
            "currency": event.currency,
            "channel": event.channel,
            "country": event.country,
            "action": verdict.action.wire,
            "proposed_action": verdict.proposed_action.wire,
            "score": score,
            "contributions": [{"feature": name, "value": weight} for name, weight in scored.why],
            "reason_codes": list(verdict.reasons),
            "rule_hits": [{"rule": hit.rule_id, "action": hit.action.wire} for hit in active.hits],
            "shadow_hits": [{"rule": hit.rule_id, "action": hit.would} for hit in policy.evaluate_shadow(values).hits],
            "challenger_scores": [shadow.record() for shadow in scored.shadows],
            "features": self._tell(values),
            "quality_flags": quality,
            "versions": versions,
            "role": scored.role,
            "exploration": None if drawn is None else drawn.exploration,
            "propensity": None if drawn is None else drawn.propensity,
            "deadline_missed": missed,
            "fallback": verdict.fallback,
            "duplicate": False,
            "trace_id": None,
        }

    def _versions(self, store: StepStore, roster: Roster | None) -> dict[str, dict[str, str | None]]:
        """What decisions depend on, by the id of the model that decides."""
        told: dict[str, str | None] = {
            "policy_id": self._policy.id,
            "policy_version": self._policy.version,
            "policy_hash": self._policy.hash,
            "feature_set_id": self._features.id,
            "feature_set_hash": self._features.hash,
            "model_id": None,
            "model_version": None,
            "model_hash": None,
            "rates_hash": self._config.rates_version,
            "geo_hash": self._config.geo_version,
        }
        if roster is None:
            return {_UNSCORED.model: told}
        return {
            name: {
                **told,
                "model_id": name,
                "model_version": version_of(model),
                "model_hash": self._steering.started(store, name),
            }
            for name, model in roster.models.items()
        }

    def _load(self, store: StepStore, batch: list[InFlight]) -> dict[bytes, bytes | None]:
        """The pending records that the batch's labels are about, read in one go."""
        keys = [label_key(item.event) for item in batch if isinstance(item.event, Label)]
        return dict(zip(keys, store.get_many(keys), strict=True)) if keys else {}

    def _learn(
        self,
        store: StepStore,
        item: InFlight,
        label: Label,
        pending: dict[bytes, bytes | None],
        found: dict[bytes, bytes | None],
    ) -> bool:
        """Whether there is something to tell; not when it waits for its payment, or when silence says nothing."""
        key = label_key(label)
        record = pending[key] if key in pending else found.get(key)
        if self._may_overtake and (record is None or key in store.memo.get("fresh", ())):
            topic, partition, offset = item.origin
            held_key = b"w" + key[1:]
            held = pending.get(held_key) or store.get_many([held_key])[0]
            known = decode_waiting(held) if held else []
            pending[held_key] = encode([*known, Waiting(label, topic, partition, offset)])
            store.memo["any_waiting"] = True
            return False
        if record is None:
            _bury(item)
            return True
        scored = decode_pending(record)
        if silence_says_nothing(scored.decision, label.source):
            return False
        scored_under = scored.decision["versions"]["feature_set_hash"]
        names = self._names if scored_under == self._features.hash else names_of(store, scored_under)
        tell = self._tell if names is self._names else lambda values: dict(zip(names, values, strict=True))
        decision = for_outcome(scored.decision)
        taught = scored.values if names is self._names else None
        self._steering.labelled(store, label, scored.decision, all_scores(scored.decision), taught)
        item.detail = {
            **decision,
            "outcome_id": label.outcome_id,
            "label": "fraud" if label.fraud else "genuine",
            "source": label.source,
            "fraud_type": label.fraud_type,
            "event_time": label.event_time_us,
            "payment_event_time": label.payment_event_time_us,
            "features": tell(scored.values),
            "weight": label.weight,
            "exploration": decision.get("exploration"),
            "propensity": decision.get("propensity"),
            "correction_of": _corrected(label),
        }
        return True

    def _held_back(self, store: StepStore, first: InFlight, pending: dict[bytes, bytes | None]) -> list[InFlight]:
        """The labels that waited for the last epoch to end, told; dead letters of those without a payment.

        With several processes a label waits when it overtook its payment, and also when both are of one epoch: the
        decision goes to one output and the label to another, and a kill could keep the label and lose the decision,
        which would be made anew, perhaps otherwise. Once the epoch is over the decision is published for good.

        A payment enters the flow before its label, so when an epoch is over and the label is there, the payment has
        been: if it is not here, it is no longer kept. Likewise of what an earlier run left, with whatever number of
        workers it ran.
        """
        if "held_back" not in store.memo:  # looked for once: a scan writes out what waits to be written
            store.memo["held_back"] = bool(store.scan(b"w", b"x", 1))
        if not store.memo["held_back"]:
            return []
        store.memo["held_back"] = store.memo["any_waiting"] = False
        out: list[InFlight] = []
        start = b"w"
        while page := store.scan(start, b"x", _PAGE):
            store.put_many([(key, None) for key, _ in page])
            keys = [b"p" + key[1:] for key, _ in page]
            found = dict(zip(keys, store.get_many(keys), strict=True))
            for _, record in page:
                for one in decode_waiting(record):
                    order = (*first.order, -1, len(out))
                    origin = (one.topic, one.partition, one.offset)
                    item = InFlight(LABEL, order, one.label, origin, first.ingested_at_us, [], [])
                    if found[label_key(one.label)] is None:
                        _bury(item)
                    elif not self._learn(store, item, one.label, pending, found):
                        continue
                    out.append(item)
                    out.extend(_alerts(store, item))
            start = page[-1][0] + b"\x00"
        return out

    def _note_expiry(self, store: StepStore, tick: Tick) -> None:
        """Decisions seen before this tick less `keep_us` may go, but not before the epoch ends.

        With several workers a label that set out before the tick may arrive behind it.
        """
        keep_us = self._config.keep_us
        if keep_us is not None and tick.event_time_us > keep_us:
            limit = b"p" + (tick.event_time_us - keep_us).to_bytes(8, "big")
            store.memo["expire_before"] = max(limit, store.memo.get("expire_before", b""))

    def _expire(self, store: StepStore) -> None:
        """Drop decisions whose label can no longer come."""
        limit: bytes | None = store.memo.pop("expire_before", None)
        if limit is None:
            return
        # From where the last one stopped: what lies before was deleted, and a scan would walk its tombstones.
        start: bytes = store.memo.get("expired", b"p")
        while start < limit:
            page = store.scan(start, limit, _PAGE)
            store.put_many([(key, None) for key, _ in page])
            start = page[-1][0] + b"\x00" if len(page) == _PAGE else limit
        store.memo["expired"] = start


def _alerts(store: StepStore, behind: InFlight) -> list[InFlight]:
    """What a person should look at since the last event, told right behind the event that brought it about."""
    alerts = take_alerts(store)
    made = []
    for place, alert in enumerate(alerts):
        item = InFlight(ALERT, (*behind.order, place), None, behind.origin, behind.ingested_at_us, [], [])
        item.detail = alert
        made.append(item)
    return made


def _bury(item: InFlight) -> None:
    item.kind = DEAD_LETTER
    item.detail = ("UNMATCHED_OUTCOME", "the decision it is about is no longer kept", item.event)
    item.event = None


def _corrected(label: Label) -> str | None:
    """What the label before this one said and when; None when there was none."""
    if label.previous_fraud is None or label.previous_event_time_us is None:
        return None
    said = "fraud" if label.previous_fraud else "genuine"
    return f"{said} {format_rfc3339_us(label.previous_event_time_us)}"
