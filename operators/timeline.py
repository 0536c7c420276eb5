"""Short histories of a status, answered as of any event time.

A timeline is a list of integers `event_time_us << 1 | state`, ascending by time, equal times in order of arrival; the
state is one bit. Events that come late are put at their place, so a status at time t depends on the events up to t
alone, in whatever order they arrived.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

LIMIT: Final = 16
"""Entries kept of a timeline, the latest. Larger makes records larger (8 bytes each); smaller forgets what a late
payment wants: before the oldest of 16 entries a status is unknown."""


def insert(timeline: list[int], event_time_us: int, state: int) -> None:
    """Add a change; of a full timeline the oldest entry goes, which may be the new one."""
    bound = event_time_us << 1 | 1
    timeline.insert(bisect_right(timeline, bound), bound - 1 + state)
    if len(timeline) > LIMIT:
        del timeline[0]


def state_at(timeline: list[int], event_time_us: int) -> int | None:
    """State after the last change at or before `event_time_us`, None when there is none."""
    place = bisect_right(timeline, event_time_us << 1 | 1)
    return timeline[place - 1] & 1 if place else None


def seconds_since(timeline: list[int], event_time_us: int) -> float | None:
    """Seconds since the last change at or before `event_time_us`, None when there is none."""
    place = bisect_right(timeline, event_time_us << 1 | 1)
    return (event_time_us - (timeline[place - 1] >> 1)) / 1e6 if place else None
