"""policy.toml read strictly: all that is wrong is found in one reading, named by file, rule, key and expectation."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast, get_args

from operators.actions import ACTIONS, Action
from operators.expression import Names, compile_expression
from operators.features import FeatureSet
from operators.policy import Mode, Policy, Rule, Thresholds
from operators.reachability import check_reachable
from schemas.errors import ProfileError
from schemas.reasons import REASON_CODES

MAX_RULES: Final = 1_000  # some 100 µs a payment; a list beyond it belongs into a feature, not into rules
MAX_DEADLINE_MS: Final = 600_000
MAX_PRIORITY: Final = 1_000

_TOP: Final = ("id", "version", "thresholds", "deadline_ms", "on_deadline", "on_backlog", "rules")
_RULE: Final = ("id", "when", "action", "reason", "mode", "priority", "description", "hard")
_LEVELS: Final = ("challenge", "review", "decline")
_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
_MISSING: Final = object()


def parse_policy(path: Path, feature_set: FeatureSet, warnings: list[str] | None = None) -> Policy:
    """Parse the file at `path`; see `operators.policy.load_policy`.

    Args:
        path: policy.toml.
        feature_set: What the rules may name.
        warnings: Gets a sentence for each part of a condition that can never be true.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        text = f"{path}: cannot be read ({error.strerror}); expected a policy, policy.toml"
        raise ProfileError(text) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        text = f"{path}: is not TOML: {error}"
        raise ProfileError(text) from error
    return _Reader(str(path), feature_set, warnings if warnings is not None else []).policy(content)


class _Reader:
    """Reads one file and collects what is wrong with it."""

    def __init__(self, file: str, feature_set: FeatureSet, warnings: list[str]) -> None:
        self._file = file
        self._feature_set = feature_set
        self._names: Names = feature_set.names()
        self._warnings = warnings
        self._problems: list[str] = []

    def policy(self, content: Mapping[str, Any]) -> Policy:
        self._known(self._file, content, _TOP)
        policy_id = self._text(self._file, content, "id", "the policy's id, such as 'cards'")
        version = self._text(self._file, content, "version", "the policy's version, such as '2026-11-01'")
        thresholds = self._thresholds(content.get("thresholds", _MISSING))
        deadline_ms = self._whole(self._file, content, "deadline_ms", (1, MAX_DEADLINE_MS))
        on_deadline = self._action(self._file, content, "on_deadline", Action.APPROVE)
        on_backlog = self._action(self._file, content, "on_backlog", on_deadline)
        rules = self._rules(content.get("rules", []))
        if self._problems:
            raise ProfileError("\n".join(self._problems))
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        return Policy(
            id=policy_id,
            version=version,
            hash=digest,
            rules=rules,
            thresholds=thresholds,
            deadline_ms=deadline_ms,
            on_deadline=on_deadline,
            _features=self._feature_set,
            on_backlog=on_backlog,
        )

    def _rules(self, found: Any) -> tuple[Rule, ...]:
        if not isinstance(found, list) or not all(isinstance(table, dict) for table in found):
            self._refuse(self._file, "rules", found, "tables [[rules]]")
            return ()
        if len(found) > MAX_RULES:
            self._refuse(self._file, "rules", len(found), f"at most {MAX_RULES} rules")
            return ()
        rules: list[Rule] = []
        places: dict[str, int] = {}
        for number, table in enumerate(found, start=1):
            rule_id = table.get("id")
            where = f"{self._file}: rule {rule_id!r}" if isinstance(rule_id, str) else f"{self._file}: rule {number}"
            if isinstance(rule_id, str) and rule_id in places:
                self._refuse(where, "id", rule_id, f"an id of its own; rule {places[rule_id]} has it already")
            rule = self._rule(where, table)
            if isinstance(rule_id, str):
                places.setdefault(rule_id, number)
            if rule is not None:
                rules.append(rule)
        return tuple(rules)

    def _rule(self, where: str, table: Mapping[str, Any]) -> Rule | None:
        before = len(self._problems)
        self._known(where, table, _RULE)
        rule_id = self._text(where, table, "id", "the rule's id, such as 'impossible-travel'")
        if rule_id and not _ID.match(rule_id):
            self._refuse(where, "id", rule_id, "up to 64 lower-case letters, digits and . _ -")
        action = self._action(where, table, "action", None)
        if "action" in table and action is Action.APPROVE and table["action"] in ACTIONS:
            self._refuse(
                where,
                "action",
                "approve",
                "challenge, review or decline: the strongest action wins and every payment starts as approved, so "
                "this rule's action is unreachable; put the exception into the conditions of the rules it is about",
            )
        reason = self._choice(where, table, "reason", tuple(REASON_CODES), None, "a reason code of schemas/reasons.py")
        mode = self._choice(where, table, "mode", get_args(Mode), "active", "active, shadow or off")
        priority = self._whole(where, table, "priority", (-MAX_PRIORITY, MAX_PRIORITY))
        description = self._text(where, table, "description", "a sentence", default="")
        hard = table.get("hard", False)
        if not isinstance(hard, bool):
            self._refuse(where, "hard", hard, "true, where exploration may never override it, or false")
        when = self._text(where, table, "when", "a condition, such as 'amount > 500'")
        if not when:
            return None
        try:
            condition = compile_expression(when, self._names, f"{where}: when")
            dead = check_reachable(condition, self._names)
        except ProfileError as error:
            self._problems.append(str(error))
            return None
        self._warnings.extend(dead)
        if len(self._problems) > before:
            return None
        return Rule(
            rule_id, when, action, reason, cast(Mode, mode), priority or 0, description, condition, hard is True
        )

    def _thresholds(self, found: Any) -> Thresholds | None:
        if found is _MISSING:
            return None
        expected = "{ challenge = 0.60, review = 0.80, decline = 0.95 }, each from 0 to 1 and none below the one before"
        if not isinstance(found, dict):
            self._refuse(self._file, "thresholds", found, expected)
            return None
        levels = [found.get(level) for level in _LEVELS]
        numbers = [float(level) for level in levels if isinstance(level, int | float) and not isinstance(level, bool)]
        if len(numbers) != 3 or len(found) != 3 or not 0 <= numbers[0] <= numbers[1] <= numbers[2] <= 1:
            self._refuse(self._file, "thresholds", found, expected)
            return None
        return Thresholds(*numbers)

    def _known(self, where: str, table: Mapping[str, Any], keys: tuple[str, ...]) -> None:
        for key in table:
            if key not in keys:
                close = difflib.get_close_matches(key, keys, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                self._problems.append(f"{where}: unknown key {key!r}; expected one of {', '.join(keys)}{hint}")

    def _text(self, where: str, table: Mapping[str, Any], key: str, expected: str, default: str | None = None) -> str:
        value = table.get(key, _MISSING)
        if value is _MISSING and default is not None:
            return default
        if value is _MISSING or not isinstance(value, str) or not value.strip():
            self._refuse(where, key, value, expected)
            return ""
        return value

    def _whole(self, where: str, table: Mapping[str, Any], key: str, bounds: tuple[int, int]) -> int | None:
        value = table.get(key, _MISSING)
        if value is _MISSING:
            return None
        if type(value) is not int or not bounds[0] <= value <= bounds[1]:
            self._refuse(where, key, value, f"a whole number from {bounds[0]} to {bounds[1]}")
            return None
        return value

    def _action(self, where: str, table: Mapping[str, Any], key: str, default: Action | None) -> Action:
        names = tuple(ACTIONS)
        chosen = self._choice(where, table, key, names, default.wire if default is not None else None, ", ".join(names))
        return ACTIONS.get(chosen, Action.APPROVE)

    def _choice(
        self,
        where: str,
        table: Mapping[str, Any],
        key: str,
        allowed: tuple[str, ...],
        default: str | None,
        expected: str,
    ) -> str:
        value = table.get(key, _MISSING)
        if value is _MISSING and default is not None:
            return default
        if isinstance(value, str) and value in allowed:
            return value
        close = difflib.get_close_matches(value, allowed, n=1) if isinstance(value, str) else []
        self._refuse(where, key, value, f"{expected}; did you mean {close[0]}?" if close else expected)
        return ""

    def _refuse(self, where: str, key: str, value: object, expected: str) -> None:
        found = "nothing" if value is _MISSING else repr(value)
        found = found if len(found) <= 120 else f"{found[:117]}..."
        self._problems.append(f"{where}: {key}: expected {expected}; found {found}")
