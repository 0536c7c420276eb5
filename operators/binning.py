"""Where a number falls on the grid that the linear model sees it through.

The grid is the same for every number: linear below 2**LOWEST, then each power of two is cut into equally wide cells
(as in an HDR histogram). A value lies between two grid points and counts towards both by nearness, so that the model
learns a continuous, piecewise linear curve for each feature. Nothing of the grid is learned from the data:

- edges taken from the first labels would be wrong for good. Windows of 30 days are still filling up then and no fraud
  rate has moved yet; on the handbook's weeks of June, edges from the first 100,000 payments gave an average precision
  of 0.44 where edges from two months gave 0.67 (docs/adr/0006-online-model.md);
- edges that move would have to carry the weights learned under the old ones;
- only exact arithmetic is used (frexp, sums, products with small integers; no logarithm), so a position is the same to
  the last bit on every machine.
"""

from __future__ import annotations

import math
import zlib
from typing import Final

from operators.inflight import Value
from operators.jit import jit

LOWEST: Final = -10
"""2**-10 is about 0.001: a tenth of a cent, a fraud rate of one in a thousand. Larger would merge small fraud rates."""

HIGHEST: Final = 30
"""2**30 seconds are 34 years, 2**30 in money is a billion. Smaller would merge old accounts with new ones."""

OCTAVES: Final = HIGHEST - LOWEST

MISSING: Final = 0
"""Cell of an absent value in every range of cells."""

_FLOOR: Final = 2.0**LOWEST
_CEILING: Final = 2.0**HIGHEST
_CODES_KEPT: Final = 65_536
"""Bound of the memory of category codes: a stream of invented strings must not grow it. Smaller only costs time."""


def grid_cells(per_octave: int) -> int:
    """Cells a number takes: absent, the linear part's lower end, and `per_octave` points an octave."""
    return 2 + OCTAVES * per_octave + 1


@jit()
def position(value: float, per_octave: int) -> float:
    """Place of a number on the grid, 0 at zero, rising with the value.

    Args:
        value: Any number but NaN. A negative one counts as 0: no feature is negative.
        per_octave: Grid points from one power of two to the next.

    Returns:
        0 <= place <= 1 + OCTAVES * per_octave; its whole part is the grid point below.
    """
    if value < _FLOOR:
        return value / _FLOOR if value > 0.0 else 0.0
    if value >= _CEILING:
        return 1.0 + OCTAVES * per_octave
    mantissa, exponent = math.frexp(value)
    return 1.0 + ((exponent - 1 - LOWEST) + (2.0 * mantissa - 1.0)) * per_octave


class CategoryCodes:
    """Codes of strings: a hash into a fixed number of slots, so that invented values cannot grow the model.

    Two values may fall into one slot (among 20 values in 256 slots, an even chance that some two do); they then share
    a weight. The hash is CRC-32 of the UTF-8 text: stable over runs and machines.
    """

    __slots__ = ("_codes", "_slots")

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._codes: dict[Value, float] = {None: math.nan}

    def code(self, value: Value) -> float:
        """0 <= whole number < slots for a string, NaN for None."""
        found = self._codes.get(value)
        if found is None:
            if len(self._codes) >= _CODES_KEPT:
                self._codes = {None: math.nan}
            found = float(zlib.crc32(str(value).encode()) % self._slots)
            self._codes[value] = found
        return found
