"""What was published stands: torn lines are cut off, uncommitted records adopted, retries answered word for word."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from flows.epochs import Epochs
from flows.publish import (
    DAY_US,
    DEAD_LETTERS,
    DECISIONS,
    LABELLED_OUTCOMES,
    FileSlot,
    Publication,
    SlotSnapshot,
    labelled_identity,
)
from schemas.errors import StateError
from schemas.times import format_rfc3339_us
from state.testing import DictHome

SEEN_US = 20_000 * DAY_US


def _decision(name: str, note: str = "first") -> Publication:
    line = json.dumps({"transaction_id": name, "note": note, "duplicate": False}, separators=(",", ":")).encode()
    return Publication(name.encode(), line, SEEN_US)


def _retry(name: str, days: int = 0) -> Publication:
    return Publication(name.encode(), b"", SEEN_US + days * DAY_US)


def _last_epoch() -> Epochs:
    """One at whose end is told what stands there, and not what stood an epoch before."""
    epochs = Epochs()
    epochs.final = True
    return epochs


def _slot(path: Path, home: DictHome, snapshot: SlotSnapshot | None = None, slot: str = DECISIONS) -> FileSlot:
    ledger = home.open("slot", "ledger", snapshot["version"] if snapshot else None)
    return FileSlot(slot, path, ledger, snapshot["offset"] if snapshot else 0, 7 * DAY_US, lambda: None, _last_epoch())


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_records_behind_the_commit_are_adopted_and_recomputed_ones_dropped(tmp_path: Path) -> None:
    path, ledger = tmp_path / "decisions.jsonl", DictHome()
    slot = _slot(path, ledger)
    slot.write_batch([[_decision("a")]])
    snapshot = slot.snapshot()
    slot.write_batch([[_decision("b", "published")]])
    slot._flush()
    resumed = _slot(path, ledger, snapshot)
    resumed.write_batch([[_decision("b", "recomputed"), _decision("c"), _retry("b"), _retry("a")]])
    resumed.snapshot()
    assert [(line["transaction_id"], line["note"], line["duplicate"]) for line in _lines(path)] == [
        ("a", "first", False),
        ("b", "published", False),
        ("c", "first", False),
        ("b", "published", True),
        ("a", "first", True),
    ]


def test_offset_and_version_told_are_those_of_the_epoch_before_and_what_came_since_is_adopted(tmp_path: Path) -> None:
    path, home = tmp_path / "decisions.jsonl", DictHome()
    synced: list[int] = []
    slot = FileSlot(
        DECISIONS, path, home.open("slot", "ledger", None), 0, 7 * DAY_US, lambda: synced.append(1), Epochs()
    )
    slot.write_batch([[_decision("a")]])
    assert slot.snapshot() == SlotSnapshot(offset=0, version=0)
    length = path.stat().st_size
    slot.write_batch([[_decision("b", "published")]])
    told = slot.snapshot()
    assert told == SlotSnapshot(offset=length, version=1)
    slot.close()
    assert len(synced) == 2
    resumed = _slot(path, home, told)
    resumed.write_batch([[_decision("b", "recomputed"), _retry("a"), _retry("b")]])
    assert [(line["note"], line["duplicate"]) for line in _lines(path)] == [
        ("first", False),
        ("published", False),
        ("first", True),
        ("published", True),
    ]


def test_adopted_answers_to_retries_are_counted_one_for_one(tmp_path: Path) -> None:
    path, ledger = tmp_path / "decisions.jsonl", DictHome()
    slot = _slot(path, ledger)
    slot.write_batch([[_decision("a"), _retry("a")]])
    slot._flush()
    resumed = _slot(path, ledger)
    resumed.write_batch([[_decision("a"), _retry("a"), _retry("a")]])
    assert [line["duplicate"] for line in _lines(path)] == [False, True, True]


def test_what_was_adopted_stays_adopted_when_the_next_run_dies_before_it_comes_to_all_of_it(tmp_path: Path) -> None:
    path, ledger = tmp_path / "decisions.jsonl", DictHome()
    slot = _slot(path, ledger)
    slot.write_batch(
        [[_decision("a"), _decision("b", "published"), _retry("b"), _retry("b"), _decision("c", "published")]]
    )
    first = _slot(path, ledger)  # nothing was committed
    first.write_batch([[_decision("a")]])
    snapshot = first.snapshot()
    second = _slot(path, ledger, snapshot)
    second.write_batch([[_decision("b", "recomputed"), _retry("b")]])
    snapshot = second.snapshot()
    third = _slot(path, ledger, snapshot)
    third.write_batch([[_retry("b"), _decision("c", "recomputed"), _retry("c"), _retry("b")]])
    snapshot = third.snapshot()
    assert [(line["transaction_id"], line.get("note"), line["duplicate"]) for line in _lines(path)] == [
        ("a", "first", False),
        ("b", "published", False),
        ("b", "published", True),
        ("b", "published", True),
        ("c", "published", False),
        ("c", "published", True),
        ("b", "published", True),
    ]
    kept = ledger.open("slot", "ledger", snapshot["version"]).as_dict()
    assert {key[:1] for key in kept} == {b"d"}, "what the flow has come to again is forgotten"


def test_a_torn_last_line_was_never_published(tmp_path: Path) -> None:
    path, ledger = tmp_path / "decisions.jsonl", DictHome()
    slot = _slot(path, ledger)
    slot.write_batch([[_decision("a")]])
    snapshot = slot.snapshot()
    with path.open("ab") as out:
        out.write(b'{"transaction_id":"b","no')
    resumed = _slot(path, ledger, snapshot)
    resumed.write_batch([[_decision("b")]])
    assert [line["transaction_id"] for line in _lines(path)] == ["a", "b"]


def test_a_slot_killed_before_its_first_commit_adopts_all_it_wrote(tmp_path: Path) -> None:
    path, ledger = tmp_path / "decisions.jsonl", DictHome()
    slot = _slot(path, ledger)
    slot.write_batch([[_decision("a"), _decision("b")]])
    resumed = _slot(path, ledger)
    resumed.write_batch([[_decision("a", "recomputed"), _decision("b", "recomputed"), _decision("c")]])
    assert [(line["transaction_id"], line["note"]) for line in _lines(path)] == [
        ("a", "first"),
        ("b", "first"),
        ("c", "first"),
    ]


def test_a_retry_is_answered_days_later_and_the_ledger_forgets_after_its_span(tmp_path: Path) -> None:
    path, ledger = tmp_path / "decisions.jsonl", DictHome()
    slot = _slot(path, ledger)
    slot.write_batch([[_decision("a")]])
    slot.write_batch([[_retry("a", days=7)]])
    assert [line["duplicate"] for line in _lines(path)] == [False, True]
    slot.write_batch([[Publication(b"z", b'{"transaction_id":"z"}', SEEN_US + 10 * DAY_US)]])
    kept = ledger.open("slot", "ledger", slot.snapshot()["version"]).as_dict()
    assert [key[5:] for key in kept] == [b"z"]


def test_a_retry_that_the_ledger_does_not_know_stops_the_slot(tmp_path: Path) -> None:
    slot = _slot(tmp_path / "decisions.jsonl", DictHome())
    with pytest.raises(StateError, match=r"retry of transaction 'ghost' came.*out of step"):
        slot.write_batch([[_retry("ghost")]])


def test_an_output_shorter_than_what_was_committed_refuses_the_start(tmp_path: Path) -> None:
    path, ledger = tmp_path / "decisions.jsonl", DictHome()
    slot = _slot(path, ledger)
    slot.write_batch([[_decision("a")]])
    snapshot = slot.snapshot()
    path.write_bytes(b"")
    with pytest.raises(
        StateError, match=r"decisions\.jsonl: expected at least the .* bytes that were committed, found 0"
    ):
        _slot(path, ledger, snapshot)


def test_dead_letters_are_told_apart_by_their_origin(tmp_path: Path) -> None:
    path, ledger = tmp_path / "dead_letters.jsonl", DictHome()

    def dead(offset: int) -> Publication:
        line = json.dumps({"topic": "t", "partition": 0, "offset": offset}).encode()
        return Publication(f"t/0/{offset}".encode(), line, SEEN_US)

    slot = _slot(path, ledger, slot=DEAD_LETTERS)
    slot.write_batch([[dead(1), dead(2)]])
    resumed = _slot(path, ledger, slot=DEAD_LETTERS)
    resumed.write_batch([[dead(1), dead(2), dead(3)]])
    assert [line["offset"] for line in _lines(path)] == [1, 2, 3]


def test_labelled_outcomes_are_told_alike_when_computed_and_when_read_back(tmp_path: Path) -> None:
    path, ledger = tmp_path / "labelled_outcomes.jsonl", DictHome()
    at_us = 1_772_000_000_000_000

    def labelled() -> Publication:
        record = {"transaction_id": "t", "source": "maturity", "event_time": format_rfc3339_us(at_us)}
        return Publication(labelled_identity("t", "maturity", at_us), json.dumps(record).encode(), SEEN_US)

    slot = _slot(path, ledger, slot=LABELLED_OUTCOMES)
    slot.write_batch([[labelled()]])
    resumed = _slot(path, ledger, slot=LABELLED_OUTCOMES)
    resumed.write_batch([[labelled()]])
    assert len(_lines(path)) == 1


def test_a_retry_that_overtook_its_decision_is_answered_once_that_is_published(tmp_path: Path) -> None:
    path, home = tmp_path / "decisions.jsonl", DictHome()
    slot = FileSlot(
        DECISIONS,
        path,
        home.open("slot", "ledger", None),
        0,
        7 * DAY_US,
        lambda: None,
        _last_epoch(),
        may_overtake=True,
    )
    slot.write_batch([[_retry("a"), _retry("a")]])
    snapshot = slot.snapshot()
    ledger = home.open("slot", "ledger", snapshot["version"])
    resumed = FileSlot(
        DECISIONS, path, ledger, snapshot["offset"], 7 * DAY_US, lambda: None, _last_epoch(), may_overtake=True
    )
    resumed.write_batch([[_decision("a")]])
    resumed.write_batch([[_decision("b"), _retry("a")]])
    assert [(line["transaction_id"], line["duplicate"]) for line in _lines(path)] == [
        ("a", False),
        ("a", True),
        ("a", True),
        ("b", False),
        ("a", True),
    ]


def test_a_full_disk_is_told_once_and_closing_does_not_raise_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = _slot(tmp_path / "decisions.jsonl", DictHome())

    def full(_file: int, _data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(StateError, match=r"No space left on device\); see docs/runbooks/disk-full\.md"):
        slot.write_batch([[_decision("a")]])
    slot.close()  # bytewax calls it while it tells the error; raising would abort the process
