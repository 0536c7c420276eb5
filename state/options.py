"""What the state of one process may cost in memory, and how far back it can be opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from schemas.errors import ConfigError

MIB: Final = 1 << 20
DEFAULT_VERSIONS_KEPT: Final = 8
DEFAULT_MEMORY_MIB: Final = 256
LEAST_MEMORY_MIB: Final = 8
"""Less, and a quarter of it holds not even the memtables of a few shards: each would be flushed as it is begun."""

Compression = Literal["none", "snappy", "lz4", "zstd"]


@dataclass(frozen=True, slots=True)
class StateOptions:
    """Bounds of one process, whatever its number of shards and steps.

    The three memory bounds add up to 256 MiB by default; RocksDB's table readers and Python's own come on top.

    Attributes:
        block_cache_bytes: RocksDB's cache of file blocks, shared by all shards. Smaller: cold reads decompress again.
        write_buffer_bytes: RocksDB's memtables of all shards together. Smaller: more and smaller files, more
            compaction; larger: more memory and a longer log to replay on open.
        record_cache_bytes: Hot records kept as Python objects, counted with their overhead. 0 reads RocksDB always.
        versions_kept: Commits that a step can be rolled back by. Fewer than bytewax's backup interval in epochs plus
            two, and a resume may ask for a version that is gone; more costs disk: one before-image a key and epoch.
        batch_records: Writes that a shard collects over its steps for one write to RocksDB. A write costs 10 to 40 µs
            however small; what waits is written by the epoch's commit, so larger means a longer stall there: 32 shards
            with 64 each, some 5 ms.
        compression: Of files on disk. zstd is smaller and slower to flush, none leaves records readable by `strings`.
        wal_bytes: Log of one shard that may wait for its memtables to be flushed; bounds disk and time to open.
        sync_threads: Shards whose log is synced at the same time.
    """

    block_cache_bytes: int = 64 * MIB
    write_buffer_bytes: int = 64 * MIB
    record_cache_bytes: int = 128 * MIB
    versions_kept: int = DEFAULT_VERSIONS_KEPT
    batch_records: int = 64
    compression: Compression = "lz4"
    wal_bytes: int = 64 * MIB
    sync_threads: int = 8

    @classmethod
    def of_memory(
        cls,
        mib: int,
        *,
        block_cache_mib: int | None = None,
        write_buffer_mib: int | None = None,
        record_cache_mib: int | None = None,
    ) -> StateOptions:
        """Options for so much memory in all: half for hot records, a quarter each for blocks and memtables.

        Args:
            mib: MiB of all three together, at least 8.
            block_cache_mib: Instead of its quarter.
            write_buffer_mib: Instead of its quarter.
            record_cache_mib: Instead of its half.

        Raises:
            ConfigError: A value is out of range.
        """
        if mib < LEAST_MEMORY_MIB:
            msg = f"state memory: expected at least {LEAST_MEMORY_MIB} MiB, found {mib}"
            raise ConfigError(msg)

        def bytes_of(given: int | None, share: int) -> int:
            return mib * MIB // share if given is None else given * MIB

        return cls(
            block_cache_bytes=bytes_of(block_cache_mib, 4),
            write_buffer_bytes=bytes_of(write_buffer_mib, 4),
            record_cache_bytes=bytes_of(record_cache_mib, 2),
        )

    def __post_init__(self) -> None:
        """Refuse what RocksDB would take as "no bound" or fail on much later.

        Raises:
            ConfigError: A value is out of range.
        """
        for name, least in (
            ("block_cache_bytes", MIB),
            ("write_buffer_bytes", MIB),
            ("record_cache_bytes", 0),
            ("versions_kept", 1),
            ("batch_records", 1),
            ("wal_bytes", MIB),
            ("sync_threads", 1),
        ):
            value = getattr(self, name)
            if value < least:
                msg = f"state options: {name} must be at least {least}, found {value!r}"
                raise ConfigError(msg)
        if self.compression not in ("none", "snappy", "lz4", "zstd"):
            msg = f"state options: compression must be none, snappy, lz4 or zstd, found {self.compression!r}"
            raise ConfigError(msg)
