"""The learning loop as users run it, for tests: `weir decide` and `weir learn` by one weir.toml over a real Kafka."""

from __future__ import annotations

import base64
import random
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from typer.testing import CliRunner

from flows.cli import app
from flows.config import load_config
from flows.decide_live import wire_of
from schemas.codec import decode_json_mapping
from tests.flows.live import STARTED
from tests.flows.test_live_process import free_ports
from tests.flows.traffic import payment, write_profile
from tests.kafka import make_topic, read_all, send

STREAMS = (
    "transactions",
    "device_events",
    "identity_events",
    "outcomes",
    "labelled_outcomes",
    "decisions",
    "dead_letters",
)
SECRET = base64.b64encode(bytes(range(32))).decode()


class Loop:
    """A weir.toml over topics of a test's own, and the processes that run by it."""

    def __init__(
        self,
        bootstrap: str,
        directory: Path,
        wire: str = "json",
        announce: str = "champion",
        learning: str = "",
        max_mib: int = 64,
        *,
        blind: bool = False,
    ) -> None:
        """Make topics and files.

        Args:
            bootstrap: The broker.
            directory: For all files.
            wire: Form of the records.
            announce: What releases may do.
            learning: More of learning.toml.
            max_mib: Of artefacts.
            blind: The declared champion knows the hour only, and so next to nothing.
        """
        self.bootstrap = bootstrap
        self.directory = directory
        self.topics = {name: make_topic(bootstrap, name, 1) for name in STREAMS}
        self.topics["alerts"] = make_topic(bootstrap, "alerts", 1)
        self.topics["models"] = make_topic(bootstrap, "models", 1, {"cleanup.policy": "compact"})
        self.profile = write_profile(directory / "profile")
        told = (self.profile / "learning.toml").read_text()
        for one, other in (('"1h"', '"1s"'), ('"6h"', '"3s"'), ("min_labels = 50", "min_labels = 20")):
            told = told.replace(one, other)
        if blind:
            told = told.replace('"amount", "account.count_1h", "merchant.fraud_rate_24h"', '"account.count_1h"')
            told = told.replace('crosses = [["amount", "account.count_1h"]]', "")
        (self.profile / "learning.toml").write_text(f"{told}\n{learning}")
        (directory / "keys.toml").write_text(f'active = "k1"\n[keys.k1]\nsecret = "{SECRET}"\n')
        self.ports = {"decide": free_ports(1), "learn": free_ports(1)}
        streams = "\n".join(f'{name} = "kafka://{bootstrap}/{topic}"' for name, topic in self.topics.items())
        self.path = directory / "weir.toml"
        self.path.write_text(
            f'profile = "profile"\n[streams]\n{streams}\n[wire]\nformat = "{wire}"\n'
            f'[state]\nfolder = "state"\nshards = 4\n[decide]\nepoch = "200ms"\n'
            f'[models]\nartefacts = "file://{directory}/artefacts"\nkeys_file = "keys.toml"\nmax_mib = {max_mib}\n'
            f'[learn]\nepoch = "300ms"\nsettle = "300ms"\nrelease_every = "1s"\nannounce = "{announce}"\n'
            f"metrics_port = {self.ports['learn']}\n"
            f'[metrics]\nport = {self.ports["decide"]}\n[log]\nformat = "json"\n'
        )
        self._rng = random.Random(3)
        self._number = 0
        config = load_config(self.path)
        read = ("decisions", "labelled_outcomes", "models", "alerts")
        self._decoders, self.encoder = wire_of(config.wire, dict.fromkeys(read, ""), ())

    def start(self, command: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "flows.cli", command, "--config", str(self.path)]
        log = (self.directory / f"{command}.log").open("a")
        started = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=log, text=True, start_new_session=True)
        log.close()
        STARTED.append(started)
        return started

    def log(self, command: str) -> str:
        return (self.directory / f"{command}.log").read_text()

    def pay(self, count: int, **fixed: Any) -> list[dict[str, Any]]:
        """Send payments that happen now; returns them."""
        sent = []
        for _ in range(count):
            sent.append({**payment(self._rng, self._number, datetime.now(UTC)), "payment_type": "purchase", **fixed})
            self._number += 1
        self._send("transactions", "transaction", "account_id", sent)
        return sent

    def tell(self, payments: list[dict[str, Any]], label: str = "fraud", source: str = "chargeback") -> None:
        """Send an outcome for each payment."""
        told = [
            {
                "outcome_id": f"O-{one['transaction_id']}-{label}",
                "event_time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                "transaction_id": one["transaction_id"],
                "label": label,
                "source": source,
            }
            for one in payments
        ]
        self._send("outcomes", "outcome", "transaction_id", told)

    def _send(self, stream: str, contract: str, key: str, records: list[dict[str, Any]]) -> None:
        lines = []
        headers: list[tuple[str, bytes]] = []
        for one in records:
            value, headers = self.encoder(contract, decode_json_mapping(contract, orjson.dumps(one)))
            lines.append((one[key].encode(), value))
        send(self.bootstrap, self.topics[stream], lines, headers=headers or None)

    def read(self, stream: str, contract: str) -> list[dict[str, Any]]:
        """All records of a topic; times in microseconds."""
        found = []
        for message in read_all(self.bootstrap, self.topics[stream]):
            headers: Any = message.headers() or []
            payload = self._decoders[stream](message.value() or b"", headers)
            found.append(decode_json_mapping(contract, payload) if isinstance(payload, bytes) else payload)
        return found

    def decisions(self) -> dict[str, dict[str, Any]]:
        return {one["transaction_id"]: one for one in self.read("decisions", "decision")}

    def decided(self, payments: list[dict[str, Any]]) -> Callable[[], bool]:
        names = {one["transaction_id"] for one in payments}
        return lambda: names <= self.decisions().keys()

    def releases(self) -> list[dict[str, Any]]:
        return self.read("models", "model_release")

    def weir(self, *words: str) -> str:
        """Output of a `weir models` command."""
        result = CliRunner().invoke(app, ["models", *words, "--config", str(self.path)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    def metric(self, process: str, name: str) -> list[str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[process]}/metrics") as answer:
            text = answer.read().decode()
        return [line for line in text.splitlines() if line.startswith(name)]

    def artefacts(self) -> Path:
        return self.directory / "artefacts"
