"""Over a stand-in for Kinesis: payments a second through one shard, and latency from put to decision put.

    python -m load_tests.bench_kinesis [--payments 1000] [--rate 10] [--out bench-out/kinesis]

`weir decide` reads and writes streams of one shard each, all of it on this machine. Throughput: so many payments stand
in the stream before the flow starts; counted is from its first decision to its last, by their arrival times in the
stream. Latency: payments are put at a steady rate far below that; counted is from a payment's arrival in the stream
to its decision's, by the stand-in's clock, once with reads every 210 ms as AWS allows them, once every 50 ms.

The stand-in takes some 20 ms for an empty read and 1 to 4 ms for a record, and runs on the same cores, so the figures
say what the connector costs beside it, not what AWS does: there the limit of five reads a second and shard sets about
200 ms.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import orjson

from load_tests.chaos_kinesis import PROFILE, STREAMS, Load
from load_tests.kinesis_local import CREDENTIALS, KinesisError, KinesisLocal, Tail, client_at

_WAIT_S: Final = 300.0
_POLLS_MS: Final = (210, 50)


class Flow:
    """`weir decide` over streams of its own."""

    def __init__(self, out: Path, server: KinesisLocal, name: str, poll_ms: int) -> None:
        """Make the streams, all of one shard."""
        self.client = server.client
        self.streams = {one: f"{one.replace('_', '-')}-{name}" for one in STREAMS}
        for stream in self.streams.values():
            server.make(stream)
        urls = "\n".join(f'{one} = "{server.url(stream, poll_ms)}"' for one, stream in self.streams.items())
        self._config = out / f"{name}.toml"
        self._config.write_text(
            f'profile = "{PROFILE}"\n[streams]\n{urls}\n[wire]\nformat = "json"\n[state]\nfolder = "state-{name}"\n'
            "shards = 4\n[metrics]\nport = 0\n"
        )
        shutil.rmtree(out / f"state-{name}", ignore_errors=True)
        self._log = out / f"{name}.log"
        self.decisions = Tail(self.client, self.streams["decisions"])

    def __enter__(self) -> Flow:
        with self._log.open("wb") as log:
            words = [sys.executable, "-m", "flows.cli", "decide", "--config", str(self._config)]
            self._process = subprocess.Popen(words, stdout=log, stderr=log)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait(self, number: int) -> None:
        """Until so many decisions stand; looked at seldom, since each look costs the stand-in what it reads."""
        until = time.monotonic() + _WAIT_S
        while len(self.decisions.look()) < number:
            if self._process.poll() is not None or time.monotonic() > until:
                message = f"{len(self.decisions.records)} of {number} decisions: {self._log.read_text()[-1_000:]}"
                raise KinesisError(message)
            time.sleep(1.0)

    def arrivals_ms(self, stream: str) -> dict[str, float]:
        """Transaction id -> when its record arrived in a stream, ms since 1970."""
        tail = self.decisions if stream == "decisions" else Tail(self.client, self.streams[stream])
        return {
            orjson.loads(record["Data"])["transaction_id"]: record["ApproximateArrivalTimestamp"].timestamp() * 1_000
            for _, record in tail.look()
        }


def throughput(out: Path, server: KinesisLocal, payments: int) -> dict[str, Any]:
    """Payments a second through one shard."""
    flow = Flow(out, server, "throughput", _POLLS_MS[0])
    load = Load(client_at(server.endpoint), flow.streams["transactions"], 1e6, 1, lambda: 0)
    batch = [load._payment(number) for number in range(payments)]  # noqa: SLF001 - the load's own records, at once
    for first in range(0, payments, 100):
        load._put(batch[first : first + 100])  # noqa: SLF001
    with flow:
        flow.wait(payments)
    arrived = sorted(flow.arrivals_ms("decisions").values())
    seconds = (arrived[-1] - arrived[0]) / 1_000
    return {"payments": payments, "seconds": round(seconds, 2), "payments_per_second": round(payments / seconds, 1)}


def latency(out: Path, server: KinesisLocal, payments: int, rate: float, poll_ms: int) -> dict[str, Any]:
    """Percentiles from a payment's arrival to its decision's."""
    flow = Flow(out, server, f"latency-{poll_ms}", poll_ms)
    load = Load(client_at(server.endpoint), flow.streams["transactions"], rate, 1, lambda: 1 << 62)
    with flow:
        load._put([load._payment(10**6)])  # noqa: SLF001 - so that it is ready
        flow.wait(1)
        load.start()
        time.sleep(payments / rate)
        load.end()
        flow.wait(load.sent.total())
    put, decided = flow.arrivals_ms("transactions"), flow.arrivals_ms("decisions")
    found = sorted(decided[name] - put[name] for name in put if name != f"T{10**6}")
    told: dict[str, Any] = {"poll_ms": poll_ms, "payments": len(found), "rate": rate}
    return told | {
        f"p{share}_ms": round(found[min(len(found) - 1, len(found) * share // 100)]) for share in (50, 90, 99)
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure; returns 0, or 2 when something could not be started."""
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.bench_kinesis",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--payments", type=int, default=1_000, help="for throughput; a fifth of them for latency")
    parser.add_argument("--rate", type=float, default=10.0, help="payments a second for latency")
    parser.add_argument("--out", type=Path, default=Path("bench-out/kinesis"))
    given = parser.parse_args(arguments)
    out: Path = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ.update(CREDENTIALS)
    try:
        with KinesisLocal(out / "kinesis") as server:
            found: dict[str, Any] = {"throughput": throughput(out, server, given.payments), "latency": []}
            for poll_ms in _POLLS_MS:
                found["latency"].append(latency(out, server, given.payments // 5, given.rate, poll_ms))
    except KinesisError as error:
        print(f"bench_kinesis: {error}", file=sys.stderr)
        return 2
    text = orjson.dumps(found, option=orjson.OPT_INDENT_2).decode()
    (out / "figures.json").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
