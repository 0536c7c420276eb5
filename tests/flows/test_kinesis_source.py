"""The reader of streams: every record once and those of a key in order, over reshards, resumes and what AWS does.

Long, because all tests share one scene of a stand-in, a proxy before it and a reader.
"""

from __future__ import annotations

import hashlib
import random
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.kafka_source import SourceState, merged_state
from flows.kinesis_prepare import KinesisQuestions
from flows.kinesis_records import deaggregate
from flows.kinesis_shards import FINISHED, FIRST, read_to_key
from flows.kinesis_source import KinesisReader
from flows.live_hooks import NoHooks
from flows.live_options import EARLIEST, LATEST, LiveOptions, Start
from flows.source import Run
from flows.streams import KinesisStream, parse_stream
from load_tests.kinesis_local import KinesisLocal, merge, open_shards, split
from schemas.errors import StreamError, StreamPositionError
from tests.flows.kinesis_node import kinesis, proxy
from tests.flows.kinesis_proxy import Answer, Ask, Proxy, aggregated, every, fault

__all__ = ["kinesis", "proxy"]

WAIT_S = 40.0


class Behind(NoHooks):
    """Keeps what is told of lag."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, int], float] = {}

    def behind(self, topic: str, partition: int, seconds: float) -> None:
        self.seconds[topic, partition] = seconds


class Scene:
    """A stream, and readers of it as the processes of a flow have them."""

    def __init__(self, server: KinesisLocal, endpoint: str, path: Path, shards: int = 1) -> None:
        self.name = f"in-{uuid.uuid4().hex[:8]}"
        server.make(self.name, shards)
        self.client = server.client
        url = server.url(self.name, 60).replace(server.endpoint, endpoint)
        stream = parse_stream("transactions", url)
        assert isinstance(stream, KinesisStream)
        self.stream = stream
        self.topic = stream.topic
        self.url = url
        self.path = path
        self.run = Run()
        self.hooks = Behind()
        self.committed: dict[str, SourceState] = {}
        self.sent: dict[str, list[bytes]] = {}
        self.read: dict[str, list[bytes]] = {}
        self.places: list[str] = []

    def options(self, number: int = 0, processes: int = 1) -> LiveOptions:
        process = (number, ("a:1",) * processes) if processes > 1 else None
        return LiveOptions(
            self.path, {"transactions": self.url}, {}, process=process, refresh_s=0.3, hooks=self.hooks, batch=7
        )

    def begun(self, start: Start = EARLIEST) -> SourceState:
        questions = KinesisQuestions("inputs", [self.stream], self.options(), self.run)
        return SourceState(offsets={self.topic: questions.began(self.topic, start)}, clock_us=0, sequence=0)

    def reader(self, start: SourceState, number: int = 0, processes: int = 1) -> KinesisReader:
        committed: Callable[[], Mapping[str, SourceState]] = lambda: self.committed  # noqa: E731
        return KinesisReader(self.options(number, processes), [self.stream], start, self.run, committed)

    def put(self, count: int, keys: int = 5) -> None:
        records = []
        for number in range(count):
            key = f"key-{number % keys}"
            mine = self.sent.setdefault(key, [])
            mine.append(f"{key}/{len(mine)}".encode())
            records.append({"Data": mine[-1], "PartitionKey": key})
        assert not self.client.put_records(StreamName=self.name, Records=records)["FailedRecordCount"]

    def step(self, reader: KinesisReader) -> int:
        """Take what is here, as `LiveIngest` does."""
        found = reader.messages(7)
        for record in found:
            reader.offsets[record.topic()][record.partition()] = record.offset() + 1
            self.read.setdefault(record.key().decode(), []).append(record.value())
            self.places.append(f"{record.partition()}/{record.offset()}")
        return len(found)

    def until(self, readers: list[KinesisReader], done: Callable[[], bool]) -> None:
        limit = time.monotonic() + WAIT_S
        while not done():
            assert time.monotonic() < limit, f"read {sum(map(len, self.read.values()))} records"
            if not sum([self.step(reader) for reader in readers]):
                time.sleep(0.005)

    def all_read(self) -> bool:
        return sum(map(len, self.read.values())) >= sum(map(len, self.sent.values()))

    def check(self) -> None:
        assert self.read == self.sent

    def saved(self, reader: KinesisReader) -> SourceState:
        reader.commit()
        offsets = {topic: dict(found) for topic, found in reader.offsets.items()}
        return SourceState(offsets=offsets, clock_us=0, sequence=0)


@pytest.fixture
def scene(kinesis: KinesisLocal, proxy: Proxy, tmp_path: Path) -> Scene:
    return Scene(kinesis, proxy.endpoint, tmp_path, shards=2)


def _expire(number: int) -> Any:
    """Every so many reads find their iterator expired."""
    return every(number, fault("ExpiredIteratorException"))


@pytest.mark.parametrize(
    ("action", "rule"),
    [
        ("GetRecords", _expire(3)),
        ("GetRecords", every(3, fault("ProvisionedThroughputExceededException"))),
        ("GetRecords", every(3, None)),
        ("GetRecords", every(3, fault("InternalFailure", 500))),
        ("GetShardIterator", every(2, fault("ProvisionedThroughputExceededException"))),
        ("ListShards", every(2, fault("LimitExceededException"))),
    ],
    ids=["expired", "throttled", "no answer", "failure", "iterators throttled", "lists throttled"],
)
def test_through_what_passes_every_record_is_read_once_in_order(
    scene: Scene, proxy: Proxy, action: str, rule: Any
) -> None:
    proxy.rules[action] = rule
    reader = scene.reader(scene.begun())
    for _ in range(4):
        scene.put(15)
        scene.until([reader], scene.all_read)
    reader.close()
    scene.check()
    assert len(set(scene.places)) == len(scene.places)


def test_throttling_stretches_the_interval_and_answers_shrink_it_again(scene: Scene, proxy: Proxy) -> None:
    reader = scene.reader(scene.begun())
    scene.put(4)
    scene.until([reader], scene.all_read)
    pollers = list(reader._pollers.values())
    assert all(0.059 < one.interval_s < 0.061 for one in pollers)
    proxy.rules["GetRecords"] = lambda _request, _ask: fault("ProvisionedThroughputExceededException")
    limit = time.monotonic() + WAIT_S
    while not all(one.interval_s > 0.12 for one in pollers):
        assert time.monotonic() < limit
        scene.step(reader)
        time.sleep(0.01)
    del proxy.rules["GetRecords"]
    while not all(one.interval_s < 0.09 for one in pollers):
        assert time.monotonic() < limit
        scene.step(reader)
        time.sleep(0.01)
    reader.tell({})
    reader.close()
    assert scene.hooks.seconds == {(scene.topic, 0): 0.0, (scene.topic, 1): 0.0}


def test_split_merge_and_both_at_once_keep_each_keys_order_and_end_the_parents(scene: Scene) -> None:
    start = scene.begun()
    reader = scene.reader(start)
    scene.put(20)
    split(scene.client, scene.name)
    scene.put(20)
    merge(scene.client, scene.name, 1)
    scene.put(20)
    scene.until([reader], lambda: len(scene.places) > 15)
    split(scene.client, scene.name, 1)
    merge(scene.client, scene.name)
    scene.put(20)
    scene.until([reader], scene.all_read)
    reader.close()
    scene.check()
    places = scene.saved(reader)["offsets"][scene.topic]
    ended = {number for number, place in places.items() if place == FINISHED}
    assert ended == {0, 1, 2, 3, 4, 5}
    assert {int(one["ShardId"][-12:]) for one in open_shards(scene.client, scene.name)} == {6, 7}


def test_a_reader_that_stops_anywhere_in_a_reshard_goes_on_behind_its_last_record(scene: Scene) -> None:
    state = scene.begun()
    for turn in range(5):
        scene.put(12)
        if turn in (1, 3):
            split(scene.client, scene.name)
        if turn == 2:
            merge(scene.client, scene.name, 1)
        reader = scene.reader(state)
        want = len(scene.places) + 9
        scene.until([reader], lambda want=want: len(scene.places) >= want)  # type: ignore[misc]
        state = merged_state({"inputs-00": scene.saved(reader)}, state["offsets"])
        reader.close()
    reader = scene.reader(state)
    scene.until([reader], scene.all_read)
    reader.close()
    scene.check()


def test_a_child_whose_parent_another_process_reads_waits_until_its_end_is_committed(scene: Scene) -> None:
    start = scene.begun()
    scene.put(10)
    split(scene.client, scene.name)  # 0 → 2, 3; process 1 of 2 reads 1 and 3
    scene.put(10)
    first, second = scene.reader(start, 0, 2), scene.reader(start, 1, 2)
    parent = [record for key, held in scene.sent.items() for record in held]
    assert parent
    scene.until([first, second], lambda: first.offsets[scene.topic].get(0) == FINISHED)
    for _ in range(200):
        scene.step(second)
        time.sleep(0.005)
    assert 3 not in second.offsets[scene.topic]
    scene.committed = {"inputs-00": scene.saved(first)}
    scene.until([first, second], scene.all_read)
    first.close()
    second.close()
    scene.check()


def test_records_that_settle_are_read_in_the_order_of_their_arrival_however_late_a_shard_answers(
    scene: Scene, proxy: Proxy
) -> None:
    rng = random.Random(4)

    def late(request: dict[str, Any], ask: Ask) -> Answer:
        time.sleep(rng.uniform(0.0, 0.3))
        return ask(request)

    start = scene.begun()
    options = replace(scene.options(), settle_s=4.0)
    reader = KinesisReader(options, [scene.stream], start, scene.run, dict)
    scene.until([reader], lambda: all(one.batch is None for one in reader._pollers.values()))
    proxy.rules["GetRecords"] = late
    arrived: list[tuple[int, int]] = []
    for number in range(24):
        scene.client.put_record(StreamName=scene.name, PartitionKey=f"key-{number % 5}", Data=str(number).encode())
        time.sleep(0.02)
    limit = time.monotonic() + WAIT_S
    found: list[int] = []
    while len(found) < 24:
        assert time.monotonic() < limit
        for record in reader.messages(7):
            found.append(int(record.value()))
            arrived.append((record.timestamp()[1], record.partition()))
        time.sleep(0.005)
    reader.close()
    assert arrived == sorted(arrived)
    assert len({shard for _, shard in arrived}) == 2
    assert sorted(found) == list(range(24))


def test_three_processes_share_eight_shards(kinesis: KinesisLocal, proxy: Proxy, tmp_path: Path) -> None:
    scene = Scene(kinesis, proxy.endpoint, tmp_path, shards=8)
    start = scene.begun()
    readers = [scene.reader(start, number, 3) for number in range(3)]
    scene.put(64, keys=40)
    scene.until(readers, scene.all_read)
    shares = [sorted(number for number in one.offsets[scene.topic] if number >= 0) for one in readers]
    assert shares == [[0, 3, 6], [1, 4, 7], [2, 5]]
    states = {f"inputs-{number:02d}": scene.saved(one) for number, one in enumerate(readers)}
    for reader in readers:
        reader.close()
    scene.put(40, keys=40)
    one = scene.reader(merged_state(states, start["offsets"]))  # and one process goes on for all
    scene.until([one], scene.all_read)
    one.close()
    scene.check()


def test_latest_and_a_time_begin_there_however_often_the_start_is_repeated(scene: Scene) -> None:
    scene.put(6)
    time.sleep(1.1)  # AWS's clock is told in whole seconds
    middle_us = time.time_ns() // 1_000
    latest, at_time = scene.begun(LATEST), scene.begun(middle_us)
    scene.sent.clear()
    scene.put(6)
    for start in (latest, at_time, at_time):
        scene.read.clear()
        reader = scene.reader(start)
        scene.until([reader], scene.all_read)
        reader.close()
        scene.check()


def test_aggregated_records_are_taken_apart_and_resumed_within(scene: Scene) -> None:
    parts = [(f"key-{number % 3}", f"part {number}".encode()) for number in range(20)]
    for key, data in parts:
        scene.sent.setdefault(key, []).append(data)
    scene.client.put_record(StreamName=scene.name, PartitionKey="a", Data=aggregated(parts))
    state = scene.begun()
    reader = scene.reader(state)
    scene.until([reader], lambda: len(scene.places) >= 7)
    state = merged_state({"inputs-00": scene.saved(reader)}, state["offsets"])
    reader.close()
    assert 0 < len(scene.places) < 20
    reader = scene.reader(state)
    scene.until([reader], scene.all_read)
    reader.close()
    scene.check()
    assert [place.rpartition(".")[2] for place in scene.places[1:]] == [str(number) for number in range(1, 20)]
    assert "." not in scene.places[0]


def _hiding(number: int) -> Any:
    """ListShards without a shard, as when it has aged out."""

    def rule(request: dict[str, Any], ask: Ask) -> Answer:
        status, told = ask(request)
        told["Shards"] = [one for one in told["Shards"] if not one["ShardId"].endswith(f"{number:012d}")]
        return status, told

    return rule


def test_a_finished_shard_that_aged_out_while_the_flow_was_down_is_forgotten(scene: Scene, proxy: Proxy) -> None:
    start = scene.begun()
    reader = scene.reader(start)
    scene.put(10)
    split(scene.client, scene.name)
    scene.until([reader], lambda: reader.offsets[scene.topic].get(0) == FINISHED)
    state = merged_state({"inputs-00": scene.saved(reader)}, start["offsets"])
    reader.close()
    proxy.rules["ListShards"] = _hiding(0)
    scene.put(10)
    reader = scene.reader(state)
    scene.until([reader], scene.all_read)
    assert 0 not in scene.saved(reader)["offsets"][scene.topic]
    reader.close()
    scene.check()


def test_an_unfinished_shard_that_aged_out_refuses_the_start(scene: Scene, proxy: Proxy) -> None:
    start = scene.begun()
    scene.put(10)
    reader = scene.reader(start)
    scene.until([reader], scene.all_read)
    state = merged_state({"inputs-00": scene.saved(reader)}, start["offsets"])
    reader.close()
    proxy.rules["ListShards"] = _hiding(1)
    with pytest.raises(StreamPositionError, match=r"inputs kinesis:in-.*/1: .*aged out.*stream-position\.md"):
        scene.reader(state)


def test_a_place_that_retention_has_passed_refuses_the_start_and_one_just_within_does_not(scene: Scene) -> None:
    state = scene.begun()
    places = state["offsets"][scene.topic]
    day_ms = int(timedelta(hours=24).total_seconds() * 1_000)
    now_ms = time.time_ns() // 1_000_000
    places[read_to_key(1)] = now_ms - day_ms + 60_000
    scene.reader(state).close()
    places[read_to_key(1)] = now_ms - day_ms - 60_000
    with pytest.raises(StreamPositionError, match=r"/1: what arrived since .* has not been read, the stream holds"):
        scene.reader(state)
    places[1] = FINISHED
    places[read_to_key(0)] = now_ms
    scene.reader(state).close()
    assert places[0] == FIRST


def test_a_stream_that_is_not_there_or_denied_ends_the_start_with_what_to_do(scene: Scene, proxy: Proxy) -> None:
    state = scene.begun()
    proxy.rules["DescribeStreamSummary"] = lambda _request, _ask: fault("ResourceNotFoundException")
    with pytest.raises(StreamError, match=r"ResourceNotFoundException: .*make it \(docs/aws\.md\)"):
        scene.reader(state)
    proxy.rules["DescribeStreamSummary"] = lambda _request, _ask: fault("AccessDeniedException")
    with pytest.raises(StreamError, match=r"AccessDeniedException: .*deploy/iam/"):
        scene.reader(state)


def test_the_digest_of_an_aggregate_counts() -> None:
    whole = aggregated([("a", b"x"), ("b", b"y")])
    assert deaggregate(whole) == [("a", b"x"), ("b", b"y")]
    broken = bytearray(whole)
    broken[-1] ^= 1
    assert deaggregate(bytes(broken)) is None
    body = b"\x1a\x7f\x01"
    assert deaggregate(b"\xf3\x89\x9a\xc2" + body + hashlib.md5(body, usedforsecurity=False).digest()) is None


def test_an_idle_shard_counts_as_read_while_records_of_another_wait(scene: Scene) -> None:
    began_ms = time.time_ns() // 1_000_000
    reader = KinesisReader(replace(scene.options(), settle_s=30.0), [scene.stream], scene.begun(), scene.run, dict)
    scene.put(6, keys=1)
    scene.until([reader], lambda: reader.arrivals.waiting >= 6 and len(reader._fetched_to) == 2)
    (busy,) = {record.partition() for _, _, record in reader.arrivals._queue}
    places = scene.saved(reader)["offsets"][scene.topic]
    reader.close()
    assert places[read_to_key(1 - busy)] >= began_ms
    assert places.get(read_to_key(busy), 0) < began_ms or read_to_key(busy) not in places


def test_a_flow_down_for_longer_than_retention_since_its_last_shard_ended_is_refused(scene: Scene) -> None:
    start = scene.begun()
    scene.put(6)
    split(scene.client, scene.name)
    merge(scene.client, scene.name, 1)
    reader = scene.reader(start)
    scene.until([reader], lambda: all(reader.offsets[scene.topic].get(one) == FINISHED for one in (0, 1)))
    places = scene.saved(reader)["offsets"][scene.topic]
    reader.close()
    # As when it was killed before a child was read from once.
    ended = {0: FINISHED, 1: FINISHED, **{read_to_key(one): places[read_to_key(one)] for one in (0, 1)}}
    state = SourceState(offsets={scene.topic: ended}, clock_us=0, sequence=0)
    resumed = scene.reader(state)
    assert scene.saved(resumed)["offsets"][scene.topic][read_to_key(0)] == places[read_to_key(0)]
    resumed.close()
    long_ms = int(timedelta(hours=25).total_seconds() * 1_000)
    for number in (0, 1):
        ended[read_to_key(number)] -= long_ms
    with pytest.raises(
        StreamPositionError, match=r"inputs kinesis:in-\S+: nothing that arrived since .* has been read"
    ):
        scene.reader(state)


@pytest.mark.parametrize("hours", [24, 48])
def test_a_flow_that_runs_so_far_behind_that_retention_passes_it_ends(scene: Scene, proxy: Proxy, hours: int) -> None:
    reader = scene.reader(scene.begun())
    scene.put(6)
    scene.until([reader], scene.all_read)
    pollers = list(reader._pollers.values())

    def summary(request: dict[str, Any], ask: Ask) -> Answer:
        status, told = ask(request)
        told["StreamDescriptionSummary"]["RetentionPeriodHours"] = hours  # as somebody has set it meanwhile
        return status, told

    def late(request: dict[str, Any], ask: Ask) -> Answer:
        for one in pollers:
            one._held.read_to_ms = time.time_ns() // 1_000_000 - 25 * 3_600_000
        return ask(request)

    proxy.rules["DescribeStreamSummary"] = summary
    proxy.rules["GetRecords"] = late
    scene.put(6)
    if hours > 25:
        scene.until([reader], scene.all_read)
    else:
        with pytest.raises(StreamPositionError, match=r"inputs kinesis:in-.*/[01]: what arrived since .*position\.md"):
            scene.until([reader], scene.all_read)
    reader.close()


def test_a_defect_of_who_looks_for_shards_ends_the_run(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = scene.reader(scene.begun())

    def broken(*_: Any) -> None:
        message = "no such thing"
        raise RuntimeError(message)

    monkeypatch.setattr("flows.kinesis_source.shards_of", broken)
    with pytest.raises(StreamError, match=r"inputs, shards: a defect of Weir: RuntimeError\('no such thing'\)"):
        scene.until([reader], lambda: False)
    reader.close()


def test_what_was_taken_and_could_not_be_made_an_item_of_does_not_count_as_read(scene: Scene) -> None:
    reader = scene.reader(scene.begun())
    scene.put(12, keys=1)
    limit = time.monotonic() + WAIT_S
    while not (taken := reader.messages(7)):
        assert time.monotonic() < limit
        time.sleep(0.01)
    key = read_to_key(taken[0].partition())
    assert key not in scene.saved(reader)["offsets"][scene.topic]
    for record in taken:
        reader.offsets[scene.topic][record.partition()] = record.offset() + 1
    reader.messages(1)
    assert scene.saved(reader)["offsets"][scene.topic][key] >= taken[0].timestamp()[1]
    reader.close()
