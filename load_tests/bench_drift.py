"""How soon drift is told, and how often it is told where there is none: generated traffic, ten seeds of each.

    python -m load_tests.bench_drift [--seeds 10] [--payments 45000] [--kinds none amounts missing patterns]

Traffic of 90 days goes through `weir replay` with a small feature set and model and [drift] as by default, but for a
warm-up of 14 and a reference of 21 days; from day 35 on each day is judged. Without drift, all alerts of the next 30
days are false. With one, it begins on day 50 (load_tests/traffic/drift.py), what is told before is false, and the delay
is the time from that midnight to the first alert.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final

import orjson

from load_tests.bench_exploration import run_arm
from load_tests.generate import generate
from load_tests.traffic.drift import KINDS
from load_tests.traffic.layout import DAY_US, Params
from schemas.times import parse_rfc3339_us

DAYS: Final = 90
JUDGED_FROM: Final = 35
DRIFT_DAY: Final = 50
QUIET_DAYS: Final = 30
FEATURES: Final = """
id = "bench-drift-1"
base_currency = "EUR"
rates = "rates.csv"

[entities.account]
key = "account_id"
windows = ["24h", "7d"]
amount = ["count", "sum"]
distinct = { device_id = ["24h"] }
since_last = true
"""
LEARNING: Final = """
tick = "1h"
maturity = "14d"
genuine_sample = 0.2

[model]
id = "bench-linear"
version = "1"
min_labels = 300
learning_rate = 0.2

[drift]
sample = 1.0
warm_up = "14d"
reference = "21d"
"""
RATES: Final = Path(__file__).resolve().parents[1] / "deploy" / "profiles" / "cards" / "rates.csv"


def write_profile(folder: Path) -> Path:
    """The profile of all runs."""
    folder.mkdir(parents=True)
    (folder / "rates.csv").symlink_to(RATES)
    (folder / "features.toml").write_text(FEATURES)
    (folder / "learning.toml").write_text(LEARNING)
    return folder


def alerts_of(params: Params, folder: Path) -> list[tuple[float, dict[str, Any]]]:
    """Alerts of one run with the day on which each was told, the first day being 0."""
    generate(params, folder / "events")
    run_arm(write_profile(folder / "profile"), folder / "events", folder / "out", params.end_us)
    told = []
    for line in (folder / "out" / "alerts.jsonl").read_bytes().splitlines():
        one = orjson.loads(line)
        told.append(((parse_rfc3339_us(one["event_time"]) - params.start_us) / DAY_US, one))
    return told


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.bench_drift",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--payments", type=int, default=45_000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--kinds", nargs="+", default=["none", *KINDS], choices=["none", *KINDS])
    given = parser.parse_args(arguments)
    for kind in given.kinds:
        delays: list[float] = []
        false_counts: list[int] = []
        causes: Counter[str] = Counter()
        for seed in range(1, given.seeds + 1):
            params = Params(
                payments=given.payments,
                days=DAYS,
                seed=seed,
                fraud_share=0.02,
                drift=None if kind == "none" else kind,
                drift_day=DRIFT_DAY,
            )
            with tempfile.TemporaryDirectory(prefix="weir-drift-") as folder:
                told = alerts_of(params, Path(folder))
            until = JUDGED_FROM + QUIET_DAYS if kind == "none" else DRIFT_DAY
            wrong = [one for day, one in told if JUDGED_FROM < day <= until]
            right = [(day, one) for day, one in told if kind != "none" and day > DRIFT_DAY]
            false_counts.append(len(wrong))
            causes.update(f"{one['kind']} {one['subject']}" for one in wrong + [one for _, one in right[:1]])
            first = f"{right[0][0] - DRIFT_DAY:.1f} d, {right[0][1]['kind']} {right[0][1]['subject']}" if right else "-"
            if right:
                delays.append(right[0][0] - DRIFT_DAY)
            print(f"{kind:9} seed {seed:>2}: false {len(wrong)}, first told after {first}", flush=True)
        middle = f"{statistics.median(delays):.1f} d" if delays else "-"
        print(
            f"{kind:9} of {given.seeds}: told {len(delays)}, median delay {middle}; false alarms in the days before "
            f"{sum(false_counts)}, at most {max(false_counts)} a run; {dict(causes)}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
