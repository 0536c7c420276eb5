"""What the deciding step must know when the feature set changes: names of the values it kept, and whose model it is.

A payment waits for its label with the values that were scored, in the order of the feature set of its time. After a
change such a payment is still labelled and published, under the names its values had; no model learns from it, for a
model belongs to one feature set (promise 3), and the one of the set before is dropped: the new one starts as
learning.toml has it start.

Records, beside those of `operators.decide`:

    b"F"                hash of the feature set that ran last (ASCII)
    b"N" hash           MessagePack array: names of its features in order
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from operators.features import FeatureSet
from schemas.errors import StateError
from state.api import StepStore

CURRENT_KEY: Final = b"F"
NAMES_PREFIX: Final = b"N"
_MEMO: Final = "features noted"


def note_features(store: StepStore, feature_set: FeatureSet, model_keys: tuple[bytes, ...]) -> None:
    """Note the feature set, once a store; when it is another than before, drop the records of the model."""
    if store.memo.get(_MEMO):
        return
    known = feature_set.hash.encode()
    before = store.get_many([CURRENT_KEY])[0]
    if before != known:
        names = msgspec.msgpack.encode([feature.name for feature in feature_set.features])
        writes: list[tuple[bytes, bytes | None]] = [(CURRENT_KEY, known), (NAMES_PREFIX + known, names)]
        if before is not None:
            writes += [(key, None) for key in model_keys]
        store.put_many(writes)
    store.memo[_MEMO] = True


def names_of(store: StepStore, feature_set_hash: str) -> list[str]:
    """Names of the features of a set that ran before.

    Raises:
        StateError: It never ran on this state; state and output are out of step.
    """
    record = store.get_many([NAMES_PREFIX + feature_set_hash.encode()])[0]
    if record is None:
        msg = (
            f"shard {store.step}/{store.shard}: a scored payment names the feature set {feature_set_hash[:12]}, of "
            "which nothing is kept; restore a backup (docs/runbooks/restore.md)"
        )
        raise StateError(msg)
    names: Any = msgspec.msgpack.decode(record, type=list[str])
    return list(names)
