"""The state's figures for metrics.json, under their names in the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from schemas import metrics
from state.store import StateHome

_FIGURES: Final = (
    (metrics.STATE_CACHE_BYTES, "block", "block_cache_bytes"),
    (metrics.STATE_CACHE_BYTES, "record", "record_cache_bytes"),
    (metrics.STATE_CACHE_LOOKUPS, "hit", "record_hits"),
    (metrics.STATE_CACHE_LOOKUPS, "miss", "record_misses"),
    (metrics.STATE_WRITE_BUFFER_BYTES, "", "memtable_bytes"),
    (metrics.STATE_UNDO_RECORDS, "", "undo_records"),
    (metrics.STATE_UNDO_BYTES, "", "undo_bytes"),
    (metrics.STATE_SWEPT, "", "swept"),
    (metrics.STATE_DISK_BYTES, "", "disk_bytes"),
)


def state_figures(home: StateHome) -> dict[str, dict[str, float]]:
    """Metric name -> label -> figure; the label is empty for a metric without."""
    stats = home.stats()
    made: dict[str, dict[str, float]] = {}
    for metric, label, figure in _FIGURES:
        made.setdefault(metric.name, {})[label] = stats[figure]
    return made


def sum_figures(members: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The figures of several processes, each with shards and caches of its own, as one."""
    total: dict[str, dict[str, float]] = {}
    for member in members:
        for name, labels in member.items():
            for label, figure in labels.items():
                row = total.setdefault(name, {})
                row[label] = row.get(label, 0) + figure
    return total
