"""How memory, resume, stalls and throughput grow with the number of entities in state: 100 thousand to 5 million.

    make bench-state                                              # some 25 minutes the first time, 5 afterwards
    python -m load_tests.bench_growth --out bench-out/growth [--sizes 100000,1000000,5000000] [--spread 60000]

An entity is one key (one card, account, device, IP, merchant or terminal) that has a window record in state. What runs
is `weir replay` itself, as a process pinned to one core, with the profile of `make bench` (six entities by six windows
by five aggregates, 40 rules, a trained model), --memory as given, and an epoch a second.

Filling is a replay too: payments of new cards (load_tests/traffic/growth.py) go through the production flow until
`size` entities are there, and then it is stopped in order. Nothing about the state is made up: records, before-images,
expiry index, ledger and recovery store are what a flow that came this far leaves. It is slow, so the state at each size
is kept in <out>/size-<n> (SST files by hard link, as RocksDB never changes one) and a second run measures at once. The
decisions published so far are not kept with it but for their length: a file of that length full of holes stands in for
them, as only retries read published decisions, and there are none here.

Measuring: a copy of the state of that size, and on it the same command goes on, over payments spread uniformly over
all cards, until `--spread` of them are decided; then it is stopped in order. Told of that process:

- resume: from the start of the process to the first decision written. Of it: until libraries and profile are loaded;
  opening the stores of all shards and rolling them back; the rest is the engine, and the first batch.
- resume after kill -9: the same on another copy, whose process was killed after half of the payments; the logs that
  there were then, and what follows the loading of libraries, which is as above.
- payments a second, between the first and the last read; the ratio is to the smallest size.
- stall: the flow stands still at an epoch's end (flows/stalls.py); p50, p99, max.
- peak RSS (VmHWM of the process) and, of it, what was anonymous at most: the rest are pages of files, of libraries.
- size of the shards on disk when it began.

Entities are counted in the shards, step by step, after each filling.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from load_tests.bench_decide import AGGREGATES, ENTITIES, SEED, write_profile
from load_tests.traffic.growth import Stretch, stretches, write_growth
from load_tests.traffic.layout import Params
from operators.describe import sort_of
from operators.record_formats import format_of
from schemas import metrics
from state.options import DEFAULT_MEMORY_MIB
from state.raw import RawShard, shard_names_in

SIZES: Final = (100_000, 1_000_000, 5_000_000)
ROOM: Final = 120_000
"""Payments in the input at each size that bring no new entities; filling stops within them, and measuring must end
there, or it would measure new cards."""
OVERSHOOT: Final = 20_000
"""How far a stop may come late, twice at most: it takes effect at the next batch."""
_POLL_S: Final = 0.1
_STOP_S: Final = 120
_COUNTED: Final = "counted.json"


@dataclass(frozen=True, slots=True)
class Measured:
    """What was seen at one size; seconds, bytes, MiB as named."""

    entities: int
    by_step: dict[str, int]
    disk_mib: float
    resume_s: float
    loaded_s: float
    stores_s: float
    engine_s: float
    first_batch_s: float
    payments: int
    payments_per_s: float
    cpu_us_per_payment: float
    peak_rss_mib: float
    peak_anonymous_mib: float
    stalls: dict[str, float]
    killed_logs_mib: float | None
    killed_stores_s: float | None
    killed_rest_s: float | None


class Bench:
    """One folder with input, filled states and figures."""

    def __init__(self, out: Path, sizes: list[int], spread: int, options: list[str], core: int) -> None:
        self.out = out
        self.spread = spread
        self._options = options
        self._core = core
        self.parts = stretches(sizes, ROOM)
        self._events = out / "events"
        self._live = out / "live"
        plan = out / "plan.json"
        wanted = {"sizes": sizes, "parts": [asdict(part) for part in self.parts]}
        if not plan.is_file() or json.loads(plan.read_text()) != wanted:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            write_growth(self.parts, Params(seed=SEED), self._events)
            self.profile = write_profile(out / "profile", AGGREGATES)
            plan.write_text(json.dumps(wanted))
        self.profile = out / "profile"

    def kept(self, part: Stretch) -> Path:
        """Where the state of a size is kept."""
        return self.out / f"size-{part.entities}"

    def fill(self, part: Stretch, tell: Console) -> None:
        """Bring the state to a size and keep it."""
        kept = self.kept(part)
        if (kept / _COUNTED).is_file():
            return
        decided = self._begin_from_largest_kept(part)
        began = time.monotonic()
        output = self._live / "run" / "decisions.jsonl"
        done = Lines(output, output.stat().st_size if output.exists() else 0, decided)
        process = self._start(self._live)
        wait_until(process, lambda: done.count() >= part.fill_until)
        stop(process)
        tell.print(
            f"filled to {part.entities:,} entities by {done.count():,} payments, {time.monotonic() - began:.0f} s more"
        )
        copy_state(self._live, kept)
        counted = {"payments": done.count(), "entities": count_entities(kept / "state" / "shards")}
        (kept / _COUNTED).write_text(json.dumps(counted))

    def measure(self, part: Stretch) -> Measured:
        """Resume on a copy of the kept state of a size, and decide payments spread over its entities."""
        scratch = self.out / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        copy_state(self.kept(part), scratch)
        by_step = json.loads((self.kept(part) / _COUNTED).read_text())["entities"]
        disk = sum(path.stat().st_size for path in (scratch / "state" / "shards").rglob("*") if path.is_file())
        before = (scratch / "run" / "decisions.jsonl").stat().st_size
        process = self._start(scratch)
        done = Lines(scratch / "run" / "decisions.jsonl", before)
        memory = Memory(process.pid)

        def enough() -> bool:
            memory.look()
            return done.count() >= self.spread

        wait_until(process, enough)
        stop(process)
        told: dict[str, Any] = json.loads((scratch / "run" / "metrics.json").read_text())
        times = told[metrics.RUN_TIMES.name]
        shutil.rmtree(scratch)
        killed = self._killed(part, scratch)
        shutil.rmtree(scratch)
        return Measured(
            entities=sum(by_step.values()),
            by_step=by_step,
            disk_mib=round(disk / (1 << 20), 1),
            resume_s=times["first_record"],
            loaded_s=times["loaded"],
            stores_s=times["stores"],
            engine_s=round(times["opened"] - times["loaded"] - times["stores"], 3),
            first_batch_s=round(times["first_record"] - times["opened"], 3),
            payments=told["payments"],
            payments_per_s=round(told["payments"] / (times["all_read"] - times["opened"]), 1),
            cpu_us_per_payment=told["cpu_us_per_payment"],
            peak_rss_mib=memory.peak_mib,
            peak_anonymous_mib=memory.anonymous_mib,
            stalls=told[metrics.SNAPSHOT_STALL.name],
            killed_logs_mib=killed[0] if killed else None,
            killed_stores_s=killed[1] if killed else None,
            killed_rest_s=killed[2] if killed else None,
        )

    def _killed(self, part: Stretch, scratch: Path) -> tuple[float, float, float] | None:
        """Kill a replay in the midst of it and resume.

        Returns:
            MiB of logs there were, seconds to open and roll back the stores, seconds from there to the first decision;
            None when the replay had come to its end before it could be killed.
        """
        copy_state(self.kept(part), scratch)
        output = scratch / "run" / "decisions.jsonl"
        process = self._start(scratch)
        done = Lines(output, output.stat().st_size)
        while done.count() < self.spread // 2 and process.poll() is None:
            time.sleep(_POLL_S)
        process.kill()
        if process.wait() != -signal.SIGKILL:
            return None
        logs = sum(path.stat().st_size for path in (scratch / "state" / "shards").rglob("*.log"))
        process = self._start(scratch)
        # What was published and not committed is adopted: no new line before its place has been reached again.
        more = Lines(output, output.stat().st_size)
        while more.count() == 0 and process.poll() is None:
            time.sleep(_POLL_S)
        stop(process)
        told: dict[str, Any] = json.loads((scratch / "run" / "metrics.json").read_text())
        times: dict[str, float] = told[metrics.RUN_TIMES.name]
        if "first_record" not in times:
            return None
        rest = times["first_record"] - times["loaded"] - times["stores"]
        return round(logs / (1 << 20), 1), times["stores"], round(rest, 3)

    def _begin_from_largest_kept(self, part: Stretch) -> int:
        """Make the state of the size before the live one, whichever run filled that; returns payments."""
        shutil.rmtree(self._live, ignore_errors=True)
        smaller = [self.kept(one) for one in self.parts if one.fill_until < part.fill_until]
        there = [kept for kept in smaller if (kept / _COUNTED).is_file()]
        if not there:
            return 0
        copy_state(there[-1], self._live)
        return int(json.loads((there[-1] / _COUNTED).read_text())["payments"])

    def _start(self, directory: Path) -> subprocess.Popen[bytes]:
        (directory / "run").mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "flows.cli", "replay", "--profile", str(self.profile)]
        command += ["--events", str(self._events), "--out", str(directory / "run"), "--state", str(directory / "state")]
        command += ["--no-report", "--stop-within", str(_STOP_S), *self._options]
        with (directory / "log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                preexec_fn=lambda: os.sched_setaffinity(0, {self._core}),  # noqa: PLW1509  # one thread here
            )


class Lines:
    """Counts the lines that a file has got behind `start`, and adds `before`; reads each byte once."""

    def __init__(self, path: Path, start: int = 0, before: int = 0) -> None:
        self._path = path
        self._at = start
        self._count = before

    def count(self) -> int:
        """Lines so far."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._at)
                while block := file.read(1 << 20):
                    self._count += block.count(b"\n")
                    self._at += len(block)
        return self._count


class Memory:
    """Looks at a process's memory from outside: its own peak, and the most that was anonymous at any look."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self.peak_mib = 0.0
        self.anonymous_mib = 0.0

    def look(self) -> None:
        """Look once."""
        try:
            rows = dict(line.split(":", 1) for line in self._status.read_text().splitlines())
            peak, anonymous = (int(rows[name].split()[0]) / 1024 for name in ("VmHWM", "RssAnon"))
        except (OSError, KeyError):  # it has ended
            return
        self.peak_mib = max(self.peak_mib, round(peak, 1))
        self.anonymous_mib = max(self.anonymous_mib, round(anonymous, 1))


def wait_until(process: subprocess.Popen[bytes], ready: Any) -> None:
    """Wait; the process must not end before."""
    while not ready():
        if process.poll() is not None:
            message = f"the replay ended with exit code {process.returncode} before its time; see the file `log`"
            raise SystemExit(message)
        time.sleep(_POLL_S)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop it in order."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    code = process.wait(timeout=_STOP_S + 30)
    if code:
        message = f"the replay did not stop in order: exit code {code}; see the file `log`"
        raise SystemExit(message)


def copy_state(source: Path, target: Path) -> None:
    """Copy a stopped flow's state, SST files by hard link; of its output, holes as long as it was."""
    written = target.with_name(f"{target.name}.part")
    for old in (written, target):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(source / "state", written / "state", copy_function=_copy_or_link)
    (written / "run").mkdir()
    for output in (source / "run").glob("*.jsonl"):
        with (written / "run" / output.name).open("wb") as stand_in:
            stand_in.truncate(output.stat().st_size)
    written.rename(target)


def _copy_or_link(source: str, target: str) -> None:
    if source.endswith(".sst"):
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def count_entities(shards: Path) -> dict[str, int]:
    """Entities by step: keys with a window record."""
    found = dict.fromkeys(ENTITIES, 0)
    for name in shard_names_in(shards):
        with RawShard(shards / name, None, format_of) as raw:
            for step in set(raw.steps) & set(ENTITIES):
                found[step] += sum(sort_of(step, key, value).name == "entities" for key, value in raw.records(step))
    return found


def show(console: Console, rows: list[Measured]) -> None:
    """The table, a column a size."""
    table = Table(title="weir replay, one core, durable state, a commit a second")
    table.add_column("")
    for row in rows:
        table.add_column(f"{row.entities:,} entities", justify="right")
    first = rows[0].payments_per_s
    lines: list[tuple[str, Any]] = [
        ("by step", lambda row: "\n".join(f"{step} {number:,}" for step, number in row.by_step.items())),
        ("shards on disk, MiB", lambda row: f"{row.disk_mib:,.0f}"),
        ("peak RSS, MiB", lambda row: f"{row.peak_rss_mib:,.0f}"),
        ("of it anonymous, MiB", lambda row: f"{row.peak_anonymous_mib:,.0f}"),
        ("resume: process start to first decision, s", lambda row: f"{row.resume_s:.2f}"),
        ("  until libraries and profile are loaded", lambda row: f"{row.loaded_s:.2f}"),
        ("  stores opened and rolled back", lambda row: f"{row.stores_s:.2f}"),
        ("  engine, recovery store, input", lambda row: f"{row.engine_s:.2f}"),
        ("  first batch", lambda row: f"{row.first_batch_s:.2f}"),
        ("resume after kill -9: stores opened and rolled back, s", lambda row: _figure(row.killed_stores_s, 2)),
        ("  logs there were, MiB", lambda row: _figure(row.killed_logs_mib, 0)),
        ("  engine, recovery store, input, first batch", lambda row: _figure(row.killed_rest_s, 2)),
        ("payments a second", lambda row: f"{row.payments_per_s:,.0f}"),
        ("  ratio to the smallest", lambda row: f"{row.payments_per_s / first:.2f}"),
        ("CPU µs a payment, start included", lambda row: f"{row.cpu_us_per_payment:.0f}"),
        ("payments measured", lambda row: f"{row.payments:,}"),
        ("epochs", lambda row: f"{row.stalls.get('count', 0):.0f}"),
    ]
    lines += [
        (f"stall {name}, ms", lambda row, name=name: f"{1e3 * row.stalls.get(name, 0.0):.0f}")
        for name in ("p50", "p99", "max")
    ]
    for name, figure in lines:
        table.add_row(name, *(figure(row) for row in rows))
    console.print(table, highlight=False)


def _figure(value: float | None, digits: int) -> str:
    return "not killed in time" if value is None else f"{value:,.{digits}f}"


def main(arguments: list[str] | None = None) -> int:
    """Fill, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of this benchmark's own; other contents go")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="entities, ascending")
    parser.add_argument("--spread", type=int, default=60_000, help="payments measured at each size")
    parser.add_argument("--memory", type=int, default=DEFAULT_MEMORY_MIB, help="as of weir replay")
    parser.add_argument("--epoch", type=float, default=1.0, help="as of weir replay")
    parser.add_argument("--core", type=int, default=min(os.sched_getaffinity(0)), help="core to pin the process to")
    parser.add_argument("--only-fill", action="store_true", help="make the states, measure nothing")
    given = parser.parse_args(arguments)
    sizes = [int(size) for size in given.sizes.split(",")]
    if sizes != sorted(set(sizes)):
        parser.error("--sizes: expected ascending numbers of entities")
    if given.spread > ROOM - 2 * OVERSHOOT:
        parser.error(f"--spread: expected at most {ROOM - 2 * OVERSHOOT:,}, the input has no more at each size")
    bench = Bench(
        given.out, sizes, given.spread, ["--memory", str(given.memory), "--epoch", str(given.epoch)], given.core
    )
    console = Console()
    rows = []
    for part in bench.parts:
        bench.fill(part, console)
        if not given.only_fill:
            rows.append(bench.measure(part))
            (given.out / "bench_growth.json").write_text(json.dumps([asdict(row) for row in rows], indent=1))
            show(console, rows)
    shutil.rmtree(given.out / "live", ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
