"""The replay report: numbers against a hand-computed example and scikit-learn, and a page that is safe to open."""

from __future__ import annotations

import json
import re
from array import array
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve

from flows import report_read
from flows.report import write_report
from flows.report_data import ReportData
from flows.report_labels import read_labels
from flows.report_read import read_report_data
from flows.report_scores import summarise_scores
from flows.report_time import PERIODS, TIMELINE, rebin
from tests.flows.report_runs import DAY0, HOSTILE, HOSTILE_METRICS, decision, hostile_run, outcome, write_lines

EXAMPLE = [
    decision(
        0, action="decline", score=0.9, reason_codes=["FAST", "FAR"], rule_hits=[{"rule": "far", "action": "review"}]
    ),
    decision(1, action="review", score=0.7, reason_codes=["FAR"], rule_hits=[{"rule": "far", "action": "review"}]),
    decision(2, score=0.9, shadow_hits=[{"rule": "far", "action": "decline"}], quality=["late:card", "late:account"]),
    decision(2, duplicate=True),
    decision(3, score=0.1, quality=["late_incomplete", "warming:7d"], reason_codes=["QUIET"]),
    decision(4, amount_minor=500, currency="JPY", quality=["absent:device"]),
    decision(200, action="challenge", score=0.2, amount_minor=2500),
]


@pytest.fixture
def example(tmp_path: Path) -> ReportData:
    write_lines(tmp_path / "decisions.jsonl", EXAMPLE)
    write_lines(tmp_path / "outcomes.jsonl", [outcome(0), outcome(2), outcome(4), outcome(999)])
    letter = {"topic": "transactions", "partition": 0, "offset": 1, "reason": "FIELD_MISSING", "detail": "first"}
    write_lines(tmp_path / "dead_letters.jsonl", [letter, letter | {"detail": "second"}, letter | {"reason": "OTHER"}])
    return read_report_data(tmp_path, read_labels(tmp_path, tmp_path))


def test_payments_are_counted_by_action_without_duplicates(example: ReportData) -> None:
    assert (example.payments, example.frauds, example.duplicates, example.unreadable) == (6, 3, 1, 0)
    assert {one.name: (one.count, one.fraud) for one in example.actions} == {
        "approve": (3, 2),
        "challenge": (1, 0),
        "review": (1, 0),
        "decline": (1, 1),
    }
    assert (example.first, example.last) == (DAY0, DAY0 + timedelta(hours=200))


def test_rules_are_counted_by_action_and_mode(example: ReportData) -> None:
    assert [(one.rule, one.action, one.shadow, one.hits, one.fraud) for one in example.rules] == [
        ("far", "review", False, 2, 1),
        ("far", "decline", True, 1, 1),
    ]


def test_reasons_are_counted_for_all_and_for_those_not_approved(example: ReportData) -> None:
    assert [(one.name, one.count, one.fraud) for one in example.reasons] == [
        ("FAR", 2, 1),
        ("FAST", 1, 1),
        ("QUIET", 1, 0),
    ]
    assert [one.name for one in example.stop_reasons] == ["FAR", "FAST"]


def test_a_payment_with_two_flags_of_a_kind_counts_once_in_the_kind(example: ReportData) -> None:
    assert {one.name: one.count for one in example.flag_groups} == {
        "late": 1,
        "late_incomplete": 1,
        "warming": 1,
        "absent": 1,
    }
    assert {one.name: one.fraud for one in example.flags} == {
        "late:card": 1,
        "late:account": 1,
        "late_incomplete": 0,
        "warming:7d": 0,
        "absent:device": 1,
    }
    assert example.late == 2


def test_flags_are_found_under_the_name_of_the_avro_contract_too(tmp_path: Path) -> None:
    renamed = decision(1, quality_flags=["no_rate"])
    del renamed["quality"]
    write_lines(tmp_path / "decisions.jsonl", [renamed])
    data = read_report_data(tmp_path, read_labels(None, tmp_path))
    assert [one.name for one in data.flags] == ["no_rate"]


def test_bounds_on_memory_change_no_count_but_the_list_of_versions(
    tmp_path: Path, example: ReportData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_read, "MAX_FINDINGS", 1)
    monkeypatch.setattr(report_read, "MAX_VERSIONS", 1)
    bounded = read_report_data(tmp_path, read_labels(tmp_path, tmp_path))
    for name in ("rules", "reasons", "stop_reasons", "flags", "flag_groups", "late", "actions", "hours", "money"):
        assert getattr(bounded, name) == getattr(example, name)
    assert bounded.versions == {"further": [("not listed", 2)], "model_version": [("0", 4)], "policy_id": [("p", 4)]}


def test_money_is_summed_by_currency(example: ReportData) -> None:
    assert [(one.currency, one.payments, one.total, one.fraud, one.caught) for one in example.money] == [
        ("EUR", 5, 6500, 2000, 1000),
        ("JPY", 1, 500, 500, 0),
    ]


def test_scores_are_ranked_by_hand(example: ReportData) -> None:
    scores = example.scores
    assert (scores.scored, scores.frauds) == (5, 2)
    # 0.9 holds two frauds of two: recall 1 at precision 1.
    assert scores.curve is not None
    assert scores.curve.average_precision == 1.0
    assert scores.actions == {"decline": (1, 1), "review": (1, 0), "approve": (2, 1), "challenge": (1, 0)}
    assert sum(scores.genuine) == 3
    assert scores.fraud[45] == 2  # 0.90 to 0.92


def test_dead_letters_keep_the_first_detail_of_each_reason(example: ReportData) -> None:
    assert [(one.topic, one.reason, one.count, one.example) for one in example.dead_letters] == [
        ("transactions", "FIELD_MISSING", 2, "first"),
        ("transactions", "OTHER", 1, "first"),
    ]


def test_versions_are_counted_by_field_and_null_ones_left_out(example: ReportData) -> None:
    assert example.versions == {"policy_id": [("p", 6)], "model_version": [("0", 4), ("1", 1), ("50", 1)]}


def test_time_is_binned_to_what_can_be_drawn(example: ReportData) -> None:
    timeline = rebin(example.hours, TIMELINE)
    assert (timeline.name, len(timeline.bins), timeline.bins[0].payments) == ("6 hours", 35, 2)
    days = rebin(example.hours, PERIODS)
    assert (days.name, days.start) == ("day", datetime(2026, 3, 2, tzinfo=UTC))
    assert [(one.payments, one.fraud) for one in days.bins] == [(5, 3)] + [(0, 0)] * 7 + [(1, 0)]
    assert example.scores.average_precision_between(days.bins[0].start_hour, days.bins[0].end_hour) == 1.0
    assert example.scores.average_precision_between(days.bins[8].start_hour, days.bins[8].end_hour) is None


def test_lines_that_cannot_be_read_are_counted_and_said(tmp_path: Path) -> None:
    good = json.dumps(decision(0)).encode()
    (tmp_path / "decisions.jsonl").write_bytes(good + b'\n{"transaction_id": 3}\n\xff\xfe\n' + good[:40])
    with (tmp_path / "decisions.jsonl").open("a") as file:
        for changes in ({"event_time": "yesterday"}, {"rule_hits": [{"rule": 1}]}, {"quality": "late"}):
            file.write("\n" + json.dumps(decision(1, **changes)))
    data = read_report_data(tmp_path, read_labels(None, tmp_path))
    assert (data.payments, data.unreadable) == (1, 6)
    write_report(tmp_path, None, {}, tmp_path / "r.html", profile="p")
    assert "Unreadable and left out: 6 lines of the output, 0 outcomes." in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize("digits", [1, 2, 17])
def test_average_precision_is_that_of_scikit_learn_with_ties(digits: int) -> None:
    rng = np.random.default_rng(5)
    fraud = rng.random(20_000) < 0.03
    score = np.round(np.clip(rng.normal(0.3 + 0.25 * fraud, 0.15), 0, 1), digits)
    hours = array("i", [0] * len(score))
    summary = summarise_scores(array("d", score), hours, array("b", fraud.astype(np.int8)), {})
    curve = summary.curve
    assert curve is not None
    assert curve.average_precision == pytest.approx(average_precision_score(fraud, score), abs=1e-12)
    precision, recall, threshold = precision_recall_curve(fraud, score)
    exact = {at: (p, r) for p, r, at in zip(precision, recall, threshold, strict=False)}
    assert len(curve.threshold) <= 410
    assert list(curve.recall) == sorted(curve.recall)
    assert curve.recall[-1] == 1.0
    for at, p, r in zip(curve.threshold, curve.precision, curve.recall, strict=True):
        assert (p, r) == pytest.approx(exact[at], abs=1e-12)
    assert (sum(summary.genuine), sum(summary.fraud)) == ((~fraud).sum(), fraud.sum())


class _Audit(HTMLParser):
    """Collects what a page could load or run, its ids, and its tags, which must nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.suspects: list[str] = []
        self.ids: list[str] = []
        self.charts: list[dict[str, str | None]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "link"}:
            self._open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            local = (value or "").startswith(("#", "data:"))
            if name.startswith("on") or (name in {"src", "href", "xlink:href", "action", "srcset"} and not local):
                self.suspects.append(f"{tag} {name}={value}")
        if tag in {"script", "img", "iframe", "object", "embed", "base"}:
            self.suspects.append(tag)
        if tag == "svg" and dict(attrs).get("role"):
            self.charts.append(dict(attrs))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    hostile_run(tmp_path)
    path = tmp_path / "report.html"
    write_report(tmp_path, tmp_path, HOSTILE_METRICS, path, profile=HOSTILE)
    page = path.read_text()
    audit = _Audit(page)
    assert audit.suspects == []
    assert "<script" not in page
    text = "".join(audit.words)
    for where in ("", " · shadow", ":card", "cold"):
        assert HOSTILE[: 40 - len(where) - 1] in text
        assert where in text
    assert page.count("&lt;s&gt;&amp;amp;&lt;/s&gt;") >= 3  # name, tooltip, table
    assert "<s>" not in page


def test_the_page_asks_for_nothing_and_forbids_asking(tmp_path: Path, example: ReportData) -> None:
    path = tmp_path / "report.html"
    write_report(tmp_path, tmp_path, {"payments_per_s": 1234.5, "wall_s": 2.0, "finished": True}, path, profile="cards")
    page = path.read_text()
    audit = _Audit(page)
    assert audit.suspects == []
    assert len(audit.ids) == len(set(audit.ids))
    assert "default-src 'none'; style-src 'unsafe-inline'" in page
    assert not re.search(r"https?:|url\(|@import|//", page)
    for chart in audit.charts:
        assert chart["role"] == "img"
        assert set((chart["aria-labelledby"] or "").split()) <= set(audit.ids)
    assert len(audit.charts) == 10
    assert "6 payments decided from 2 Mar 2026 to 10 Mar 2026: 50.0 % approved" in page
    assert "Known frauds: 3, of which 33.3 % were caught" in page
    assert "Labels are from outcomes.jsonl" in page
    assert ">1,234</dd>" in page
    assert "in 2 s of wall time" in page
    assert ">yes</td>" in page
    assert "Fraud outcomes without a decision here: 1." in page
    assert list(tmp_path.glob("*.partial")) == []


def test_equal_runs_give_equal_pages(tmp_path: Path, example: ReportData) -> None:
    for name in ("a", "b"):
        write_report(
            tmp_path,
            tmp_path,
            {"workers": 2},
            tmp_path / name,
            profile="cards",
        )
    assert example.payments
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("lines", [[], [decision(0)]])
def test_a_run_without_labels_scores_or_payments_still_gives_a_page(
    tmp_path: Path, lines: list[dict[str, Any]]
) -> None:
    if lines:
        write_lines(tmp_path / "decisions.jsonl", lines)
    path = tmp_path / "report.html"
    write_report(tmp_path, tmp_path if lines else None, {}, path, profile="bare")
    page = path.read_text()
    assert _Audit(page).suspects == []
    for words in (
        "No outcomes were found",
        "No payment has a score",
        "No decided payment has a fraud outcome",
        "No rule hit",
        "The run measured no stages",
        "there are no dead letters",
    ):
        assert words in page or (not lines and words == "No outcomes were found")
    assert ("No payments were decided" in page) == (not lines)


def test_a_run_where_all_scored_payments_are_frauds_has_no_curve(tmp_path: Path) -> None:
    write_lines(tmp_path / "decisions.jsonl", [decision(0, score=0.5), decision(1)])
    write_lines(tmp_path / "outcomes.jsonl", [outcome(0)])
    write_report(tmp_path, tmp_path, {}, tmp_path / "r.html", profile="p")
    assert "The curve needs scored frauds and scored genuine payments" in (tmp_path / "r.html").read_text()


def test_an_event_at_the_end_of_the_calendar_does_not_stop_the_report(tmp_path: Path) -> None:
    ends = [decision(0, event_time="0001-01-01T00:00:00Z"), decision(1, event_time="9999-12-31T23:59:59.999999Z")]
    write_lines(tmp_path / "decisions.jsonl", [*ends, decision(2, event_time="2026-03-02T01:30:00+02:00")])
    write_report(tmp_path, tmp_path, {}, tmp_path / "r.html", profile="p")
    data = read_report_data(tmp_path, read_labels(None, tmp_path))
    assert (datetime(2026, 3, 1, 23, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(hours=1) in data.hours
    assert "1 Jan 1 to 31 Dec 9999" in (tmp_path / "r.html").read_text()
