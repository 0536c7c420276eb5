"""The kill campaign over a real Kafka: `weir decide` under steady load, killed, stopped and cut off from its broker.

    python -m load_tests.chaos_live --kills 50 --outage 60 [--seed S] [--out chaos-live-out]

Starts Apache Kafka, makes the topics, and sends payments without a break, one in fifty twice. The flow is killed
in every way that docs/chaos.md lists, with one process and with two in turns, and once its broker is gone for a minute.
At the end, and after every fault, a consumer of its own reads the decisions topic and counts. Exit code 0: clean; 1:
not; 2: something could not be started. The table stands in OUT/report.md.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from load_tests.campaign.live_cluster import START_S, ClusterError, LiveCluster, any_alive, wait_for
from load_tests.campaign.live_count import Count, Reader
from load_tests.campaign.live_load import Load
from load_tests.kafka_broker import BrokerError, KafkaBroker
from load_tests.live import ROOT, TOPICS, traffic, weir

PROFILE: Final = Path(__file__).resolve().parent / "campaign" / "profile"
IN_SNAPSHOT: Final = {"commit": (30, 300), "sync": (3, 12), "synced": (3, 12), "delivered": (3, 12)}
IN_START: Final = {"open": (1, 3), "rollback": (1, 3), "read_back": (1, 1)}
"""Points at which a process kills itself, and at which arrival there: from the third epoch on, or while it starts. An
epoch has one commit a step and shard, one delivery, one sync."""
OUTAGE: Final = "broker outage"
_SETTLE_S: Final = (0.3, 4.0)
"""A fault comes so long after a start's first decision: from within the first epochs to well behind several commits."""
_DRAIN_S: Final = 180.0


@dataclass(slots=True)
class Scene:
    """What a fault is done to."""

    cluster: LiveCluster
    broker: KafkaBroker
    reader: Reader
    rng: random.Random
    count: int
    outage_s: float

    def settle(self) -> None:
        """Let it decide, for a time drawn anew."""
        self.reader.look()
        before = self.reader.decided

        def decides() -> bool:
            self.reader.look()
            return self.reader.decided > before

        wait_for(decides, START_S, "a decision", self.cluster.told)
        time.sleep(self.rng.uniform(*_SETTLE_S))


def _kill_all(scene: Scene) -> str:
    scene.settle()
    scene.cluster.kill()
    return f"{scene.count} processes"


def _kill_one(scene: Scene) -> str:
    scene.settle()
    number = scene.rng.randrange(scene.count)
    scene.cluster.processes[number].kill()
    scene.cluster.wait_ended()
    return f"process {number} of {scene.count}; the others ended by themselves"


def _kill_at(points: Mapping[str, tuple[int, int]]) -> Callable[[Scene], str]:
    def fault(scene: Scene) -> str:
        scene.cluster.kill()
        point = scene.rng.choice(list(points))
        hits = scene.rng.randint(*points[point])
        scene.cluster.start(scene.count, point, hits)
        try:
            scene.cluster.wait_died()
        except ClusterError:
            # Not every start opens so many shards, or has anything to roll back: killed there anyhow.
            if point not in ("open", "rollback") or not any_alive(scene.cluster.processes):
                raise
            scene.cluster.kill()
        return f"{point} {hits}"

    return fault


def _kill_twice(scene: Scene) -> str:
    scene.settle()
    scene.cluster.kill()
    scene.cluster.start(scene.count)
    seconds = scene.rng.uniform(0.0, 6.0)
    time.sleep(seconds)
    scene.cluster.kill()
    return f"again {seconds:.1f} s into the start"


def _stop(scene: Scene) -> str:
    scene.settle()
    number = scene.rng.randrange(scene.count)
    stopped = scene.cluster.processes[number]
    stopped.send_signal(signal.SIGSTOP)
    for one in scene.cluster.processes:
        if one is not stopped:
            one.kill()
    scene.cluster.refused_beside()
    # It wakes: alone its peer's death ends it, and what it may still publish before that is counted like all else.
    stopped.send_signal(signal.SIGCONT)
    time.sleep(scene.rng.uniform(0.0, 2.0))
    scene.cluster.kill()
    return f"process {number} of {scene.count}, a start beside it was refused"


def _outage(scene: Scene) -> str:
    scene.settle()
    scene.broker.kill()
    time.sleep(scene.outage_s)
    scene.broker.start()
    if not all(one.poll() is None for one in scene.cluster.processes):
        message = f"expected the flow to wait for the broker, but it ended: {scene.cluster.told()}"
        raise ClusterError(message)
    return f"{scene.outage_s:g} s"


FAULTS: Final[dict[str, Callable[[Scene], str]]] = {
    "kill all": _kill_all,
    "kill one process": _kill_one,
    "kill in snapshot": _kill_at(IN_SNAPSHOT),
    "kill in start": _kill_at(IN_START),
    "kill twice": _kill_twice,
    "stop": _stop,
}


@dataclass(slots=True)
class Row:
    """One kind of fault: how many were done, and how many were come through."""

    faults: int = 0
    resumed: int = 0


@dataclass(slots=True)
class Report:
    """What the campaign found."""

    rows: dict[str, Row] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    count: Count | None = None

    def clean(self) -> bool:
        """Whether every fault was come through and nothing is wrong."""
        whole = self.count is not None and self.count.clean and not self.notes
        return whole and all(row.resumed == row.faults for row in self.rows.values())

    def markdown(self) -> str:
        """The report as a page."""
        lines = ["# Kill campaign over Kafka", "", *[f"- {fact}" for fact in self.facts], ""]
        lines += ["| fault | faults | resumed |", "| --- | ---: | ---: |"]
        lines += [f"| {kind} | {row.faults} | {row.resumed} |" for kind, row in self.rows.items()]
        faults, resumed = (
            sum(column) for column in zip(*((r.faults, r.resumed) for r in self.rows.values()), strict=True)
        )
        lines += [f"| all | {faults} | {resumed} |", ""]
        lines += [
            f"An independent consumer found: {self.count or 'nothing, since the campaign did not come to its end'}.",
            "",
        ]
        lines += [f"- {note}" for note in self.notes]
        lines += ["CLEAN" if self.clean() else "NOT CLEAN"]
        return "\n".join(lines) + "\n"


def plan(kills: int, outage: bool, rng: random.Random, kinds: list[str]) -> list[str]:
    """Every kind once, then drawn ones; the outage somewhere in the middle."""
    drawn = list(kinds[:kills])
    drawn += rng.choices(kinds, k=kills - len(drawn))
    rng.shuffle(drawn)
    if outage:
        drawn.insert(len(drawn) // 2, OUTAGE)
    return drawn


def run(given: argparse.Namespace, seed: int, tell: Callable[[str], None]) -> Report:
    """Run a campaign.

    Raises:
        BrokerError: Kafka cannot be had.
        ClusterError: Topics cannot be made.
    """
    rng = random.Random(seed)
    report = Report()
    out: Path = given.out.resolve()
    for old in ("kafka", "state", "logs"):
        shutil.rmtree(out / old, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    events = list(traffic(out, given.payments, 7))
    kinds = given.faults.split(",")
    with ExitStack() as stack:
        broker = stack.enter_context(KafkaBroker(out / "kafka"))
        apply = weir("topics", "apply", "--brokers", broker.bootstrap, "--partitions", str(given.partitions))
        words = [*apply, "--replicas", "1", "--min-in-sync", "1"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            message = f"weir topics apply: {(done.stdout + done.stderr).strip()}"
            raise ClusterError(message)
        port: int = given.metrics_port
        config = _write_config(out, broker.bootstrap, given, "weir.toml", port)
        beside = _write_config(out, broker.bootstrap, given, "beside.toml", port + 100)
        cluster = LiveCluster(config, beside, out / "logs", port, given.before and given.before.resolve())
        stack.callback(cluster.kill)
        load = Load(broker.bootstrap, TOPICS, events, given.rate, seed)
        isolation = "read_committed" if given.transactional else "read_uncommitted"
        reader = Reader(broker.bootstrap, TOPICS["decisions"], TOPICS["dead_letters"], isolation)
        stack.callback(reader.close)
        load.start()
        scene = Scene(cluster, broker, reader, rng, 1, given.outage)
        unproven: list[str] = []
        try:
            for number, kind in enumerate(plan(given.kills, given.outage > 0, rng, kinds)):
                started = time.monotonic()
                scene.count = 2 if kind == "kill one process" else rng.choice(given.processes)
                _start(cluster, scene.count, report, unproven)
                fault = _outage if kind == OUTAGE else FAULTS[kind]
                row = report.rows.setdefault(kind, Row())
                row.faults += 1
                detail = fault(scene)
                unproven.append(kind)
                reader.look()
                found = reader.count(load.sent, at_end=False)
                tell(f"{number + 1}: {kind} ({scene.count}): {detail}, {time.monotonic() - started:.1f} s; {found}")
                if not found.clean:
                    report.notes.append(f"after fault {number + 1}, {kind}: {found}")
                if kind == OUTAGE:
                    cluster.stop()
            load.end()
            scene.count = given.processes[0]
            _start(cluster, scene.count, report, unproven)
            sent = load.sent.total()

            def decided() -> bool:
                reader.look()
                return reader.decided >= sent

            try:
                wait_for(decided, _DRAIN_S, f"{sent} decisions and answers", lambda: f"{reader.decided} of them")
            except ClusterError as error:
                report.notes.append(str(error))
            cluster.stop()
            reader.look()
        except ClusterError as error:
            report.notes.append(str(error))
            tell(f"FAILED: {error}")
            cluster.kill()
            load.end()
            reader.look()
        report.count = reader.count(load.sent, at_end=True)
        if load.failed:
            report.notes.append(f"{load.failed} records of the load were not taken by the broker")
        payments = len(load.sent)
        report.facts.append(f"{payments:,} payments and {load.sent.total() - payments:,} retries sent")
    return report


def _start(cluster: LiveCluster, count: int, report: Report, unproven: list[str]) -> None:
    """Start, and see that the faults before are come through."""
    cluster.start(count)
    cluster.wait_ready()
    for kind in unproven:
        report.rows[kind].resumed += 1
    unproven.clear()


def _write_config(out: Path, bootstrap: str, given: argparse.Namespace, name: str, port: int) -> Path:
    streams = "\n".join(f'{name} = "kafka://{bootstrap}/{topic}"' for name, topic in TOPICS.items())
    path = out / name
    path.write_text(
        f'profile = "{given.profile.resolve()}"\n[streams]\n{streams}\n[wire]\nformat = "json"\n'
        f'[state]\nfolder = "state"\nshards = {given.shards}\n[decide]\nepoch = "{given.epoch}"\n'
        f"transactional = {str(given.transactional).lower()}\n"
        f'no_progress_after = "20s"\n[metrics]\nport = {port}\n[log]\nformat = "text"\n'
    )
    return path


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign; returns 0 when it is clean."""
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.chaos_live",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=50, help="faults, the outage not counted")
    parser.add_argument("--outage", type=float, default=60.0, help="seconds without the broker; 0: no outage")
    parser.add_argument("--seed", type=int, help="chooses faults and moments; default: a new one, which is told")
    parser.add_argument("--out", type=Path, default=Path("chaos-live-out"))
    parser.add_argument("--profile", type=Path, default=PROFILE)
    parser.add_argument("--payments", type=int, default=20_000, help="of the traffic, which is then repeated")
    parser.add_argument("--rate", type=float, default=200.0, help="events a second")
    parser.add_argument("--epoch", default="0.3s")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--partitions", type=int, default=3)
    parser.add_argument("--processes", default="1,2", help="of the starts, drawn")
    parser.add_argument("--faults", default=",".join(FAULTS), help="kinds to do")
    parser.add_argument("--metrics-port", type=int, default=9574)
    parser.add_argument("--transactional", action="store_true", help="publish in transactions, count committed records")
    parser.add_argument("--before", type=Path, help="Python file that each process runs first")
    given = parser.parse_args(arguments)
    given.processes = [int(number) for number in given.processes.split(",")]
    unknown = [kind for kind in given.faults.split(",") if kind not in FAULTS]
    if unknown or given.kills < 1:
        parser.error(f"expected --kills of 1 and more, and faults out of {', '.join(FAULTS)}; found {unknown}")
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(10**6)
    began = time.monotonic()

    def tell(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", file=sys.stderr, flush=True)

    tell(f"seed {seed}, {given.kills} faults, {given.rate:g} events a second")
    earlier = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # so that `finally` holds
    try:
        report = run(given, seed, tell)
    except (BrokerError, ClusterError) as error:
        print(f"chaos_live: {error}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, earlier)
    report.facts.insert(0, f"seed {seed}: `make chaos-live KILLS={given.kills} SEED={seed}`")
    report.facts.append(
        f"{given.rate:g} events a second, an epoch every {given.epoch}, {time.monotonic() - began:.0f} s"
    )
    page = report.markdown()
    (given.out / "report.md").write_text(page)
    print(page)
    return 0 if report.clean() else 1


if __name__ == "__main__":
    raise SystemExit(main())
