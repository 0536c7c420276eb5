"""Ticks, numbers and colours of the replay report."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from flows.report_axis import count_axis, counted, duration, percent, short, time_axis
from flows.report_style import DARK, LIGHT, style_sheet


def _luminance(colour: str) -> float:
    channels = (int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5))
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_graphics_stand_out_from_the_page(palette: dict[str, str]) -> None:
    for ground in ("page", "card"):
        for text in ("text", "muted", "accent", "warn"):
            assert _contrast(palette[text], palette[ground]) >= 4.5, (text, ground)
    for graphic in ("approve", "challenge", "review", "decline", "other", "genuine", "fraud", "caught", "axis"):
        assert _contrast(palette[graphic], palette["card"]) >= 3.0 or graphic == "axis", graphic
    assert set(re.findall(r"var\(--(\w+)\)", style_sheet())) - {"c"} <= set(palette)


def test_numbers_read_well() -> None:
    assert [short(value) for value in (0, 0.5, 9, 1234, 99_999, 120_000, 1_250_000, 3e9)] == [
        "0", "0.5", "9", "1,234", "99,999", "120 k", "1.25 M", "3 G",
    ]  # fmt: skip
    assert [percent(part, 100_000) for part in (0, 1, 50, 12_345, 99_999, 100_000)] == [
        "0.0 %", "0.001 %", "0.05 %", "12.3 %", "> 99.9 %", "100.0 %",
    ]  # fmt: skip
    assert percent(1, 0) == "—"
    assert [counted(number, "line") for number in (0, 1, 2000)] == ["0 lines", "1 line", "2,000 lines"]
    assert [duration(value) for value in (0.25, 12.34, 999.9, 3100, 2.5e6)] == [
        "250 ns", "12.3 µs", "1 ms", "3.1 ms", "2.5 s",
    ]  # fmt: skip


@pytest.mark.parametrize("largest", [0, 1, 3, 7, 12, 99, 101, 4_999, 123_456, 1.2e7])
def test_a_count_axis_has_few_whole_ticks_that_hold_the_largest(largest: float) -> None:
    top, ticks = count_axis(largest)
    assert largest <= top <= max(1, 2 * largest)
    assert 2 <= len(ticks) <= 6
    assert all((tick.at * top) == pytest.approx(round(tick.at * top)) for tick in ticks)
    assert (ticks[0].at, ticks[-1].at) == (0, 1)


@pytest.mark.parametrize("hours", [1, 5, 24, 70, 24 * 9, 24 * 30, 24 * 61, 24 * 122, 24 * 400, 24 * 3000, 24 * 40_000])
def test_a_time_axis_has_few_rising_ticks_inside_the_plot(hours: int) -> None:
    start = datetime(2018, 4, 1, tzinfo=UTC)
    ticks = time_axis(start, start + timedelta(hours=hours))
    assert 1 <= len(ticks) <= 9
    assert 1 <= len(time_axis(start, start + timedelta(hours=hours), 7)) <= 7
    assert [tick.at for tick in ticks] == sorted({tick.at for tick in ticks})
    assert all(0 <= tick.at <= 1 for tick in ticks)
    assert len({tick.label for tick in ticks} - {"12:00"}) == sum(tick.label != "12:00" for tick in ticks)
    assert sum(not tick.minor for tick in ticks) <= 5
