"""Merges event files into one sequence in event-time order, with a tick at every boundary, resumable at any event.

Ties are broken by stream: identity, device, outcomes, tick, payments. Outcomes count at the next tick, so they are
merged at the boundary they wait for.

A file's order is its order of arrival: a late event stands behind later ones and is delivered there. Where it stands in
the merge is its *arrival time*, which only moves forward. One event that is dated far ahead of those around it must not
drag its stream along, so an event advances the arrival time to its own only if two of the four behind it are as late,
else to the earliest of theirs. (The last event of a file has none behind it and is believed.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol, TypedDict

from flows.files import EventFile
from operators.inflight import TICK, InFlight
from schemas.events import Tick

LOOKAHEAD: Final = 4
"""Events behind one that vote on its arrival time; two neighbours dated ahead together still cannot move the clock."""

_NEVER: Final = 1 << 62
IDENTITY, DEVICE, OUTCOMES, TICKS, PAYMENTS = range(5)


class Ingest(Protocol):
    """Makes an event of a raw record; what cannot be read comes back as a dead letter without an event."""

    def __call__(self, payload: bytes | dict[str, Any], origin: tuple[str, int, int], /) -> InFlight:
        """The event of one record; never raises for what the record holds."""
        ...


class StreamState(TypedDict):
    """Where a stream stands: the next record's position and number, and the arrival time reached."""

    position: int
    number: int
    arrival_us: int


class MergeState(TypedDict):
    """Where the merge stands; equal states deliver equal sequences."""

    streams: dict[str, StreamState]
    sequence: int
    next_tick_us: int
    clock_us: int


class _Stream:
    """One file, decoded a few events ahead."""

    def __init__(self, name: str, priority: int, source: EventFile, ingest: Ingest, state: StreamState | None) -> None:
        self.name = name
        self.priority = priority
        self.size = source.size
        self.position = state["position"] if state else 0
        self.number = state["number"] if state else 0
        self.arrival_us = state["arrival_us"] if state else -_NEVER
        self._ingest = ingest
        self._records = source.read_from(self.position, self.number)
        self._ahead: deque[tuple[InFlight, int, int]] = deque()
        self._rounding_us = 0
        self.head_us = _NEVER

    def start(self, rounding_us: int) -> None:
        """Read the first events; `rounding_us` > 0 rounds arrival up to a multiple of it."""
        self._rounding_us = rounding_us
        for _ in range(LOOKAHEAD + 1):
            self._read()
        self._look()

    def take(self) -> InFlight:
        """The event at the head; the next one moves up."""
        item, number, position = self._ahead.popleft()
        self.position = position
        self.number = number + 1
        self.arrival_us = self._head_arrival_us
        self._read()
        self._look()
        return item

    def state(self) -> StreamState:
        return StreamState(position=self.position, number=self.number, arrival_us=self.arrival_us)

    def _read(self) -> None:
        record = next(self._records, None)
        if record is not None:
            payload, number, position = record
            self._ahead.append((self._ingest(payload, (self.name, 0, number)), number, position))

    def _look(self) -> None:
        ahead = self._ahead
        if not ahead:
            self.head_us = _NEVER
            return
        event: Any = ahead[0][0].event
        arrival_us = self.arrival_us
        if event is not None:
            time_us: int = event.event_time_us
            if time_us > arrival_us:
                arrival_us = max(arrival_us, self._voted_us(time_us))
        self._head_arrival_us = arrival_us
        if self._rounding_us and arrival_us > -_NEVER:
            arrival_us = -(-arrival_us // self._rounding_us) * self._rounding_us
        self.head_us = arrival_us

    def _voted_us(self, time_us: int) -> int:
        """The head's time if half of those behind it are as late; else the earliest of theirs, if that is lower."""
        votes = 0
        wanted = (len(self._ahead) - 1) // 2  # LOOKAHEAD // 2, fewer at the end of the file
        earliest_us = time_us
        for place in range(1, len(self._ahead)):
            behind: Any = self._ahead[place][0].event
            if behind is not None:
                earliest_us = min(earliest_us, behind.event_time_us)
                votes += behind.event_time_us >= time_us
                if votes == wanted:
                    return time_us
        return earliest_us if votes < wanted else time_us


class Merge:
    """The merged sequence.

    Attributes:
        clock_us: The largest arrival time delivered; the replay's clock.
        sequence: Number of the next event.
    """

    def __init__(
        self,
        files: dict[str, EventFile],
        ingest: Callable[[str], Ingest],
        tick_us: int,
        state: MergeState | None,
    ) -> None:
        """Open the streams.

        Args:
            files: By stream: transactions, device_events, identity_events, outcomes; a missing one is empty.
            ingest: Gives the decoder of a stream.
            tick_us: Time between ticks.
            state: Where an earlier merge stood, None for the beginning.
        """
        priorities = {"identity_events": IDENTITY, "device_events": DEVICE, "outcomes": OUTCOMES}
        known = state["streams"] if state else {}
        self._tick_us = tick_us
        self._streams = [
            _Stream(name, priorities.get(name, PAYMENTS), source, ingest(name), known.get(name))
            for name, source in files.items()
        ]
        self._streams.sort(key=lambda stream: stream.priority)
        for stream in self._streams:
            stream.start(tick_us if stream.priority == OUTCOMES else 0)
        self.sequence = state["sequence"] if state else 0
        self.clock_us = state["clock_us"] if state else -_NEVER
        self._next_tick_us = state["next_tick_us"] if state else -_NEVER

    def state(self) -> MergeState:
        """Where the merge stands, behind the last event it delivered."""
        return MergeState(
            streams={stream.name: stream.state() for stream in self._streams},
            sequence=self.sequence,
            next_tick_us=self._next_tick_us,
            clock_us=self.clock_us,
        )

    def progress(self) -> tuple[int, int]:
        """(read, in all) of the payments' file, in the unit of its positions."""
        stream = self._streams[-1]
        return stream.position, stream.size

    def __iter__(self) -> Iterator[InFlight]:
        return self

    def __next__(self) -> InFlight:
        best = min(self._streams, key=lambda stream: (stream.head_us, stream.priority))
        if best.head_us == _NEVER:
            return self._last_tick()
        tick = self._tick_before(best.head_us, best.priority)
        if tick is not None:
            return tick
        item = best.take()
        self.clock_us = max(self.clock_us, best.arrival_us)
        return self._deliver(item)

    def _tick_before(self, head_us: int, priority: int) -> InFlight | None:
        """The tick that comes before an event, None when that boundary has been passed already."""
        if head_us <= -_NEVER:
            return None
        boundary_us = head_us // self._tick_us * self._tick_us
        if boundary_us == head_us and priority < TICKS:
            boundary_us -= self._tick_us
        if self._next_tick_us == -_NEVER:
            # Nothing came before the first event, so there is nothing that its boundary could release.
            self._next_tick_us = boundary_us + self._tick_us
        return self._tick(boundary_us) if boundary_us >= self._next_tick_us else None

    def _last_tick(self) -> InFlight:
        """Once everything is read, one more boundary releases what waits for it."""
        boundary_us = -(-self.clock_us // self._tick_us) * self._tick_us
        if self.clock_us == -_NEVER or boundary_us < self._next_tick_us:
            raise StopIteration
        return self._tick(boundary_us)

    def repeated_tick(self) -> InFlight | None:
        """The last tick once more, which releases nothing new; None when there was none."""
        if self._next_tick_us == -_NEVER:
            return None
        return self._tick(self._next_tick_us - self._tick_us)

    def _tick(self, boundary_us: int) -> InFlight:
        self._next_tick_us = boundary_us + self._tick_us
        self.clock_us = max(self.clock_us, boundary_us)
        return self._deliver(InFlight(TICK, (), Tick(event_time_us=boundary_us), ("ticks", 0, 0), 0, [], []))

    def _deliver(self, item: InFlight) -> InFlight:
        item.order = (self.sequence,)
        item.ingested_at_us = max(self.clock_us, 0)
        self.sequence += 1
        return item
