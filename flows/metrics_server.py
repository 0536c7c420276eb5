"""Serves the catalogue's metrics and the process's health over HTTP, on a port of its own, loopback unless said.

    GET /metrics     all of schemas/metrics.py, and process_* of the client library; text or OpenMetrics, as asked for
    GET /healthz     200 while the process makes progress, else 503: it hangs, kill it
    GET /readyz      200 when state is open, inputs are assigned and outputs answer, else 503 with what is wanting

The registry is ours alone: nothing that a library registers by default is served. There is no authentication; whoever
can reach the port can read counts, rule ids, topic names and versions, and no more.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version as installed_version
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from flows.live_metrics import FixedHistogram, LiveMetrics
from flows.stats import EDGES_S, Histogram
from schemas import metrics
from schemas.errors import ConfigError
from schemas.metrics import METRICS, Metric

_STATE_EVERY_S: Final = 15.0
"""Between two looks at the state: one walks its directories and holds up whoever opens a shard meanwhile."""
_EVERY_NTH_EDGE: Final = 5
"""Of the stages' ten buckets a decade two are exported: each edge is a series for every stage."""


_Histograms = dict[tuple[str, ...], tuple[list[tuple[str, float]], float]]
"""By labels: (edge and number up to it, sum)."""


def help_text(metric: Metric) -> str:
    """What stands behind # HELP: the sentence and the unit, which the text format has no place of its own for."""
    return f"{metric.help} Unit: {metric.unit}."


class LiveCollector(Collector):
    """Makes metric families of the figures whenever a registry asks."""

    def __init__(self, live: LiveMetrics, feature_set: tuple[str, str], now_us: Callable[[], int]) -> None:
        """Prepare.

        Args:
            live: The figures.
            feature_set: Its id and hash.
            now_us: The flow's clock, for the lag in event time.
        """
        self._live = live
        self._feature_set = feature_set
        self._now_us = now_us
        self._state: Mapping[str, Mapping[str, float]] = {}
        self._state_at = -math.inf
        self._lock = threading.Lock()

    def describe(self) -> Iterable[Family]:
        """Called by the registry on registration; the catalogue, so that nothing is collected for it."""
        return [_family(metric) for metric in METRICS]

    def collect(self) -> Iterable[Family]:
        """Called by the registry for each scrape; every metric of the catalogue, those without samples too."""
        with self._lock:
            samples = self._samples()
            histograms = self._histograms()
        for metric in METRICS:
            family = _family(metric)
            if isinstance(family, HistogramMetricFamily):
                for labels, (buckets, total) in histograms.get(metric, {}).items():
                    family.add_metric(labels, buckets, total)
            else:
                for labels, value in samples.get(metric, {}).items():
                    family.add_metric(labels, value)  # type: ignore[attr-defined]  # counters and gauges all have it
            yield family

    def _samples(self) -> dict[Metric, dict[tuple[str, ...], float]]:
        # Copies, each made in one step of the interpreter: the flow's thread goes on counting.
        live = self._live
        samples: dict[Metric, dict[tuple[str, ...], float]] = {}
        for source in (live.counts.copy(), live.gauges.copy()):
            for metric, row in source.items():
                samples[metric] = dict(row.copy())
        now_s = self._now_us() / 1e6
        reached: dict[tuple[str, ...], float] = {}
        lags: dict[tuple[str, ...], float] = {}
        for (topic, partition), at_us in live.event_times_us.copy().items():
            reached[(topic,)] = max(reached.get((topic,), 0.0), at_us / 1e6)
            lags[(topic, partition)] = max(0.0, now_s - at_us / 1e6)
        samples[metrics.EVENT_TIME] = reached
        samples[metrics.LAG_EVENT_TIME] = lags
        samples[metrics.EPOCHS] = {(): float(live.pulse.epochs)}
        samples[metrics.READY] = {(part,): float(ready) for part, (ready, _) in live.ready.copy().items()}
        self._add_versions(samples)
        for name, figures in self._state_figures().items():
            metric = _BY_NAME[name]
            samples[metric] = {_labels(label): value for label, value in figures.items()}
        if live.backups is not None:
            samples[metrics.BACKUPS] = {(outcome,): float(number) for outcome, number in live.backups().items()}
        return samples

    def _add_versions(self, samples: dict[Metric, dict[tuple[str, ...], float]]) -> None:
        versions = {name: value or "" for name, value in self._live.versions.items()}
        samples[metrics.BUILD_INFO] = {(installed_version("weir"),): 1.0}
        samples[metrics.FEATURE_SET_INFO] = {self._feature_set: 1.0}
        if versions:
            policy = (versions["policy_id"], versions["policy_version"], versions["policy_hash"])
            samples[metrics.POLICY_INFO] = {policy: 1.0}
        if versions.get("model_id"):
            # "1+2481": version 1 after 2,481 labels. The labels go by themselves, lest each one makes a series.
            version, _, labels = versions["model_version"].partition("+")
            samples[metrics.MODEL_INFO] = {(versions["model_id"], version, versions["model_hash"]): 1.0}
            samples[metrics.MODEL_LABELS] = {(): float(labels or 0)}

    def _state_figures(self) -> Mapping[str, Mapping[str, float]]:
        if self._live.state is not None and time.monotonic() - self._state_at >= _STATE_EVERY_S:
            self._state = self._live.state()
            self._state_at = time.monotonic()
        return self._state

    def _histograms(self) -> dict[Metric, _Histograms]:
        live = self._live
        made: dict[Metric, _Histograms] = {
            metric: {(): _fixed(metric, histogram)} for metric, histogram in live.histograms.items()
        }
        stages = live.stats.stages.copy()
        made[metrics.STAGE_LATENCY] = {(name,): _logarithmic(stage.per_event) for name, stage in stages.items()}
        made[metrics.SNAPSHOT_LATENCY] = {
            (name,): _logarithmic(stage.snapshots) for name, stage in stages.items() if stage.snapshots.count
        }
        return made


_BY_NAME: Final = {metric.name: metric for metric in METRICS}


def _labels(label: str) -> tuple[str, ...]:
    """An empty label stands for none."""
    return (label,) if label else ()


def _family(metric: Metric) -> Family:
    # A family whose name ends in its unit tells it in OpenMetrics as well.
    base = metric.name.removesuffix("_total")
    unit = metric.unit if base.endswith(f"_{metric.unit}") else ""
    if metric.kind == "counter":
        return CounterMetricFamily(metric.name, help_text(metric), labels=metric.labels, unit=unit)
    if metric.kind == "histogram":
        return HistogramMetricFamily(metric.name, help_text(metric), labels=metric.labels, unit=unit)
    return GaugeMetricFamily(metric.name, help_text(metric), labels=metric.labels, unit=unit)


def _fixed(metric: Metric, histogram: FixedHistogram) -> tuple[list[tuple[str, float]], float]:
    counts, total = histogram.counts.copy(), histogram.total
    return _cumulated([_edge(edge) for edge in metric.buckets], counts), total


def _logarithmic(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    fine, total = histogram.buckets.copy(), histogram.total_s
    counts = [sum(fine[start : start + _EVERY_NTH_EDGE]) for start in range(0, len(fine), _EVERY_NTH_EDGE)]
    edges = [_edge(float(f"{edge:.4g}")) for edge in EDGES_S[_EVERY_NTH_EDGE - 1 :: _EVERY_NTH_EDGE]]
    return _cumulated(edges[: len(counts) - 1], counts), total


def _edge(edge: float) -> str:
    return str(floatToGoString(edge))  # type: ignore[no-untyped-call]  # the library leaves it without types


def _cumulated(edges: list[str], counts: list[int]) -> list[tuple[str, float]]:
    """Prometheus counts all observations up to an edge; the last bucket has none."""
    buckets: list[tuple[str, float]] = []
    running = 0
    for edge, count in zip([*edges, "+Inf"], counts, strict=True):
        running += count
        buckets.append((edge, float(running)))
    return buckets


class Health:
    """Whether the process is alive and ready, asked by probes."""

    def __init__(self, live: LiveMetrics, stuck_after_s: float) -> None:
        """Prepare.

        Args:
            live: Its pulse, stages and parts.
            stuck_after_s: Without progress for so long it hangs; the watchdog's span. 0: never.
        """
        self._live = live
        self._stuck_after_s = stuck_after_s
        self._seen: tuple[int, int] = (-1, -1)
        self._since = time.monotonic()
        self._lock = threading.Lock()

    def alive(self) -> tuple[bool, dict[str, Any]]:
        """Whether something was counted since the last time somebody asked, or not long ago."""
        with self._lock:
            pulse = self._live.pulse
            stages = self._live.stats.stages.copy().values()
            counts = (pulse.beats, sum(stage.batches.count + stage.snapshots.count for stage in stages))
            now = time.monotonic()
            if counts != self._seen:
                self._seen, self._since = counts, now
            still_s = now - self._since
            alive = not self._stuck_after_s or still_s <= self._stuck_after_s
            return alive, {"alive": alive, "seconds_without_progress": round(still_s, 1), "last": pulse.what}

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether all parts are ready, and what each says of itself."""
        alive, _ = self.alive()
        parts = self._live.ready.copy()
        ready = alive and all(yes for yes, _ in parts.values())
        return ready, {"ready": ready, "alive": alive, **{part: said for part, (_, said) in parts.items()}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], registry: CollectorRegistry, health: Health) -> None:
        self.registry = registry
        self.health = health
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10
    """A client that sends nothing holds a thread no longer than this."""

    def do_GET(self) -> None:
        """Answer one request."""
        path = urlsplit(self.path).path
        if path == "/metrics":
            encoder, content_type = choose_encoder(self.headers.get("Accept") or "")
            self._answer(200, content_type, encoder(self.server.registry))
        elif path in ("/healthz", "/readyz"):
            good, said = self.server.health.alive() if path == "/healthz" else self.server.health.ready()
            self._answer(200 if good else 503, "application/json", orjson.dumps(said) + b"\n")
        else:
            self._answer(404, "text/plain; charset=utf-8", b"expected /metrics, /healthz or /readyz\n")

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class names it so
        """A scrape is no event."""


class MetricsServer:
    """Serves while its context lasts.

    Attributes:
        port: Where it listens; of use when 0 was asked for.
    """

    def __init__(self, host: str, port: int, collector: LiveCollector, health: Health) -> None:
        """Take the port.

        Raises:
            ConfigError: It cannot be had.
        """
        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector)
        ProcessCollector(registry=registry)
        try:
            self._server = _Server((host, port), registry, health)
        except OSError as error:
            message = (
                f"metrics: {host} port {port} cannot be listened on ({error.strerror}); give another metrics.host or "
                "metrics.port in weir.toml (each process of a cluster has the next port)"
            )
            raise ConfigError(message) from error
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    def __enter__(self) -> MetricsServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
