"""What a live process tells of itself: hooks that source, sink and steps call, and the figures behind them.

Hooks are called in the flow's own thread, some of them for every payment, so they only count; `flows.metrics_server`
turns the figures into the catalogue's metrics when somebody asks. It does so in another thread, hence the copies there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Any, Final

from flows.stats import RunStats
from flows.watchdog import Pulse
from schemas import metrics
from schemas.metrics import Metric

PARTS: Final = ("state", "inputs", "outputs")
"""What must be ready before payments are decided."""
MATURITY: Final = "maturity"
"""Source of a label that no outcome brought."""

Labels = tuple[str, ...]


class FixedHistogram:
    """Counts of observations between the edges of a metric."""

    __slots__ = ("_edges", "counts", "total")

    def __init__(self, metric: Metric) -> None:
        self._edges = metric.buckets
        self.counts = [0] * (len(metric.buckets) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one."""
        self.counts[bisect_left(self._edges, value)] += 1
        self.total += value


class LiveMetrics:
    """Figures of one live process.

    Attributes:
        counts: Counters: metric -> labels -> number.
        gauges: Gauges: metric -> labels -> number.
        histograms: Histograms with edges of the catalogue.
        versions: `versions` of the latest decision.
        ready: By part: (whether it is ready, sentence).
        state: Gives the state's figures (`flows.state_stats.state_figures`), None before it is open.
        backups: Counts of `flows.backup_runs`, None without.
        stats: Of the run: stages and their times.
        pulse: Of the run: its progress.
    """

    def __init__(
        self, stats: RunStats, pulse: Pulse, contracts: Mapping[str, str], now_us: Callable[[], int] | None = None
    ) -> None:
        """Prepare.

        Args:
            stats: Of the run; told to hand every decision over to this.
            pulse: Of the run.
            contracts: Contract by topic, of the inputs.
            now_us: The flow's clock, for latency; None: latency is not measured.
        """
        self.stats = stats
        self.pulse = pulse
        self.counts: dict[Metric, dict[Labels, int]] = {}
        self.gauges: dict[Metric, dict[Labels, float]] = {}
        self.event_times_us: dict[Labels, int] = {}
        self.histograms = {
            metric: FixedHistogram(metric)
            for metric in (
                metrics.DECISION_LATENCY,
                metrics.END_TO_END_LATENCY,
                metrics.SNAPSHOT_STALL,
                metrics.DECISION_SCORE,
                metrics.LABEL_DELAY,
            )
        }
        self.versions: Mapping[str, str | None] = {}
        self.ready: dict[str, tuple[bool, str]] = {part: (False, "not begun yet") for part in PARTS}
        self.state: Callable[[], dict[str, dict[str, float]]] | None = None
        self.backups: Callable[[], Mapping[str, int]] | None = None
        self._contracts = contracts
        self._pending: dict[str, tuple[int, int]] = {}
        self._now_us = now_us
        self._latency = self.histograms[metrics.DECISION_LATENCY]
        self._score = self.histograms[metrics.DECISION_SCORE]
        stats.observer = self

    # Called by the source.

    def read(self, contract: str, records: int) -> None:
        """Records of a contract were read."""
        self._count(metrics.EVENTS_READ, (contract,), records)

    def position(self, topic: str, partition: int, lag: int | None, event_time_us: int | None) -> None:
        """Where a partition stands; call it once a batch and partition.

        Args:
            topic: The topic.
            partition: Its partition.
            lag: High watermark less the next offset to read, None when it is not known.
            event_time_us: Of the last record read, None when it has none.
        """
        where = (topic, str(partition))
        if lag is not None:
            self._set(metrics.LAG_RECORDS, where, lag)
        if event_time_us is not None:
            self.event_times_us[where] = event_time_us

    def behind(self, topic: str, partition: int, seconds: float) -> None:
        """How far a shard of Kinesis is behind its tip in time of arrival."""
        self._set(metrics.LAG_ARRIVAL, (topic, str(partition)), seconds)

    def assigned(self, topic: str, partitions: int) -> None:
        """So many partitions of the topic are read by this process."""
        self._set(metrics.PARTITIONS_ASSIGNED, (topic,), partitions)

    def stalled(self, seconds: float) -> None:
        """Nothing was read for so long at an epoch's end: from the source's snapshot to its next poll."""
        self.histograms[metrics.SNAPSHOT_STALL].observe(seconds)

    # Called by the sink.

    def published(self, output: str, records: int = 1) -> None:
        """The broker has acknowledged records of an output slot (decisions, dead_letters, ...)."""
        self._count(metrics.RECORDS_PUBLISHED, (output,), records)

    def in_flight(self, output: str, records: int) -> None:
        """So many records of an output wait for their acknowledgement."""
        self._set(metrics.RECORDS_IN_FLIGHT, (output,), records)

    def delivered(self, appended_us: int) -> None:
        """A decision was acknowledged whose payment the broker had appended at `appended_us`."""
        if self._now_us is not None:
            self.histograms[metrics.END_TO_END_LATENCY].observe(max(0, self._now_us() - appended_us) / 1e6)

    # Called by both.

    def broker_up(self, side: str, up: bool) -> None:
        """Whether the broker answers; `side` is inputs or outputs."""
        self._set(metrics.BROKER_UP, (side,), int(up))

    def broker_error(self, side: str, error: str) -> None:
        """The Kafka client told an error; `error` is its constant name, such as _TRANSPORT."""
        self._count(metrics.BROKER_ERRORS, (side, error), 1)

    def set_ready(self, part: str, ready: bool, why: str) -> None:
        """Whether a part (one of PARTS) is ready, and a sentence for who asks why not."""
        if part not in self.ready:
            message = f"part {part!r}: expected one of {', '.join(PARTS)}"
            raise ValueError(message)
        self.ready[part] = (ready, why)

    def opened(self, figures: Callable[[], dict[str, dict[str, float]]]) -> None:
        """The state is open; `figures` gives what it costs."""
        self.state = figures

    # Called where records are encoded (flows/decide.py), through RunStats.observer.

    def decision(self, decision: Mapping[str, Any]) -> None:
        """A decision was made, before the ledger knows whether it was published already."""
        count = self._count
        action = decision["action"]
        count(metrics.PAYMENTS_DECIDED, (action,), 1)
        count(metrics.PAYMENTS_BY_ROLE, (decision["role"],), 1)
        if decision["exploration"] is not None:
            count(metrics.PAYMENTS_EXPLORED, (decision["exploration"],), 1)
        for reason in decision["reason_codes"]:
            count(metrics.DECISION_REASONS, (action, reason), 1)
        for hit in decision["rule_hits"]:
            count(metrics.RULE_HITS, (hit["rule"], "active"), 1)
        for hit in decision["shadow_hits"]:
            count(metrics.RULE_HITS, (hit["rule"], "shadow"), 1)
        self._quality(decision["quality_flags"])
        if decision["deadline_missed"]:
            count(metrics.DEADLINES_MISSED, (decision["fallback"] or "none",), 1)
        score = decision["score"]
        if score is not None:
            self._score.observe(score)
        if self._now_us is not None:
            self._latency.observe(max(0, decision["decided_at"] - decision["ingested_at"]) / 1e6)
        self.versions = decision["versions"]

    def duplicate(self) -> None:
        """A retry was answered."""
        self._count(metrics.DUPLICATES, (), 1)

    def labelled(self, outcome: Mapping[str, Any]) -> None:
        """A labelled outcome was made."""
        if outcome["source"] != MATURITY:
            self._count(metrics.OUTCOMES_MATCHED, (outcome["label"],), 1)

    def alert(self, alert: Mapping[str, Any]) -> None:
        """An alert was raised."""
        self._count(metrics.ALERTS_RAISED, (alert["kind"],), 1)

    def dead_letter(self, topic: str, reason: str) -> None:
        """A record was refused."""
        self._count(metrics.DEAD_LETTERS, (self._contracts.get(topic, topic), reason), 1)

    # Called by the learning loop (flows/model_hooks.py).

    def model_load(self, result: str, seconds: float, created_us: int, frozen: bool, /) -> None:
        """An announced model was loaded, or refused for the reason told."""
        self._count(metrics.MODEL_LOADS, (result,), 1)
        if seconds:
            self._set(metrics.MODEL_LOAD_TIME, (), seconds)
        if created_us:
            self._set(metrics.MODEL_CREATED, (), created_us / 1e6)
        self._set(metrics.MODEL_FROZEN, (), int(frozen))

    def serving(self, champions: int, canaries: int, challengers: int, /) -> None:
        """So many announced models score payments now."""
        for role, number in (("champion", champions), ("canary", canaries), ("challenger", challengers)):
            self._set(metrics.MODELS_SERVING, (role,), number)

    def released(self, result: str, /) -> None:
        """A release was announced, or failed."""
        self._count(metrics.RELEASES, (result,), 1)

    def learned(self, label: str, source: str, delay_us: int, /) -> None:
        """A label was learned."""
        self._count(metrics.LABELS_LEARNED, (label, source), 1)
        self.histograms[metrics.LABEL_DELAY].observe(max(0, delay_us) / 1e6)

    def pending(self, shard: str, payments: int, size: int, /) -> None:
        """So many payments of a shard wait for their labels."""
        self._pending[shard] = (payments, size)
        self._set(metrics.PENDING_PAYMENTS, (), sum(one for one, _ in self._pending.values()))
        self._set(metrics.PENDING_BYTES, (), sum(one for _, one in self._pending.values()))

    def _quality(self, flags: list[str]) -> None:
        if not flags:
            return
        kinds = {flag.partition(":")[0] for flag in flags}
        for kind in kinds:
            self._count(metrics.FLAGGED_PAYMENTS, (kind,), 1)
        if "late_incomplete" in kinds:
            self._count(metrics.LATE_EVENTS, ("incomplete",), 1)
        elif "late" in kinds:
            self._count(metrics.LATE_EVENTS, ("complete",), 1)
        if "no_model_score" in kinds:
            self._count(metrics.PAYMENTS_UNSCORED, ("no_model",), 1)

    def _count(self, metric: Metric, labels: Labels, number: int) -> None:
        row = self.counts.get(metric)
        if row is None:
            row = self.counts[metric] = {}
        row[labels] = row.get(labels, 0) + number

    def _set(self, metric: Metric, labels: Labels, value: float) -> None:
        row = self.gauges.get(metric)
        if row is None:
            row = self.gauges[metric] = {}
        row[labels] = value
