"""The kill campaign in short, and the proof that it notices when the program forgets how to resume."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

import orjson
import pytest

from load_tests import chaos
from load_tests.campaign.checks import Readers, Verdict, compare, read_published
from load_tests.campaign.disk import truncate_newest
from load_tests.campaign.faults import FAULTS
from load_tests.campaign.report import Report
from load_tests.canonical_state import Canonical, differences

SABOTAGE = Path(__file__).resolve().parent / "sabotage"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all campaigns here, so that their traffic is made once."""
    return tmp_path_factory.mktemp("chaos")


def _campaign(out: Path, kills: int, seed: int, *options: str) -> int:
    return chaos.main(["--out", str(out), "--kills", str(kills), "--seed", str(seed), "--payments", "2500", *options])


def test_a_short_campaign_is_clean(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faults = "kill all,kill in snapshot,kill in start,kill twice,truncated log"
    assert _campaign(out, 8, 3, "--faults", faults, "--processes", "1") == 0, capsys.readouterr().err
    page = (out / "report.md").read_text()
    assert "| all | 8 | 8 |" in page
    for kind in faults.split(","):
        assert re.search(rf"\| {kind} \| [1-9]\d* \| [1-9]\d* \| 0 \| 0 \| 0 \| 0 \| 0 \| yes \|", page), page


@pytest.mark.parametrize(
    ("name", "symptom"),
    [
        ("no_read_back", r"[1-9]\d* (twice|torn)"),
        ("no_rollback", r"out of step|[1-9]\d* (lost|twice)|state not equal"),
    ],
)
def test_the_campaign_fails_when_the_program_is_broken(
    out: Path, name: str, symptom: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = str(SABOTAGE / f"{name}.py")
    # In a snapshot there is always something published, and written, that is not committed.
    assert _campaign(out, 2, 5, "--faults", "kill in snapshot", "--processes", "1", "--before", before) == 1
    page = (out / "report.md").read_text()
    assert "NOT CLEAN" in page, capsys.readouterr().err
    assert re.search(symptom, page), page


def test_every_kind_of_fault_is_done_once_before_any_is_done_twice() -> None:
    rounds = chaos.plan(50, random.Random(1), list(FAULTS), [1, 2])
    kinds = [kind for one in rounds for kind in one.kinds]
    assert len(kinds) == 50
    assert set(kinds) == set(FAULTS)
    assert {one.processes for one in rounds} == {1, 2}
    assert all(one.processes == 2 for one in rounds if "kill one process" in one.kinds)
    assert sorted(
        kind for one in chaos.plan(9, random.Random(2), list(FAULTS), [1, 2]) for kind in one.kinds
    ) == sorted(FAULTS)


def _decision(name: str, note: str = "", *, duplicate: bool = False) -> bytes:
    record = {"transaction_id": name, "features": {"note": note}, "score": None, "duplicate": duplicate}
    return orjson.dumps(record) + b"\n"


def _outputs(directory: Path, *lines: bytes) -> Path:
    directory.mkdir()
    (directory / "decisions.jsonl").write_bytes(b"".join(lines))
    return directory


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        ([_decision("a"), _decision("b"), _decision("b", duplicate=True)], {}),
        ([_decision("a"), _decision("b", duplicate=True)], {"lost": 1}),
        ([_decision("a"), _decision("a"), _decision("b"), _decision("b", duplicate=True)], {"twice": 1}),
        ([_decision("a"), _decision("b"), _decision("b", "other", duplicate=True)], {"contradicted": 1}),
        ([_decision("a"), _decision("b"), _decision("b", duplicate=True), b'{"transa'], {"torn": 1}),
    ],
)
def test_what_is_wrong_with_outputs_is_told(tmp_path: Path, lines: list[bytes], wrong: dict[str, int]) -> None:
    whole = _outputs(tmp_path / "whole", _decision("a"), _decision("b"), _decision("b", duplicate=True))
    found = compare(
        read_published(_outputs(tmp_path / "found", *lines)),
        read_published(whole),
        at_end=True,
    )
    assert found == Verdict(**wrong, bytes_equal=not wrong)


def test_a_published_record_that_changes_later_was_withdrawn(tmp_path: Path) -> None:
    out = _outputs(tmp_path / "out", _decision("a"), b'{"torn')
    readers = Readers()
    readers.look(out)
    (out / "decisions.jsonl").write_bytes(_decision("a") + _decision("b"))
    assert readers.withdrawn(out) == 0
    (out / "decisions.jsonl").write_bytes(_decision("c") + _decision("b"))
    assert readers.withdrawn(out) == 1


def test_states_that_differ_are_told_by_record() -> None:
    one: Canonical = {("card", "windows", "01"): (1, [2, 3]), ("card", "windows", "02"): 5}
    assert differences(one, dict(one)) == []
    told = differences(one, {("card", "windows", "01"): (1, [2, 4])})
    assert told == ["card windows 01: (1, [2, 3]) | (1, [2, 4])", "card windows 02: 5 | 'nothing'"]


def test_a_fault_that_is_not_come_through_makes_a_campaign_unclean() -> None:
    report = Report()
    report.row("stop").faults = 2
    report.row("stop").resumed = 2
    assert report.clean()
    report.row("stop").resumed = 1
    assert not report.clean()
    assert "NOT CLEAN" in report.markdown()


def test_a_log_is_cut_within_its_first_half_and_the_newest_one_is_chosen(tmp_path: Path) -> None:
    shard = tmp_path / "shards" / "s00"
    shard.mkdir(parents=True)
    (shard / "CURRENT").touch()
    (shard / "000004.log").write_bytes(bytes(1000))
    (shard / "000012.log").write_bytes(bytes(500))
    assert truncate_newest(tmp_path, ".log", random.Random(1)) == shard / "000012.log"
    assert (shard / "000012.log").stat().st_size < 250
    assert (shard / "000004.log").stat().st_size == 1000
    shutil.rmtree(shard)
    assert truncate_newest(tmp_path, ".log", random.Random(1)) is None
