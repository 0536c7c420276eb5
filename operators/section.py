"""A table of a profile's TOML file, read strictly: what is of a wrong type, or left over, is refused by name."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NoReturn

from operators.features import Window
from schemas.errors import ProfileError

UNITS_US: Final = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
LONGEST_WINDOW_US: Final = 3_660 * UNITS_US["d"]
"""Ten years: far beyond any history kept, and far from the end of 64-bit microseconds."""

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_WINDOW = re.compile(r"([1-9][0-9]{0,8})([smhd])\Z")


class Section:
    """One table of the file: takes keys out by type, and refuses what is left over."""

    def __init__(self, file: Path, where: str, content: dict[str, Any]) -> None:
        self.file = file
        self.where = where
        self._left = dict(content)

    def refuse(self, key: str, value: object, expected: str) -> NoReturn:
        """Raise the ProfileError of one key."""
        name = f"{self.where}.{key}" if self.where else key
        text = f"{self.file}: {name} is {value!r}; expected {expected}"
        raise ProfileError(text)

    def close(self, known: Iterable[str]) -> None:
        """Refuse keys nobody took."""
        for key, value in self._left.items():
            self.refuse(key, value, f"no such key; known here: {', '.join(known)}")

    def text(self, key: str, default: str | None = None, expected: str = "a string that is not empty") -> str:
        """A string that is not empty."""
        value = self._left.pop(key, default)
        if not isinstance(value, str) or not value:
            self.refuse(key, value, expected)
        return value

    def name(self, key: str) -> str:
        """A name that can stand in an expression."""
        return check_name(self, key, self.text(key))

    def truth(self, key: str) -> bool:
        """True or false, false when absent."""
        value = self._left.pop(key, False)
        if not isinstance(value, bool):
            self.refuse(key, value, "true or false")
        return value

    def texts(self, key: str, allowed: tuple[str, ...] | None, expected: str) -> tuple[str, ...]:
        """A list of different strings out of `allowed`, empty when absent."""
        value = self._left.pop(key, [])
        if not isinstance(value, list):
            self.refuse(key, value, f"a list of {expected}")
        for one in value:
            if not isinstance(one, str) or (allowed is not None and one not in allowed):
                self.refuse(key, one, expected)
        if len(set(value)) != len(value):
            self.refuse(key, value, f"different {expected}, none twice")
        return tuple(value)

    def table(self, key: str) -> Section:
        """A table below this one, empty when absent."""
        value = self._left.pop(key, {})
        if not isinstance(value, dict):
            self.refuse(key, value, "a table")
        return Section(self.file, f"{self.where}.{key}" if self.where else key, value)

    def tables(self, key: str) -> list[Section]:
        """A list of tables, empty when absent."""
        value = self._left.pop(key, [])
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            self.refuse(key, value, f"tables [[{self.where}.{key}]]")
        return [Section(self.file, f"{self.where}.{key}[{at}]", one) for at, one in enumerate(value)]

    def keys(self) -> list[str]:
        """Keys not taken yet."""
        return list(self._left)

    def take(self, key: str) -> Any:
        """A value as it stands, None when absent."""
        return self._left.pop(key, None)

    def windows(self, key: str) -> tuple[Window, ...]:
        """Windows, none twice; empty when absent."""
        labels = self.texts(key, None, "windows such as '10m', '24h', '7d'")
        return tuple(Window(label, self._us(key, label)) for label in labels)

    def us(self, key: str, default: str) -> int:
        """A length of time in µs."""
        return self._us(key, self.text(key, default))

    def _us(self, key: str, label: str) -> int:
        match = _WINDOW.match(label)
        us = int(match[1]) * UNITS_US[match[2]] if match else 0
        if not 0 < us <= LONGEST_WINDOW_US:
            self.refuse(key, label, "a whole number of s, m, h or d, up to ten years: '10m', '24h', '7d'")
        return us


def check_name(section: Section, key: str, name: str) -> str:
    """`name` if it can be used in expressions: lower-case letters, digits and underscores, not a Python keyword."""
    if not _NAME.match(name) or keyword.iskeyword(name):
        section.refuse(key, name, "a name of lower-case letters, digits and _, that starts with a letter")
    return name
