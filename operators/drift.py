"""Watches whether today's payments, scores and labels are still those the model was made for.

    warm-up → reference (some weeks of days) → every day against the reference → alerts

Of each feature and of the champion's score a day's histogram is held against the reference's: population stability
index, Kolmogorov-Smirnov distance, share of absent values. The delays of the fraud labels of the last week are held
against the reference's. River's ADWIN watches the hourly mean of the champion's prequential loss, and a rise is told.

Many things are watched every day, and days differ among themselves. So a limit is what is declared, or 1.5 times the
largest that any day of the reference showed against those before, whichever is larger; and it must be passed on
`days` days in a row. A drift is told once, and again only after it has been back within its limit for as long.

Days are days of event time as `advance` tells it. State is bounded by the number of features: two histograms each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
import xxhash

from operators.alerts import Alert, figure, make_alert
from operators.drift_loss import LossWatch
from operators.drift_measure import (
    CELLS,
    Counts,
    absent_share,
    category_cell,
    distance,
    pack_counts,
    score_position,
    stability_index,
    tally,
    unpack_counts,
)
from operators.features import FeatureSet
from operators.inflight import InFlight, Value
from operators.loop_config import DriftConfig
from schemas.errors import StateLayoutError
from schemas.events import Label

SCORE: Final = "score"
SAMPLE_SEED: Final = 23
"""Of the hash that chooses the payments counted; another one chooses others."""
_FORMAT: Final = b"WDR\x01"
_DAY_US: Final = 86_400_000_000
_HOUR_S: Final = 3_600_000_000
_MARGIN: Final = 1.5
"""Over the largest of the reference. Less: the first odd day is drift. More: what is slight takes longer to be seen."""
_DAYS_TO_COMPARE: Final = 3
"""Days a reference needs before the next one is compared with it. Fewer: noise of the first days sets the limit."""
_DELAY_DAYS: Final = 7
_FEWEST_DELAYS: Final = 30
"""Frauds of a week that its delays are judged by."""
_AT_ONCE: Final = 256
_MEASURES: Final = ("psi", "ks", "missing")


class _State(msgspec.Struct, array_like=True):
    features: list[str]
    day: int | None = None
    first_day: int | None = None
    score_day: int | None = None  # first of the score's reference
    days: list[int] = []  # of each row's reference
    reference: list[bytes] = []
    today: list[bytes] = []
    largest: list[float] = []  # of each row: psi, ks, missing in the reference
    over: dict[str, int] = {}  # days in a row over the limit
    told: dict[str, int] = {}  # days in a row within it since it was told
    delays: list[bytes] = []  # reference
    week: list[list[bytes]] = []  # of the last days
    loss: bytes = b""


_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_decode = msgspec.msgpack.Decoder(_State).decode


class DriftWatch:
    """What is watched in one place; see the module. Deterministic: equal events, equal bytes."""

    def __init__(self, config: DriftConfig, features: FeatureSet, packed: bytes | None = None) -> None:
        """Begin, or go on from bytes.

        Args:
            config: Thresholds.
            features: The feature set, whose values payments carry.
            packed: From `to_bytes`; begun anew when it watched other features.

        Raises:
            StateLayoutError: The bytes are none of these.
        """
        self._config = config
        kinds = {feature.name: feature.kind for feature in features.features}
        numbers = [name for name in config.features if kinds[name] == "number"]
        categories = [name for name in config.features if kinds[name] != "number"]
        self._names = [*numbers, SCORE, *categories]
        self._number_slots = [features.slots[name] for name in numbers]
        self._category_slots = [features.slots[name] for name in categories]
        self._ordered = len(numbers) + 1
        self._below = int(config.sample * 2**64)
        self._rows: list[list[Value]] = []
        self._dirty = False
        state = _State(self._names)
        if packed is not None:
            found = _unpack(packed)
            state = found if found.features == self._names else state
        self._state = state
        rows = len(self._names)
        self._reference = unpack_counts(state.reference, rows) if state.reference else _empty(rows)
        self._today = unpack_counts(state.today, rows) if state.today else _empty(rows)
        self._largest = np.array(state.largest or [0.0] * (3 * rows)).reshape(rows, 3)
        self._days = state.days or [0] * rows
        self._delays = unpack_counts(state.delays, 1)[0] if state.delays else _empty(1)[0]
        self._week = [unpack_counts(one, 1)[0] for one in state.week] or [_empty(1)[0]]
        self._loss = LossWatch(config.adwin_delta, state.loss)

    def payments(
        self, run: Sequence[InFlight], values_list: Sequence[Sequence[Value]], scores: Sequence[float | None]
    ) -> None:
        """Count payments that were decided; a sample of them, by hash."""
        for item, values, score in zip(run, values_list, scores, strict=True):
            event: Any = item.event
            if xxhash.xxh64_intdigest(event.transaction_id.encode(), seed=SAMPLE_SEED) < self._below:
                self.payment(values, score)

    def payment(self, values: Sequence[Value], score: float | None) -> None:
        """Count one payment, without sampling."""
        row = [values[slot] for slot in self._number_slots]
        row.append(score_position(score))
        self._rows.append(row)
        today = self._today
        for at, slot in enumerate(self._category_slots, start=self._ordered):
            today[at, category_cell(values[slot])] += 1
        self._dirty = True
        if len(self._rows) >= _AT_ONCE:
            self._count()

    def label(self, label: Label, score: float | None, weight: float) -> None:
        """Count a label.

        Args:
            label: The label.
            score: What the champion said when the payment was decided.
            weight: How many payments the label stands for.
        """
        self._dirty = True
        if label.fraud:
            hours = max(0, label.event_time_us - label.payment_event_time_us) / _HOUR_S
            tally(np.array([[hours]]), self._week[-1].reshape(1, CELLS))
        if score is not None:
            self._loss.add(score, weight, fraud=label.fraud)

    def another_champion(self) -> None:
        """Its scores and losses are other ones by right: both begin their reference anew."""
        self._loss.restart()
        state, row = self._state, self._ordered - 1
        self._reference[row] = 0
        self._largest[row] = 0.0
        self._days[row] = 0
        state.score_day = None
        state.over.pop(f"score_drift {SCORE}", None)
        state.told.pop(f"score_drift {SCORE}", None)

    def advance(self, now_us: int) -> list[Alert]:
        """Let event time go on: hours and days that are over are judged."""
        state, config = self._state, self._config
        day = now_us // _DAY_US
        if state.day is None:
            state.day = state.first_day = day
        alerts: list[Alert] = []
        warm = now_us - (state.first_day or 0) * _DAY_US >= config.warm_up_us
        rise = self._loss.advance(now_us, judged=warm)
        if rise is not None:
            before, after = rise
            told = {"loss_before": figure(before), "loss_after": figure(after), "detector": "ADWIN"}
            told["delta"] = figure(config.adwin_delta)
            alerts.append(make_alert("loss_drift", now_us, "champion", after, before, told))
        if day > state.day:
            self._dirty = True
            alerts += self._close(state.day, (state.day + 1) * _DAY_US)
            state.day = day
        return alerts

    def _count(self) -> None:
        if self._rows:
            tally(np.array(self._rows, dtype=np.float64), self._today[: self._ordered])
            self._rows = []

    def _close(self, day: int, ended_us: int) -> list[Alert]:
        """Judge a day that is over, or take it into the reference."""
        self._count()
        state, config = self._state, self._config
        today, self._today = self._today, _empty(len(self._names))
        week = self._week
        self._week = [*week, _empty(1)[0]][-_DELAY_DAYS:]
        began_us = (day - (state.first_day or 0)) * _DAY_US
        if began_us < config.warm_up_us:
            return []
        refers = began_us < config.warm_up_us + config.reference_us
        alerts = []
        for at, name in enumerate(self._names):
            if int(today[at].sum()) < config.min_payments:
                continue
            if self._refers(name, day, today[at], refers=refers):
                if self._days[at] >= _DAYS_TO_COMPARE:
                    self._largest[at] = np.maximum(self._largest[at], self._measure(at, today[at]))
                self._reference[at] += today[at]
                self._days[at] += 1
            elif int(self._reference[at].sum()) >= config.min_payments:
                alerts += self._judge(at, name, today[at], ended_us)
        if refers:
            self._delays += week[-1]
            return alerts
        return alerts + self._judge_delays(np.sum(week, axis=0), ended_us)

    def _refers(self, name: str, day: int, today: Counts, *, refers: bool) -> bool:
        """Whether a day belongs to the reference; the score's begins when there are scores, and with each champion."""
        state = self._state
        if name != SCORE:
            return refers
        if state.score_day is None:
            if int(today[1:].sum()) < self._config.min_payments:
                return False
            state.score_day = day
        return (day - state.score_day) * _DAY_US < self._config.reference_us

    def _measure(self, at: int, today: Counts) -> tuple[float, float, float]:
        """Population stability index, distance, change of the absent share."""
        reference = self._reference[at]
        missing = abs(absent_share(today) - absent_share(reference))
        if int(today[1:].sum()) < self._config.min_payments:
            return 0.0, 0.0, missing
        apart = distance(reference, today) if at < self._ordered else 0.0
        return stability_index(reference, today), apart, missing

    def _judge(self, at: int, name: str, today: Counts, ended_us: int) -> list[Alert]:
        config = self._config
        found = self._measure(at, today)
        limits = [
            max(declared, _MARGIN * largest)
            for declared, largest in zip(
                (config.psi, config.ks, config.missing), self._largest[at].tolist(), strict=True
            )
        ]
        excess = [value / limit for value, limit in zip(found, limits, strict=True)]
        alerts = []
        shifted = max(range(2), key=lambda which: excess[which])
        for kind, which in (("score_drift" if name == SCORE else "feature_drift", shifted), ("feature_missing", 2)):
            if self._persists(f"{kind} {name}", over=excess[which] >= 1.0):
                told = {measure: figure(value) for measure, value in zip(_MEASURES, found, strict=True)}
                told |= {"measure": _MEASURES[which], "payments": str(int(today.sum()))}
                told["days_in_a_row"] = str(config.days)
                alerts.append(make_alert(kind, ended_us, name, found[which], limits[which], told))
        return alerts

    def _judge_delays(self, week: Counts, ended_us: int) -> list[Alert]:
        reference, frauds = int(self._delays.sum()), int(week.sum())
        if min(reference, frauds) < _FEWEST_DELAYS:
            return []
        apart = distance(self._delays, week)
        # Critical distance of the two-sample test at one in a thousand and half as much again: episodes come together.
        chance = 1.95 * _MARGIN * float(np.sqrt((reference + frauds) / (reference * frauds)))
        limit = max(self._config.delay_ks, chance)
        if not self._persists("label_delay_drift", over=apart >= limit):
            return []
        told = {
            "median_hours_before": figure(_median_hours(self._delays)),
            "median_hours_now": figure(_median_hours(week)),
            "frauds": str(frauds),
        }
        return [make_alert("label_delay_drift", ended_us, "fraud", apart, limit, told)]

    def _persists(self, what: str, *, over: bool) -> bool:
        """Whether this is the day on which a drift is told."""
        state, days = self._state, self._config.days
        if what in state.told:
            state.told[what] = 0 if over else state.told[what] + 1
            if state.told[what] >= days:
                del state.told[what]
            return False
        state.over[what] = state.over.get(what, 0) + 1 if over else 0
        if state.over[what] < days:
            if not over:
                del state.over[what]
            return False
        del state.over[what]
        state.told[what] = 0
        return True

    def to_bytes(self) -> bytes:
        """All that it is; equal histories give equal bytes."""
        self._count()
        state = self._state
        state.reference, state.today = pack_counts(self._reference), pack_counts(self._today)
        state.largest = self._largest.reshape(-1).tolist()
        state.days = self._days
        state.delays = pack_counts(self._delays.reshape(1, CELLS))
        state.week = [pack_counts(one.reshape(1, CELLS)) for one in self._week]
        state.loss = self._loss.to_bytes()
        return _FORMAT + _encode(state)

    def take_dirty(self) -> bool:
        """Whether something was counted since the last time this was asked."""
        dirty, self._dirty = self._dirty, False
        return dirty


def _unpack(packed: bytes) -> _State:
    try:
        if packed[: len(_FORMAT)] != _FORMAT:
            raise ValueError(packed[: len(_FORMAT)])
        return _decode(packed[len(_FORMAT) :])
    except (ValueError, msgspec.MsgspecError) as error:
        message = f"drift: no record of format {_FORMAT!r} ({error}); restore a backup"
        raise StateLayoutError(message) from error


def _empty(rows: int) -> Counts:
    return np.zeros((rows, CELLS), dtype=np.int64)


def _median_hours(counts: Counts) -> float:
    """Lower edge of the grid's cell in which the median falls."""
    middle = int(np.searchsorted(np.cumsum(counts[1:]), counts[1:].sum() / 2))
    return 0.0 if middle == 0 else float(2.0 ** (-10 + (middle - 1) // 2) * (1.0 + ((middle - 1) % 2) / 2.0))
