"""What every kind of stream must do: one suite over files, logs in this process, Kafka and Kinesis.

Where kinds differ in what they can do, a capability of tests/flows/connectors.py names it, and the suite says what
holds with it and what without.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from flows.connectors import open_publisher, questions_of
from flows.kafka_publish import DUPLICATE, IDENTITY
from flows.live_options import LATEST, Start
from flows.publish import DEAD_LETTERS, DECISIONS
from flows.source import Run
from flows.stream_api import Publisher
from operators.inflight import DEAD_LETTER, PAYMENT, InFlight
from schemas.errors import StateError
from tests.flows.connectors import (
    ENDS,
    KINDS,
    SHARED,
    SPREADS,
    STARTS,
    TIMES,
    Connector,
    Files,
    Kafka,
    Kinesis,
    Live,
    Memory,
    payment,
    read,
    wait_for,
)
from tests.flows.kinesis_node import kinesis

__all__ = ["kinesis"]


@pytest.fixture(params=KINDS, ids=[kind.__name__.lower() for kind in KINDS])
def connector(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connector]:
    made: Connector = request.param(request, tmp_path)
    yield made
    made.close()


def _having(capability: str) -> pytest.MarkDecorator:
    kinds = [kind for kind in KINDS if capability in kind.can]
    return pytest.mark.parametrize("connector", kinds, ids=[kind.__name__.lower() for kind in kinds], indirect=True)


def _records(first: int, count: int) -> list[tuple[str, bytes]]:
    return [(f"A{number % 3}", payment(number, f"A{number % 3}")) for number in range(first, first + count)]


def _numbers(items: list[InFlight]) -> list[int]:
    return [int(_event(item).transaction_id[1:]) for item in items]


def _event(item: InFlight) -> Any:
    assert item.kind == PAYMENT, item.detail
    return item.event


def _check_order(connector: Connector, items: list[InFlight], wanted: list[int]) -> None:
    """All of them, each once; those of a key in order, and all of them where there is one order."""
    found = _numbers(items)
    assert sorted(found) == wanted
    for key in range(3):
        assert [number for number in found if number % 3 == key] == [one for one in wanted if one % 3 == key]
    if SPREADS not in connector.can:
        assert found == wanted


def test_what_a_kind_can_do_is_named_and_no_kind_loses_it_unseen() -> None:
    live = frozenset({SPREADS, STARTS, TIMES, SHARED})
    assert {kind: kind.can for kind in KINDS} == {
        Files: frozenset({ENDS}),
        Memory: live,
        Kafka: live,
        Kinesis: live,
    }


def test_everything_is_read_once_in_order_per_key_each_from_a_place_of_its_own(connector: Connector) -> None:
    connector.append(_records(0, 20))
    items = read(connector.inputs(), 20)
    _check_order(connector, items, list(range(20)))
    assert len({item.origin for item in items}) == 20
    assert [item.order for item in items] == sorted(item.order for item in items)


def test_a_flow_that_stops_in_the_middle_again_and_again_goes_on_without_loss_or_repeat(connector: Connector) -> None:
    rng = random.Random(6)
    items: list[InFlight] = []
    state, sent = None, 0
    for _ in range(4):
        connector.append(_records(sent, 12))
        sent += 12
        inputs = connector.inputs(state)
        items += read(inputs, rng.randint(5, 11))
        state = inputs.state()
        inputs.die()
    items += read(connector.inputs(state), sent - len(items))
    _check_order(connector, items, list(range(sent)))
    assert len({item.origin for item in items}) == sent


def test_what_was_read_and_not_committed_is_read_again_from_the_same_places(connector: Connector) -> None:
    connector.append(_records(0, 9))
    inputs = connector.inputs()
    read(inputs, 4)
    state = inputs.state()
    lost = read(inputs, 5)
    inputs.die()
    again = read(connector.inputs(state), 5)
    assert {(one.origin, _event(one).transaction_id) for one in again} == {
        (one.origin, _event(one).transaction_id) for one in lost
    }


def test_a_stream_that_holds_nothing_gives_nothing_and_ends_or_waits_for_more(connector: Connector) -> None:
    inputs = connector.inputs()
    for _ in range(3):
        assert inputs.take(5) == []
    assert inputs.ended is (ENDS in connector.can)
    state = inputs.state()
    connector.append(_records(0, 3))
    if ENDS in connector.can:
        assert inputs.take(5) == []
        inputs = connector.inputs(state)
    _check_order(connector, read(inputs, 3), [0, 1, 2])
    assert inputs.take(5) == []


def test_an_items_arrival_is_told_by_the_stream_or_by_the_record_and_never_goes_back(connector: Connector) -> None:
    before_us = time.time_ns() // 1_000
    connector.append(_records(0, 6))
    items = read(connector.inputs(), 6)
    arrivals = [item.ingested_at_us for item in items]
    assert arrivals == sorted(arrivals)
    if TIMES in connector.can:
        assert all(before_us - 2_000_000 < arrival <= time.time_ns() // 1_000 for arrival in arrivals)
    else:
        assert arrivals == [_event(item).event_time_us for item in items]


@_having(STARTS)
def test_latest_and_a_time_begin_there_however_often_the_start_is_repeated(connector: Connector) -> None:
    connector.append(_records(0, 6))
    time.sleep(1.1)  # Kinesis tells its time in whole seconds
    start: Start = LATEST
    inputs = connector.inputs(None, start)
    connector.append(_records(6, 6))
    for _ in range(2):
        _check_order(connector, read(inputs, 6), list(range(6, 12)))
        inputs.die()
        inputs = connector.inputs(None, start)


@_having(STARTS)
def test_a_time_begins_at_the_first_record_that_came_then(connector: Connector) -> None:
    connector.append(_records(0, 6))
    time.sleep(1.1)
    middle_us = time.time_ns() // 1_000
    time.sleep(0.1)
    connector.append(_records(6, 6))
    _check_order(connector, read(connector.inputs(None, middle_us), 6), list(range(6, 12)))


def test_a_bad_record_becomes_a_dead_letter_that_names_its_place_and_stops_nothing(connector: Connector) -> None:
    connector.append([*_records(0, 2), ("A2", b"not json"), *_records(3, 3)])
    items = read(connector.inputs(), 6)
    (bad,) = (item for item in items if item.kind == DEAD_LETTER)
    _check_order(connector, [item for item in items if item is not bad], [0, 1, 3, 4, 5])
    sink = connector.sink()
    sink.publish_dead([bad])
    begun = sink.commit()
    (told,) = wait_for(lambda: connector.published(DEAD_LETTERS), 1)
    sink.die()
    assert (told["reason"], told["payload"]) == ("NOT_JSON", "not json")
    # The flow was killed before its epoch was told, so it comes to the record again, and knows it by its place.
    (again,) = (item for item in read(connector.inputs(), 6) if item.kind == DEAD_LETTER)
    assert again.origin == bad.origin
    sink = connector.sink(begun)
    sink.publish_dead([again])
    sink.commit()
    sink.commit()
    sink.die()
    found = connector.published(DEAD_LETTERS)
    assert [connector.place(one) for one in found] == [connector.place(told)]
    assert connector.place(told)[0] == bad.origin[0]
    assert (told["partition"], told["offset"] if told["offset"] >= 0 else told["sequence"]) == (
        bad.origin[1],
        bad.origin[2] if told["offset"] >= 0 else str(bad.origin[2]),
    )


def _told(connector: Connector) -> list[tuple[str, str, bool]]:
    return sorted((one["transaction_id"], one["note"], one["duplicate"]) for one in connector.published(DECISIONS))


def test_what_a_killed_run_published_stands_once_and_answers_retries_in_its_own_words(connector: Connector) -> None:
    sink = connector.sink()
    sink.publish("a", "b", "=b")
    sink.commit()
    sink.publish("c", "=a")
    state = sink.commit()  # knows a, b and the first answer about b
    sink.publish("d", "=d")
    wait_for(lambda: connector.published(DECISIONS), 7)
    sink.die()
    sink = connector.sink(state)
    sink.publish("c", "=a", "d", "=d", "=d", "e", "=b", note="recomputed")
    sink.commit()
    sink.commit()
    sink.die()
    assert _told(connector) == [
        ("a", "first", False),
        ("a", "first", True),
        ("b", "first", False),
        ("b", "first", True),
        ("b", "first", True),
        ("c", "first", False),
        ("d", "first", False),
        ("d", "first", True),
        ("d", "first", True),
        ("e", "recomputed", False),
    ]


def test_a_run_killed_before_its_first_commit_has_published_once_too(connector: Connector) -> None:
    sink = connector.sink()
    sink.publish("a", "b")
    wait_for(lambda: connector.published(DECISIONS), 2)
    sink.die()
    sink = connector.sink()
    sink.publish("a", "b", "=b", "c", note="recomputed")
    sink.commit()
    sink.commit()
    sink.die()
    assert _told(connector) == [
        ("a", "first", False),
        ("b", "first", False),
        ("b", "first", True),
        ("c", "recomputed", False),
    ]


def test_what_was_adopted_stays_so_when_the_next_run_dies_before_it_comes_to_all_of_it(connector: Connector) -> None:
    sink = connector.sink()
    sink.publish("a", "b", "c")
    wait_for(lambda: connector.published(DECISIONS), 3)
    sink.die()
    sink = connector.sink()
    sink.publish("a", note="second")
    sink.commit()
    state = sink.commit()
    sink.publish("b", note="second")
    sink.die()
    sink = connector.sink(state)
    sink.publish("b", "c", "=c", "d", note="third")
    sink.commit()
    sink.commit()
    sink.die()
    assert _told(connector) == [
        ("a", "first", False),
        ("b", "first", False),
        ("c", "first", False),
        ("c", "first", True),
        ("d", "third", False),
    ]


def test_a_record_of_somebody_else_in_an_output_is_none_of_ours_or_refuses_the_start(connector: Connector) -> None:
    sink = connector.sink()
    sink.publish("a")
    wait_for(lambda: connector.published(DECISIONS), 1)
    sink.die()
    connector.foreign([b"not json"])
    if SHARED not in connector.can:
        with pytest.raises(StateError, match=r"starts no record"):
            connector.sink()
        return
    connector.foreign([b"{}", b"[1]"])
    sink = connector.sink()
    sink.publish("a", "b", note="second")
    sink.commit()
    sink.commit()
    sink.die()
    assert _told(connector) == [("a", "first", False), ("b", "second", False)]


@_having(SHARED)
def test_a_publishers_epoch_ends_part_what_a_snapshot_knows_from_what_it_does_not(connector: Connector) -> None:
    """Below the ledger: `flows.stream_api.Publisher`, which files have not; their slot's offset parts them."""
    assert isinstance(connector, Live)
    options, outputs, run = connector.options, connector.outputs, Run()
    questions = questions_of("outputs", outputs, options, run)
    begin = {stream.topic: questions.ends(stream.topic) for stream in outputs.values()}
    questions.close()
    first = open_publisher(outputs, options, run, {})
    assert _read_back(first, begin) == []
    saved = []
    for epoch in range(3):
        for name in (f"{epoch}-0", f"{epoch}-1", f"={epoch}-0"):
            _produce(first, name.removeprefix("="), duplicate=name[0] == "=")
        saved.append(first.epoch_ends(final=epoch == 2))
    epochs = [[(f"{epoch}-0", False), (f"{epoch}-1", False), (f"{epoch}-0", True)] for epoch in range(3)]
    for place, wanted in (
        (begin, epochs[0] + epochs[1] + epochs[2]),
        (saved[0], epochs[1] + epochs[2]),
        (saved[2], []),
    ):
        reader = open_publisher(outputs, options, run, {})
        assert _read_back(reader, place) == wanted
        reader.close()
    first.close()


def _produce(publisher: Publisher, name: str, *, duplicate: bool) -> None:
    headers = [(IDENTITY, name.encode()), *([(DUPLICATE, b"1")] if duplicate else [])]
    publisher.produce(DECISIONS, orjson.dumps({"transaction_id": name, "duplicate": duplicate}), b"k", headers)


def _read_back(publisher: Publisher, begin: dict[str, dict[int, int]]) -> list[tuple[str, bool]]:
    found = []
    for record in publisher.read_back(begin):
        headers = dict(record.headers() or [])
        found.append((headers[IDENTITY].decode(), DUPLICATE in headers))
    return found
