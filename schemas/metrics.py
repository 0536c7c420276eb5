"""The metric catalogue: every metric that Weir exports, with its unit and labels.

Dashboards, alerts and the replay's metrics.json use these names; code gets a metric from here and never spells one.
Labels are of few values each (actions, reasons, stages, rule ids): never a card, an account or a transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True, eq=False)  # hashed by identity: metrics are keys of what counts every payment
class Metric:
    """One metric.

    Attributes:
        name: As exported; ends in its unit, and in _total when it only grows (the Prometheus convention).
        kind: counter only grows, gauge goes up and down, histogram counts observations by size; info is always 1 and
            says something by its labels.
        unit: What one is: payments, seconds, ...
        help: One sentence for who reads a dashboard.
        labels: Names of the labels, in order.
        buckets: Upper edges of a histogram, inclusive, in its unit; empty where what measures has edges of its own.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram", "info"]
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


LATENCY_BUCKETS: Final = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
)  # fmt: skip
"""From 0.5 ms to 10 s, densest around the 5 to 100 ms that a payment may take; the bars of 50 and 100 ms are edges."""
SCORE_BUCKETS: Final = tuple(step / 20 for step in range(1, 21))
STALL_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

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
PAYMENTS_BY_ROLE: Final = Metric(
    "weir_payments_by_role_total",
    "counter",
    "payments",
    "Payments decided, by the part of the traffic: the champion's or the canary's.",
    ("role",),
)
PAYMENTS_EXPLORED: Final = Metric(
    "weir_payments_explored_total",
    "counter",
    "payments",
    "Payments that exploration drew for: let through otherwise than proposed, or held.",
    ("exploration",),
)
ALERTS_RAISED: Final = Metric(
    "weir_alerts_total", "counter", "alerts", "Alerts raised, by kind: models that moved, drift.", ("kind",)
)
DECISION_LATENCY: Final = Metric(
    "weir_decision_latency_seconds",
    "histogram",
    "seconds",
    "From a payment's ingestion (live: the time at which the broker appended it) to its decision being made.",
    (),
    LATENCY_BUCKETS,
)
END_TO_END_LATENCY: Final = Metric(
    "weir_end_to_end_latency_seconds",
    "histogram",
    "seconds",
    "From the broker's append of a payment to the broker's acknowledgement of its decision.",
    (),
    LATENCY_BUCKETS,
)
STAGE_LATENCY: Final = Metric(
    "weir_stage_latency_seconds", "histogram", "seconds", "Time a batch spends in a stage, per event.", ("stage",)
)
SNAPSHOT_LATENCY: Final = Metric(
    "weir_snapshot_latency_seconds", "histogram", "seconds", "Time one shard's snapshot of a stage takes.", ("stage",)
)
SNAPSHOT_STALL: Final = Metric(
    "weir_snapshot_stall_seconds",
    "histogram",
    "seconds",
    "How long the flow stands still at an epoch's end: snapshots, sync of the disk, commit.",
    (),
    STALL_BUCKETS,
)
EPOCHS: Final = Metric("weir_epochs_total", "counter", "epochs", "Epochs that ended in this process.")
DECISION_REASONS: Final = Metric(
    "weir_decision_reasons_total",
    "counter",
    "payments",
    "Payments by the action asked for and each of the reasons told; a payment with two reasons counts under both.",
    ("action", "reason"),
)
DECISION_SCORE: Final = Metric(
    "weir_decision_score_ratio", "histogram", "score from 0 to 1", "The model's score of payments.", (), SCORE_BUCKETS
)
DEADLINES_MISSED: Final = Metric(
    "weir_deadlines_missed_total",
    "counter",
    "payments",
    "Payments decided behind the policy's deadline, by the cause that chose their fallback.",
    ("cause",),
)
MODEL_LABELS: Final = Metric(
    "weir_model_labels", "gauge", "labels", "Labels that the model in use has learned since its start."
)
POLICY_INFO: Final = Metric(
    "weir_policy_info", "info", "1", "The policy of the latest decision.", ("id", "version", "hash")
)
MODEL_INFO: Final = Metric(
    "weir_model_info", "info", "1", "The model of the latest decision.", ("id", "version", "hash")
)
FEATURE_SET_INFO: Final = Metric("weir_feature_set_info", "info", "1", "The feature set in use.", ("id", "hash"))
BUILD_INFO: Final = Metric("weir_build_info", "info", "1", "The program that runs.", ("version",))
EVENT_TIME: Final = Metric(
    "weir_event_time_seconds",
    "gauge",
    "seconds",
    "Event time of the latest record read, in seconds since 1970-01-01T00:00:00Z, by topic.",
    ("topic",),
)
LAG_RECORDS: Final = Metric(
    "weir_lag_records", "gauge", "records", "Records of a partition that are not read yet.", ("topic", "partition")
)
LAG_EVENT_TIME: Final = Metric(
    "weir_lag_event_time_seconds",
    "gauge",
    "seconds",
    "How far the latest record read of a partition lies back in event time; grows on a quiet topic too.",
    ("topic", "partition"),
)
LAG_ARRIVAL: Final = Metric(
    "weir_lag_arrival_seconds",
    "gauge",
    "seconds",
    "How far the last read of a Kinesis shard was behind its tip in time of arrival (millisBehindLatest).",
    ("topic", "partition"),
)
PARTITIONS_ASSIGNED: Final = Metric(
    "weir_partitions_assigned", "gauge", "partitions", "Partitions that this process reads.", ("topic",)
)
BROKER_UP: Final = Metric(
    "weir_broker_up",
    "gauge",
    "1 or 0",
    "Whether brokers or Kinesis answer the side named, inputs or outputs; with outputs of two kinds: both of them.",
    ("side",),
)
BROKER_ERRORS: Final = Metric(
    "weir_broker_errors_total",
    "counter",
    "errors",
    "Errors the client of Kafka or Kinesis told, retried ones included.",
    ("side", "error"),
)
RECORDS_PUBLISHED: Final = Metric(
    "weir_records_published_total", "counter", "records", "Records the broker has acknowledged.", ("output",)
)
RECORDS_IN_FLIGHT: Final = Metric(
    "weir_records_in_flight",
    "gauge",
    "records",
    "Records handed to the producer and not acknowledged yet.",
    ("output",),
)
READY: Final = Metric(
    "weir_ready", "gauge", "1 or 0", "Whether a part of the process is ready: state, inputs, outputs.", ("part",)
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
MODEL_LOADS: Final = Metric(
    "weir_model_loads_total",
    "counter",
    "models",
    "Announced models, by what became of them: loaded, unchanged, or the reason for their refusal.",
    ("result",),
)
MODEL_LOAD_TIME: Final = Metric(
    "weir_model_load_seconds", "gauge", "seconds", "Time that fetching, checking and making the latest model took."
)
MODEL_CREATED: Final = Metric(
    "weir_model_created_seconds",
    "gauge",
    "seconds",
    "When the champion in use was made, in seconds since 1970-01-01T00:00:00Z; time() less this is its age.",
)
MODEL_FROZEN: Final = Metric(
    "weir_model_frozen", "gauge", "1 or 0", "Whether a person has frozen the champion: weir models freeze."
)
MODELS_SERVING: Final = Metric(
    "weir_models_serving", "gauge", "models", "Announced models that score payments, by what they may do.", ("role",)
)
RELEASES: Final = Metric(
    "weir_releases_total",
    "counter",
    "releases",
    "Releases of the learner: announced, or failed to be stored.",
    ("result",),
)
LABELS_LEARNED: Final = Metric(
    "weir_labels_learned_total", "counter", "labels", "Labels the learner has learned.", ("label", "source")
)
LABEL_DELAY_BUCKETS: Final = (
    60.0, 3600.0, 21_600.0, 86_400.0, 259_200.0, 604_800.0, 1_209_600.0, 2_592_000.0, 5_184_000.0, 7_776_000.0,
)  # fmt: skip
"""From a minute to 90 days, the longest that decisions are kept."""
LABEL_DELAY: Final = Metric(
    "weir_label_delay_seconds",
    "histogram",
    "seconds",
    "From a payment's decision to its label, of labels learned; maturity's are as long as it is declared.",
    (),
    LABEL_DELAY_BUCKETS,
)
PENDING_PAYMENTS: Final = Metric(
    "weir_pending_payments",
    "gauge",
    "payments",
    "Decided payments that wait for their label, or for a correction of it.",
)
PENDING_BYTES: Final = Metric(
    "weir_pending_bytes", "gauge", "bytes", "Records of the payments that wait, before compression."
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
    PAYMENTS_BY_ROLE,
    PAYMENTS_EXPLORED,
    ALERTS_RAISED,
    DECISION_LATENCY,
    END_TO_END_LATENCY,
    STAGE_LATENCY,
    SNAPSHOT_LATENCY,
    SNAPSHOT_STALL,
    EPOCHS,
    DECISION_REASONS,
    DECISION_SCORE,
    DEADLINES_MISSED,
    MODEL_LABELS,
    POLICY_INFO,
    MODEL_INFO,
    FEATURE_SET_INFO,
    BUILD_INFO,
    EVENT_TIME,
    LAG_RECORDS,
    LAG_EVENT_TIME,
    LAG_ARRIVAL,
    PARTITIONS_ASSIGNED,
    BROKER_UP,
    BROKER_ERRORS,
    RECORDS_PUBLISHED,
    RECORDS_IN_FLIGHT,
    READY,
    STATE_CACHE_BYTES,
    STATE_CACHE_LOOKUPS,
    STATE_WRITE_BUFFER_BYTES,
    STATE_UNDO_RECORDS,
    STATE_UNDO_BYTES,
    STATE_SWEPT,
    STATE_DISK_BYTES,
    RUN_TIMES,
    BACKUPS,
    MODEL_LOADS,
    MODEL_LOAD_TIME,
    MODEL_CREATED,
    MODEL_FROZEN,
    MODELS_SERVING,
    RELEASES,
    LABELS_LEARNED,
    LABEL_DELAY,
    PENDING_PAYMENTS,
    PENDING_BYTES,
)
"""All of them."""
