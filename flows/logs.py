"""Logs of the live flows, on stderr: one line an event, JSON unless a person looks on.

    log = event_log("source")
    log.warning("broker_unreachable", extra=fields(brokers="kafka:9092", seconds=12))

    {"time": "2026-11-24T10:00:00.123456Z", "level": "warning", "event": "broker_unreachable", "logger": "weir.source",
     "process": 0, "brokers": "kafka:9092", "seconds": 12}

The event is a constant name, what varies stands in fields. An event that repeats is told once a minute, with how often
it was not told since. Whatever a field or a library's message holds passes `redact_text`: no card number is logged.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any, Final, Literal

import orjson

from flows.exits import describe_exit, form_deaths
from schemas.pan import redact_text
from schemas.times import format_rfc3339_us

ROOT: Final = "weir"
REPEAT_S: Final = 60.0
"""Within which an event is told once. Shorter: a broker that is down fills the disk; longer: it looks as if it had
come back."""
_MOST_TEXT: Final = 2_000
"""Characters of one field; more is a payload, which does not belong into a log."""
_MOST_EVENTS: Final = 1_000
"""Kinds of events remembered for repeats; beyond them all are forgotten and told anew."""
_FIELDS: Final = "weir_fields"

Format = Literal["auto", "json", "text"]


def event_log(name: str) -> logging.Logger:
    """The log of a part of Weir."""
    return logging.getLogger(f"{ROOT}.{name}")


def fields(**values: object) -> dict[str, dict[str, object]]:
    """What varies of an event, for `extra`."""
    return {_FIELDS: values}


def set_up(level: str, form: str, process: int = 0) -> logging.Handler:
    """Send the logs of Weir and its libraries to stderr; returns the handler, for `tear_down`.

    Args:
        level: debug, info, warning or error; libraries tell warnings only.
        form: json, text, or auto: text on a terminal.
        process: Number of this process, told in each line.
    """
    as_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    formatter: logging.Formatter = TextFormatter() if as_text else JsonFormatter(process)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    handler.addFilter(Repeats())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(ROOT).setLevel(level.upper())
    if not as_text:
        form_deaths(lambda message, code: _death(process, message, code))
    return handler


def tear_down(handler: logging.Handler) -> None:
    """Undo `set_up`."""
    root = logging.getLogger()
    root.removeHandler(handler)
    form_deaths(None)


class Repeats(logging.Filter):
    """Lets an event through once in REPEAT_S, by logger, level and name; the next one tells how many it stands for."""

    def __init__(self, every_s: float = REPEAT_S) -> None:
        super().__init__()
        self._every_s = every_s
        self._told: dict[tuple[str, int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Called by the handler for each record."""
        if record.levelno < logging.WARNING:
            return True
        key = (record.name, record.levelno, str(record.msg))
        now = time.monotonic()
        told_at, untold = self._told.get(key, (now - self._every_s, 0))
        if now - told_at < self._every_s:
            self._told[key] = (told_at, untold + 1)
            return False
        if len(self._told) >= _MOST_EVENTS:
            self._told.clear()
        self._told[key] = (now, 0)
        if untold:
            known: Mapping[str, object] = getattr(record, _FIELDS, {})
            setattr(record, _FIELDS, {**known, "repeated": untold})
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, process: int) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Called by the handler for each record."""
        line: dict[str, object] = {
            "time": format_rfc3339_us(int(record.created * 1e6)),
            "level": record.levelname.lower(),
            "event": _clean(record.getMessage()),
            "logger": record.name,
            "process": self._process,
        }
        for name, value in _fields_of(record).items():
            line.setdefault(name, value)
        if record.exc_info:
            line["error"] = _clean("".join(traceback.format_exception(*record.exc_info)))
        return _dumped(line)


class TextFormatter(logging.Formatter):
    """A line for a person."""

    def format(self, record: logging.LogRecord) -> str:
        """Called by the handler for each record."""
        at = format_rfc3339_us(int(record.created * 1e6))[11:23]
        told = " ".join(f"{name}={value}" for name, value in _fields_of(record).items())
        text = f"{at} {record.levelname.lower():<7} {_clean(record.getMessage())} {told}".rstrip()
        if record.exc_info:
            text += "\n" + _clean("".join(traceback.format_exception(*record.exc_info)))
        return text


def _fields_of(record: logging.LogRecord) -> dict[str, object]:
    known: Mapping[str, object] = getattr(record, _FIELDS, {})
    return {name: _clean(value) if isinstance(value, str) else _plain(value) for name, value in known.items()}


def _plain(value: object) -> object:
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        # A number may be a card's as well as a text may.
        return value if _clean(str(value)) == str(value) else _clean(str(value))
    return _clean(str(value))


def _clean(text: str) -> str:
    cleaned = redact_text(text)
    return cleaned if len(cleaned) <= _MOST_TEXT else f"{cleaned[:_MOST_TEXT]}... ({len(cleaned)} characters)"


def _dumped(line: dict[str, Any]) -> str:
    return orjson.dumps(line, default=str).decode("utf-8", "replace")


def _death(process: int, message: str, code: int) -> str:
    now = format_rfc3339_us(time.time_ns() // 1000)
    event = {"time": now, "level": "error", "event": "process_ended", "logger": "weir.exits", "process": process}
    return _dumped({**event, "error": _clean(message), "exit_code": code, "meaning": describe_exit(code)})
