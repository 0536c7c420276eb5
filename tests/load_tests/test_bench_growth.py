"""The growth benchmark on sizes of no account: that it fills, counts, resumes and tells every figure."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest

from load_tests import bench_growth
from load_tests.bench_growth import Lines, copy_state
from load_tests.traffic import growth
from load_tests.traffic.growth import Stretch, stretches, write_growth
from load_tests.traffic.layout import Params


def test_stretches_count_new_cards_merchants_and_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "MERCHANTS", 10)
    assert stretches([100, 200], spread=50) == [
        Stretch(entities=100, fill_until=20, until=70, cards=20),
        Stretch(entities=200, fill_until=95, until=145, cards=45),
    ]


def test_the_input_has_new_cards_up_to_each_size_and_only_known_ones_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "MERCHANTS", 10)
    parts = stretches([100, 200], spread=50)
    rows = [orjson.loads(line) for line in write_growth(parts, Params(seed=1), tmp_path).read_bytes().splitlines()]
    assert len(rows) == parts[-1].until
    entities: set[tuple[str, str]] = set()
    for number, row in enumerate(rows):
        keys = {
            (name, row[name]) for name in ("account_id", "card_id", "device_id", "ip", "merchant_id", "terminal_id")
        }
        for part in parts:
            if number == part.fill_until:
                assert len(entities) == part.entities
        if any(part.fill_until <= number < part.until for part in parts):
            assert keys <= entities
        entities |= keys
    assert len({row["transaction_id"] for row in rows}) == len(rows)
    assert [row["event_time"] for row in rows] == sorted(row["event_time"] for row in rows)


def test_lines_are_counted_once_however_often_one_looks(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    lines = Lines(path, start=2, before=40)
    assert lines.count() == 40
    path.write_bytes(b"a\nb\nc\nd")
    assert lines.count() == 42
    with path.open("ab") as more:
        more.write(b"\n")
    assert lines.count() == 43


def test_a_kept_state_is_not_touched_by_what_runs_on_its_copy(tmp_path: Path) -> None:
    shard = tmp_path / "live" / "state" / "shards" / "00"
    shard.mkdir(parents=True)
    (shard / "000007.sst").write_bytes(b"table")
    (shard / "000008.log").write_bytes(b"log")
    (tmp_path / "live" / "run").mkdir()
    (tmp_path / "live" / "run" / "decisions.jsonl").write_bytes(b"x" * 5000)
    copy_state(tmp_path / "live", tmp_path / "kept")
    kept = tmp_path / "kept" / "state" / "shards" / "00"
    assert (kept / "000007.sst").samefile(shard / "000007.sst"), "a table is never written again"
    with (shard / "000008.log").open("ab") as log:
        log.write(b" and more")
    assert (kept / "000008.log").read_bytes() == b"log"
    assert (tmp_path / "kept" / "run" / "decisions.jsonl").stat().st_size == 5000


def test_a_small_run_tells_every_figure_and_a_second_one_does_not_fill_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(growth, "MERCHANTS", 50)
    monkeypatch.setattr(bench_growth, "ROOM", 16_000)
    monkeypatch.setattr(bench_growth, "OVERSHOOT", 7_000)
    arguments = ["--out", str(tmp_path / "growth"), "--sizes", "400,900", "--spread", "1500", "--memory", "64"]
    arguments += ["--epoch", "0.05"]
    assert bench_growth.main(arguments) == 0
    told = capsys.readouterr().out
    assert "filled to 400 entities" in told
    assert "filled to 900 entities" in told
    kept = [json.loads((tmp_path / "growth" / f"size-{size}" / "counted.json").read_text()) for size in (400, 900)]
    assert 75 <= kept[0]["payments"] < 16_000
    assert 16_075 + 125 <= kept[1]["payments"] < 32_000, "what was decided up to the size before counts"
    rows = json.loads((tmp_path / "growth" / "bench_growth.json").read_text())
    assert [row["entities"] >= size for row, size in zip(rows, (400, 900), strict=True)] == [True, True]
    for row in rows:
        assert sum(row["by_step"].values()) == row["entities"]
        assert row["by_step"]["card"] == row["by_step"]["ip"]
        assert row["by_step"]["merchant"] == row["by_step"]["terminal"] == 50
        assert row["payments"] >= 1500
        assert set(row["stalls"]) == {"count", "p50", "p99", "max"}
        for figure in ("disk_mib", "resume_s", "loaded_s", "stores_s", "payments_per_s", "peak_rss_mib"):
            assert row[figure] > 0, figure
        assert row["loaded_s"] + row["stores_s"] <= row["resume_s"]
        killed = [row[figure] for figure in ("killed_logs_mib", "killed_stores_s", "killed_rest_s")]
        assert killed == [None] * 3 or min(killed) > 0  # a machine may come to the end of so little before the kill
    assert "ratio to the smallest" in told
    assert "resume after kill -9" in told
    assert bench_growth.main(arguments) == 0
    assert "filled" not in capsys.readouterr().out


def test_sizes_out_of_order_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench_growth.main(["--out", str(tmp_path), "--sizes", "5,5"])
    assert "expected ascending numbers" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bench_growth.main(["--out", str(tmp_path), "--spread", "100000"])
    assert "expected at most 80,000" in capsys.readouterr().err
