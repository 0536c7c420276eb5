"""From older layouts to this program's, when a shard or a step is opened; safe to be killed anywhere.

Two numbers are kept in a shard: that of its own layout (`state.layout`) and, a step, that of the step's records
(`state.record_format`). A newer number than this program's is refused: nothing is touched, the newer release reads it
still. An older one is migrated one layout at a time, before the step is rolled back:

- records of a step: batch by batch, records and before-images alike, each batch atomically with the place it has come
  to; the last one writes the new number. A kill goes on from the last batch; no record is migrated twice.
- the shard's own layout: by a function that may be killed and run again; its number is written when it returns.

There is no way back: take a backup first, the release before cannot read what was migrated.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec
from rocksdict import WriteBatch

from schemas.errors import StateLayoutError
from state.layout import (
    LAYOUT,
    LAYOUT_KEY,
    UNDO_FAMILY,
    decode_layout,
    encode_layout,
    migrating_key,
    records_key,
    step_family,
    undo_prefix,
)
from state.record_format import RecordFormat, RecordMigration
from state.rollback import decode_images

if TYPE_CHECKING:
    from state.shard import Shard

SHARD_MIGRATIONS: Final[dict[int, Callable[[Any], None]]] = {}
"""Layout n -> what makes its RocksDB one of layout n + 1. It may be killed and is then run again from its start."""

BATCH_BYTES: Final = 1 << 20
"""Larger: more memory at once. Smaller: more writes. What a kill costs is one batch."""

_PLACE: Final = struct.Struct(">IB")
_RECORDS: Final = 0
_IMAGES: Final = 1


def migrate_shard(shard: Shard, found: int) -> int:
    """Bring the shard's own layout from `found` as far up as there are migrations; returns the layout reached."""
    while found < LAYOUT and found in SHARD_MIGRATIONS:
        SHARD_MIGRATIONS[found](shard.db)
        found += 1
        shard.db.put(LAYOUT_KEY, encode_layout(found))
        shard.dirty = True
    return found


def bring_up_to_date(shard: Shard, step: str, form: RecordFormat) -> None:
    """Make the records of `step` such as its program reads, or refuse them.

    The step's store must be closed and nothing of it wait to be written.

    Raises:
        StateLayoutError: They are of a newer layout, or no migration leads here from theirs.
        StateError: A record cannot be read, or RocksDB refuses to write.
    """
    db = shard.db
    kept = db.get(records_key(step))
    if kept is None:  # a new step, or one written before steps were numbered: that was layout 1
        empty = next(iter(shard.family(step).items()), None) is None and db.get(b"version\0" + step.encode()) is None
        found = form.layout if empty else 1
        db.put(records_key(step), encode_layout(found))
        shard.dirty = True
    else:
        found = decode_layout(kept)
    if found > form.layout or not found:
        _refuse(shard, step, found, form, "start the release that wrote them (CHANGELOG.md), or restore a backup")
    missing = [n for n in range(found, form.layout) if n not in form.migrations]
    if missing:
        _refuse(shard, step, found, form, f"no migration from layout {missing[0]} is in this release; start an older")
    for number in range(found, form.layout):
        _migrate(shard, step, number, form.migrations[number])


def _migrate(shard: Shard, step: str, number: int, migration: RecordMigration) -> None:
    kept = shard.db.get(migrating_key(step))
    phase, after = _RECORDS, b""
    if kept is not None and _PLACE.unpack_from(kept)[0] == number:
        phase, after = _PLACE.unpack_from(kept)[1], kept[_PLACE.size :]
    default = shard.db.get_column_family_handle("default")
    while True:
        handle = shard.handle(step) if phase == _RECORDS else shard.undo_handle
        changes = _records if phase == _RECORDS else _images
        batch = WriteBatch(raw_mode=True)
        for place, value in changes(shard, step, after, migration):
            if value is None:
                batch.delete(place, handle)
            else:
                batch.put(place, value, handle)
            after = place
            if batch.size_in_bytes() >= BATCH_BYTES:
                batch.put(migrating_key(step), _PLACE.pack(number, phase) + after, default)
                shard.write_batch(batch)
                batch = WriteBatch(raw_mode=True)
        if phase == _RECORDS:
            phase, after = _IMAGES, b""
            batch.put(migrating_key(step), _PLACE.pack(number, phase), default)
            shard.write_batch(batch)
            continue
        batch.put(records_key(step), encode_layout(number + 1), default)
        batch.delete(migrating_key(step), default)
        shard.write_batch(batch)
        return


def _records(shard: Shard, step: str, after: bytes, migration: RecordMigration) -> Iterator[tuple[bytes, bytes | None]]:
    """Keys on disk behind `after`, each with the record that it shall have."""
    seal = shard.step_seal(step)
    for place, value in shard.family(step).items(from_key=after):
        if place == after:
            continue
        if seal is None:
            yield place, migration(place, value)
        else:
            new = migration(seal.true_key(place), seal.unseal(place, value))
            yield place, None if new is None else seal.seal(place, new)


def _images(shard: Shard, step: str, after: bytes, migration: RecordMigration) -> Iterator[tuple[bytes, bytes | None]]:
    """Keys of before-image records behind `after`, each with the record that it shall have."""
    prefix = undo_prefix(step)
    seal = shard.step_seal(step)
    for place, value in shard.db.get_column_family(UNDO_FAMILY).items(from_key=after or prefix):
        if not place.startswith(prefix):
            break
        if place == after:
            continue
        images = decode_images(f"{step}/{shard.name}", value if seal is None else seal.unseal(place, value))
        for at in range(0, len(images), 2):
            if images[at + 1] is not None:
                images[at + 1] = migration(images[at], images[at + 1])
        record = msgspec.msgpack.encode(images)
        yield place, record if seal is None else seal.seal(place, record)


def _refuse(shard: Shard, step: str, found: int, form: RecordFormat, advice: str) -> NoReturn:
    msg = (
        f"shard {step}/{shard.name}: the records in {step_family(step)} are of layout {found}, this program reads "
        f"layout {form.layout}; {advice}"
    )
    raise StateLayoutError(msg)
