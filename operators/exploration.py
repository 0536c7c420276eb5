"""Lets a small share of would-be declines and reviews through, so that the model learns what became of them.

A declined payment never gets a label, so a model that declines never hears that it was wrong, nor learns what fraud
looks like where it declines. A payment that is explored is decided otherwise than proposed, by chance, and its label
then stands for all that were declined like it: it is learned with the weight 1 / share ("inverse propensity",
bounded). Chance is a hash of the decision's id and a salt: a payment that is decided again is explored again.

Never explored: what a rule declared `hard = true` asks for; a fallback; an amount above the cap, unknown, or beyond
what is left of the day's budget. Those regions stay without labels, and weights cannot make up for them.

The budget's state is one record in the deciding step's store, so that it is rolled back with everything else:

    format (1 byte, 1)  day since 1970 in UTC (4 bytes, big endian)  spent on it, in millionths (8 bytes, big endian)

Source: Horvitz, Thompson 1952, JASA 47(260):663-685.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import xxhash

from operators.actions import Action, ActiveHits, Verdict
from operators.loop_config import ExplorationConfig
from schemas.errors import StateLayoutError

LET_THROUGH: Final = "let_through"
"""Decided otherwise than proposed, by chance: `propensity` is the share."""
HELD: Final = "held"
"""Might have been, and was not: `propensity` is one less the share."""

_FORMAT: Final = 1
_DAY_US: Final = 86_400_000_000
_HASHES: Final = 2**64
_RECORD_BYTES: Final = 13


class Budget:
    """What has been spent on the day at hand, by arrival; a day that comes late counts as the latest one.

    Attributes:
        day: Since 1970, UTC.
        spent_micros: On it.
    """

    __slots__ = ("_dirty", "day", "spent_micros")

    def __init__(self, packed: bytes | None = None) -> None:
        """Go on from its record.

        Raises:
            StateLayoutError: It is none of this format.
        """
        self.day, self.spent_micros = 0, 0
        self._dirty = False
        if packed is not None:
            if len(packed) != _RECORD_BYTES or packed[0] != _FORMAT:
                message = (
                    f"exploration budget: expected {_RECORD_BYTES} bytes of format 1, found {packed[:1]!r} and "
                    f"{len(packed)} bytes in all; restore a backup"
                )
                raise StateLayoutError(message)
            self.day = int.from_bytes(packed[1:5], "big")
            self.spent_micros = int.from_bytes(packed[5:], "big")

    def pack(self) -> bytes:
        """Its record."""
        return bytes([_FORMAT]) + self.day.to_bytes(4, "big") + self.spent_micros.to_bytes(8, "big")

    def spend(self, now_us: int, micros: int, limit_micros: int) -> bool:
        """Spend if the day's limit allows it; whether it did."""
        if self.left(now_us, limit_micros) < micros:
            return False
        self.spent_micros += micros
        self._dirty = True
        return True

    def take_dirty(self) -> bool:
        """Whether something was spent since the last time this was asked."""
        dirty, self._dirty = self._dirty, False
        return dirty

    def left(self, now_us: int, limit_micros: int) -> int:
        """What is left of the day's limit; a new day begins with all of it."""
        day = now_us // _DAY_US
        if day > self.day:
            self.day, self.spent_micros = day, 0
        return limit_micros - self.spent_micros


@dataclass(frozen=True, slots=True)
class Drawn:
    """What exploration made of a decision.

    Attributes:
        verdict: What is to be done.
        exploration: LET_THROUGH or HELD.
        propensity: Probability of the action taken.
    """

    verdict: Verdict
    exploration: str
    propensity: float


class Exploration:
    """Draws; see the module. Stateless but for the budget that it is given."""

    def __init__(self, config: ExplorationConfig, parts: int = 1) -> None:
        """Prepare.

        Args:
            config: What may be explored.
            parts: Shards that decide apart; each has its even part of the budget.
        """
        self._config = config
        self._below = int(config.share * _HASHES)
        self._limit_micros = config.daily_budget_micros // parts

    def draw(
        self,
        budget: Budget,
        decision_id: str,
        active: ActiveHits,
        verdict: Verdict,
        amount_micros: int | None,
        now_us: int,
    ) -> Drawn | None:
        """What chance makes of a verdict; None when it is none of those that may be explored.

        Args:
            budget: Of this shard; charged when the payment is let through.
            decision_id: What chance hangs on.
            active: The rules that hold.
            verdict: Of rules and score.
            amount_micros: In millionths of the base currency's major unit, None when no rate is known.
            now_us: When the payment came in.
        """
        config = self._config
        instead = config.instead.get(verdict.action)
        if instead is None or amount_micros is None or verdict.fallback is not None:
            return None
        if amount_micros > config.largest_micros or any(hit.hard for hit in active.hits):
            return None
        if budget.left(now_us, self._limit_micros) < amount_micros:
            return None
        if xxhash.xxh64_intdigest(f"{config.salt}\x1f{decision_id}".encode()) >= self._below:
            return Drawn(verdict, HELD, 1.0 - config.share)
        budget.spend(now_us, amount_micros, self._limit_micros)
        return Drawn(Verdict(instead, verdict.proposed_action, verdict.reasons), LET_THROUGH, config.share)


def silence_says_nothing(decision: Mapping[str, Any], source: str) -> bool:
    """Whether a label is only that nobody complained of a payment that was declined, and so never took place."""
    return source == "maturity" and decision["action"] == Action.DECLINE.wire


def label_weight(decision: Mapping[str, Any], config: ExplorationConfig | None, *, withheld: bool) -> float:
    """How much a label weighs beside its sampling weight; 0: it is not learned.

    Args:
        decision: Action, proposed_action, exploration and propensity of the payment.
        config: What is explored, None: nothing.
        withheld: Whether declined payments teach nothing; those let through then stand for them.
    """
    if not withheld:
        return 1.0
    declined = Action.DECLINE.wire
    if decision["action"] == declined:
        return 0.0
    propensity = decision.get("propensity")
    let_through = decision.get("exploration") == LET_THROUGH and decision["proposed_action"] == declined
    if config is None or propensity is None or not let_through:
        return 1.0
    return min(1.0 / float(propensity), config.largest_weight)
