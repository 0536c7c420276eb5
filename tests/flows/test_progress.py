"""What a replay shows of itself: the line every ten seconds, and the bar and table of a terminal."""

from __future__ import annotations

import re
import time
from io import StringIO
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from flows.progress import ProgressView
from flows.source import Run

HOUR_US = 3_600_000_000


def _run(read: int = 0, size: int = 0, clock_us: int = 0) -> Run:
    run = Run()
    for action, number in (("approve", 1200), ("decline", 34)):
        run.stats.count("decisions", action, number)
    run.stats.count("duplicates", "", 5)
    run.stats.count("dead_letters", "NOT_JSON", 2)
    run.stats.count("dead_letters", "TOO_LARGE", 1)
    if size:
        run.merge = cast("Any", SimpleNamespace(progress=lambda: (read, size), clock_us=clock_us))
    return run


def _shown(view: ProgressView) -> str:
    told = StringIO()
    Console(file=told, width=160).print(view._view())
    return told.getvalue()


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock by which the view measures; a test sets its only number."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_the_line_tells_the_share_read_the_rate_and_the_decisions(steady: list[float]) -> None:
    view = ProgressView(_run(read=250, size=1000))
    steady[0] += 10.0
    assert view._line() == "replay  25.0%  123 payments/s  1,200 approve, 34 decline"


def test_before_the_source_is_open_the_line_says_nothing_was_read() -> None:
    assert ProgressView(Run())._line().startswith("replay   0.0%  0 payments/s")


def test_the_table_counts_actions_retries_dead_letters_and_tells_the_event_time(steady: list[float]) -> None:
    view = ProgressView(_run(read=250, size=1000, clock_us=500_000 * HOUR_US))
    steady[0] += 10.0
    told = _shown(view)
    bar, names, row = (line for line in told.splitlines() if line.strip())
    assert re.search(r"replay .* 25\.0 % +123 payments/s .*left", bar)
    assert re.split(r" {2,}", names.strip()) == [
        "approve", "challenge", "review", "decline", "retries", "dead letters", "labels", "event time",
    ]  # fmt: skip
    assert re.split(r" {2,}", row.strip()) == ["1,200", "0", "0", "34", "5", "3", "0", "2027-01-15 08:00"]


def test_the_time_left_is_told_once_the_bar_has_moved() -> None:
    run = _run(read=100, size=1000, clock_us=HOUR_US)
    now = [0.0]
    view = ProgressView(run)
    view._bar.get_time = lambda: now[0]
    view._bar.reset(view._task, total=1000)
    for read in (100, 200, 300):
        now[0] += 2.0
        cast("Any", run.merge).progress = lambda read=read: (read, 1000)
        view._view()
    assert "left 0:00:14" in _shown(view), "700 of 1,000 left, at 50 a second"
