"""What the windows should say, computed the slow and obvious way from everything that has arrived."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from operators.expression import compile_expression
from operators.features import (
    Distinct,
    EntitySpec,
    FeatureSet,
    Filtered,
    Stream,
    Window,
    fact_names,
    load_feature_set,
)
from operators.inflight import DEVICE_EVENT, IDENTITY_EVENT, LABEL, PAYMENT, InFlight
from schemas.events import DeviceEvent, Label, Transaction

NAN = float("nan")
SECOND = 1_000_000
CLOCK_RANK = 16
PANES = 64

Row = tuple[int, InFlight]


def feature_set_of(folder: Path, text: str) -> FeatureSet:
    """The feature set of a features.toml with this text; id and base currency are put in front."""
    path = folder / "features.toml"
    path.write_text(f'id = "test-1"\nbase_currency = "EUR"\n{text}')
    return load_feature_set(path)


def payment(
    feature_set: FeatureSet, t: int, *, account: str = "a", amount: float | None = 1.0, duplicate: bool = False,
    **more: Any,
) -> InFlight:  # fmt: skip
    """A payment on its way, its amount (major units, None: no rate) converted already."""
    event = Transaction(
        transaction_id="t", event_time_us=t, account_id=account, channel="ecommerce", amount_minor=0, currency="EUR",
        **more,
    )  # fmt: skip
    item = InFlight(PAYMENT, (0,), event, ("", 0, 0), 0, feature_set.keys_of(event), feature_set.new_values())
    item.values[feature_set.slots["amount"]] = NAN if amount is None else amount
    item.values[feature_set.slots["channel"]] = event.channel
    item.amount_micros = None if amount is None else round(amount * 1_000_000)
    item.duplicate = duplicate
    return item


def label(
    feature_set: FeatureSet, t: int, *, fraud: bool, account: str = "a", weight: float = 1.0,
    previous: tuple[int, bool, float] | None = None,
) -> InFlight:  # fmt: skip
    """A label of one of the account's payments; previous: time, fraud and weight of the label it corrects."""
    event = Label(
        transaction_id="t", event_time_us=t, payment_event_time_us=0, payment_seen_at_us=0, fraud=fraud,
        weight=weight, source="analyst",
        previous_event_time_us=previous[0] if previous else None, previous_fraud=previous[1] if previous else None,
        previous_weight=previous[2] if previous else None,
    )  # fmt: skip
    keys = payment(feature_set, t, account=account).keys
    return InFlight(LABEL, (0,), event, ("", 0, 0), 0, keys, [])


def device_event(feature_set: FeatureSet, t: int, kind: str, *, account: str = "a") -> InFlight:
    """An event of a device that belongs to the account."""
    event = DeviceEvent(event_id="d", event_time_us=t, device_id="d", kind=kind, account_id=account)
    return InFlight(DEVICE_EVENT, (0,), event, ("", 0, 0), 0, feature_set.keys_of(event), [])


class Oracle:
    """All events of one entity type, kept for ever; expiry is applied to what is looked at.

    `expected` gives for each feature the values that are right: one, or for a window that is too busy also the one of
    a window that begins with a whole pane.
    """

    def __init__(self, feature_set: FeatureSet, entity: EntitySpec, exact: int = 4_096) -> None:
        self.feature_set = feature_set
        self.entity = entity
        self.exact = exact
        self.filters = [compile_expression(one.where, fact_names(), one.name).function for one in entity.filtered]
        own = entity.longest_window_us
        kept = max(one.longest_window_us for one in feature_set.entities) if entity.since_last else own
        self.retention = kept + feature_set.allowed_lateness_us
        self.times: list[int] = []
        self.payments: dict[bytes, list[Row]] = {}
        self.labels: dict[bytes, list[tuple[int, bool, float]]] = {}
        self.streams: dict[bytes, list[tuple[int, str, str]]] = {}
        self.last_any: dict[bytes, int] = {}
        self.covered: int | None = None

    def take(self, item: InFlight) -> tuple[dict[str, list[float]], list[str]] | None:
        """Remember the event; for a payment, what may stand in its values, and its flags."""
        key = item.keys[self.entity.index]
        event: Any = item.event
        if item.duplicate or (key is None and item.kind != PAYMENT):
            return None
        if key is None:
            return {}, [f"absent:{self.entity.name}"]
        source = {DEVICE_EVENT: "device_event", IDENTITY_EVENT: "identity_event"}.get(item.kind)
        if source and not any(one.event == source and event.kind in one.kinds for one in self.entity.streams):
            return None
        t = event.event_time_us
        if item.kind != LABEL:
            self.times.append(t)
            self.covered = t if self.covered is None else self.covered
        clock = sorted(self.times)[-CLOCK_RANK] if len(self.times) >= CLOCK_RANK else -math.inf
        if self.last_any.get(key, t) < clock - self.retention:
            for kept in (self.payments, self.labels, self.streams, self.last_any):
                kept.pop(key, None)
        answer = None
        if item.kind == PAYMENT:
            answer = self._payment(key, item, t, clock)
        elif source:
            self.streams.setdefault(key, []).append((t, source, event.kind))
        else:
            rows = self.labels.setdefault(key, [])
            old = (event.previous_event_time_us, event.previous_fraud, event.previous_weight)
            if old in rows:  # it weighs nothing any more, but it is an event of the window still
                rows[rows.index(old)] = (old[0], old[1], 0.0)
            rows.append((t, event.fraud, event.weight))
        self.last_any[key] = max(self.last_any.get(key, t), t)
        return answer

    def _payment(self, key: bytes, item: InFlight, t: int, clock: float) -> tuple[dict[str, list[float]], list[str]]:
        e, spec = self.entity.name, self.entity
        lateness = self.feature_set.allowed_lateness_us
        values: dict[str, list[float]] = {}
        earlier = self.payments.setdefault(key, [])
        flags = [f"late:{e}"] if any(other > t for other, _ in earlier) else []
        if t < clock - lateness:
            flags.append("late_incomplete")
        longest = max((w.us for w in (*spec.windows, *(w for one in spec.distinct for w in one.windows))), default=0)
        if spec.since_last:
            horizon = clock - longest - lateness  # of the payments before it only the newest is remembered
            kept = [other for other, _ in earlier if other >= horizon]
            kept += [max((other for other, _ in earlier if other < horizon), default=t + 1)]
            before = [other for other in kept if other <= t]
            values["seconds_since_last"] = [(t - max(before)) / 1e6 if before else NAN]
            values["seconds_since_first_seen"] = [(t - min([t, *(other for other, _ in earlier)])) / 1e6]
        earlier.append((t, item))
        entering = [row for row in earlier if _type(row) in ("purchase", "verification")]

        def measure(
            rows: Sequence[Any], window: Window, longest: int, names: Sequence[str], of: Callable[[Any], list[float]]
        ) -> None:
            horizon = clock - longest - lateness
            found = [row for row in rows if t - window.us < row[0] <= t and row[0] >= horizon]
            if t < horizon:
                found = [row for row in rows if row[-1] is item]
            answers = [of(found)]
            if len(found) > self.exact:
                begin = (t - window.us + 1) // (window.us // PANES) * (window.us // PANES)
                answers.append(of([row for row in rows if begin <= row[0] <= t]))
                flag = f"approximated:{e}.{window.label}"
                if flag not in flags:
                    flags.append(flag)
            for at, name in enumerate(names):
                values[f"{name}_{window.label}"] = [one[at] for one in answers]

        for window in spec.windows:
            measure(entering, window, longest, spec.amount, partial(_amounts, spec.amount))
        for one in spec.distinct:
            for window in one.windows:
                name = one.field
                measure(entering, window, longest, [f"distinct_{name}"], partial(_distinct, name))
        for holds, group in zip(self.filters, spec.filtered, strict=True):
            rows = [row for row in entering if holds(row[1].values)]
            names = [f"{group.name}_{aggregate}" for aggregate in group.amount]
            for window in group.windows:
                most = max(w.us for w in group.windows)
                measure(rows, window, most, names, partial(_amounts, group.amount))
        for window in spec.fraud_rate:
            most = max(w.us for w in spec.fraud_rate)
            names = ["fraud_rate", "fraud_count", "label_count"]
            measure(self.labels.get(key, []), window, most, names, self._rates)
        for stream in spec.streams:
            events = [row for row in self.streams.get(key, []) if row[1] == stream.event and row[2] in stream.kinds]
            for window in stream.windows:
                most = max(w.us for w in stream.windows)
                measure(events, window, most, [f"{stream.name}_count"], _count)
        for window in {w for over in _all_windows(spec) for w in over}:
            if t - window.us + 1 < (self.covered or 0):
                flags.append(f"warming:{window.label}")
        return {f"{e}.{name}": answers for name, answers in values.items()}, flags

    def _rates(self, found: Sequence[Any]) -> list[float]:
        prior = self.feature_set.fraud_rate_prior
        frauds, count = sum(w for _, fraud, w in found if fraud), sum(w for _, _, w in found)
        return [(frauds + prior.strength * prior.rate) / (count + prior.strength), frauds, count]


def _all_windows(spec: EntitySpec) -> list[tuple[Window, ...]]:
    holders: list[Distinct | Filtered | Stream] = [*spec.distinct, *spec.filtered, *spec.streams]
    return [spec.windows, spec.fraud_rate, *(one.windows for one in holders)]


def _type(row: Row) -> str:
    assert isinstance(row[1].event, Transaction)
    return row[1].event.payment_type


def _count(found: Sequence[Any]) -> list[float]:
    return [len(found)]


def _distinct(field: str, found: Sequence[Row]) -> list[float]:
    return [len({getattr(item.event, field) for _, item in found} - {None})]


def _amounts(aggregates: Sequence[str], found: Sequence[Row]) -> list[float]:
    micros = [item.amount_micros for _, item in found if item.amount_micros is not None]
    n = len(micros)
    answers = {"count": len(found), "sum": sum(micros) / 1e6, "mean": NAN, "max": NAN, "stddev": NAN}
    if n:
        answers |= {"mean": sum(micros) / n / 1e6, "max": max(micros) / 1e6}
    if n > 1:
        mean = Fraction(sum(micros), n)
        answers["stddev"] = math.sqrt(sum((value - mean) ** 2 for value in micros) / (n - 1)) / 1e6
    return [answers[aggregate] for aggregate in aggregates]


def differences(item: InFlight, feature_set: FeatureSet, expected: dict[str, list[float]]) -> list[str]:
    """Names and values that differ: counts, sums, max and distinct must be equal, the others to 1e-9.

    Of a distinct count that may come from sketches only the order of size is looked at.
    """
    rounded = ("mean", "stddev", "fraud_rate", "fraud_count", "label_count")
    wrong = []
    for name, answers in expected.items():
        got = item.values[feature_set.slots[name]]
        assert isinstance(got, float)
        tolerance = 1e-9 if any(one in name for one in rounded) else 0.0
        if "distinct" in name and len(answers) > 1:
            tolerance = 0.35
        if not any(
            math.isclose(got, one, rel_tol=tolerance, abs_tol=tolerance) or (math.isnan(got) and math.isnan(one))
            for one in answers
        ):
            wrong.append(f"{name} is {got!r}, expected {answers!r}")
    return wrong
