"""decisions.jsonl + labels + dead_letters.jsonl → the numbers of the replay report, in one pass.

Memory is bounded by what is declared (rules, reasons, flags), by the hours the payments span, and by 13 bytes a
scored payment (score, hour, label) for the exact precision-recall curve; a decision itself is never kept. Only the
fields the report needs are decoded: msgspec skips the rest of a line, features map included, without making objects.
Reasons, hits and flags stay JSON text while counting, since few combinations of them make up most decisions: each
combination is decoded once.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from flows.report_data import APPROVE, DeadLetters, Hour, Money, ReportData, RuleTally, Tally, ordered_actions
from flows.report_labels import Labels
from flows.report_scores import summarise_scores
from schemas.times import EPOCH, parse_rfc3339_us

HOUR_US: Final = 3_600_000_000

# Model versions may change at every tick. Beyond this many distinct combinations the rest is only counted, so that
# a long run with a busy learner cannot fill memory; smaller loses detail for a year of hourly ticks (8,760).
MAX_VERSIONS: Final = 10_000
# Combinations of action, reasons, hits and flags held as text, about 1 KB each. Fewer are decoded again and again
# where flags vary a lot; more cost memory and save nothing.
MAX_FINDINGS: Final = 20_000

_Key = TypeVar("_Key")
_NOTHING: Final = msgspec.Raw(b"[]")


class _Decision(msgspec.Struct, gc=False):
    """The part of a decision the report reads; the contract calls `quality` quality_flags in Avro."""

    transaction_id: str
    event_time: str
    action: str
    amount_minor: int
    currency: str
    score: float | None = None
    reason_codes: msgspec.Raw = _NOTHING
    rule_hits: msgspec.Raw = _NOTHING
    shadow_hits: msgspec.Raw = _NOTHING
    quality: msgspec.Raw = _NOTHING
    quality_flags: msgspec.Raw = msgspec.Raw(b"")
    versions: msgspec.Raw = msgspec.Raw(b"{}")
    duplicate: bool = False
    deadline_missed: bool = False
    fallback: str | bool | None = None


class _Hit(msgspec.Struct, gc=False):
    rule: str
    action: str


@dataclass(frozen=True, slots=True)
class _Findings:
    """What several decisions have in common, decoded."""

    reason_codes: list[str] | None
    rule_hits: list[_Hit] | None
    shadow_hits: list[_Hit] | None
    flags: list[str] | None


_TEXTS: Final = msgspec.json.Decoder(list[str] | None).decode
_HITS: Final = msgspec.json.Decoder(list[_Hit] | None).decode


class _DeadLetter(msgspec.Struct, gc=False):
    reason: str
    topic: str = ""
    detail: str | None = None


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
        self.first_us = self.last_us = 0
        self.hours: dict[tuple[int, str], list[int]] = {}
        self.findings: dict[tuple[str, bytes, bytes, bytes, bytes], tuple[list[int], _Findings]] = {}
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
                    if decision.duplicate:
                        self.duplicates += 1
                    else:
                        self.add(decision)
                except (msgspec.MsgspecError, ValueError):
                    self.unreadable += 1

    def add(self, decision: _Decision) -> None:
        """Count a decision; raises before anything is counted when a part of it cannot be read."""
        at_us = parse_rfc3339_us(decision.event_time)
        action = decision.action
        flags = bytes(decision.quality_flags) or bytes(decision.quality)
        key = (action, bytes(decision.reason_codes), bytes(decision.rule_hits), bytes(decision.shadow_hits), flags)
        found = self.findings.get(key)
        if found is None:
            if len(self.findings) >= MAX_FINDINGS:
                self.settle()
            found = self.findings[key] = (
                [0, 0],
                _Findings(_TEXTS(key[1]), _HITS(key[2]), _HITS(key[3]), _TEXTS(key[4])),
            )
        fraud = decision.transaction_id in self.fraud
        found[0][0] += 1
        found[0][1] += fraud
        if not self.hours:
            self.first_us = self.last_us = at_us
        elif at_us > self.last_us:
            self.last_us = at_us
        elif at_us < self.first_us:
            self.first_us = at_us
        hour = at_us // HOUR_US
        _count(self.hours, (hour, action), fraud)
        if decision.deadline_missed:
            self.deadline_missed += 1
        if decision.fallback:
            self.fallbacks += 1
        versions = bytes(decision.versions)
        if versions not in self.versions and len(self.versions) >= MAX_VERSIONS:
            versions = b'{"further":"not listed"}'
        self.versions[versions] += 1
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

    def settle(self) -> None:
        """Turn the combinations counted so far into counts of rules, reasons and flags."""
        for (action, *_), (pair, findings) in self.findings.items():
            for shadow, hits in ((False, findings.rule_hits), (True, findings.shadow_hits)):
                for hit in hits or ():
                    _add(self.rules, (hit.rule, hit.action, shadow), pair)
            for reason in findings.reason_codes or ():
                _add(self.reasons, reason, pair)
                if action != APPROVE:
                    _add(self.stop_reasons, reason, pair)
            flags = findings.flags or ()
            for flag in flags:
                _add(self.flags, flag, pair)
            groups = {flag.partition(":")[0] for flag in flags}
            for group in groups:
                _add(self.groups, group, pair)
            if not groups.isdisjoint({"late", "late_incomplete"}):
                self.late += pair[0]
        self.findings.clear()

    def read_dead_letters(self, path: Path) -> None:
        decode = msgspec.json.Decoder(_DeadLetter).decode
        with path.open("rb") as file:
            for line in file:
                try:
                    letter = decode(line)
                except (msgspec.MsgspecError, ValueError):
                    self.unreadable += 1
                    continue
                key = (letter.topic, letter.reason)
                _count(self.dead, key, False)
                self.dead_examples.setdefault(key, letter.detail or "")

    def freeze(self, labels: Labels) -> ReportData:
        self.settle()
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
            first=_time(self.first_us) if hours else None,
            last=_time(self.last_us) if hours else None,
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


def _count(table: dict[_Key, list[int]], key: _Key, fraud: bool) -> None:
    pair = table.get(key)
    if pair is None:
        pair = table[key] = [0, 0]
    pair[0] += 1
    pair[1] += fraud


def _add(table: dict[_Key, list[int]], key: _Key, pair: list[int]) -> None:
    into = table.setdefault(key, [0, 0])
    into[0] += pair[0]
    into[1] += pair[1]


def _time(at_us: int) -> datetime:
    return EPOCH + timedelta(microseconds=at_us)


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
