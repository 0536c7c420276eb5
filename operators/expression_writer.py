"""Checks a parsed expression node by node and writes it as Python source; expression.py describes the language."""

from __future__ import annotations

import ast
import difflib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from schemas.errors import ProfileError

Kind = Literal["number", "boolean", "string"]
Names = Mapping[str, tuple[int, Kind]]
"""Feature name -> (slot in the list of values, kind)."""

# Bounds on one expression. Far above what a person writes by hand, far below what makes the parser, the compiler or a
# payment slow: a rule at the bound still takes some microseconds.
MAX_CHARS: Final = 2_000
MAX_NODES: Final = 300
MAX_DEPTH: Final = 30  # Python's own parser gives up at 200 nested brackets; each level here writes at most three
MAX_ITEMS: Final = 256  # constants in one list
MAX_MAGNITUDE: Final = 1e15  # whole numbers stay exact in a float, and no product of a few becomes infinite
MAX_STRING: Final = 100

FUNCTIONS: Final = ("abs", "min", "max", "coalesce", "present", "absent")

_ORDER: Final[dict[type[ast.cmpop], tuple[str, str]]] = {
    ast.Lt: ("<", ">="),
    ast.LtE: ("<=", ">"),
    ast.Gt: (">", "<="),
    ast.GtE: (">=", "<"),
}
_ARITHMETIC: Final[dict[type[ast.operator], str]] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_HINTS: Final[dict[type[ast.AST], str]] = {
    ast.Pow: "write the product out",
    ast.BitAnd: "write `and`",
    ast.BitOr: "write `or`",
    ast.Invert: "write `not`",
    ast.Is: "write `==`",
    ast.IsNot: "write `!=`",
    ast.IfExp: "write two rules",
}
_SPELLINGS: Final = {"true": "True", "false": "False", "null": "absent(feature)", "None": "absent(feature)"}


def dotted_name(node: ast.AST) -> str | None:
    """`card.count_10m` of the node that reads it, None for any other node."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    parts.append(node.id)
    return ".".join(reversed(parts))


@dataclass(frozen=True, slots=True)
class _Operand:
    """Python source of a value; `constant` is its value when no feature is in it."""

    kind: Kind
    code: str
    constant: float | bool | str | None = None
    may_miss: bool = False


class Writer:
    """Checks a parsed expression and writes it as Python source."""

    def __init__(self, source: str, names: Names, where: str) -> None:
        self.source = source
        self.known = names
        self.where = where
        self.names: dict[str, None] = {}
        self.wanted: dict[str, None] = {}
        self._temporaries = 0
        # Line breaks become spaces, one for one, so that an expression may span lines and offsets stay true.
        self._flat = source.translate({ord(c): " " for c in "\r\n\t\f\v"})

    def parse(self) -> ast.expr:
        """The expression as a tree of bounded size; its nodes are checked by `condition`."""
        if len(self.source) > MAX_CHARS:
            raise self.error(None, f"expected at most {MAX_CHARS} characters, found {len(self.source)}")
        if not self.source.strip():
            raise self.error(None, "expected a condition, found nothing")
        if "#" in self.source:
            raise self._error_at(self.source.index("#"), "expected no comment; put it into `description`")
        padding = len(self._flat) - len(self._flat.lstrip(" "))
        self._flat = self._flat.strip(" ")
        self._padding = padding
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # "5and x" and "\d" are only warned of, and mean something else
                tree = ast.parse(self._flat, mode="eval").body
        except SyntaxError as error:
            offset = (error.offset or 1) - 1
            raise self._error_at(padding + offset, f"expected a condition, found a syntax error: {error.msg}") from None
        except (ValueError, RecursionError, MemoryError) as error:
            raise self.error(None, f"expected a condition, cannot be parsed: {error}") from None
        self._check_size(tree)
        return tree

    def condition(self, node: ast.expr, *, negated: bool) -> str:
        """Python source that is truthy when `node` (or, negated, its opposite) is true, never when undecided."""
        if isinstance(node, ast.BoolOp):
            joined = " and " if isinstance(node.op, ast.And) is not negated else " or "
            return "(" + joined.join(self.condition(value, negated=negated) for value in node.values) + ")"
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return self.condition(node.operand, negated=not negated)
        if isinstance(node, ast.Compare):
            return self._comparison(node, negated=negated)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("present", "absent"):
            return self._presence(node, present=(node.func.id == "present") is not negated)
        operand = self._operand(node)
        if operand.kind != "boolean":
            raise self.error(node, f"expected a condition, found a {operand.kind}; compare it with something")
        if operand.constant is not None:
            raise self.error(node, "expected a condition on a feature, found a constant")
        return self._truth(operand, negated=negated)

    def _comparison(self, node: ast.Compare, *, negated: bool) -> str:
        left = node.left
        parts = []
        for operator, right in zip(node.ops, node.comparators, strict=True):
            parts.append(self._pair(node, left, operator, right, negated=negated))
            left = right
        return parts[0] if len(parts) == 1 else "(" + (" or " if negated else " and ").join(parts) + ")"

    def _pair(self, node: ast.Compare, left: ast.expr, operator: ast.cmpop, right: ast.expr, *, negated: bool) -> str:
        if isinstance(operator, ast.In | ast.NotIn):
            return self._membership(left, right, inside=isinstance(operator, ast.In) is not negated)
        if not isinstance(operator, ast.Eq | ast.NotEq) and type(operator) not in _ORDER:
            raise self.error(node, f"`{_symbol(operator)}` is not part of the language{_hint(operator)}")
        a, b = self._operand(left), self._operand(right)
        if a.kind != b.kind:
            raise self.error(right, f"expected a {a.kind} to compare with {self._text(left)}, found a {b.kind}")
        if a.constant is not None and b.constant is not None:
            raise self.error(left, "expected a feature on one side of the comparison, found two constants")
        if type(operator) in _ORDER:
            if a.kind != "number":
                raise self.error(left, f"expected numbers around `{_symbol(operator)}`, found a {a.kind}; use == != in")
            return f"{a.code} {_ORDER[type(operator)][negated]} {b.code}"
        equal = isinstance(operator, ast.Eq) is not negated
        if a.kind == "number":
            return f"{a.code} == {b.code}" if equal else f"({a.code} < {b.code} or {a.code} > {b.code})"
        if isinstance(b.constant, bool):
            return self._truth(a, negated=b.constant is not equal)
        if isinstance(a.constant, bool):
            return self._truth(b, negated=a.constant is not equal)
        guards = [f"{side.code} is not None and " for side in (a, b) if side.may_miss]
        if equal:  # None equals None, but no constant
            guards = guards[:1] if len(guards) == 2 else []
        return f"({''.join(guards)}{a.code} {'==' if equal else '!='} {b.code})"

    def _membership(self, left: ast.expr, right: ast.expr, *, inside: bool) -> str:
        operand = self._operand(left)
        if operand.kind == "boolean" or operand.constant is not None:
            raise self.error(left, "expected a number or string feature before `in`")
        if not isinstance(right, ast.List | ast.Tuple | ast.Set):
            raise self.error(right, 'expected a list of constants after `in`, like ["a", "b"]')
        if not 0 < len(right.elts) <= MAX_ITEMS:
            raise self.error(right, f"expected 1 to {MAX_ITEMS} constants in the list, found {len(right.elts)}")
        items: dict[str, None] = {}
        for element in right.elts:
            item = self._operand(element)
            if item.constant is None:
                raise self.error(element, f"expected a constant in the list, found {self._text(element)}")
            if item.kind != operand.kind:
                raise self.error(element, f"expected a {operand.kind} like {self._text(left)}, found a {item.kind}")
            items[item.code] = None
        listed = "{" + ", ".join(items) + "}"
        if inside:
            return f"{operand.code} in {listed}"
        there = f"{operand.code} == {operand.code}" if operand.kind == "number" else f"{operand.code} is not None"
        return f"({there} and {operand.code} not in {listed})"

    def _presence(self, node: ast.Call, *, present: bool) -> str:
        if node.keywords or len(node.args) != 1 or (name := dotted_name(node.args[0])) is None:
            raise self.error(node, "expected one feature name in the brackets")
        feature = self._feature(node.args[0], name, wanted=False)
        if feature.kind == "number":
            return f"{feature.code} {'==' if present else '!='} {feature.code}"
        return f"{feature.code} is {'not ' if present else ''}None"

    def _operand(self, node: ast.expr, *, wanted: bool = True) -> _Operand:
        name = dotted_name(node)
        if name is not None:
            return self._feature(node, name, wanted=wanted)
        if isinstance(node, ast.Constant):
            return self._constant(node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            operand = self._number(node.operand, wanted=wanted)
            sign = -1.0 if isinstance(node.op, ast.USub) else 1.0
            if isinstance(operand.constant, float):
                return self._folded(node, sign * operand.constant)
            return _Operand("number", f"(-{operand.code})", may_miss=operand.may_miss) if sign < 0 else operand
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            return self._arithmetic(node, _ARITHMETIC[type(node.op)], wanted=wanted)
        if isinstance(node, ast.Call):
            return self._call(node, wanted=wanted)
        if isinstance(node, ast.Compare | ast.BoolOp) or (
            isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
        ):
            raise self.error(node, "expected a value, found a condition; join conditions with and, or, not")
        culprit: ast.AST = node.op if isinstance(node, ast.BinOp | ast.UnaryOp) else node
        raise self.error(node, f"{self._text(node)} is not part of the language{_hint(culprit)}")

    def _number(self, node: ast.expr, *, wanted: bool) -> _Operand:
        operand = self._operand(node, wanted=wanted)
        if operand.kind != "number":
            raise self.error(node, f"expected a number, found the {operand.kind} {self._text(node)}")
        return operand

    def _feature(self, node: ast.expr, name: str, *, wanted: bool) -> _Operand:
        known = self.known.get(name)
        if known is None:
            spelling = _SPELLINGS.get(name)
            close = [spelling] if spelling else difflib.get_close_matches(name, self.known, n=1)
            hint = f"; did you mean {close[0]}?" if close else "; the feature set declares no feature like it"
            raise self.error(node, f"unknown feature {name!r}{hint}")
        slot, kind = known
        self.names[name] = None
        if wanted:
            self.wanted[name] = None
        return _Operand(kind, f"v[{slot}]", may_miss=True)

    def _constant(self, node: ast.Constant) -> _Operand:
        value = node.value
        if isinstance(value, bool):
            return _Operand("boolean", repr(value), constant=value)
        if isinstance(value, int | float):
            if abs(value) > MAX_MAGNITUDE:  # before float(): a whole number may be too large for one
                raise self.error(node, f"expected a number up to {MAX_MAGNITUDE:g}, found a larger one")
            return self._folded(node, float(value))
        if isinstance(value, str):
            if len(value) > MAX_STRING:
                raise self.error(node, f"expected a string of at most {MAX_STRING} characters, found {len(value)}")
            return _Operand("string", repr(value), constant=value)
        raise self.error(node, f"expected a number, a string, True or False, found {self._text(node)}")

    def _folded(self, node: ast.expr, value: float) -> _Operand:
        if not abs(value) <= MAX_MAGNITUDE:
            raise self.error(node, f"expected a number up to {MAX_MAGNITUDE:g}, found {value:g}")
        # A float: comparing two floats is faster than comparing a float with a whole number.
        return _Operand("number", repr(value) if value >= 0 else f"({value!r})", constant=value)

    def _arithmetic(self, node: ast.BinOp, symbol: str, *, wanted: bool) -> _Operand:
        a, b = self._number(node.left, wanted=wanted), self._number(node.right, wanted=wanted)
        if symbol == "/" and b.constant == 0.0:
            raise self.error(node.right, "expected a divisor other than zero")
        if isinstance(a.constant, float) and isinstance(b.constant, float):
            folded = {"+": a.constant + b.constant, "-": a.constant - b.constant, "*": a.constant * b.constant}
            return self._folded(node, a.constant / b.constant if symbol == "/" else folded[symbol])
        if symbol != "/" or b.constant is not None:
            return _Operand("number", f"({a.code} {symbol} {b.code})", may_miss=True)
        divisor = self._temporary()
        return _Operand("number", f"({a.code} / {divisor} if ({divisor} := {b.code}) else NAN)", may_miss=True)

    def _call(self, node: ast.Call, *, wanted: bool) -> _Operand:
        function = node.func.id if isinstance(node.func, ast.Name) else None
        if function not in FUNCTIONS:
            raise self.error(
                node, f"expected one of the functions {', '.join(FUNCTIONS)}, found {self._text(node.func)}"
            )
        if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
            raise self.error(node, "expected plain arguments, without names or stars")
        if function in ("present", "absent"):
            raise self.error(node, f"expected a value, found the condition {function}(...)")
        if function == "coalesce":
            return self._coalesce(node, wanted=wanted)
        count = len(node.args)
        if (count != 1) if function == "abs" else not 2 <= count <= 8:
            raise self.error(
                node, f"expected {'1 argument' if function == 'abs' else '2 to 8 arguments'}, found {count}"
            )
        operands = [self._number(argument, wanted=wanted) for argument in node.args]
        if all(operand.constant is not None for operand in operands):
            raise self.error(node, "expected a feature among the arguments, found constants only")
        arguments = ", ".join(operand.code for operand in operands)
        return _Operand("number", f"{function}({arguments})", may_miss=any(operand.may_miss for operand in operands))

    def _coalesce(self, node: ast.Call, *, wanted: bool) -> _Operand:
        if len(node.args) != 2:
            raise self.error(node, f"expected coalesce(value, fallback), found {len(node.args)} arguments")
        value = self._operand(node.args[0], wanted=False)
        fallback = self._operand(node.args[1], wanted=wanted)
        if value.constant is not None:
            raise self.error(node.args[0], "expected a feature that may be missing, found a constant")
        if value.kind != fallback.kind:
            raise self.error(node.args[1], f"expected a {value.kind} as fallback, found a {fallback.kind}")
        held = self._temporary()
        there = (
            f"({held} := {value.code}) == {held}" if value.kind == "number" else f"({held} := {value.code}) is not None"
        )
        return _Operand(value.kind, f"({held} if {there} else {fallback.code})", may_miss=fallback.may_miss)

    def _truth(self, operand: _Operand, *, negated: bool) -> str:
        if not negated:
            return operand.code
        return f"({operand.code} is not None and not {operand.code})" if operand.may_miss else f"(not {operand.code})"

    def _temporary(self) -> str:
        self._temporaries += 1
        return f"t{self._temporaries}"

    def _check_size(self, tree: ast.expr) -> None:
        nodes = 0
        level: list[ast.AST] = [tree]
        depth = 0
        while level:
            depth += 1
            # Items of a list have their own bound; contexts and operators are not what makes an expression large.
            nodes += sum(isinstance(node, ast.expr) and not isinstance(node, ast.Constant) for node in level)
            level = [child for node in level for child in ast.iter_child_nodes(node)]
            if depth > MAX_DEPTH or nodes > MAX_NODES:
                bounds = f"at most {MAX_NODES} parts, nested at most {MAX_DEPTH} deep"
                raise self.error(None, f"expected {bounds}, found more; split it into several rules")

    def _text(self, node: ast.expr) -> str:
        segment = ast.get_source_segment(self._flat, node) or type(node).__name__
        return f"`{segment if len(segment) <= 60 else segment[:57] + '...'}`"

    def error(self, node: ast.expr | None, message: str) -> ProfileError:
        """The error that refuses the expression at `node`, or as a whole; the caller raises it."""
        if node is None:
            return ProfileError(f"{self.where}: {message}")
        # ast counts bytes of UTF-8, people count characters.
        characters = len(self._flat.encode()[: node.col_offset].decode())
        return self._error_at(self._padding + characters, message)

    def _error_at(self, offset: int, message: str) -> ProfileError:
        before = self.source[:offset]
        column = len(before) - (before.rfind("\n") + 1) + 1
        line = f"line {before.count(chr(10)) + 1}, " if "\n" in self.source.strip() else ""
        return ProfileError(f"{self.where}, {line}column {column}: {message}")


def _symbol(operator: ast.cmpop) -> str:
    if isinstance(operator, ast.Is | ast.IsNot):
        return "is" if isinstance(operator, ast.Is) else "is not"
    return _ORDER[type(operator)][0]


def _hint(node: ast.AST) -> str:
    hint = _HINTS.get(type(node))
    return f"; {hint}" if hint else ""
