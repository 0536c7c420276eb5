"""Publishes records once, to files: decisions, labelled outcomes, alerts and dead letters, one slot each.

A slot's snapshot is (offset, version): how long its file was and which version its ledger had. What stands in the file
behind that offset was published by a run that died before it could commit, and is *adopted*: it is read back on
resume, and when the replayed flow comes to publish the same record again, the published one stands and the recomputed
one is dropped. A torn last line was never published; it is cut off. A snapshot taken before the flow has come to all of
them again keeps the rest in the ledger: the next run may die as well, and reads the file from behind them.

The ledger of decisions remembers where in the file each decision stands, so that a retry of the same payment is
answered with the very decision published, marked `duplicate`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypedDict

import orjson
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from flows.epochs import BackgroundSync, Epochs, OneLate
from flows.exits import deadly
from flows.stats import StageStats
from schemas.errors import StateError
from schemas.times import parse_rfc3339_us
from state.api import StepStore

DECISIONS: Final = "decisions"
LABELLED_OUTCOMES: Final = "labelled_outcomes"
DEAD_LETTERS: Final = "dead_letters"
ALERTS: Final = "alerts"
SLOTS: Final = tuple(sorted((DECISIONS, LABELLED_OUTCOMES, DEAD_LETTERS, ALERTS)))
"""Sorted, because bytewax numbers partitions in the order of their names, whatever order list_parts gives them in."""

DAY_US: Final = 86_400_000_000
_MOST_WAITING: Final = 1_000_000
_LINES_AT_ONCE: Final = 512
"""Lines written by one call; with their line ends 1,024 pieces, the most that Linux takes (IOV_MAX)."""
_ALL: Final = 2**62
"""More records than a scan can find."""
_SWEPT_AT_ONCE: Final = 2_000
"""Ledger entries deleted in one snapshot at the least; twice as many as were added, if that is more, lest it grow."""


class Publication:
    """A record on its way out.

    Attributes:
        identity: Equal for equal records of a slot, however often they are computed.
        line: The record, one line without its end; empty for the answer to a retry, which the ledger knows.
        seen_at_us: The flow's clock when its payment was read.
    """

    __slots__ = ("identity", "line", "seen_at_us")

    def __init__(self, identity: bytes, line: bytes, seen_at_us: int) -> None:
        self.identity = identity
        self.line = line
        self.seen_at_us = seen_at_us


class SlotSnapshot(TypedDict):
    """What bytewax keeps of a slot."""

    offset: int
    version: int


def decision_identity(transaction_id: str) -> bytes:
    """A decision is told by its transaction."""
    return transaction_id.encode()


def dead_letter_identity(topic: str, partition: int, offset: int) -> bytes:
    """A dead letter is told by where its record came from."""
    return f"{topic}/{partition}/{offset}".encode()


def alert_identity(alert_id: str) -> bytes:
    """An alert is told by its id."""
    return alert_id.encode()


def labelled_identity(transaction_id: str, source: str, event_time_us: int) -> bytes:
    """A labelled outcome is told by its transaction, who said it and when."""
    return f"{transaction_id}\x1f{source}\x1f{event_time_us}".encode()


def identity_of(slot: str, record: dict[str, Any]) -> bytes:
    """The identity of a record read back from a slot's file."""
    if slot == DECISIONS:
        return decision_identity(record["transaction_id"])
    if slot == LABELLED_OUTCOMES:
        event_time_us = parse_rfc3339_us(record["event_time"])
        return labelled_identity(record["transaction_id"], record["source"], event_time_us)
    if slot == ALERTS:
        return alert_identity(record["alert_id"])
    return dead_letter_identity(record["topic"], record["partition"], record["offset"])


class FileSlot(StatefulSinkPartition[Sequence[Publication], SlotSnapshot]):
    """One output file and its ledger."""

    def __init__(
        self,
        slot: str,
        path: Path,
        ledger: StepStore,
        committed: int,
        ttl_us: int,
        sync: Callable[[], None] | None,
        epochs: Epochs,
        *,
        may_overtake: bool = False,
        stats: StageStats | None = None,
    ) -> None:
        """Open the file, cut off a torn line, adopt what stands behind the committed offset.

        Args:
            slot: One of SLOTS.
            path: The file.
            ledger: Its ledger, already rolled back to the committed version.
            committed: Length of the file at the last commit.
            ttl_us: For how long retries are answered.
            sync: Makes committed state durable, called once a snapshot; None: nothing here is to outlive the process.
            epochs: Of the process.
            may_overtake: Whether a retry may come before its decision, as it may with several workers; it then waits.
            stats: Where the slot reports to.

        Raises:
            StateError: The file is shorter than what was committed.
        """
        self._slot = slot
        self._ledger = ledger
        self._ttl_us = ttl_us
        self._state_sync = sync
        self._sync = BackgroundSync(None if sync is None else self._make_durable, epochs)
        self._told = OneLate(epochs, SlotSnapshot(offset=committed, version=ledger.version))
        self._may_overtake = may_overtake
        self._stats = stats or StageStats(slot)
        # Retries whose decision has not come yet, by identity; few at any time.
        self._waiting = {key[1:]: int.from_bytes(count, "big") for key, count in ledger.scan(b"w", b"x", _MOST_WAITING)}
        # Answers to a retry repeat their decision's identity, so adopted ones are counted, not listed.
        self._adopted: dict[tuple[bytes, bool], int] = {}
        self._adopted_kept: set[tuple[bytes, bool]] = set()  # those that stand in the ledger
        self._adopted_changed: set[tuple[bytes, bool]] = set()  # those of which the ledger does not know the count
        self._new_ledger: dict[bytes, bytes | None] = {}
        self._clock_us = 0
        self._path = path
        self._written = 0
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise self._unwritable(error) from error
        self._buffer: list[bytes] = []
        size = os.fstat(self._file).st_size
        if size < committed:
            os.close(self._file)
            message = (
                f"{path}: expected at least the {committed} bytes that were committed, found {size}; "
                "restore the file, or start anew with an empty --state and --out"
            )
            raise StateError(message)
        self._end = self._adopt(path, committed, size)
        os.lseek(self._file, self._end, os.SEEK_SET)

    def _adopt(self, path: Path, committed: int, size: int) -> int:
        """Read what was adopted before, then the file from `committed` on; returns where its last whole line ends."""
        for name, value in self._ledger.scan(b"a", b"b", _ALL):
            key = (name[2:], name[1:2] == b"1")
            self._adopted[key] = int.from_bytes(value[:4], "big")
            self._adopted_kept.add(key)
            if len(value) > 4:
                self._place[key[0]] = (int.from_bytes(value[4:12], "big"), int.from_bytes(value[12:], "big"))
        end = committed
        with path.open("rb") as lines:
            lines.seek(committed)
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                try:
                    record = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    message = f"{path}: byte {end} starts no record ({error}); see docs/runbooks/restore.md"
                    raise StateError(message) from error
                duplicate = bool(record.get("duplicate"))
                key = (identity_of(self._slot, record), duplicate)
                self._adopted[key] = self._adopted.get(key, 0) + 1
                self._adopted_changed.add(key)
                if self._slot == DECISIONS and not duplicate:
                    # Its day is not in the record; the retry's look-up tries each day of the ledger's span.
                    self._place[key[0]] = (end, len(line) - 1)
                end += len(line)
        if end < size:
            os.ftruncate(self._file, end)
        return end

    @property
    def _place(self) -> dict[bytes, tuple[int, int]]:
        """Where adopted decisions stand, until the flow comes to them again and the ledger takes them over."""
        places: dict[bytes, tuple[int, int]] = self._ledger.memo.setdefault("adopted", {})
        return places

    @deadly
    def write_batch(self, items: list[Sequence[Publication]]) -> None:
        """Called by bytewax with the records of one or more batches."""
        started = time.perf_counter()
        for records in items:
            for record in records:
                self._publish(record)
        if self._new_ledger:
            self._ledger.put_many(list(self._new_ledger.items()))
            self._new_ledger = {}
        if self._buffer:
            self._flush()
        self._stats.observe(time.perf_counter() - started, sum(map(len, items)))

    def _publish(self, record: Publication) -> None:
        self._clock_us = max(self._clock_us, record.seen_at_us)
        duplicate = not record.line
        adopted = self._adopted
        if adopted:
            key = (record.identity, duplicate)
            left = adopted.get(key, 0)
            if left:
                if left == 1:
                    del adopted[key]
                else:
                    adopted[key] = left - 1
                self._adopted_changed.add(key)
                if self._slot == DECISIONS and not duplicate:
                    self._remember(record, *self._place.pop(record.identity))
                    self._answer_waiting(record)
                return
        if duplicate:
            line = self._answer(record)
            if line is None:
                self._wait(record.identity, self._waiting.get(record.identity, 0) + 1)
                return
            self._write(line)
            return
        if self._slot == DECISIONS:
            self._remember(record, self._end, len(record.line))
        self._write(record.line)
        self._answer_waiting(record)

    def _unwritable(self, error: OSError) -> StateError:
        message = (
            f"{self._path}: cannot be written ({error.strerror}); see docs/runbooks/disk-full.md, then start again"
        )
        return StateError(message)

    def _write(self, line: bytes) -> None:
        self._written += 1
        self._buffer.append(line)
        self._end += len(line) + 1

    def _wait(self, identity: bytes, count: int) -> None:
        self._new_ledger[b"w" + identity] = count.to_bytes(4, "big") if count else None
        if count:
            self._waiting[identity] = count
        else:
            del self._waiting[identity]

    def _answer_waiting(self, decided: Publication) -> None:
        """Answer the retries that came before their decision."""
        count = self._waiting.get(decided.identity) if self._waiting else None
        if count:
            self._wait(decided.identity, 0)
            for _ in range(count):
                self._publish(Publication(decided.identity, b"", decided.seen_at_us))

    def _remember(self, record: Publication, offset: int, length: int) -> None:
        day = record.seen_at_us // DAY_US
        self._new_ledger[b"d" + day.to_bytes(4, "big") + record.identity] = _place_bytes(offset, length)

    def _answer(self, record: Publication) -> bytes | None:
        """The decision already published of this payment, marked as the answer to a retry; None: it has not come yet.

        Raises:
            StateError: The ledger does not know it, although the step `seen` does: they are out of step.
        """
        today = record.seen_at_us // DAY_US
        oldest = max(0, (record.seen_at_us - self._ttl_us) // DAY_US)
        keys = [b"d" + day.to_bytes(4, "big") + record.identity for day in range(today, oldest - 1, -1)]
        place = next((self._new_ledger[key] for key in keys if key in self._new_ledger), None)
        if place is None:
            place = next((found for found in self._ledger.get_many(keys) if found is not None), None)
        if place is None and self._may_overtake:
            return None
        if place is None:
            message = (
                f"slot {self._slot}: a retry of transaction {record.identity.decode()!r} came, and the ledger holds no "
                "decision of it; state and ledger are out of step: restore both from one backup"
            )
            raise StateError(message)
        self._flush()
        offset, length = int.from_bytes(place[:8], "big"), int.from_bytes(place[8:], "big")
        line = os.pread(self._file, length, offset)
        return line.replace(b'"duplicate":false', b'"duplicate":true', 1)

    def _flush(self) -> None:
        waiting = self._buffer
        self._buffer = []
        for start in range(0, len(waiting), _LINES_AT_ONCE):
            # Gathered by the kernel: joining them first would copy every record once more into fresh memory.
            pieces: list[bytes | memoryview] = [
                piece for line in waiting[start : start + _LINES_AT_ONCE] for piece in (line, b"\n")
            ]
            try:
                while pieces:
                    pieces = _behind(pieces, os.writev(self._file, pieces))
            except OSError as error:
                raise self._unwritable(error) from error

    @deadly
    def snapshot(self) -> SlotSnapshot:
        """Called by bytewax at the end of an epoch, after all steps; what is told is durable (flows/epochs.py)."""
        started = time.perf_counter()
        self._flush()
        self._sweep()
        self._keep_adopted()
        version = self._ledger.commit()
        self._written = 0
        self._sync.epoch_ends()
        self._stats.observe_snapshot(time.perf_counter() - started)
        return self._told.tell(SlotSnapshot(offset=self._end, version=version))

    def _make_durable(self) -> None:
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._unwritable(error) from error
        if self._state_sync is not None:
            self._state_sync()

    def _keep_adopted(self) -> None:
        """Let the ledger know what the flow has not come to again: the offset of this snapshot lies behind it."""
        writes: list[tuple[bytes, bytes | None]] = []
        for key in self._adopted_changed:
            identity, duplicate = key
            name = (b"a1" if duplicate else b"a0") + identity
            left = self._adopted.get(key, 0)
            if left:
                place = None if duplicate else self._place.get(identity)
                writes.append((name, left.to_bytes(4, "big") + (_place_bytes(*place) if place else b"")))
                self._adopted_kept.add(key)
            elif key in self._adopted_kept:
                writes.append((name, None))
                self._adopted_kept.discard(key)
        self._adopted_changed.clear()
        if writes:
            self._ledger.put_many(writes)

    def _sweep(self) -> None:
        # One day more than the span, so that the day a retry may still ask for is whole.
        limit = (self._clock_us - self._ttl_us) // DAY_US - 1
        if self._slot == DECISIONS and limit > 0:
            quota = max(_SWEPT_AT_ONCE, 2 * self._written)
            old = self._ledger.scan(b"d", b"d" + limit.to_bytes(4, "big"), quota)
            if old:
                self._ledger.put_many([(key, None) for key, _ in old])

    def close(self) -> None:
        """Called by bytewax when the flow has ended, in order or by an error.

        Raising here would abort the process in the middle of telling that error. What cannot be written now was never
        committed, and is decided again.
        """
        try:
            self._flush()
        except StateError as error:
            sys.stderr.write(f"weir: {error}\n")
        finally:
            self._sync.close()
            os.close(self._file)


def _place_bytes(offset: int, length: int) -> bytes:
    """Where a decision stands, as the ledger has it."""
    return offset.to_bytes(8, "big") + length.to_bytes(4, "big")


def _behind(pieces: list[bytes | memoryview], written: int) -> list[bytes | memoryview]:
    """What is left of `pieces` behind the first `written` bytes; nearly always nothing."""
    total = 0
    for place, piece in enumerate(pieces):
        total += len(piece)
        if total > written:
            return [memoryview(piece)[len(piece) - (total - written) :], *pieces[place + 1 :]]
    return []


OpenSlot = Callable[[str, SlotSnapshot | None], FileSlot]


class FileSink(FixedPartitionedSink[Sequence[Publication], SlotSnapshot]):
    """The output files as bytewax partitions; the key of an item is its slot's name."""

    def __init__(self, open_slot: OpenSlot) -> None:
        self._open_slot = open_slot

    def list_parts(self) -> list[str]:
        """Called by bytewax once a worker; the same everywhere, so that any worker may own any slot."""
        return list(SLOTS)

    def part_fn(self, item_key: str) -> int:
        """Called by bytewax for each item."""
        return SLOTS.index(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: SlotSnapshot | None) -> FileSlot:
        """Called by bytewax on the worker that owns the slot."""
        return self._open_slot(for_part, resume_state)
