"""The writer of a stream: each record once and those of a key in order, whatever PutRecords answers."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator

import pytest

from flows.kinesis_client import KinesisWatch
from flows.kinesis_put import Put, Putter
from flows.live_hooks import NoHooks
from load_tests.kinesis_local import KinesisLocal, Tail, client_at, merge, split
from tests.flows.kinesis_node import kinesis
from tests.flows.kinesis_proxy import Proxy, every, fault, proxied, some_refused

__all__ = ["kinesis"]

THROTTLE = "ProvisionedThroughputExceededException"


@pytest.fixture
def proxy(kinesis: KinesisLocal) -> Iterator[Proxy]:
    with proxied(kinesis.endpoint) as found:
        yield found


class Writer:
    """Puts numbered records under a few keys, and looks at what stands in the stream."""

    def __init__(self, server: KinesisLocal, proxy: Proxy, shards: int = 2) -> None:
        self.name = f"put-{uuid.uuid4().hex[:8]}"
        server.make(self.name, shards)
        self.client = server.client
        self.watch = KinesisWatch("outputs", self.name, NoHooks())
        self.stood: list[Put] = []
        self.putter = Putter(client_at(proxy.endpoint), self.name, self.name, self.watch, self.stood.append)
        self.sent: dict[str, list[bytes]] = {}

    def put(self, number: int, keys: int = 6, seed: int = 1) -> None:
        rng = random.Random(seed)
        for _ in range(number):
            key = f"key-{rng.randrange(keys)}"
            mine = self.sent.setdefault(key, [])
            # Of a key two records in a row may be equal, as answers to two retries are.
            data = mine[-1] if mine and rng.random() < 0.2 else f"{key}/{len(mine)}".encode()
            mine.append(data)
            self.putter.put(Put("decisions", key, key, data, None))

    def wait(self, within_s: float = 60.0) -> None:
        until = time.monotonic() + within_s
        while len(self.stood) < sum(map(len, self.sent.values())):
            self.watch.check()
            assert time.monotonic() < until, f"{len(self.stood)} stand after {within_s} s"
            time.sleep(0.05)

    def check(self) -> None:
        """Shards in the order of their making: of a key's the parents come before the children."""
        by_shard: dict[tuple[int, str], list[bytes]] = {}
        for number, record in Tail(self.client, self.name).look():
            by_shard.setdefault((number, record["PartitionKey"]), []).append(record["Data"])
        for key, records in self.sent.items():
            joined = [one for (_, name), held in sorted(by_shard.items()) if name == key for one in held]
            assert joined == records, key


@pytest.mark.parametrize(
    "rule",
    [
        some_refused(THROTTLE, lambda number: number % 3 == 0),
        some_refused("InternalFailure", lambda number: number % 19 == 5),
        every(3, fault(THROTTLE)),
        every(3, None, after=True),
        every(3, None),
        every(3, fault("InternalFailure", 500), after=True),
    ],
    ids=["some throttled", "some failed", "throttled", "lost answer", "lost request", "failed but done"],
)
def test_what_putrecords_refuses_loses_or_does_in_secret_stands_once_and_in_order(
    kinesis: KinesisLocal, proxy: Proxy, rule: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.kinesis_put._SETTLE_S", 0.05)
    writer = Writer(kinesis, proxy)
    proxy.rules["PutRecords"] = rule  # type: ignore[assignment]  # a Rule, parametrised
    writer.put(60)
    writer.wait()
    writer.putter.end()
    writer.check()


def test_shards_that_are_split_and_merged_meanwhile_take_each_keys_records_in_order(
    kinesis: KinesisLocal, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.kinesis_put._SETTLE_S", 0.05)
    writer = Writer(kinesis, proxy)
    proxy.rules["PutRecords"] = every(4, None, after=True)
    for turn, reshard in enumerate((split, merge, split)):
        writer.put(20, seed=turn)
        reshard(writer.client, writer.name)
    writer.wait()
    writer.putter.end()
    writer.check()


def test_what_an_epoch_hands_over_stands_behind_that_of_the_one_before_in_every_shard(
    kinesis: KinesisLocal, proxy: Proxy
) -> None:
    writer = Writer(kinesis, proxy)
    proxy.rules["PutRecords"] = some_refused(THROTTLE, lambda number: number % 4 == 0)
    for epoch in range(3):
        for number in range(12):
            key = f"{number}-{epoch}"  # keys of their own, so that nothing but the epoch orders them
            writer.sent[key] = [str(epoch).encode()]
            writer.putter.put(Put("decisions", key, key, str(epoch).encode(), None))
        writer.putter.epoch_ends()
    writer.wait()
    writer.putter.end()
    for shard in (0, 1):
        found = [record["Data"] for number, record in Tail(writer.client, writer.name).look() if number == shard]
        assert found == sorted(found)
    writer.check()


def test_a_denied_write_ends_the_run_and_says_what_to_grant(kinesis: KinesisLocal, proxy: Proxy) -> None:
    writer = Writer(kinesis, proxy, shards=1)
    proxy.rules["PutRecords"] = lambda _request, _ask: fault("AccessDeniedException")
    writer.put(1)
    with pytest.raises(Exception, match=r"AccessDeniedException: .*deploy/iam/"):
        writer.wait()
    assert not writer.stood
