"""RocksDB's options for all shards of a process, on one block cache and one bound of memtable memory."""

from __future__ import annotations

from typing import Any, Final

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, WriteBufferManager

from state.options import MIB, StateOptions

_ARENA_BLOCK_BYTES: Final = 64 << 10
"""Memtables grow by this much. RocksDB's default, an eighth of the write buffer up to 1 MiB, would give each of 300
column families 1 MiB for its first record; smaller than a batch's undo record wastes what is left of a block."""

_BLOOM_BITS: Final = 10
"""One false read in a hundred for a key that is not there; each bit more costs 125 KB a million records."""

_COMPRESSIONS: Final = {
    "none": DBCompressionType.none,
    "snappy": DBCompressionType.snappy,
    "lz4": DBCompressionType.lz4,
    "zstd": DBCompressionType.zstd,
}


class RocksSettings:
    """Makes the options of databases and column families that share this process's memory bounds.

    Attributes:
        versions_kept: Passed through for the shards.
        batch_records: Passed through for the shards.
        pruning_holds: While above 0, no before-image is pruned: a backup is being made (`StateHome.hold_pruning`).
    """

    def __init__(self, options: StateOptions) -> None:
        self.versions_kept = options.versions_kept
        self.batch_records = options.batch_records
        self.pruning_holds = 0
        self._options = options
        self._block_cache = Cache(options.block_cache_bytes)
        self._write_buffers = WriteBufferManager(options.write_buffer_bytes, False)

    def database_options(self) -> Any:
        """Options of a shard's database and of its default column family, which holds a record a step."""
        made = self._common()
        made.create_if_missing(True)
        made.set_write_buffer_manager(self._write_buffers)
        made.set_max_total_wal_size(self._options.wal_bytes)
        made.set_keep_log_file_num(2)
        made.set_max_log_file_size(MIB)
        made.set_stats_dump_period_sec(0)
        made.set_stats_persist_period_sec(0)
        made.set_skip_stats_update_on_db_open(True)
        # RocksDB would start 16 threads a column family to open files: twice the time to open 32 shards.
        made.set_max_file_opening_threads(1)
        return made

    def step_options(self) -> Any:
        """Options of a column family with the records of a step."""
        return self._common()

    def undo_options(self) -> Any:
        """Options of the column family with before-images: written once, seldom read, deleted in ranges."""
        return self._common()

    def memtable_bytes(self) -> int:
        """Memory in memtables of all shards now."""
        return int(self._write_buffers.get_usage())

    def block_cache_bytes(self) -> int:
        """Memory in the block cache now."""
        return int(self._block_cache.get_usage())

    def _common(self) -> Any:
        made = Options(raw_mode=True)
        table = BlockBasedOptions()
        table.set_block_cache(self._block_cache)
        table.set_bloom_filter(_BLOOM_BITS, False)
        table.set_cache_index_and_filter_blocks(True)
        table.set_pin_l0_filter_and_index_blocks_in_cache(True)
        made.set_block_based_table_factory(table)
        made.set_compression_type(_COMPRESSIONS[self._options.compression]())
        made.set_arena_block_size(_ARENA_BLOCK_BYTES)
        made.set_write_buffer_size(max(MIB, min(16 * MIB, self._options.write_buffer_bytes // 4)))
        # One thread writes a shard: the lock-free skip list would only pay for its atomics.
        made.set_allow_concurrent_memtable_write(False)
        return made
