"""What a stopped process does when it wakes and its state has been taken on elsewhere: measured, in either mode.

    python -m load_tests.zombie --out zombie-out [--transactional]

`weir decide` decides under steady load over a Kafka of its own and is stopped (SIGSTOP). A copy of its state folder is
started, as it would be on another host, where none of the first one's locks are seen; some seconds later the first
one goes on (SIGCONT) beside it. A plain consumer counts. With --transactional the broker fences the first one: it must
end with exit code 2, and nothing may be twice or contradicted (exit code 0 here). Without, both decide, and the
figures say what that costs (docs/adr/0015): a start elsewhere must know the old host to be down. On one host, on one
folder, no second start is let in (`make chaos-live`, the fault "stop").
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from load_tests.campaign.live_cluster import START_S, ClusterError, LiveCluster, wait_for
from load_tests.campaign.live_count import Count, Reader
from load_tests.campaign.live_load import Load
from load_tests.chaos_live import PROFILE
from load_tests.kafka_broker import BrokerError, KafkaBroker
from load_tests.live import ROOT, TOPICS, traffic, weir

REFUSED: Final = 2
_END_S: Final = 60.0
_DRAIN_S: Final = 120.0


def write_config(path: Path, bootstrap: str, state: Path, port: int, *, transactional: bool) -> Path:
    """weir.toml of one of the two."""
    streams = "\n".join(f'{name} = "kafka://{bootstrap}/{topic}"' for name, topic in TOPICS.items())
    path.write_text(
        f'profile = "{PROFILE}"\n[streams]\n{streams}\n[wire]\nformat = "json"\n'
        f'[state]\nfolder = "{state}"\nshards = 4\n[decide]\nepoch = "0.3s"\n'
        f"transactional = {str(transactional).lower()}\n[metrics]\nport = {port}\n"
        '[log]\nformat = "text"\n'
    )
    return path


def run(given: argparse.Namespace) -> tuple[Count, int | None]:
    """Play it through; what was counted, and with what code the first process ended: None, it went on.

    Raises:
        BrokerError: Kafka cannot be had.
        ClusterError: A flow did not do what was expected.
    """
    out: Path = given.out.resolve()
    for old in ("kafka", "state", "copy", "logs"):
        shutil.rmtree(out / old, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        broker = stack.enter_context(KafkaBroker(out / "kafka"))
        apply = weir("topics", "apply", "--brokers", broker.bootstrap, "--partitions", "3", "--replicas", "1")
        subprocess.run([*apply, "--min-in-sync", "1"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        flows = []
        for number, name in enumerate(("state", "copy")):
            port = given.metrics_port + number
            config = out / f"{name}.toml"
            write_config(config, broker.bootstrap, out / name, port, transactional=given.transactional)
            flows.append(LiveCluster(config, config, out / "logs" / name, port, None))
            stack.callback(flows[-1].kill)
        first, second = flows
        load = Load(broker.bootstrap, TOPICS, list(traffic(out, given.payments, 7)), given.rate, 1)
        stack.callback(load.end)
        isolation = "read_committed" if given.transactional else "read_uncommitted"
        reader = Reader(broker.bootstrap, TOPICS["decisions"], TOPICS["dead_letters"], isolation)
        stack.callback(reader.close)

        def more(than: int) -> bool:
            reader.look()
            return reader.decided > than

        first.start(1)
        first.wait_ready()
        load.start()
        wait_for(lambda: more(100), START_S, "decisions", first.told)
        (zombie,) = first.processes
        zombie.send_signal(signal.SIGSTOP)
        shutil.copytree(out / "state", out / "copy", ignore=shutil.ignore_patterns("*.sock"))
        second.start(1)
        second.wait_ready()
        before = reader.decided
        wait_for(lambda: more(before + 100), START_S, "decisions of the copy", second.told)
        zombie.send_signal(signal.SIGCONT)
        time.sleep(given.seconds)
        load.end()
        code = zombie.wait(_END_S) if given.transactional else zombie.poll()
        sent = load.sent.total()
        wait_for(lambda: more(sent - 1), _DRAIN_S, f"{sent} decisions and answers", second.told)
        first.kill()
        second.stop()
        reader.look()
        return reader.count(load.sent, at_end=True), code


def main(words: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.zombie", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("zombie-out"))
    parser.add_argument("--transactional", action="store_true")
    parser.add_argument("--rate", type=float, default=100.0, help="events a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="both run so long")
    parser.add_argument("--payments", type=int, default=5_000, help="of the traffic, which is then repeated")
    parser.add_argument("--metrics-port", type=int, default=9584)
    given = parser.parse_args(words)
    try:
        count, code = run(given)
    except (BrokerError, ClusterError, subprocess.SubprocessError) as error:
        print(f"zombie: {error}", file=sys.stderr)
        return 2
    went = "went on" if code is None else f"ended with {code}"
    print(f"{'transactional' if given.transactional else 'default'} mode: the first process {went}; {count}")
    return 0 if count.clean and (code == REFUSED or not given.transactional) else 1


if __name__ == "__main__":
    raise SystemExit(main())
