"""What Weir can say of a payment, from weakest to strongest, and the types that keep shadow rules from saying it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Action(IntEnum):
    """An action; a larger one is stronger, and the strongest of several wins.

    Attributes:
        wire: Its name in policies, decisions and metrics.
    """

    wire: str

    APPROVE = 0, "approve"
    CHALLENGE = 1, "challenge"
    REVIEW = 2, "review"
    DECLINE = 3, "decline"

    def __new__(cls, strength: int, wire: str) -> Action:
        """A member whose value is its strength."""
        member = int.__new__(cls, strength)
        member._value_ = strength
        member.wire = wire
        return member


ACTIONS: Final[dict[str, Action]] = {action.wire: action for action in Action}
"""Action of each name on the wire, weakest first."""


@dataclass(frozen=True, slots=True)
class RuleHit:
    """An active rule that holds for a payment.

    Attributes:
        rule_id: Of the rule.
        action: What the rule asks for.
        reason: Reason code, from `schemas.reasons`.
        priority: Among rules of one action the higher one is told first.
        hard: Whether exploration may never override it.
    """

    rule_id: str
    action: Action
    reason: str
    priority: int
    hard: bool = False


@dataclass(frozen=True, slots=True)
class ShadowHit:
    """A shadow rule that holds for a payment.

    `would` is the *name* of the action the rule would ask for. A name is not an `Action`, so nothing that chooses the
    action accepts it.
    """

    rule_id: str
    would: str
    reason: str


@dataclass(frozen=True, slots=True)
class ActiveHits:
    """All active rules that hold for a payment: strongest action first, then higher priority, then order in the file.

    The only kind of hits that `Policy.decide` takes; `ShadowHits` is neither this nor made of the same parts.
    """

    hits: tuple[RuleHit, ...] = ()

    @property
    def strongest(self) -> Action:
        """The strongest action asked for, approve when no rule holds."""
        return self.hits[0].action if self.hits else Action.APPROVE


@dataclass(frozen=True, slots=True)
class ShadowHits:
    """All shadow rules that hold for a payment, in the same order; for the record only."""

    hits: tuple[ShadowHit, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done with a payment, and why.

    Attributes:
        action: To be taken.
        proposed_action: What rules and score asked for, before a fallback.
        reasons: Reason codes, never empty: by strength of the action they asked for, then priority, none twice.
        fallback: Name of the fallback that shaped `action`, None when none did.
    """

    action: Action
    proposed_action: Action
    reasons: tuple[str, ...]
    fallback: str | None = None
