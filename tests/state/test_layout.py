"""The bytes on disk are a contract with the next release: these values may not change without a new layout number."""

from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from schemas.errors import StateError
from state.layout import (
    LAYOUT,
    check_names,
    decode_layout,
    decode_version,
    encode_layout,
    encode_version,
    undo_key,
    undo_prefix,
    undo_version,
    version_key,
)
from state.store import StateHome, StateOptions


def test_the_bytes_of_a_shard_on_disk_are_those_of_layout_one(state_directory: Path) -> None:
    with StateHome(state_directory, StateOptions(batch_records=1, versions_kept=2)) as home:
        store = home.open("s00", "card", None)
        store.put_many([(b"a", b"1")])
        store.commit()
        store.put_many([(b"a", b"2"), (b"b", b"x" * 40)])
        store.put_many([(b"a", b"3"), (b"c", b"")])
        store.commit()
        store.commit()
        store.put_many([(b"b", None)])
    path = str(state_directory / "s00")
    raw = Options(raw_mode=True)
    assert sorted(Rdict.list_cf(path)) == ["default", "step.card", "undo"]
    database = Rdict(path, raw, column_families={name: Options(raw_mode=True) for name in ("undo", "step.card")})
    families = {name: database.get_column_family(name) for name in ("default", "undo", "step.card")}
    assert LAYOUT == 1
    assert dict(families["default"].items()) == {
        b"layout": b"\0\0\0\x01",
        b"records\0card": b"\0\0\0\x01",
        b"version\0card": b"\0\0\0\0\0\0\0\x03" + b"\0\0\0\0\0\0\0\x01",
    }
    assert dict(families["step.card"].items()) == {b"a": b"3", b"c": b""}
    assert dict(families["undo"].items()) == {
        b"card\0" + bytes([0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]): b"\x94\xc4\x01a\xc4\x011\xc4\x01b\xc0",
        b"card\0" + bytes([0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]): b"\x92\xc4\x01c\xc0",
        b"card\0" + bytes([0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0]): b"\x92\xc4\x01b\xc4\x28" + b"x" * 40,
    }
    families.clear()
    database.close()


def test_layout_and_version_records_are_read_as_written() -> None:
    assert decode_layout(encode_layout(7)) == 7
    assert decode_layout(b"7") == 0
    assert decode_version(encode_version(2**40, 3)) == (2**40, 3)
    assert version_key("card") == b"version\0card"


def test_undo_keys_sort_by_step_then_version_then_sequence() -> None:
    steps = ["card", "card2", "device"]
    wanted = [
        undo_key(undo_prefix(step), version, sequence)
        for step in steps
        for version in (1, 255, 256, 2**32)
        for sequence in (0, 1, 300)
    ]
    assert sorted(wanted) == wanted
    assert not undo_key(undo_prefix("card2"), 1, 0).startswith(undo_prefix("card"))
    assert undo_version(undo_prefix("card"), undo_key(undo_prefix("card"), 2**32, 9)) == 2**32


@pytest.mark.parametrize("shard", ["", "..", "a/b", "a\0", "-a", "a" * 65])
def test_a_shard_name_that_is_no_plain_directory_is_refused(shard: str) -> None:
    with pytest.raises(StateError, match="a shard's name must match"):
        check_names(shard, "card")


@pytest.mark.parametrize("step", ["", "Card", "a/b", "a\0b", ".a", "ü", "a" * 65])
def test_a_step_name_that_cannot_be_part_of_a_key_is_refused(step: str) -> None:
    with pytest.raises(StateError, match="a step's name must match"):
        check_names("s00", step)
