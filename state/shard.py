"""One shard on disk: a RocksDB with a column family a step, opened once in a process; its steps write together."""

from __future__ import annotations

import contextlib
import re
import threading
from pathlib import Path
from typing import Any, Final

from rocksdict import Checkpoint, Rdict, WriteBatch

from schemas.errors import StateError, StateLayoutError, StateLockedError
from state.cache import RecordCache
from state.keys import StateKeys
from state.layout import LAYOUT, LAYOUT_KEY, UNDO_FAMILY, decode_layout, encode_layout, step_family
from state.migrate import bring_up_to_date, migrate_shard
from state.record_format import FormatOf, plain_format
from state.rocks import RocksSettings
from state.rollback import roll_back
from state.seal import ShardSeal, StepSeal, open_seal
from state.step_store import RocksStepStore

_HELD: Final = re.compile(r"LOCK: (No locks available|Resource temporarily unavailable)")

WRITE_BATCH_BYTES: Final = 1 << 18
"""Waiting values that are written at once, however few. Larger: a longer stall for one call, no fewer bytes."""


class Shard:
    """The open RocksDB of one shard and the stores of its steps.

    Attributes:
        name: The shard's name.
        db: The RocksDB.
        seal: What encrypts the shard, None when it is not.
        undo_handle: Column family handle of the before-images.
        lock: Guards what waits to be written, as several threads may use stores of this shard.
        dirty: A step has committed since the last sync; what is not committed need not be durable.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        settings: RocksSettings,
        cache: RecordCache,
        keys: StateKeys | None = None,
        format_of: FormatOf = plain_format,
    ) -> None:
        """Open or create the shard's RocksDB, encrypted when there are `keys`.

        Raises:
            StateLockedError: Another process, or another StateHome of this one, has it open.
            StateLayoutError: It was written by another layout or is not a shard of ours.
            SecretError: It is encrypted and `keys` do not open it, or it is not and there are keys.
            StateError: RocksDB cannot read its files.
        """
        self.name = name
        self.dirty = False
        self.lock = threading.Lock()
        self._waiting: dict[str, RocksStepStore] = {}
        self._waiting_records = 0
        self._waiting_bytes = 0
        self._failure = ""
        self._newest_log: tuple[Path, int] | None = None
        self._directory = directory
        self._settings = settings
        self._cache = cache
        self._stores: dict[str, RocksStepStore] = {}
        self._families: dict[str, Any] = {}
        self._format_of = format_of
        self.undo_handle: Any = None
        self.seal: ShardSeal | None = None
        self.db: Any = self._open_db()
        try:
            self._check_layout()
            # Made last: a shard without it was killed while it was made, and holds nothing yet.
            self.seal = open_seal(self.db, name, keys, is_new=UNDO_FAMILY not in self._known)
            if UNDO_FAMILY not in self._known:
                self.db.create_column_family(UNDO_FAMILY, settings.undo_options())
            self.undo_handle = self.db.get_column_family_handle(UNDO_FAMILY)
        except BaseException:
            self.close()
            raise

    def open_step(self, step: str, version: int | None) -> RocksStepStore:
        """The store of `step` at exactly `version` (None: at empty, no commit is known).

        Records of an older layout are brought up to date first.

        Raises:
            StateVersionError: `version` is not kept.
            StateLayoutError: The step's records are of a newer layout, or of one that cannot be migrated.
        """
        earlier = self._stores.get(step)
        if earlier is not None:
            with self.lock:
                self._waiting.pop(step, None)  # would only be undone
                del self._stores[step]
                earlier.close()
        family = step_family(step)
        if step not in self._families:
            if family in self._known:
                self._families[step] = self.db.get_column_family(family)
            else:
                self._families[step] = self.db.create_column_family(family, self._settings.step_options())
                self._known.add(family)
        bring_up_to_date(self, step, self._format_of(step))
        oldest = roll_back(self, step, version)
        store = RocksStepStore(self, step, version or 0, oldest, self._cache, self._settings.versions_kept)
        self._stores[step] = store
        return store

    def stores(self) -> list[RocksStepStore]:
        """Stores of the steps opened."""
        return list(self._stores.values())

    def family(self, step: str) -> Any:
        """The open column family of `step`."""
        return self._families[step]

    def handle(self, step: str) -> Any:
        """The handle by which a write batch names the column family of `step`."""
        return self.db.get_column_family_handle(step_family(step))

    def step_seal(self, step: str) -> StepSeal | None:
        """What stands between the records of `step` and RocksDB; None: nothing, they are not encrypted."""
        return None if self.seal is None else StepSeal(self.seal, step, self._format_of(step))

    def family_names(self) -> list[str]:
        """Names of all column families on disk."""
        return sorted(self._known)

    def write_batch(self, batch: Any) -> None:
        """Write while no step is open: rollback, migration.

        Raises:
            StateError: RocksDB refuses to write.
        """
        try:
            self.db.write(batch)
        except Exception as error:
            raise self.write_error(error) from error
        # Not dirty: what a power loss takes of a rollback, the next start rolls back again.

    def check_read(self, cursor: Any) -> None:
        """Ask a cursor that has ended whether it has: at a damaged block it stops as if there were no more.

        Raises:
            StateError: It stopped at damage.
        """
        try:
            cursor.status()
        except Exception as error:
            told = " ".join(str(error).split())
            msg = f"shard {self.name}: {self._directory} cannot be read: {told}; see docs/runbooks/corrupt-shard.md"
            raise StateError(msg) from error

    def wait(self, store: RocksStepStore, records: int, size_bytes: int) -> None:
        """Note that `store` has so much more to write, and write once there is enough; call with the lock held.

        Raises:
            StateError: RocksDB refuses to write, now or earlier.
        """
        self._waiting[store.step] = store
        self._waiting_records += records
        self._waiting_bytes += size_bytes
        if self._waiting_records >= self._settings.batch_records or self._waiting_bytes >= WRITE_BATCH_BYTES:
            self.write_waiting_with(WriteBatch(raw_mode=True))

    def write_waiting(self) -> None:
        """Write what waits, so that a cursor sees it.

        Raises:
            StateError: RocksDB refuses to write, now or earlier.
        """
        with self.lock:
            if self._waiting:
                self.write_waiting_with(WriteBatch(raw_mode=True))

    def write_waiting_with(self, batch: Any) -> None:
        """Write `batch` and what waits of all steps, atomically; call with the lock held.

        Raises:
            StateError: RocksDB refuses to write, now or earlier.
        """
        self._check_alive()
        waiting = self._waiting.values()
        for store in waiting:
            store.add_waiting_to(batch)
        try:
            self.db.write(batch)
        except Exception as error:
            del batch  # holds a column family, and the traceback would hold the batch
            raise self._stopped(error) from error
        for store in waiting:
            store.waiting_written()
        self._waiting = {}
        self._waiting_records = self._waiting_bytes = 0

    def sync(self) -> None:
        """Make all that was written durable against power loss; releases the GIL while the disk works.

        Raises:
            StateError: The disk refuses.
        """
        self._check_alive()
        self.dirty = False
        try:
            self.db.flush_wal(True)
        except Exception as error:
            raise self._stopped(error) from error

    def close(self) -> None:
        """Close all stores and the RocksDB; its lock is free afterwards. Drops what was not committed. Idempotent.

        RocksDB writes its memtables to files on the way. A full disk refuses that, and nothing is lost: the log has it.
        """
        for store in self._stores.values():
            store.close()
        self._stores.clear()
        # A live column family keeps RocksDB and its lock alive, so these go before the database.
        self.undo_handle = None
        for opened in (*self._families.values(), self.db):
            if opened is not None:
                with contextlib.suppress(Exception):  # or it would hide the error for which the process ends
                    opened.close()
        self._families.clear()
        self.db = None

    @property
    def pruning_held(self) -> bool:
        """Whether commits keep every before-image, as a backup is being made."""
        return self._settings.pruning_holds > 0

    def checkpoint(self, directory: Path) -> None:
        """Make `directory` (new) a copy of what the shard has written, hard-linked; any thread may call this.

        What waits in memory is not in it: it is of no committed version. rocksdict holds the GIL in create_checkpoint
        but not in flush, so the memtables are flushed first; what is left takes some milliseconds.

        Raises:
            StateError: RocksDB or the disk refuses.
        """
        undo = self.db.get_column_family(UNDO_FAMILY)
        try:
            for family in (*self._families.values(), undo, self.db):
                family.flush()
            Checkpoint(self.db).create_checkpoint(str(directory))
        except Exception as error:
            msg = (
                f"shard {self.name}: no checkpoint could be made in {directory}: {error}; "
                "free the disk (docs/runbooks/disk-full.md) and run the backup again"
            )
            raise StateError(msg) from error
        finally:
            undo.close()  # a live column family would keep RocksDB's lock after close

    def bytes_on_disk(self) -> int:
        """Size of all files of the shard, the log included."""
        total = 0
        for path in self._directory.iterdir():
            try:
                total += path.stat().st_size
            except FileNotFoundError:  # a compaction removed it meanwhile
                continue
        return total

    def undo_records(self) -> int:
        """Before-images kept for the steps opened."""
        return sum(store.undo_records() for store in self._stores.values())

    def undo_bytes(self) -> int:
        """Size of the column family with before-images, in memory and on disk; what is deleted goes with compaction."""
        family = self.db.get_column_family(UNDO_FAMILY)
        return sum(
            int(family.property_int_value(name) or 0)
            for name in ("rocksdb.cur-size-all-mem-tables", "rocksdb.live-sst-files-size")
        )

    def write_error(self, error: Exception) -> StateError:
        """What to raise when RocksDB refuses to write."""
        msg = (
            f"shard {self.name}: RocksDB refuses to write in {self._directory}: {error}; free the disk "
            "(docs/runbooks/disk-full.md) or restore a backup (docs/runbooks/corrupt-shard.md), then start again"
        )
        return StateError(msg)

    def lost_log(self) -> str:
        """End of a message: which log has lost its end when versions that were committed are missing."""
        if self._newest_log is None:
            return f"; {self._directory} held no log at this start"
        path, size = self._newest_log
        return (
            f"; the log {path} had {size} bytes at this start and has lost its end, unless the recovery store is of "
            "another moment (docs/runbooks/corrupt-shard.md)"
        )

    def _stopped(self, error: Exception) -> StateError:
        """Refuse all further writes: a later commit would be a version without what was lost now."""
        refusal = self.write_error(error)
        self._failure = str(refusal)  # not the error itself, whose traceback would keep RocksDB and its lock alive
        return refusal

    def _check_alive(self) -> None:
        if self._failure:
            raise StateError(self._failure)

    def _open_db(self) -> Any:
        path = str(self._directory)
        settings = self._settings
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            exists = (self._directory / "CURRENT").exists()
            # Before RocksDB opens: it reads a torn log up to the tear without a word, and then removes it.
            self._newest_log = _newest_log(self._directory)
            self._known = set(Rdict.list_cf(path)) if exists else {"default"}
            families = {
                name: settings.undo_options() if name == UNDO_FAMILY else settings.step_options()
                for name in self._known - {"default"}
            }
            return Rdict(path, settings.database_options(), column_families=families)
        except Exception as error:
            if _HELD.search(str(error)):
                msg = (
                    f"shard {self.name}: {path} is open in another process (or in another StateHome of this one): "
                    f"{error}; stop that process first, one state directory serves one process"
                )
                raise StateLockedError(msg) from error
            msg = (
                f"shard {self.name}: RocksDB cannot open {path}: {error}; restore a backup "
                "(docs/runbooks/corrupt-shard.md)"
            )
            raise StateError(msg) from error

    def _check_layout(self) -> None:
        record = self.db.get(LAYOUT_KEY)
        if record is None and self._known == {"default"} and self.db.latest_sequence_number() == 0:
            self.db.put(LAYOUT_KEY, encode_layout(LAYOUT))
            return
        found = decode_layout(record) if record is not None else 0
        if found and found < LAYOUT:
            found = migrate_shard(self, found)
        if found != LAYOUT:
            what = f"layout {found}" if found else "no layout of Weir's"
            msg = (
                f"shard {self.name}: {self._directory} has {what}, this program reads layout {LAYOUT}; start the "
                "release that wrote it, or migrate the state (CHANGELOG.md says between which releases)"
            )
            raise StateLayoutError(msg)


def _newest_log(directory: Path) -> tuple[Path, int] | None:
    """RocksDB's newest log and its size; logs are numbered upwards."""
    logs = sorted(directory.glob("*.log"), key=lambda path: int(path.stem) if path.stem.isdigit() else -1)
    return (logs[-1], logs[-1].stat().st_size) if logs else None
