"""Metrics and health over HTTP: the whole catalogue, with help and unit, and figures that agree with what came out."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from flows.live_metrics import LiveMetrics
from flows.metrics_server import Health, LiveCollector, MetricsServer, help_text
from flows.profile import load_profile
from flows.replay import ReplayOptions, run_replay
from flows.source import Run
from schemas import metrics
from schemas.errors import ConfigError
from schemas.metrics import METRICS, Metric
from schemas.validate import Limits
from tests.flows.test_replay import NOW_US
from tests.flows.traffic import decisions, write_events, write_profile

CONTRACTS = {"transactions": "transaction", "outcomes": "outcome"}
_OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Setting:
    """A run with its server."""

    def __init__(self, run: Run, now_us: int = NOW_US) -> None:
        self.run = run
        self.live = LiveMetrics(run.stats, run.pulse, CONTRACTS, lambda: now_us)
        self.health = Health(self.live, 30.0)
        collector = LiveCollector(self.live, ("small-1", "abc"), lambda: now_us)
        self.server = MetricsServer("127.0.0.1", 0, collector, self.health)

    def get(self, path: str, accept: str = "text/plain") -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.server.port}{path}", headers={"Accept": accept})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  # our own server
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def scrape(self) -> dict[str, Family]:
        status, text = self.get("/metrics")
        assert status == 200
        return {family.name: family for family in parse_text(text)}


@pytest.fixture
def setting() -> Iterator[Setting]:
    made = Setting(Run())
    with made.server:
        yield made


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Setting, Path, dict[str, Family]]]:
    """A run that was scraped while it decided and at its end."""
    directory = tmp_path_factory.mktemp("metrics")
    profile = load_profile(write_profile(directory / "profile"))
    options = ReplayOptions(
        events=write_events(directory / "events", payments=800),
        out=directory / "out",
        state=directory / "state",
        batch=100,
        epoch=timedelta(milliseconds=100),
        limits=Limits(),
        tokeniser=None,
        now_us=NOW_US,
        shards=2,
    )
    run = Run()
    made = Setting(run)
    faults: list[BaseException] = []
    with made.server:
        done = threading.Event()

        def scrape_meanwhile() -> None:
            try:
                while not done.is_set():
                    made.scrape()
            except BaseException as error:  # told by the test's own thread
                faults.append(error)

        thread = threading.Thread(target=scrape_meanwhile)
        thread.start()
        try:
            run_replay(profile, options, run)
        finally:
            done.set()
            thread.join()
        assert faults == []
        made.live.state = lambda: run.state
        yield made, options.out, made.scrape()


def value(families: dict[str, Family], metric: Metric, **labels: str) -> float:
    """One sample; of a histogram its count."""
    base = metric.name.removesuffix("_total")
    name = {"histogram": f"{base}_count", "counter": f"{base}_total"}.get(metric.kind, base)
    found = [one for one in families[base].samples if one.name == name and one.labels == labels]
    assert len(found) == 1, f"{name} {labels}: {families[base].samples}"
    return float(found[0].value)


def test_every_metric_of_the_catalogue_is_served_with_help_unit_and_kind(
    replayed: tuple[Setting, Path, dict[str, Family]],
) -> None:
    _, _, families = replayed
    for metric in METRICS:
        family = families[metric.name.removesuffix("_total")]
        assert family.documentation == help_text(metric)
        assert f"Unit: {metric.unit}." in family.documentation
        assert family.type == ("gauge" if metric.kind == "info" else metric.kind)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)
    served = {name for name in families if name.startswith("weir_")}
    assert served == {metric.name.removesuffix("_total") for metric in METRICS}


def test_openmetrics_names_the_units_that_names_end_in(replayed: tuple[Setting, Path, dict[str, Family]]) -> None:
    setting, _, _ = replayed
    status, text = setting.get("/metrics", _OPENMETRICS)
    assert status == 200
    parsed = parse_openmetrics(text)  # type: ignore[no-untyped-call]  # the library leaves it without types
    families = {family.name: family for family in parsed}
    assert families["weir_decision_latency_seconds"].unit == "seconds"
    assert families["weir_state_disk_bytes"].unit == "bytes"
    assert {metric.name.removesuffix("_total") for metric in METRICS} <= families.keys()


def test_figures_are_those_of_what_came_out(replayed: tuple[Setting, Path, dict[str, Family]]) -> None:
    _, out, families = replayed
    made = decisions(out)
    first = [one for one in made if not one["duplicate"]]
    assert len(first) > 700
    for action, number in Counter(one["action"] for one in first).items():
        assert value(families, metrics.PAYMENTS_DECIDED, action=action) == number
    reasons = Counter((one["action"], reason) for one in first for reason in one["reason_codes"])
    for (action, reason), number in reasons.items():
        assert value(families, metrics.DECISION_REASONS, action=action, reason=reason) == number
    hits = Counter((hit["rule"], "active") for one in first for hit in one["rule_hits"])
    hits += Counter((hit["rule"], "shadow") for one in first for hit in one["shadow_hits"])
    assert {mode for _, mode in hits} == {"active", "shadow"}
    for (rule, mode), number in hits.items():
        assert value(families, metrics.RULE_HITS, rule=rule, mode=mode) == number
    assert value(families, metrics.DUPLICATES) == len(made) - len(first)
    scores = [one["score"] for one in first if one["score"] is not None]
    assert scores
    assert value(families, metrics.DECISION_SCORE) == len(scores)
    assert value(families, metrics.DECISION_LATENCY) == len(first)
    late = sum(any(flag.startswith("late:") for flag in one["quality_flags"]) for one in first)
    assert late
    assert value(families, metrics.LATE_EVENTS, completeness="complete") == late
    assert value(families, metrics.FLAGGED_PAYMENTS, flag="late") == late
    letters = [orjson.loads(line) for line in (out / "dead_letters.jsonl").read_bytes().splitlines()]
    assert letters
    for (topic, reason), number in Counter((one["topic"], one["reason"]) for one in letters).items():
        assert value(families, metrics.DEAD_LETTERS, contract=CONTRACTS[topic], reason=reason) == number
    labelled = [orjson.loads(line) for line in (out / "labelled_outcomes.jsonl").read_bytes().splitlines()]
    for label, number in Counter(one["label"] for one in labelled if one["source"] != "maturity").items():
        assert value(families, metrics.OUTCOMES_MATCHED, label=label) == number
    versions = made[-1]["versions"]
    policy = {"id": versions["policy_id"], "version": versions["policy_version"], "hash": versions["policy_hash"]}
    assert value(families, metrics.POLICY_INFO, **policy) == 1
    model, _, labels = versions["model_version"].partition("+")
    known = {"id": versions["model_id"], "version": model, "hash": versions["model_hash"]}
    assert value(families, metrics.MODEL_INFO, **known) == 1
    assert value(families, metrics.MODEL_LABELS) >= int(labels) > 0
    assert value(families, metrics.EPOCHS) >= 1
    assert value(families, metrics.STATE_DISK_BYTES) > 0
    assert value(families, metrics.STAGE_LATENCY, stage="decide") >= len(first)
    assert value(families, metrics.SNAPSHOT_LATENCY, stage="decide") >= 1


def test_buckets_are_cumulative_and_edges_inclusive(setting: Setting) -> None:
    for seconds in (0.0005, 0.0006, 0.05, 0.1, 11.0):
        setting.live.delivered(NOW_US - round(seconds * 1e6))
    family = setting.scrape()["weir_end_to_end_latency_seconds"]
    buckets = {one.labels["le"]: one.value for one in family.samples if one.name.endswith("_bucket")}
    assert [buckets[edge] for edge in ("0.0005", "0.001", "0.05", "0.1", "10.0", "+Inf")] == [1, 2, 3, 4, 4, 5]
    total = next(one.value for one in family.samples if one.name.endswith("_sum"))
    assert total == pytest.approx(11.1511)


def test_stage_histogram_counts_what_was_observed_at_its_edges(setting: Setting) -> None:
    stage = setting.run.stats.stage("route")
    for seconds in (1e-9, 5e-6, 0.004, 2_000.0):
        stage.per_event.observe(seconds)
    family = setting.scrape()["weir_stage_latency_seconds"]
    buckets = [(float(one.labels["le"]), one.value) for one in family.samples if one.name.endswith("_bucket")]
    assert buckets[-1] == (float("inf"), 4)
    for at_most, count in ((3.2e-7, 1), (1e-5, 2), (1e-2, 3), (900.0, 3)):
        assert next(number for edge, number in reversed(buckets) if edge <= at_most * 1.01) == count


def test_hooks_of_source_and_sink_are_served(setting: Setting) -> None:
    live = setting.live
    live.read("transaction", 3)
    live.read("transaction", 2)
    live.position("transactions.v1", 1, 17, NOW_US - 2_000_000)
    live.position("transactions.v1", 0, None, NOW_US - 9_000_000)
    live.position("transactions.v1", 2, 4, None)
    live.assigned("transactions.v1", 3)
    live.stalled(0.02)
    live.published("decisions", 4)
    live.in_flight("decisions", 2)
    live.broker_up("inputs", up=False)
    live.broker_error("inputs", "_TRANSPORT")
    live.broker_error("inputs", "_TRANSPORT")
    live.set_ready("state", ready=True, why="open")
    live.backups = lambda: {"made": 2, "failed": 1}
    families = setting.scrape()
    assert value(families, metrics.EVENTS_READ, contract="transaction") == 5
    assert value(families, metrics.LAG_RECORDS, topic="transactions.v1", partition="1") == 17
    assert value(families, metrics.LAG_EVENT_TIME, topic="transactions.v1", partition="0") == pytest.approx(9)
    assert value(families, metrics.EVENT_TIME, topic="transactions.v1") == NOW_US / 1e6 - 2
    assert value(families, metrics.PARTITIONS_ASSIGNED, topic="transactions.v1") == 3
    assert value(families, metrics.SNAPSHOT_STALL) == 1
    assert value(families, metrics.RECORDS_PUBLISHED, output="decisions") == 4
    assert value(families, metrics.RECORDS_IN_FLIGHT, output="decisions") == 2
    assert value(families, metrics.BROKER_UP, side="inputs") == 0
    assert value(families, metrics.BROKER_ERRORS, side="inputs", error="_TRANSPORT") == 2
    assert value(families, metrics.READY, part="state") == 1
    assert value(families, metrics.READY, part="outputs") == 0
    assert value(families, metrics.BACKUPS, outcome="failed") == 1


def test_missed_deadlines_count_by_cause(setting: Setting) -> None:
    decision: dict[str, Any] = {
        "action": "approve", "reason_codes": ["DEADLINE_MISSED"], "rule_hits": [], "shadow_hits": [],
        "quality_flags": ["no_model_score"], "deadline_missed": True, "fallback": "backlog", "score": None,
        "decided_at": 9, "ingested_at": 3, "versions": {}, "role": "canary", "exploration": "held",
    }  # fmt: skip
    setting.live.decision(decision)
    setting.live.decision({**decision, "fallback": "deadline"})
    families = setting.scrape()
    assert value(families, metrics.DEADLINES_MISSED, cause="backlog") == 1
    assert value(families, metrics.DEADLINES_MISSED, cause="deadline") == 1
    assert value(families, metrics.PAYMENTS_UNSCORED, cause="no_model") == 2
    assert value(families, metrics.PAYMENTS_BY_ROLE, role="canary") == 2
    assert value(families, metrics.PAYMENTS_EXPLORED, exploration="held") == 2


def test_ready_means_that_all_parts_are(setting: Setting) -> None:
    status, text = setting.get("/readyz")
    assert status == 503
    assert json.loads(text) | {"alive": True} == {
        "ready": False, "alive": True, "state": "not begun yet", "inputs": "not begun yet", "outputs": "not begun yet",
    }  # fmt: skip
    for part in ("state", "inputs", "outputs"):
        assert setting.get("/readyz")[0] == 503
        setting.live.set_ready(part, ready=True, why="good")
    assert setting.get("/readyz")[0] == 200
    setting.live.set_ready("outputs", ready=False, why="the broker does not answer")
    status, text = setting.get("/readyz")
    assert (status, json.loads(text)["outputs"]) == (503, "the broker does not answer")
    with pytest.raises(ValueError, match="expected one of state, inputs, outputs"):
        setting.live.set_ready("outptus", ready=True, why="")


def test_a_process_that_counts_nothing_for_too_long_is_not_alive(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("flows.metrics_server.time.monotonic", lambda: now[0])
    assert setting.get("/healthz")[0] == 200
    now[0] += 29
    assert setting.get("/healthz")[0] == 200
    now[0] += 2
    status, text = setting.get("/healthz")
    assert (status, json.loads(text)["seconds_without_progress"]) == (503, 31.0)
    assert setting.get("/readyz")[0] == 503
    setting.run.pulse.beat("a batch")
    status, text = setting.get("/healthz")
    assert (status, json.loads(text)) == (200, {"alive": True, "seconds_without_progress": 0.0, "last": "a batch"})


def test_other_paths_are_not_there(setting: Setting) -> None:
    assert setting.get("/")[0] == 404
    assert setting.get("/metrics?x=1")[0] == 200


def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        run = Run()
        live = LiveMetrics(run.stats, run.pulse, {})
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1 port {port} cannot be listened on .*metrics.port"):
            MetricsServer("127.0.0.1", port, LiveCollector(live, ("a", "b"), lambda: 0), Health(live, 1))


def test_the_page_of_metrics_is_the_catalogue(root: Path) -> None:
    text = (root / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `weir_")]
    assert rows == [
        f"| `{one.name}` | {one.kind} | {one.unit} | {', '.join(one.labels)} | {one.help} |" for one in METRICS
    ]
