"""The writer of a stream: each record once and those of a key in order, whatever PutRecords answers."""

from __future__ import annotations

import base64
import itertools
import random
import time
import uuid
from collections import Counter
from typing import Any

import pytest

from flows.kinesis_client import KinesisWatch
from flows.kinesis_put import MOST_RECORD_BYTES, Put, Putter
from flows.live_hooks import NoHooks
from load_tests.kinesis_local import KinesisLocal, Tail, client_at, merge, split
from tests.flows.kinesis_node import kinesis, proxy
from tests.flows.kinesis_proxy import Answer, Ask, Proxy, every, fault, some_refused

__all__ = ["kinesis", "proxy"]

THROTTLE = "ProvisionedThroughputExceededException"


class _Errors(NoHooks):
    def __init__(self, found: Counter[str]) -> None:
        self._found = found

    def broker_error(self, side: str, error: str) -> None:
        self._found[error] += 1


class Taken:
    """Takes what is put without a stand-in, which would take a second a megabyte; keeps each request's sizes."""

    def __init__(self) -> None:
        self.requests: list[list[int]] = []
        self._numbers = itertools.count(1)

    def __call__(self, request: dict[str, Any], _ask: Ask) -> Answer:
        told = [(one["PartitionKey"], base64.b64decode(one["Data"])) for one in request["Records"]]
        self.requests.append([len(key) + len(data) for key, data in told])
        stood = [{"SequenceNumber": str(next(self._numbers)), "ShardId": "shardId-000000000000"} for _ in told]
        return 200, {"FailedRecordCount": 0, "Records": stood}


class Writer:
    """Puts numbered records under a few keys, and looks at what stands in the stream."""

    def __init__(self, server: KinesisLocal, proxy: Proxy, shards: int = 2) -> None:
        self.name = f"put-{uuid.uuid4().hex[:8]}"
        server.make(self.name, shards)
        self.client = server.client
        self.errors: Counter[str] = Counter()
        self.watch = KinesisWatch("outputs", self.name, _Errors(self.errors))
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


def _at_once(writer: Writer, sizes: list[int]) -> None:
    """Hand records of other keys over, so that all of them are there when the first request is cut."""
    with writer.putter._lock:
        for number, size in enumerate(sizes):
            key = f"k{number:04d}"
            writer.sent[key] = [bytes(size - len(key))]
            writer.putter.put(Put("decisions", key, key, writer.sent[key][0], None))


def test_a_request_takes_500_records_at_the_most(kinesis: KinesisLocal, proxy: Proxy) -> None:
    writer = Writer(kinesis, proxy, shards=1)
    proxy.rules["PutRecords"] = taken = Taken()
    _at_once(writer, [10] * 1_201)
    writer.wait()
    writer.putter.end()
    assert sorted(map(len, taken.requests)) == [201, 500, 500]


def test_a_request_takes_5_mib_at_the_most_keys_included(kinesis: KinesisLocal, proxy: Proxy) -> None:
    writer = Writer(kinesis, proxy, shards=1)
    proxy.rules["PutRecords"] = taken = Taken()
    limit = 5 << 20
    # Five of a MiB are the limit to the byte; what would be a byte above it goes with the next request.
    _at_once(writer, [MOST_RECORD_BYTES] * 5 + [MOST_RECORD_BYTES] * 4 + [MOST_RECORD_BYTES - 6, 7])
    writer.wait()
    writer.putter.end()
    assert sorted(map(sum, taken.requests)) == [7, limit - 6, limit]
    assert sorted(map(len, taken.requests)) == [1, 5, 5]


def test_a_record_of_the_largest_size_stands_in_the_stream(kinesis: KinesisLocal, proxy: Proxy) -> None:
    writer = Writer(kinesis, proxy, shards=1)
    _at_once(writer, [MOST_RECORD_BYTES])
    writer.wait()
    writer.putter.end()
    writer.check()


def test_a_part_of_a_request_that_is_throttled_counts_as_an_error_of_that_name(
    kinesis: KinesisLocal, proxy: Proxy
) -> None:
    writer = Writer(kinesis, proxy, shards=1)
    proxy.rules["PutRecords"] = some_refused(THROTTLE, lambda number: number == 2)
    _at_once(writer, [10] * 4)
    writer.wait()
    writer.putter.end()
    assert writer.errors == {THROTTLE: 1}
