"""Fills the bare facts of a payment: amount in the base currency, time, codes, what its IP tells, where it was."""

from __future__ import annotations

from typing import Final

from operators.features import FACTS, FeatureSet
from operators.geo import NO_FACTS, Geo
from operators.inflight import InFlight
from operators.money import Rates
from schemas.events import DeviceEvent, Transaction

HOUR_US: Final = 3_600_000_000

NAN: Final = float("nan")

_FACT_COUNT: Final = len(FACTS)

# Hour of the week (0 is Thursday 00:00 UTC, as 1970-01-01 was a Thursday) to hour of the day and weekday (Monday is 0).
_CALENDAR: Final = tuple((float(hour % 24), float((hour // 24 + 3) % 7)) for hour in range(168))

# The person does not move: money comes back, or the merchant collects what was agreed before.
_NOT_THE_PERSON: Final = frozenset({"refund", "reversal"})


class Enricher:
    """Stateless first look at an event; one object serves a worker.

    It writes straight into the first slots of `values`: this runs for every payment, so it does nothing by name.
    """

    def __init__(self, feature_set: FeatureSet, rates: Rates, geo: Geo) -> None:
        self._to_micros = rates.to_micros
        self._geo = geo
        self._of_ip = geo.of_ip if geo.active else None
        self._travels = any(entity.travel for entity in feature_set.entities)

    def enrich(self, item: InFlight) -> None:
        """Fill what is known of `item` alone.

        A payment gets its facts, `amount_micros`, `fix` and the flags "no_rate" (amount absent) and "no_location" (some
        entity wants travel, and nothing tells where the payer was). Refunds, reversals and recurring payments have no
        fix: nobody was there. A device event gets `fix`. Other events are left alone.

        Raises:
            ProfileError: a geo database turns out to be corrupt; never for what an event holds.
        """
        event = item.event
        if isinstance(event, Transaction):
            self._payment(item, event)
        elif isinstance(event, DeviceEvent) and self._travels:
            item.fix = self._geo.locate_device(event, self._geo.of_ip(event.ip))

    def _payment(self, item: InFlight, event: Transaction) -> None:
        event_time_us = event.event_time_us
        micros = self._to_micros(event.amount_minor, event.currency, event_time_us)
        if micros is None:
            amount = NAN
            item.flags.append("no_rate")
        else:
            amount = micros / 1e6
            item.amount_micros = micros
        hour, weekday = _CALENDAR[event_time_us // HOUR_US % 168]
        ip = self._of_ip(event.ip) if self._of_ip is not None else NO_FACTS
        payment_type = event.payment_type
        recurring = event.recurring
        item.known[:_FACT_COUNT] = (  # in the order of FACTS
            amount,
            hour,
            weekday,
            event.channel,
            payment_type,
            event.currency,
            event.country,
            event.mcc,
            event.entry_mode,
            event.three_ds_result,
            ip.country,
            recurring,
            ip.anonymous,
        )
        if self._travels and not recurring and payment_type not in _NOT_THE_PERSON:
            item.fix = fix = self._geo.locate_payment(event, ip)
            if fix is None:
                item.flags.append("no_location")
