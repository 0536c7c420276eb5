"""Checkpoints while others write, pruning held, damage that is noticed, and records that are gone for good."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from schemas.errors import StateError, StateLockedError, StateVersionError
from state.erase import Eraser
from state.options import StateOptions
from state.raw import RawShard, shard_names_in
from state.store import StateHome

OPTIONS = StateOptions(versions_kept=4, record_cache_bytes=20_000, batch_records=16, compression="none")


def commit(home: StateHome, versions: int, shard: str = "s00", start: int | None = None) -> int:
    store = home.open(shard, "card", start)
    for _ in range(versions):
        number = store.version + 1
        store.put_many([(b"counter", b"%d" % number), (b"key-%d" % number, b"value" * 40)])
        store.commit()
    return store.version


def read(directory: Path, shard: str = "s00") -> dict[bytes, bytes]:
    with RawShard(directory / shard) as raw:
        return dict(raw.records("card"))


def test_a_checkpoint_can_be_rolled_back_to_a_version_from_before_the_hold_began(state_directory: Path) -> None:
    live, copies = state_directory / "live", state_directory / "copies"
    copies.mkdir()
    with StateHome(live, OPTIONS) as home:
        known = commit(home, 3)
        store = home.open("s00", "card", known)
        with home.hold_pruning():
            for _ in range(20):  # far more than are kept
                store.put_many([(b"counter", b"later")])
                store.commit()
            assert home.checkpoint(copies) == ["s00"]
        store.commit()
        assert store.oldest == store.version - 4  # pruned again after the hold
    with StateHome(copies, OPTIONS) as restored:
        assert restored.open("s00", "card", known).get_many([b"counter"]) == [b"3"]


def test_without_a_hold_that_version_is_gone(state_directory: Path) -> None:
    live, copies = state_directory / "live", state_directory / "copies"
    copies.mkdir()
    with StateHome(live, OPTIONS) as home:
        known = commit(home, 3)
        commit(home, 20, start=known)
        home.checkpoint(copies)
    with StateHome(copies, OPTIONS) as restored, pytest.raises(StateVersionError, match=r"keeps 19\.\.23"):
        restored.open("s00", "card", known)


def test_checkpoints_while_others_write_are_each_a_whole_version(state_directory: Path) -> None:
    live = state_directory / "live"
    with StateHome(live, OPTIONS) as home:
        store = home.open("s00", "card", None)
        done = threading.Event()

        def write() -> None:
            while not done.is_set():
                number = b"%d" % (store.version + 1)
                store.put_many([(b"a", number), (b"b", number)])
                store.commit()

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for number in range(5):
                copies = state_directory / f"copies-{number}"
                copies.mkdir()
                with home.hold_pruning():
                    known = store.version
                    home.checkpoint(copies)
                with StateHome(copies, OPTIONS) as restored:
                    found = restored.open("s00", "card", known or None).get_many([b"a", b"b"])
                assert found == [b"%d" % known] * 2 or (known == 0 and found == [None, None])
        finally:
            done.set()
            writer.join()


def test_a_checkpoint_is_given_up_when_asked(state_directory: Path) -> None:
    with StateHome(state_directory / "live", OPTIONS) as home:
        commit(home, 1)
        with pytest.raises(StateError, match="the flow is ending"):
            home.checkpoint(state_directory, lambda: True)


def test_a_shard_opened_as_it_is_is_not_rolled_back_and_is_locked(state_directory: Path) -> None:
    live = state_directory / "live"
    with StateHome(live, OPTIONS) as home:
        commit(home, 3)
    with StateHome(live, OPTIONS) as home:
        home.open_as_they_are(shard_names_in(live))
        with StateHome(live, OPTIONS) as other, pytest.raises(StateLockedError):
            other.open("s00", "card", 3)
    assert read(live)[b"counter"] == b"3"


def _damage(directory: Path) -> None:
    with StateHome(directory, OPTIONS) as home:
        commit(home, 300)
    with Eraser(directory, {("s00", "card"): 300}, OPTIONS) as eraser:  # makes everything files
        eraser.finish()
    largest = max((directory / "s00").glob("*.sst"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    largest.write_bytes(content)


def test_a_damaged_block_is_an_error_and_not_the_end_of_the_records(state_directory: Path) -> None:
    _damage(state_directory)
    with RawShard(state_directory / "s00") as raw:
        with pytest.raises(StateError, match=r"block checksum mismatch.*corrupt-shard"):
            raw.check()
        with pytest.raises(StateError, match="s00: cannot be read"):
            list(raw.records("card"))


def test_a_scan_that_meets_a_damaged_block_is_an_error_and_not_the_end_of_the_records(state_directory: Path) -> None:
    _damage(state_directory)
    with StateHome(state_directory, OPTIONS) as home:
        store = home.open("s00", "card", 300)
        with pytest.raises(StateError, match=r"shard s00: .*block checksum mismatch.*corrupt-shard"):
            store.scan(b"", None, 1_000)


def test_a_missing_file_is_named(state_directory: Path) -> None:
    _damage(state_directory)
    largest = max((state_directory / "s00").glob("*.sst"), key=lambda path: path.stat().st_size)
    largest.unlink()
    with pytest.raises(StateError, match=largest.name):
        RawShard(state_directory / "s00")


def raw_files(directory: Path, needle: bytes) -> list[str]:
    return [path.name for path in directory.rglob("*") if path.is_file() and needle in path.read_bytes()]


def test_what_is_erased_is_in_no_file_and_no_before_image(state_directory: Path) -> None:
    with StateHome(state_directory, OPTIONS) as home:
        store = home.open("s00", "card", None)
        for number in range(6):
            store.put_many([(b"SUBJECT-A", b"of SUBJECT-A %d" % number), (b"other", b"%d" % number)])
            store.commit()
        store.put_many([(b"SUBJECT-A", b"not committed")])
        store.scan(b"", None, 10)  # writes it
    assert raw_files(state_directory, b"SUBJECT-A")
    with Eraser(state_directory, {("s00", "card"): 6}, OPTIONS) as eraser:
        assert dict(eraser.records("s00", "card"))[b"SUBJECT-A"] == b"of SUBJECT-A 5"  # rolled back
        eraser.write("s00", "card", [(b"SUBJECT-A", None)])
        eraser.finish()
    assert raw_files(state_directory, b"SUBJECT-A") == []
    with RawShard(state_directory / "s00") as raw:
        assert dict(raw.records("card")) == {b"other": b"5"}
        assert list(raw.before_images("card")) == []
        assert raw.version("card") == (6, 6)
    with StateHome(state_directory, OPTIONS) as home:
        assert home.open("s00", "card", 6).get_many([b"other"]) == [b"5"]
        with pytest.raises(StateVersionError, match=r"keeps 6\.\.6"):
            home.open("s00", "card", 5)


def test_deleting_alone_would_leave_it_on_disk(state_directory: Path) -> None:
    with StateHome(state_directory, OPTIONS) as home:
        store = home.open("s00", "card", None)
        store.put_many([(b"SUBJECT-A", b"of SUBJECT-A")])
        store.commit()
        store.put_many([(b"SUBJECT-A", None)])
        store.commit()
    assert raw_files(state_directory, b"SUBJECT-A")
