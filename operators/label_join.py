"""Decisions meet what became of their payments: the join of the learning flow, keyed by transaction.

Decisions and outcomes come in any order. A decision waits here, with the values that were scored, until its label can
neither come nor be corrected any more: maturity plus the correction horizon. Which label a payment gets and when, what
a later outcome corrects, which genuine ones are left out: all that is `operators.seen`, the very code of the replay.
This step keeps what was scored beside it, and tells labels with it.

A decision that comes twice (`duplicate` is how a retry is answered) counts once; another decision on the same payment
is a dead letter, CONFLICTING_DUPLICATE: the first one stands. So is an outcome whose decision never came,
UNMATCHED_OUTCOME. That nobody complained of a payment that was declined says nothing, and makes no label.

What challengers said when the payment was decided waits with it, 9 bytes a challenger, and goes with the label to the
step behind (`operators.learn.SHADOWS`). That step is also given a sample of the payments, where it watches for drift.

Records, beside those of `operators.seen` (s, d, o, w, m; integers big endian):

    b"p" seen_at_us (8) transaction_id      msgpack: Waiting as an array
    b"V" xxh3_64 of the record (8)          msgpack: [versions, as a decision tells them; ids of its challengers]; some
                                            500 bytes once, not with every payment
    b"F" feature-set hash                   msgpack: names of its features, in the order of the values that wait
    b"N"                                    msgpack: [waiting payments, their bytes]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec
import xxhash

from operators.decide_records import CARRIED, label_key, pending_key
from operators.drift import SAMPLE_SEED
from operators.exploration import silence_says_nothing
from operators.features import FeatureSet
from operators.inflight import DEAD_LETTER, LABEL, PAYMENT, TICK, InFlight, Value
from operators.learn import SHADOWS
from operators.seen import Seen, SeenConfig
from schemas.codec import feature_map_json
from schemas.events import Label
from schemas.times import format_rfc3339_us
from state.api import StepStore

NAME: Final = "label_join"
COUNTS: Final = b"N"
_PAGE: Final = 1_000
KEPT: Final = (*(name for name in CARRIED if name != "versions"), "exploration", "propensity")
"""Fields of a decision that its labelled outcome repeats, and that wait with it."""

TellPending = Callable[[str, int, int], None]
"""(shard, payments that wait, bytes of their records)."""


class Scored(msgspec.Struct, frozen=True, gc=False):
    """What a decision says, as it was read.

    Attributes:
        decision: KEPT of it, times in microseconds.
        versions: As told.
        values: What was scored, in the feature set's order; None when that is another set than this flow's.
        features: As told, when `values` is None.
        shadows: What each challenger said, by id.
    """

    decision: dict[str, Any]
    versions: dict[str, Any]
    values: list[Value] | None
    features: Any = None
    shadows: dict[str, float | None] = {}


class Waiting(msgspec.Struct, array_like=True, gc=False):
    """A decision that waits for its label."""

    kept: list[Any]  # values of KEPT, in its order
    versions: bytes
    values: list[Value] | None
    features: Any
    shadows: list[float | None]  # in the order of the ids that `versions` names


_Versions = tuple[dict[str, Any], list[str]]

_encode = msgspec.msgpack.Encoder().encode
_decode_waiting = msgspec.msgpack.Decoder(Waiting).decode
_decode_versions = msgspec.msgpack.Decoder(_Versions).decode
_decode_names = msgspec.msgpack.Decoder(list[str]).decode
_decode_counts = msgspec.msgpack.Decoder(list[int]).decode


class LabelJoin:
    """The step; see the module."""

    name = NAME

    def __init__(
        self,
        config: SeenConfig,
        feature_set: FeatureSet,
        pending: TellPending,
        *,
        maps_features: bool,
        watched: float = 0.0,
    ) -> None:
        """Make the step.

        Args:
            config: Maturity, correction horizon, share of genuine labels, how long outcomes wait.
            feature_set: Of this flow.
            pending: Told after each batch what waits.
            maps_features: Whether labelled outcomes tell features by name, in JSON; else as the contract has them.
            watched: Share of the payments, by hash, that go on to the step behind, with the score that decided in
                `detail`.
        """
        self._watched = int(watched * 2**64)
        self._seen = Seen(config)
        self._keep_us = config.keep_us
        self._hash = feature_set.hash
        self._set_id = feature_set.id
        self._names = [feature.name for feature in feature_set.features]
        self._map: Callable[[list[Value]], object] = feature_map_json(self._names)
        self._pending = pending
        self._maps = maps_features

    def on_batch(self, store: StepStore, batch: list[InFlight]) -> list[InFlight]:
        """Take decisions in, let labels out with what was scored."""
        scored: dict[int, Any] = {id(item): item.detail for item in batch if item.kind == PAYMENT}
        writes: dict[bytes, bytes | None] = {}
        passed = self._seen.on_batch(store, batch)
        labels = [item for item in passed if item.kind == LABEL]
        found: dict[bytes, bytes | None] = {}
        if labels:
            keys = list(dict.fromkeys(label_key(item.event) for item in labels))
            found = dict(zip(keys, store.get_many(keys), strict=True))
        out: list[InFlight] = []
        for item in passed:
            if item.kind == PAYMENT:
                if not item.duplicate:
                    self._keep(store, item, scored[id(item)], writes)
                    if self._is_watched(item, scored[id(item)]):
                        out.append(item)
            elif item.kind == LABEL:
                if self._label(store, item, writes, found):
                    out.append(item)
            else:
                if item.kind == TICK and item.event is not None:
                    self._note_expiry(store, item.event.event_time_us)
                out.append(item)
        if writes:
            self._count(store, writes)
            store.put_many(list(writes.items()))
        self._pending(store.shard, *self._counts(store))
        return out

    def on_snapshot(self, store: StepStore) -> None:
        """Drop decisions whose label can no longer come."""
        limit: bytes | None = store.memo.pop("expire_before", None)
        if limit is None:
            return
        # From where the last one stopped: what lies before was deleted, and a scan would walk its tombstones.
        start: bytes = store.memo.get("expired_pending", b"p")
        counts = self._counts(store)
        while start < limit:
            page = store.scan(start, limit, _PAGE)
            counts[0] -= len(page)
            counts[1] -= sum(len(key) + len(record) for key, record in page)
            store.put_many([*((key, None) for key, _ in page), (COUNTS, _encode(counts))])
            start = page[-1][0] + b"\x00" if len(page) == _PAGE else limit
        store.memo["expired_pending"] = start

    def _keep(self, store: StepStore, item: InFlight, scored: Scored, writes: dict[bytes, bytes | None]) -> None:
        versions = _encode([scored.versions, list(scored.shadows)])
        name = xxhash.xxh3_64_digest(versions)
        known: set[bytes] = store.memo.setdefault("versions", set())
        if name not in known:
            known.add(name)
            writes[b"V" + name] = versions
        if scored.values is not None and "named" not in store.memo:
            store.memo["named"] = True
            writes[b"F" + self._hash.encode()] = _encode(self._names)
        decision = scored.decision
        kept = [decision[field] for field in KEPT]
        key = pending_key(item.ingested_at_us, decision["transaction_id"])
        writes[key] = _encode(Waiting(kept, name, scored.values, scored.features, list(scored.shadows.values())))

    def _is_watched(self, item: InFlight, scored: Scored) -> bool:
        if not self._watched or scored.values is None:
            return False
        name: str = scored.decision["transaction_id"]
        if xxhash.xxh64_intdigest(name.encode(), seed=SAMPLE_SEED) >= self._watched:
            return False
        item.known, item.detail = scored.values, scored.decision["score"]
        return True

    def _label(
        self,
        store: StepStore,
        item: InFlight,
        writes: Mapping[bytes, bytes | None],
        found: Mapping[bytes, bytes | None],
    ) -> bool:
        """Whether there is a label to tell."""
        label: Any = item.event
        key = label_key(label)
        record = writes.get(key) or found.get(key)
        if record is None:
            item.kind = DEAD_LETTER
            item.detail = ("UNMATCHED_OUTCOME", "the decision it is about is no longer kept", label)
            item.event = None
            return True
        waiting = _decode_waiting(record)
        kept = dict(zip(KEPT, waiting.kept, strict=True))
        if silence_says_nothing(kept, label.source):
            return False
        versions, shadows = self._versions(store, waiting.versions, writes)
        own = waiting.values is not None and versions.get("feature_set_hash") == self._hash
        item.known = waiting.values if own and waiting.values is not None else []
        features = self._own(item.known) if own else self._other(store, waiting, versions, writes)
        item.detail = {
            **kept,
            "versions": versions,
            "outcome_id": label.outcome_id,
            "label": "fraud" if label.fraud else "genuine",
            "source": label.source,
            "fraud_type": label.fraud_type,
            "event_time": label.event_time_us,
            "payment_event_time": label.payment_event_time_us,
            "features": features,
            "weight": label.weight,
            "correction_of": corrected(label),
            SHADOWS: list(zip(shadows, waiting.shadows, strict=False)),
        }
        return True

    def _own(self, values: list[Value]) -> object:
        return self._map(values) if self._maps else {"feature_set": self._set_id, "values": list(values)}

    def _other(
        self,
        store: StepStore,
        waiting: Waiting,
        versions: Mapping[str, Any],
        writes: Mapping[bytes, bytes | None],
    ) -> Any:
        """Features of a decision of another feature set, in the form that this flow's wire has; nobody learns them."""
        features = waiting.features
        if waiting.values is not None:
            key = b"F" + str(versions.get("feature_set_hash")).encode()
            record = writes.get(key) or store.get_many([key])[0]
            names = _decode_names(record) if record else [str(at) for at in range(len(waiting.values))]
            features = {name: _finite(value) for name, value in zip(names, waiting.values, strict=True)}
        if self._maps or not isinstance(features, dict) or features.keys() == {"feature_set", "values"}:
            return features
        return {"feature_set": versions.get("feature_set_id") or "", "values": list(features.values())}

    def _versions(self, store: StepStore, name: bytes, writes: Mapping[bytes, bytes | None]) -> _Versions:
        decoded: dict[bytes, _Versions] = store.memo.setdefault("versions decoded", {})
        found = decoded.get(name)
        if found is None:
            record = writes.get(b"V" + name) or store.get_many([b"V" + name])[0]
            found = decoded[name] = _decode_versions(record) if record else ({}, [])
        return found

    def _note_expiry(self, store: StepStore, now_us: int) -> None:
        """Not before the epoch ends: what this batch still tells may need them."""
        limit_us = now_us - self._keep_us
        if limit_us > 0:
            store.memo["expire_before"] = b"p" + limit_us.to_bytes(8, "big")

    def _counts(self, store: StepStore) -> list[int]:
        counts: list[int] | None = store.memo.get("counts")
        if counts is None:
            record = store.get_many([COUNTS])[0]
            counts = store.memo["counts"] = _decode_counts(record) if record else [0, 0]
        return counts

    def _count(self, store: StepStore, writes: dict[bytes, bytes | None]) -> None:
        counts = self._counts(store)
        for key, record in writes.items():
            if key[:1] == b"p" and record is not None:
                counts[0] += 1
                counts[1] += len(key) + len(record)
        writes[COUNTS] = _encode(counts)


def kept_of(record: bytes) -> dict[str, Any]:
    """KEPT of the decision that waits in a record b"p"."""
    return dict(zip(KEPT, _decode_waiting(record).kept, strict=True))


def without_payee(record: bytes, account: str) -> bytes | None:
    """A record b"p" without the payee's account; None when it is not this one."""
    waiting = _decode_waiting(record)
    at = KEPT.index("counterparty_id")
    if waiting.kept[at] != account:
        return None
    waiting.kept[at] = None
    return _encode(waiting)


def counts_after(record: bytes, changes: Iterable[tuple[bytes, bytes, bytes | None]]) -> bytes:
    """What b"N" is once records have been replaced or taken out.

    Args:
        record: What it was.
        changes: (key, record as it was, record as it is or None) of any records of the step.
    """
    payments, size = _decode_counts(record)
    for key, before, after in changes:
        if key[:1] == b"p":
            payments -= after is None
            size -= len(before) - len(after) if after is not None else len(key) + len(before)
    return _encode([payments, size])


def _finite(value: Value) -> Value:
    return None if type(value) is float and not math.isfinite(value) else value


def corrected(label: Label) -> str | None:
    """What the label before this one said and when; None when there was none."""
    if label.previous_fraud is None or label.previous_event_time_us is None:
        return None
    said = "fraud" if label.previous_fraud else "genuine"
    return f"{said} {format_rfc3339_us(label.previous_event_time_us)}"
