"""What the learning flow puts out → publications by slot: labelled outcomes, dead letters, releases, alerts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from flows.decide import ENCODE
from flows.kafka_publish import IDENTITY
from flows.live_encode import LivePublication, dead_letter_publication, slot_of
from flows.live_options import MODELS
from flows.logs import event_log, fields
from flows.publish import ALERTS, LABELLED_OUTCOMES, alert_identity, labelled_identity
from flows.stage import Part
from flows.stats import RunStats
from operators.inflight import ALERT, DEAD_LETTER, LABEL, RELEASE, InFlight
from operators.learn_made import Made
from operators.releases import CONTRACT, message_key
from schemas.wire import WireEncoder

Announce = Callable[[Made], dict[str, Any] | None]
"""Stores a release's artefact and gives its signed record; None: it could not be stored, and is not announced."""


class LearnEncode:
    """Makes publications, one list a slot and part."""

    def __init__(
        self,
        stats: RunStats,
        encoder: WireEncoder,
        slots: tuple[str, ...],
        announce: Announce | None,
        *,
        alerts: bool = False,
    ) -> None:
        """Prepare.

        Args:
            stats: Where counts and times go.
            encoder: Of the records.
            slots: Names of the output's slots; a record's is told by its identity.
            announce: Stores and signs releases.
            alerts: Whether there is an output for alerts; they are logged and counted anyhow.
        """
        self._alerts = alerts
        self._log = event_log("alerts")
        self._stats = stats
        self._encoder = encoder
        self._slots = slots
        self._announce = announce

    def __call__(self, part: Part) -> Iterable[tuple[str, Sequence[LivePublication]]]:
        """Called by bytewax for each part of the last step."""
        started = time.perf_counter()
        out: dict[str, list[LivePublication]] = {}
        count, observer = self._stats.count, self._stats.observer
        for item in part.work + part.skip:
            made: LivePublication | None = None
            if item.kind == LABEL:
                detail: Any = item.detail
                made = self._labelled(item, detail)
                count("labelled_outcomes", detail["label"])
                if observer is not None:
                    observer.labelled(detail)
            elif item.kind == DEAD_LETTER:
                told: Any = item.detail
                made = dead_letter_publication(item, self._encoder)
                count("dead_letters", told[0])
                if observer is not None:
                    observer.dead_letter(item.origin[0], told[0])
            elif item.kind == RELEASE:
                made = self._release(item)
            elif item.kind == ALERT:
                alert: Any = item.detail
                made = self._alert(item, alert)
                count("alerts", alert["kind"])
                if observer is not None:
                    observer.alert(alert)
            if made is not None:
                out.setdefault(self._slots[slot_of(made.output, made.identity, len(self._slots))], []).append(made)
        self._stats.stage(ENCODE).observe(time.perf_counter() - started, len(part.work))
        return list(out.items())

    def _labelled(self, item: InFlight, detail: dict[str, Any]) -> LivePublication:
        name = detail["transaction_id"]
        identity = labelled_identity(name, detail["source"], detail["event_time"])
        value, more = self._encoder("labelled_outcome", detail)
        headers = [(IDENTITY, identity), *more]
        return LivePublication(LABELLED_OUTCOMES, identity, value, name.encode(), headers, item.ingested_at_us)

    def _alert(self, item: InFlight, alert: dict[str, Any]) -> LivePublication | None:
        told = {name: alert[name] for name in ("kind", "severity", "subject", "measured", "threshold", "evidence")}
        self._log.info("alert", extra=fields(**told, alert_id=alert["alert_id"], runbook=alert["runbook"]))
        if not self._alerts:
            return None
        identity = alert_identity(alert["alert_id"])
        value, more = self._encoder("alert", alert)
        headers = [(IDENTITY, identity), *more]
        return LivePublication(ALERTS, identity, value, alert["subject"].encode(), headers, item.ingested_at_us)

    def _release(self, item: InFlight) -> LivePublication | None:
        made = item.detail
        if self._announce is None or not isinstance(made, Made):
            return None
        record = self._announce(made)
        if record is None:
            return None
        identity = f"{made.model_id}/{made.version}/{made.created_at_us}/{made.stage}".encode()
        value, more = self._encoder(CONTRACT, record)
        self._stats.count("releases", record["stage"])
        headers = [(IDENTITY, identity), *more]
        return LivePublication(MODELS, identity, value, message_key(record), headers, item.ingested_at_us)
