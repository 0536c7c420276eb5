"""What a backup is, how it is stored, found, verified, put back and thinned out. Knows no engine.

Objects below the URL:

    files/<lineage>/<sha256>       a file's bytes, under their own hash: what is stored once is never copied again
    backups/<id>.json              the manifest: {"content": {...}, "sha256": hash of the content's canonical JSON}

A lineage is the life of one state directory, from its making (or restoring) on; directories never share files, so
thinning out the backups of one cannot take a file from another. An id is <UTC time>-<8 random digits>, so that ids sort
by time. The manifest is written last, after every file it names: what has no manifest is no backup.

    content: format 1 | id | lineage | created_at | state_layout | facts (told by the maker: epoch, offsets, ...) |
             files: [{path, size, sha256}], paths relative to the state directory

While a backup is put back, RESTORING stands in the directory; one that holds it is not a state directory yet.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec

from schemas.errors import BackupError
from state.layout import LAYOUT
from state.object_store import ObjectStore, sha256_of

FORMAT: Final = 1
RESTORING: Final = ".restoring"
LINEAGE: Final = "lineage"
HASHES: Final = "hashes.json"
_TRANSFERS: Final = 8
"""Objects on their way at once: a small one on S3 is nearly all waiting. More would take a core from the flow."""
_RUNBOOK: Final = "(docs/runbooks/restore.md)"


class BackupFile(msgspec.Struct, frozen=True):
    """A file of a backup: path relative to the state directory, size in bytes, sha256 (hex)."""

    path: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """What a backup holds; see the module."""

    format: int
    id: str
    lineage: str
    created_at: str
    state_layout: int
    facts: dict[str, Any]
    files: list[BackupFile]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(one.size for one in self.files)


@dataclass(frozen=True, slots=True)
class Stored:
    """What making a backup took.

    Attributes:
        manifest: Of the backup.
        copied_files: Files that were not stored before.
        copied_bytes: Their bytes.
    """

    manifest: Manifest
    copied_files: int
    copied_bytes: int


@dataclass(slots=True)
class FileHashes:
    """Hashes of files that do not change, so that a backup reads only what is new.

    A file is taken for unchanged when name, size, inode and modification time are; RocksDB writes an SST once.
    """

    path: Path
    known: dict[str, str] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> FileHashes:
        """The hashes kept in `path`; none when there is no such file or it cannot be read, as it only saves time."""
        try:
            return cls(path, msgspec.json.decode(path.read_bytes(), type=dict[str, str]))
        except (OSError, msgspec.MsgspecError):
            return cls(path)

    def of(self, file: Path, name: str) -> str:
        """sha256 of `file`, called `name` in the backup."""
        stat = file.stat()
        key = f"{name} {stat.st_size} {stat.st_ino} {stat.st_mtime_ns}"
        found = self.known.get(key)
        if found is None or not name.endswith(".sst"):
            found = sha256_of(file)
        if name.endswith(".sst"):
            self.used[key] = found
        return found

    def save(self) -> None:
        """Keep what was used since it was loaded."""
        written = self.path.with_suffix(".new")
        written.write_bytes(msgspec.json.encode(self.used))
        written.rename(self.path)


def lineage_of(directory: Path) -> str:
    """The lineage of the state directory whose backups' own folder is `directory`; a new one is made on first use."""
    path = directory / LINEAGE
    if not path.is_file():
        written = path.with_suffix(".new")
        written.write_text(secrets.token_hex(8))
        written.rename(path)
    return path.read_text().strip()


def store_backup(
    target: ObjectStore, files: Sequence[tuple[str, Path]], lineage: str, hashes: FileHashes, facts: dict[str, Any]
) -> Stored:
    """Copy what is not stored yet, then write the manifest.

    Args:
        target: Where to.
        files: (path relative to the state directory, file); none may change meanwhile.
        lineage: Of the state directory.
        hashes: Hashes known from the backup before.
        facts: Goes into the manifest as it is.

    Raises:
        BackupError: The target refuses; there is no new backup then, and the ones before are untouched.
    """
    folder = f"files/{lineage}"
    there = target.sizes(folder)
    entries = [BackupFile(name, path.stat().st_size, hashes.of(path, name)) for name, path in files]
    missing: dict[str, tuple[Path, int]] = {}
    for entry, (_, path) in zip(entries, files, strict=True):
        if there.get(f"{folder}/{entry.sha256}") != entry.size:
            missing[entry.sha256] = (path, entry.size)
    with ThreadPoolExecutor(_TRANSFERS, thread_name_prefix="weir-backup") as pool:
        moves = [pool.submit(target.put_file, f"{folder}/{name}", path) for name, (path, _) in missing.items()]
        for move in moves:
            move.result()
    now = datetime.now(UTC)
    manifest = Manifest(
        format=FORMAT,
        id=f"{now:%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}",
        lineage=lineage,
        created_at=now.isoformat(),
        state_layout=LAYOUT,
        facts=facts,
        files=entries,
    )
    target.put_bytes(f"backups/{manifest.id}.json", encode_manifest(manifest))
    return Stored(manifest, len(missing), sum(size for _, size in missing.values()))


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest's object."""
    content = msgspec.to_builtins(manifest)
    return json.dumps({"content": content, "sha256": _seal(content)}, indent=1).encode()


def _seal(content: Any) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def decode_manifest(raw: bytes, where: str) -> Manifest:
    """Read a manifest's object.

    Raises:
        BackupError: It is torn, changed, of another format, or names a file outside of the directory.
    """
    try:
        found = json.loads(raw)
        content = found["content"]
        if _seal(content) != found["sha256"]:
            msg = "its checksum does not match its content"
            raise BackupError(msg)
        if content["format"] != FORMAT or content["state_layout"] > LAYOUT:
            msg = (
                f"{where}: it has format {content['format']} and state layout {content['state_layout']}, this program "
                f"reads {FORMAT} and {LAYOUT}; restore it with the release that made it (CHANGELOG.md)"
            )
            raise BackupError(msg) from None
        manifest = msgspec.convert(content, Manifest)
    except (BackupError, ValueError, TypeError, LookupError) as error:
        if isinstance(error, BackupError) and str(error).startswith(where):
            raise
        msg = f"{where}: the manifest is torn or was changed ({error}); use another backup {_RUNBOOK}"
        raise BackupError(msg) from error
    for entry in manifest.files:
        path = PurePosixPath(entry.path)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            msg = f"{where}: it names {entry.path!r}, outside of a state directory; use another backup {_RUNBOOK}"
            raise BackupError(msg)
    return manifest


def backup_ids(target: ObjectStore) -> list[str]:
    """Ids of all backups at the target, oldest first."""
    names = target.sizes("backups")
    return sorted(name.removeprefix("backups/").removesuffix(".json") for name in names if name.endswith(".json"))


def load_manifest(target: ObjectStore, backup: str | None) -> Manifest:
    """The manifest of a backup, of the newest one without an id.

    Raises:
        BackupError: There is none, or it is torn.
    """
    if backup is None:
        known = backup_ids(target)
        if not known:
            msg = f"backup {target.url}: it holds no backup (no finished manifest); give the URL that was backed up to"
            raise BackupError(msg)
        backup = known[-1]
    raw = target.read(f"backups/{backup}.json")
    if raw is None:
        msg = f"backup {target.url}: it holds no backup {backup!r}; `weir state backups --from URL` lists them"
        raise BackupError(msg)
    return decode_manifest(raw, f"backup {target.url} {backup}")


def fetch_files(target: ObjectStore, manifest: Manifest, directory: Path | None) -> None:
    """Read all files of a backup, compare them with the manifest, and write them below `directory` if given.

    Raises:
        BackupError: A file is missing or differs; the message names the first by path, and how many there are.
    """
    where = f"backup {target.url} {manifest.id}"

    def fetch(entry: BackupFile) -> str | None:
        path = None
        if directory is not None:
            path = directory / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
        got = target.fetch(f"files/{manifest.lineage}/{entry.sha256}", path)
        if got is None:
            return f"{entry.path} is missing"
        if got != (entry.size, entry.sha256):
            expected = f"{entry.size} bytes with sha256 {entry.sha256[:12]}…"
            return f"{entry.path} is damaged: expected {expected}, found {got[0]} bytes with {got[1][:12]}…"
        if path is not None:
            _sync_file(path)
        return None

    with ThreadPoolExecutor(_TRANSFERS, thread_name_prefix="weir-backup") as pool:
        wrong = [fault for fault in pool.map(fetch, manifest.files) if fault]
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        msg = f"{where}: {wrong[0]}{more}; use another backup: `weir state backups --from URL` lists them {_RUNBOOK}"
        raise BackupError(msg)


def restore_files(target: ObjectStore, manifest: Manifest, directory: Path) -> None:
    """Put a backup back into an empty directory, or one in which an earlier restore was interrupted.

    Raises:
        BackupError: The directory is not empty, or a file is missing or damaged.
        OSError: The disk refuses; run it again when mended.
    """
    marker = directory / RESTORING
    directory.mkdir(parents=True, exist_ok=True)
    if marker.is_file():
        for path in directory.iterdir():
            if path != marker:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif any(directory.iterdir()):
        msg = (
            f"--state {directory}: expected an empty folder to restore into, found {len(list(directory.iterdir()))} "
            "entries; move it aside first, delete nothing yet"
        )
        raise BackupError(msg)
    marker.write_text(manifest.id)
    _sync_file(marker)
    fetch_files(target, manifest, directory)
    for path in sorted({directory, *(path.parent for path in directory.rglob("*"))}):
        _sync_file(path)
    marker.unlink()
    _sync_file(directory)


def refuse_half_restored(directory: Path) -> None:
    """Refuse a state directory into which a backup is being put back, or was not put back to the end.

    Raises:
        BackupError: It is one.
    """
    if (directory / RESTORING).is_file():
        msg = (
            f"--state {directory}: a restore into it was not finished; run `weir state restore` again, "
            f"it begins anew {_RUNBOOK}"
        )
        raise BackupError(msg)


def thin_out(target: ObjectStore, lineage: str, keep: int) -> int:
    """Delete all but the newest `keep` backups of a lineage and the files that only they had; returns how many.

    Manifests go first: a backup whose files are gone must not be found. A manifest that cannot be read keeps its place
    and everything stays, since what it needs is unknown.

    Raises:
        BackupError: The target refuses, or a manifest cannot be read.
    """
    mine = [one for one in _manifests(target) if one.lineage == lineage]
    gone, kept = mine[:-keep], mine[-keep:]
    if not gone:
        return 0
    target.delete(f"backups/{one.id}.json" for one in gone)
    needed = {entry.sha256 for one in kept for entry in one.files}
    unneeded = {entry.sha256 for one in gone for entry in one.files} - needed
    target.delete(f"files/{lineage}/{name}" for name in sorted(unneeded))
    return len(gone)


def _manifests(target: ObjectStore) -> Iterable[Manifest]:
    return [load_manifest(target, backup) for backup in backup_ids(target)]


def _sync_file(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
