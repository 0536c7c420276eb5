"""state directory → recovery store copied, then every shard as a checkpoint → backup target; and the way back.

The order is what makes the parts agree. Before the recovery store is copied, every process of the flow stops pruning
before-images; so each shard, checkpointed later, can still be rolled back to the version that the copy knows, however
far it has gone meanwhile. The flow holds, checkpoints and goes on; hashing and copying is done here, in another
process. When no flow runs, the shards are opened here, whose locks keep a flow from starting in the middle.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from flows.control import CHECKPOINTS, running_flow
from flows.recovery import Known, copy_recovery, read_recovery, recovery_file
from operators.record_formats import format_of
from schemas.errors import BackupError, ConfigError, StateError
from state.backup import (
    HASHES,
    FileHashes,
    Manifest,
    Stored,
    fetch_files,
    lineage_of,
    load_manifest,
    refuse_half_restored,
    restore_files,
    store_backup,
    thin_out,
)
from state.keys import StateKeys
from state.object_store import ObjectStore
from state.raw import RawShard, shard_names_in
from state.store import StateHome

MANIFEST: Final = "manifest.json"
SHARDS: Final = "shards"
_OWN: Final = "backup"
_STARTING_S: Final = 10.0
"""How long a flow may take from its start to having opened all its shards, before a backup gives up on it."""
_AGAIN_S: Final = 0.5
_TURN_S: Final = 60.0
"""How long a backup waits for its turn behind another one of the same state."""


def state_keys() -> StateKeys | None:
    """The keys that a state folder's records are encrypted under, from the environment; None: there are none.

    Raises:
        SecretError: They cannot be read.
    """
    return StateKeys.from_environment(os.environ)


def check_state(state: Path) -> None:
    """Refuse what is no finished state directory.

    Raises:
        ConfigError: It is not one.
        BackupError: A restore into it was interrupted.
    """
    refuse_half_restored(state)
    if not (state / MANIFEST).is_file():
        msg = (
            f"--state {state}: expected a folder that `weir replay --state` or `weir decide` made, found no {MANIFEST} "
            "in it"
        )
        raise ConfigError(msg)


def make_backup(state: Path, url: str, keep: int | None = None) -> Stored:
    """Back up a state directory, whether a flow runs on it or not.

    Args:
        state: The directory.
        url: Where to.
        keep: Backups of this directory to keep there; None: all.

    Raises:
        ConfigError: `state` is none.
        BackupError: The target refuses, or another backup of this state is under way.
        StateError: The flow is starting or ending, or something cannot be read.
    """
    check_state(state)
    target = ObjectStore(url)
    own = state / _OWN
    own.mkdir(exist_ok=True)
    with _only_one(own), _collected(state) as (work, known):
        files = [(str(path.relative_to(work)), path) for path in sorted(work.rglob("*")) if path.is_file()]
        hashes = FileHashes.load(own / HASHES)
        facts = {"epoch": known.epoch, "offsets": known.offsets, "state": json.loads((work / MANIFEST).read_text())}
        lineage = lineage_of(own)
        stored = store_backup(target, files, lineage, hashes, facts)
        hashes.save()
        if keep is not None:
            thin_out(target, lineage, keep)
    return stored


@contextmanager
def readable(state: Path) -> Iterator[tuple[Path, Known]]:
    """The shards' directory and what the recovery store knows: a stopped flow's own, or copies of a running one's.

    Raises:
        ConfigError: `state` is none.
        StateError: The flow is starting or ending, or a copy cannot be made.
    """
    check_state(state)
    with running_flow(state) as flow:
        runs = flow is not None
    if runs:
        with _collected(state) as (work, known):
            yield work / SHARDS, known
    else:
        yield state / SHARDS, read_recovery(recovery_file(state))


@contextmanager
def _collected(state: Path) -> Iterator[tuple[Path, Known]]:
    """A directory with a copy of everything that belongs together, and what its recovery store knows.

    A flow that is starting may not have opened all shards yet that its recovery store knows; it is asked again.
    """
    _remove_left_over(state / CHECKPOINTS)
    deadline = time.monotonic() + _STARTING_S
    while True:
        work = state / CHECKPOINTS / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            known = _copy(state, work)
            missing = inconsistencies(work / SHARDS, known)
            if not missing:
                yield work, known
                return
            if time.monotonic() > deadline:
                msg = f"state {state}: no whole copy could be made: {missing[0]} (docs/runbooks/restore.md)"
                raise StateError(msg)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        time.sleep(_AGAIN_S)


def _remove_left_over(directory: Path) -> None:
    """Remove the copies of processes that were killed: hard links that would keep deleted files on the disk."""
    for path in directory.glob("*-*"):
        maker = path.name.split("-", maxsplit=1)[0]
        if maker.isdigit() and not Path("/proc", maker).exists() and Path("/proc/self").exists():
            shutil.rmtree(path, ignore_errors=True)


def _copy(state: Path, work: Path) -> Known:
    with running_flow(state) as flow, ExitStack() as stack:
        home = None
        if flow is None:
            home = stack.enter_context(StateHome(state / SHARDS, keys=state_keys(), format_of=format_of))
            home.open_as_they_are(shard_names_in(state / SHARDS))
        (work / "recovery").mkdir(parents=True)
        copy = work / "recovery" / recovery_file(state).name
        copy_recovery(recovery_file(state), copy)
        shutil.copyfile(state / MANIFEST, work / MANIFEST)
        if flow is not None:
            flow.checkpoint(f"{work.name}-shards").rename(work / SHARDS)
        elif home is not None:
            (work / SHARDS).mkdir()
            home.checkpoint(work / SHARDS)
    return read_recovery(copy)


@contextmanager
def _only_one(own: Path) -> Iterator[None]:
    with (own / "lock").open("w") as lock:
        deadline = time.monotonic() + _TURN_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    msg = f"state {own.parent}: another backup has been under way for {_TURN_S:g} s; run it again later"
                    raise BackupError(msg) from error
            time.sleep(_AGAIN_S)
        yield


def inconsistencies(shards: Path, known: Known) -> list[str]:
    """What a flow could not resume from: versions that the recovery store knows and a shard does not keep.

    Raises:
        StateError: A shard cannot be opened.
    """
    wrong: list[str] = []
    present = set(shard_names_in(shards))
    by_shard: dict[str, dict[str, int]] = {}
    for (shard, step), version in known.versions.items():
        by_shard.setdefault(shard, {})[step] = version
    for shard, steps in sorted(by_shard.items()):
        if shard not in present:
            wrong.append(f"shard {shard}: the recovery store knows it, and it is not there")
            continue
        with RawShard(shards / shard, state_keys(), format_of) as raw:
            for step, version in sorted(steps.items()):
                committed, oldest = raw.version(step) if step in raw.steps else (0, 0)
                if not oldest <= version <= committed:
                    wrong.append(
                        f"shard {step}/{shard}: the recovery store knows version {version}, the shard keeps "
                        f"{oldest}..{committed}"
                    )
    return wrong


def restore(url: str, state: Path, backup: str | None) -> tuple[Manifest, Known]:
    """Put a backup back into an empty directory and see that a flow can resume from it.

    Raises:
        BackupError: There is no such backup, it is damaged, or the directory is not empty.
        StateError: What was put back does not fit together.
    """
    target = ObjectStore(url)
    manifest = load_manifest(target, backup)
    restore_files(target, manifest, state)
    known = read_recovery(recovery_file(state))
    wrong = inconsistencies(state / SHARDS, known)
    if wrong:
        msg = f"--state {state}: backup {manifest.id} does not fit together: {wrong[0]}; restore another one"
        raise StateError(msg)
    return manifest, known


def verify_backup(url: str, backup: str | None) -> Manifest:
    """Read every file of a backup and compare it with the manifest.

    Raises:
        BackupError: The first file that is missing or damaged, by name.
    """
    target = ObjectStore(url)
    manifest = load_manifest(target, backup)
    fetch_files(target, manifest, None)
    return manifest


def verify_state(state: Path) -> dict[str, Any]:
    """Read every block of every shard and compare versions with the recovery store.

    Returns:
        epoch, shards, records.

    Raises:
        StateError: The first shard and file that cannot be read, or versions that do not fit.
    """
    with readable(state) as (shards, known):
        records = 0
        names = shard_names_in(shards)
        for name in names:
            with RawShard(shards / name, state_keys(), format_of) as raw:
                records += raw.check()
        wrong = inconsistencies(shards, known)
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        msg = f"state {state}: {wrong[0]}{more}; restore a backup (docs/runbooks/restore.md)"
        raise StateError(msg)
    return {"epoch": known.epoch, "shards": len(names), "records": records}
