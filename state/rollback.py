"""Exact rollback of one step of a shard, safe to be killed anywhere.

The undo records of the step are used up from the last one backwards, in batches. Each batch holds, atomically: the
before-images put back, the deletion of the undo records they came from, and the version that the step sinks to as soon
as anything of a later one is undone. So whatever prefix of the batches is on disk after a kill, the undo records still
there lead from what is there to any version at or below the recorded one, and a version above it is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from rocksdict import WriteBatch

from schemas.errors import StateError, StateVersionError
from state.layout import (
    LAST_VERSION,
    UNDO_FAMILY,
    decode_version,
    encode_version,
    undo_key,
    undo_prefix,
    undo_version,
    version_key,
)

if TYPE_CHECKING:
    from state.shard import Shard

ROLLBACK_BATCH_BYTES: Final = 1 << 20
"""Larger: a long epoch's rollback needs that much memory at once. Smaller: more writes. Exactness does not depend."""


def roll_back(shard: Shard, step: str, version: int | None) -> int:
    """Undo everything of `step` behind `version` (None: everything).

    The step's store must be closed and nothing of it wait to be written.

    Returns:
        The oldest version that can still be opened.

    Raises:
        StateVersionError: `version` is not kept; nothing was changed.
        StateError: The version record or an undo record cannot be read, or RocksDB refuses to write.
    """
    committed, oldest = _committed(shard, step)
    target = version or 0
    if not oldest <= target <= committed:
        wanted = "bytewax knows no version" if version is None else f"bytewax resumes at version {target}"
        backup = "of the same recovery store" if version is None else f"that holds version {target}"
        msg = (
            f"shard {step}/{shard.name}: {wanted}, the store keeps {oldest}..{committed}; "
            f"restore a backup {backup} (docs/runbooks/restore.md){shard.lost_log() if target > committed else ''}"
        )
        raise StateVersionError(msg)
    step_handle = shard.handle(step)
    default_handle = shard.db.get_column_family_handle("default")
    prefix = undo_prefix(step)
    seal = shard.step_seal(step)
    batch = _new_batch(step_handle)
    cursor = shard.db.get_column_family(UNDO_FAMILY).iter()
    cursor.seek_for_prev(undo_key(prefix, LAST_VERSION, 2**32 - 1))
    while cursor.valid():
        key = cursor.key()
        if not key.startswith(prefix):
            break
        undone = undo_version(prefix, key)
        if undone <= target:
            break
        if undone <= committed:
            committed = undone - 1
            batch.put(version_key(step), encode_version(committed, oldest), default_handle)
        record = cursor.value() if seal is None else seal.unseal(key, cursor.value())
        images = decode_images(f"{step}/{shard.name}", record)
        writes = zip(images[::2], images[1::2], strict=True)
        _put_back(writes if seal is None else seal.writes(writes), batch, step_handle)
        batch.delete(key, shard.undo_handle)
        if batch.size_in_bytes() >= ROLLBACK_BATCH_BYTES:
            _write(shard, batch)
            batch = _new_batch(step_handle)
        cursor.prev()
    _check_read(f"{step}/{shard.name}", cursor)
    if committed != target:  # the versions behind `target` wrote nothing
        batch.put(version_key(step), encode_version(target, oldest), default_handle)
    if not batch.is_empty():
        _write(shard, batch)
    return oldest


def _committed(shard: Shard, step: str) -> tuple[int, int]:
    """Last committed and oldest version."""
    record = shard.db.get(version_key(step))
    if record is None:
        return 0, 0
    try:
        return decode_version(record)
    except struct.error as error:
        msg = (
            f"shard {step}/{shard.name}: the version record has {len(record)} bytes instead of 16; restore a "
            "backup (docs/runbooks/corrupt-shard.md)"
        )
        raise StateError(msg) from error


def _check_read(where: str, cursor: Any) -> None:
    """A cursor ends at a damaged block as if there were no more: ask, or half a rollback would count as one."""
    try:
        cursor.status()
    except Exception as error:
        msg = (
            f"shard {where}: an undo record cannot be read: {error}; restore a backup (docs/runbooks/corrupt-shard.md)"
        )
        raise StateError(msg) from error


def decode_images(where: str, record: bytes) -> list[Any]:
    """Keys and before-images of an undo record, in turn.

    Raises:
        StateError: The record cannot be read.
    """
    try:
        images: list[Any] = msgspec.msgpack.decode(record, type=list[bytes | None])
    except msgspec.DecodeError as error:
        msg = (
            f"shard {where}: an undo record cannot be read: {error}; restore a backup (docs/runbooks/corrupt-shard.md)"
        )
        raise StateError(msg) from error
    return images


def _put_back(images: Iterable[tuple[bytes, bytes | None]], batch: Any, step_handle: Any) -> None:
    for key, value in images:
        if value is None:
            batch.delete(key, step_handle)
        else:
            batch[key] = value


def _write(shard: Shard, batch: Any) -> None:
    shard.write_batch(batch)


def _new_batch(default_handle: Any) -> Any:
    batch = WriteBatch(raw_mode=True)
    batch.set_default_column_family(default_handle)
    return batch
