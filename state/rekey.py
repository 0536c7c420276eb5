"""Writes all of an encrypted state directory anew under the active key, so that older keys may be destroyed.

Offline: no process may have the shards open. Nothing a step can see changes: every record and before-image is opened
and sealed again in its place, in atomic batches; a kill leaves some under the one key and some under the other, both
readable, and the next run does the rest. At the end each shard is compacted, so that what was written under the old key
is gone from the files too, and the sessions of older keys are forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocksdict import WriteBatch

from schemas.errors import SecretError, StateError
from state.cache import RecordCache
from state.keys import StateKeys
from state.layout import STEP_FAMILY_PREFIX, UNDO_FAMILY
from state.options import StateOptions
from state.record_format import RecordFormat
from state.rocks import RocksSettings
from state.seal import ShardSeal, StepSeal
from state.shard import Shard

BATCH_BYTES = 1 << 20
"""Larger: more memory at once. Smaller: more writes."""


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """What was done: shards looked at, records written anew."""

    shards: int
    rewritten: int


def rekey(directory: Path, keys: StateKeys) -> Rekeyed:
    """Write what stands under other keys anew under `keys.active`.

    Args:
        directory: Where the shards' directories stand.
        keys: The active key and every one that something was written under.

    Raises:
        StateLockedError: A process has a shard open; stop it first.
        SecretError: A key is missing or wrong, or the state is not encrypted.
        StateError: A record does not open, or the disk refuses.
    """
    found = sorted(path.parent for path in directory.glob("*/CURRENT"))
    if not found:
        msg = f"state {directory}: expected shards in it, found none; give the folder that holds them"
        raise StateError(msg)
    settings = RocksSettings(StateOptions())
    rewritten = 0
    for path in found:
        shard = Shard(path, path.name, settings, RecordCache(0), keys)
        try:
            rewritten += _rekey_shard(shard, keys)
        finally:
            shard.close()
    return Rekeyed(len(found), rewritten)


def _rekey_shard(shard: Shard, keys: StateKeys) -> int:
    seal = shard.seal
    if seal is None:
        msg = f"shard {shard.name}: it is not encrypted, so there is nothing to write under another key"
        raise SecretError(msg)
    rewritten = 0
    for family_name in shard.family_names():
        if family_name == UNDO_FAMILY or family_name.startswith(STEP_FAMILY_PREFIX):
            family, handle = shard.db.get_column_family(family_name), shard.db.get_column_family_handle(family_name)
            changed = _rekey_family(shard, seal, family_name, family, handle)
            if changed:
                family.compact_range(None, None)
            rewritten += changed
            family.close()
    seal.forget_other_keys(shard.db)
    shard.sync()
    return rewritten


def _rekey_family(shard: Shard, seal: ShardSeal, name: str, family: Any, handle: Any) -> int:
    count = 0
    batch = WriteBatch(raw_mode=True)
    for place, record in family.items():
        if seal.key_of(record) == seal.keys.active:
            continue
        # A before-image's key begins with its step's name, a record's step is its family's.
        step = place.split(b"\0", 1)[0].decode() if name == UNDO_FAMILY else name.removeprefix(STEP_FAMILY_PREFIX)
        sealed = StepSeal(seal, step, RecordFormat())
        batch.put(place, sealed.seal(place, sealed.unseal(place, record)), handle)
        count += 1
        if batch.size_in_bytes() >= BATCH_BYTES:
            shard.write_batch(batch)
            batch = WriteBatch(raw_mode=True)
    if not batch.is_empty():
        shard.write_batch(batch)
    return count
