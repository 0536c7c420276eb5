"""Shows a replay while it runs: a live table on a terminal, a line every ten seconds elsewhere; always on stderr."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from flows.source import Run
from schemas.times import format_rfc3339_us

_REFRESH_S: Final = 0.5
_LINE_EVERY_S: Final = 10.0


class ProgressView:
    """Watches a Run from a thread of its own; use as a context."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._console = Console(file=sys.stderr)
        self._done = threading.Event()
        self._started = time.monotonic()
        self._first_position: int | None = None
        self._bar = Progress(
            TextColumn("[bold]replay"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>5.1f} %"),
            TextColumn("{task.fields[rate]:>9,.0f} payments/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            expand=True,
        )
        self._task = self._bar.add_task("replay", total=None, rate=0.0)
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> ProgressView:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        if self._console.is_terminal:
            with Live(self._view(), console=self._console, refresh_per_second=2) as live:
                while not self._done.wait(_REFRESH_S):
                    live.update(self._view())
                live.update(self._view())
            return
        while not self._done.wait(_LINE_EVERY_S):
            self._console.print(self._line(), highlight=False, soft_wrap=True)

    def _counts(self) -> tuple[dict[str, int], float]:
        decisions = dict(self._run.stats.counters.get("decisions", {}))
        seconds = max(time.monotonic() - self._started, 1e-9)
        return decisions, sum(decisions.values()) / seconds

    def _position(self) -> tuple[int, int, int]:
        """Read, total and what this run has read, of the payments' file."""
        merge = self._run.merge
        if merge is None:
            return 0, 0, 0
        position, size = merge.progress()
        if self._first_position is None:
            self._first_position = position
        return position, size, position - self._first_position

    def _line(self) -> str:
        decisions, rate = self._counts()
        position, size, _ = self._position()
        share = position / size if size else 0.0
        told = ", ".join(f"{number:,} {action}" for action, number in sorted(decisions.items()))
        return f"replay {share:6.1%}  {rate:,.0f} payments/s  {told}"

    def _view(self) -> Group:
        decisions, rate = self._counts()
        position, size, _ = self._position()
        self._bar.update(self._task, completed=position, total=size or None, rate=rate)
        counters = self._run.stats.counters
        table = Table(expand=True, box=None, padding=(0, 2))
        names = ["approve", "challenge", "review", "decline"]
        for name in [*names, "retries", "dead letters", "labels", "event time"]:
            table.add_column(name, justify="right")
        merge = self._run.merge
        clock = format_rfc3339_us(merge.clock_us)[:16].replace("T", " ") if merge and merge.clock_us > 0 else ""
        table.add_row(
            *(f"{decisions.get(name, 0):,}" for name in names),
            *(
                f"{sum(counters.get(name, {}).values()):,}"
                for name in ("duplicates", "dead_letters", "labelled_outcomes")
            ),
            clock,
        )
        return Group(self._bar, table)
