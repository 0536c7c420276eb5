"""The replay report in a real browser: nothing asked for, nothing on the console, no text cut off or covered."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.report import write_report
from tests.browser import Page, find_chromium, open_page
from tests.flows.report_runs import (
    DAY0,
    HOSTILE_METRICS,
    decision,
    hostile_run,
    outcome,
    rfc3339,
    write_lines,
)

SCREENS = [(360, True), (768, False), (1400, False)]

# What is wrong with the page as it stands, as sentences. Text may leave the screen only inside a box that scrolls.
FAULTS = """
(() => {
  const faults = [];
  const shown = (box) => box.width > 0 && box.height > 0;
  const name = (node) => node.tagName + " " + JSON.stringify(node.textContent.trim().slice(0, 50));
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) faults.push(`page is ${root.scrollWidth} wide on ${root.clientWidth}`);
  const charts = [...document.querySelectorAll("svg.chart")];
  for (const chart of charts) {
    const box = chart.getBoundingClientRect();
    if (box.width < 200 || box.height < 30) faults.push(`${name(chart)} is ${box.width} by ${box.height}`);
    const frame = chart.closest(".card").getBoundingClientRect();
    const texts = [...chart.querySelectorAll("text")].map((node) => [node, node.getBoundingClientRect()]);
    const seen = texts.filter(([, box]) => shown(box));
    if (seen.length < 2) faults.push(`${name(chart)} has no labels`);
    for (const [node, box] of seen) {
      if (box.left < frame.left || box.right > frame.right || box.top < frame.top || box.bottom > frame.bottom)
        faults.push(`${name(node)} leaves its card`);
      for (const [other, its] of seen)
        if (node.compareDocumentPosition(other) & Node.DOCUMENT_POSITION_FOLLOWING &&
            box.left < its.right - 1 && its.left < box.right - 1 &&
            box.top < its.bottom - 2 && its.top < box.bottom - 2)
          faults.push(`${name(node)} is on ${name(other)} in ${chart.querySelector("title").textContent}`);
    }
    const drawn = [...chart.querySelectorAll("rect:not(.hit),path,circle")];
    if (!drawn.some((node) => shown(node.getBoundingClientRect()))) faults.push(`${name(chart)} draws nothing`);
    for (const node of drawn) {
      const box = node.getBoundingClientRect();
      if (box.left < frame.left || box.right > frame.right) faults.push(`a ${node.className.baseVal} leaves its card`);
    }
  }
  for (const node of document.querySelectorAll("h1,h2,h3,p,dt,dd,li,summary,th,td")) {
    const box = node.getBoundingClientRect();
    if (node.closest(".scroll") || !shown(box)) continue;
    if (box.left < 0 || box.right > root.clientWidth + 1 || node.scrollWidth > node.clientWidth + 1)
      faults.push(`${name(node)} is cut off`);
  }
  for (const box of document.querySelectorAll(".scroll")) if (box.tabIndex !== 0) faults.push("a box needs a mouse");
  return {faults, charts: charts.length};
})()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    find_chromium()
    with open_page(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def busy_run(directory: Path) -> dict[str, Any]:
    """Ten weeks with everything a report can show."""
    rng = random.Random(11)
    decisions, outcomes = [], []
    for number in range(3_000):
        fraud = rng.random() < 0.06
        score = min(1.0, max(0.0, rng.gauss(0.6 if fraud else 0.2, 0.15))) if number > 200 else None
        hits = [
            {"rule": f"{name}-{index}", "action": rng.choice(["challenge", "review", "decline"])}
            for index, name in enumerate(
                ["velocity-burst", "new-device-credentials-changed-large-transfer", "night"] * 9
            )
            if rng.random() < (0.1 if fraud else 0.005 * (index % 4))
        ]
        at = DAY0 + timedelta(minutes=34 * number)
        decisions.append(
            decision(
                number,
                event_time=rfc3339(at),
                action=hits[0]["action"] if hits else "approve",
                score=score,
                rule_hits=hits[1:],
                shadow_hits=hits[:1],
                reason_codes=[hit["rule"].upper() for hit in hits],
                quality=["late:card"] * (number % 40 == 0) + ["approximated:merchant.30d"] * (number % 7 == 0),
                currency=rng.choice(["EUR", "JPY", "KWD"]),
                amount_minor=rng.randrange(10**9),
            )
        )
        if fraud:
            outcomes.append(outcome(number, days=80))
    write_lines(directory / "decisions.jsonl", decisions)
    write_lines(directory / "outcomes.jsonl", outcomes)
    letter = {"topic": "device_events", "reason": "IDENTIFIER_LOOKS_LIKE_PAN", "detail": "device_id " + "long " * 30}
    write_lines(directory / "dead_letters.jsonl", [letter] * 4)
    stages = {
        name: {"count": 3000, "mean_us": 3.0 * place, "p50_us": 2.0 * place, "p99_us": 40.0 * place**2}
        for place, name in enumerate(["ingest", "seen", "account", "card", "merchant", "decide", "publish"], 1)
    }
    return {"stages": stages, "payments_per_s": 2400.0, "wall_s": 1.25, "workers": 1}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A busy run, a hostile one, one decision, and nothing."""
    made = {}
    for name in ("busy", "hostile", "single", "empty"):
        directory = tmp_path_factory.mktemp(name)
        metrics: dict[str, Any] = {}
        if name == "busy":
            metrics = busy_run(directory)
        elif name == "hostile":
            hostile_run(directory)
            metrics = HOSTILE_METRICS
        elif name == "single":
            write_lines(directory / "decisions.jsonl", [decision(0, score=0.3)])
        made[name] = directory / "report.html"
        write_report(directory, directory, metrics, made[name], profile="p" * 90 if name == "hostile" else name)
    return made


@pytest.mark.parametrize(("width", "dark"), SCREENS)
@pytest.mark.parametrize(("name", "charts"), [("busy", 11), ("hostile", 11), ("single", 2), ("empty", 0)])
def test_the_page_is_whole_on_every_screen(
    page: Page, reports: dict[str, Path], tmp_path: Path, name: str, charts: int, width: int, dark: bool
) -> None:
    path = reports[name]
    page.messages.clear()
    page.requests.clear()
    page.show(width, 900, dark=dark)
    page.open(path.as_uri())
    assert page.evaluate(FAULTS) == {"faults": [], "charts": charts}
    page.evaluate("document.querySelectorAll('details').forEach((one) => one.open = true)")
    assert page.evaluate(FAULTS) == {"faults": [], "charts": charts}
    if name == "busy":  # to be looked at; the directories of the last three runs are kept
        page.screenshot(tmp_path / "report.png")
        assert (tmp_path / "report.png").stat().st_size > 50_000
    assert page.messages == []
    assert set(page.requests) == {path.as_uri()}


@pytest.mark.parametrize("days", [0.1, 2, 40, 104, 300, 800, 4000])
def test_labels_of_any_span_of_time_keep_apart_on_any_screen(page: Page, tmp_path: Path, days: float) -> None:
    steps = [rfc3339(DAY0 + timedelta(days=days * step / 120)) for step in range(121)]
    actions = ["approve", "challenge"] * 61
    decisions = [
        decision(number, event_time=at, action=action, score=number / 121)
        for number, (at, action) in enumerate(zip(steps, actions, strict=False))
    ]
    write_lines(tmp_path / "decisions.jsonl", decisions)
    write_lines(tmp_path / "outcomes.jsonl", [outcome(number) for number in range(0, 121, 3)])
    path = tmp_path / "report.html"
    write_report(tmp_path, tmp_path, {}, path, profile="spans")
    page.show(1400, 900, dark=False)
    page.open(path.as_uri())
    for width in (360, 640, 900, 1000, 1200):
        page.show(width, 900, dark=False)
        assert page.evaluate(FAULTS) == {"faults": [], "charts": 7}, width


def test_light_and_dark_follow_the_reader(page: Page, reports: dict[str, Path]) -> None:
    grounds = []
    for dark in (False, True):
        page.show(800, 600, dark=dark)
        page.open(reports["busy"].as_uri())
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds == ["rgb(244, 246, 247)", "rgb(14, 20, 24)"]


def test_a_page_that_asks_or_complains_is_noticed(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text(
        "<h1 style='width:9000px'>wide</h1><img src='http://127.0.0.1:9/x.png'><script>console.error('no')</script>"
        "<div class=card><svg class=chart width=5 height=5><title>tiny</title></svg></div>"
    )
    page.messages.clear()
    page.requests.clear()
    page.show(400, 600, dark=False)
    page.open(path.as_uri())
    assert "no" in page.messages
    assert "http://127.0.0.1:9/x.png" in page.requests
    faults = page.evaluate(FAULTS)["faults"]
    assert any("is cut off" in fault for fault in faults)
    assert any("5 by 5" in fault for fault in faults)


def test_without_a_browser_a_test_skips_unless_the_build_promised_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIR_CHROMIUM", "no-such-browser")
    monkeypatch.setenv("WEIR_REQUIRE", "kafka")
    with pytest.raises(pytest.skip.Exception, match="no browser: looked for no-such-browser; apt-get install"):
        find_chromium()
    monkeypatch.setenv("WEIR_REQUIRE", "kafka,browser")
    with pytest.raises(pytest.fail.Exception, match="no browser: looked for no-such-browser"):
        find_chromium()
