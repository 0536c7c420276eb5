"""Latency of a live flow from outside: payment produced to decision consumed, over a real Kafka.

    python -m load_tests.live --out live-out [--rate 1000] [--seconds 60]

Starts Apache Kafka (unless --brokers names one), makes the topics with `weir topics apply`, starts `weir decide` on the
default profile and `weir learn` beside it (at nice 10: who learns may wait), sends payments with their device and
identity events at a steady rate, and outcomes of some of them, and reads the decisions. The learner joins and learns;
in a minute there are too few labels for its first release.
A payment counts from when it was due (load_tests/open_loop.py). The seconds before --warm-up are left out: caches fill,
kernels load. It prints p50, p95, p99, p99.9 and max, where the time goes, and what the tail is made of; writes
latency.json. Exit code 1 when a payment was lost, decided twice or refused, 2 when something could not be started.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import orjson
from confluent_kafka import Consumer, Producer
from rich.console import Console
from rich.table import Table

from load_tests.generate import generate, is_made
from load_tests.kafka_broker import BrokerError, KafkaBroker
from load_tests.latency import PERCENTILES, Latency, measured
from load_tests.open_loop import Event, OpenLoop, decidable
from load_tests.produce import merged
from load_tests.traffic.layout import Params
from schemas.metrics import LABELS_LEARNED, RELEASES

ROOT: Final = Path(__file__).resolve().parents[1]
PROFILE: Final = ROOT / "deploy" / "profiles" / "cards"
TOPICS: Final = {
    "transactions": "transactions.v1",
    "device_events": "device-events.v1",
    "identity_events": "identity-events.v1",
    "decisions": "decisions.v1",
    "labelled_outcomes": "labelled-outcomes.v1",
    "dead_letters": "dead-letters.v1",
}
_LEARNS: Final = {"outcomes": "outcomes.v1", "models": "models.v1"}
"""Streams that there are with a learner only."""
_CPU: Final = "process_cpu_seconds_total"
_RELEASE_EVERY: Final = "10s"
_TOLD_OF: Final = 20
"""Of one payment in so many an analyst says that it is genuine; of every fraud there is a chargeback."""
_BEHIND: Final = 2_000
"""Payments between one and its outcome: some seconds."""
BAR_MS: Final = {99.0: 50.0, 99.9: 100.0}
"""What the design wants of 1,000 payments a second with the broker on the same two cores."""
_LEARNERS_PORT: Final = 100
"""Beyond the first port of decide."""
_READY_S: Final = 120.0
_DRAIN_S: Final = 60.0
_STOP_S: Final = 60.0


class LiveError(Exception):
    """It cannot be measured; the message says why."""


def write_config(directory: Path, bootstrap: str, port: int, given: argparse.Namespace) -> Path:
    """weir.toml of the flow that is measured."""
    wanted = TOPICS | _LEARNS if given.learn else TOPICS
    streams = "\n".join(f'{name} = "kafka://{bootstrap}/{topic}"' for name, topic in wanted.items())
    transactions = f'transactional = true\ntransaction_every = "{given.transaction}"\n' if given.transactional else ""
    path = directory / "weir.toml"
    path.write_text(
        f'profile = "{given.profile.resolve()}"\n[streams]\n{streams}\n[wire]\nformat = "json"\n'
        f'[state]\nfolder = "state"\nshards = {given.shards}\n'
        f'[decide]\nepoch = "{given.epoch}"\nlinger = "{given.linger}"\n{transactions}'
        f"[metrics]\nport = {port}\n[cluster]\nprocesses = {given.processes}\n"
        '[kafka]\n"linger.ms" = 0\n[log]\nformat = "text"\n' + (_learner(directory, port) if given.learn else "")
    )
    return path


def _learner(directory: Path, port: int) -> str:
    """What a learner beside it needs, with a key of its own."""
    secret = base64.b64encode(secrets.token_bytes(32)).decode()
    (directory / "model-keys.toml").write_text(f'active = "live"\n[keys.live]\nsecret = "{secret}"\n')
    return (
        '[models]\nartefacts = "file://'
        + str((directory / "artefacts").resolve())
        + '"\nkeys_file = "model-keys.toml"\n'
        f'[learn]\nfolder = "learn-state"\nrelease_every = "{_RELEASE_EVERY}"\nannounce = "champion"\n'
        'epoch = "10s"\nbatch = 2000\nsettle = "2s"\n'
        f"metrics_port = {port + _LEARNERS_PORT}\n"
    )


def weir(*words: str) -> list[str]:
    """The command line of `weir`."""
    return [sys.executable, "-m", "flows.cli", *words]


def wait_ready(process: subprocess.Popen[bytes], ports: list[int], log: Path) -> None:
    """Until every process says that it is ready.

    Raises:
        LiveError: It ended, or was not ready in time.
    """
    until = time.monotonic() + _READY_S
    waiting = list(ports)
    while waiting:
        if process.poll() is not None or time.monotonic() > until:
            ended = "ended" if process.poll() is not None else f"was not ready within {_READY_S:g} s"
            message = f"weir {log.stem} {ended}: {log.read_text()[-2000:]}"
            raise LiveError(message)
        with contextlib.suppress(OSError, urllib.error.URLError):
            urllib.request.urlopen(f"http://127.0.0.1:{waiting[0]}/readyz", timeout=2).close()
            waiting.pop(0)
            continue
        time.sleep(0.1)


@contextlib.contextmanager
def running(command: str, config: Path, log: Path, ports: list[int]) -> Iterator[subprocess.Popen[bytes]]:
    """`weir decide` or `weir learn`, ready; stopped in order at the end."""
    with log.open("wb") as out:
        words = weir(command, "--config", str(config))
        if command == "learn":
            words = ["nice", "-n", "10", *words]  # who learns may wait, who decides may not
        process = subprocess.Popen(words, cwd=ROOT, stdout=out, stderr=out)
    try:
        wait_ready(process, ports, log)
        yield process
        process.send_signal(signal.SIGTERM)
        if process.wait(_STOP_S):
            message = f"weir {command} ended with {process.returncode}: {log.read_text()[-2000:]}"
            raise LiveError(message)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def traffic(directory: Path, payments: int, seed: int, *, outcomes: bool = False) -> Iterator[Event]:
    """Payments of many customers, about one each, and the events around them; made once."""
    params = Params(payments=payments + payments // 10, days=3, customers=max(1_000, payments), seed=seed)
    events = directory / "events"
    if not is_made(params, events):
        generate(params, events)
    with (events / "truth.jsonl").open("rb") as lines:
        frauds = {one["transaction_id"]: bool(one["fraud"]) for one in map(orjson.loads, lines)}
    found = merged(events, ["transactions", "device_events", "identity_events"])
    sent = decidable(found, set(frauds), payments)
    return with_outcomes(sent, frauds) if outcomes else sent


def with_outcomes(events: Iterator[Event], frauds: dict[str, bool]) -> Iterator[Event]:
    """Put outcomes of all frauds and of some others behind their payments.

    Args:
        events: In order of arrival.
        frauds: The truth by transaction.
    """
    due: deque[tuple[int, dict[str, Any]]] = deque()
    payments = 0
    for event in events:
        at_us, stream, record = event
        yield event
        if stream != "transactions":
            continue
        payments += 1
        name = record["transaction_id"]
        if frauds[name] or payments % _TOLD_OF == 0:
            told = (
                {"label": "fraud", "source": "chargeback"}
                if frauds[name]
                else {"label": "genuine", "source": "analyst"}
            )
            due.append((payments + _BEHIND, {"outcome_id": f"oc-{name}", "transaction_id": name, **told}))
        while due and due[0][0] <= payments:
            yield at_us, "outcomes", {**due.popleft()[1], "event_time": record["event_time"]}


def measure(bootstrap: str, given: argparse.Namespace, console: Console) -> tuple[Latency, OpenLoop, float]:
    """Start the flow, load it, and measure; also the processor seconds that it took.

    Raises:
        LiveError: The flow does not run.
    """
    given.out.mkdir(parents=True, exist_ok=True)
    for old in ("state", "learn-state", "artefacts"):
        shutil.rmtree(given.out / old, ignore_errors=True)
    apply = weir("topics", "apply", "--brokers", bootstrap, "--partitions", str(given.partitions))
    done = subprocess.run(
        [*apply, "--replicas", "1", "--min-in-sync", "1"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        message = f"weir topics apply: {(done.stdout + done.stderr).strip()}"
        raise LiveError(message)
    events = list(
        traffic(given.out, int(given.rate * (given.seconds + given.warm_up)), given.seed, outcomes=given.learn)
    )
    ports = [given.metrics_port + number for number in range(given.processes)]
    config = write_config(given.out, bootstrap, ports[0], given)
    with ExitStack() as stack:
        if given.learn:
            learner_port = ports[0] + _LEARNERS_PORT
            learner = stack.enter_context(running("learn", config, given.out / "learn.log", [learner_port]))
        process = stack.enter_context(running("decide", config, given.out / "decide.log", ports))
        producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "acks": "all"})
        told = {"group.id": "load-test", "enable.auto.commit": False}
        told["isolation.level"] = "read_committed" if given.transactional else "read_uncommitted"
        consumer = Consumer({"bootstrap.servers": bootstrap, "fetch.wait.max.ms": 100, **told})
        names = ("transactions", "device_events", "identity_events", "outcomes")
        sent = {name: topic for name, topic in (TOPICS | _LEARNS).items() if name in names}
        loop = OpenLoop(producer, consumer, sent, TOPICS["decisions"])
        console.print(
            f"{given.rate:g} payments a second for {given.warm_up:g} + {given.seconds:g} s, {len(events):,} events"
        )

        def still() -> bool:
            return process.poll() is None and (not given.learn or learner.poll() is None)

        before = _cpu_s(ports)
        loop.run(iter(events), given.rate, still)
        loop.drain(_DRAIN_S, still)
        cpu_s = _cpu_s(ports) - before
        for number, port in enumerate(ports):
            (given.out / f"metrics-{number}.txt").write_text(scrape(port))
        if given.learn:
            (given.out / "metrics-learn.txt").write_text(scrape(learner_port))
        consumer.close()
    return measured(loop.timeline, int(given.rate * given.warm_up)), loop, cpu_s


def scrape(port: int) -> str:
    """What a process of Weir tells of itself."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def _cpu_s(ports: list[int]) -> float:
    """Processor seconds of Weir's processes since they started, by their own metrics."""
    return sum(_total(scrape(port), _CPU) for port in ports)


def _total(text: str, name: str) -> float:
    """Sum of a metric over all its labels, of a scrape."""
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.M))


def show(console: Console, latency: Latency, loop: OpenLoop, cpu_s: float, given: argparse.Namespace) -> None:
    """Print what was seen."""
    heads = ["p50", "p95", "p99", "p99.9", "max"]
    table = Table(title="From the moment a payment was due to its decision read, ms", title_justify="left")
    table.add_column("")
    for head in heads:
        table.add_column(head, justify="right")
    table.add_column("mean of the slowest 1 %", justify="right")
    table.add_row("whole", *(_ms(one) for one in latency.whole), "", style="bold")
    for part in latency.parts:
        table.add_row(part.name, *(_ms(one) for one in part.all_us), _ms(part.slow_us))
    console.print(table)
    bars = [
        f"p{percent:g} {latency.whole[PERCENTILES.index(percent)] / 1e3:.1f} ms, bar {bar:g}: "
        + ("held" if latency.whole[PERCENTILES.index(percent)] <= bar * 1e3 else "MISSED")
        for percent, bar in BAR_MS.items()
    ]
    console.print("; ".join(bars))
    console.print(
        f"The slowest 1 % came due in {latency.pauses} groups, the longest {latency.longest_pause_s:.2f} s long, "
        f"{latency.between_s:.2f} s apart in the median (an epoch is {given.epoch})."
    )
    timeline = loop.timeline
    console.print(
        f"{latency.payments:,} payments counted: {latency.undecided} undecided, {timeline.twice} decided twice, "
        f"{timeline.failed} not taken by the broker, {timeline.late} past the deadline (warm-up included). "
        f"Weir took {cpu_s:.1f} processor seconds, {cpu_s / max(1, len(timeline.due_ns)) * 1e6:.0f} us a payment."
    )
    if given.learn:
        learner = (given.out / "metrics-learn.txt").read_text()
        counted = [_total(learner, name) for name in (LABELS_LEARNED.name, RELEASES.name, _CPU)]
        console.print(
            f"weir learn, beside it: {counted[0]:,.0f} labels learned, {counted[1]:.0f} releases, {counted[2]:.1f} "
            "processor seconds."
        )
    load = os.getloadavg()[0]
    console.print(f"Load of the machine over the last minute: {load:.1f} on {os.cpu_count()} cores.")


def _ms(value_us: float) -> str:
    return f"{value_us / 1e3:.1f}"


def main(words: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.live", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("live-out"), help="folder for traffic, state and results")
    parser.add_argument("--rate", type=float, default=1_000.0, help="payments a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="measured")
    parser.add_argument("--warm-up", type=float, default=15.0, help="seconds before, not measured")
    parser.add_argument("--profile", type=Path, default=PROFILE)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--epoch", default="1s")
    parser.add_argument("--transactional", action="store_true", help="decide.transactional; committed records are read")
    parser.add_argument("--transaction", default="100ms", help="decide.transaction_every")
    parser.add_argument("--linger", default="2ms", help="from one batch to the next at the least")
    parser.add_argument(
        "--learn", action=argparse.BooleanOptionalAction, default=True, help="with `weir learn` beside it"
    )
    parser.add_argument("--brokers", help="HOST:PORT of a Kafka that runs; default: one of its own")
    parser.add_argument("--metrics-port", type=int, default=9564)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args(words)
    console = Console()
    try:
        with ExitStack() as stack:
            bootstrap = given.brokers
            if bootstrap is None:
                shutil.rmtree(given.out / "kafka", ignore_errors=True)
                bootstrap = stack.enter_context(KafkaBroker(given.out / "kafka")).bootstrap
            latency, loop, cpu_s = measure(bootstrap, given, console)
    except (BrokerError, LiveError) as error:
        print(f"live: {error}", file=sys.stderr)
        return 2
    show(console, latency, loop, cpu_s, given)
    told: dict[str, Any] = {key: str(value) for key, value in vars(given).items()}
    (given.out / "latency.json").write_text(json.dumps({**asdict(latency), "options": told}, indent=1) + "\n")
    timeline = loop.timeline
    return int(bool(latency.undecided or timeline.twice or timeline.failed))


if __name__ == "__main__":
    raise SystemExit(main())
