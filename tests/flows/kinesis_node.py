"""A stand-in for Kinesis for tests, one a session; and live flows over streams of a test's own.

A test that needs it skips, with the reason, where none can be had; with `kinesis` among the words of WEIR_REQUIRE it
fails instead.
"""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from load_tests.kinesis_local import CREDENTIALS, KinesisError, KinesisLocal, Tail
from tests.flows.kinesis_proxy import Proxy, proxied
from tests.flows.live import STREAMS, Live, account_of
from tests.flows.traffic import payment

OUTPUTS = ("decisions", "dead_letters")


@pytest.fixture(scope="session")
def kinesis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KinesisLocal]:
    """A stand-in that all tests of this process share; credentials for it stand in the environment."""
    server = KinesisLocal(tmp_path_factory.mktemp("kinesis"))
    try:
        server.start()
    except KinesisError as error:
        if "kinesis" in os.environ.get("WEIR_REQUIRE", "").replace(",", " ").split():
            pytest.fail(str(error))
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield server
    server.kill()


@pytest.fixture
def proxy(kinesis: KinesisLocal) -> Iterator[Proxy]:
    """Before the stand-in; it does as AWS does on a good day until a test says otherwise."""
    with proxied(kinesis.endpoint) as found:
        yield found


FEATURES = """
id = "kinesis-1"
base_currency = "EUR"

[entities.account]
key = "account_id"
windows = ["24h"]
amount = ["count"]
"""
POLICY = """
id = "kinesis"
version = "1"
thresholds = { challenge = 0.5, review = 0.7, decline = 0.9 }
"""


def small_profile(directory: Path) -> Path:
    """A profile with small decisions: the stand-in takes milliseconds for a kilobyte."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "features.toml").write_text(FEATURES)
    (directory / "policy.toml").write_text(POLICY)
    return directory


class KinesisLive(Live):
    """A live flow whose inputs and outputs are streams of Kinesis; `endpoint` may be a proxy's."""

    def __init__(
        self,
        server: KinesisLocal,
        directory: Path,
        profile: Path,
        shards: int = 1,
        endpoint: str | None = None,
        inputs: tuple[str, ...] = STREAMS,
        output_shards: int | None = None,
        **told: Any,
    ) -> None:
        self.server = server
        self.client = server.client
        self.directory = directory
        self._tails: dict[str, Tail] = {}
        self.topics = {name: f"{name}-{uuid.uuid4().hex[:8]}" for name in (*inputs, *OUTPUTS)}
        for stream, name in self.topics.items():
            server.make(name, output_shards or shards if stream in OUTPUTS else shards)

        def url(name: str) -> str:
            return server.url(self.topics[name]).replace(server.endpoint, endpoint or server.endpoint)

        self.told = {
            "profile": str(profile),
            "state": str(directory / "state"),
            "inputs": {name: url(name) for name in inputs},
            "outputs": {name: url(name) for name in OUTPUTS},
            **told,
        }

    def feed(self, events: Path) -> None:
        for name in ("identity_events", "device_events", "transactions"):
            self.put(name, (events / f"{name}.jsonl").read_bytes().splitlines())

    def put(self, stream: str, lines: list[bytes]) -> None:
        """Append records, each alone, so that their order is known."""
        for first in range(0, len(lines), 500):
            records = [
                {"Data": line, "PartitionKey": (account_of(line) or b"-").decode()}
                for line in lines[first : first + 500]
            ]
            answer = self.client.put_records(StreamName=self.topics[stream], Records=records)
            assert not answer["FailedRecordCount"]

    def read(self, stream: str) -> list[dict[str, Any]]:
        tail = self._tails.setdefault(stream, Tail(self.client, self.topics[stream]))
        return [orjson.loads(record["Data"]) for _, record in tail.look()]

    def decisions(self) -> list[dict[str, Any]]:
        return self.read("decisions")

    def dead_letters(self) -> list[dict[str, Any]]:
        return self.read("dead_letters")


class KinesisFeed:
    """Payments of few accounts, some of them retried, put from a thread at a steady rate until `end`.

    Attributes:
        sent: transaction_id -> how often it was sent.
        order: account_id -> its transactions in the order of their sending, retries left out.
        most: Payments sent at the most; a test raises it as it goes, since the stand-in is slow and machines may be.
    """

    def __init__(self, live: KinesisLive, rate: float = 25.0, seed: int = 1, accounts: int = 8) -> None:
        self.most = 40
        self.sent: dict[str, int] = {}
        self.order: dict[str, list[str]] = {}
        self._live = live
        self._rate = rate
        self._rng = random.Random(seed)
        self._first = seed * 1_000_000
        self._accounts = accounts
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> KinesisFeed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Put no more; all that was put stands in the stream then."""
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        rng, made = self._rng, 0
        earlier: list[dict[str, Any]] = []
        began = time.monotonic()
        while not self._done.is_set():
            due = min(self.most, int((time.monotonic() - began) * self._rate))
            batch: list[dict[str, Any]] = []
            while made < due and len(batch) < 400:
                record = payment(rng, self._first + made, datetime.now(UTC))
                record["account_id"] = f"A{rng.randrange(self._accounts)}"
                record["payment_type"] = "purchase"  # others do not count
                made += 1
                earlier.append(record)
                self.order.setdefault(record["account_id"], []).append(record["transaction_id"])
                batch += [record, *([rng.choice(earlier[-300:])] if rng.random() < 0.05 else [])]
            if batch:
                self._live.put("transactions", [orjson.dumps(record) for record in batch])
                for record in batch:
                    name = record["transaction_id"]
                    self.sent[name] = self.sent.get(name, 0) + 1
            self._done.wait(0.1)


def check_order(decisions: list[dict[str, Any]], order: dict[str, list[str]]) -> None:
    """Each account's payments were decided in the order in which they were put, as its count of payments tells."""
    counted: dict[str, list[tuple[float, str]]] = {}
    for decision in decisions:
        if not decision["duplicate"]:
            found = decision["features"]["account.count_24h"]
            counted.setdefault(decision["account_id"], []).append((found, decision["transaction_id"]))
    for account, names in order.items():
        found = sorted(counted.get(account, []))
        assert [count for count, _ in found] == list(range(1, len(names) + 1)), account
        assert [name for _, name in found] == names, account


def all_decided(live: KinesisLive, sent: dict[str, int]) -> bool:
    """Whether as many decisions and answers stand in the stream as payments were put."""
    return len(live.decisions()) >= sum(sent.values())
