"""Made-up older layouts: records and before-images come up to date together, whatever is killed on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from schemas.errors import StateLayoutError
from state import migrate
from state.keys import StateKeys
from state.layout import records_key
from state.record_format import RecordFormat
from state.store import StateHome, StateOptions

KEYS = StateKeys("k", {"k": bytes(range(32))})
OPTIONS = StateOptions(batch_records=1, record_cache_bytes=0)


def upper(key: bytes, record: bytes) -> bytes | None:
    """Layout 1 to 2: the record in capitals; what is about "gone" is dropped."""
    return None if key.startswith(b"gone") else b"2:" + record.upper()


def third(_key: bytes, record: bytes) -> bytes | None:
    return record.replace(b"2:", b"3:", 1)


OLD = RecordFormat()
NEW = RecordFormat(layout=3, migrations={1: upper, 2: third})


def home(directory: Path, form: RecordFormat, keys: StateKeys | None) -> StateHome:
    return StateHome(directory, OPTIONS, keys, lambda _step: form)


def write_old(directory: Path, keys: StateKeys | None, records: int = 40) -> None:
    with home(directory, OLD, keys) as state:
        for step in ("card", "card2"):
            store = state.open("s00", step, None)
            store.put_many([(b"k%03d" % n, b"first %d" % n) for n in range(records)] + [(b"gone", b"x")])
            store.commit()
            store.put_many([(b"k%03d" % n, b"second %d" % n) for n in range(records)] + [(b"new", b"y")])
            store.commit()


def expected(word: bytes, records: int = 40) -> dict[bytes, bytes]:
    return {b"k%03d" % n: b"3:%s %d" % (word, n) for n in range(records)}


def contents(store: Any) -> dict[bytes, bytes]:
    return dict(store.scan(b"", None, 100_000))


@pytest.mark.parametrize("keys", [None, KEYS], ids=["plain", "encrypted"])
def test_an_older_layout_is_migrated_records_and_before_images_alike(
    state_directory: Path, keys: StateKeys | None
) -> None:
    write_old(state_directory, keys)
    with home(state_directory, NEW, keys) as state:
        store = state.open("s00", "card", 2)
        assert contents(store) == expected(b"SECOND") | {b"new": b"3:Y"}
        assert contents(state.open("s00", "card", 1)) == expected(b"FIRST")
    with home(state_directory, NEW, keys) as state:  # once: capitals of capitals would have two numbers
        assert contents(state.open("s00", "card", 1)) == expected(b"FIRST")
    with home(state_directory, OLD, keys) as state, pytest.raises(StateLayoutError, match=r"step.card are of layout 3"):
        state.open("s00", "card", 1)
    with home(state_directory, OLD, keys) as state:  # a step that nobody opened with the newer program is untouched
        assert state.open("s00", "card2", 2).get_many([b"k001"]) == [b"second 1"]


def test_a_migration_killed_anywhere_goes_on_and_touches_nothing_twice(
    state_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "BATCH_BYTES", 200)
    write_old(state_directory, None)
    from state.shard import Shard  # noqa: PLC0415

    write = Shard.write_batch
    kills = 0
    while True:
        left = 4

        def killed(shard: Shard, batch: Any) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise KeyboardInterrupt
            write(shard, batch)

        monkeypatch.setattr(Shard, "write_batch", killed)
        with home(state_directory, NEW, None) as state:
            try:
                store = state.open("s00", "card", 2)
            except KeyboardInterrupt:
                kills += 1
                continue
            monkeypatch.setattr(Shard, "write_batch", write)
            assert contents(store) == expected(b"SECOND") | {b"new": b"3:Y"}
            assert contents(state.open("s00", "card", 1)) == expected(b"FIRST")
            break
    assert kills > 3


def test_a_layout_from_which_nothing_leads_here_is_refused(state_directory: Path) -> None:
    write_old(state_directory, None)
    gap = RecordFormat(layout=3, migrations={2: third})
    for _ in range(2):
        with (
            home(state_directory, gap, None) as state,
            pytest.raises(StateLayoutError, match=r"shard card/s00: .* of layout 1, .* reads layout 3; no migration"),
        ):
            state.open("s00", "card", 2)


def test_records_written_before_steps_were_numbered_are_of_layout_one(state_directory: Path) -> None:
    write_old(state_directory, None)
    with home(state_directory, OLD, None) as state:
        state.open("s00", "card2", 2)
        state._shards["s00"].db.delete(records_key("card"))
    with home(state_directory, NEW, None) as state:
        assert contents(state.open("s00", "card", 1)) == expected(b"FIRST")


def test_an_older_shard_layout_is_brought_up_step_by_step(
    state_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_old(state_directory, None)
    seen: list[tuple[int, bytes | None]] = []
    monkeypatch.setattr("state.migrate.LAYOUT", 3)
    monkeypatch.setattr("state.shard.LAYOUT", 3)
    monkeypatch.setitem(migrate.SHARD_MIGRATIONS, 1, lambda db: seen.append((1, db.get(b"layout"))))
    with home(state_directory, OLD, None) as state, pytest.raises(StateLayoutError, match="has layout 2, this program"):
        state.open("s00", "card", 2)
    monkeypatch.setitem(migrate.SHARD_MIGRATIONS, 2, lambda db: seen.append((2, db.get(b"layout"))))
    with home(state_directory, OLD, None) as state:
        assert state.open("s00", "card", 2).get_many([b"new"]) == [b"y"]
    assert seen == [(1, b"\0\0\0\x01"), (2, b"\0\0\0\x02")]
