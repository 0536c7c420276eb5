"""The champion's prequential loss, watched by River's ADWIN, hour by hour.

ADWIN keeps a window of what looks alike and cuts it where two parts of it differ by more than chance. It takes numbers
from 0 to 1 and its bound is only tight if they fill that range: an hour's mean loss is divided by four times the mean
of the first three days that are judged, and cut off at 1. An hour and not a label is the unit, since frauds come in
episodes.

ADWIN's own state is compiled code's. What is kept instead are the numbers it was given, the last 1,000 to 2,000, from
which it is made again to the bit: no pickle.

Source: Bifet, Gavaldà 2007, Learning from time-changing data with adaptive windowing, SDM, 443-448.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from river import drift

from operators.promotion import loss

_HOUR_US: Final = 3_600_000_000
_SCALED_BY: Final = 72
"""Hours whose mean sets the scale."""
_SPAN: Final = 4.0
_MOST: Final = 2_000
"""Numbers kept: 83 days. More: what ADWIN still compares with lies further back, and a start takes longer."""


class _State(msgspec.Struct, array_like=True):
    hour: int | None = None
    weight: float = 0.0
    lost: float = 0.0
    values: list[float] = []  # scaled hours
    first: list[float] = []  # hours that set the scale
    scale: float | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_State).decode


class LossWatch:
    """Mean loss of the champion by the hour of the labels; see the module."""

    def __init__(self, delta: float, packed: bytes = b"") -> None:
        """Begin, or go on from `to_bytes`.

        Args:
            delta: Chance of a false cut, as ADWIN has it.
            packed: Empty to begin.
        """
        self._delta = delta
        self._state = _decode(packed) if packed else _State()
        self._adwin = self._made()

    def add(self, score: float, weight: float, *, fraud: bool) -> None:
        """Count a label with what the champion said at decision time."""
        self._state.weight += weight
        self._state.lost += weight * loss(score, fraud, "log")

    def restart(self) -> None:
        """Another champion: its losses are compared with its own."""
        self._state = _State(self._state.hour)
        self._adwin = self._made()

    def advance(self, now_us: int, *, judged: bool) -> tuple[float, float] | None:
        """Close the hour that is over; the mean loss before and after when it has risen, else None.

        Args:
            now_us: Event time.
            judged: False during warm-up: the hour is thrown away.
        """
        state = self._state
        hour = now_us // _HOUR_US
        if state.hour is None or hour <= state.hour:
            state.hour = hour if state.hour is None else state.hour
            return None
        state.hour = hour
        if state.weight <= 0.0:
            return None
        mean = state.lost / state.weight
        state.lost = state.weight = 0.0
        if not judged:
            return None
        if state.scale is None:
            state.first.append(mean)
            if len(state.first) >= _SCALED_BY:
                state.scale = _SPAN * sum(state.first) / len(state.first) or 1.0
                state.first = []
            return None
        return self._watch(mean, state.scale)

    def _watch(self, mean: float, scale: float) -> tuple[float, float] | None:
        state = self._state
        value = min(1.0, mean / scale)
        state.values.append(value)
        if len(state.values) > _MOST:
            state.values = state.values[-_MOST // 2 :]
            self._adwin = self._made()
            return None
        before = float(self._adwin.estimation)
        self._adwin.update(value)
        after = float(self._adwin.estimation)
        if not self._adwin.drift_detected or after <= before:
            return None
        return before * scale, after * scale

    def to_bytes(self) -> bytes:
        """All that it is."""
        return _encode(self._state)

    def _made(self) -> Any:
        make: Any = drift.ADWIN
        adwin = make(delta=self._delta, clock=1, grace_period=48)
        for value in self._state.values:
            adwin.update(value)
        return adwin
