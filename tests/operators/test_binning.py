from __future__ import annotations

import math
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from operators.binning import HIGHEST, LOWEST, OCTAVES, CategoryCodes, grid_cells, position

finite = st.floats(min_value=0.0, max_value=1e12, allow_nan=False)


def test_powers_of_two_stand_on_grid_points_and_values_between_them_evenly() -> None:
    assert position(2.0**LOWEST, 2) == 1.0
    assert position(1.0, 2) == 1.0 - 2 * LOWEST
    assert position(1.25, 2) == position(1.0, 2) + 0.5
    assert position(1.5, 2) == position(1.0, 2) + 1.0
    assert position(2.0, 2) == position(1.0, 2) + 2.0
    assert position(2.0, 1) == position(1.0, 1) + 1.0


def test_zero_is_the_start_of_the_grid_and_the_way_to_the_first_point_is_linear() -> None:
    assert position(0.0, 2) == 0.0
    assert position(2.0**LOWEST / 4, 2) == 0.25


def test_negative_numbers_count_as_zero() -> None:
    assert position(-5.0, 2) == 0.0
    assert position(-math.inf, 2) == 0.0


@pytest.mark.parametrize("value", [2.0**HIGHEST, 1e300, math.inf])
def test_whatever_is_beyond_the_grid_stands_on_its_last_point(value: float) -> None:
    last = position(value, 3)

    assert last == 1 + OCTAVES * 3
    assert int(last) + 1 == grid_cells(3) - 1, "the last cell of the range, after the absent one"


@settings(max_examples=300, deadline=None)
@given(a=finite, b=finite, per_octave=st.integers(1, 16))
@example(a=math.nextafter(2.0**HIGHEST, 0), b=2.0**HIGHEST, per_octave=16)
@example(a=math.nextafter(2.0**LOWEST, 0), b=2.0**LOWEST, per_octave=1)
@example(a=math.nextafter(4.0, 0), b=4.0, per_octave=16)
def test_positions_rise_with_the_value_and_stay_on_the_grid(a: float, b: float, per_octave: int) -> None:
    low, high = sorted((a, b))

    assert 0.0 <= position(low, per_octave) <= position(high, per_octave) <= 1 + OCTAVES * per_octave


def test_codes_of_strings_are_the_same_in_every_process_and_within_the_slots() -> None:
    # CRC-32 of the text modulo the slots, worked out elsewhere: a change would part weights from their values.
    assert CategoryCodes(256).code("ecommerce") == 213.0
    assert CategoryCodes(64).code("DE") == 33.0
    assert CategoryCodes(256).code("Zürich") == 62.0
    codes = CategoryCodes(7)
    assert {codes.code(f"mcc-{at}") for at in range(1_000)} == set(range(7))


def test_an_absent_string_has_no_code() -> None:
    assert math.isnan(CategoryCodes(4).code(None))


def test_invented_strings_do_not_grow_the_memory_nor_change_codes() -> None:
    codes = CategoryCodes(64)
    rng = random.Random(3)
    before = codes.code("DE")
    for _ in range(70_000):
        codes.code(f"{rng.getrandbits(64):x}")

    assert len(codes._codes) <= 65_536
    assert codes.code("DE") == before
    assert math.isnan(codes.code(None))
