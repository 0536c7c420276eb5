"""Proves of some conditions that they can never be true, so that a rule that cannot fire is refused at load.

The condition is spread into alternatives (a disjunction of conjunctions); an alternative is dead when what it asks of
one feature contradicts itself or what the feature can be at all. Only comparisons of one feature with constants are
looked at; everything else counts as possible. So a rule that is refused here is truly dead, and some dead rules pass.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from operators.expression import Compiled
from operators.expression_writer import Names, dotted_name

MAX_ALTERNATIVES: Final = 512  # beyond it nothing is claimed; spreading out is exponential in the depth

# What can be in a feature at all. Every number Weir computes is zero or more (counts, sums, seconds, kilometres).
_RANGES: Final = {"hour": (0.0, 23.0), "weekday": (0.0, 6.0)}
_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "channel": ("card_present", "ecommerce", "atm", "transfer", "wallet"),
    "payment_type": ("purchase", "refund", "reversal", "verification"),
    "kyc": ("passed", "failed"),
    "mfa": ("passed", "failed"),
}
_PATTERNS: Final = {
    "country": (re.compile(r"[A-Z]{2}"), "two capital letters (ISO 3166-1)"),
    "ip_country": (re.compile(r"[A-Z]{2}"), "two capital letters (ISO 3166-1)"),
    "currency": (re.compile(r"[A-Z]{3}"), "three capital letters (ISO 4217)"),
    "mcc": (re.compile(r"[0-9]{4}"), "four digits (ISO 18245)"),
}
_FLIPPED: Final[dict[str, str]] = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_OPPOSITE: Final[dict[str, str]] = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "==", "in": "not in",
                                    "not in": "in", "present": "absent", "absent": "present"}  # fmt: skip
_SYMBOLS: Final[dict[type[ast.cmpop], str]] = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==",
                                               ast.NotEq: "!=", ast.In: "in", ast.NotIn: "not in"}  # fmt: skip

Constant = float | bool | str


@dataclass(frozen=True, slots=True)
class _Atom:
    """What one comparison asks of one feature; `name` is None when it is not that simple."""

    node: ast.expr
    name: str | None = None
    symbol: str = ""
    constants: tuple[Constant, ...] = ()


def check_reachable(condition: Compiled, names: Names) -> list[str]:
    """Refuse a condition that can never be true.

    Args:
        condition: The checked expression.
        names: Kinds of the features it uses.

    Returns:
        A sentence for each alternative that is dead while others are not.

    Raises:
        ProfileError: The whole condition is dead, or compares a feature with a word it never holds.
    """
    alternatives = _spread(condition.tree, negated=False)
    if alternatives is None:
        return []
    for alternative in alternatives:
        for atom in alternative:
            complaint = _impossible_word(atom, names)
            if complaint:
                raise condition.error(atom.node, complaint)
    dead = [found for alternative in alternatives if (found := _contradiction(alternative, names)) is not None]
    if len(dead) == len(alternatives):
        atom, why = dead[0]
        raise condition.error(atom.node, f"can never be true: {why}; the rule is unreachable")
    sentences = [str(condition.error(atom.node, f"this part can never be true: {why}")) for atom, why in dead]
    return list(dict.fromkeys(sentences))


def _spread(node: ast.expr, *, negated: bool) -> list[list[_Atom]] | None:
    """Alternatives of a condition, None when there are too many."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return _spread(node.operand, negated=not negated)
    if isinstance(node, ast.BoolOp):
        parts = [_spread(value, negated=negated) for value in node.values]
        return _joined(parts, conjunction=isinstance(node.op, ast.And) is not negated)
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        pairs = [
            _pair(node, left, _SYMBOLS[type(operator)], right, negated=negated)
            for left, operator, right in zip(sides, node.ops, sides[1:], strict=False)
        ]
        return _joined([[[atom]] for atom in pairs], conjunction=not negated)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("present", "absent"):
        symbol = _OPPOSITE[node.func.id] if negated else node.func.id
        return [[_Atom(node, dotted_name(node.args[0]), symbol)]]
    return [[_Atom(node, dotted_name(node), "==", (not negated,))]]


def _joined(parts: list[list[list[_Atom]] | None], *, conjunction: bool) -> list[list[_Atom]] | None:
    if not conjunction:
        flat = [alternative for part in parts if part is not None for alternative in part]
        return None if None in parts or len(flat) > MAX_ALTERNATIVES else flat
    result: list[list[_Atom]] = [[]]
    for part in parts:
        if part is None or len(result) * len(part) > MAX_ALTERNATIVES:
            return None
        result = [[*left, *right] for left in result for right in part]
    return result


def _pair(node: ast.Compare, left: ast.expr, symbol: str, right: ast.expr, *, negated: bool) -> _Atom:
    if negated:
        symbol = _OPPOSITE[symbol]
    name, other = dotted_name(left), right
    if name is None:
        name, other, symbol = dotted_name(right), left, _FLIPPED.get(symbol, symbol)
    constants = tuple(_constants(other))
    return _Atom(node, name, symbol, constants) if name is not None and constants else _Atom(node)


def _constants(node: ast.expr) -> Iterator[Constant]:
    """The constants a node stands for, none when a feature is in it; the writer has checked it already."""
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        for element in node.elts:
            yield from _constants(element)
    elif not any(isinstance(part, ast.Name) for part in ast.walk(node)):
        value = _folded(node)
        if value is not None:
            yield value


def _folded(node: ast.expr) -> Constant | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | str | int | float):
        return float(node.value) if type(node.value) is int else node.value
    if isinstance(node, ast.UnaryOp):
        inner = _folded(node.operand)
        return (-inner if isinstance(node.op, ast.USub) else inner) if isinstance(inner, float) else None
    if isinstance(node, ast.BinOp):
        a, b = _folded(node.left), _folded(node.right)
        if isinstance(a, float) and isinstance(b, float):
            if isinstance(node.op, ast.Div):
                return a / b
            return a * b if isinstance(node.op, ast.Mult) else a + b if isinstance(node.op, ast.Add) else a - b
    return None


@dataclass(slots=True)
class _Asked:
    """What an alternative has asked of one feature so far."""

    low: float = 0.0
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    allowed: set[Constant] | None = None
    excluded: set[Constant] = field(default_factory=set)
    absent: bool = False
    present: bool = False

    def ask(self, symbol: str, constants: tuple[Constant, ...]) -> None:
        """Narrow by one atom."""
        if symbol == "absent":
            self.absent = True
            return
        self.present = True
        if symbol in ("==", "in"):
            self.allowed = set(constants) if self.allowed is None else self.allowed & set(constants)
        elif symbol in ("!=", "not in"):
            self.excluded |= set(constants)
        elif constants and isinstance(bound := constants[0], float):
            if symbol in (">", ">=") and (bound, symbol == ">") > (self.low, self.open_low):
                self.low, self.open_low = bound, symbol == ">"
            if symbol in ("<", "<=") and (-bound, symbol == "<") > (-self.high, self.open_high):
                self.high, self.open_high = bound, symbol == "<"

    def possible(self, kind: str) -> bool:
        """Whether any value is left."""
        if self.absent:
            return not self.present
        if kind == "number":
            if self.allowed is not None:
                return any(isinstance(value, float) and self._within(value) for value in self.allowed - self.excluded)
            if self.low == self.high:
                return self._within(self.low) and self.low not in self.excluded
            return self.low < self.high
        allowed = {True, False} if kind == "boolean" and self.allowed is None else self.allowed
        return allowed is None or bool(allowed - self.excluded)

    def _within(self, value: float) -> bool:
        above = value > self.low or (value == self.low and not self.open_low)
        return above and (value < self.high or (value == self.high and not self.open_high))


def _contradiction(alternative: list[_Atom], names: Names) -> tuple[_Atom, str] | None:
    """The atom of an alternative that leaves its feature no value, and why."""
    asked: dict[str, _Asked] = {}
    for atom in alternative:
        if atom.name is None or atom.name not in names:
            continue
        kind = names[atom.name][1]
        low, high = _range(atom.name)
        first = atom.name not in asked
        state = asked.setdefault(atom.name, _Asked(low, high))
        words = _WORDS.get(_last(atom.name))
        if first and kind == "string" and words:
            state.allowed = set(words)
        state.ask(atom.symbol, atom.constants)
        if not state.possible(kind):
            if not first:
                return atom, f"it contradicts what is asked of {atom.name} before"
            if kind != "number":
                return atom, f"nothing is left for {atom.name} to be"
            return atom, f"{atom.name} is {f'from {low:g} to {high:g}' if math.isfinite(high) else 'never negative'}"
    return None


def _impossible_word(atom: _Atom, names: Names) -> str | None:
    if atom.name is None or atom.name not in names or names[atom.name][1] != "string":
        return None
    words, pattern = _WORDS.get(_last(atom.name)), _PATTERNS.get(atom.name)
    for constant in atom.constants:
        if words and constant not in words:
            return f"{atom.name} is never {constant!r}; expected one of {', '.join(words)}"
        if pattern and not pattern[0].fullmatch(str(constant)):
            return f"{atom.name} is never {constant!r}; expected {pattern[1]}"
    return None


def _range(name: str) -> tuple[float, float]:
    if name in _RANGES:
        return _RANGES[name]
    return (0.0, 1.0) if "." in name and _last(name).startswith("fraud_rate_") else (0.0, math.inf)


def _last(name: str) -> str:
    return name.rpartition(".")[2]
