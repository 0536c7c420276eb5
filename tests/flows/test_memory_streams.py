"""A live flow inside this program, over logs in its memory; and what such a log cannot be used for."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import orjson
import pytest

from flows.config import load_config
from flows.connectors import open_publisher, open_reader
from flows.kafka_source import SourceState
from flows.live import run_live
from flows.live_options import LiveOptions
from flows.memory_streams import MemoryLog, forget_log, memory_log
from flows.profile import load_profile
from flows.source import Run
from flows.streams import MemoryStream, parse_stream
from schemas.errors import ConfigError, StreamPositionError
from tests.flows.connectors import payment
from tests.flows.kinesis_node import small_profile

WAIT_S = 30.0


class Embedded:
    """A flow that a test runs in a thread."""

    def __init__(self, path: Path) -> None:
        mark = uuid.uuid4().hex[:8]
        self.profile = load_profile(small_profile(path / "profile"))
        outputs = {name: f"memory://{name}-{mark}" for name in ("decisions", "dead_letters")}
        self.payments, self.decisions = f"payments-{mark}", f"decisions-{mark}"
        inputs = {"transactions": f"memory://{self.payments}?partitions=3"}
        self.options = LiveOptions(path / "state", inputs, outputs, shards=2, epoch=timedelta(seconds=0.1))

    def run(self, done: Callable[[], bool]) -> None:
        run = Run()
        failed: list[BaseException] = []

        def live() -> None:
            try:
                run_live(self.profile, self.options, run)
            except BaseException as error:  # told by the test's own thread
                failed.append(error)

        thread = threading.Thread(target=live)
        thread.start()
        until = time.monotonic() + WAIT_S
        while not done() and thread.is_alive() and time.monotonic() < until:
            time.sleep(0.02)
        run.stop.set()
        thread.join()
        if failed:
            raise failed[0]
        assert done()

    def decided(self) -> list[str]:
        return [orjson.loads(record.value())["transaction_id"] for record in self.log().records()]

    def log(self) -> MemoryLog:
        return memory_log(self.decisions)


def test_a_flow_in_a_thread_decides_what_is_appended_and_goes_on_behind_it(tmp_path: Path) -> None:
    flow = Embedded(tmp_path)
    payments = memory_log(flow.payments, 3)
    for turn in (1, 2):
        for number in range(20 * (turn - 1), 20 * turn):
            payments.append(f"A{number % 5}".encode(), payment(number, f"A{number % 5}"))
        flow.run(lambda turn=turn: len(flow.decided()) >= 20 * turn)  # type: ignore[misc]
    assert sorted(flow.decided()) == sorted(f"T{number}" for number in range(40))
    decisions = [orjson.loads(record.value()) for record in flow.log().records()]
    counts = {(one["account_id"], one["features"]["account.count_24h"]) for one in decisions}
    assert counts == {(f"A{account}", float(count)) for account in range(5) for count in range(1, 9)}
    assert {one["source"]["topic"] for one in decisions} == {f"memory:{flow.payments}"}


def test_a_state_that_has_outlived_its_records_is_refused(tmp_path: Path) -> None:
    flow = Embedded(tmp_path)
    memory_log(flow.payments, 3).append(b"A0", payment(0, "A0"))
    flow.run(lambda: bool(flow.decided()))
    forget_log(flow.payments)
    with pytest.raises(StreamPositionError, match=r"inputs memory:payments-.*the log holds 0 to 0: the topic was made"):
        flow.run(lambda: False)


def test_what_a_log_in_memory_cannot_do_is_refused(tmp_path: Path) -> None:
    flow = Embedded(tmp_path)
    inputs, outputs = flow.options.streams()
    start = SourceState(offsets={}, clock_us=0, sequence=0)
    cluster = replace(flow.options, process=(0, ("a:1", "b:1")))
    with pytest.raises(ConfigError, match="expected one process, since no other sees"):
        open_reader(inputs, cluster, start, Run(), dict)
    with pytest.raises(ConfigError, match="found memory://, which has no transactions"):
        open_publisher(outputs, replace(flow.options, transactional=True), Run(), {})
    memory_log(flow.payments, 2)
    with pytest.raises(ConfigError, match="expected 3 partitions, found 2"):
        open_reader(inputs, flow.options, start, Run(), dict)


def test_a_url_of_a_log_says_its_name_and_perhaps_its_partitions() -> None:
    assert parse_stream("t", "memory://a.b-1") == MemoryStream("a.b-1")
    assert parse_stream("t", "memory://a?partitions=12") == MemoryStream("a", 12)
    for url in ("memory://", "memory://a/b", "memory://a?partitions=0", "memory://a?shards=2"):
        with pytest.raises(ConfigError, match=r"expected a URL memory://NAME\[\?partitions=NUMBER\], found"):
            parse_stream("t", url)


def test_a_weir_toml_cannot_name_one_since_its_records_die_with_the_process(tmp_path: Path) -> None:
    path = tmp_path / "weir.toml"
    path.write_text(
        'profile = "p"\n[streams]\ntransactions = "memory://t"\ndecisions = "kafka://h:1/d"\n'
        'dead_letters = "kafka://h:1/l"\n[state]\nfolder = "s"\n'
    )
    with pytest.raises(ConfigError, match="the scheme must be kafka or kinesis"):
        load_config(path)
