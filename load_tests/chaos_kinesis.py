"""The kill campaign over a stand-in for Kinesis: `weir decide` under steady load, killed while streams are resharded.

    python -m load_tests.chaos_kinesis --kills 20 --reshards 4 [--seed S] [--out chaos-kinesis-out]

Starts kinesis-local (load_tests/kinesis_local.py), makes the streams, and puts payments without a break, one in fifty
twice. The flow is killed at random moments and at chosen points of a snapshot or a start, with one process and with two
in turns; with some of the kills the payments' stream is split or merged at the same moment, with others the decisions'.
At the end, and after every kill, a reader of its own counts what stands in the decisions, and compares each account's
count of payments with the order in which they were put; that must agree with `--processes 1` only, since in a cluster
payments of one account may overtake each other between the steps, whose shards are others. Exit code 0: clean; 1: not;
2: something could not be started. The table stands in OUT/report.md. Not more than some 25 payments a second: the
stand-in is slow.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from load_tests.campaign.live_cluster import START_S, ClusterError, LiveCluster, wait_for
from load_tests.campaign.live_count import Count, Reader
from load_tests.kinesis_local import CREDENTIALS, KinesisError, KinesisLocal, Tail, client_at, merge, open_shards, split

PROFILE: Final = Path(__file__).resolve().parent / "kinesis" / "profile"
STREAMS: Final = ("transactions", "decisions", "labelled_outcomes", "dead_letters")
POINTS: Final = {"commit": (10, 60), "synced": (3, 12), "read_back": (1, 1), "open": (1, 3)}
"""Where a process kills itself, and at which arrival there."""
KINDS: Final = ("kill all", "kill one process", "kill at a point")
_RETRIES: Final = 0.02
_ACCOUNTS: Final = 20
_MOST_BEHIND: Final = 120
_MOST_SHARDS: Final = 4
_SETTLE_S: Final = (0.3, 4.0)
_DRAIN_S: Final = 300.0


class Load(threading.Thread):
    """Puts payments at a steady rate until it is told to end.

    Attributes:
        sent: Transaction id -> copies put.
        order: Account -> its transactions as they were put.
    """

    def __init__(self, client: Any, name: str, rate: float, seed: int, decided: Callable[[], int]) -> None:
        super().__init__(name="load", daemon=True)
        self.sent: Counter[str] = Counter()
        self.order: dict[str, list[str]] = {}
        self._client = client
        self._name = name
        self._rate = rate
        self._decided = decided
        self._rng = random.Random(seed)
        self._done = threading.Event()

    def run(self) -> None:
        """Put what is due, a tenth of a second's at once."""
        rng, made, began = self._rng, 0, time.monotonic()
        earlier: deque[dict[str, Any]] = deque(maxlen=200)
        while not self._done.wait(0.1):
            batch: list[dict[str, Any]] = []
            # Not more than the stand-in can take in a while: it needs milliseconds a record, and starts need seconds.
            if self.sent.total() - self._decided() > _MOST_BEHIND:
                began = time.monotonic() - made / self._rate
                continue
            while made < (time.monotonic() - began) * self._rate and len(batch) < 100:
                batch.append(self._payment(made))
                made += 1
                earlier.append(batch[-1])
                if rng.random() < _RETRIES:
                    batch.append(rng.choice(earlier))
            self._put(batch)

    def _payment(self, number: int) -> dict[str, Any]:
        account = f"A{self._rng.randrange(_ACCOUNTS)}"
        self.order.setdefault(account, []).append(f"T{number}")
        return {
            "transaction_id": f"T{number}",
            "event_time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "account_id": account,
            "channel": "ecommerce",
            "payment_type": "purchase",
            "amount_minor": self._rng.randrange(100, 100_000),
            "currency": "EUR",
        }

    def _put(self, batch: list[dict[str, Any]]) -> None:
        if batch:
            records = [{"Data": orjson.dumps(one), "PartitionKey": one["account_id"]} for one in batch]
            if self._client.put_records(StreamName=self._name, Records=records)["FailedRecordCount"]:
                message = "the stand-in has refused a payment"
                raise RuntimeError(message)
            self.sent.update(one["transaction_id"] for one in batch)

    def end(self) -> None:
        """Put nothing more."""
        self._done.set()
        self.join()


class KinesisCount(Reader):
    """Counts what stands in the streams of decisions and dead letters."""

    def __init__(self, client: Any, decisions: str, dead_letters: str) -> None:
        self._decisions = decisions
        self._originals = Counter()
        self._answers = Counter()
        self._first = {}
        self._contradicted = 0
        self._dead = 0
        self._tails = {name: Tail(client, name) for name in (decisions, dead_letters)}
        self._taken = dict.fromkeys(self._tails, 0)

    def look(self) -> None:
        """Read on."""
        for name, tail in self._tails.items():
            for _, record in tail.look()[self._taken[name] :]:
                self._take(name, record["Data"])
            self._taken[name] = len(tail.records)

    def out_of_order(self, order: dict[str, list[str]]) -> int:
        """Payments that were decided at another place in their account's order than they were put at."""
        counted: dict[str, float] = {}
        for _, record in self._tails[self._decisions].records:
            decision = orjson.loads(record["Data"])
            counted[decision["transaction_id"]] = decision["features"]["account.count_24h"]
        return sum(counted.get(name) != place for names in order.values() for place, name in enumerate(names, 1))


class Campaign:
    """One campaign."""

    def __init__(self, given: argparse.Namespace, seed: int, tell: Callable[[str], None]) -> None:
        self.rng = random.Random(seed)
        self.given = given
        self.tell = tell
        self.rows: Counter[str] = Counter()
        self.resumed: Counter[str] = Counter()
        self.notes: list[str] = []
        self.count: Count | None = None
        self.disordered = 0
        self.payments = self.retries = 0

    def run(self) -> None:
        """Kill, and count.

        Raises:
            KinesisError: There is no stand-in.
        """
        given, rng = self.given, self.rng
        out: Path = given.out.resolve()
        for old in ("kinesis", "state", "logs"):
            shutil.rmtree(out / old, ignore_errors=True)
        out.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            server = stack.enter_context(KinesisLocal(out / "kinesis"))
            for name in STREAMS:
                server.make(name, 2 if name in ("transactions", "decisions") else 1)
            config = self._config(out, server, "weir.toml", given.metrics_port)
            beside = self._config(out, server, "beside.toml", given.metrics_port + 100)
            cluster = LiveCluster(config, beside, out / "logs", given.metrics_port, None)
            stack.callback(cluster.kill)
            reader = KinesisCount(server.client, "decisions", "dead_letters")
            client = client_at(server.endpoint)
            load = Load(client, "transactions", given.rate, given.seed or 1, lambda: reader.decided)
            load.start()
            reshards = set(rng.sample(range(given.kills), min(given.reshards, given.kills)))
            try:
                for number in range(given.kills):
                    self._kill(number, number in reshards, cluster, server, reader, load)
                load.end()
                cluster.start(1)
                cluster.wait_ready()
                self.resumed.update(self.rows - self.resumed)
                sent = load.sent.total()

                def decided() -> bool:
                    reader.look()
                    return reader.decided >= sent

                wait_for(decided, _DRAIN_S, f"{sent} decisions and answers", lambda: f"{reader.decided} of them")
                cluster.stop()
            except ClusterError as error:
                self.notes.append(str(error))
                self.tell(f"FAILED: {error}")
                cluster.kill()
                load.end()
            reader.look()
            self.count = reader.count(load.sent, at_end=True)
            self.disordered = reader.out_of_order(load.order)
            self.payments, self.retries = len(load.sent), load.sent.total() - len(load.sent)

    def _kill(
        self,
        number: int,
        reshards: bool,
        cluster: LiveCluster,
        server: KinesisLocal,
        reader: KinesisCount,
        load: Load,
    ) -> None:
        rng, began = self.rng, time.monotonic()
        kinds = KINDS if 2 in self.given.processes else [kind for kind in KINDS if kind != "kill one process"]
        kind = kinds[number % len(kinds)]
        count = 2 if kind == "kill one process" else rng.choice(self.given.processes)
        point, hits = None, 1
        if kind == "kill at a point":
            point = rng.choice(list(POINTS))
            hits = rng.randint(*POINTS[point])
        cluster.start(count, point, hits)
        detail = ""
        if point is None:
            cluster.wait_ready()
            self.resumed.update(self.rows - self.resumed)
            reader.look()
            before = reader.decided

            def decides() -> bool:
                reader.look()
                return reader.decided > before

            wait_for(decides, START_S, "a decision", cluster.told)
            time.sleep(rng.uniform(*_SETTLE_S))
        if reshards:
            detail = self._reshard(server)
            time.sleep(rng.uniform(0.0, 1.5))
        if point is not None:
            cluster.wait_died()
            detail += f" at {point} {hits}"
        elif kind == "kill one process":
            cluster.processes[rng.randrange(count)].kill()
            cluster.wait_ended()
        cluster.kill()
        name = kind + (" amid a reshard" if reshards else "")
        self.rows[name] += 1
        reader.look()
        found = reader.count(load.sent, at_end=False)
        self.tell(f"{number + 1}: {name} ({count}){detail}, {time.monotonic() - began:.1f} s; {found}")
        if not found.clean:
            self.notes.append(f"after kill {number + 1}, {name}: {found}")

    def _reshard(self, server: KinesisLocal) -> str:
        """Split or merge payments or decisions, or both."""
        told = []
        for name in self.rng.choice((("transactions",), ("transactions", "decisions"), ("decisions",))):
            shards = len(open_shards(server.client, name))
            change = merge if shards >= _MOST_SHARDS or (shards > 1 and self.rng.random() < 0.5) else split
            change(server.client, name, self.rng.randrange(shards - (change is merge)))
            told.append(f"{change.__name__} of {name}")
        return ", " + " and ".join(told)

    def _config(self, out: Path, server: KinesisLocal, name: str, port: int) -> Path:
        urls = "\n".join(f'{stream} = "{server.url(stream)}"' for stream in STREAMS)
        path = out / name
        path.write_text(
            f'profile = "{PROFILE}"\n[streams]\n{urls}\n[wire]\nformat = "json"\n'
            f'[state]\nfolder = "state"\nshards = 4\n[decide]\nepoch = "0.5s"\n'
            f'no_progress_after = "30s"\n[metrics]\nport = {port}\n[log]\nformat = "text"\n'
        )
        return path

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        ordered = not self.disordered or self.given.processes != [1]
        return self.count is not None and self.count.clean and not self.notes and ordered

    def markdown(self, facts: list[str]) -> str:
        """The report."""
        lines = ["# Kill campaign over Kinesis", "", *[f"- {fact}" for fact in facts], ""]
        lines += [f"- {self.payments:,} payments and {self.retries:,} retries sent", ""]
        lines += ["| kill | kills | resumed |", "| --- | ---: | ---: |"]
        lines += [f"| {name} | {kills} | {self.resumed[name]} |" for name, kills in self.rows.items()]
        lines += [f"| all | {self.rows.total()} | {self.resumed.total()} |", ""]
        lines += [f"An independent reader found: {self.count}; {self.disordered} decided out of their account's order."]
        lines += ["", *[f"- {note}" for note in self.notes], "CLEAN" if self.clean else "NOT CLEAN"]
        return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign; returns 0 when it is clean."""
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.chaos_kinesis",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--reshards", type=int, default=4, help="kills with a split or merge at the same moment")
    parser.add_argument("--seed", type=int, help="chooses kinds and moments; default: a new one, which is told")
    parser.add_argument("--out", type=Path, default=Path("chaos-kinesis-out"))
    parser.add_argument("--rate", type=float, default=15.0, help="payments a second")
    parser.add_argument("--processes", default="1,2", help="of the starts, drawn: 1 or 2")
    parser.add_argument("--metrics-port", type=int, default=9774)
    given = parser.parse_args(arguments)
    given.processes = [int(number) for number in given.processes.split(",")]
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(10**6)
    os.environ.update(CREDENTIALS)
    began = time.monotonic()

    def tell(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", file=sys.stderr, flush=True)

    tell(f"seed {seed}, {given.kills} kills, {given.rate:g} payments a second")
    earlier = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # so that `finally` holds
    campaign = Campaign(given, seed, tell)
    try:
        campaign.run()
    except KinesisError as error:
        print(f"chaos_kinesis: {error}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, earlier)
    facts = [
        f"seed {seed}: `make chaos-kinesis KILLS={given.kills} SEED={seed}`",
        f"{given.rate:g} payments a second, {time.monotonic() - began:.0f} s",
    ]
    page = campaign.markdown(facts)
    (given.out / "report.md").write_text(page)
    print(page)
    return 0 if campaign.clean else 1


if __name__ == "__main__":
    raise SystemExit(main())
