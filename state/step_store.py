"""The records of one step in one shard, on RocksDB: what `StepStore` promises, with the hot path kept short.

Writes wait in memory until the shard has enough of them for one atomic batch, each with the before-images of the keys
it writes for the first time in the epoch. A commit writes what waits. So a kill loses nothing that was committed, and
what was written since can be undone. Reads are served from the record cache when it holds the key.

A store belongs to one thread at a time; stores of one process, also of one shard, may be used by different threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from rocksdict import ReadOptions, WriteBatch

from schemas.errors import StateError
from state.cache import ENTRY_OVERHEAD, RecordCache
from state.layout import encode_version, undo_key, undo_prefix, version_key

if TYPE_CHECKING:
    from state.shard import Shard

_UNKNOWN: Final[Any] = object()
_encode_undo: Final = msgspec.msgpack.Encoder().encode


class RocksStepStore:
    """A `StepStore` on the shard's RocksDB; made by `StateHome.open`, rolled back already.

    Attributes:
        shard: Name of the shard.
        step: Name of the step.
        version: Last committed version, 0 before the first commit.
        oldest: Oldest version that can be opened.
        memo: Anything worth keeping decoded; empty after open, never stored. A step counts there under "swept" what
            it deleted because it had expired.
        lookups: Records asked for since it was opened.
        misses: Of them, those read from RocksDB.
    """

    __slots__ = (
        "_before",
        "_cache",
        "_family",
        "_handle",
        "_opened_at",
        "_owner",
        "_pending",
        "_records",
        "_seal",
        "_sequence",
        "_touched",
        "_undo_counts",
        "_undo_handle",
        "_undo_prefix",
        "_version_key",
        "_versions_kept",
        "lookups",
        "memo",
        "misses",
        "oldest",
        "shard",
        "step",
        "version",
    )

    def __init__(
        self,
        owner: Shard,
        step: str,
        version: int,
        oldest: int,
        cache: RecordCache,
        versions_kept: int,
    ) -> None:
        self.shard = owner.name
        self.step = step
        self.version = version
        self.oldest = oldest
        self.memo: dict[str, Any] = {}
        self.lookups = 0
        self.misses = 0
        self._owner = owner
        self._family: Any = owner.family(step)
        self._handle: Any = owner.handle(step)
        self._undo_handle: Any = owner.undo_handle
        self._seal = owner.step_seal(step)
        self._undo_prefix = undo_prefix(step)
        self._version_key = version_key(step)
        self._versions_kept = versions_kept
        self._cache = cache
        self._records = cache.member()
        self._touched: set[bytes] = set()  # keys whose before-image of this epoch is written
        self._opened_at = version
        self._sequence = 0
        self._before: list[bytes | None] = []  # key, before, key, before, ... not in RocksDB yet
        self._pending: dict[bytes, bytes | None] = {}  # writes that are not in RocksDB yet
        self._undo_counts: deque[tuple[int, int]] = deque()  # (version, before-images), oldest first

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Records of `keys`, None where there is none; sees all earlier writes."""
        self.lookups += len(keys)
        values = list(map(self._records.young.get, keys))
        if None in values:
            self._find(keys, values)
        return values

    def put_many(self, items: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Write records, all or none; None deletes. The last item of a key repeated in `items` wins.

        Raises:
            StateError: RocksDB refuses to write (disk full, corrupt files), now or earlier; the shard must stop.
        """
        if not items:
            return
        with self._owner.lock:
            touched = self._touched
            fresh = [key for key, _ in items if key not in touched]
            if fresh:
                self._before += chain.from_iterable(zip(fresh, self.get_many(fresh), strict=True))
                touched.update(fresh)
            self._pending.update(items)
            self._records.young.update(items)  # not a dict fetched earlier: the generations may have moved on since
            size = sum([len(key) + len(value) if value else len(key) for key, value in items])
            self._cache.charge(size + len(items) * ENTRY_OVERHEAD)
            self._owner.wait(self, len(items), size)

    def scan(self, start: bytes, stop: bytes | None, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to `limit` records with start <= key < stop (None: to the end) in key order; sees all earlier writes.

        Raises:
            StateError: A block is damaged; without asking, its records would be taken for absent.
        """
        found: list[tuple[bytes, bytes]] = []
        if limit <= 0 or (stop is not None and stop <= start):
            return found
        self._owner.write_waiting()
        seal = self._seal
        if seal is not None:
            start, stop = seal.bound(start), None if stop is None else seal.bound(stop)
        options = ReadOptions()
        if stop is not None:
            options.set_iterate_upper_bound(stop)  # or the cursor would walk through deleted records behind `stop`
        cursor = self._family.iter(options)
        cursor.seek(start)
        while cursor.valid() and len(found) < limit:
            found.append((cursor.key(), cursor.value()))
            cursor.next()
        if len(found) < limit:
            self._owner.check_read(cursor)
        return found if seal is None else seal.records(found)

    def commit(self) -> int:
        """Make everything written so far a version that can be opened again; returns its number.

        Survives a kill at once, a power loss after `StateHome.sync`. Before-images too old to be asked for go.

        Raises:
            StateError: RocksDB refuses to write (disk full, corrupt files), now or earlier; the shard must stop.
        """
        version = self.version + 1
        oldest = self.oldest if self._owner.pruning_held else max(self.oldest, version - self._versions_kept)
        prefix = self._undo_prefix
        with self._owner.lock:
            batch = WriteBatch(raw_mode=True)
            batch.put(self._version_key, encode_version(version, oldest))
            counts = self._undo_counts
            counts.append((version, len(self._touched)))
            pruned = 0 if self.oldest >= self._opened_at else 1  # versions of an earlier process: not counted
            while counts[0][0] <= oldest:
                pruned += counts.popleft()[1]
            if pruned and oldest > self.oldest:
                # From where the last range ended: RocksDB's memory is quadratic in ranges that overlap.
                start, stop = undo_key(prefix, self.oldest + 1, 0), undo_key(prefix, oldest + 1, 0)
                batch.delete_range(start, stop, self._undo_handle)
            self._owner.write_waiting_with(batch)
            self._owner.dirty = True
            self.version = version
            self.oldest = oldest
            self._touched = set()
            self._sequence = 0
        return version

    def add_waiting_to(self, batch: Any) -> None:
        """Put into `batch` what waits to be written; the shard calls this, holding its lock."""
        if self._before:
            key = undo_key(self._undo_prefix, self.version + 1, self._sequence)
            images = _encode_undo(self._before)
            batch.put(key, images if self._seal is None else self._seal.seal(key, images), self._undo_handle)
        batch.set_default_column_family(self._handle)
        waiting = self._pending.items() if self._seal is None else self._seal.writes(self._pending.items())
        for key, value in waiting:
            if value is None:
                batch.delete(key, self._handle)
            else:
                batch[key] = value

    def waiting_written(self) -> None:
        """What waited is in RocksDB now; the shard calls this, holding its lock."""
        if self._before:
            self._before = []
            self._sequence += 1
        self._pending = {}

    def undo_records(self) -> int:
        """Before-images kept of what was written since the store was opened, the epoch under way included."""
        return sum(count for _, count in self._undo_counts) + len(self._touched)

    def close(self) -> None:
        """Let go of RocksDB; any later call that needs it raises StateError. Idempotent."""
        self._cache.dismiss(self._records)
        self._touched = set()
        self._before = []
        self._pending = {}
        self.memo = {}
        self._owner = self._family = cast("Any", _Closed(f"{self.step}/{self.shard}"))
        self._handle = self._undo_handle = None

    def _find(self, keys: Sequence[bytes], values: list[bytes | None]) -> None:
        """Fill in what the young generation did not hold, from the old one, then from RocksDB in one multi-get."""
        records = self._records
        young = records.young
        pending = self._pending  # before RocksDB is read: what leaves here is there
        old = records.old
        places: list[int] = []
        size = 0
        for place, value in enumerate(values):
            if value is not None:
                continue
            key = keys[place]
            found = young.get(key, _UNKNOWN)  # None: known to be absent; a value: the key is in `keys` twice
            if found is _UNKNOWN:
                found = old.get(key, _UNKNOWN)
                if found is _UNKNOWN:
                    found = pending.get(key, _UNKNOWN)
                if found is _UNKNOWN:
                    places.append(place)
                    continue
                young[key] = found
                size += ENTRY_OVERHEAD + len(key) + (len(found) if found else 0)
            values[place] = found
        if places:
            self.misses += len(places)
            missing = [keys[place] for place in places]
            read: list[bytes | None]
            read = self._family.get(missing) if self._seal is None else self._seal.read(self._family, missing)
            for place, value in zip(places, read, strict=True):
                values[place] = value
                size += ENTRY_OVERHEAD + len(keys[place]) + (len(value) if value else 0)
            self._records.young.update(zip(missing, read, strict=True))
        if size:
            self._cache.charge(size)


class _Closed:
    """Stands where RocksDB was: whoever still uses the store is told so, instead of crashing the process."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        msg = f"shard {self._name}: the store was closed or opened again since; use the one opened last"
        raise StateError(msg)
