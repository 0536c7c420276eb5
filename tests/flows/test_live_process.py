"""What stands around a live flow: its port, health, watchdog and place in the cluster, by weir.toml."""

from __future__ import annotations

import signal
import socket
import urllib.request
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from flows.config import Config, load_config
from flows.live_process import LiveProcess, Member, run_processes
from schemas.errors import ConfigError
from tests.flows.test_config import written
from tests.flows.traffic import write_profile


def free_ports(count: int) -> int:
    """A port behind which `count` ports are free now."""
    while True:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            first = int(one.getsockname()[1])
        try:
            for port in range(first, first + count):
                with socket.socket() as one:
                    one.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first


@pytest.fixture
def config(tmp_path: Path) -> Config:
    write_profile(tmp_path / "p")
    more = f'[metrics]\nport = {free_ports(2)}\n[log]\nformat = "json"\n'
    return load_config(written(tmp_path, more))


class Flow:
    """A flow that looks at its own metrics and ends."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.seen: LiveProcess | None = None
        self.text = ""

    def __call__(self, process: LiveProcess) -> None:
        self.seen = process
        process.metrics.broker_error("inputs", "_TRANSPORT")
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            self.text = answer.read().decode()


def test_a_process_serves_metrics_and_tells_its_beginning_and_end(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    flow = Flow(config.metrics_port)
    assert run_processes(config, [], flow, None, None) == 0
    assert 'weir_broker_errors_total{error="_TRANSPORT",side="inputs"} 1.0' in flow.text
    assert "weir_feature_set_info{" in flow.text
    assert flow.seen is not None
    assert flow.seen.member is None
    events = [orjson.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [one["event"] for one in events] == ["started", "stopped"]
    assert events[0]["metrics_port"] == config.metrics_port
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{config.metrics_port}/metrics", timeout=10)


def test_a_member_of_a_cluster_over_hosts_has_its_own_port_and_number(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    addresses = ("a.example:7000", "b.example:7000")
    flow = Flow(config.metrics_port + 1)
    assert run_processes(replace(config, processes=2, addresses=addresses), [], flow, 1, None) == 0
    assert flow.seen is not None
    assert flow.seen.member == Member(1, addresses)
    assert orjson.loads(capsys.readouterr().err.splitlines()[0])["process"] == 1


def test_a_signal_asks_the_flow_to_stop(config: Config) -> None:
    def flow(process: LiveProcess) -> None:
        signal.raise_signal(signal.SIGTERM)
        assert process.run.stop.wait(10)

    assert run_processes(replace(config, metrics_port=0), [], flow, None, None) == 0


@pytest.mark.parametrize(
    ("addresses", "process", "match"),
    [
        (("a:1", "b:1"), None, "names 2 processes; expected --process 0 to 1"),
        (("a:1", "b:1"), 2, "--process 2: expected 0 to 1"),
        ((), 0, "--process 0: expected cluster.addresses in .*weir.toml, found none"),
    ],
)
def test_a_process_that_has_no_place_is_refused(
    config: Config, addresses: tuple[str, ...], process: int | None, match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        run_processes(replace(config, addresses=addresses), [], Flow(0), process, None)
