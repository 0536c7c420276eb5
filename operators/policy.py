"""The rule policy: what policy.toml says, compiled to two functions, one for active and one for shadow rules.

policy.toml → `load_policy` → `Policy`: values → `evaluate` → ActiveHits → `decide` with the score → Verdict
                                        values → `evaluate_shadow` → ShadowHits → the record, and nothing else

The strongest action of all rules that hold and of the score's thresholds wins, and the reasons of all are given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from operators.actions import Action, ActiveHits, RuleHit, ShadowHit, ShadowHits, Verdict
from operators.expression import Compiled, compile_hits, compile_undecided
from operators.features import FeatureSet
from operators.inflight import Value

Mode = Literal["active", "shadow", "off"]

NO_RISK_FOUND: Final = "NO_RISK_FOUND"
ELEVATED_SCORE: Final = "ELEVATED_SCORE"
HIGH_SCORE: Final = "HIGH_SCORE"
DEADLINE_MISSED: Final = "DEADLINE_MISSED"

Cause = Literal["deadline", "backlog"]
"""Why a fallback takes over: this process was too slow, or the payment had waited for it before it began."""

_NO_HITS: Final = ActiveHits()
_NO_SHADOW_HITS: Final = ShadowHits()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a policy.

    Attributes:
        id: Unique in the policy.
        when: The condition as written.
        action: What it asks for; never approve, which no rule can bring about since the strongest action wins.
        reason: Reason code.
        mode: An active rule acts, a shadow rule is recorded only, one that is off is checked but not evaluated.
        priority: Among rules of one action the higher one is told first.
        description: For people.
        condition: The condition compiled.
        hard: Whether exploration may never override it (operators/exploration.py).
    """

    id: str
    when: str
    action: Action
    reason: str
    mode: Mode
    priority: int
    description: str
    condition: Compiled
    hard: bool = False


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Scores from which on (inclusive) an action is asked for, challenge <= review <= decline, each from 0 to 1."""

    challenge: float
    review: float
    decline: float

    def action(self, score: float) -> Action:
        """What `score` asks for; approve for a NaN."""
        if not score >= self.challenge:
            return Action.APPROVE
        if score >= self.decline:
            return Action.DECLINE
        return Action.REVIEW if score >= self.review else Action.CHALLENGE


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy ready to decide; immutable, one object serves all shards of a worker.

    Attributes:
        id: As declared.
        version: As declared.
        hash: sha256 (hex) of the canonical content: the same for files that differ in comments and layout only.
        rules: In the order of the file, those that are off included.
        thresholds: On the score; None when the score asks for nothing.
        deadline_ms: How long after ingestion a decision is worth waiting for; None for ever.
        on_deadline: Action when the deadline is missed and no active rule asks for a stronger one.
        on_backlog: The same for payments that were waiting when the process began; None: as `on_deadline` says.
    """

    id: str
    version: str
    hash: str
    rules: tuple[Rule, ...]
    thresholds: Thresholds | None
    deadline_ms: int | None
    on_deadline: Action
    _features: FeatureSet = field(repr=False)
    on_backlog: Action | None = None
    _active_hits: Callable[[list[Value]], list[int]] = field(init=False, repr=False, compare=False)
    _shadow_hits: Callable[[list[Value]], list[int]] = field(init=False, repr=False, compare=False)
    _undecided: Callable[[list[Value], Sequence[bytes | None]], list[int]] = field(
        init=False, repr=False, compare=False
    )
    _hits: tuple[RuleHit, ...] = field(init=False, repr=False, compare=False)
    _shadows: tuple[ShadowHit, ...] = field(init=False, repr=False, compare=False)
    _alone: tuple[ActiveHits, ...] = field(init=False, repr=False, compare=False)
    _wanted: tuple[tuple[int, ...], ...] = field(init=False, repr=False, compare=False)
    _plain: tuple[Verdict, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Strongest first, so that the list of indexes a payment gives is the order in which its reasons are told.
        ranked = sorted(self.rules, key=lambda rule: (-rule.action, -rule.priority))
        active = [rule for rule in ranked if rule.mode == "active"]
        shadow = [rule for rule in ranked if rule.mode == "shadow"]
        indexes = {entity.name: entity.index for entity in self._features.entities}
        slots = self._features.slots
        entity_of = {feature.name: feature.entity for feature in self._features.features}
        keyed: list[tuple[int, Compiled, Sequence[int]]] = []
        for number, rule in enumerate(active):
            named = {entity for name in rule.condition.wanted if (entity := entity_of[name]) is not None}
            keyed.append((number, rule.condition, sorted(indexes[entity] for entity in named)))
        hits = tuple(RuleHit(rule.id, rule.action, rule.reason, rule.priority, rule.hard) for rule in active)
        where = f"policy {self.id} {self.version}"
        made: dict[str, object] = {
            "_active_hits": compile_hits([rule.condition for rule in active], f"{where}: active rules"),
            "_shadow_hits": compile_hits([rule.condition for rule in shadow], f"{where}: shadow rules"),
            "_undecided": compile_undecided(keyed, f"{where}: undecided rules"),
            "_hits": hits,
            "_shadows": tuple(ShadowHit(rule.id, rule.action.wire, rule.reason) for rule in shadow),
            "_alone": tuple(ActiveHits((hit,)) for hit in hits),
            "_wanted": tuple(tuple(slots[name] for name in rule.condition.wanted) for rule in active),
            "_plain": tuple(Verdict(action, action, (_score_reason(action),)) for action in Action),
        }
        for name, value in made.items():
            object.__setattr__(self, name, value)

    def evaluate(self, values: list[Value]) -> ActiveHits:
        """Active rules that hold for a payment's values."""
        indexes = self._active_hits(values)
        if not indexes:
            return _NO_HITS
        if len(indexes) == 1:
            return self._alone[indexes[0]]
        return ActiveHits(tuple([self._hits[index] for index in indexes]))

    def evaluate_shadow(self, values: list[Value]) -> ShadowHits:
        """Shadow rules that hold for a payment's values; no decision takes them."""
        indexes = self._shadow_hits(values)
        return ShadowHits(tuple([self._shadows[index] for index in indexes])) if indexes else _NO_SHADOW_HITS

    def absent(self, values: list[Value], keys: Sequence[bytes | None]) -> list[str]:
        """Features whose absence leaves an active rule neither true nor false, in slot order; each becomes a flag.

        A rule that another of its comparisons already refutes does not want the missing feature, nor does a rule on
        an entity that the payment does not have: that is one flag of its own.

        Args:
            values: Of the payment.
            keys: The payment's entity keys, in the feature set's order.
        """
        rules = self._undecided(values, keys)
        if not rules:
            return []
        slots = {slot for rule in rules for slot in self._wanted[rule] if _missing(values[slot])}
        return [self._features.features[slot].name for slot in sorted(slots)]

    def decide(self, active: ActiveHits, score: float | None) -> Verdict:
        """The strongest of what rules and score ask for, with all reasons.

        Args:
            active: From `evaluate`.
            score: 0..1, None when no model could score: the thresholds ask for nothing then.

        Raises:
            TypeError: `active` is not ActiveHits, or the score no number; a bug of the caller, shadows never decide.
        """
        if type(active) is not ActiveHits:
            text = f"decide takes the hits of active rules, found {type(active).__name__}"
            raise TypeError(text)
        if score is not None and not isinstance(score, float | int):
            text = f"decide takes the score of the model that decides, found {type(score).__name__}"
            raise TypeError(text)
        asked = Action.APPROVE if score is None or self.thresholds is None else self.thresholds.action(score)
        hits = active.hits
        if not hits:
            return self._plain[asked]
        strongest = hits[0].action
        reasons = [hit.reason for hit in hits]
        if asked > Action.APPROVE:
            reasons.insert(sum(hit.action >= asked for hit in hits), _score_reason(asked))
        action = max(strongest, asked)
        return Verdict(action, action, tuple(dict.fromkeys(reasons)))

    def fall_back(self, active: ActiveHits, verdict: Verdict, cause: Cause = "deadline") -> Verdict:
        """What to do when the deadline was missed: the cause's action, but never less than an active rule asks for.

        Args:
            active: The payment's active hits.
            verdict: Of `decide` for the same payment; its action stays on record as the proposed one.
            cause: Why; stands in the decision as its fallback.

        Returns:
            The verdict of rules and fallback; the score has no part in it.
        """
        fallback = self.on_deadline
        if cause == "backlog" and self.on_backlog is not None:
            fallback = self.on_backlog
        if active.strongest >= fallback and active.hits:
            reasons = tuple(dict.fromkeys(hit.reason for hit in active.hits))
            return Verdict(active.strongest, verdict.proposed_action, reasons, cause)
        reasons = tuple(dict.fromkeys([DEADLINE_MISSED, *(hit.reason for hit in active.hits)]))
        return Verdict(fallback, verdict.proposed_action, reasons, cause)


def load_policy(path: Path, feature_set: FeatureSet) -> Policy:
    """Parse and compile policy.toml.

    Args:
        path: The file, or the profile folder that holds it.
        feature_set: What the rules may name.

    Raises:
        ProfileError: The file is refused; one line for each thing that is wrong, naming file, rule, key, value and
            what was expected. Correct the file; nothing has been started.
    """
    from operators.policy_parse import parse_policy  # noqa: PLC0415  # it builds these types

    file = path / "policy.toml" if path.is_dir() else path
    return parse_policy(file, feature_set)


def empty_policy(feature_set: FeatureSet) -> Policy:
    """What a profile without policy.toml decides by: no rules, no thresholds, every payment approved."""
    return Policy("none", "0", hashlib.sha256(b"").hexdigest(), (), None, None, Action.APPROVE, feature_set)


def _score_reason(action: Action) -> str:
    if action is Action.APPROVE:
        return NO_RISK_FOUND
    return ELEVATED_SCORE if action is Action.CHALLENGE else HIGH_SCORE


def _missing(value: Value) -> bool:
    return value is None or value != value  # noqa: PLR0124  # NaN differs from itself
