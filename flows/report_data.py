"""decisions.jsonl + labels + dead_letters.jsonl → the numbers of the replay report, in one pass.

Memory is bounded by what is declared (rules, reasons, flags), by the hours the payments span, and by 13 bytes a
scored payment (score, hour, label) for the exact precision-recall curve; a decision itself is never kept. Only the
fields the report needs are decoded: msgspec skips the rest of a line, features map included, without making objects.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from flows.report_labels import Labels
from flows.report_scores import Scores, summarise_scores
from schemas.times import EPOCH

HOUR: Final = timedelta(hours=1)
APPROVE: Final = "approve"
ACTIONS: Final = ("approve", "challenge", "review", "decline")

# Model versions may change at every tick. Beyond this many distinct combinations the rest is only counted, so that
# a long run with a busy learner cannot fill memory; smaller loses detail for a year of hourly ticks (8,760).
MAX_VERSIONS: Final = 10_000

_Key = TypeVar("_Key")


class _Hit(msgspec.Struct, gc=False):
    rule: str
    action: str


class _Decision(msgspec.Struct, gc=False):
    """The part of a decision the report reads."""

    transaction_id: str
    event_time: datetime
    action: str
    amount_minor: int
    currency: str
    score: float | None = None
    reason_codes: list[str] = []
    rule_hits: list[_Hit] = []
    shadow_hits: list[_Hit] = []
    quality: list[str] = []
    quality_flags: list[str] = []
    versions: msgspec.Raw = msgspec.Raw(b"{}")
    duplicate: bool = False
    deadline_missed: bool = False
    fallback: str | bool | None = None


class _DeadLetter(msgspec.Struct, gc=False):
    reason: str
    topic: str = ""
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """How often something was seen on a payment, and how often that payment was a fraud."""

    name: str
    count: int
    fraud: int


@dataclass(frozen=True, slots=True)
class RuleTally:
    """Hits of one rule; a shadow rule's hits had no say in the action."""

    rule: str
    action: str
    shadow: bool
    hits: int
    fraud: int


@dataclass(frozen=True, slots=True)
class Money:
    """Sums in minor units of one currency; `caught` is the fraud that was not approved."""

    currency: str
    payments: int
    total: int
    fraud: int
    caught: int


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Records that became dead letters for one reason; `example` is the detail of the first."""

    topic: str
    reason: str
    count: int
    example: str


@dataclass(frozen=True, slots=True)
class Hour:
    """Payments of one hour of event time: by action, all and those that were frauds."""

    counts: dict[str, int]
    frauds: dict[str, int]


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything the report shows about decisions; duplicates are in `duplicates` alone.

    Attributes:
        payments: Payments decided.
        frauds: Of those, how many turned out to be fraud; the rest counts as genuine.
        duplicates: Further lines that answered a retry with the decision already made.
        unreadable: Lines of decisions.jsonl or dead_letters.jsonl that could not be decoded.
        first: Earliest event time, None without payments.
        last: Latest event time.
        actions: One tally an action, mildest first.
        hours: By whole hours since 1970, only hours with payments.
        rules: Active rules before shadow rules, most hits first.
        reasons: Reason codes of all decisions, most frequent first.
        stop_reasons: Reason codes of the payments that were not approved.
        flags: Quality flags as they were written, most frequent first.
        flag_groups: Payments by the part of their flags before the colon.
        versions: Field of `versions` (nested fields with dots) to values and payments, most frequent first.
        late: Payments that were late for at least one entity.
    """

    payments: int
    frauds: int
    duplicates: int
    unreadable: int
    first: datetime | None
    last: datetime | None
    actions: tuple[Tally, ...]
    hours: dict[int, Hour]
    rules: tuple[RuleTally, ...]
    reasons: tuple[Tally, ...]
    stop_reasons: tuple[Tally, ...]
    flags: tuple[Tally, ...]
    flag_groups: tuple[Tally, ...]
    late: int
    deadline_missed: int
    fallbacks: int
    versions: dict[str, list[tuple[str, int]]]
    money: tuple[Money, ...]
    scores: Scores
    dead_letters: tuple[DeadLetters, ...]
    labels: Labels


def read_report_data(out_dir: Path, labels: Labels) -> ReportData:
    """Aggregate decisions.jsonl and dead_letters.jsonl of a replay; a missing file counts as empty.

    Args:
        out_dir: Where the replay wrote.
        labels: Which transactions were frauds; every other payment counts as genuine.
    """
    totals = _Totals(labels.fraud)
    path = out_dir / "decisions.jsonl"
    if path.is_file():
        totals.read_decisions(path)
    path = out_dir / "dead_letters.jsonl"
    if path.is_file():
        totals.read_dead_letters(path)
    return totals.freeze(labels)


class _Totals:
    """The running sums; pairs are [payments, frauds]."""

    def __init__(self, fraud: frozenset[str]) -> None:
        self.fraud = fraud
        self.duplicates = self.unreadable = self.late = self.deadline_missed = self.fallbacks = 0
        self.first: datetime | None = None
        self.last: datetime | None = None
        self.hours: dict[tuple[int, str], list[int]] = {}
        self.rules: dict[tuple[str, str, bool], list[int]] = {}
        self.reasons: dict[str, list[int]] = {}
        self.stop_reasons: dict[str, list[int]] = {}
        self.flags: dict[str, list[int]] = {}
        self.groups: dict[str, list[int]] = {}
        self.versions: Counter[bytes] = Counter()
        self.money: dict[str, list[int]] = {}
        self.scores = array("d")
        self.score_hours = array("i")
        self.score_labels = array("b")
        self.score_actions: dict[str, list[int]] = {}
        self.dead: dict[tuple[str, str], list[int]] = {}
        self.dead_examples: dict[tuple[str, str], str] = {}

    def read_decisions(self, path: Path) -> None:
        decode = msgspec.json.Decoder(_Decision).decode
        with path.open("rb", buffering=1 << 20) as file:
            for line in file:
                try:
                    decision = decode(line)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    self.unreadable += 1
                    continue
                if decision.duplicate:
                    self.duplicates += 1
                else:
                    self.add(decision)

    def add(self, decision: _Decision) -> None:
        fraud = decision.transaction_id in self.fraud
        at = decision.event_time
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        if self.first is None or self.last is None:
            self.first = self.last = at
        elif at > self.last:
            self.last = at
        elif at < self.first:
            self.first = at
        hour = (at - EPOCH) // HOUR
        action = decision.action
        _count(self.hours, (hour, action), fraud)
        for hit in decision.rule_hits:
            _count(self.rules, (hit.rule, hit.action, False), fraud)
        for hit in decision.shadow_hits:
            _count(self.rules, (hit.rule, hit.action, True), fraud)
        for reason in decision.reason_codes:
            _count(self.reasons, reason, fraud)
            if action != APPROVE:
                _count(self.stop_reasons, reason, fraud)
        if flags := decision.quality or decision.quality_flags:
            groups = set()
            for flag in flags:
                _count(self.flags, flag, fraud)
                groups.add(flag.partition(":")[0])
            for group in groups:
                _count(self.groups, group, fraud)
            if "late" in groups or "late_incomplete" in groups:
                self.late += 1
        if decision.deadline_missed:
            self.deadline_missed += 1
        if decision.fallback:
            self.fallbacks += 1
        versions = bytes(decision.versions)
        if versions in self.versions or len(self.versions) < MAX_VERSIONS:
            self.versions[versions] += 1
        else:
            self.versions[b'{"further":"not listed"}'] += 1
        money = self.money.get(decision.currency)
        if money is None:
            money = self.money[decision.currency] = [0, 0, 0, 0]
        money[0] += 1
        money[1] += decision.amount_minor
        if fraud:
            money[2] += decision.amount_minor
            if action != APPROVE:
                money[3] += decision.amount_minor
        if decision.score is not None:
            self.scores.append(decision.score)
            self.score_hours.append(hour)
            self.score_labels.append(fraud)
            _count(self.score_actions, action, fraud)

    def read_dead_letters(self, path: Path) -> None:
        decode = msgspec.json.Decoder(_DeadLetter).decode
        with path.open("rb") as file:
            for line in file:
                try:
                    letter = decode(line)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    self.unreadable += 1
                    continue
                key = (letter.topic, letter.reason)
                _count(self.dead, key, False)
                self.dead_examples.setdefault(key, letter.detail or "")

    def freeze(self, labels: Labels) -> ReportData:
        hours: dict[int, Hour] = {}
        actions: dict[str, list[int]] = {}
        for (number, action), (count, fraud) in sorted(self.hours.items()):
            hour = hours.setdefault(number, Hour({}, {}))
            hour.counts[action] = count
            hour.frauds[action] = fraud
            pair = actions.setdefault(action, [0, 0])
            pair[0] += count
            pair[1] += fraud
        return ReportData(
            payments=sum(count for count, _ in actions.values()),
            frauds=sum(fraud for _, fraud in actions.values()),
            duplicates=self.duplicates,
            unreadable=self.unreadable,
            first=self.first,
            last=self.last,
            actions=tuple(Tally(name, *actions.get(name, (0, 0))) for name in ordered_actions(actions)),
            hours=hours,
            rules=tuple(
                sorted(
                    (RuleTally(*key, hits=count, fraud=fraud) for key, (count, fraud) in self.rules.items()),
                    key=lambda rule: (rule.shadow, -rule.hits, rule.rule),
                )
            ),
            reasons=_ranked(self.reasons),
            stop_reasons=_ranked(self.stop_reasons),
            flags=_ranked(self.flags),
            flag_groups=_ranked(self.groups),
            late=self.late,
            deadline_missed=self.deadline_missed,
            fallbacks=self.fallbacks,
            versions=_versions(self.versions),
            money=tuple(
                Money(currency, *sums) for currency, sums in sorted(self.money.items(), key=lambda item: -item[1][0])
            ),
            scores=summarise_scores(self.scores, self.score_hours, self.score_labels, self.score_actions),
            dead_letters=tuple(
                DeadLetters(topic, reason, count, self.dead_examples[topic, reason])
                for (topic, reason), (count, _) in sorted(self.dead.items(), key=lambda item: (-item[1][0], item[0]))
            ),
            labels=labels,
        )


def ordered_actions(present: dict[str, list[int]]) -> list[str]:
    """The four actions, mildest first, then whatever else was found in the decisions."""
    return [*ACTIONS, *sorted(set(present) - set(ACTIONS))]


def _count(table: dict[_Key, list[int]], key: _Key, fraud: bool) -> None:
    pair = table.get(key)
    if pair is None:
        pair = table[key] = [0, 0]
    pair[0] += 1
    pair[1] += fraud


def _ranked(table: dict[str, list[int]]) -> tuple[Tally, ...]:
    tallies = (Tally(name, count, fraud) for name, (count, fraud) in table.items())
    return tuple(sorted(tallies, key=lambda tally: (-tally.count, tally.name)))


def _versions(counts: Counter[bytes]) -> dict[str, list[tuple[str, int]]]:
    fields: dict[str, Counter[str]] = {}
    for raw, count in counts.items():
        for name, value in _flat("", msgspec.json.decode(raw)):
            fields.setdefault(name, Counter())[value] += count
    return {name: values.most_common() for name, values in sorted(fields.items())}


def _flat(prefix: str, value: object) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _flat(f"{prefix}.{key}" if prefix else key, inner)]
    if value is None or not prefix:
        return []
    return [(prefix, str(value))]
