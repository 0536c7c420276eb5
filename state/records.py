"""All records of a shard as they stand on disk, read without opening it for writing; for checks, not for the flow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocksdict import AccessType, Options, Rdict

from schemas.errors import StateError
from state.layout import STEP_FAMILY_PREFIX, decode_version, version_key


@dataclass(frozen=True, slots=True)
class StepRecords:
    """One step of a shard.

    Attributes:
        version: Last committed version, 0 before the first commit.
        records: Every record, in key order; what was written behind the last commit included.
    """

    version: int
    records: dict[bytes, bytes]


def shard_directories(state: Path) -> list[Path]:
    """The shards of a state folder, in the order of their names."""
    shards = state / "shards"
    return sorted(path for path in shards.iterdir() if (path / "CURRENT").is_file()) if shards.is_dir() else []


def read_shard(directory: Path) -> dict[str, StepRecords]:
    """Every step of the shard in `directory`, by name; holds all its records in memory, so for small shards.

    Raises:
        StateError: RocksDB cannot read its files.
    """
    path = str(directory)
    try:
        families = set(Rdict.list_cf(path))
        database = Rdict(
            path,
            Options(raw_mode=True),
            column_families={name: Options(raw_mode=True) for name in families},
            access_type=AccessType.read_only(),
        )
    except Exception as error:
        msg = (
            f"shard {directory.name}: RocksDB cannot read {path}: {error}; restore a backup "
            "(docs/runbooks/corrupt-shard.md)"
        )
        raise StateError(msg) from error
    found: dict[str, StepRecords] = {}
    try:
        for name in sorted(families):
            if not name.startswith(STEP_FAMILY_PREFIX):
                continue
            step = name.removeprefix(STEP_FAMILY_PREFIX)
            version = database.get(version_key(step))
            family = database.get_column_family(name)
            records: dict[Any, bytes] = dict(family.items())  # bytes in raw mode; the stub says any key
            family.close()
            found[step] = StepRecords(decode_version(version)[0] if version else 0, records)
    finally:
        database.close()
    return found
