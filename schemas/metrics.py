"""The metric catalogue: every metric that Weir exports, with its unit and labels.

Dashboards, alerts and the replay's metrics.json use these names; code gets a metric from here and never spells one.
Labels are of few values each (actions, reasons, stages, rule ids): never a card, an account or a transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: As exported; ends in its unit, and in _total when it only grows (the Prometheus convention).
        kind: counter only grows, gauge goes up and down, histogram counts observations by size.
        unit: What one is: payments, seconds, ...
        help: One sentence for who reads a dashboard.
        labels: Names of the labels, in order.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    labels: tuple[str, ...] = ()


PAYMENTS_DECIDED: Final = Metric(
    "weir_payments_decided_total", "counter", "payments", "Payments decided, by the action asked for.", ("action",)
)
EVENTS_READ: Final = Metric(
    "weir_events_read_total", "counter", "records", "Records read from the inputs, by contract.", ("contract",)
)
DEAD_LETTERS: Final = Metric(
    "weir_dead_letters_total",
    "counter",
    "records",
    "Records that broke their contract, by contract and reason.",
    ("contract", "reason"),
)
DUPLICATES: Final = Metric(
    "weir_duplicates_total", "counter", "records", "Retries answered with the decision already published."
)
LATE_EVENTS: Final = Metric(
    "weir_late_events_total",
    "counter",
    "records",
    "Records behind an event of the same entity with a later event time; incomplete beyond the allowed lateness.",
    ("completeness",),
)
RULE_HITS: Final = Metric(
    "weir_rule_hits_total", "counter", "payments", "Payments for which a rule held, by rule and mode.", ("rule", "mode")
)
PAYMENTS_UNSCORED: Final = Metric(
    "weir_payments_unscored_total", "counter", "payments", "Payments that no model could score, by cause.", ("cause",)
)
FLAGGED_PAYMENTS: Final = Metric(
    "weir_flagged_payments_total", "counter", "payments", "Payments with a feature-quality flag, by kind.", ("flag",)
)
OUTCOMES_MATCHED: Final = Metric(
    "weir_outcomes_matched_total", "counter", "outcomes", "Outcomes that met their decision, by label.", ("label",)
)
DECISION_LATENCY: Final = Metric(
    "weir_decision_latency_seconds", "histogram", "seconds", "From reading a payment to its decision being handed over."
)
STAGE_LATENCY: Final = Metric(
    "weir_stage_latency_seconds", "histogram", "seconds", "Time a batch spends in a stage, per event.", ("stage",)
)
PAYMENT_RATE: Final = Metric(
    "weir_payments_per_second", "gauge", "payments per second", "Payments decided per second since the last report."
)
EVENT_TIME: Final = Metric(
    "weir_event_time_seconds", "gauge", "seconds", "Event time reached, in seconds since 1970-01-01T00:00:00Z."
)
STATE_CACHE_BYTES: Final = Metric(
    "weir_state_cache_bytes", "gauge", "bytes", "Memory in RocksDB's block cache and in the record cache.", ("cache",)
)
STATE_CACHE_LOOKUPS: Final = Metric(
    "weir_state_cache_lookups_total",
    "counter",
    "lookups",
    "Records asked for, by whether the record cache held them.",
    ("result",),
)
STATE_WRITE_BUFFER_BYTES: Final = Metric(
    "weir_state_write_buffer_bytes", "gauge", "bytes", "Memory in RocksDB's memtables of all shards."
)
STATE_UNDO_RECORDS: Final = Metric(
    "weir_state_undo_records", "gauge", "records", "Before-images kept of what this process wrote."
)
STATE_UNDO_BYTES: Final = Metric(
    "weir_state_undo_bytes", "gauge", "bytes", "Before-images in memory and on disk, pruned ones until compaction."
)
STATE_SWEPT: Final = Metric(
    "weir_state_swept_total", "counter", "records", "Expired entities and tracks deleted by the sweep."
)
STATE_DISK_BYTES: Final = Metric("weir_state_disk_bytes", "gauge", "bytes", "Files of all open shards, logs included.")
SNAPSHOT_STALL: Final = Metric(
    "weir_snapshot_stall_seconds",
    "histogram",
    "seconds",
    "How long the flow stands still at an epoch's end: snapshots, sync of the disk, commit.",
)
RUN_TIMES: Final = Metric(
    "weir_run_seconds",
    "gauge",
    "seconds",
    "Since the process began: loaded, opened, first_record, all_read; stores: opening them and rolling back.",
    ("part",),
)
BACKUPS: Final = Metric(
    "weir_backups_total",
    "counter",
    "backups",
    "Backups due while the flow ran, by outcome: made or failed.",
    ("outcome",),
)

METRICS: Final = (
    PAYMENTS_DECIDED,
    EVENTS_READ,
    DEAD_LETTERS,
    DUPLICATES,
    LATE_EVENTS,
    RULE_HITS,
    PAYMENTS_UNSCORED,
    FLAGGED_PAYMENTS,
    OUTCOMES_MATCHED,
    DECISION_LATENCY,
    STAGE_LATENCY,
    PAYMENT_RATE,
    EVENT_TIME,
    STATE_CACHE_BYTES,
    STATE_CACHE_LOOKUPS,
    STATE_WRITE_BUFFER_BYTES,
    STATE_UNDO_RECORDS,
    STATE_UNDO_BYTES,
    STATE_SWEPT,
    STATE_DISK_BYTES,
    SNAPSHOT_STALL,
    RUN_TIMES,
    BACKUPS,
)
"""All of them."""
