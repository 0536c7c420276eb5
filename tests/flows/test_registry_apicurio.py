"""Contracts on the wire with a real schema registry: Apicurio, by its Confluent-compatible API."""

from __future__ import annotations

import copy
import io
import json
import random
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fastavro
import orjson
import pytest
import urllib3
from typer.testing import CliRunner

from flows.contracts_cli import contracts_app, published_form, subject_of
from flows.registry import Registry, RegistryConfig
from load_tests.registry import ApicurioRegistry
from schemas.codec import CONTRACTS, decode_json_mapping
from schemas.errors import ConfigError, StreamError
from schemas.wire_avro import FramedDecoder, FramedEncoder
from tests.flows.test_decide_cli import Decide, ended, wait_until
from tests.flows.traffic import payment
from tests.kafka import read_all, send
from tests.registry import apicurio, started
from tests.schemas.test_codec import OURS, with_nulls

__all__ = ["apicurio"]


def _asked(url: str) -> Any:
    """As anybody's client would ask."""
    return urllib3.request("GET", url, timeout=10.0).json()


def _with_field(name: str, field: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = copy.deepcopy(published_form(name))
    schema["fields"].append(field)
    return schema


def test_contracts_are_registered_once_looked_up_by_id_and_kept_when_the_registry_is_gone(tmp_path: Path) -> None:
    server = started(ApicurioRegistry(tmp_path))
    try:
        runner = CliRunner()
        done = runner.invoke(contracts_app, ["register", "--registry", server.url])
        assert done.exit_code == 0, done.output
        again = runner.invoke(contracts_app, ["register", "--registry", server.url])
        assert again.output == done.output
        checked = runner.invoke(contracts_app, ["check", "--registry", server.url])
        assert checked.exit_code == 0, checked.output
        assert sorted(_asked(f"{server.url}/subjects")) == sorted(subject_of(name) for name in CONTRACTS)
        registry = Registry(RegistryConfig(server.url, attempts=2, pause_s=0.01))
        ids = {name: registry.register(subject_of(name), published_form(name)) for name in CONTRACTS}
        decoders = {name: FramedDecoder(name, registry) for name in CONTRACTS}
        for name in CONTRACTS:
            value, headers = FramedEncoder(ids)(name, OURS[name])
            assert decoders[name](value, headers) == with_nulls(name)
        assert registry.schema(999_999) is None
    finally:
        server.stop()
    for name in CONTRACTS:  # known ids are not asked for again
        value, headers = FramedEncoder(ids)(name, OURS[name])
        assert FramedDecoder(name, registry)(value, headers) == with_nulls(name)
    with pytest.raises(StreamError, match="no answer after 2 attempts"):
        registry.schema(999_998)


def test_what_breaks_readers_is_told_by_the_check_and_refused(
    apicurio: ApicurioRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = CliRunner()
    assert runner.invoke(contracts_app, ["register", "--registry", apicurio.url]).exit_code == 0
    registry = Registry(RegistryConfig(apicurio.url))
    broken = _with_field("alert", {"name": "needed", "type": "string"})
    assert registry.incompatible(subject_of("alert"), broken)
    with pytest.raises(ConfigError, match=r"alerts.v1-value/versions refused with 409"):
        registry.register(subject_of("alert"), broken)
    monkeypatch.setattr(
        "flows.contracts_cli.published_form", lambda name: broken if name == "alert" else published_form(name)
    )
    done = runner.invoke(contracts_app, ["check", "--registry", apicurio.url])
    assert isinstance(done.exception, ConfigError)
    assert "alert against the registry:" in str(done.exception)


def test_a_newer_writer_s_records_are_read(apicurio: ApicurioRegistry) -> None:
    registry = Registry(RegistryConfig(apicurio.url))
    registry.register(subject_of("outcome"), published_form("outcome"))
    newer = _with_field("outcome", {"name": "clerk", "type": ["null", "string"], "default": None})
    assert registry.incompatible(subject_of("outcome"), newer) == []
    number = registry.register(subject_of("outcome"), newer)
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(newer), {**OURS["outcome"], "clerk": "somebody"})
    value = b"\0" + number.to_bytes(4, "big") + out.getvalue()
    assert FramedDecoder("outcome", Registry(RegistryConfig(apicurio.url)))(value, []) == with_nulls("outcome")


class _Framed(Decide):
    """weir.toml with a registry; payments framed by whoever asks it, decisions read by its schemas alone."""

    def __init__(self, bootstrap: str, directory: Path, url: str) -> None:
        super().__init__(bootstrap, directory, "avro")
        self.url = url
        self.path.write_text(self.path.read_text().replace("[wire]", f'[wire]\nregistry = "{url}"'))
        registry = Registry(RegistryConfig(url))
        self._encode = FramedEncoder({"transaction": registry.register("payments", published_form("transaction"))})

    def framed(self, record: dict[str, Any]) -> bytes:
        return self._encode("transaction", decode_json_mapping("transaction", orjson.dumps(record)))[0]

    def decisions(self) -> list[dict[str, Any]]:
        return [self._read(message.value() or b"") for message in read_all(self.bootstrap, self.topics["decisions"])]

    def _read(self, value: bytes) -> dict[str, Any]:
        """By fastavro and the registry's answer; nothing of ours has a part in it."""
        assert value[0] == 0
        schema = json.loads(_asked(f"{self.url}/schemas/ids/{int.from_bytes(value[1:5], 'big')}")["schema"])
        found: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), fastavro.parse_schema(schema), None)
        return dict(found)


def test_framed_payments_are_decided_and_dead_letters_of_many_partitions_replayed(
    apicurio: ApicurioRegistry, kafka: str, tmp_path: Path
) -> None:
    decide = _Framed(kafka, tmp_path, apicurio.url)
    topic, dead = decide.topics["transactions"], decide.topics["dead_letters"]
    rng, now = random.Random(5), datetime.now(UTC)
    payments = [payment(rng, number, now) for number in range(8)]
    bad = payments[6:]
    process = decide.start()
    try:
        send(kafka, topic, [(one["account_id"].encode(), decide.framed(one)) for one in payments[:6]])
        for partition, one in enumerate(bad):  # of a schema that nobody knows
            value = decide.framed(one)
            send(kafka, topic, [(b"k", b"\0" + (777_777).to_bytes(4, "big") + value[5:])], partition=partition)
        wait_until(process, lambda: len(decide.decisions()) >= 6 and len(read_all(kafka, dead)) >= 2)
        assert {one["transaction_id"] for one in decide.decisions()} == {one["transaction_id"] for one in payments[:6]}

        def weir(*words: str) -> str:
            command = [sys.executable, "-m", "flows.cli", "dead-letters", *words, "--config", str(decide.path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
            assert done.returncode == 0, done.stderr
            return done.stdout

        letters = [orjson.loads(line) for line in weir("list", "--json").splitlines()]
        assert {(one["partition"], one["reason"]) for one in letters} == {
            (0, "UNKNOWN_CONTRACT"),
            (1, "UNKNOWN_CONTRACT"),
        }
        mended = tmp_path / "mended.jsonl"
        lines = [
            orjson.dumps(
                {**{name: one[name] for name in ("topic", "partition", "offset")}, "record": bad[one["partition"]]}
            )
            for one in letters
        ]
        mended.write_bytes(b"\n".join(lines))
        assert "2 sent and acknowledged" in weir("replay", "--mended", str(mended), "--yes")
        assert "0 to send" in weir("replay", "--yes")  # all were sent again
        wait_until(process, lambda: len(decide.decisions()) >= 8)
        ended(process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    assert sorted(one["transaction_id"] for one in decide.decisions()) == [one["transaction_id"] for one in payments]
