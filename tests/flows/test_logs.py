"""Logs: one line of JSON an event, repeats told once, no card number whatever is logged."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from collections.abc import Iterator

import orjson
import pytest

from flows.logs import JsonFormatter, Repeats, TextFormatter, event_log, fields, set_up, tear_down

PAN = "4111111111111111"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter(3))
    handler.addFilter(Repeats())
    log = logging.getLogger("weir")
    log.addHandler(handler)
    log.setLevel("INFO")
    yield out
    log.removeHandler(handler)


def told(lines: io.StringIO) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in lines.getvalue().split("\n")[:-1]]


def test_an_event_is_one_line_of_json(lines: io.StringIO) -> None:
    event_log("source").info("assigned", extra=fields(topic="transactions.v1", partitions=3, share=0.5, none=None))
    (line,) = told(lines)
    assert str(line.pop("time")).endswith("Z")
    assert line == {
        "level": "info", "event": "assigned", "logger": "weir.source", "process": 3, "topic": "transactions.v1",
        "partitions": 3, "share": 0.5, "none": None,
    }  # fmt: skip


def test_no_line_end_and_no_field_breaks_a_line(lines: io.StringIO) -> None:
    log = event_log("x")
    log.info("a\nb", extra=fields(text='c\r\n"d\u2028', event="other", level="other"))
    (line,) = told(lines)
    assert (line["event"], line["level"], line["text"]) == ("a\nb", "info", 'c\r\n"d\u2028')


def test_card_numbers_are_blanked_wherever_they_stand(lines: io.StringIO) -> None:
    log = event_log("x")
    log.info(f"saw {PAN}", extra=fields(text=f"n {PAN}", number=int(PAN), listed=[PAN], raw=PAN.encode()))
    try:
        raise ValueError(PAN)
    except ValueError:
        log.exception("failed %s", PAN)
    assert PAN not in lines.getvalue()
    assert "[PAN]" in lines.getvalue()
    assert len(told(lines)) == 2
    formatter = TextFormatter()
    record = logging.LogRecord("weir", 40, "f", 1, f"m {PAN}", None, None)
    assert PAN not in formatter.format(record)


def test_a_warning_that_repeats_is_told_once_a_minute_with_its_number(
    lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [50.0]
    monkeypatch.setattr("flows.logs.time.monotonic", lambda: now[0])
    log = event_log("source")
    for second in range(130):
        now[0] = 50.0 + second
        log.warning("broker_unreachable", extra=fields(second=second))
        log.info("summary")
    down = [line for line in told(lines) if line["event"] == "broker_unreachable"]
    assert [(line["second"], line.get("repeated")) for line in down] == [(0, None), (60, 59), (120, 59)]
    log.error("broker_unreachable")
    log.warning("other")
    assert [line["level"] for line in told(lines)[-2:]] == ["error", "warning"]
    assert sum(line["event"] == "summary" for line in told(lines)) == 130


def test_levels_hold_back_what_is_below_them(capsys: pytest.CaptureFixture[str]) -> None:
    handler = set_up("warning", "json")
    try:
        event_log("x").info("quiet")
        event_log("x").warning("loud")
        logging.getLogger("some.library").warning("of a library")
    finally:
        tear_down(handler)
        logging.getLogger("weir").setLevel(logging.NOTSET)
    events = [orjson.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert events == ["loud", "of a library"]


def test_the_end_of_a_process_is_a_line_of_json_as_well() -> None:
    program = "from flows.logs import set_up\nfrom flows.exits import die\nset_up('info', 'json', 2)\n"
    program += f"die('weir: lost {PAN}', 76)\n"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 76
    line = orjson.loads(ended.stderr)
    assert (line["event"], line["exit_code"], line["process"]) == ("process_ended", 76, 2)
    assert line["error"] == "weir: lost [PAN]"
    assert line["meaning"].startswith("made no progress")
