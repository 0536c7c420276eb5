"""The event files as bytewax's source, and one process's part in a replay."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from flows.epochs import Epochs, OneLate
from flows.exits import deadly
from flows.merge import Merge, MergeState
from flows.stage import Part
from flows.stats import RunStats
from flows.watchdog import Pulse
from operators.inflight import InFlight

_LINGER: Final = timedelta(milliseconds=10)
"""How often the source looks whether the epoch is over; less would only burn the processor."""
FIRST_BATCH: Final = 250
"""Events of the first batch; each later one is twice as long until the size asked for is reached. A batch is decided as
a whole, so a larger first one delays the first decision after a resume: 4,000 take over a second. Results do not depend
on it."""


class Run:
    """One process's part in a replay: what it measures, and whether it shall stop.

    Attributes:
        stats: Figures by stage.
        stop: Set to end in order: commit what was read, read no more.
        finished: All events were read.
        merge: The merged events, None until bytewax has opened the source, and in processes without it.
        pulse: Progress beyond that of the stages, for the watchdog.
        state: Figures of the state at the end (`flows.state_stats`).
    """

    def __init__(self) -> None:
        self.stats = RunStats()
        self.stop = threading.Event()
        self.finished = False
        self.merge: Merge | None = None
        self.pulse = Pulse()
        self.state: dict[str, dict[str, float]] = {}


class _EventsPartition(StatefulSourcePartition[Part, MergeState]):
    """The merged files, a batch at a time."""

    def __init__(self, merge: Merge, size: int, run: Run, epochs: Epochs, rate: float | None, *, linger: bool) -> None:
        self._merge = merge
        self._linger = linger
        self._size = size
        self._next_size = min(size, FIRST_BATCH)
        self._run = run
        self._epochs = epochs
        self._rate = rate
        self._due: datetime | None = None
        self._batch = 0
        self._told = OneLate(epochs, merge.state())
        self._alone = not linger
        self._ended_in = -1

    @deadly
    def next_batch(self) -> Iterable[Part]:
        """Called by bytewax whenever it has room; ends the flow when all is read or the run is to stop."""
        started = time.perf_counter()
        self._run.stats.times.mark("opened")
        self._run.stats.stalls.polled(started, idle=self._rate is not None)
        if self._run.stop.is_set():
            return self._last()
        events: list[InFlight] = []
        merge = self._merge
        try:
            for _ in range(self._next_size):
                events.append(next(merge))
        except StopIteration:
            if not events:
                self._run.finished = True
                return self._linger_on() if self._linger else self._last()
        self._next_size = min(self._size, 2 * self._next_size)
        self._run.stats.stage("ingest").observe(time.perf_counter() - started, len(events))
        return self._deliver(events)

    def _linger_on(self) -> Iterable[Part]:
        """Begin one more epoch, in which the labels are told that wait for the one under way to end."""
        if not self._epochs.empty:
            return self._wait()
        self._linger = False
        tick = self._merge.repeated_tick()
        return self._last() if tick is None else self._deliver([tick])

    def _last(self) -> Iterable[Part]:
        """End the flow, so that what is told at the end is all that was read (flows/epochs.py)."""
        self._run.stats.times.mark("all_read")
        if self._alone:
            if self._epochs.empty:
                return self._deliver([])
            self._epochs.final = True
            raise StopIteration
        if self._ended_in == self._epochs.number:
            raise StopIteration
        if self._epochs.empty:
            self._ended_in = self._epochs.number
            return self._deliver([])
        return self._wait()

    def _wait(self) -> Iterable[Part]:
        self._run.pulse.beat("waiting for the last epoch to end")
        self._due = datetime.now(UTC) + _LINGER
        return []

    def _deliver(self, events: list[InFlight]) -> Iterable[Part]:
        part = Part(self._batch, 1, events, [], wake=self._epochs.begins())
        self._batch += 1
        if self._rate is not None:
            # From when the batch was due, not from now: a stall is caught up with, as a live stream's would be.
            self._due = (self._due or datetime.now(UTC)) + timedelta(seconds=len(events) / self._rate)
        return [part]

    def next_awake(self) -> datetime | None:
        """Called by bytewax; when the next batch is due, None: at once."""
        return self._due

    def snapshot(self) -> MergeState:
        """Called by bytewax at the end of an epoch."""
        self._run.stats.stalls.epoch_ends(time.perf_counter())
        # Nobody was woken where nothing was due for a whole epoch: all tell what they told before.
        told = self._told.again() if self._epochs.empty else self._told.tell(self._merge.state())
        self._epochs.end()
        return told


class EventsSource(FixedPartitionedSource[Part, MergeState]):
    """The event files as one bytewax partition, since their merged order is one order."""

    def __init__(
        self,
        open_merge: Callable[[MergeState | None], Merge],
        size: int,
        run: Run,
        epochs: Epochs,
        rate: float | None = None,
        *,
        linger: bool = False,
    ) -> None:
        """Prepare.

        Args:
            open_merge: Opens the merged events where an earlier run stood.
            size: Events in a batch.
            run: Of this process.
            epochs: Told which batch begins an epoch.
            rate: Events a second at the most.
            linger: Whether there is something to be told in an epoch behind the last event.
        """
        self._open_merge = open_merge
        self._linger = linger
        self._size = size
        self._run = run
        self._epochs = epochs
        self._rate = rate

    def list_parts(self) -> list[str]:
        """Called by bytewax once a worker."""
        return ["events"]

    @deadly
    def build_part(self, step_id: str, for_part: str, resume_state: MergeState | None) -> _EventsPartition:
        """Called by bytewax on the worker that owns the partition."""
        merge = self._open_merge(resume_state)
        self._run.merge = merge
        self._run.pulse.beat("opening the events")
        return _EventsPartition(merge, self._size, self._run, self._epochs, self._rate, linger=self._linger)
