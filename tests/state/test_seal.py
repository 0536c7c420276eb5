"""Encrypted shards: nothing readable on disk, keys that rotate, and what is refused."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
from rocksdict import Options, Rdict

from schemas.errors import SecretError, StateError
from state.keys import StateKeys
from state.layout import LAYOUT_KEY, SEAL_KEY, encode_layout
from state.record_format import RecordFormat
from state.rekey import rekey
from state.store import StateHome, StateOptions

A = bytes(range(32))
B = bytes(range(50, 90))
OLD = StateKeys("2026-11", {"2026-11": A})
BOTH = StateKeys("2027-01", {"2026-11": A, "2027-01": B})
NEW = StateKeys("2027-01", {"2027-01": B})
FORMAT = RecordFormat(clear={ord("d"): 5})
RAW = StateOptions(batch_records=1, record_cache_bytes=0, compression="none", versions_kept=4)


def home(directory: Path, keys: StateKeys | None) -> StateHome:
    return StateHome(directory, RAW, keys, lambda _step: FORMAT)


def files(directory: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())


def raw_records(directory: Path, shard: str = "s00", step: str = "card") -> dict[bytes, bytes]:
    names = ("undo", f"step.{step}")
    database = Rdict(
        str(directory / shard), Options(raw_mode=True), column_families={name: Options(raw_mode=True) for name in names}
    )
    items: Any = database.get_column_family(f"step.{step}").items()
    found: dict[bytes, bytes] = dict(items)
    del items
    database.close()
    return found


def test_neither_values_nor_identifying_key_bytes_nor_before_images_are_readable_on_disk(state_directory: Path) -> None:
    written = [(b"d\0\0\0\x07transaction-%04d" % n, b"account-of-%04d " % n * 20) for n in range(300)]
    for keys, readable in ((None, True), (OLD, False)):
        directory = state_directory / str(readable)
        with home(directory, keys) as state:
            store = state.open("s00", "card", None)
            store.put_many(written)
            store.commit()
            store.put_many([(key, b"changed") for key, _ in written])
            store.commit()
        found = files(directory)
        for needle in (b"transaction-0007", b"account-of-0009", b"changed"):
            assert (needle in found) is readable
        assert b"d\0\0\0\x07" in found  # what scans go by stays readable, and nothing else


def test_an_encrypted_store_gives_back_what_was_written_also_after_a_rollback(state_directory: Path) -> None:
    first = {b"e%04d" % n: b"v%d" % n for n in range(500)} | {b"e": b"bare", b"": b"", b"x": b""}
    with home(state_directory, OLD) as state:
        store = state.open("s00", "card", None)
        store.put_many(list(first.items()))
        store.commit()
        store.put_many([(key, None if n % 3 else b"other") for n, key in enumerate(first)])
        store.commit()
    with home(state_directory, OLD) as state:
        store = state.open("s00", "card", 1)
        assert store.get_many(list(first)) == list(first.values())
        assert dict(store.scan(b"", None, 1_000)) == first


def test_pages_of_a_scan_visit_every_record_once_and_times_stay_in_order(state_directory: Path) -> None:
    rng = random.Random(3)
    keys = [b"d" + day.to_bytes(4, "big") + b"t%d" % rng.randrange(10**9) for day in range(40) for _ in range(9)]
    with home(state_directory, OLD) as state:
        store = state.open("s00", "card", None)
        store.put_many([(key, key) for key in keys] + [(b"e%d" % n, b"") for n in range(50)])
        start, seen = b"d", []
        while page := store.scan(start, b"d" + (30).to_bytes(4, "big"), 7):
            seen += page
            start = page[-1][0] + b"\0"
        assert sorted(seen) == sorted((key, key) for key in keys if key[1:5] < (30).to_bytes(4, "big"))
        assert [key[:5] for key, _ in seen] == sorted(key[:5] for key, _ in seen)
        entities, start = [], b"e"
        while page := store.scan(start, b"f", 8):
            entities += [key for key, _ in page]
            start = page[-1][0] + b"\0"
        assert sorted(entities) == sorted(b"e%d" % n for n in range(50))


def test_a_scan_bounded_inside_the_encrypted_part_is_refused(state_directory: Path) -> None:
    with home(state_directory, OLD) as state:
        store = state.open("s00", "card", None)
        with pytest.raises(StateError, match=r"step card: a scan is bounded inside the encrypted part .* clear bytes"):
            store.scan(b"e12", None, 5)


def test_keys_rotate_and_the_old_one_can_go_after_rekeying(state_directory: Path) -> None:
    with home(state_directory, OLD) as state:
        store = state.open("s00", "card", None)
        store.put_many([(b"e%d" % n, b"old") for n in range(50)])
        store.commit()
        store.put_many([(b"e0", b"second")])
        store.commit()
    with home(state_directory, BOTH) as state:
        store = state.open("s00", "card", 2)
        assert store.get_many([b"e0", b"e7"]) == [b"second", b"old"]
        store.put_many([(b"e7", b"new")])
        store.commit()
    with home(state_directory, NEW) as state, pytest.raises(SecretError, match=r"written under key '2026-11', and"):
        state.open("s00", "card", 3)
    report = rekey(state_directory, BOTH)
    assert report.rewritten >= 49
    assert report.shards == 1
    assert rekey(state_directory, BOTH).rewritten == 0
    with home(state_directory, NEW) as state:
        assert state.open("s00", "card", 3).get_many([b"e0", b"e7", b"e8"]) == [b"second", b"new", b"old"]
        assert state.open("s00", "card", 1).get_many([b"e0", b"e7", b"e8"]) == [b"old", b"old", b"old"]
    with home(state_directory, OLD) as state, pytest.raises(SecretError, match="add the missing key to the key file"):
        state.open("s00", "card", 1)


def test_wrong_and_missing_keys_and_a_change_of_mind_are_refused_in_a_sentence(state_directory: Path) -> None:
    for name, keys in (("plain", None), ("sealed", OLD)):
        with home(state_directory / name, keys) as state:
            store = state.open("s00", "card", None)
            store.put_many([(b"ea", b"1")])
            store.commit()
    wrong = StateKeys("2026-11", {"2026-11": B})
    for name, keys, told in (
        (
            "sealed",
            None,
            r"shard s00: it is encrypted under key '2026-11', and no state keys are given; set WEIR",
        ),
        ("sealed", wrong, r"shard s00: key '2026-11' of the state keys is not the one it was encrypted under"),
        ("sealed", NEW, r"shard s00: .* under key '2026-11', and the state keys given are '2027-01'; add the missing"),
        ("plain", OLD, r"shard s00: it was written without encryption, and state keys are given; unset"),
    ):
        with home(state_directory / name, keys) as state, pytest.raises(SecretError, match=told):
            state.open("s00", "card", 1)
    with home(state_directory / "sealed", OLD) as state:
        assert state.open("s00", "card", 1).get_many([b"ea"]) == [b"1"]


def test_a_shard_killed_while_it_was_made_is_encrypted_at_the_next_start(state_directory: Path) -> None:
    database = Rdict(str(state_directory / "s00"), Options(raw_mode=True))
    database[LAYOUT_KEY] = encode_layout(1)
    database.close()
    with home(state_directory, OLD) as state:
        state.open("s00", "card", None).commit()
    with home(state_directory, None) as state, pytest.raises(SecretError, match="is encrypted"):
        state.open("s00", "card", None)


@pytest.mark.parametrize("change", ["value altered", "record moved", "cut off", "key altered"])
def test_what_was_altered_on_disk_does_not_open(state_directory: Path, change: str) -> None:
    with home(state_directory, OLD) as state:
        store = state.open("s00", "card", None)
        store.put_many([(b"ea", b"1" * 30), (b"eb", b"2" * 30)])
        store.commit()
    path, names = str(state_directory / "s00"), ("undo", "step.card")
    database = Rdict(path, Options(raw_mode=True), column_families={name: Options(raw_mode=True) for name in names})
    family = database.get_column_family("step.card")
    items: Any = family.items()
    (one, first), (other, second) = items
    del items
    if change == "value altered":
        family[one] = first[:-20] + bytes([first[-20] ^ 1]) + first[-19:]
    elif change == "record moved":
        family[one] = second
    elif change == "cut off":
        family[one] = first[:8]
    else:
        family[one[:-1] + bytes([one[-1] ^ 1])] = first
    assert other != one
    del family
    database.close()
    told = "an encrypted key does not open|an encrypted record does not open"
    with home(state_directory, OLD) as state, pytest.raises(StateError, match=rf"shard s00: ({told}).*corrupt-shard"):
        state.open("s00", "card", 1).scan(b"", None, 10)


def test_a_nonce_is_never_used_twice_under_one_key_whatever_is_opened_again(state_directory: Path) -> None:
    seen: set[tuple[bytes, bytes]] = set()
    for opening in range(4):
        with home(state_directory, OLD) as state:
            store = state.open("s00", "card", None)
            store.put_many([(b"e%d" % n, b"%d" % opening) for n in range(20)])
            if opening == 2:
                store = state.open("s00", "card", None)  # a rollback writes too
                store.put_many([(b"e1", b"again")])
            state._shards["s00"].write_waiting()
        found = [(value[1:5], value[5:13]) for value in raw_records(state_directory).values()]
        assert len(set(found)) == len(found)
        assert not seen & set(found)
        seen |= set(found)


def test_equal_keys_of_two_steps_and_two_shards_have_nothing_in_common_on_disk(state_directory: Path) -> None:
    with home(state_directory, OLD) as state:
        for shard, step in (("s00", "card"), ("s00", "device"), ("s01", "card")):
            store = state.open(shard, step, None)
            store.put_many([(b"eaccount", b"1")])
            store.commit()
    database = files(state_directory)
    assert b"account" not in database
    places: list[Any] = []
    for shard in ("s00", "s01"):
        path = str(state_directory / shard)
        known = [name for name in Rdict.list_cf(path) if name != "default"]
        opened = Rdict(path, Options(raw_mode=True), column_families={name: Options(raw_mode=True) for name in known})
        places += [next(iter(opened.get_column_family(name).keys())) for name in known if name != "undo"]
        opened.close()
    assert all(a[1:] != b[1:] for a, b in itertools.combinations(places, 2))
    assert len(places) == 3


def test_what_is_kept_about_keys_must_be_readable(state_directory: Path) -> None:
    with home(state_directory, OLD) as state:
        state.open("s00", "card", None).commit()
    path, names = str(state_directory / "s00"), ("undo", "step.card")
    database = Rdict(path, Options(raw_mode=True), column_families={name: Options(raw_mode=True) for name in names})
    database[SEAL_KEY] = b"\xff"
    database.close()
    with home(state_directory, OLD) as state, pytest.raises(StateError, match="what is kept about its keys cannot"):
        state.open("s00", "card", None)
