"""What every StepStore promises, held against the store on RocksDB and the one for tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schemas.errors import StateVersionError
from state.api import StepStore
from state.keys import StateKeys
from state.record_format import RecordFormat
from state.store import StateHome, StateOptions
from state.testing import DictHome

KEPT = 3
ALL_CLEAR = RecordFormat(clear=dict.fromkeys(range(256), 99))
"""Keys as they are: the suite asks for the order of whole keys, which encrypted ones do not have."""
Open = Callable[[int | None], StepStore]


KEYS = StateKeys("k1", {"k1": bytes(range(32))})


@pytest.fixture(params=["dict", "rocks", "rocks without cache", "rocks writing through", "rocks encrypted"])
def open_store(request: pytest.FixtureRequest, state_directory: Path) -> Iterator[Open]:
    if request.param == "dict":
        home: DictHome | StateHome = DictHome(state_directory, versions_kept=KEPT)
    elif request.param == "rocks":
        home = StateHome(state_directory, StateOptions(versions_kept=KEPT))
    elif request.param == "rocks without cache":
        home = StateHome(state_directory, StateOptions(versions_kept=KEPT, record_cache_bytes=0))
    elif request.param == "rocks encrypted":
        options = StateOptions(versions_kept=KEPT, batch_records=1, record_cache_bytes=0)
        home = StateHome(state_directory, options, KEYS, lambda _step: ALL_CLEAR)
    else:
        home = StateHome(state_directory, StateOptions(versions_kept=KEPT, batch_records=1))
    with home:
        yield lambda version: home.open("s00", "card", version)


def everything(store: StepStore) -> dict[bytes, bytes]:
    return dict(store.scan(b"", None, 1_000))


def test_a_new_store_is_empty_at_version_zero(open_store: Open) -> None:
    store = open_store(None)
    assert (store.shard, store.step, store.version, store.memo) == ("s00", "card", 0, {})
    assert store.get_many([b"a", b"b", b"a"]) == [None, None, None]
    assert store.get_many([]) == []
    assert everything(store) == {}


def test_reads_see_every_earlier_write_and_the_last_item_of_a_key_wins(open_store: Open) -> None:
    store = open_store(None)
    store.put_many([(b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"c", b"4"), (b"c", None)])
    assert store.get_many([b"c", b"b", b"a"]) == [None, b"2", b"3"]
    store.put_many([(b"b", None), (b"c", b"")])
    assert store.get_many([b"a", b"b", b"c"]) == [b"3", None, b""]
    store.put_many([])
    assert everything(store) == {b"a": b"3", b"c": b""}


def test_a_scan_sees_uncommitted_writes_in_key_order_within_its_bounds(open_store: Open) -> None:
    store = open_store(None)
    store.put_many([(key, key) for key in (b"b", b"a\xff", b"a", b"", b"c", b"\xff")])
    store.commit()
    store.put_many([(b"b", None), (b"ba", b"new")])
    assert store.scan(b"", None, 10) == [
        (b"", b""),
        (b"a", b"a"),
        (b"a\xff", b"a\xff"),
        (b"ba", b"new"),
        (b"c", b"c"),
        (b"\xff", b"\xff"),
    ]
    assert [key for key, _ in store.scan(b"a", b"c", 10)] == [b"a", b"a\xff", b"ba"]
    assert [key for key, _ in store.scan(b"a", b"c", 2)] == [b"a", b"a\xff"]
    assert [key for key, _ in store.scan(b"a0", None, 1)] == [b"a\xff"]
    assert store.scan(b"a", b"a", 10) == store.scan(b"c", b"a", 10) == store.scan(b"", None, 0) == []


def test_each_commit_is_the_next_version_also_without_writes(open_store: Open) -> None:
    store = open_store(None)
    assert [store.commit() for _ in range(3)] == [1, 2, 3]
    assert store.version == 3


def test_opening_at_a_kept_version_undoes_exactly_what_came_later(open_store: Open) -> None:
    store = open_store(None)
    store.put_many([(b"changed", b"1"), (b"deleted", b"1"), (b"kept", b"1")])
    store.commit()
    store.put_many([(b"changed", b"2"), (b"deleted", None), (b"added", b"2")])
    store.put_many([(b"changed", b"2b"), (b"added", None)])
    store.commit()
    store.put_many([(b"deleted", b"3"), (b"added", b"3")])
    store.commit()
    store.put_many([(b"kept", b"uncommitted"), (b"more", b"uncommitted")])
    store.memo["decoded"] = 1

    store = open_store(3)
    assert everything(store) == {b"changed": b"2b", b"deleted": b"3", b"added": b"3", b"kept": b"1"}
    assert (store.version, store.memo) == (3, {})
    store = open_store(2)
    assert everything(store) == {b"changed": b"2b", b"kept": b"1"}
    assert store.get_many([b"deleted", b"added", b"more", b"kept"]) == [None, None, None, b"1"]
    store = open_store(1)
    assert everything(store) == {b"changed": b"1", b"deleted": b"1", b"kept": b"1"}


def test_after_a_rollback_versions_go_on_from_there(open_store: Open) -> None:
    store = open_store(None)
    for value in (b"1", b"2", b"3"):
        store.put_many([(b"a", value)])
        store.commit()
    store = open_store(1)
    store.put_many([(b"a", b"other"), (b"b", b"other")])
    assert store.commit() == 2
    store.put_many([(b"a", None)])
    assert store.commit() == 3
    assert everything(open_store(3)) == {b"b": b"other"}
    assert everything(open_store(2)) == {b"a": b"other", b"b": b"other"}
    assert everything(open_store(1)) == {b"a": b"1"}


def test_an_abandoned_history_leaves_no_before_images_behind(open_store: Open) -> None:
    store = open_store(None)
    for version in (b"1", b"2", b"3"):
        for key in (b"a", b"b", b"c"):
            store.put_many([(key, b"old " + version)])
        store.commit()
    store = open_store(1)
    store.put_many([(b"b", b"new 2"), (b"c", b"new 2")])
    assert store.commit() == 2
    store.put_many([(b"a", b"new 3")])
    assert store.commit() == 3
    assert everything(open_store(2)) == {b"a": b"old 1", b"b": b"new 2", b"c": b"new 2"}


def test_a_step_without_a_known_commit_is_rolled_back_to_empty(open_store: Open) -> None:
    store = open_store(None)
    store.put_many([(b"a", b"1")])
    assert everything(open_store(None)) == {}
    store = open_store(None)
    store.put_many([(b"a", b"2")])
    store.commit()
    store.put_many([(b"b", b"2")])
    store.commit()
    store = open_store(None)
    assert everything(store) == {}
    assert store.version == 0
    assert store.commit() == 1


def test_a_version_that_is_not_kept_is_refused_and_nothing_changes(open_store: Open) -> None:
    store = open_store(None)
    for number in range(1, 8):
        store.put_many([(b"a", b"%d" % number)])
        store.commit()
    for gone in (3, 8):
        with pytest.raises(
            StateVersionError,
            match=rf"shard card/s00: bytewax resumes at version {gone}, the store "
            rf"keeps 4\.\.7; restore a backup that holds version {gone} \(docs/runbooks/restore\.md\)",
        ):
            open_store(gone)
    with pytest.raises(StateVersionError, match=r"shard card/s00: .*, the store keeps 4\.\.7; restore a backup"):
        open_store(None)
    assert everything(open_store(7)) == {b"a": b"7"}
    assert everything(open_store(4)) == {b"a": b"4"}
    with pytest.raises(StateVersionError, match=r"version 5, the store keeps 4\.\.4"):
        open_store(5)


def test_the_oldest_version_stays_the_oldest_after_a_rollback(open_store: Open) -> None:
    store = open_store(None)
    for number in range(1, 8):
        store.put_many([(b"%d" % number, b"")])
        store.commit()
    open_store(5).commit()
    with pytest.raises(StateVersionError, match=r"version 3, the store keeps 4\.\.6"):
        open_store(3)
    assert set(everything(open_store(4))) == {b"1", b"2", b"3", b"4"}


def test_large_and_many_records_survive_a_round_trip(open_store: Open) -> None:
    store = open_store(None)
    first = {b"k%05d" % number: bytes([number % 256]) * (number % 700) for number in range(2_000)}
    first[b"huge"] = b"h" * 400_000
    store.put_many(list(first.items()))
    store.commit()
    store.put_many([(key, value + b"2") for key, value in first.items()])
    assert store.get_many(list(first)) == [value + b"2" for value in first.values()]
    store = open_store(1)
    assert store.get_many(list(first)) == list(first.values())
    assert store.scan(b"", None, 10_000) == sorted(first.items())
