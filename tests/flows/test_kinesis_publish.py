"""The outputs of a process as streams of Kinesis: what is refused, and what the watchdog hears."""

from __future__ import annotations

import itertools
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.kinesis_publish import AS_OF, KinesisPublisher
from flows.kinesis_put import MOST_RECORD_BYTES
from flows.kinesis_shards import FIRST, from_time
from flows.live_options import LiveOptions
from flows.source import Run
from flows.streams import KinesisStream, parse_stream
from load_tests.kinesis_local import KinesisLocal
from schemas.errors import StreamError, StreamPositionError
from tests.flows.kinesis_node import kinesis, proxy
from tests.flows.kinesis_proxy import Answer, Ask, Proxy

__all__ = ["kinesis", "proxy"]

DAY_MS = 24 * 3_600_000
"""For so long a stream holds records when nobody says otherwise."""


@pytest.fixture
def publisher(kinesis: KinesisLocal, proxy: Proxy, tmp_path: Path) -> Iterator[KinesisPublisher]:
    streams: dict[str, KinesisStream] = {}
    for output in ("decisions", "dead_letters"):
        name = f"{output.replace('_', '-')}-{uuid.uuid4().hex[:8]}"
        kinesis.make(name)
        stream = parse_stream(output, kinesis.url(name).replace(kinesis.endpoint, proxy.endpoint))
        assert isinstance(stream, KinesisStream)
        streams[output] = stream
    made = KinesisPublisher(LiveOptions(tmp_path, {}, {}, refresh_s=0.1), streams, Run())
    yield made
    made.close()


def _topic(publisher: KinesisPublisher) -> str:
    return publisher._streams["decisions"].topic


def test_a_decision_above_a_mebibyte_is_refused_with_what_to_do(publisher: KinesisPublisher) -> None:
    with pytest.raises(StreamError, match=r"a record of 1048577 bytes: Kinesis takes 1048576 with its key; declare"):
        publisher.produce("decisions", bytes(MOST_RECORD_BYTES), b"k", [])
    assert publisher.epoch_ends(final=True)[_topic(publisher)].keys() == {AS_OF}


@pytest.mark.parametrize(
    "told", [lambda ms: {0: FIRST, AS_OF: ms}, lambda ms: {0: from_time(ms)}], ids=["state", "new"]
)
def test_an_output_that_does_not_go_back_to_the_last_commit_refuses_the_start(
    publisher: KinesisPublisher, told: Any
) -> None:
    topic, now_ms = _topic(publisher), time.time_ns() // 1_000_000
    assert list(publisher.read_back({topic: told(now_ms - DAY_MS + 60_000)})) == []
    why = f"outputs {re.escape(topic)}: what was published since .* must be read back, .*/stream-position.md"
    with pytest.raises(StreamPositionError, match=why):
        list(publisher.read_back({topic: told(now_ms - DAY_MS - 60_000)}))


def test_a_hot_key_that_takes_long_is_no_hang(
    publisher: KinesisPublisher, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = itertools.count(1)

    def slow(request: dict[str, Any], _ask: Ask) -> Answer:
        time.sleep(0.1)
        stood = [{"SequenceNumber": str(next(numbers)), "ShardId": "shardId-000000000000"} for _ in request["Records"]]
        return 200, {"FailedRecordCount": 0, "Records": stood}

    monkeypatch.setattr("flows.kinesis_publish._BEAT_S", 0.25)
    proxy.rules["PutRecords"] = slow
    for _ in range(10):
        publisher.produce("decisions", b"{}", b"one account", [])
    before = publisher._run.pulse.beats
    publisher.epoch_ends(final=True)
    assert next(numbers) == 11
    assert publisher._run.pulse.beats > before


def test_a_defect_of_who_looks_at_the_outputs_ends_the_run(
    publisher: KinesisPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: Any) -> None:
        message = "no such thing"
        raise RuntimeError(message)

    monkeypatch.setattr(publisher._clients["decisions"], "list_shards", broken)
    until = time.monotonic() + 20
    while publisher.watch.fault is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    with pytest.raises(StreamError, match=r"outputs: a defect of Weir: RuntimeError\('no such thing'\)"):
        publisher.check()
