"""What counts as standing still at an epoch's end, and what does not."""

from __future__ import annotations

import pytest

from flows.stalls import RunTimes, Stalls
from flows.stats import RunStats, merge_rows
from schemas import metrics


def test_an_epochs_end_without_work_left_lasts_from_the_sources_snapshot_to_its_next_poll() -> None:
    stalls = Stalls()
    stalls.polled(1.0, idle=False)
    assert stalls.figures() == {}, "nothing had ended before the first poll"
    stalls.epoch_ends(10.0)
    stalls.snapshot(0.1)
    stalls.polled(10.5, idle=False)
    assert list(stalls.seconds) == [pytest.approx(0.5)], "the snapshot lies within"


def test_work_on_the_last_batch_is_no_stall_but_snapshots_made_meanwhile_are() -> None:
    stalls = Stalls()
    stalls.worked(9.0)
    stalls.epoch_ends(10.0)
    stalls.worked(11.0)
    stalls.snapshot(0.2)  # of a step that the batch has passed
    stalls.worked(12.0)
    stalls.snapshot(0.3)
    stalls.polled(12.4, idle=False)
    assert list(stalls.seconds) == [pytest.approx(0.2 + 0.4)]


def test_snapshots_of_one_epoch_do_not_count_for_the_next() -> None:
    stalls = Stalls()
    stalls.epoch_ends(1.0)
    stalls.worked(1.1)
    stalls.snapshot(0.2)
    stalls.polled(1.4, idle=False)
    stalls.snapshot(7.0)
    stalls.epoch_ends(2.0)
    stalls.worked(2.5)
    stalls.polled(2.6, idle=False)
    assert list(stalls.seconds) == [pytest.approx(0.3), pytest.approx(0.1)]


def test_a_source_that_waits_for_its_next_event_does_not_count_the_waiting() -> None:
    stalls = Stalls()
    stalls.epoch_ends(10.0)
    stalls.snapshot(0.25)
    stalls.polled(60.0, idle=True)
    assert list(stalls.seconds) == [pytest.approx(0.25)]


def test_quantiles_are_of_what_was_seen_and_the_largest_is_never_forgotten() -> None:
    stalls = Stalls()
    for number in range(1, 5001):
        stalls.epoch_ends(0.0)
        stalls.polled(50.0 if number == 1 else 0.001 * (number % 100 + 1), idle=False)
    figures = stalls.figures()
    assert (figures["count"], figures["max"]) == (5000, 50.0)
    assert figures["p50"] == pytest.approx(0.05, abs=0.002)
    assert figures["p99"] == pytest.approx(0.1, abs=0.002)
    assert max(stalls.seconds) < 1, "only so many are kept for quantiles"


def test_a_stage_tells_the_stalls_of_its_process_and_its_first_event_once() -> None:
    stats = RunStats()
    stage = stats.stage("account")
    first: list[str] = []
    stage.at_first = lambda: first.append("now")
    stage.observe(0.1, 0)
    assert first == [], "a batch without events is none"
    stage.observe(0.1, 3)
    stage.observe(0.1, 3)
    assert first == ["now"]
    stats.stalls.epoch_ends(0.0)
    stage.observe_snapshot(0.5)
    stage.observe(0.1, 3)
    stats.stalls.polled(0.0, idle=True)
    assert list(stats.stalls.seconds) == [0.5]


def test_a_mark_keeps_its_first_time_and_counts_from_the_start_of_the_process() -> None:
    times = RunTimes()
    times.mark("loaded")
    loaded = times.figures()["loaded"]
    assert loaded > 0, "this process began before the test"
    times.mark("opened")
    times.mark("loaded")
    assert times.figures()["loaded"] == loaded
    assert list(times.figures()) == ["loaded", "opened", "stores"]


def test_of_several_processes_the_slowest_counts_and_only_one_reads_the_source() -> None:
    reader, other = RunStats(), RunStats()
    reader.stalls.epoch_ends(0.0)
    reader.stalls.polled(2.0, idle=False)
    other.times.stores_s = 1e6
    merged = merge_rows([reader.as_dict(), other.as_dict()])
    assert merged[metrics.SNAPSHOT_STALL.name] == {"count": 1, "p50": 2.0, "p99": 2.0, "max": 2.0}
    assert merged[metrics.RUN_TIMES.name]["stores"] == 1e6
