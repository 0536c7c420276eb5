"""Writes weir.json, the Grafana dashboard: `python deploy/grafana/make_dashboard.py`. A test sees that it was run.

Every query is checked against the metric catalogue (schemas/metrics.py) and a scrape by tests/deploy/test_dashboard.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SOURCE = {"type": "prometheus", "uid": "prometheus"}
ALL = 'job=~"weir.*"'
RATE = "$__rate_interval"


def rate(metric: str, by: str = "", more: str = "") -> str:
    """Growth of a counter a second, over all processes, by labels."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{{{ALL}{more}}}[{RATE}]))"


def quantiles(metric: str, by: str = "") -> list[tuple[str, str]]:
    """p50, p95, p99, p99.9 of a histogram."""
    grouped = f"le, {by}" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    shares = (0.99,) if by else (0.5, 0.95, 0.99, 0.999)
    return [
        (f"histogram_quantile({share}, {rate(f'{metric}_bucket', grouped)})", f"{legend}p{share * 100:g}")
        for share in shares
    ]


def most(metric: str, by: str) -> str:
    """The largest of a gauge by labels."""
    return f"max by ({by}) ({metric}{{{ALL}}})"


ROWS: list[tuple[str, list[tuple[str, str, list[tuple[str, str]], str]]]] = [
    (
        "Decisions",
        [
            ("Payments decided", "reqps", [(rate("weir_payments_decided_total", "action"), "{{action}}")],
             "By the action asked for."),
            ("Reasons", "reqps", [(f"topk(10, {rate('weir_decision_reasons_total', 'reason')})", "{{reason}}")],
             "The ten most frequent reasons of all decisions."),
            ("Rules", "reqps", [(f"topk(10, {rate('weir_rule_hits_total', 'rule, mode')})", "{{rule}} {{mode}}")],
             "The ten rules that hold most often; a shadow rule acts on nothing."),
            ("Not as they should be", "reqps",
             [(rate("weir_duplicates_total"), "retries"),
              (rate("weir_late_events_total", "completeness"), "late, {{completeness}}"),
              (rate("weir_deadlines_missed_total", "cause"), "deadline missed: {{cause}}"),
              (rate("weir_payments_unscored_total", "cause"), "no score: {{cause}}")],
             "Retries, late payments, missed deadlines, payments without a score."),
        ],
    ),
    (
        "Latency",
        [
            ("Produce to decision acknowledged", "s", quantiles("weir_end_to_end_latency_seconds"),
             "From the broker's append of a payment to its acknowledgement of the decision."),
            ("Produce to decision made", "s", quantiles("weir_decision_latency_seconds"),
             "From the broker's append of a payment to its decision."),
            ("By stage, per event", "s", quantiles("weir_stage_latency_seconds", "stage"), "p99."),
            ("Stall at an epoch's end", "s", quantiles("weir_snapshot_stall_seconds"),
             "Nothing is read meanwhile: the tail of the latency is made of it."),
        ],
    ),
    (
        "Lag",
        [
            ("Records not read yet", "short", [(f"sum by (topic) (weir_lag_records{{{ALL}}})", "{{topic}}")],
             "Over all partitions."),
            ("Behind in event time", "s", [(most("weir_lag_event_time_seconds", "topic"), "{{topic}}")],
             "Of the partition furthest behind; grows on a quiet topic too."),
            ("Records read", "cps", [(rate("weir_events_read_total", "contract"), "{{contract}}")], "By contract."),
            ("Broker", "short",
             [(rate("weir_broker_errors_total", "side, error"), "{{side}} {{error}} a second"),
              (f"min by (side) (weir_broker_up{{{ALL}}})", "{{side}} up")],
             "Errors of the Kafka client, and whether the broker answers."),
        ],
    ),
    (
        "Dead letters",
        [
            ("Dead letters", "cps", [(rate("weir_dead_letters_total", "contract, reason"), "{{contract}} {{reason}}")],
             "Records that broke their contract: weir dead-letters list."),
            ("Published", "cps",
             [(rate("weir_records_published_total", "output"), "{{output}}"),
              (f"sum by (output) (weir_records_in_flight{{{ALL}}})", "{{output}} in flight")],
             "Acknowledged by the broker, and waiting for it."),
        ],
    ),
    (
        "Score and versions",
        [
            ("Score", "percentunit", quantiles("weir_decision_score_ratio"), "Quantiles of the model's score."),
            ("Labels learned", "short", [(most("weir_model_labels", "job"), "labels")], "Since the model's start."),
            ("Policy, model, features, program", "short",
             [(f"count by (id, version, hash) (weir_policy_info{{{ALL}}})", "policy {{id}} {{version}} {{hash}}"),
              (f"count by (id, version, hash) (weir_model_info{{{ALL}}})", "model {{id}} {{version}} {{hash}}"),
              (f"count by (id, hash) (weir_feature_set_info{{{ALL}}})", "features {{id}} {{hash}}"),
              (f"count by (version) (weir_build_info{{{ALL}}})", "weir {{version}}")],
             "Processes by what they run; two lines of one kind for long mean a deployment that stands half done."),
        ],
    ),
    (
        "State",
        [
            ("On disk and in memory", "bytes",
             [(f"sum (weir_state_disk_bytes{{{ALL}}})", "disk"),
              (f"sum (weir_state_undo_bytes{{{ALL}}})", "before-images"),
              (f"sum by (cache) (weir_state_cache_bytes{{{ALL}}})", "{{cache}} cache"),
              (f"sum (weir_state_write_buffer_bytes{{{ALL}}})", "write buffers")], "Of all processes."),
            ("Record cache", "percentunit",
             [(f'{rate("weir_state_cache_lookups_total", more=chr(44) + "result=" + chr(34) + "hit" + chr(34))}'
               f' / {rate("weir_state_cache_lookups_total")}', "hits")], "Share of records found in the cache."),
            ("Ready", "short", [(f"min by (part) (weir_ready{{{ALL}}})", "{{part}}")], "1 when every process is."),
        ],
    ),
]  # fmt: skip


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana's JSON."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row, shown in ROWS:
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": row, "collapsed": False, "panels": [],
             "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}}
        )  # fmt: skip
        y += 1
        width = 24 // len(shown)
        for place, (title, unit, queries, description) in enumerate(shown):
            panels.append(
                {
                    "id": len(panels) + 1,
                    "type": "timeseries",
                    "title": title,
                    "description": description,
                    "datasource": SOURCE,
                    "gridPos": {"x": place * width, "y": y, "w": width, "h": 8},
                    "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
                    "options": {"legend": {"displayMode": "list"}, "tooltip": {"mode": "multi", "sort": "desc"}},
                    "targets": [
                        {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
                        for at, (expr, legend) in enumerate(queries)
                    ],
                }
            )
        y += 8
    return {
        "uid": "weir", "title": "Weir", "tags": ["weir"], "timezone": "utc", "editable": False, "refresh": "10s",
        "schemaVersion": 39, "version": 1, "time": {"from": "now-30m", "to": "now"}, "templating": {"list": []},
        "annotations": {"list": []}, "panels": panels,
    }  # fmt: skip


if __name__ == "__main__":
    text = json.dumps(dashboard(), indent=1) + "\n"
    Path(__file__).with_name("weir.json").write_text(text, encoding="utf-8")
