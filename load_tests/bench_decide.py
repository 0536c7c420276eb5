"""Decisions per second on one core: file to file, durable state, recovery on, JSON in and out.

    python -m load_tests.bench_decide --out bench-out [--payments 1000000] [--cards 1000000] [--profile-time]

What is measured is `weir replay` itself, as a process pinned to one core: a million payments of a million cards with
the busiest merchant at 5 %, six entities by six windows (1m, 10m, 1h, 24h, 7d, 30d; count, sum, mean, max and standard
deviation of each: 180 features, and the bare facts), 40 rules, a trained linear model of 30 inputs, a commit every
second. The busiest merchant's 24-hour window holds 4,096 payments, its 7- and 30-day windows more (panes).

It prints payments a second of wall time and CPU microseconds a payment, and where the time goes by stage. The start
of the process (loading libraries, compiled kernels, the profile) is in the CPU figure and not in the wall figure, which
runs from opening the state to closing it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from load_tests.generate import main as generate
from operators.features import FeatureSet, load_feature_set
from operators.inflight import Value
from operators.learning import load_learning
from operators.model import restore_model

ENTITIES: Final = {
    "account": "account_id",
    "card": "card_id",
    "device": "device_id",
    "ip": "ip",
    "merchant": "merchant_id",
    "terminal": "terminal_id",
}
WINDOWS: Final = ("1m", "10m", "1h", "24h", "7d", "30d")
AGGREGATES: Final = ("count", "sum", "mean", "max", "stddev")
RULES: Final = 40
LABELS: Final = 20_000
SEED: Final = 7


def write_profile(directory: Path, aggregates: tuple[str, ...]) -> Path:
    """The benchmark's profile, with a linear model that has learned `LABELS` made-up labels."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    quoted = ", ".join(f'"{window}"' for window in WINDOWS)
    kinds = ", ".join(f'"{aggregate}"' for aggregate in aggregates)
    lines = ['id = "bench-1"', 'base_currency = "EUR"', 'rates = "rates.csv"', ""]
    for name, key in ENTITIES.items():
        lines += [f"[entities.{name}]", f'key = "{key}"', f"windows = [{quoted}]", f"amount = [{kinds}]", ""]
    (directory / "features.toml").write_text("\n".join(lines))
    rates = Path(__file__).parent.parent / "deploy" / "profiles" / "cards" / "rates.csv"
    shutil.copy(rates, directory / "rates.csv")
    (directory / "policy.toml").write_text(_policy())
    inputs = [f"{entity}.{kind}_{window}" for entity in ENTITIES for window in WINDOWS[1:] for kind in ("count",)][:29]
    (directory / "learning.toml").write_text(
        "\n".join(
            [
                'start = "model.bin"',
                "[model]",
                'id = "bench-linear"',
                'version = "1"',
                f"features = {json.dumps(['amount', *inputs])}",
                "categorical = []",
            ]
        )
    )
    (directory / "model.bin").write_bytes(_trained(directory))
    return directory


def _policy() -> str:
    """Forty rules over counts and sums; thresholds so high that few hold, as in a policy that is in use."""
    rules = ['id = "bench"', 'version = "1"', "thresholds = { challenge = 0.6, review = 0.8, decline = 0.95 }", ""]
    places = [(entity, window) for entity in ENTITIES for window in WINDOWS]
    for number in range(RULES):
        entity, window = places[number % len(places)]
        condition = [
            f"{entity}.count_{window} > {20 * (number + 1)} and amount > 100",
            f"{entity}.sum_{window} > {50_000 * (number + 1)} or amount > 20_000",
            f'channel == "ecommerce" and amount > 3 * {entity}.sum_{window}',
            f'{entity}.count_{window} >= 3 and amount > 5_000 and country in ["US", "GB"]',
        ][number % 4]
        rules += ["[[rules]]", f'id = "rule-{number:02d}"', f"when = '{condition}'", 'action = "challenge"']
        rules += ['reason = "VELOCITY_BURST"', ""]
    return "\n".join(rules)


def _trained(directory: Path) -> bytes:
    features = load_feature_set(directory / "features.toml")
    learning = directory / "learning.toml"
    text = learning.read_text()
    learning.write_text(text.replace('start = "model.bin"', ""))
    model = restore_model(features, load_learning(learning, features))(None)
    learning.write_text(text)
    rng = random.Random(SEED)
    for _ in range(LABELS):
        model.learn_one(_values(features, rng), rng.random() < 0.02, 1.0)
    return model.to_bytes()


def _values(features: FeatureSet, rng: random.Random) -> list[Value]:
    values = features.new_values()
    for slot, feature in enumerate(features.features):
        if feature.kind == "number":
            values[slot] = float(rng.randrange(50)) if "count" in feature.name else rng.lognormvariate(4, 2)
    return values


def run(
    directory: Path, events: Path, profile: Path, core: int, *, profile_time: bool, state: bool = True
) -> dict[str, object]:
    """One replay pinned to `core`; returns its metrics.json."""
    out, kept = directory / "run", directory / "state"
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(kept, ignore_errors=True)
    command = [sys.executable]
    if profile_time:
        command += ["-m", "pyinstrument", "-r", "text", "-o", str(directory / "profile.txt"), "-i", "0.002"]
    command += ["-m", "flows.cli", "replay", "--profile", str(profile), "--events", str(events), "--out", str(out)]
    command += ["--epoch", "1", "--no-report"] + (["--state", str(kept)] if state else [])
    subprocess.run(command, check=True, preexec_fn=lambda: os.sched_setaffinity(0, {core}))  # one thread
    metrics: dict[str, object] = json.loads((out / "metrics.json").read_text())
    shutil.rmtree(kept, ignore_errors=True)
    return metrics


def show(console: Console, title: str, metrics: dict[str, object]) -> None:
    """Print the figures and the stages."""
    payments, wall_s, cpu_s = int(str(metrics["payments"])), float(str(metrics["wall_s"])), float(str(metrics["cpu_s"]))
    stages = metrics["stages"]
    if not isinstance(stages, dict):
        raise TypeError
    table = Table(title=title)
    for name in ("stage", "µs a payment", "share", "p99 µs an event", "commits, µs a payment", "commit max ms"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    known = 0.0
    for name, row in stages.items():
        known += row["total_s"] + row["snapshot_total_s"]
        table.add_row(
            name,
            f"{row['total_s'] / payments * 1e6:.2f}",
            f"{row['total_s'] / wall_s:.1%}",
            f"{row['p99_us']:.1f}" if row["p99_us"] else "",
            f"{row['snapshot_total_s'] / payments * 1e6:.2f}",
            f"{row['snapshot_max_us'] / 1000:.1f}",
        )
    table.add_row(
        "engine and rest", f"{(wall_s - known) / payments * 1e6:.2f}", f"{1 - known / wall_s:.1%}", "", "", ""
    )
    console.print(table)
    console.print(
        f"{payments:,} payments in {wall_s:,.1f} s: [bold]{payments / wall_s:,.0f} a second[/], "
        f"{cpu_s / payments * 1e6:.1f} CPU µs a payment (its start included), "
        f"peak {metrics['peak_rss_mib']} MiB",
        highlight=False,
    )


def main() -> None:
    """Generate, replay, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--payments", type=int, default=1_000_000)
    parser.add_argument("--cards", type=int, default=1_000_000)
    parser.add_argument("--core", type=int, default=min(os.sched_getaffinity(0)), help="core to pin the process to")
    parser.add_argument("--aggregates", default=",".join(AGGREGATES), help="aggregates of each window")
    parser.add_argument("--profile-time", action="store_true", help="also run under a profiler, over a tenth")
    arguments = parser.parse_args()
    console = Console()
    events = arguments.out / f"events-{arguments.payments}-{arguments.cards}"
    if not (events / "transactions.jsonl").is_file():
        size = ["--payments", str(arguments.payments), "--cards", str(arguments.cards)]
        generate(["--bench", *size, "--seed", str(SEED), "--out", str(events)])
    profile = write_profile(arguments.out / "profile", tuple(arguments.aggregates.split(",")))
    metrics = run(arguments.out, events, profile, arguments.core, profile_time=False)
    (arguments.out / "bench_decide.json").write_text(json.dumps(metrics, indent=1))
    show(console, "weir replay, one core, durable state, recovery on", metrics)
    if arguments.profile_time:
        short = arguments.out / "events-short"
        short.mkdir(exist_ok=True)
        with (events / "transactions.jsonl").open("rb") as lines, (short / "transactions.jsonl").open("wb") as out:
            out.writelines(line for _, line in zip(range(arguments.payments // 10), lines, strict=False))
        run(arguments.out, short, profile, arguments.core, profile_time=True)
        console.print(f"profile: {arguments.out / 'profile.txt'}")


if __name__ == "__main__":
    main()
