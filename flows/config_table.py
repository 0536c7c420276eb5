"""One table of weir.toml, read strictly: every key is taken by its type, and what is wrong is collected, not raised.

A value is repeated in a message only where it cannot be a secret: never of a key nobody knows, nor of one that by its
name holds a password, key or token.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)\Z")
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SECRETIVE: Final = re.compile(r"pass|secret|token|pem|key(?!s?_file)|credential|user.?info", re.IGNORECASE)
_MOST_SECRET_BYTES: Final = 65_536
"""Of a secret's file; larger is no secret but a wrong path, such as a log or a device."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret and where it came from; shown as its place alone.

    Attributes:
        place: "file PATH" or "variable NAME".
        value: The secret. Hand it to the library that wants it, and nowhere else.
    """

    place: str
    value: str = field(repr=False)

    def __str__(self) -> str:
        return f"<secret from {self.place}>"

    def __reduce__(self) -> str | tuple[object, ...]:
        message = "secrets are not pickled: hand each process its file or environment"
        raise TypeError(message)


class Findings:
    """What reading a file has found.

    Attributes:
        problems: A sentence for each thing that is wrong.
        keys: Full names of all keys that were asked for, tables included, in that order.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.keys: list[str] = []


class Table:
    """A table; `close` it when all its keys were taken."""

    def __init__(self, file: Path, name: str, content: Mapping[str, Any], findings: Findings) -> None:
        """Prepare.

        Args:
            file: weir.toml; relative paths start at its folder.
            name: The table's name, empty for the top.
            content: As parsed.
            findings: Gets what is wrong, and which keys there are.
        """
        self.file = file
        self.name = name
        self._left = dict(content)
        self._known: list[str] = []
        self._findings = findings
        self._problems = findings.problems

    def refuse(self, key: str, value: object, expected: str) -> None:
        """Note that a key's value cannot be used."""
        name = f"{self.name}.{key}" if self.name else key
        shown = "set (its value is not shown)" if _SECRETIVE.search(key) else _short(value)
        self._problems.append(f"{self.file}: {name} is {shown}; expected {expected}")

    def missing(self, key: str, expected: str) -> None:
        """Note that a key is wanting."""
        name = f"{self.name}.{key}" if self.name else key
        self._problems.append(f"{self.file}: {name} is missing; expected {expected}")

    def has(self, key: str) -> bool:
        """Whether the key is there and not taken yet."""
        return key in self._left

    def left(self) -> list[str]:
        """Keys not taken yet."""
        return list(self._left)

    def take(self, key: str) -> Any:
        """A value as it stands, None when absent."""
        self._known.append(key)
        self._findings.keys.append(f"{self.name}.{key}" if self.name else key)
        return self._left.pop(key, None)

    def close(self) -> None:
        """Refuse keys nobody took, each with the name it may have meant."""
        place = f"[{self.name}]" if self.name else "the top"
        for key in self._left:
            near = difflib.get_close_matches(key, self._known, 1, 0.6)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(self._known))}"
            name = f"{self.name}.{key}" if self.name else key
            self._problems.append(f"{self.file}: {name}: no such key in {place}; {hint}")

    def text(self, key: str, default: T, expected: str = "a string that is not empty") -> str | T:
        """A string that is not empty."""
        value = self.take(key)
        if value is None:
            return default
        if not isinstance(value, str) or not value.strip():
            self.refuse(key, value, expected)
            return default
        return value

    def needed_text(self, key: str, expected: str) -> str:
        """A string that must be there; empty after a problem."""
        if not self.has(key):
            self.take(key)
            self.missing(key, expected)
            return ""
        return self.text(key, "", expected)

    def choice(self, key: str, default: str, allowed: Iterable[str]) -> str:
        """One of a few words."""
        words = tuple(allowed)
        value = self.take(key)
        if value is None:
            return default
        if value not in words:
            near = difflib.get_close_matches(str(value).lower(), words, 1, 0.6)
            self.refuse(key, value, f"one of {', '.join(words)}" + (f"; did you mean {near[0]!r}?" if near else ""))
            return default
        return str(value)

    def whole(self, key: str, default: T, least: int, most: int) -> int | T:
        """A whole number within bounds; true and false are none."""
        value = self.take(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.refuse(key, value, f"a whole number from {least:,} to {most:,}")
            return default
        return value

    def seconds(self, key: str, default: float, least: float, most: float) -> float:
        """A length of time in seconds; zero only where `least` is."""
        value = self.take(key)
        if value is None:
            return default
        match = _DURATION.match(value) if isinstance(value, str) else None
        found = float(match[1]) * _UNIT_S[match[2]] if match else -1.0
        if not least <= found <= most:
            bounds = f"from {_told(least)} to {_told(most)}"
            self.refuse(key, value, f"a length of time {bounds}, such as '500ms', '10s', '5m', '1h', '7d'")
            return default
        return found

    def truth(self, key: str, default: bool) -> bool:
        """True or false; no other word is either."""
        value = self.take(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(key, value, "true or false, without quotes")
            return default
        return value

    def texts(self, key: str, check: Callable[[str], bool], expected: str) -> tuple[str, ...]:
        """A list of different strings, empty when absent."""
        value = self.take(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            self.refuse(key, value, f"a list of {expected}")
            return ()
        for one in value:
            if not isinstance(one, str) or not check(one):
                self.refuse(key, one, expected)
                return ()
        if len(set(value)) != len(value):
            self.refuse(key, value, f"different {expected}, none twice")
        return tuple(value)

    def path(self, key: str) -> Path | None:
        """A path, from the folder of the file on; None when absent."""
        value = self.text(key, None, "a path")
        return None if value is None else self.file.parent / value

    def secret(self, key: str) -> Secret | None:
        """A secret, from `{ file = "PATH" }` or `{ env = "NAME" }`; None when absent."""
        value = self.take(key)
        if value is None:
            return None
        name = f"{self.name}.{key}" if self.name else key
        form = f'{key} = {{ file = "PATH" }} or {key} = {{ env = "NAME" }}'
        where = f"{self.file}: {name}"
        if (
            not isinstance(value, dict)
            or len(value) != 1
            or not value.keys() <= {"file", "env"}
            or not all(isinstance(one, str) and one for one in value.values())
        ):
            self._problems.append(f"{where} is set in the file itself or misspelt (not shown); expected {form}")
            return None
        if "env" in value:
            found = os.environ.get(value["env"])
            if not found:
                self._problems.append(
                    f"{where}: the variable {value['env']} is {'empty' if found == '' else 'not set'}"
                )
                return None
            return Secret(f"variable {value['env']}", found)
        path = self.file.parent / value["file"]
        try:
            with path.open(encoding="utf-8") as file:
                found = file.read(_MOST_SECRET_BYTES + 1).rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            told = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            self._problems.append(f"{where}: {path} cannot be read ({told}); expected a file that holds the secret")
            return None
        if not found or len(found) > _MOST_SECRET_BYTES:
            told = "empty" if not found else f"longer than {_MOST_SECRET_BYTES} characters"
            self._problems.append(f"{where}: {path} is {told}; expected a file that holds the secret")
            return None
        return Secret(f"file {path}", found)

    def table(self, key: str) -> Table:
        """A table below this one, empty when absent."""
        value = self.take(key)
        name = f"{self.name}.{key}" if self.name else key
        if value is not None and not isinstance(value, dict):
            self.refuse(key, value, f"a table [{name}]")
            value = None
        return Table(self.file, name, value or {}, self._findings)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _told(seconds: float) -> str:
    for unit in ("d", "h", "m", "s"):
        if seconds >= _UNIT_S[unit] and seconds % _UNIT_S[unit] == 0:
            return f"{seconds / _UNIT_S[unit]:.0f}{unit}"
    return f"{seconds * 1000:g}ms" if seconds else "0s"
