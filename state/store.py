"""The state of one process: which shards it has open, what they may cost together, and when they are durable.

    with StateHome(directory, StateOptions()) as home:
        store = home.open("s07", "card", version)     # None when bytewax knows no version: rolled back to empty
        store.put_many([(b"a", b"1")])
        version = store.commit()                      # survives a kill; this number goes into bytewax's recovery store
        home.sync()                                   # survives a power loss; once an epoch, in the sink's snapshot

Every step of a shard shares one RocksDB in `directory/<shard>/` (layout: state/layout.py). What a store promises and
how rollback works is said in state/step_store.py and state/shard.py; why, in docs/adr/0003-versioned-shard-store.md.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from schemas.errors import StateError
from state.cache import RecordCache
from state.keys import StateKeys
from state.layout import check_names
from state.options import StateOptions
from state.record_format import FormatOf, plain_format
from state.rocks import RocksSettings
from state.shard import Shard
from state.step_store import RocksStepStore

__all__ = ["RocksStepStore", "StateHome", "StateOptions"]


class StateHome:
    """Registry of a process's open shards; one per state directory, shared by all its worker threads.

    Safe from several threads. A store is used by one thread at a time.
    """

    def __init__(
        self,
        directory: Path,
        options: StateOptions | None = None,
        keys: StateKeys | None = None,
        format_of: FormatOf = plain_format,
    ) -> None:
        """Open nothing yet.

        Args:
            directory: Where the shards' directories stand.
            options: What the state may cost.
            keys: Encrypt with these (`state.seal`); None: records stand on disk as steps wrote them.
            format_of: Formats of the steps' records (`state.record_format`).
        """
        self.directory = directory
        self.options = options or StateOptions()
        self._keys = keys
        self._format_of = format_of
        self._settings = RocksSettings(self.options)
        self._cache = RecordCache(self.options.record_cache_bytes)
        self._shards: dict[str, Shard] = {}
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False
        self._last_sync_s = 0.0

    def open(self, shard: str, step: str, version: int | None) -> RocksStepStore:
        """The store of `step` in `shard`, rolled back to exactly `version`.

        The first step of a shard opens its RocksDB. A store opened earlier for the same step is closed.

        Args:
            shard: Name of the shard, a directory's name.
            step: Name of the step; renaming one is a state migration.
            version: What the last `commit` known to bytewax returned; None when it knows none, which empties the step.

        Raises:
            StateVersionError: The version is not kept.
            StateLayoutError: The shard or the step's records were written by another layout.
            SecretError: The shard is encrypted and the keys do not open it, or it is not and there are keys.
            StateLockedError: Another process has the shard open.
            StateError: A name is malformed, the home is closed, or RocksDB cannot read its files.
        """
        check_names(shard, step)
        with self._lock:
            if self._closed:
                msg = f"state {self.directory}: the home is closed; make a new one"
                raise StateError(msg)
            opened = self._shards.get(shard)
            if opened is None:
                opened = Shard(self.directory / shard, shard, self._settings, self._cache, self._keys, self._format_of)
                self._shards[shard] = opened
            return opened.open_step(step, version)

    def sync(self) -> None:
        """Make all commits so far durable against power loss; shards in parallel, the GIL released meanwhile.

        Raises:
            StateError: The disk refuses; nothing may be reported as committed.
        """
        started = time.monotonic()
        with self._lock:
            dirty = [shard for shard in self._shards.values() if shard.dirty]
            if len(dirty) > 1 and self._pool is None:
                self._pool = ThreadPoolExecutor(self.options.sync_threads, thread_name_prefix="weir-state-sync")
            if self._pool is None or len(dirty) < 2:
                for shard in dirty:
                    shard.sync()
            else:
                for outcome in [self._pool.submit(shard.sync) for shard in dirty]:
                    outcome.result()
        self._last_sync_s = time.monotonic() - started

    def open_as_they_are(self, shards: Iterable[str]) -> None:
        """Open shards without rolling anything back: their locks are held, and `checkpoint` copies them.

        Raises:
            StateLockedError: A process has one of them open.
            StateLayoutError: Another layout wrote one of them.
            StateError: RocksDB cannot read its files.
        """
        with self._lock:
            for name in shards:
                if name not in self._shards:
                    self._shards[name] = Shard(
                        self.directory / name, name, self._settings, self._cache, self._keys, self._format_of
                    )

    def opened(self, shard: str) -> Shard:
        """An open shard, for what works on whole shards (`state.erase`); steps never see it.

        Raises:
            KeyError: It is not open.
        """
        return self._shards[shard]

    @contextmanager
    def hold_pruning(self) -> Iterator[None]:
        """Keep every before-image meanwhile, so that any version known when it began can still be opened at its end."""
        with self._lock:
            self._settings.pruning_holds += 1
        try:
            yield
        finally:
            with self._lock:
                self._settings.pruning_holds -= 1

    def checkpoint(self, directory: Path, stop: Callable[[], bool] = lambda: False) -> list[str]:
        """Make `directory/<shard>` a copy of every open shard, one after the other, while others write.

        Each copy is whole by itself and taken at a moment of its own; `hold_pruning` from before the recovery store is
        copied until the end makes them agree. Must not run into `close`.

        Args:
            directory: Exists, on the file system of the state for hard links.
            stop: Asked before each shard.

        Returns:
            Names of the shards copied.

        Raises:
            StateError: RocksDB or the disk refuses, or `stop` said so.
        """
        with self._lock:
            shards = list(self._shards.items())
        for name, shard in shards:
            if stop():
                msg = f"state {self.directory}: the flow is ending, so the backup is given up; run it again"
                raise StateError(msg)
            shard.checkpoint(directory / name)
        return [name for name, _ in shards]

    def stats(self) -> dict[str, float]:
        """Figures for metrics; walks the directories, so once an epoch at most.

        Returns:
            open_shards; disk_bytes, logs included; cached_records, record_cache_bytes; record_hits and record_misses of
            that cache, and swept, expired records deleted, since the stores were opened; undo_records, the
            before-images that this process wrote and keeps; undo_bytes, all before-images, deleted ones until
            compaction; memtable_bytes; block_cache_bytes; last_sync_seconds.
        """
        with self._lock:
            shards = list(self._shards.values())
            return {
                "open_shards": len(shards),
                "disk_bytes": sum(shard.bytes_on_disk() for shard in shards),
                "cached_records": self._cache.records(),
                "record_cache_bytes": self._cache.bytes(),
                "record_hits": sum(store.lookups - store.misses for shard in shards for store in shard.stores()),
                "record_misses": sum(store.misses for shard in shards for store in shard.stores()),
                "swept": sum(store.memo.get("swept", 0) for shard in shards for store in shard.stores()),
                "undo_records": sum(shard.undo_records() for shard in shards),
                "undo_bytes": sum(shard.undo_bytes() for shard in shards),
                "memtable_bytes": self._settings.memtable_bytes(),
                "block_cache_bytes": self._settings.block_cache_bytes(),
                "last_sync_seconds": self._last_sync_s,
            }

    def close(self) -> None:
        """Close all shards and free their locks; what was not committed does not become a version. Idempotent."""
        with self._lock:
            self._closed = True
            if self._pool is not None:
                self._pool.shutdown()
                self._pool = None
            while self._shards:
                _, shard = self._shards.popitem()
                shard.close()

    def __enter__(self) -> StateHome:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
