from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.expiry import (
    HOUR_US,
    NEVER,
    RANK,
    SWEEP_RECORDS,
    ShardClock,
    check_layout,
    clock_of,
    clock_writes,
    sweep,
)
from schemas.errors import StateLayoutError
from state.testing import DictStore


@settings(max_examples=100)
@given(times=st.lists(st.integers(0, 50 * HOUR_US), max_size=60), cut=st.integers(0, 60))
def test_the_clock_is_the_sixteenth_largest_hour_and_survives_a_restart(times: list[int], cut: int) -> None:
    store = DictStore()
    for at, time_us in enumerate(times):
        if at == cut:
            store.commit()
            store = store.reopened(store.version)
        clock = clock_of(store, b"t")
        if time_us >= clock.next_us:  # what callers do: an earlier event must make no difference
            clock.observe(time_us)
        store.put_many(clock_writes(clock, b"t"))
        hours = sorted(earlier // HOUR_US for earlier in times[: at + 1])
        assert clock_of(store, b"t").us == (hours[-RANK] * HOUR_US if len(hours) >= RANK else NEVER)


def test_fifteen_events_dated_ahead_do_not_move_the_clock() -> None:
    clock = ShardClock([])
    for _ in range(RANK):
        clock.observe(5 * HOUR_US)
    for _ in range(RANK - 1):
        clock.observe(5_000 * HOUR_US)
    assert clock.us == 5 * HOUR_US


def test_the_clock_is_written_only_when_it_has_changed() -> None:
    clock = ShardClock([])
    clock.observe(7 * HOUR_US)
    assert [key for key, _ in clock_writes(clock, b"t")] == [b"t"]
    assert clock_writes(clock, b"t") == []


def test_a_record_of_another_layout_is_refused_with_what_to_do() -> None:
    store = DictStore("s07", "card")
    expected = "shard card/s07: found a record of layout 09, this program reads 01; start the release that wrote it"
    with pytest.raises(StateLayoutError, match=re.escape(expected)):
        check_layout(store, b"\x09rest", 1)
    store.put_many([(b"t", b"\x09")])
    with pytest.raises(StateLayoutError, match="found a record of layout 09"):
        clock_of(store, b"t")


def test_a_sweep_is_bounded_takes_turns_and_keeps_to_its_prefix() -> None:
    store = DictStore()
    store.put_many([(b"t%05d" % number, b"old") for number in range(SWEEP_RECORDS + 10)])
    store.put_many([(b"t", b"clock"), (b"s1", b"old"), (b"u1", b"old"), (b"t99999", b"new")])
    clock = ShardClock([100] * RANK)

    def step() -> int:
        sweep(store, b"t", clock, 10 * HOUR_US, lambda record: record == b"old")
        return len(store.as_dict())

    assert step() == 14
    assert step() == 4
    assert set(store.as_dict()) == {b"t", b"s1", b"u1", b"t99999"}
    store.put_many([(b"t5", b"old")])
    assert step() == 5, "a pass has ended; the next one is not due"
    for _ in range(RANK):
        clock.observe(110 * HOUR_US)
    assert step() == 4


def test_nothing_is_swept_before_the_clock_is_known() -> None:
    store = DictStore()
    store.put_many([(b"t1", b"old")])
    sweep(store, b"t", ShardClock([]), HOUR_US, lambda record: True)
    assert set(store.as_dict()) == {b"t1"}
