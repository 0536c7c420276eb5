"""Reads a shard that no flow has open (a stopped one, or a checkpoint), record by record, changing nothing.

rocksdict's cursors end at a damaged block without a word; here their status is asked, so what cannot be read is an
error and not an empty rest.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
from rocksdict import AccessType, Options, Rdict

from schemas.errors import StateError, StateLayoutError
from state.keys import StateKeys
from state.layout import (
    LAYOUT,
    LAYOUT_KEY,
    SEAL_KEY,
    STEP_FAMILY_PREFIX,
    UNDO_FAMILY,
    decode_layout,
    decode_version,
    step_family,
    undo_prefix,
    undo_version,
    version_key,
)
from state.record_format import FormatOf, plain_format
from state.seal import StepSeal, read_seal


def shard_names_in(directory: Path) -> list[str]:
    """Names of the shards in a state's `shards` directory, sorted."""
    return sorted(path.parent.name for path in directory.glob("*/CURRENT"))


class RawShard:
    """A shard's RocksDB, opened for reading; use as a context.

    Attributes:
        name: The shard's name.
        steps: Names of its steps.
    """

    def __init__(self, directory: Path, keys: StateKeys | None = None, format_of: FormatOf = plain_format) -> None:
        """Open it.

        Args:
            directory: The shard's.
            keys: What its records are encrypted under. Without, an encrypted shard gives versions, `check` and sizes,
                and refuses the rest.
            format_of: Which bytes of a step's keys stand in clear.

        Raises:
            SecretError: Keys are given, and are not those of the shard.
            StateLayoutError: Another layout wrote it.
            StateError: RocksDB cannot read its files.
        """
        self.name = directory.name
        self._directory = directory
        self._families: dict[str, Any] = {}
        path = str(directory)
        try:
            names = Rdict.list_cf(path)
            options = {name: Options(raw_mode=True) for name in names if name != "default"}
            self._db: Any = Rdict(
                path, Options(raw_mode=True), column_families=options, access_type=AccessType.read_only()
            )
        except Exception as error:
            raise self._unreadable(error) from error
        try:
            self._check_layout()
            self._families = {name: self._db.get_column_family(name) for name in options}
        except BaseException:
            self.close()
            raise
        self._keys = keys
        self._format_of = format_of
        self._encrypted = self._db.get(SEAL_KEY) is not None
        prefix = len(STEP_FAMILY_PREFIX)
        self.steps = sorted(name[prefix:] for name in options if name.startswith(STEP_FAMILY_PREFIX))

    def version(self, step: str) -> tuple[int, int]:
        """Last committed version of a step and the oldest that can be opened.

        Raises:
            StateError: The version record cannot be read.
        """
        try:
            record = self._db.get(version_key(step))
            return decode_version(record) if record is not None else (0, 0)
        except struct.error as error:
            msg = f"the version record of {step}: {error}"
            raise self._unreadable(msg) from error
        except Exception as error:
            raise self._unreadable(error) from error

    def records(self, step: str, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Records of a step with start <= key < stop, in key order, what is not committed yet included.

        Raises:
            StateError: A block's checksum is wrong, or a file cannot be read.
            SecretError: It is encrypted, and no keys were given.
        """
        seal = self._step_seal(step)
        family = self._families[step_family(step)]
        if seal is None:
            yield from walk(family, start, stop, self._where)
            return
        for stored in walk(family, seal.bound(start), None if stop is None else seal.bound(stop), self._where):
            yield seal.records([stored])[0]

    def _step_seal(self, step: str) -> StepSeal | None:
        if not self._encrypted:
            return None
        seal = read_seal(self._db, self.name, self._keys)
        return None if seal is None else StepSeal(seal, step, self._format_of(step))

    def get(self, step: str, key: bytes) -> bytes | None:
        """One record.

        Raises:
            StateError: It cannot be read.
            SecretError: It is encrypted, and no keys were given.
        """
        seal = self._step_seal(step)
        if seal is not None:
            return seal.read(self._families[step_family(step)], [key])[0]
        try:
            found: bytes | None = self._families[step_family(step)].get(key)
        except Exception as error:
            raise self._unreadable(error) from error
        return found

    def before_images(self, step: str) -> Iterator[tuple[int, bytes, bytes | None]]:
        """(version, key, value before it or None) of everything the step can be rolled back by.

        Raises:
            StateError: An undo record cannot be read.
        """
        prefix = undo_prefix(step)
        if UNDO_FAMILY not in self._families:
            return
        seal = self._step_seal(step)
        for key, stored in walk(self._families[UNDO_FAMILY], prefix, prefix[:-1] + b"\x01", self._where):
            record = stored if seal is None else seal.unseal(key, stored)
            try:
                version = undo_version(prefix, key)
                images = msgspec.msgpack.decode(record, type=list[bytes | None])
                pairs = list(zip(images[::2], images[1::2], strict=True))
            except (msgspec.DecodeError, struct.error, ValueError) as error:
                msg = f"an undo record of {step}: {error}"
                raise self._unreadable(msg) from error
            for name, before in pairs:
                if name is None:
                    msg = f"an undo record of {step} names no key"
                    raise self._unreadable(msg)
                yield version, name, before

    def check(self) -> int:
        """Read every block of every column family, whose checksums RocksDB compares; returns the number of records.

        Raises:
            StateError: Something cannot be read.
        """
        count = sum(1 for _ in walk(self._db, b"", None, self._where))
        for name, family in self._families.items():
            if name != UNDO_FAMILY:
                count += sum(1 for _ in walk(family, b"", None, self._where))
        for step in self.steps:
            self.version(step)
            if self._encrypted and self._keys is None:
                continue
            count += sum(1 for _ in self.before_images(step))
        if UNDO_FAMILY in self._families:
            for _ in walk(self._families[UNDO_FAMILY], b"", None, self._where):
                pass
        return count

    def disk_bytes(self) -> int:
        """Size of all files."""
        return sum(path.stat().st_size for path in self._directory.iterdir() if path.is_file())

    def close(self) -> None:
        """Let go of RocksDB. Idempotent."""
        for family in self._families.values():
            family.close()
        self._families = {}
        self._db.close()

    def __enter__(self) -> RawShard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_layout(self) -> None:
        record = self._db.get(LAYOUT_KEY)
        found = decode_layout(record) if record is not None else 0
        if found != LAYOUT:
            msg = (
                f"shard {self.name}: {self._directory} has layout {found or 'none'}, this program reads {LAYOUT}; use "
                "the release that wrote it (CHANGELOG.md)"
            )
            raise StateLayoutError(msg)

    @property
    def _where(self) -> str:
        return str(self._directory)

    def _unreadable(self, error: object) -> StateError:
        return unreadable(self._where, error)


def walk(family: Any, start: bytes, stop: bytes | None, where: str) -> Iterator[tuple[bytes, bytes]]:
    """Records of a column family with start <= key < stop, in key order.

    Raises:
        StateError: A block is damaged: a cursor ends there without a word, unless it is asked.
    """
    cursor = family.iter()
    cursor.seek(start)
    while cursor.valid():
        key: bytes = cursor.key()
        if stop is not None and key >= stop:
            return
        yield key, cursor.value()
        cursor.next()
    try:
        cursor.status()
    except Exception as error:
        raise unreadable(where, error) from error


def unreadable(where: str, error: object) -> StateError:
    """What to raise when a shard's files cannot be read."""
    told = " ".join(str(error).split())
    msg = f"shard {where}: cannot be read: {told}; see docs/runbooks/corrupt-shard.md"
    return StateError(msg)
