"""Says in plain words what a record of any step holds; for people and for counting, never on the way of a payment.

Layouts are told where they are written: operators/seen.py, decide.py, window_record.py, travel.py, reputation.py,
identity.py. Times come out as RFC 3339. Nothing here can show a card number, since none is stored: cards are tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from operators.describe_windows import ReadRecord, ShardWindows
from operators.features import EntitySpec, FeatureSet
from operators.identity import describe_identity
from operators.reputation import describe_device
from operators.seen import describe_seen
from operators.travel import describe_track, newest_us
from operators.window_record import AT_LAST_ANY, NEVER
from schemas.times import format_rfc3339_us

LEDGER: Final = "ledger"
LABEL_JOIN: Final = "label_join"
LEARN: Final = "learn"
_DAY_US: Final = 86_400_000_000
_OF_TRANSACTIONS: Final = {
    "seen": {b"s": "payments seen", b"d": "by time", b"o": "early outcomes", b"w": "by time, early", b"m": "maturity"},
    "decide": {
        b"p": "decisions awaiting labels",
        b"w": "early labels",
        b"M": "model",
        b"A": "model's start",
        b"C": "challengers",
        b"B": "challengers' starts",
        b"R": "roles of the models",
        b"X": "exploration budget",
        b"D": "drift",
        b"F": "feature set",
        b"N": "feature names",
        b"u": "published, to be decided again",
    },
    LABEL_JOIN: {
        b"s": "payments seen",
        b"d": "by time",
        b"o": "early outcomes",
        b"w": "by time, early",
        b"m": "maturity",
        b"p": "decisions awaiting labels",
        b"V": "versions",
        b"F": "feature names",
        b"N": "counts",
    },
    LEARN: {
        b"M": "models",
        b"A": "what models have learned",
        b"E": "latest labels",
        b"R": "roles of the models",
        b"H": "releases heard of",
        b"D": "drift",
        b"F": "feature set",
        b"N": "feature names",
    },
    LEDGER: {b"d": "published", b"w": "early retries", b"a": "adopted"},
}
_OF_ENTITIES: Final = {
    b"vh": "entities",
    b"vx": "busy entities",
    b"vc": "chunks",
    b"vp": "panes",
    b"mv": "shard",
    b"tp": "in-person tracks",
    b"tr": "remote tracks",
}


@dataclass(frozen=True, slots=True)
class Sort:
    """What sort of record this is.

    Attributes:
        name: In plain words, plural.
        entity: The entity's key or the transaction's id; None for what is kept once a shard.
        time_us: When it was last heard of, as far as the record says.
    """

    name: str
    entity: bytes | None
    time_us: int | None


def sort_of(step: str, key: bytes, value: bytes) -> Sort:
    """The sort of a record, by the layout of its step; needs no profile."""
    if step in _OF_TRANSACTIONS:
        return _of_transaction(step, key, value)
    if key in (b"t", b"r", b"mv"):
        return Sort("shard", None, None)
    name = _OF_ENTITIES.get(key[:2])
    if name == "entities":
        last = int.from_bytes(value[8 * AT_LAST_ANY : 8 * AT_LAST_ANY + 8], "little", signed=True)
        return Sort(name, key[2:], None if last == NEVER else last)
    if name == "chunks":
        return Sort(name, key[2:-5], None)
    if name == "panes":
        return Sort(name, key[2:-2], None)
    if name is not None:
        return Sort(name, key[2:], newest_us(value) if key[:1] == b"t" else None)
    if key[:1] == b"r":
        return Sort("devices", key[1:], int.from_bytes(value[6:8], "little") * _DAY_US)
    if key[:1] == b"i":
        return Sort("identities", key[1:], None)
    return Sort("unknown", None, None)


def _of_transaction(step: str, key: bytes, value: bytes) -> Sort:
    name = _OF_TRANSACTIONS[step].get(key[:1], "unknown")
    if len(key) == 1 or step == LEARN or name in ("unknown", "feature names", "versions"):
        return Sort(name, None, None)
    if step == LEDGER:
        if key[:1] == b"d":
            return Sort(name, key[5:], int.from_bytes(key[1:5], "big") * _DAY_US)
        if key[:1] == b"a":
            return Sort(name, key[2:], None)
        return Sort(name, key[1:], None)
    if key[:1] in (b"d", b"p", b"w"):
        return Sort(name, key[9:], int.from_bytes(key[1:9], "big"))
    seen_at_us = msgspec.msgpack.decode(value)[2] if key[:1] == b"s" else None
    return Sort(name, key[1:], seen_at_us)


class EntityRecords:
    """The records of one entity's step in one shard, with what says what their words mean."""

    def __init__(self, feature_set: FeatureSet, spec: EntitySpec, read: ReadRecord, shard: str) -> None:
        """Prepare; `read` gives records of the step in the shard.

        Raises:
            StateLayoutError: The shard's records are of another layout.
        """
        self._windows = ShardWindows(feature_set, spec, read, f"{spec.name}/{shard}")

    def keys_of(self, entity: bytes) -> list[bytes]:
        """Keys under which everything of an entity stands, but chunks and panes, which the index names."""
        return [prefix + entity for prefix in (b"vh", b"vx", b"tp", b"tr", b"r", b"i")]

    def describe(self, key: bytes, value: bytes) -> dict[str, Any]:
        """What the record holds."""
        sort = sort_of("", key, value)
        if sort.name == "entities":
            return self._windows.of_head(value).describe_head(value)
        if sort.name == "busy entities":
            return self._windows.of_entity(key[2:]).describe_index(value)
        if sort.name.endswith("tracks"):
            return describe_track(value)
        if sort.name == "devices":
            return describe_device(value)
        if sort.name == "identities":
            return describe_identity(value)
        return {"bytes": len(value)}


def describe_record(step: str, key: bytes, value: bytes) -> dict[str, Any]:
    """What a record of the steps keyed by transaction holds: seen, decide, ledger."""
    if step == "seen" and key[:1] == b"s":
        return describe_seen(value)
    if step == "decide" and key[:1] == b"p":
        values, decision = msgspec.msgpack.decode(value)
        return {"decision": _with_times(decision), "values_kept": len(values)}
    if step == LEDGER and key[:1] == b"d":
        if len(value) != 12:  # of a live flow: the decision itself
            return {"published_bytes": msgspec.msgpack.decode(value)[0]}
        return {"offset": int.from_bytes(value[:8], "big"), "length": int.from_bytes(value[8:], "big")}
    return {"bytes": len(value)}


def _with_times(decision: dict[str, Any]) -> dict[str, Any]:
    told = dict(decision)
    if isinstance(told.get("decided_at"), int):
        told["decided_at"] = format_rfc3339_us(told["decided_at"])
    return told
