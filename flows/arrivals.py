"""Messages of all partitions of a process → one order of arrival, by the time at which the broker appended them.

A partition's order is kept: where its times go back, the largest so far counts. While a partition is *catching up* (it
has not been read to its end yet, as after a restart), nothing appended later than its last message passes: a backlog
of payments meets the device events that stood before them, however the broker hands them out. A partition that was
read to its end once never holds up others again.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, Final, Protocol

HELD_UP_S: Final = 10.0
"""A partition that is catching up and delivers nothing for so long (its leader may be gone) holds up no one. Longer: an
outage of one broker stops all partitions for longer; shorter: a slow one is overtaken, and joins miss what it held."""
_NEVER: Final = 1 << 62

Place = tuple[str, int]


class Message(Protocol):
    """What is asked of a message here."""

    def topic(self) -> Any:
        """Its topic."""

    def partition(self) -> Any:
        """Its partition."""

    def timestamp(self) -> Any:
        """(type, milliseconds since 1970)."""


class _Lane:
    """One partition."""

    __slots__ = ("catching", "last_ms", "since", "waiting")

    def __init__(self, now: float) -> None:
        self.last_ms = -1
        self.waiting = 0
        self.catching = True
        self.since = now


def _now_ms() -> float:
    """The time of this machine, in the unit in which brokers tell that of an append."""
    return time.time() * 1_000


class Arrivals:
    """Messages that wait to be delivered.

    Attributes:
        waiting: How many.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        settle_s: float = 0.0,
        now_ms: Callable[[], float] = _now_ms,
    ) -> None:
        """Prepare.

        Args:
            monotonic: Seconds, by which partitions hold up others.
            settle_s: For how long after its append a message is held; then the order is that of the appends, and of
                topic, partition and offset among equals, so that it comes out the same whenever it is read.
            now_ms: This machine's time, which the brokers' must not be behind by more than `settle_s`.
        """
        self.waiting = 0
        self._monotonic = monotonic
        self._lanes: dict[Place, _Lane] = {}
        self._settle_ms = settle_s * 1_000
        self._now_ms = now_ms
        self._queue: list[tuple[int, Any, Any]] = []  # (milliseconds, number, message), sorted unless `_mixed`
        self._mixed = False
        self._number = 0
        self._catching = 0

    def add(self, place: Place) -> None:
        """A partition is read from now on."""
        self._lanes[place] = _Lane(self._monotonic())
        self._catching += 1
        # While nobody was catching up, nobody counted.
        for lane in self._lanes.values():
            lane.waiting = 0
        for _, _, message in self._queue:
            self._lanes[message.topic(), message.partition()].waiting += 1

    def push(self, message: Message) -> None:
        """A message was read."""
        lane = self._lanes[message.topic(), message.partition()]
        appended_ms = message.timestamp()[1]
        lane.last_ms = max(lane.last_ms, appended_ms)
        queue = self._queue
        if queue and (self._settle_ms or lane.last_ms < queue[-1][0]):
            self._mixed = True
        number: Any = self._number
        if self._settle_ms:
            number = (message.topic(), message.partition(), self._number)
        queue.append((lane.last_ms, number, message))
        self._number += 1
        self.waiting += 1
        if self._catching:
            lane.waiting += 1
            lane.since = self._monotonic()

    def at_end(self, place: Place) -> None:
        """All that a partition holds was read."""
        lane = self._lanes[place]
        if lane.catching:
            lane.catching = False
            self._catching -= 1

    def crowded(self, limit: int) -> list[Place]:
        """Partitions of which more than `limit` messages wait, while others are catching up."""
        return [place for place, lane in self._lanes.items() if lane.waiting > limit] if self._catching else []

    def waiting_of(self, place: Place) -> int:
        """How many messages of a partition wait; 0 when nobody is catching up any more."""
        return self._lanes[place].waiting if self._catching else 0

    def take(self, most: int) -> list[Any]:
        """The next messages, in order."""
        queue = self._queue
        if not queue:
            return []
        if self._mixed:
            queue.sort()
            self._mixed = False
        end = len(queue)
        if self._catching:
            # Not later than what a partition may deliver next, which is not earlier than its last.
            end = bisect_right(queue, self._bound_ms(), key=_milliseconds)
        if self._settle_ms:
            end = min(end, bisect_right(queue, math.floor(self._now_ms() - self._settle_ms), key=_milliseconds))
        end = min(end, most)
        taken = [message for _, _, message in queue[:end]]
        self._queue = queue[end:]
        self.waiting -= end
        if self._catching:
            for message in taken:
                self._lanes[message.topic(), message.partition()].waiting -= 1
        return taken

    def _bound_ms(self) -> int:
        now = self._monotonic()
        bound_ms = _NEVER
        for lane in self._lanes.values():
            if lane.catching and (lane.waiting or now - lane.since < HELD_UP_S):
                bound_ms = min(bound_ms, lane.last_ms)
        return bound_ms


def _milliseconds(entry: tuple[int, Any, Any]) -> int:
    return entry[0]
