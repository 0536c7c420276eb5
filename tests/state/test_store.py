"""Tests of state/store.py on disk. One file, because all of it looks at the same directory from outside."""

import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from schemas.errors import ConfigError, StateError, StateLayoutError, StateLockedError, StateVersionError
from state.api import StepStore
from state.layout import LAYOUT_KEY, encode_layout, undo_prefix, version_key
from state.shard import Shard
from state.store import StateHome, StateOptions

ROOT = Path(__file__).parents[2]
OTHER_PROCESS = """
import sys
from pathlib import Path
from state.store import StateHome

StateHome(Path(sys.argv[1])).open("s00", "card", None)
"""


def test_a_store_is_a_step_store(state_directory: Path) -> None:
    with StateHome(state_directory) as home:
        store: StepStore = home.open("s00", "card", None)
        assert store.version == 0


def test_steps_of_a_shard_share_a_directory_and_keep_versions_of_their_own(state_directory: Path) -> None:
    with StateHome(state_directory) as home:
        card, device = home.open("s00", "card", None), home.open("s00", "device", None)
        other = home.open("s01", "card", None)
        card.put_many([(b"a", b"card")])
        device.put_many([(b"a", b"device")])
        other.put_many([(b"a", b"other")])
        assert [card.commit(), card.commit(), device.commit()] == [1, 2, 1]
        device.put_many([(b"a", b"later")])
    assert sorted(path.name for path in state_directory.iterdir()) == ["s00", "s01"]
    with StateHome(state_directory) as home:
        assert home.open("s00", "card", 2).get_many([b"a"]) == [b"card"]
        assert home.open("s00", "device", 1).get_many([b"a"]) == [b"device"]
        assert home.open("s01", "card", None).get_many([b"a"]) == [None]
        late = home.open("s00", "merchant", None)
        assert late.get_many([b"a"]) == [None]


def test_rolling_one_step_back_leaves_what_other_steps_of_the_shard_have_not_committed(state_directory: Path) -> None:
    with StateHome(state_directory) as home:
        card, device = home.open("s00", "card", None), home.open("s00", "device", None)
        card.put_many([(b"a", b"1")])
        device.put_many([(b"a", b"2")])
        assert home.open("s00", "card", None).get_many([b"a"]) == [None]
        assert device.get_many([b"a"]) == [b"2"]
        device.commit()
    with StateHome(state_directory) as home:
        assert home.open("s00", "device", 1).get_many([b"a"]) == [b"2"]


def test_another_process_is_refused_while_a_shard_is_open_and_welcome_after(state_directory: Path) -> None:
    command = [sys.executable, "-c", OTHER_PROCESS, str(state_directory)]
    with StateHome(state_directory) as home:
        home.open("s00", "card", None).commit()
        home.open("s00", "device", None)
        held = home._shards["s00"].family("card")  # as a traceback may
        refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert refused.returncode == 1
        assert "StateLockedError: shard s00: " in refused.stderr
        assert "is open in another process" in refused.stderr
        assert "stop that process first" in refused.stderr
        with pytest.raises(StateLockedError, match=r"s00 is open in another process \(or in another StateHome of this"):
            StateHome(state_directory).open("s00", "card", None)
    # Each store, handle and column family must have let go of the lock.
    assert held is not None
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stderr == ""


def test_a_shard_of_a_newer_layout_is_refused_and_left_alone(state_directory: Path) -> None:
    with StateHome(state_directory) as home:
        store = home.open("s00", "card", None)
        store.put_many([(b"a", b"1")])
        store.commit()
    change_default(state_directory / "s00", LAYOUT_KEY, encode_layout(2))
    for _ in range(2):
        with (
            StateHome(state_directory) as home,
            pytest.raises(StateLayoutError, match=r"shard s00: .*s00 has layout 2, this program reads layout 1; start"),
        ):
            home.open("s00", "card", None)
    change_default(state_directory / "s00", LAYOUT_KEY, encode_layout(1))
    with StateHome(state_directory) as home:
        assert home.open("s00", "card", 1).get_many([b"a"]) == [b"1"]


def test_a_directory_with_another_programs_database_is_refused(state_directory: Path) -> None:
    database = Rdict(str(state_directory / "s00"), Options(raw_mode=True))
    database[b"theirs"] = b"1"
    database.close()
    with StateHome(state_directory) as home, pytest.raises(StateLayoutError, match="has no layout of Weir's"):
        home.open("s00", "card", None)


def test_a_shard_killed_while_its_database_was_made_is_started_anew(state_directory: Path) -> None:
    Rdict(str(state_directory / "s00"), Options(raw_mode=True)).close()
    with StateHome(state_directory) as home:
        assert home.open("s00", "card", None).commit() == 1


def test_damaged_files_are_refused_with_the_shards_name_and_the_runbook(state_directory: Path) -> None:
    with StateHome(state_directory) as home:
        home.open("s00", "card", None).commit()
    (manifest,) = (state_directory / "s00").glob("MANIFEST-*")
    manifest.write_bytes(manifest.read_bytes()[:30] + b"\xff" * 200)
    with (
        StateHome(state_directory) as home,
        pytest.raises(StateError, match=r"shard s00: RocksDB cannot open .*corrupt-shard\.md") as refusal,
    ):
        home.open("s00", "card", 1)
    assert type(refusal.value) is StateError


def test_a_damaged_version_record_is_refused(state_directory: Path) -> None:
    with StateHome(state_directory) as home:
        home.open("s00", "card", None).commit()
    change_default(state_directory / "s00", version_key("card"), b"short")
    with (
        StateHome(state_directory) as home,
        pytest.raises(StateError, match=r"shard card/s00: the version record has 5 bytes instead of 16"),
    ):
        home.open("s00", "card", 1)


def test_a_damaged_undo_record_is_refused_and_nothing_is_rolled_back(state_directory: Path) -> None:
    with StateHome(state_directory) as home:
        store = home.open("s00", "card", None)
        for value in (b"1", b"2", b"3"):
            store.put_many([(b"a", value)])
            store.commit()
        undo = home._shards["s00"].db.get_column_family("undo")
        key = undo_prefix("card") + (2).to_bytes(8, "big") + bytes(4)
        undo[key] = undo[key][:-1]
        del undo
    with StateHome(state_directory) as home:
        with pytest.raises(StateError, match=r"shard card/s00: an undo record cannot be read"):
            home.open("s00", "card", 1)
        assert home.open("s00", "card", 3).get_many([b"a"]) == [b"3"]
        assert home.open("s00", "card", 2).get_many([b"a"]) == [b"2"]


def test_a_store_opened_again_or_closed_refuses_to_be_used(state_directory: Path) -> None:
    home = StateHome(state_directory)
    first = home.open("s00", "card", None)
    first.put_many([(b"a", b"1")])
    second = home.open("s00", "card", None)
    with pytest.raises(StateError, match=r"shard card/s00: the store was closed or opened again since"):
        first.put_many([(b"a", b"2")])
    with pytest.raises(StateError, match="use the one opened last"):
        first.get_many([b"a"])
    home.close()
    home.close()
    for use in (second.commit, lambda: second.scan(b"", None, 1), lambda: second.get_many([b"a"])):
        with pytest.raises(StateError, match="the store was closed"):
            use()
    with pytest.raises(StateError, match="the home is closed; make a new one"):
        home.open("s00", "card", None)


def test_a_write_that_rocksdb_refuses_stops_the_shard_for_good(
    state_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullDisk:
        def write(self, batch: object) -> None:
            del batch
            message = "IO error: No space left on device"
            raise RuntimeError(message)

    with StateHome(state_directory, StateOptions(batch_records=1)) as home:
        card, device = home.open("s00", "card", None), home.open("s00", "device", None)
        card.put_many([(b"a", b"1")])
        card.commit()
        shard: Shard = home._shards["s00"]
        with monkeypatch.context() as patch:
            patch.setattr(shard, "db", FullDisk())
            with pytest.raises(
                StateError, match=r"shard s00: .*No space left on device; free the disk \(docs/runbooks"
            ):
                card.put_many([(b"a", b"2")])
        # The disk is free again, but the batch is lost: nothing that builds on it may become a version.
        for use in (lambda: card.put_many([(b"b", b"2")]), card.commit, device.commit, home.sync):
            with pytest.raises(StateError, match="No space left on device"):
                use()
    with StateHome(state_directory) as home:
        assert home.open("s00", "card", 1).scan(b"", None, 9) == [(b"a", b"1")]


def test_sync_makes_dirty_shards_durable_and_leaves_clean_ones_alone(
    state_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = Shard.sync

    def noted(shard: Shard) -> None:
        sync(shard)
        synced.append(shard.name)

    monkeypatch.setattr(Shard, "sync", noted)
    with StateHome(state_directory) as home:
        stores = [home.open(f"s{number:02d}", "card", None) for number in range(6)]
        home.sync()
        synced.clear()
        for store in stores[:5]:
            store.put_many([(b"a", b"1")])
            store.commit()
        home.sync()
        assert sorted(synced) == ["s00", "s01", "s02", "s03", "s04"]
        assert home.stats()["last_sync_seconds"] > 0
        synced.clear()
        home.sync()
        assert synced == []
        stores[5].commit()
        home.sync()
        assert synced == ["s05"]


def test_a_sync_that_the_disk_refuses_is_raised_and_not_forgotten(state_directory: Path) -> None:
    class Refusing:
        def __init__(self, database: object) -> None:
            self.database = database

        def flush_wal(self, sync: bool) -> None:
            assert sync
            message = "IO error: fsync failed"
            raise RuntimeError(message)

    home = StateHome(state_directory)
    stores = [home.open(name, "card", None) for name in ("s00", "s01")]
    for store in stores:
        store.commit()
    shard = home._shards["s01"]
    database, shard.db = shard.db, Refusing(shard.db)
    with pytest.raises(StateError, match=r"shard s01: RocksDB refuses to write .*fsync failed"):
        home.sync()
    shard.db = database
    with pytest.raises(StateError, match="fsync failed"):
        stores[1].commit()
    home.close()


def test_stats_count_what_is_open_kept_and_on_disk(state_directory: Path) -> None:
    with StateHome(state_directory, StateOptions(versions_kept=2)) as home:
        assert home.stats()["open_shards"] == 0
        store = home.open("s00", "card", None)
        for version in range(5):
            store.put_many([(b"k%d" % number, b"%d" % version * 100) for number in range(10)])
            store.commit()
        store.put_many([(b"k1", b"x"), (b"k1", b"y"), (b"k2", b"z")])
        stats = home.stats()
        assert stats["open_shards"] == 1
        assert stats["cached_records"] == 10
        assert stats["undo_records"] == 2 * 10 + 2
        assert stats["undo_bytes"] > 0
        assert stats["memtable_bytes"] > 0
        assert 5_000 < stats["disk_bytes"] < 500_000
        (state_directory / "s00" / "more").write_bytes(bytes(1_000_000))
        assert 1_000_000 < home.stats()["disk_bytes"] < 1_500_000


def test_before_images_of_versions_no_longer_kept_leave_the_disk(state_directory: Path) -> None:
    with StateHome(state_directory, StateOptions(versions_kept=1)) as home:
        store = home.open("s00", "card", None)
        for version in range(40):
            store.put_many([(b"k%d" % number, b"%d" % version * 500) for number in range(40)])
            store.commit()
        undo = home._shards["s00"].db.get_column_family("undo")
        assert {int.from_bytes(key[5:13], "big") for key in undo.keys()} == {40}  # noqa: SIM118 - no dict
        before = home.stats()["undo_bytes"]
        undo.compact_range(None, None)
        undo.flush()
        assert home.stats()["undo_bytes"] < before / 10
        del undo


def test_pruning_takes_no_memory_that_grows_with_the_number_of_commits(state_directory: Path) -> None:
    with StateHome(state_directory) as home:
        store = home.open("s00", "card", None)
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(8_000):
            store.put_many([(b"k%d" % (number % 100), b"v")])
            store.commit()
        home._shards["s00"].db.get_column_family("undo").flush()
        # Ranges deleted one over the other would take 8,000 * 8,000 / 2 numbers of 8 bytes here.
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 100_000


def test_versions_kept_may_change_between_starts(state_directory: Path) -> None:
    with StateHome(state_directory, StateOptions(versions_kept=6)) as home:
        store = home.open("s00", "card", None)
        for version in range(1, 10):
            store.put_many([(b"a", b"%d" % version)])
            store.commit()
        assert store.oldest == 3
    with StateHome(state_directory, StateOptions(versions_kept=2)) as home:
        store = home.open("s00", "card", 9)
        assert store.commit() == 10
        assert store.oldest == 8
        assert home.open("s00", "card", 8).get_many([b"a"]) == [b"8"]
        undo = home._shards["s00"].db.get_column_family("undo")
        assert list(undo.keys()) == []
        del undo
    with StateHome(state_directory, StateOptions(versions_kept=6)) as home:
        store = home.open("s00", "card", 8)
        assert [store.commit() for _ in range(3)] == [9, 10, 11]
        assert store.oldest == 8


def test_stores_of_one_shard_may_be_used_by_different_threads(state_directory: Path) -> None:
    failures: list[BaseException] = []

    def work(store: StepStore, home: StateHome) -> None:
        try:
            for version in range(30):
                for number in range(40):
                    key = b"k%d" % (number % 25)
                    (found,) = store.get_many([key])
                    store.put_many([(key, (found or b"") + b"%d." % version)])
                store.commit()
                home.sync()
        except BaseException as failure:
            failures.append(failure)

    with StateHome(state_directory, StateOptions(record_cache_bytes=9_000, batch_records=5)) as home:
        stores = [home.open("s00", step, None) for step in ("card", "device", "ip")]
        threads = [threading.Thread(target=work, args=(store, home)) for store in stores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        expected = {b"k%d" % n: b"".join(b"%d." % v * (2 if n < 15 else 1) for v in range(30)) for n in range(25)}
        for store in stores:
            assert dict(store.scan(b"", None, 100)) == expected


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"versions_kept": 0}, "versions_kept must be at least 1, found 0"),
        ({"block_cache_bytes": 0}, "block_cache_bytes must be at least 1048576, found 0"),
        ({"record_cache_bytes": -1}, "record_cache_bytes must be at least 0, found -1"),
        ({"batch_records": 0}, "batch_records must be at least 1, found 0"),
        ({"compression": "gzip"}, "compression must be none, snappy, lz4 or zstd, found 'gzip'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=f"state options: {complaint}"):
        StateOptions(**options)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("compression", ["none", "snappy", "lz4", "zstd"])
def test_every_compression_is_built_in_and_may_change_between_starts(state_directory: Path, compression: str) -> None:
    with StateHome(state_directory) as home:
        store = home.open("s00", "card", None)
        store.put_many([(b"k%d" % number, b"text " * 50) for number in range(50)])
        store.commit()
    with StateHome(state_directory, StateOptions(compression=compression)) as home:  # type: ignore[arg-type]
        store = home.open("s00", "card", 1)
        store.put_many([(b"more", b"text " * 50)])
        store.commit()
        home._shards["s00"].db.get_column_family("step.card").compact_range(None, None)
        assert len(store.scan(b"", None, 100)) == 51


def change_default(directory: Path, key: bytes, value: bytes) -> None:
    families = {name: Options(raw_mode=True) for name in Rdict.list_cf(str(directory)) if name != "default"}
    database = Rdict(str(directory), Options(raw_mode=True), column_families=families)
    database[key] = value
    database.close()


def test_a_log_that_lost_its_end_is_refused_by_version_and_named(state_directory: Path) -> None:
    with StateHome(state_directory) as home:
        store = home.open("s00", "card", None)
        for number in range(4):
            store.put_many([(b"k%d" % number, b"v" * 500)])
            store.commit()
        home.sync()
        copy = state_directory / "copy" / "s00"  # as a kill would leave it
        shutil.copytree(state_directory / "s00", copy)
    log = max(copy.glob("*.log"))
    size = log.stat().st_size // 2
    os.truncate(log, size)
    with (
        StateHome(copy.parent) as home,
        pytest.raises(
            StateVersionError, match=rf"resumes at version 4, the store keeps 0\.\.[123]; .*{log} had {size} bytes"
        ),
    ):
        home.open("s00", "card", 4)
