"""How the source cuts the merged events into batches."""

from __future__ import annotations

from typing import Any, cast

from flows.epochs import Epochs
from flows.merge import Merge
from flows.source import FIRST_BATCH, EventsSource, Run
from operators.inflight import PAYMENT, InFlight
from schemas import metrics


class _Events:
    """Stands where the merge does, with so many payments left."""

    def __init__(self, left: int) -> None:
        self._left = left

    def __next__(self) -> InFlight:
        if not self._left:
            raise StopIteration
        self._left -= 1
        return InFlight(PAYMENT, (self._left,), None, ("transactions", 0, self._left), 0, [], [])

    def state(self) -> None:
        """Where it stands is of no interest here."""


def _batches(events: int, size: int, run: Run) -> list[int]:
    def open_merge(_state: object) -> Merge:
        return cast("Merge", _Events(events))

    part: Any = EventsSource(open_merge, size, run, Epochs()).build_part("events", "events", None)
    sizes = []
    try:
        while True:
            sizes += [len(one.work) for one in part.next_batch()]
    except StopIteration:
        return sizes


def test_batches_begin_small_and_double_up_to_the_size_asked_for() -> None:
    first = FIRST_BATCH
    run = Run()
    assert _batches(10 * first, 3 * first, run) == [first, 2 * first, 3 * first, 3 * first, first]
    assert run.finished


def test_a_smaller_size_is_kept_from_the_start() -> None:
    assert _batches(25, 10, Run()) == [10, 10, 5]


def test_a_run_tells_when_it_was_open_and_when_all_was_read() -> None:
    run = Run()
    _batches(25, 10, run)
    figures: Any = run.stats.as_dict()[metrics.RUN_TIMES.name]
    assert list(figures) == ["opened", "all_read", "stores"]
    assert figures["opened"] <= figures["all_read"]
