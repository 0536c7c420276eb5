"""Bytes on disk, layout 1.

A state directory holds one RocksDB a shard: `<home>/<shard>/`. Keys sort by memcmp everywhere. Integers are unsigned
and big-endian, so that byte order is the order of the numbers. Column families of a shard:

    default
        b"layout"                                  → u32 layout number
        b"version" 00 <step>                       → u64 version, u64 oldest version that can be opened
        b"records" 00 <step>                       → u32 layout of the step's records (`state.record_format`)
        b"migrating" 00 ...                        how far a migration has come (`state.migrate`)
        b"seal", b"session" 00 u32                 keys of an encrypted shard (`state.seal`)
    undo                                           before-images, of all steps
        <step> 00 u64 version, u32 sequence        → MessagePack array: key, before, key, before, ...
    step.<step>
        <key>                                      → <value>, both as the step wrote them

One undo record a batch of writes: the keys which that batch wrote as the first of their epoch, each with the value it
had when the epoch began (bin), or nil when it had none. `version` is the one that the epoch became, or would have
become; `sequence` counts the batches of the epoch from 0. A step's name is ASCII and holds no 00.

In an encrypted shard the records of `undo` and `step.<step>` stand on disk as `state.seal` says.

Undoing the records of a step from the last to the first, down to those of version v + 1, leaves exactly version v.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from schemas.errors import StateError

LAYOUT: Final = 1

LAYOUT_KEY: Final = b"layout"
SEAL_KEY: Final = b"seal"
UNDO_FAMILY: Final = "undo"
STEP_FAMILY_PREFIX: Final = "step."

_LAYOUT_RECORD: Final = struct.Struct(">I")
_VERSION_RECORD: Final = struct.Struct(">QQ")
_UNDO_SUFFIX: Final = struct.Struct(">QI")
_STEP_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_SHARD_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

LAST_VERSION: Final = 2**64 - 1


def check_names(shard: str, step: str) -> None:
    """Refuse names that would not be one directory or one column family.

    Raises:
        StateError: Another shape than letters, digits, dot, dash, underscore (a step: no capitals), 64 at most.
    """
    if not _SHARD_NAME.fullmatch(shard):
        msg = f"state: a shard's name must match {_SHARD_NAME.pattern}, found {shard!r}"
        raise StateError(msg)
    if not _STEP_NAME.fullmatch(step):
        msg = f"state: a step's name must match {_STEP_NAME.pattern}, found {step!r}"
        raise StateError(msg)


def encode_layout(number: int) -> bytes:
    """The layout record's value."""
    return _LAYOUT_RECORD.pack(number)


def decode_layout(value: bytes) -> int:
    """The number in a layout record, 0 when it has not the length of one."""
    return int(_LAYOUT_RECORD.unpack(value)[0]) if len(value) == _LAYOUT_RECORD.size else 0


def step_family(step: str) -> str:
    """Name of the column family with the records of `step`."""
    return STEP_FAMILY_PREFIX + step


def version_key(step: str) -> bytes:
    """Key of the version record of `step`."""
    return b"version\0" + step.encode("ascii")


def encode_version(version: int, oldest: int) -> bytes:
    """The version record's value."""
    return _VERSION_RECORD.pack(version, oldest)


def decode_version(value: bytes) -> tuple[int, int]:
    """Version and oldest version that can be opened.

    Raises:
        struct.error: `value` is no version record.
    """
    version, oldest = _VERSION_RECORD.unpack(value)
    return version, oldest


def undo_prefix(step: str) -> bytes:
    """What all undo keys of `step` start with."""
    return step.encode("ascii") + b"\0"


def undo_key(prefix: bytes, version: int, sequence: int) -> bytes:
    """Key of the undo record of one batch; `prefix` is `undo_prefix(step)`."""
    return prefix + _UNDO_SUFFIX.pack(version, sequence)


def undo_version(prefix: bytes, key: bytes) -> int:
    """Version in an undo key that starts with `prefix`."""
    version, _ = _UNDO_SUFFIX.unpack_from(key, len(prefix))
    return int(version)


def records_key(step: str) -> bytes:
    """Key of the number of the layout of the records of `step`."""
    return b"records\0" + step.encode("ascii")


def migrating_key(step: str) -> bytes:
    """Key of how far the migration of `step` has come."""
    return b"migrating\0" + step.encode("ascii")


def session_key(number: int) -> bytes:
    """Key of the record of a session of an encrypted shard."""
    return b"session\0" + number.to_bytes(4, "big")


def session_range() -> tuple[bytes, bytes]:
    """Half-open range of the keys of sessions."""
    return b"session\0", b"session\x01"
