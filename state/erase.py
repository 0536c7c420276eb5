"""Takes records out of a stopped flow's shards for good: no version, no before-image and no old file keeps them.

    with Eraser(directory, versions) as eraser:
        for shard, step in eraser.steps(): ...
            eraser.write(shard, step, [(key, None)])
        eraser.finish()

Opening rolls every step back to the version that the flow would resume at, for what came behind it is computed again.
The changes are made to that version itself. `finish` then drops all before-images, so that each step can be opened at
that version and no other, compacts every column family down to the last level, and opens each shard once more, which
makes RocksDB write a new manifest (the old one names the first and last key of files long gone) and delete old logs.
Killed anywhere, it can be run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rocksdict import BottommostLevelCompaction, CompactOptions, WriteBatch

from state.keys import StateKeys
from state.layout import UNDO_FAMILY, encode_version, undo_prefix, version_key
from state.options import StateOptions
from state.raw import RawShard, shard_names_in, walk
from state.record_format import FormatOf, plain_format
from state.store import StateHome


class Eraser:
    """The shards of a state directory, opened for erasing; use as a context."""

    def __init__(
        self,
        directory: Path,
        versions: Mapping[tuple[str, str], int],
        options: StateOptions | None = None,
        keys: StateKeys | None = None,
        format_of: FormatOf = plain_format,
    ) -> None:
        """Open and roll back.

        Args:
            directory: With one directory a shard.
            versions: (shard, step) -> version that the flow resumes at; a step that is missing is rolled back to empty.
            options: Bounds of memory and how files are compressed.
            keys: What the records are encrypted under, None when they are not.
            format_of: Which bytes of a step's keys stand in clear.

        Raises:
            StateLockedError: A flow runs.
            StateVersionError: A version is not kept.
            StateError: A shard cannot be read or written.
        """
        self._directory = directory
        self._options = options or StateOptions()
        self._steps: list[tuple[str, str]] = []
        for name in shard_names_in(directory):
            with RawShard(directory / name) as raw:
                self._steps += [(name, step) for step in raw.steps]
        self._keys, self._format_of = keys, format_of
        self._home = StateHome(directory, self._options, keys, format_of)
        try:
            self._stores = {
                (shard, step): self._home.open(shard, step, versions.get((shard, step))) for shard, step in self._steps
            }
        except BaseException:
            self._home.close()
            raise

    def steps(self) -> list[tuple[str, str]]:
        """(shard, step) of all column families with records."""
        return list(self._steps)

    def records(self, shard: str, step: str) -> Iterator[tuple[bytes, bytes]]:
        """All records of a step; do not write to it meanwhile.

        Raises:
            StateError: A block is damaged.
        """
        opened = self._home.opened(shard)
        seal = opened.step_seal(step)
        for stored in walk(opened.family(step), b"", None, str(self._directory / shard)):
            yield stored if seal is None else seal.records([stored])[0]

    def get(self, shard: str, step: str, key: bytes) -> bytes | None:
        """One record of a step.

        Raises:
            StateError: A block is damaged.
        """
        opened = self._home.opened(shard)
        seal = opened.step_seal(step)
        family = opened.family(step)
        found: list[bytes | None] = family.get([key]) if seal is None else seal.read(family, [key])
        return found[0]

    def write(self, shard: str, step: str, changes: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Change records of the version itself; None deletes.

        Raises:
            StateError: RocksDB refuses to write.
        """
        opened = self._home.opened(shard)
        batch = WriteBatch(raw_mode=True)
        handle = opened.handle(step)
        batch.set_default_column_family(handle)
        seal = opened.step_seal(step)
        for key, value in changes if seal is None else seal.writes(changes):
            if value is None:
                batch.delete(key, handle)
            else:
                batch[key] = value
        self._write(opened, batch)

    def finish(self) -> None:
        """Drop all before-images, compact, and make RocksDB forget its old files.

        Raises:
            StateError: RocksDB refuses.
        """
        for (shard, step), store in self._stores.items():
            opened = self._home.opened(shard)
            batch = WriteBatch(raw_mode=True)
            batch.put(version_key(step), encode_version(store.version, store.version))
            prefix = undo_prefix(step)
            batch.delete_range(prefix, prefix[:-1] + b"\x01", opened.undo_handle)
            self._write(opened, batch)
        names = sorted({shard for shard, _ in self._steps})
        for name in names:
            self._compact(self._home.opened(name))
        self._home.sync()
        self._home.close()
        with StateHome(self._directory, self._options, self._keys, self._format_of) as again:
            again.open_as_they_are(names)
        for name in names:
            for log in (self._directory / name).glob("LOG*"):
                log.unlink()  # RocksDB's own diary; it may name keys at which a compaction was cut

    def close(self) -> None:
        """Let go of the shards. Idempotent."""
        self._stores = {}
        self._home.close()

    def __enter__(self) -> Eraser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, opened: Any, batch: Any) -> None:
        try:
            opened.db.write(batch)
        except Exception as error:
            del batch  # holds a column family, and the traceback would hold the batch
            raise opened.write_error(error) from error
        opened.dirty = True

    def _compact(self, opened: Any) -> None:
        options = CompactOptions()
        options.set_bottommost_level_compaction(BottommostLevelCompaction.force())
        undo = opened.db.get_column_family(UNDO_FAMILY)
        families = [opened.family(step) for shard, step in self._steps if shard == opened.name]
        try:
            for family in (*families, undo, opened.db):
                family.flush()
                family.compact_range(None, None, options)
        except Exception as error:
            raise opened.write_error(error) from error
        finally:
            undo.close()
