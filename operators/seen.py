"""Remembers every payment seen: marks retries, refuses contradictions, and joins late outcomes to their payment.

Keyed by transaction_id. A retry (same id, same content) is marked `duplicate`, so that no later step counts it; the
same id with other content becomes a dead letter. An outcome leaves as a Label that carries the payment's entity keys;
at a tick, payments whose label maturity has passed without an outcome leave as genuine. So labels flow the same way as
payments, and the flow needs no cycle to feed them back.

Records, all in the step's column family (integers big endian, so that keys sort by time):

    b"s" transaction_id                 msgpack: _Seen as an array
    b"d" seen_at_us (8) transaction_id  b""      payments by the time they were seen: maturity, expiry
    b"o" transaction_id                 msgpack: outcomes that came before their payment
    b"w" held_at_us (8) transaction_id  b""      the same by time: expiry
    b"m"                                matured_until_us (8): all payments seen by then have matured
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import xxhash

from operators.held import Held, decode_held, held_of
from operators.inflight import DEAD_LETTER, LABEL, OUTCOME, InFlight
from operators.lessons import SEED as SAMPLE_SEED
from schemas.events import Label, Outcome, Tick, Transaction
from schemas.times import format_rfc3339_us
from state.api import StepStore

_PAGE: Final = 1_000
"""Records a scan reads at once; more holds the interpreter longer, fewer costs more calls."""


@dataclass(frozen=True, slots=True)
class SeenConfig:
    """How long payments are remembered and what becomes of those that never get an outcome.

    Attributes:
        seen_ttl_us: Retries are recognised for this long after the first copy was seen.
        maturity_us: A payment without an outcome is genuine after this long; None: never.
        correction_horizon_us: Outcomes are joined until this long after maturity.
        genuine_share: Share of genuine labels that is kept, chosen by hash, 0 < share <= 1; weight is its inverse.
        held_us: How long an outcome waits for its payment; None: as long as a payment's record lives.
    """

    seen_ttl_us: int
    maturity_us: int | None
    correction_horizon_us: int
    genuine_share: float
    held_us: int | None = None

    @property
    def keep_us(self) -> int:
        """How long a payment's record lives."""
        return max(self.seen_ttl_us, (self.maturity_us or 0) + self.correction_horizon_us)


class _Given(msgspec.Struct, array_like=True, gc=False):
    """The label a payment has got so far; `sent` is False for a genuine one that the sampling left out."""

    fraud: bool
    event_time_us: int
    weight: float
    sent: bool


class _Seen(msgspec.Struct, array_like=True, gc=False):
    digest: int
    event_time_us: int
    seen_at_us: int
    keys: list[bytes | None]
    given: _Given | None = None


_encode = msgspec.msgpack.Encoder().encode
# The order of a map's entries is not content: a sender may write a retry's attributes in another one.
_encode_content = msgspec.msgpack.Encoder(order="deterministic").encode
_decode_seen = msgspec.msgpack.Decoder(_Seen).decode


class Seen:
    """The step; see the module."""

    name = "seen"

    def __init__(self, config: SeenConfig) -> None:
        self._config = config
        # Labels are kept when the hash of the transaction falls below this share of its range.
        self._sample_below = int(config.genuine_share * 2**64)
        self._genuine_weight = 1.0 / config.genuine_share

    def on_batch(self, store: StepStore, batch: list[InFlight]) -> list[InFlight]:
        """Mark retries, turn outcomes into labels, mature at ticks; see the module."""
        open_records = _Records(store, batch)
        out: list[InFlight] = []
        for item in batch:
            event = item.event
            if isinstance(event, Transaction):
                out.append(item)
                out.extend(self._payment(open_records, item, event))
            elif isinstance(event, Outcome):
                out.extend(self._outcome(open_records, item, event))
            elif isinstance(event, Tick):
                # A tick reads by time, so what this batch has changed must be in the store by then.
                open_records.flush()
                out.extend(self._tick(store, open_records, item, event))
                out.append(item)
            else:
                out.append(item)
        open_records.flush()
        return out

    def on_snapshot(self, store: StepStore) -> None:
        """Nothing is held back: every batch writes what it changed."""

    def _payment(self, records: _Records, item: InFlight, event: Transaction) -> Iterable[InFlight]:
        digest = xxhash.xxh64_intdigest(_encode_content(event))
        key = event.transaction_id.encode()
        known = records.seen(key)
        if known is not None:
            if known.digest == digest:
                item.duplicate = True
            else:
                _bury(item, "CONFLICTING_DUPLICATE", "this transaction_id was seen before with other content")
            return ()
        fresh = _Seen(digest, event.event_time_us, item.ingested_at_us, item.keys)
        records.put_seen(key, fresh)
        records.put(b"d" + item.ingested_at_us.to_bytes(8, "big") + key, b"")
        held = records.held(key)
        if not held:
            return ()
        records.put_held(key, [])
        labels = []
        for place, one in enumerate(held):
            made = self._label(records, key, fresh, one.outcome)
            if made is not None:
                labels.append(_behind(item, (*item.order, place), made, fresh.keys, one.origin))
        return labels

    def _outcome(self, records: _Records, item: InFlight, event: Outcome) -> Iterable[InFlight]:
        key = event.transaction_id.encode()
        known = records.seen(key)
        if known is None:
            held = records.held(key)
            if all(one.outcome.outcome_id != event.outcome_id for one in held):
                records.put_held(key, [*held, held_of(item, event)])
                records.put(b"w" + item.ingested_at_us.to_bytes(8, "big") + key, b"")
            return ()
        made = self._label(records, key, known, event)
        return () if made is None else (_behind(item, item.order, made, known.keys, item.origin),)

    def _label(self, records: _Records, key: bytes, known: _Seen, outcome: Outcome) -> Label | None:
        """The label an outcome gives a payment; None when it says nothing new, or is left out by the sampling."""
        fraud = outcome.label == "fraud"
        earlier = known.given
        if earlier is not None and earlier.fraud == fraud:
            return None
        sent = fraud or self._is_sampled(key)
        weight = 1.0 if fraud else self._genuine_weight
        known.given = _Given(fraud, outcome.event_time_us, weight, sent)
        records.put_seen(key, known)
        retracts = earlier if earlier is not None and earlier.sent else None
        if not sent and retracts is None:
            return None
        return Label(
            transaction_id=outcome.transaction_id,
            event_time_us=outcome.event_time_us,
            payment_event_time_us=known.event_time_us,
            payment_seen_at_us=known.seen_at_us,
            fraud=fraud,
            # A correction must reach the windows even where the sampling would have left it out.
            weight=weight if sent else 1.0,
            source=outcome.source,
            outcome_id=outcome.outcome_id,
            fraud_type=outcome.fraud_type,
            previous_fraud=retracts.fraud if retracts else None,
            previous_event_time_us=retracts.event_time_us if retracts else None,
            previous_weight=retracts.weight if retracts else None,
        )

    def _tick(self, store: StepStore, records: _Records, item: InFlight, tick: Tick) -> list[InFlight]:
        out = self._mature(store, records, item, tick.event_time_us)
        out.extend(self._expire(store, records, item, tick.event_time_us))
        records.flush()
        return out

    def _mature(self, store: StepStore, records: _Records, item: InFlight, now_us: int) -> list[InFlight]:
        maturity_us = self._config.maturity_us
        if maturity_us is None:
            return []
        until_us = now_us - maturity_us
        marked = store.get_many([b"m"])[0]
        start = b"d" + ((int.from_bytes(marked, "big") + 1) if marked else 0).to_bytes(8, "big")
        if until_us < 0 or start > b"d" + until_us.to_bytes(8, "big"):
            return []
        labels: list[InFlight] = []
        for page in _pages(store, start, b"d" + (until_us + 1).to_bytes(8, "big")):
            sampled = [index_key for index_key in page if self._is_sampled(index_key[9:])]
            records.load([index_key[9:] for index_key in sampled])
            for index_key in sampled:
                key = index_key[9:]
                known = records.seen(key)
                if known is None or known.given is not None:
                    continue
                matured_at_us = int.from_bytes(index_key[1:9], "big") + maturity_us
                known.given = _Given(False, matured_at_us, self._genuine_weight, True)
                records.put_seen(key, known)
                label = Label(
                    transaction_id=key.decode(),
                    event_time_us=matured_at_us,
                    payment_event_time_us=known.event_time_us,
                    payment_seen_at_us=known.seen_at_us,
                    fraud=False,
                    weight=self._genuine_weight,
                    source="maturity",
                )
                order = (*item.order, matured_at_us, xxhash.xxh64_intdigest(key))
                labels.append(_behind(item, order, label, known.keys, item.origin))
        records.put(b"m", until_us.to_bytes(8, "big"))
        labels.sort(key=_order)  # of equal times an encrypted store has its own order
        return labels

    def _expire(self, store: StepStore, records: _Records, item: InFlight, now_us: int) -> list[InFlight]:
        """Drop what is older than it may be asked for; an outcome whose payment never came is a dead letter."""
        limit = max(0, now_us - self._config.keep_us).to_bytes(8, "big")
        # From where the last tick stopped: what lies before was deleted, and a scan would walk its tombstones.
        done: bytes = store.memo.get("expired", b"")
        store.memo["expired"] = limit
        for page in _pages(store, b"d" + done, b"d" + limit):
            for index_key in page:
                records.drop_seen(index_key[9:])
                records.put(index_key, None)
        buried: list[InFlight] = []
        if not records.any_held():
            return buried
        held_us = self._config.held_us
        if held_us is not None:
            done, limit = b"", max(0, now_us - held_us).to_bytes(8, "big")
        for page in _pages(store, b"w" + done, b"w" + limit):
            records.load([index_key[9:] for index_key in page])
            for index_key in page:
                key = index_key[9:]
                for place, one in enumerate(records.held(key)):
                    order = (*item.order, int.from_bytes(index_key[1:9], "big"), xxhash.xxh64_intdigest(key), place)
                    dead = InFlight(OUTCOME, order, one.outcome, one.origin, item.ingested_at_us, [], [])
                    _bury(dead, "UNMATCHED_OUTCOME", "no payment with this transaction_id was seen")
                    buried.append(dead)
                records.put_held(key, [])
                records.put(index_key, None)
        buried.sort(key=_order)
        return buried

    def _is_sampled(self, key: bytes) -> bool:
        return xxhash.xxh64_intdigest(key, seed=SAMPLE_SEED) < self._sample_below


def _pages(store: StepStore, start: bytes, stop: bytes) -> Iterable[list[bytes]]:
    """Keys from `start` up to `stop`, a page at a time; the caller may delete what it was given."""
    while start < stop:
        page = [key for key, _ in store.scan(start, stop, _PAGE)]
        if not page:
            return
        yield page
        if len(page) < _PAGE:
            return
        start = page[-1] + b"\x00"


def _behind(
    item: InFlight, order: tuple[int, ...], label: Label, keys: list[bytes | None], origin: tuple[str, int, int]
) -> InFlight:
    return InFlight(LABEL, order, label, origin, item.ingested_at_us, keys, [])


def _order(item: InFlight) -> tuple[int, ...]:
    return item.order


def _bury(item: InFlight, reason: str, detail: str) -> None:
    item.kind = DEAD_LETTER
    item.detail = (reason, detail, item.event)
    item.event = None


class _Records:
    """The records one batch touches: read in one go, changed in memory, written in one go."""

    def __init__(self, store: StepStore, batch: list[InFlight]) -> None:
        self._store = store
        self._seen: dict[bytes, _Seen | None] = {}
        self._held: dict[bytes, list[Held]] = {}
        self._writes: dict[bytes, bytes | None] = {}
        self._any_held = store.memo.get("any_held", True)
        names = []
        for item in batch:
            event = item.event
            if isinstance(event, (Transaction, Outcome)):
                names.append(event.transaction_id.encode())
        self.load(names)

    def load(self, names: list[bytes]) -> None:
        """Read what is not known yet of these transactions."""
        wanted = [name for name in dict.fromkeys(names) if name not in self._seen]
        if not wanted:
            return
        found = self._store.get_many([b"s" + name for name in wanted])
        for name, record in zip(wanted, found, strict=True):
            self._seen[name] = None if record is None else _decode_seen(record)

    def seen(self, name: bytes) -> _Seen | None:
        """The payment's record."""
        if name not in self._seen:
            self.load([name])
        return self._seen[name]

    def held(self, name: bytes) -> list[Held]:
        """Outcomes that wait for this payment."""
        if name not in self._held:
            if not self.any_held():
                return []
            record = self._store.get_many([b"o" + name])[0]
            self._held[name] = decode_held(record) if record else []
        return self._held[name]

    def any_held(self) -> bool:
        """Most shards hold no early outcome at any time; one look spares a read for every payment."""
        if self._any_held and not any(self._held.values()):
            self._any_held = bool(self._store.scan(b"o", b"p", 1))
            self._store.memo["any_held"] = self._any_held
        return bool(self._any_held)

    def put_seen(self, name: bytes, record: _Seen) -> None:
        self._seen[name] = record
        self._writes[b"s" + name] = _encode(record)

    def drop_seen(self, name: bytes) -> None:
        self._seen[name] = None
        self._writes[b"s" + name] = None

    def put_held(self, name: bytes, held: list[Held]) -> None:
        self._held[name] = held
        self._writes[b"o" + name] = _encode(held) if held else None
        if held:
            self._any_held = self._store.memo["any_held"] = True

    def put(self, key: bytes, value: bytes | None) -> None:
        self._writes[key] = value

    def flush(self) -> None:
        """Write what was changed."""
        if self._writes:
            self._store.put_many(list(self._writes.items()))
            self._writes = {}


def describe_seen(record: bytes) -> dict[str, Any]:
    """What is remembered of a payment; its content is known by a digest only."""
    known = _decode_seen(record)
    given = known.given
    label = None
    if given is not None:
        label = {"fraud": given.fraud, "event_time": format_rfc3339_us(given.event_time_us), "sent": given.sent}
    return {
        "event_time": format_rfc3339_us(known.event_time_us),
        "seen_at": format_rfc3339_us(known.seen_at_us),
        "keys": [None if key is None else key.decode(errors="replace") for key in known.keys],
        "label": label,
    }


def keys_of_seen(record: bytes) -> list[bytes | None]:
    """The entities' keys of a remembered payment, in the feature set's order."""
    return _decode_seen(record).keys


def without_keys(record: bytes, gone: Callable[[int, bytes], bool]) -> bytes | None:
    """The record without the keys for which `gone` (entity's index, key) holds; None when none does."""
    known = _decode_seen(record)
    kept = [None if key is not None and gone(index, key) else key for index, key in enumerate(known.keys)]
    if kept == known.keys:
        return None
    known.keys = kept
    return _encode(known)
