"""The demo starts the replay as a user would, and says when it fails."""

from pathlib import Path

import orjson
import pytest

from load_tests import demo


def test_a_failing_replay_ends_the_demo_with_its_exit_code(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = demo.main(["--out", str(tmp_path), "--payments", "600", "--days", "10", "--profile", str(tmp_path / "none")])
    assert code == 2
    told = capfd.readouterr()
    assert "failed with exit code 2" in told.out
    assert "none" in told.err


def test_the_demo_reuses_traffic_and_sums_up_what_the_replay_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def approve_all(profile: Path, events: Path, run: Path) -> int:
        assert profile == demo.PROFILE
        run.mkdir()
        rows = map(orjson.loads, (events / "truth.jsonl").read_bytes().splitlines())
        decisions = [{"transaction_id": row["transaction_id"], "action": "approve", "score": 0.5} for row in rows]
        (run / "decisions.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in decisions))
        return 0

    monkeypatch.setattr(demo, "replay", approve_all)
    arguments = ["--out", str(tmp_path), "--payments", "600", "--days", "10"]
    assert demo.main(arguments) == 0
    assert "600 payments, 60 customers" in capsys.readouterr().out
    (tmp_path / "run" / "decisions.jsonl").unlink()
    (tmp_path / "run").rmdir()
    assert demo.main(arguments) == 0
    told = capsys.readouterr().out
    assert "Traffic is there" in told
    assert "report.html" in told
    assert "600 payments scored" in told
