"""The expression language of rules (`when`) and of filtered windows (`where`): compiled once, called for each payment.

An expression is a condition in Python's syntax over feature names. It is parsed with `ast`, every node is checked
against what is listed here, every operand has a kind (number, boolean, string), and what comes out is Python source
made of slot reads, constants and operators only: no name of the expression's author reaches the interpreter.

    condition := condition and condition | condition or condition | not condition | (condition)
               | value < value [< value ...]        < <= > >= on numbers, == != on two values of one kind
               | value in [constant, ...]           also `not in`; a list, tuple or set of constants
               | boolean feature | present(feature) | absent(feature)
    value     := feature | number | "string" | True | False | value + - * / value | -value
               | abs(n) | min(n, n, ...) | max(n, n, ...) | coalesce(value, fallback)

Missing values. A comparison that meets a missing value is neither true nor false, as in SQL, and a condition that is
not true does not hold. `not` turns the comparison round: `not (x > 5)` is `x <= 5`, so it does not hold either while
x is missing, and neither do `!=` and `not in`. Only `present`, `absent` and `coalesce` look at missing values, because
their author says so. Arithmetic on a missing value is missing, and so is a division by zero.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from operators.expression_writer import Kind, Names, Writer
from operators.inflight import Value
from schemas.errors import ProfileError

__all__ = ["Compiled", "Kind", "Names", "compile_expression", "compile_hits", "compile_undecided"]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A checked expression.

    Attributes:
        source: The expression as written.
        names: Features it names, in order of first use.
        wanted: Those of `names` whose absence can leave the condition undecided: all but what stands only in
            `present`, `absent` or as the first argument of `coalesce`.
        holds: Python source over the list `v`, truthy when the condition is true.
        refuted: The same for "the condition is false"; neither is truthy when a missing value leaves it undecided.
        function: Takes the list of values, returns whether the condition is true.
        tree: The parsed expression, checked.
        error: Makes the error that refuses the expression at a node of `tree`; the caller raises it.
    """

    source: str
    names: tuple[str, ...]
    wanted: tuple[str, ...]
    holds: str
    refuted: str
    function: Callable[[list[Value]], bool] = field(compare=False)
    tree: ast.expr = field(compare=False, repr=False)
    error: Callable[[ast.expr | None, str], ProfileError] = field(compare=False, repr=False)


def compile_expression(source: str, names: Names, where: str) -> Compiled:
    """Compile one condition.

    Args:
        source: The expression; may span lines, holds no comment.
        names: The features it may use.
        where: What an error message starts with: file, rule and key.

    Raises:
        ProfileError: The expression is refused; the message gives `where`, the column, what was expected and found.
    """
    writer = Writer(source, names, where)
    tree = writer.parse()
    holds = writer.condition(tree, negated=False)
    refuted = writer.condition(tree, negated=True)
    body = f"def condition(v):\n    if {holds}:\n        return True\n    return False\n"
    function: Callable[[list[Value]], bool] = _define(body, "condition", where)
    return Compiled(source, tuple(writer.names), tuple(writer.wanted), holds, refuted, function, tree, writer.error)


def compile_hits(conditions: Sequence[Compiled], where: str) -> Callable[[list[Value]], list[int]]:
    """One function for many conditions: takes the list of values, returns the indexes of those that are true.

    One call for all saves the call for each, which costs as much as the condition itself.
    """
    lines = ["def hits(v):", "    h = []"]
    for index, compiled in enumerate(conditions):
        lines += [f"    if {compiled.holds}:", f"        h.append({index})"]
    lines.append("    return h")
    function: Callable[[list[Value]], list[int]] = _define("\n".join(lines), "hits", where)
    return function


def compile_undecided(
    conditions: Sequence[tuple[int, Compiled, Sequence[int]]], where: str
) -> Callable[[list[Value], Sequence[bytes | None]], list[int]]:
    """One function that finds the conditions which a missing value leaves neither true nor false.

    Args:
        conditions: (number to return, condition, indexes of the entity keys it depends on). A condition whose entity
            is not part of the payment is passed over: that the entity is absent is said once, not for each feature.
        where: What names the function in a traceback.

    Returns:
        Function of (values, entity keys) that returns the numbers, in no particular order.
    """
    groups: dict[tuple[int, ...], list[str]] = {}  # one test of the keys for all conditions that share them
    for number, compiled, entities in conditions:
        if compiled.wanted:
            group = groups.setdefault(tuple(entities), [])
            group.append(f"        if not ({compiled.refuted}) and not ({compiled.holds}):")
            group.append(f"            u.append({number})")
    lines = ["def undecided(v, k):", "    u = []"]
    for entities, group in groups.items():
        lines.append(f"    if {' and '.join(f'k[{index}] is not None' for index in entities) or 'True'}:")
        lines += group
    lines.append("    return u")
    function: Callable[[list[Value], Sequence[bytes | None]], list[int]] = _define("\n".join(lines), "undecided", where)
    return function


def _least(*values: float) -> float:
    """Smallest of `values`; missing when any is (the builtin's answer depends on where the NaN stands)."""
    return math.nan if any(value != value for value in values) else min(values)  # noqa: PLR0124 - NaN differs from itself


def _greatest(*values: float) -> float:
    """Largest of `values`; missing when any is."""
    return math.nan if any(value != value for value in values) else max(values)  # noqa: PLR0124 - NaN differs from itself


def _define(body: str, name: str, where: str) -> Any:
    """Run generated source in a namespace that holds nothing but what the language offers."""
    space: dict[str, Any] = {"__builtins__": {}, "NAN": math.nan, "abs": abs, "min": _least, "max": _greatest}
    exec(compile(body, f"<{where}>", "exec"), space)  # noqa: S102 - written by Writer alone, from checked nodes
    return space[name]
