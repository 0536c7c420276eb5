"""What travels through the steps: one event, where it came from, and what has been found out about it so far."""

from __future__ import annotations

from typing import Any, Final

from schemas.events import DeviceEvent, IdentityEvent, Label, Outcome, Tick, Transaction

PAYMENT: Final = 0
DEVICE_EVENT: Final = 1
IDENTITY_EVENT: Final = 2
OUTCOME: Final = 3
LABEL: Final = 4
TICK: Final = 5
DEAD_LETTER: Final = 6
ALERT: Final = 7
RELEASE: Final = 8

Value = float | bool | str | None
"""A feature's value: NaN is an absent number, None an absent boolean or string."""

Order = tuple[int, ...]
"""Place in the order of arrival; what a step makes from an event is ordered right behind it, (7,) < (7, 0) < (8,)."""


class Fix:
    """Where an event happened.

    Attributes:
        latitude: WGS 84 degrees.
        longitude: WGS 84 degrees.
        radius_km: The true place lies within this distance of the point.
        source: "event", "ip" or "country".
    """

    __slots__ = ("latitude", "longitude", "radius_km", "source")

    def __init__(self, latitude: float, longitude: float, radius_km: float, source: str) -> None:
        self.latitude = latitude
        self.longitude = longitude
        self.radius_km = radius_km
        self.source = source


class InFlight:
    """One event on its way through the steps.

    Mutable and slotted on purpose: a payment passes every step, and a copy a step would double the cost of a touch.

    Attributes:
        kind: PAYMENT, DEVICE_EVENT, ...; says which struct `event` is.
        order: Place in the order of arrival.
        event: The typed event.
        origin: (topic, partition, offset) it was read from.
        ingested_at_us: When it was read, by the flow's clock.
        keys: For each entity of the feature set, in its order, the entity's key in this event, or None.
        known: Payments only: one slot a feature, in the feature set's order; those of `windows` may not be set yet.
        windows: Payments only: (first slot, row of float64) of each entity's window features, until `values` is asked
            for. 180 numbers as Python floats are 4 KB a payment: made in one step and read in another they fall out
            of the processor's cache, which cost as much as all windows together.
        flags: Payments only: quality flags, in the order in which they were found.
        amount_micros: Amount in millionths of the base currency's major unit, None when no rate is known.
        fix: Where it happened, None when unknown.
        duplicate: Seen before: no step may count it.
        headers: Live payments only: headers of the message that its decision repeats.
        detail: What only one step needs to tell a later one (dead letters: reason, detail and payload).
    """

    __slots__ = (
        "amount_micros",
        "detail",
        "duplicate",
        "event",
        "fix",
        "flags",
        "headers",
        "ingested_at_us",
        "keys",
        "kind",
        "known",
        "order",
        "origin",
        "windows",
    )

    def __init__(
        self,
        kind: int,
        order: Order,
        event: Transaction | DeviceEvent | IdentityEvent | Outcome | Label | Tick | None,
        origin: tuple[str, int, int],
        ingested_at_us: int,
        keys: list[bytes | None],
        values: list[Value],
    ) -> None:
        self.kind = kind
        self.order = order
        self.event = event
        self.origin = origin
        self.ingested_at_us = ingested_at_us
        self.keys = keys
        self.known = values
        self.windows: list[tuple[int, Any]] = []
        self.flags: list[str] = []
        self.amount_micros: int | None = None
        self.fix: Fix | None = None
        self.duplicate = False
        self.headers: tuple[tuple[str, bytes], ...] = ()
        self.detail: object = None

    @property
    def values(self) -> list[Value]:
        """One value a feature, in the feature set's order."""
        known = self.known
        if self.windows:
            for start, row in self.windows:
                known[start : start + len(row)] = row.tolist()
            self.windows = []
        return known
