"""How good the learners are on late labels, beside XGBoost retrained weekly on all history: one table.

    make bench-quality                                   or, with an interpreter that has xgboost,
    python -m load_tests.bench_quality --out bench-out/quality --xgboost .venv-bench/bin/python
        [--only handbook,generated,drift,travel] [--shared ../shared] [--keep]

Every row is the score that `weir replay` put into a decision when it was made: the champion's, and each learner's
alone, which run beside it as challengers (the profile is copied without its `alone = false`). So training, features
and labels are those of the real flow: one pass, labels as late as they come.

    handbook   data of the Fraud Detection Handbook, profile handbook, labels 7 days late; mean over the four validation
               weeks by the handbook's published protocol (streams.py handbook-score)
    generated  the demo's traffic, default profile, the last four weeks
    drift      the same with crimes that change on a known day, the weeks from then on
    travel     payments with country hopping, default profile, labels 7 days late, August 2025

The handbook's and the travel data and streams.py are third-party, and looked for in --shared; without them their rows
are left out, and said so. XGBoost is no dependency of this project: an interpreter of its own runs
load_tests/baseline_xgboost.py over the features of the decisions, and without one its rows are left out.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from load_tests.generate import generate, is_made
from load_tests.traffic.layout import Params
from schemas.times import parse_rfc3339_us

PROFILES: Final = Path(__file__).parent.parent / "deploy" / "profiles"
DAY_US: Final = 86_400_000_000
_GENERATED_DAYS: Final = 60
_SCORED_DAYS: Final = 28
_TRAVEL_AFTER: Final = "2025-08-01"
_DATA: Final = {"handbook": "handbook_2018-04_2018-07.parquet", "travel": "travel_2025-07_2025-08.parquet"}
_HANDBOOK_FROM: Final = "2018-07-04"
_DELAY_DAYS: Final = {"handbook": 7.0, "generated": 14.0, "drift": 14.0, "travel": 7.0}
"""How late XGBoost gets its labels: as late as a genuine payment is known to be genuine."""


@dataclass(frozen=True, slots=True)
class Quality:
    """One row: a learner on some data. `third` is CP@100 for the handbook, else recall at 1 % false positives."""

    data: str
    learner: str
    average_precision: float
    auc: float
    third: float


class _Challenger(msgspec.Struct, gc=False):
    model_id: str
    score: float | None


class _Versions(msgspec.Struct, gc=False):
    model_id: str | None


class _Decision(msgspec.Struct, gc=False):
    transaction_id: str
    event_time: str
    score: float | None
    challenger_scores: list[_Challenger]
    versions: _Versions
    features: msgspec.Raw
    duplicate: bool = False


def side_by_side(profile: Path, out: Path) -> Path:
    """A copy of a profile in which every learner also works alone."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(profile, out)
    learning = out / "learning.toml"
    learning.write_text(re.sub(r"(?m)^alone *= *false.*\n", "", learning.read_text()))
    return out


def replay(profile: Path, events: Path, out: Path, *, keep: bool) -> Path:
    """Replay as a user would; with `keep` a run that is there already serves."""
    done = out / "metrics.json"
    if not (keep and done.is_file()):
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, "-m", "flows.cli", "replay", "--profile", str(profile), "--events", str(events)]
        subprocess.run([*command, "--out", str(out), "--no-report"], check=True)
    return out


def decisions(run: Path) -> Iterator[_Decision]:
    """The decisions of a run, retries left out."""
    decode = msgspec.json.Decoder(_Decision).decode
    with (run / "decisions.jsonl").open("rb") as lines:
        for line in lines:
            decision = decode(line)
            if not decision.duplicate:
                yield decision


def split_scores(run: Path, out: Path) -> dict[str, Path]:
    """A file of transaction_id and score for each model, the champion's first."""
    out.mkdir(parents=True, exist_ok=True)
    files: dict[str, Any] = {}
    try:
        for decision in decisions(run):
            told = [(decision.versions.model_id or "none", decision.score)]
            told += [(one.model_id, one.score) for one in decision.challenger_scores]
            for model, score in told:
                if model not in files:
                    files[model] = (out / f"{model}.jsonl").open("w")
                files[model].write(
                    json.dumps({"transaction_id": decision.transaction_id, "score": score or 0.0}) + "\n"
                )
    finally:
        for file in files.values():
            file.close()
    return {model: out / f"{model}.jsonl" for model in files}


def export_features(run: Path, frauds: set[str], out: Path) -> None:
    """The features that were scored, as an array for a learner of batches: NaN where absent, codes for strings."""
    names: list[str] = []
    rows, ids, times = [], [], []
    codes: dict[str, dict[str, int]] = {}
    for decision in decisions(run):
        features = msgspec.json.decode(decision.features)
        names = names or list(features)
        rows.append(np.array([_number(name, features[name], codes) for name in names], dtype=np.float32))
        ids.append(decision.transaction_id)
        times.append(parse_rfc3339_us(decision.event_time))
    fraud = np.array([one in frauds for one in ids])
    np.savez(out, features=np.array(rows), ids=np.array(ids), times_us=np.array(times), fraud=fraud, names=names)


def _number(name: str, value: Any, codes: dict[str, dict[str, int]]) -> float:
    if value is None:
        return float("nan")
    if isinstance(value, str):
        known = codes.setdefault(name, {})
        return float(known.setdefault(value, len(known)))
    return float(value)


def baseline(python: Path, run: Path, frauds: set[str], out: Path, first: str, delay_days: float) -> Path:
    """Scores of XGBoost, retrained each week on all that was known, from day `first` on."""
    features = out / "features.npz"
    export_features(run, frauds, features)
    scores = out / "xgboost.jsonl"
    script = Path(__file__).parent / "baseline_xgboost.py"
    subprocess.run([str(python), str(script), str(features), str(scores), first, str(delay_days)], check=True)
    features.unlink()
    return scores


def outcomes(events: Path) -> set[str]:
    """Transactions with a fraud outcome."""
    with (events / "outcomes.jsonl").open("rb") as lines:
        return {one["transaction_id"] for one in map(msgspec.json.decode, lines) if one["label"] == "fraud"}


def by_protocol(streams: list[str], data: Path, scores: dict[str, Path]) -> list[Quality]:
    """The handbook's protocol over each file of scores."""
    rows = []
    for model, path in scores.items():
        told = subprocess.run(
            [*streams, "handbook-score", str(data), str(path)], check=True, capture_output=True, text=True
        ).stdout
        print(f"{model}\n{told}", flush=True)
        mean = json.loads(told.rsplit("mean ", 1)[1])
        rows.append(Quality("handbook", model, mean["ap"], mean["auc"], mean["cp100"]))
    return rows


def by_truth(data: str, scores: dict[str, Path], frauds: set[str], chosen: set[str]) -> list[Quality]:
    """Average precision, AUC and recall at 1 % false positives over the payments chosen."""
    rows = []
    for model, path in scores.items():
        with path.open("rb") as lines:
            told = [(one["transaction_id"], one["score"]) for one in map(msgspec.json.decode, lines)]
        truth = np.array([name in frauds for name, _ in told if name in chosen])
        said = np.array([score for name, score in told if name in chosen])
        false, true, _ = roc_curve(truth, said)
        recall = float(true[false <= 0.01].max())
        rows.append(
            Quality(data, model, float(average_precision_score(truth, said)), float(roc_auc_score(truth, said)), recall)
        )
    return rows


def rows_of(data: str, given: argparse.Namespace) -> list[Quality]:
    """All rows of one set of data."""
    out: Path = given.out / data
    out.mkdir(parents=True, exist_ok=True)
    events = out / "events"
    streams = [sys.executable, str(given.shared / "eval" / "streams.py")]
    if data in _DATA:
        source = given.shared / "data" / _DATA[data]
        if not source.is_file() or not Path(streams[1]).is_file():
            print(f"{data}: left out, {source} or {streams[1]} is not there (give --shared)", flush=True)
            return []
        if not (events / "outcomes.jsonl").is_file():
            subprocess.run([*streams, f"{data}-events", str(source), str(events)], check=True)
    else:
        params = Params(days=_GENERATED_DAYS, payments=given.payments)
        if data == "drift":
            params = Params(days=_GENERATED_DAYS, payments=given.payments, drift="patterns", drift_day=30)
        if not is_made(params, events):
            generate(params, events)
    profile = side_by_side(PROFILES / ("handbook" if data == "handbook" else "cards"), out / "profile")
    run = replay(profile, events, out / "run", keep=given.keep)
    frauds = outcomes(events)
    scores = split_scores(run, out / "scores")
    first = _first_day(data, run)
    if given.xgboost is not None:
        scores["xgboost, weekly on all history"] = baseline(given.xgboost, run, frauds, out, first, _DELAY_DAYS[data])
    if data == "handbook":
        return by_protocol(streams, given.shared / "data" / _DATA[data], scores)
    start_us = parse_rfc3339_us(f"{first}T00:00:00Z")
    chosen = {one.transaction_id for one in decisions(run) if parse_rfc3339_us(one.event_time) >= start_us}
    return by_truth(data, scores, frauds, chosen)


def _first_day(data: str, run: Path) -> str:
    if data == "handbook":
        return _HANDBOOK_FROM
    if data == "travel":
        return _TRAVEL_AFTER
    last_us = max(parse_rfc3339_us(one.event_time) for one in decisions(run))
    day = datetime.fromtimestamp((last_us - _SCORED_DAYS * DAY_US) / 1e6, tz=UTC)
    return day.strftime("%Y-%m-%d")


def main() -> None:
    """Replay, score, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="handbook,generated,drift,travel")
    parser.add_argument("--shared", type=Path, default=Path(__file__).parent.parent.parent / "shared")
    parser.add_argument("--xgboost", type=Path, help="interpreter that has xgboost; default: no such rows")
    parser.add_argument("--payments", type=int, default=200_000, help="of the generated traffic")
    parser.add_argument("--keep", action="store_true", help="score the runs that are there already")
    given = parser.parse_args()
    chosen = given.only.split(",")
    unknown = sorted(set(chosen) - set(_DELAY_DAYS))
    if unknown:
        parser.error(f"--only: {unknown} unknown; expected some of {', '.join(_DELAY_DAYS)}")
    rows = [row for data in chosen for row in rows_of(data, given)]
    table = Table(title="Scores given at decision time, judged by labels that came later")
    for name in ("data", "learner", "average precision", "AUC", "CP@100 (handbook), else recall at 1 %"):
        table.add_column(name, justify="left" if name in ("data", "learner") else "right")
    for row in rows:
        table.add_row(row.data, row.learner, f"{row.average_precision:.4f}", f"{row.auc:.4f}", f"{row.third:.4f}")
    Console(width=120).print(table)
    (given.out / "quality.json").write_text(msgspec.json.encode(rows).decode() + "\n")


if __name__ == "__main__":
    main()
