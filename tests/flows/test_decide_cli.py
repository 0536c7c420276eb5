"""`weir decide` against a real broker: JSON and Avro, metrics, retries, a stop in order, a restart."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from flows.metrics_server import help_text
from schemas.codec import decode_json_mapping, read_avro
from schemas.metrics import METRICS
from schemas.wire_avro import FINGERPRINT_HEADER, FingerprintEncoder
from tests.flows.test_live_process import free_ports
from tests.flows.traffic import write_events, write_profile
from tests.kafka import make_topic, read_all, send

STREAMS = ("transactions", "device_events", "identity_events", "labelled_outcomes", "decisions", "dead_letters")
WAIT_S = 90.0
TRACE = ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")  # W3C: version, trace, span, flags


class Decide:
    """A weir.toml over topics of a test's own, and the process that runs by it."""

    def __init__(self, bootstrap: str, directory: Path, wire: str) -> None:
        self.bootstrap = bootstrap
        self.wire = wire
        self.port = free_ports(1)
        self.topics = {name: make_topic(bootstrap, name, 2) for name in STREAMS}
        write_profile(directory / "profile")
        streams = "\n".join(f'{name} = "kafka://{bootstrap}/{topic}"' for name, topic in self.topics.items())
        self.path = directory / "weir.toml"
        self.path.write_text(
            f'profile = "profile"\n[streams]\n{streams}\n[wire]\nformat = "{wire}"\nheaders = ["traceparent"]\n'
            f'[state]\nfolder = "state"\nshards = 4\n[decide]\nepoch = "200ms"\n[metrics]\nport = {self.port}\n'
            '[log]\nformat = "json"\n'
        )

    def start(self) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "flows.cli", "decide", "--config", str(self.path)]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def feed(self, payments: list[dict[str, Any]]) -> None:
        """Append payments; in Avro with the header that names their schema."""
        for one in payments:
            line = orjson.dumps(one)
            key = one["account_id"].encode()
            if self.wire == "json":
                send(self.bootstrap, self.topics["transactions"], [(key, line)], headers=[TRACE])
            else:
                value, headers = FingerprintEncoder()("transaction", decode_json_mapping("transaction", line))
                send(self.bootstrap, self.topics["transactions"], [(key, value)], headers=headers)

    def decisions(self) -> list[dict[str, Any]]:
        found = []
        for message in read_all(self.bootstrap, self.topics["decisions"]):
            value = message.value()
            assert value is not None
            if self.wire == "json":
                found.append(orjson.loads(value))
            else:
                told: Any = message.headers()
                assert FINGERPRINT_HEADER in dict(told)
                found.append(read_avro("decision", value))
        return found

    def scrape(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
            return text


def check_catalogue(scraped: str) -> None:
    """Every metric of the catalogue is there, with its help, unit and kind, and nothing else of ours."""
    families = {family.name: family for family in text_string_to_metric_families(scraped)}
    for metric in METRICS:
        family = families.pop(metric.name.removesuffix("_total"))
        assert family.documentation == help_text(metric)
        assert f"Unit: {metric.unit}." in family.documentation
        assert family.type == ("gauge" if metric.kind == "info" else metric.kind)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)
    assert [name for name in families if name.startswith("weir_")] == []


def wait_until(process: subprocess.Popen[str], holds: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.2)


def ended(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, errors


@pytest.mark.parametrize("wire", ["json", "avro"])
def test_payments_are_decided_by_weir_toml_and_retries_answered_after_a_restart(
    kafka: str, tmp_path: Path, wire: str
) -> None:
    events = write_events(tmp_path / "events", payments=40)
    lines = (events / "transactions.jsonl").read_bytes().splitlines()
    payments = [one for one in map(_loads, lines) if one is not None and "account_id" in one]
    unique = list({one["transaction_id"]: one for one in payments}.values())[:30]
    decide = Decide(kafka, tmp_path, wire)
    process = decide.start()
    try:
        decide.feed(unique)
        wait_until(process, lambda: len(decide.decisions()) >= len(unique))
        scraped = decide.scrape()
        total = sum(float(one) for one in re.findall(r"^weir_payments_decided_total\{[^}]*\} (\S+)", scraped, re.M))
        assert total == len(unique)
        assert f'weir_events_read_total{{contract="transaction"}} {len(unique)}.0' in scraped
        assert re.search(r"^weir_state_disk_bytes [1-9]", scraped, re.M)
        assert f'weir_records_published_total{{output="decisions"}} {len(unique)}.0' in scraped
        check_catalogue(scraped)
        ended(process)
        before = {one["transaction_id"]: one for one in decide.decisions()}
        assert set(before) == {one["transaction_id"] for one in unique}

        process = decide.start()
        decide.feed(unique[:3])
        wait_until(process, lambda: len(decide.decisions()) >= len(unique) + 3)
        ended(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    answers = [one for one in decide.decisions() if one["duplicate"]]
    assert {one["transaction_id"] for one in answers} == {one["transaction_id"] for one in unique[:3]}
    for one in answers:
        assert {**one, "duplicate": False} == before[one["transaction_id"]]
    for one in before.values():
        assert one["decided_at"] >= one["ingested_at"]
        if wire == "json":
            assert one["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"


def _loads(line: bytes) -> dict[str, Any] | None:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None
