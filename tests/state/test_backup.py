"""A backup is whole or it is none, is stored once, and says by name what is wrong with it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.errors import BackupError
from state.backup import (
    RESTORING,
    FileHashes,
    Manifest,
    Stored,
    backup_ids,
    fetch_files,
    lineage_of,
    load_manifest,
    refuse_half_restored,
    restore_files,
    store_backup,
    thin_out,
)
from state.object_store import ObjectStore
from tests.state.s3_server import BUCKET, missing, s3_server


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    reason = missing()
    if reason:
        pytest.skip(reason)
    with s3_server() as environment:
        yield environment


@pytest.fixture(params=["file", "s3"])
def target(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    if request.param == "file":
        return ObjectStore(f"file://{tmp_path}/target")
    for name, value in request.getfixturevalue("s3").items():
        monkeypatch.setenv(name, value)
    return ObjectStore(f"s3://{BUCKET}/{tmp_path.name}")


@pytest.fixture
def here(tmp_path: Path) -> ObjectStore:
    return ObjectStore(f"file://{tmp_path}/target")


class State:
    """A directory with files like a shard's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.hashes = directory.parent / f"{directory.name}-hashes.json"
        self.write("manifest.json", b"{}")
        self.write("shards/s00/000001.sst", b"a" * 100_000)
        self.write("shards/s00/CURRENT", b"MANIFEST-1\n")

    def write(self, name: str, content: bytes) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def files(self) -> list[tuple[str, Path]]:
        paths = sorted(path for path in self.directory.rglob("*") if path.is_file())
        return [(str(path.relative_to(self.directory)), path) for path in paths]

    def store(self, target: ObjectStore, lineage: str = "one") -> Stored:
        hashes = FileHashes.load(self.hashes)
        stored = store_backup(target, self.files(), lineage, hashes, {"epoch": 7})
        hashes.save()
        return stored

    def content(self) -> dict[str, bytes]:
        return {name: path.read_bytes() for name, path in self.files()}


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state")


def content(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }  # fmt: skip


def test_what_is_restored_is_what_was_backed_up(target: ObjectStore, state: State, tmp_path: Path) -> None:
    made = state.store(target).manifest
    found = load_manifest(target, None)
    assert found == made
    restore_files(target, found, tmp_path / "restored")
    assert content(tmp_path / "restored") == state.content()


def test_a_second_backup_copies_only_what_is_new(target: ObjectStore, state: State) -> None:
    first = state.store(target)
    assert first.copied_files == 3
    again = state.store(target)
    assert (again.copied_files, again.copied_bytes) == (0, 0)
    state.write("shards/s00/000002.sst", b"b" * 500)
    third = state.store(target)
    assert (third.copied_files, third.copied_bytes) == (1, 500)
    assert len(backup_ids(target)) == 3
    for name in backup_ids(target):
        fetch_files(target, load_manifest(target, name), None)


def test_an_sst_known_from_before_is_not_even_read_again(here: ObjectStore, state: State) -> None:
    state.store(here)
    sst = state.directory / "shards/s00/000001.sst"
    stat = sst.stat()
    with sst.open("r+b") as out:  # same name, size, inode and time: only reading it would tell
        out.write(b"x")
    os.utime(sst, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert state.store(here).copied_files == 0
    os.utime(sst, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert state.store(here).copied_files == 1


def stored_path(here: ObjectStore, manifest: Manifest, name: str) -> Path:
    digest = next(one.sha256 for one in manifest.files if one.path == name)
    return Path(here.url.removeprefix("file://")) / "files" / manifest.lineage / digest


@pytest.mark.parametrize("name", ["manifest.json", "shards/s00/000001.sst"])
def test_a_damaged_file_is_named_by_verify_and_restore(
    here: ObjectStore, state: State, tmp_path: Path, name: str
) -> None:
    manifest = state.store(here).manifest
    path = stored_path(here, manifest, name)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(BackupError, match=f"{name} is damaged"):
        fetch_files(here, manifest, None)
    with pytest.raises(BackupError, match=f"{name} is damaged"):
        restore_files(here, manifest, tmp_path / "restored")
    with pytest.raises(BackupError, match="a restore into it was not finished"):
        refuse_half_restored(tmp_path / "restored")


def test_a_missing_file_is_named(here: ObjectStore, state: State) -> None:
    manifest = state.store(here).manifest
    stored_path(here, manifest, "shards/s00/CURRENT").unlink()
    with pytest.raises(BackupError, match=r"shards/s00/CURRENT is missing.*use another backup"):
        fetch_files(here, manifest, None)


@pytest.mark.parametrize("how", ["cut", "changed", "escaping", "newer"])
def test_a_torn_or_foreign_manifest_is_refused(here: ObjectStore, state: State, how: str, tmp_path: Path) -> None:
    manifest = state.store(here).manifest
    path = tmp_path / "target" / "backups" / f"{manifest.id}.json"
    raw = path.read_bytes()
    if how == "cut":
        path.write_bytes(raw[:-40])
    else:
        from state.backup import _seal  # noqa: PLC0415

        told = json.loads(raw)
        if how == "changed":
            told["content"]["facts"]["epoch"] = 8
        elif how == "escaping":
            told["content"]["files"][0]["path"] = "../outside"
            told["sha256"] = _seal(told["content"])
        else:
            told["content"]["format"] = 2
            told["sha256"] = _seal(told["content"])
        path.write_text(json.dumps(told))
    expected = {"cut": "torn or was changed", "changed": "checksum", "escaping": "outside", "newer": "the release"}
    with pytest.raises(BackupError, match=expected[how]):
        load_manifest(here, None)


def test_files_without_a_manifest_are_no_backup(here: ObjectStore, state: State, tmp_path: Path) -> None:
    manifest = state.store(here).manifest
    (tmp_path / "target" / "backups" / f"{manifest.id}.json").unlink()
    with pytest.raises(BackupError, match="holds no backup"):
        load_manifest(here, None)
    assert state.store(here).copied_files == 0  # what a torn backup has copied is not copied again


def test_a_folder_that_is_not_empty_is_not_restored_into(here: ObjectStore, state: State) -> None:
    manifest = state.store(here).manifest
    before = state.content()
    with pytest.raises(BackupError, match="expected an empty folder"):
        restore_files(here, manifest, state.directory)
    assert state.content() == before


def test_an_interrupted_restore_begins_anew(here: ObjectStore, state: State, tmp_path: Path) -> None:
    manifest = state.store(here).manifest
    torn = tmp_path / "restored"
    (torn / "shards" / "old").mkdir(parents=True)
    (torn / "shards" / "old" / "000009.sst").write_bytes(b"left over")
    (torn / RESTORING).write_text("of another backup")
    restore_files(here, manifest, torn)
    assert content(torn) == state.content()


def test_thinning_out_keeps_the_newest_and_every_file_they_need(target: ObjectStore, state: State) -> None:
    for number in range(4):
        state.write(f"shards/s00/{number:06}.sst", b"%d" % number * 50)
        if number:
            (state.directory / f"shards/s00/{number - 1:06}.sst").unlink()
        state.store(target)
    foreign = state.store(target, "two").manifest
    before = len(target.sizes("files/one"))
    assert thin_out(target, "one", 2) == 2
    left = backup_ids(target)
    assert len(left) == 3
    assert foreign.id in left
    for name in left:
        fetch_files(target, load_manifest(target, name), None)
    assert len(target.sizes("files/one")) == before - 3
    assert thin_out(target, "one", 2) == 0


def test_a_lineage_stays_with_its_directory(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    assert lineage_of(first) == lineage_of(first) != lineage_of(second)


@pytest.mark.parametrize("url", ["gs://bucket/x", "/plain/path", "s3://", "file://host/path"])
def test_another_sort_of_url_is_refused(url: str) -> None:
    with pytest.raises(BackupError, match="expected file:///FOLDER or s3://BUCKET/PREFIX"):
        ObjectStore(url)


def test_a_bucket_that_is_not_there_is_said(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BackupError, match="s3://no-such-bucket/x: cannot take a"):
        ObjectStore("s3://no-such-bucket/x").put_bytes("a", b"b")


def test_in_a_folder_an_object_and_the_folders_that_name_it_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    store = ObjectStore(f"file://{tmp_path}/kept")
    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr(os, "fsync", noted)
    store.put_file("shards/a/1.sst", tmp_path / "file")
    root = tmp_path / "kept"
    assert set(synced) == {root / "shards/a/1.sst", root / "shards/a", root / "shards", root}
    synced.clear()
    store.put_bytes("manifest.json", b"{}")
    assert synced == [root / "manifest.json", root]
