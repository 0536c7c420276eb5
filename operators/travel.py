"""How fast an entity would have had to travel: speed and distance from its previous located event, as of event time.

Two tracks are kept apart, for a person can shop on the web from home and stand at a till at the same time:

- **in person**: payments at a terminal (card_present, atm);
- **remote**: ecommerce, wallet and transfer payments, and what a device does by itself (device events `seen` and
  `login`, for entities that these events have a key of). A failed login is no place of the holder's: anybody can fail.

A payment is measured against its own track only, and joins it afterwards. An event without a fix (see `operators.geo`)
neither is measured nor joins: refunds, reversals, recurring payments, anonymising networks, unknown places. Where the
fix comes from makes no difference here but for its radius: a distance is what is certain, the great circle less both
radii, never below 0; so a country's circle seldom proves travel, and a pair of exact fixes does.

The previous fix is the last one at or before the payment's time, of those that have arrived; equal times count in order
of arrival and have no speed. Histories keep what late events need: all fixes of the last `allowed_lateness` before the
newest, and one before; 32 at most. A track is forgotten when it has been still for its longest window, at least 30
days, plus the allowed lateness.

Record of a track, key b"tp" (in person) or b"tr" (remote) + entity key, little-endian: u8 layout (1), then fixes of 20
bytes in the order of event time, equal times in order of arrival: i64 event time in µs since 1970, i32 latitude and i32
longitude in 1e-7 degrees (1.1 cm), u32 radius in metres. Key b"t": the shard clock (`operators.expiry`).
"""

from __future__ import annotations

import struct
from math import asin, cos, pi, sin, sqrt
from typing import Any, Final

from operators.expiry import ShardClock, check_layout, clock_of, clock_writes, sweep
from operators.features import EntitySpec, FeatureSet
from operators.geo import IN_PERSON
from operators.inflight import Fix, InFlight
from schemas.events import DeviceEvent, Transaction
from schemas.times import format_rfc3339_us
from state.api import StepStore

EARTH_RADIUS_KM: Final = 6371.0088
"""Mean radius of WGS 84 (Moritz 2000, Geodetic Reference System 1980, Journal of Geodesy 74:128). A sphere is up to
0.56 % off the ellipsoid, 0.2 % for most pairs: far below what separates a flight from a fraud."""

MAX_FIXES: Final = 32
"""Fixes kept of a track. Smaller: late events of a busy entity find no predecessor; larger: every touch writes more (20
bytes a fix). An entity with fewer located events in the allowed lateness never notices."""

SHORTEST_KEEP_US: Final = 30 * 86_400_000_000
"""A track is kept at least that long after its newest fix: after 30 days any place on earth is a slow journey."""

WHEREABOUTS: Final = frozenset({"seen", "login"})
"""Device events that say where the device is."""

US_PER_HOUR: Final = 3.6e9

PREFIX: Final = b"t"
LAYOUT: Final = 1

_IN_PERSON_PREFIX: Final = b"tp"
_REMOTE_PREFIX: Final = b"tr"
_HEAD: Final = bytes((LAYOUT,))
_FIX: Final = struct.Struct("<qiiI")
_SIZE: Final = _FIX.size
_FIRST: Final = len(_HEAD)
_FULL: Final = _FIRST + MAX_FIXES * _SIZE
_TIME: Final = struct.Struct("<q")
_UNIT: Final = 1e-7 * pi / 180.0
_DIAMETER_KM: Final = 2 * EARTH_RADIUS_KM
_ANYWHERE_KM: Final = 20_100.0  # above half the circumference
_ANYWHERE_M: Final = 20_100_000


def great_circle_km(latitude_a: float, longitude_a: float, latitude_b: float, longitude_b: float) -> float:
    """Length of the great circle between two points, in km; all arguments in degrees.

    Source: haversine, Sinnott 1984, Sky & Telescope 68(2):159.
    """
    degree = pi / 180.0
    return _arc_km(latitude_a * degree, longitude_a * degree, latitude_b * degree, longitude_b * degree)


def certain_distance_km(a: Fix, b: Fix) -> float:
    """Shortest possible distance between two places: great circle less both radii, at least 0."""
    arc = great_circle_km(a.latitude, a.longitude, b.latitude, b.longitude)
    return max(0.0, arc - a.radius_km - b.radius_km)


def implied_speed_kmh(distance_km: float, elapsed_us: int) -> float | None:
    """Speed needed to cover `distance_km` in `elapsed_us`; None when no time passed (undefined, not infinite)."""
    return distance_km * US_PER_HOUR / elapsed_us if elapsed_us else None


class Travel:
    """The travel part of an entity's step; fills `<entity>.speed_kmh`, `.distance_km` and `.travel_seconds`."""

    def __init__(self, feature_set: FeatureSet, entity: EntitySpec) -> None:
        self._index = entity.index
        self._speed = feature_set.slots[f"{entity.name}.speed_kmh"]
        self._distance = feature_set.slots[f"{entity.name}.distance_km"]
        self._seconds = feature_set.slots[f"{entity.name}.travel_seconds"]
        self._lateness_us = feature_set.allowed_lateness_us
        self._keep_us = max(entity.longest_window_us, SHORTEST_KEEP_US) + self._lateness_us

    def on_batch(self, store: StepStore, batch: list[InFlight]) -> list[InFlight]:
        """Fill the slots of every located payment of `batch` and remember where it was."""
        clock = clock_of(store, PREFIX)
        touches = self._touches(batch, clock)
        if touches:
            keys = list({touch[1]: None for touch in touches})
            records = dict(zip(keys, store.get_many(keys), strict=True))
            for record in records.values():
                if record is not None and record[0] != LAYOUT:
                    check_layout(store, record, LAYOUT)
            for item, key, fix, event_time_us, clock_us in touches:
                records[key] = self._touch(item, fix, records[key], event_time_us, clock_us - self._keep_us)
            store.put_many([*records.items(), *clock_writes(clock, PREFIX)])
        elif clock.changed:
            store.put_many(clock_writes(clock, PREFIX))
        return batch

    def on_snapshot(self, store: StepStore) -> None:
        """Delete some tracks that have been still for too long."""
        clock = clock_of(store, PREFIX)
        horizon_us = clock.us - self._keep_us
        sweep(store, PREFIX, clock, self._keep_us // 16, lambda record: _newest_us(record) < horizon_us)

    def _touches(self, batch: list[InFlight], clock: ShardClock) -> list[tuple[InFlight, bytes, Fix, int, int]]:
        """(item, record key, fix, event time, shard clock) of what has a place, in order; moves the clock."""
        index = self._index
        touches = []
        for item in batch:
            if item.duplicate or not item.keys or (key := item.keys[index]) is None:
                continue
            event = item.event
            if isinstance(event, Transaction):
                prefix = _IN_PERSON_PREFIX if event.channel in IN_PERSON else _REMOTE_PREFIX
            elif isinstance(event, DeviceEvent) and event.kind in WHEREABOUTS:
                prefix = _REMOTE_PREFIX
            else:
                continue
            event_time_us = event.event_time_us
            if event_time_us >= clock.next_us:
                clock.observe(event_time_us)
            fix = item.fix
            if fix is not None:
                touches.append((item, prefix + key, fix, event_time_us, clock.us))
        return touches

    def _touch(self, item: InFlight, fix: Fix, record: bytes | None, event_time_us: int, horizon_us: int) -> bytes:
        """Measure `item` against its track and return the track with it."""
        latitude, longitude = round(fix.latitude * 1e7), round(fix.longitude * 1e7)
        radius_m = round(fix.radius_km * 1e3) if fix.radius_km < _ANYWHERE_KM else _ANYWHERE_M
        packed = _FIX.pack(event_time_us, latitude, longitude, radius_m)
        if record is None:
            return _HEAD + packed
        end = place = len(record)  # place: byte offset behind the previous fix
        previous = _FIX.unpack_from(record, end - _SIZE)
        newest_us = previous[0]
        if newest_us < horizon_us:  # expired, whether a sweep has found it or not
            return _HEAD + packed
        while previous[0] > event_time_us:
            place -= _SIZE
            if place == _FIRST:
                break
            previous = _FIX.unpack_from(record, place - _SIZE)
        values = item.known
        if values and place > _FIRST:
            previous_us, previous_latitude, previous_longitude, previous_radius_m = previous
            distance_km = 0.0
            if latitude != previous_latitude or longitude != previous_longitude:
                arc = _arc_km(
                    previous_latitude * _UNIT, previous_longitude * _UNIT, latitude * _UNIT, longitude * _UNIT
                )
                slack_km = (radius_m + previous_radius_m) / 1e3
                distance_km = arc - slack_km if arc > slack_km else 0.0
            elapsed_us = event_time_us - previous_us
            values[self._distance] = distance_km
            values[self._seconds] = elapsed_us / 1e6
            if elapsed_us:
                values[self._speed] = distance_km * US_PER_HOUR / elapsed_us
        if place == end:
            record += packed
            newest_us = event_time_us
        else:
            record = record[:place] + packed + record[place:]
        return _trimmed(record, newest_us - self._lateness_us)


def _trimmed(record: bytes, horizon_us: int) -> bytes:
    """`record` without what no event at or after `horizon_us` can have as its previous fix, MAX_FIXES at most."""
    end = len(record)
    first = _FIRST if end <= _FULL else end - _FULL + _FIRST
    second = first + _SIZE
    while second < end and _TIME.unpack_from(record, second)[0] <= horizon_us:
        second += _SIZE
    return record if second == _FIRST + _SIZE else _HEAD + record[second - _SIZE :]


def _newest_us(record: bytes) -> int:
    newest_us: int = _TIME.unpack_from(record, len(record) - _SIZE)[0]
    return newest_us


def _arc_km(latitude_a: float, longitude_a: float, latitude_b: float, longitude_b: float) -> float:
    """Haversine of radians."""
    north = sin((latitude_b - latitude_a) * 0.5)
    east = sin((longitude_b - longitude_a) * 0.5)
    square = north * north + cos(latitude_a) * cos(latitude_b) * east * east
    # Rounding can leave the domain of asin between antipodes.
    return _DIAMETER_KM * asin(sqrt(square)) if square < 1.0 else _DIAMETER_KM * (pi / 2)


def newest_us(record: bytes) -> int:
    """Event time of the newest fix of a track."""
    return _newest_us(record)


def describe_track(record: bytes) -> dict[str, Any]:
    """A track's fixes, oldest first."""
    return {
        "fixes": [
            {
                "event_time": format_rfc3339_us(event_time_us),
                "latitude": latitude / 1e7,
                "longitude": longitude / 1e7,
                "radius_km": radius_m / 1e3,
            }
            for event_time_us, latitude, longitude, radius_m in _FIX.iter_unpack(record[_FIRST:])
        ]
    }
