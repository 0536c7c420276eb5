"""What the windows should say, computed the slow and obvious way from everything that has arrived."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from operators.features import EntitySpec, FeatureSet
from operators.inflight import DEVICE_EVENT, IDENTITY_EVENT, LABEL, PAYMENT, InFlight
from operators.velocity import Velocity
from operators.window_record import CLOCK_RANK
from schemas.events import DeviceEvent, Label, Transaction

NAN = float("nan")


def payment(
    feature_set: FeatureSet, number: int, t: int, *, account: str = "a", amount: float | None = 1.0, **more: Any
) -> InFlight:
    """A payment on its way, its amount (major units, None: no rate) converted already."""
    event = Transaction(
        transaction_id=f"t{number}", event_time_us=t, account_id=account, channel="ecommerce", amount_minor=0,
        currency="EUR", **more,
    )  # fmt: skip
    item = InFlight(PAYMENT, (number,), event, ("", 0, 0), 0, feature_set.keys_of(event), feature_set.new_values())
    item.values[0] = NAN if amount is None else amount
    item.values[feature_set.slots["channel"]] = event.channel
    item.amount_micros = None if amount is None else round(amount * 1_000_000)
    return item


def label(  # noqa: D103
    number: int, t: int, *, fraud: bool, key: list[bytes | None], weight: float = 1.0,
    previous: tuple[bool, int, float] | None = None,
) -> InFlight:  # fmt: skip
    event = Label(
        transaction_id="t", event_time_us=t, payment_event_time_us=0, fraud=fraud, weight=weight, source="analyst",
        previous_fraud=previous[0] if previous else None, previous_event_time_us=previous[1] if previous else None,
        previous_weight=previous[2] if previous else None,
    )  # fmt: skip
    return InFlight(LABEL, (number,), event, ("", 0, 0), 0, key, [])


def device_event(feature_set: FeatureSet, number: int, t: int, kind: str, *, account: str = "a") -> InFlight:  # noqa: D103
    event = DeviceEvent(event_id=f"d{number}", event_time_us=t, device_id="d", kind=kind, account_id=account)
    return InFlight(DEVICE_EVENT, (number,), event, ("", 0, 0), 0, feature_set.keys_of(event), [])


class Oracle:
    """All events of one entity type, kept for ever; expiry is applied to what is looked at."""

    def __init__(self, feature_set: FeatureSet, entity: EntitySpec) -> None:
        self.feature_set = feature_set
        self.entity = entity
        self.velocity = Velocity(feature_set, entity)  # for its filters and its retention only
        self.times: list[int] = []
        self.payments: dict[bytes, list[tuple[int, int, InFlight]]] = {}
        self.labels: dict[bytes, list[tuple[int, bool, float]]] = {}
        self.streams: dict[bytes, list[tuple[int, str, str]]] = {}
        self.last_any: dict[bytes, int] = {}
        self.covered: int | None = None

    def clock(self) -> int | None:
        return sorted(self.times)[-CLOCK_RANK] if len(self.times) >= CLOCK_RANK else None

    def take(self, item: InFlight) -> tuple[dict[str, float], list[str]] | None:
        """Remember the event; for a payment, what should stand in its values, and its flags."""
        key = item.keys[self.entity.index]
        event: Any = item.event
        if item.kind == PAYMENT and not item.duplicate and key is None:
            return {}, [f"absent:{self.entity.name}"]
        if key is None or item.duplicate:
            return None
        if item.kind in (DEVICE_EVENT, IDENTITY_EVENT):
            name = "device_event" if item.kind == DEVICE_EVENT else "identity_event"
            if not any(s.event == name and event.kind in s.kinds for s in self.entity.streams):
                return None
        elif item.kind == LABEL and not self.entity.fraud_rate:
            return None
        t = event.event_time_us
        if item.kind != LABEL:
            self.times.append(t)
            self.covered = t if self.covered is None else self.covered
        clock = self.clock()
        if clock is not None and self.last_any.get(key, t) < clock - self.velocity.plan.retention_us:
            for kept in (self.payments, self.labels, self.streams, self.last_any):
                kept.pop(key, None)
        answer = None
        if item.kind == PAYMENT:
            answer = self._payment(key, item, t, clock)
        elif item.kind == LABEL:
            rows = self.labels.setdefault(key, [])
            if event.previous_fraud is not None:
                old = (event.previous_event_time_us, event.previous_fraud, event.previous_weight)
                if old in rows:
                    rows.remove(old)
            rows.append((t, event.fraud, event.weight))
        else:
            name = "device_event" if item.kind == DEVICE_EVENT else "identity_event"
            self.streams.setdefault(key, []).append((t, name, event.kind))
        self.last_any[key] = max(self.last_any.get(key, t), t)
        return answer

    def _payment(self, key: bytes, item: InFlight, t: int, clock: int | None) -> tuple[dict[str, float], list[str]]:
        e, spec = self.entity.name, self.entity
        event: Any = item.event
        values: dict[str, float] = {}
        flags: list[str] = []
        earlier = self.payments.setdefault(key, [])
        lateness = self.feature_set.allowed_lateness_us
        if any(other > t for other, _, _ in earlier):
            flags.append(f"late:{e}")
        if clock is not None and t < clock - lateness:
            flags.append("late_incomplete")
        if spec.since_last:
            before = [other for other, _, _ in earlier if other <= t]
            values[f"{e}.seconds_since_last"] = (t - max(before)) / 1e6 if before else NAN
            first = min([t, *(other for other, _, _ in earlier)])
            values[f"{e}.seconds_since_first_seen"] = (t - first) / 1e6
        earlier.append((t, len(self.times), item))
        entering = [
            (other, one) for other, _, one in earlier if one.event.payment_type in ("purchase", "verification")  # type: ignore[union-attr]
        ]

        def members(rows: list[Any], us: int, longest: int) -> list[Any]:
            horizon = -math.inf if clock is None else clock - longest - lateness
            if t < horizon:
                return [row for row in rows if row[-1] is item]
            return [row for row in rows if t - us < row[0] <= t and row[0] >= horizon]

        def amounts(prefix: str, rows: list[Any], windows: Any, aggregates: Any, longest: int) -> None:
            for window in windows:
                found = members(rows, window.us, longest)
                micros = [one.amount_micros for _, one in found if one.amount_micros is not None]
                for aggregate in aggregates:
                    values[f"{e}.{prefix}{aggregate}_{window.label}"] = _aggregate(aggregate, len(found), micros)

        longest = max((w.us for w in (*spec.windows, *(w for d in spec.distinct for w in d.windows))), default=0)
        amounts("", entering, spec.windows, spec.amount, longest)
        for one in spec.distinct:
            for window in one.windows:
                found = members(entering, window.us, longest)
                distinct = {getattr(paid.event, one.field) for _, paid in found} - {None}
                values[f"{e}.distinct_{one.field}_{window.label}"] = len(distinct)
        for (_, holds), group in zip(self.velocity.plan.filters, spec.filtered, strict=True):
            rows = [row for row in entering if holds(row[1].values)]
            amounts(f"{group.name}_", rows, group.windows, group.amount, max(w.us for w in group.windows))
        prior = self.feature_set.fraud_rate_prior
        for window in spec.fraud_rate:
            found = members(self.labels.get(key, []), window.us, max(w.us for w in spec.fraud_rate))
            frauds, count = sum(w for _, fraud, w in found if fraud), sum(w for _, _, w in found)
            rate = (frauds + prior.strength * prior.rate) / (count + prior.strength)
            values[f"{e}.fraud_rate_{window.label}"] = rate
            values[f"{e}.fraud_count_{window.label}"] = frauds
            values[f"{e}.label_count_{window.label}"] = count
        for stream in spec.streams:
            rows = [row for row in self.streams.get(key, []) if row[1] == stream.event and row[2] in stream.kinds]
            for window in stream.windows:
                found = members(rows, window.us, max(w.us for w in stream.windows))
                values[f"{e}.{stream.name}_count_{window.label}"] = len(found)
        for label_, us in self.velocity.plan.labels:
            if t - us + 1 < (self.covered or 0):
                flags.append(f"warming:{label_}")
        return values, flags


def _aggregate(aggregate: str, count: int, micros: list[int]) -> float:
    n = len(micros)
    if aggregate == "count":
        return count
    if aggregate == "sum":
        return sum(micros) / 1e6
    if aggregate == "mean":
        return sum(micros) / n / 1e6 if n else NAN
    if aggregate == "max":
        return max(micros) / 1e6 if n else NAN
    if n < 2:
        return NAN
    mean = Fraction(sum(micros), n)
    return math.sqrt(sum((value - mean) ** 2 for value in micros) / (n - 1)) / 1e6


def differences(found: list[Any], feature_set: FeatureSet, expected: dict[str, float]) -> list[str]:
    """Names and values that differ: counts, sums, max and distinct must be equal, the others to 1e-9."""
    wrong = []
    for name, value in expected.items():
        got = found[feature_set.slots[name]]
        close = ("mean", "stddev", "fraud_rate", "fraud_count", "label_count")
        if math.isnan(value) and math.isnan(got):
            continue
        same = math.isclose(got, value, rel_tol=1e-9, abs_tol=1e-9) if any(c in name for c in close) else got == value
        if not same:
            wrong.append(f"{name}: {got!r}, expected {value!r}")
    return wrong
