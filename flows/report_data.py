"""The numbers of the replay report; flows/report_read.py fills them, the other report modules draw them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from flows.report_labels import Labels
from flows.report_scores import Scores

HOUR: Final = timedelta(hours=1)
APPROVE: Final = "approve"
ACTIONS: Final = ("approve", "challenge", "review", "decline")


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


def ordered_actions(present: dict[str, list[int]]) -> list[str]:
    """The four actions, mildest first, then whatever else was found in the decisions."""
    return [*ACTIONS, *sorted(set(present) - set(ACTIONS))]
