"""What an analyst wants to know of a policy file before it decides anything: `weir policy check`."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from operators.features import FeatureSet
from operators.policy import Policy, Rule
from operators.policy_parse import parse_policy


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """A policy that may be used, and what is worth a second look.

    Attributes:
        id: Of the policy.
        version: Of the policy.
        hash: sha256 (hex) of the canonical content.
        active: Number of active rules.
        shadow: Number of shadow rules.
        off: Number of rules that are off.
        features: Features the rules name, in slot order.
        unused_entities: Entities of the feature set that no rule names.
        warnings: Sentences; none of them keeps the policy from being used.
    """

    id: str
    version: str
    hash: str
    active: int
    shadow: int
    off: int
    features: tuple[str, ...]
    unused_entities: tuple[str, ...]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        """As the command prints it: what the policy is, then a line for each thing worth a second look."""
        lines = [
            f"policy {self.id} {self.version} ({self.hash[:12]}) is in order: {self.active} active, {self.shadow} "
            f"shadow, {self.off} off rules over {len(self.features)} features"
        ]
        if self.unused_entities:
            lines.append(f"no rule names anything of: {', '.join(self.unused_entities)}")
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def check_policy(path: Path, feature_set: FeatureSet) -> PolicyReport:
    """Load a policy and look it over.

    Args:
        path: The file, or the profile folder that holds it.
        feature_set: What the rules may name.

    Raises:
        ProfileError: The policy cannot be used; one line for each thing that is wrong.
    """
    warnings: list[str] = []
    policy = parse_policy(path / "policy.toml" if path.is_dir() else path, feature_set, warnings)
    named = {name for rule in policy.rules for name in rule.condition.names}
    entities = {feature.entity for feature in feature_set.features if feature.name in named}
    modes = [rule.mode for rule in policy.rules]
    warnings += [
        f"rule {rule.id!r} is off: it is checked, never evaluated" for rule in policy.rules if rule.mode == "off"
    ]
    warnings += _overlaps(policy) + _levels(policy)
    return PolicyReport(
        id=policy.id,
        version=policy.version,
        hash=policy.hash,
        active=modes.count("active"),
        shadow=modes.count("shadow"),
        off=modes.count("off"),
        features=tuple(feature.name for feature in feature_set.features if feature.name in named),
        unused_entities=tuple(entity.name for entity in feature_set.entities if entity.name not in entities),
        warnings=tuple(warnings),
    )


def _overlaps(policy: Policy) -> list[str]:
    """Rules that hold only when another one of the same mode holds that asks for at least as much."""
    sentences = []
    rules = [(rule, _conjuncts(rule)) for rule in policy.rules if rule.mode != "off"]
    for at, (rule, asked) in enumerate(rules):
        for other_at, (other, other_asked) in enumerate(rules):
            if rule is other or rule.mode != other.mode or not other_asked <= asked or other.action < rule.action:
                continue
            if other_asked == asked and other.action == rule.action and other_at > at:
                continue  # said once, of the later one
            adds = "its reason" if rule.reason != other.reason else "nothing"
            sentences.append(f"rule {rule.id!r} adds {adds}: rule {other.id!r} holds whenever it does")
            break
    return sentences


def _conjuncts(rule: Rule) -> frozenset[str]:
    tree = rule.condition.tree
    parts = tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]
    return frozenset(ast.dump(part) for part in parts)


def _levels(policy: Policy) -> list[str]:
    if policy.thresholds is None:
        return ["no thresholds: the score asks for nothing"]
    sentences = []
    levels = policy.thresholds
    if levels.challenge == levels.review:
        sentences.append(f"thresholds: no score asks for challenge, since review begins at {levels.review:g} as well")
    if levels.review == levels.decline:
        sentences.append(f"thresholds: no score asks for review, since decline begins at {levels.decline:g} as well")
    if levels.challenge == 0:
        sentences.append("thresholds: every payment with a score is challenged, since challenge begins at 0")
    return sentences
