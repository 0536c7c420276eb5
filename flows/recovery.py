"""What bytewax's recovery store says: the epoch a flow resumes at, and the versions that every shard must then have.

The store is one SQLite file, recovery/part-0.sqlite3, in WAL mode; reading it disturbs no writer. Its tables (bytewax
0.21): `exs` one row a start with the epoch it resumed at and its number of workers, `fronts` how far each worker came,
`snaps` pickled snapshots by step, key and epoch. The flow resumes at the lowest front of the last start, with the
latest snapshot of every step and key from before it. Weir's snapshots are flat mappings, so nothing but those is
unpickled.
"""

from __future__ import annotations

import io
import pickle  # bytewax pickles its snapshots; only plain values are let through below
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from schemas.errors import StateError

PART: Final = "part-0.sqlite3"
_PUBLISH: Final = "weir.publish"
_EVENTS: Final = "weir.events"
_FLOW: Final = "weir."


@dataclass(frozen=True, slots=True)
class Known:
    """What a recovery store knows.

    Attributes:
        epoch: The flow resumes with it; 1 before the first commit.
        versions: (shard, step) -> version to roll back to; ledgers are the shards ledger-<slot>, step "ledger".
        offsets: Slot -> committed length of its output.
        sources: Source -> its snapshot.
    """

    epoch: int
    versions: dict[tuple[str, str], int]
    offsets: dict[str, int]
    sources: dict[str, Any]


class _Plain(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        msg = f"a snapshot names {module_name}.{global_name}, expected plain values"
        raise pickle.UnpicklingError(msg)


def recovery_file(state: Path) -> Path:
    """The recovery store of a state directory.

    Raises:
        StateError: There is none, or it has several parts.
    """
    parts = sorted((state / "recovery").glob("part-*.sqlite3"))
    if [part.name for part in parts] != [PART]:
        found = ", ".join(part.name for part in parts) or "none"
        msg = (
            f"state {state}: expected recovery/{PART}, found {found}; give a folder that `weir replay --state` or "
            "`weir decide` made"
        )
        raise StateError(msg)
    return parts[0]


def copy_recovery(source: Path, copy: Path) -> None:
    """Copy a recovery store as of one moment, while a flow may be writing to it.

    Raises:
        StateError: It cannot be read.
    """
    try:
        with closing(_open(source)) as reading, closing(sqlite3.connect(copy)) as writing:
            reading.backup(writing)
    except sqlite3.Error as error:
        raise _unreadable(source, error) from error


def read_recovery(path: Path) -> Known:
    """What the recovery store knows.

    Raises:
        StateError: It cannot be read or fails SQLite's own check.
    """
    try:
        with closing(_open(path)) as store:
            found = store.execute("PRAGMA integrity_check").fetchone()[0]
            if found != "ok":
                raise _unreadable(path, found)
            epoch = _resume_epoch(store)
            rows = store.execute(
                "SELECT step_id, state_key, MAX(snap_epoch), ser_change FROM snaps WHERE snap_epoch < ? "
                "GROUP BY step_id, state_key",
                (epoch,),
            ).fetchall()
    except sqlite3.Error as error:
        raise _unreadable(path, error) from error
    versions: dict[tuple[str, str], int] = {}
    offsets: dict[str, int] = {}
    sources: dict[str, Any] = {}
    for step_id, key, _, pickled in rows:
        if pickled is None:  # bytewax: the state was discarded
            continue
        try:
            snapshot = _Plain(io.BytesIO(pickled)).load()
        except (pickle.UnpicklingError, EOFError, ValueError) as error:
            raise _unreadable(path, f"{step_id} {key}: {error}") from error
        if step_id == _PUBLISH:
            versions[f"ledger-{key}", "ledger"] = snapshot["version"]
            offsets[key] = snapshot["offset"]
        elif step_id == _EVENTS:
            sources[key] = snapshot
        elif isinstance(snapshot, dict) and "shard" in snapshot:  # not the barrier, whose snapshot is a number
            versions[snapshot["shard"], str(step_id).removeprefix(_FLOW)] = snapshot["version"]
    return Known(epoch, versions, offsets, sources)


def _resume_epoch(store: sqlite3.Connection) -> int:
    start = store.execute("SELECT ex_num, worker_count, resume_epoch FROM exs ORDER BY ex_num DESC LIMIT 1").fetchone()
    if start is None:
        return 1
    number, workers, resumed_at = start
    fronts = [row[0] for row in store.execute("SELECT worker_frontier FROM fronts WHERE ex_num = ?", (number,))]
    # A worker that has not told a front yet stands where the start resumed.
    return int(min(fronts)) if len(fronts) == workers else int(resumed_at)


def _open(path: Path) -> sqlite3.Connection:
    # Not mode=ro: that would leave -wal and -shm files behind, which it may make and not delete.
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=10)


def _unreadable(path: Path, error: object) -> StateError:
    msg = f"{path}: the recovery store cannot be read: {error}; restore a backup (docs/runbooks/restore.md)"
    return StateError(msg)
