"""What an entity's declaration means to the kernel: its series of rows, their windows, one operation a feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from operators import window_measure as measure
from operators.expression import compile_expression
from operators.features import EntitySpec, FeatureSet, Window, fact_names
from operators.inflight import DEVICE_EVENT, IDENTITY_EVENT
from operators.panes import HLL_WORDS, PANES, SPARE_PANES
from operators.window_record import PANE_WORDS, PAYMENTS, REFUNDS
from operators.window_shape import shape_of
from schemas.errors import ProfileError

LABELS_LIMIT: Final = 60
"""Different windows an entity may have: each has a bit in a word of flags."""
SERIES_LIMIT: Final = 60
"""Series an entity may have: each has a bit in a word."""
DAY_US: Final = 86_400_000_000
RETENTION_WITHOUT_WINDOWS_US: Final = 30 * DAY_US
"""How long since_last is remembered in a feature set without any window."""

_OPS: Final = {
    "count": measure.OP_COUNT,
    "sum": measure.OP_SUM,
    "mean": measure.OP_MEAN,
    "max": measure.OP_MAX,
    "stddev": measure.OP_STDDEV,
}
_STREAM_EVENTS: Final = {"device_event": DEVICE_EVENT, "identity_event": IDENTITY_EVENT}


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of work and memory; the defaults are the ones DESIGN.md promises. Tests lower them.

    Attributes:
        exact: A window with more rows falls back to panes. Larger: exact for longer, but a touch of a hot entity costs
            1.5 ns a row more; the promise is 4,096.
        raw: Rows kept of a series. Smaller: a late event at a busy entity meets rows that are gone. Larger: 16 bytes a
            row on disk, and 512 chunks are what an index can hold without being slow to read.
        chunk: Rows sealed together. Smaller: more records to read for a hot entity. Larger: a late event into a sealed
            chunk rewrites more.
        tail: Rows in the head beyond which a chunk is sealed. Smaller: late events meet sealed chunks more often.
            Larger: the head, which every touch writes, grows by 16 bytes a row.
    """

    exact: int = 4_096
    raw: int = 65_536
    chunk: int = 128
    tail: int = 160


class _Builder:
    """Collects series and windows while the declaration is read."""

    def __init__(self) -> None:
        self.series: list[tuple[str, bool, int]] = []  # name, valued, fields
        self.windows: list[list[Window]] = []

    def add(self, name: str, *, valued: bool, fields: int, windows: list[Window]) -> int:
        self.series.append((name, valued, fields))
        self.windows.append(sorted(dict.fromkeys(windows), key=lambda window: (window.us, window.label)))
        return len(self.series) - 1

    def window(self, series: int, window: Window) -> int:
        return sum(len(one) for one in self.windows[:series]) + self.windows[series].index(window)


class Plan:
    """The arrays that the kernel takes, and which series an event enters.

    Attributes:
        labels: Labels of all windows, by bit of the approximated flags, with their lengths in µs.
        retention_us: An entity not heard of for longer than this behind the shard clock is new.
        fields: Fields of which distinct values are counted.
        filters: Bit of a filtered series, and the condition on the payment's facts.
        shape: What the layout of the records follows from.
        payment_mask: Series that every purchase and verification enters.
        refund_mask: Series that every other payment enters.
        label_mask: Series that a label enters.
        fraud_mask: Series that a label of fraud enters beside it.
        stream_masks: Series that an event enters, by kind of item and kind of event.
        hashed: Whether distinct values are counted.
        valued: Whether amounts are kept.
    """

    def __init__(self, feature_set: FeatureSet, entity: EntitySpec, limits: Limits) -> None:
        builder = _Builder()
        self.fields = tuple(one.field for one in entity.distinct)
        windows = [*entity.windows, *(window for one in entity.distinct for window in one.windows)]
        self.valued = any(aggregate != "count" for aggregate in entity.amount)
        builder.add("payments", valued=self.valued, fields=len(self.fields), windows=windows)
        builder.add("refunds", valued=False, fields=0, windows=[])
        self.payment_mask = 1 << PAYMENTS if windows or entity.since_last else 0
        self.refund_mask = 1 << REFUNDS if entity.since_last else 0
        self.filters = []
        groups = []
        for group in entity.filtered:
            valued = any(aggregate != "count" for aggregate in group.amount)
            at = builder.add(f"filtered {group.where}", valued=valued, fields=0, windows=list(group.windows))
            groups.append(at)
            where = f"entities.{entity.name}.filtered {group.name}"
            self.filters.append((1 << at, compile_expression(group.where, fact_names(), where).function))
        labels = frauds = -1
        self.label_mask = self.fraud_mask = 0
        if entity.fraud_rate:
            labels = builder.add("labels", valued=True, fields=0, windows=list(entity.fraud_rate))
            frauds = builder.add("frauds", valued=True, fields=0, windows=list(entity.fraud_rate))
            self.label_mask, self.fraud_mask = 1 << labels, 1 << frauds
        self.stream_masks: dict[tuple[int, str], int] = {}
        streams = []
        for stream in entity.streams:
            name = f"{stream.event} {','.join(sorted(stream.kinds))}"
            at = builder.add(name, valued=False, fields=0, windows=list(stream.windows))
            streams.append(at)
            for kind in stream.kinds:
                place = _STREAM_EVENTS[stream.event], kind
                self.stream_masks[place] = self.stream_masks.get(place, 0) | 1 << at

        program: list[tuple[int, int, int, int]] = []

        def amounts(at: int, over: tuple[Window, ...], aggregates: tuple[str, ...]) -> None:
            program.extend((_OPS[one], builder.window(at, window), 0, 0) for window in over for one in aggregates)

        amounts(PAYMENTS, entity.windows, entity.amount)
        for field, one in enumerate(entity.distinct):
            program.extend((measure.OP_DISTINCT, builder.window(PAYMENTS, w), field, 0) for w in one.windows)
        for window in entity.fraud_rate:
            label, fraud = builder.window(labels, window), builder.window(frauds, window)
            program.append((measure.OP_FRAUD_RATE, label, 0, fraud))
            program.append((measure.OP_WEIGHT, fraud, 0, 0))
            program.append((measure.OP_WEIGHT, label, 0, 0))
        for at, group in zip(groups, entity.filtered, strict=True):
            amounts(at, group.windows, group.amount)
        for at, stream in zip(streams, entity.streams, strict=True):
            program.extend((measure.OP_COUNT, builder.window(at, window), 0, 0) for window in stream.windows)
        if entity.since_last:
            program += [(measure.OP_SINCE_LAST, 0, 0, 0), (measure.OP_SINCE_FIRST, 0, 0, 0)]
        self.program = np.array(program, np.int64).reshape(len(program), 4)
        self._arrays(feature_set, entity, limits, builder)

    def _arrays(self, feature_set: FeatureSet, entity: EntitySpec, limits: Limits, builder: _Builder) -> None:
        lateness = feature_set.allowed_lateness_us
        self.labels = sorted({(w.label, w.us) for over in builder.windows for w in over}, key=lambda one: one[1])
        if len(self.labels) > LABELS_LIMIT or len(builder.series) > SERIES_LIMIT:
            text = (
                f"entities.{entity.name}: {len(self.labels)} different windows over {len(builder.series)} series of "
                f"events; expected at most {LABELS_LIMIT} and {SERIES_LIMIT}: merge windows, filters or streams"
            )
            raise ProfileError(text)
        bits = {label: bit for bit, (label, _) in enumerate(self.labels)}
        count = sum(len(over) for over in builder.windows)
        self.bounds = np.zeros(len(builder.series) + 1, np.int64)
        self.series = np.zeros((len(builder.series), 4), np.int64)
        self.windows = np.zeros((count, 5), np.int64)
        self.sketches = np.full((count, max(len(self.fields), 1)), -1, np.int64)
        extra_most = 0
        w = 0
        for s, ((_, valued, fields), over) in enumerate(zip(builder.series, builder.windows, strict=True)):
            longest = max((window.us for window in (over or builder.windows[PAYMENTS])), default=0)
            self.series[s] = (1 + valued + fields, valued, longest + lateness, fields)
            for window in over:
                pane = window.us // PANES
                extra = min(PANES, -(-lateness // pane)) + 1
                extra_most = max(extra_most, extra)
                words = PANE_WORDS
                for field, one in enumerate(entity.distinct if s == PAYMENTS else ()):
                    if window in one.windows:
                        self.sketches[w, field] = words
                        words += HLL_WORDS
                self.windows[w] = (window.us, pane, extra, bits[window.label], words)
                w += 1
            self.bounds[s + 1] = w
        self.panes_room = PANES + 2 + extra_most + SPARE_PANES
        longest_of_set = max((one.longest_window_us for one in feature_set.entities), default=0)
        remembered = (longest_of_set or RETENTION_WITHOUT_WINDOWS_US) if entity.since_last else entity.longest_window_us
        self.retention_us = remembered + lateness
        self.limits = np.array(
            [limits.exact, limits.raw, lateness, self.retention_us, int(entity.since_last), 0, 0], np.int64
        )
        prior = feature_set.fraud_rate_prior
        self.prior = np.array([prior.rate, prior.strength], np.float64)
        keeps_us = self.series[:, 2].tolist()
        shape = shape_of(entity, builder.series, builder.windows, keeps_us, lateness, self.retention_us)
        self.shape = shape.text()
