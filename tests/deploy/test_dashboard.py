"""Every query of the dashboard is PromQL over metrics and labels that the catalogue has and a process serves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from flows.live_metrics import LiveMetrics
from flows.metrics_server import LiveCollector
from flows.source import Run
from schemas.metrics import METRICS, Metric

TARGET_LABELS = {"job", "instance"}
"""What Prometheus adds to every series."""


def panels(root: Path) -> list[dict[str, Any]]:
    content = json.loads((root / "deploy" / "grafana" / "weir.json").read_text(encoding="utf-8"))
    return [panel for panel in content["panels"] if panel["type"] != "row"]


def targets(root: Path) -> list[tuple[str, str]]:
    return [(one["expr"], one["legendFormat"]) for panel in panels(root) for one in panel["targets"]]


def series_of(metric: Metric) -> set[str]:
    return (
        {f"{metric.name}_{end}" for end in ("bucket", "sum", "count")} if metric.kind == "histogram" else {metric.name}
    )


SERIES = {name: metric for metric in METRICS for name in series_of(metric)}


def faults(query: str, legend: str) -> list[str]:
    """What is wrong with a query and the legend over it."""
    found: list[str] = []
    try:
        parsed = promql_parser.parse(query.replace("$__rate_interval", "1m"))
    except ValueError as error:
        return [f"no PromQL: {error}"]
    selected: set[str] = set()
    grouped: list[set[str]] = []

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            metric = SERIES.get(node.name or "")
            if metric is None:
                found.append(f"no metric {node.name}")
                return
            allowed = TARGET_LABELS | set(metric.labels) | ({"le"} if metric.kind == "histogram" else set())
            selected.update(allowed)
            for matcher in node.matchers.matchers:
                if matcher.name not in allowed:
                    found.append(f"{node.name} has no label {matcher.name}")
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            grouped.append(set(node.modifier.labels))

    promql_parser.walk(parsed, visit)
    for labels in grouped:
        found += [f"grouped by {label}, which no metric of the query has" for label in sorted(labels - selected)]
    shown = set(re.findall(r"\{\{(\w+)\}\}", legend))
    left = set.union(*grouped) if grouped else set()
    found += [f"legend shows {label}, which the query does not keep" for label in sorted(shown - left)]
    return found


def test_every_query_is_over_metrics_and_labels_of_the_catalogue(root: Path) -> None:
    assert len(targets(root)) > 25
    wrong = {expr: told for expr, legend in targets(root) if (told := faults(expr, legend))}
    assert wrong == {}


@pytest.mark.parametrize(
    ("query", "legend", "fault"),
    [
        ("sum(rate(weir_payments_decided_total[1m])", "", "no PromQL"),
        ("weir_payments_decided", "", "no metric weir_payments_decided"),
        ("weir_decision_latency_seconds", "", "no metric weir_decision_latency_seconds"),
        ('weir_ready{parts="state"}', "", "weir_ready has no label parts"),
        ("sum by (reason) (weir_payments_decided_total)", "", "grouped by reason"),
        ("sum by (part) (weir_ready)", "{{topic}}", "legend shows topic"),
    ],
)
def test_the_check_itself_sees_what_is_wrong(query: str, legend: str, fault: str) -> None:
    (told,) = faults(query, legend)
    assert told.startswith(fault)


def test_every_metric_of_the_dashboard_stands_in_a_scrape(root: Path) -> None:
    run = Run()
    live = LiveMetrics(run.stats, run.pulse, {}, lambda: 0)
    registry = CollectorRegistry()
    registry.register(LiveCollector(live, ("f", "h"), lambda: 0))
    text = generate_latest(registry).decode()
    served = {family.name for family in text_string_to_metric_families(text)}
    named = {name for expr, _ in targets(root) for name in re.findall(r"weir_\w+", expr)}
    assert named
    for name in named:
        assert SERIES[name].name.removesuffix("_total") in served


def test_the_dashboard_shows_what_an_operator_asks_first(root: Path) -> None:
    named = " ".join(expr for expr, _ in targets(root))
    for metric in ("weir_payments_decided", "weir_end_to_end_latency", "weir_lag_records", "weir_lag_event_time",
                   "weir_dead_letters", "weir_decision_score"):  # fmt: skip
        assert metric in named


def test_the_dashboard_was_made_by_its_program(root: Path, tmp_path: Path) -> None:
    program = (root / "deploy" / "grafana" / "make_dashboard.py").read_text(encoding="utf-8")
    (tmp_path / "make_dashboard.py").write_text(program, encoding="utf-8")
    subprocess.run([sys.executable, tmp_path / "make_dashboard.py"], check=True)
    assert (tmp_path / "weir.json").read_text() == (root / "deploy" / "grafana" / "weir.json").read_text()


def test_panels_do_not_overlap_and_have_a_source(root: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels(root):
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + 8)}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["datasource"]["uid"] == "prometheus"


def services(root: Path) -> dict[str, Any]:
    content = yaml.safe_load((root / "deploy" / "compose.yml").read_text(encoding="utf-8"))
    found: dict[str, Any] = content["services"]
    return found


def mounted(root: Path) -> Iterator[Path]:
    for service in services(root).values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                yield root / "deploy" / source


def test_what_compose_mounts_and_builds_exists(root: Path) -> None:
    assert len(list(mounted(root))) >= 5
    for path in mounted(root):
        assert path.exists(), path
    stages = re.findall(r"^FROM \S+ AS (\w+)$", (root / "deploy" / "Dockerfile").read_text(), flags=re.MULTILINE)
    for name, service in services(root).items():
        build = service.get("build")
        if build is not None:
            assert (root / "deploy" / build["context"] / build["dockerfile"]).is_file()
            assert build["target"] in stages
        for wanted in service.get("depends_on", []):
            assert wanted in services(root), f"{name} depends on {wanted}"
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name}: {port} is not on loopback"


def test_prometheus_scrapes_what_compose_runs(root: Path) -> None:
    scraped = yaml.safe_load((root / "deploy" / "prometheus.yml").read_text(encoding="utf-8"))
    for job in scraped["scrape_configs"]:
        assert re.fullmatch("weir.*", job["job_name"])
        for target in job["static_configs"][0]["targets"]:
            assert target.partition(":")[0] in services(root)


def test_what_the_image_copies_exists_and_reaches_the_builder(root: Path) -> None:
    text = (root / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    let_in = [line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (?!--from)(.*)$", text, flags=re.MULTILINE)]
    assert copied
    for source in (one for words in copied for one in words):
        assert (root / source).exists(), source
        assert any(source == one or source.startswith(f"{one}/") for one in let_in), source
    assert re.search(r"^USER 10001", text, flags=re.MULTILINE)
    locked = (root / "requirements.lock").read_text()
    for pin in re.findall(r"^([a-z0-9_.-]+==\S+)", (root / "deploy" / "image.lock").read_text(), flags=re.MULTILINE):
        assert pin in locked, f"deploy/image.lock has {pin}, requirements.lock has not: make lock"
