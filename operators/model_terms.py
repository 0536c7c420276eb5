"""From the values of a payment to the cells of the linear model: which weights it touches, and how much each counts.

    values (one a feature) → row (one float64 an input: numbers, then category codes) → cells

An *input* is a feature or a ratio of two. A *term* is an input by itself or a cross of two; each term owns a range of
cells, so a cell number names its weight everywhere: in River, in the scorer and in the artefact.

    input      cells                                    touched
    number     absent, grid points (operators/binning)  the two points next to the value, counting 1 in sum
    boolean    absent, false, true                      one
    category   absent, slots                            one
    cross      cells of a times cells of b              the products: 1, 2 or 4, counting 1 in sum

The rows are compiled by numba because a payment touches some 50 cells; one function lays the cells out for scoring,
learning and explaining alike, so that they cannot differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from operators import binning
from operators.binning import MISSING, CategoryCodes, position
from operators.features import FeatureSet
from operators.inflight import Value
from operators.jit import Array, jit
from operators.model_config import ModelConfig, input_cells, is_categorical

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

_LAYOUT: Final = "int32[:,::1], int32[::1], int32[::1], int32[:,::1], int32[::1]"
_NUMBER: Final = 0
_SLOTS: Final = 1
_WHOLE: Final = 2.0**31
"""Numbers taken for categories end here and count as absent beyond: what machine code makes of infinity as a whole
number is undefined, and was met as a cell below 0."""


class Terms:
    """The terms of a model over a feature set.

    Attributes:
        names: Name of each term, in order: "amount", or "amount*hour" for a cross.
        cells: Number of cells of all terms together.
        touched: Most cells that one payment can touch.
        owner: Term of each cell; (cells,).
    """

    def __init__(self, feature_set: FeatureSet, config: ModelConfig) -> None:
        kinds: dict[str, Any] = {feature.name: feature.kind for feature in feature_set.features}
        ratios = {ratio.name: ratio for ratio in config.ratios}
        single = (*config.features, *config.categorical)
        inputs = list(dict.fromkeys((*single, *(name for pair in config.crosses for name in pair))))
        # Ratios bring their operands along; a string's code stands behind all numbers.
        plain = [
            name
            for entry in inputs
            for name in ((ratios[entry].numerator, ratios[entry].denominator) if entry in ratios else (entry,))
        ]
        numbers = [name for name in dict.fromkeys(plain) if kinds[name] != "string"]
        strings = [name for name in dict.fromkeys(plain) if kinds[name] == "string"]
        column = {name: at for at, name in enumerate((*numbers, *strings))}
        self._take_numbers = _taker([feature_set.slots[name] for name in numbers])
        self._take_strings = _taker([feature_set.slots[name] for name in strings]) if strings else None
        self._code = CategoryCodes(config.category_slots).code
        self._columns = len(column)

        sources = np.full((len(inputs), 2), -1, dtype=np.int32)
        kind = np.full(len(inputs), _NUMBER, dtype=np.int32)
        slots = np.zeros(len(inputs), dtype=np.int32)
        for at, name in enumerate(inputs):
            ratio = ratios.get(name)
            if ratio is not None:
                sources[at] = column[ratio.numerator], column[ratio.denominator]
                continue
            sources[at, 0] = column[name]
            if is_categorical(config, kinds, name) or kinds[name] == "boolean":
                kind[at] = _SLOTS
                slots[at] = input_cells(config, kinds, name, cross=False) - 1

        self.names = (*single, *(f"{a}*{b}" for a, b in config.crosses))
        terms = np.full((len(self.names), 4), -1, dtype=np.int32)  # input a, input b or -1, first cell, cells of b
        offset = 0
        touched = 0
        for at, pair in enumerate((*((name,) for name in single), *config.crosses)):
            first = inputs.index(pair[0])
            terms[at, 0], terms[at, 2] = first, offset
            if len(pair) == 1:
                offset += input_cells(config, kinds, pair[0], cross=False)
                touched += 2
            else:
                width = input_cells(config, kinds, pair[1], cross=True)
                terms[at, 1], terms[at, 3] = inputs.index(pair[1]), width
                offset += input_cells(config, kinds, pair[0], cross=True) * width
                touched += 4
        self.cells = offset
        self.touched = touched
        self.owner: Ints = np.repeat(np.arange(len(terms), dtype=np.int32), np.diff(terms[:, 2], append=offset))
        grid = np.array([config.cells_per_octave, config.cross_cells_per_octave], dtype=np.int32)
        self.layout = (sources, kind, slots, terms, grid)

    def rows(self, values_list: Sequence[Sequence[Value]]) -> Floats:
        """The inputs' raw material of each payment.

        Args:
            values_list: Values in the feature set's order; NaN and None are absent.

        Returns:
            (payments, columns); NaN where a value is absent.
        """
        # numpy reads None as NaN, True as 1.0: absent booleans need no care.
        take_strings = self._take_strings
        if take_strings is None:
            material: Any = list(map(self._take_numbers, values_list))
        else:
            take, code = self._take_numbers, self._code
            material = [(*take(values), *map(code, take_strings(values))) for values in values_list]
        return np.array(material, dtype=np.float64).reshape(len(values_list), self._columns)

    def spread(self, row: Floats) -> tuple[Ints, Floats]:
        """The cells of one payment.

        Args:
            row: One row of `rows`.

        Returns:
            Cell numbers, none twice, and how much each counts (more than 0), both of one length.
        """
        cells = np.empty(self.touched, dtype=np.int32)
        counts = np.empty(self.touched, dtype=np.float64)
        owners = np.empty(self.touched, dtype=np.int32)
        n = lay_out(row, *self.layout, cells, counts, owners)
        return cells[:n], counts[:n]


def _taker(slots: list[int]) -> Callable[[Sequence[Value]], tuple[Value, ...]]:
    """Takes several values at once: a tuple also of one slot or none."""
    if len(slots) >= 2:
        return cast("Callable[[Sequence[Value]], tuple[Value, ...]]", itemgetter(*slots))
    return lambda values: tuple(values[slot] for slot in slots)


@jit(f"int64(float64[::1], {_LAYOUT}, int32[::1], float64[::1], int32[::1])", uses=(binning,))
def lay_out(
    row: Floats,
    sources: Ints,
    kind: Ints,
    slots: Ints,
    terms: Ints,
    grid: Ints,
    cells: Ints,
    counts: Floats,
    owners: Ints,
) -> int:
    """Write the cells of one row into `cells`, `counts` and `owners`; returns how many.

    Cells come in the order of the terms, and the sums over them are made in that order everywhere: that is what makes
    scores equal to the last bit, whatever the batch.
    """
    inputs = len(kind)
    lower = np.empty((2, inputs), dtype=np.int32)
    above = np.empty((2, inputs), dtype=np.float64)
    for at in range(inputs):
        value = row[sources[at, 0]]
        if sources[at, 1] >= 0:
            divisor = row[sources[at, 1]]
            # Negative or no denominator (a mean over nothing but refunds): the ratio says nothing.
            value = value / divisor if divisor > 0.0 else math.nan
        for side in range(2):
            above[side, at] = 0.0
            if math.isnan(value) or (kind[at] == _SLOTS and abs(value) >= _WHOLE):
                lower[side, at] = MISSING
            elif kind[at] == _SLOTS:
                lower[side, at] = 1 + int(value) % slots[at]
            else:
                place = position(value, grid[side])
                below = int(place)
                lower[side, at] = 1 + below
                above[side, at] = place - below
    n = 0
    for term in range(len(terms)):
        a, b, offset, width = terms[term, 0], terms[term, 1], terms[term, 2], terms[term, 3]
        if b < 0:
            share = above[0, a]
            cells[n], counts[n], owners[n] = offset + lower[0, a], 1.0 - share, term
            n += 1
            if share > 0.0:
                cells[n], counts[n], owners[n] = offset + lower[0, a] + 1, share, term
                n += 1
            continue
        for i in range(2):
            share_a = above[1, a] if i == 1 else 1.0 - above[1, a]
            if share_a <= 0.0:
                continue
            for j in range(2):
                share_b = above[1, b] if j == 1 else 1.0 - above[1, b]
                if share_b <= 0.0:
                    continue
                cells[n] = offset + (lower[1, a] + i) * width + lower[1, b] + j
                counts[n] = share_a * share_b
                owners[n] = term
                n += 1
    return n


@jit(f"float64[::1](float64[:,::1], {_LAYOUT}, int64, float64[::1], float64)", uses=(binning,))
def logits(
    rows: Floats,
    sources: Ints,
    kind: Ints,
    slots: Ints,
    terms: Ints,
    grid: Ints,
    touched: int,
    weights: Floats,
    intercept: float,
) -> Floats:
    """Sum of weight times count over the cells of each row, then the intercept; (rows,)."""
    cells = np.empty(touched, dtype=np.int32)
    counts = np.empty(touched, dtype=np.float64)
    owners = np.empty(touched, dtype=np.int32)
    out = np.empty(len(rows), dtype=np.float64)
    for at in range(len(rows)):
        n = lay_out(rows[at], sources, kind, slots, terms, grid, cells, counts, owners)
        total = 0.0
        for i in range(n):
            total += weights[cells[i]] * counts[i]
        out[at] = total + intercept
    return out


@jit(f"float64[:,::1](float64[:,::1], {_LAYOUT}, int64, float64[::1], float64[::1])", uses=(binning,))
def added(
    rows: Array,
    sources: Array,
    kind: Array,
    slots: Array,
    terms: Array,
    grid: Array,
    touched: int,
    weights: Array,
    means: Array,
) -> Array:
    """What each term adds to the logit of each row beyond what it adds on average (`means`); (rows, terms)."""
    cells = np.empty(touched, dtype=np.int32)
    counts = np.empty(touched, dtype=np.float64)
    owners = np.empty(touched, dtype=np.int32)
    out = np.zeros((len(rows), len(terms)), dtype=np.float64)
    for at in range(len(rows)):
        n = lay_out(rows[at], sources, kind, slots, terms, grid, cells, counts, owners)
        for i in range(n):
            out[at, owners[i]] += weights[cells[i]] * counts[i]
        out[at] -= means
    return out


@jit(
    f"Tuple((int32[:,::1], float64[:,::1]))(float64[:,::1], {_LAYOUT}, int64, float64[::1], float64[::1], int64)",
    uses=(binning,),
)
def strongest(
    rows: Array,
    sources: Array,
    kind: Array,
    slots: Array,
    terms: Array,
    grid: Array,
    touched: int,
    weights: Array,
    means: Array,
    top: int,
) -> tuple[Array, Array]:
    """The `top` terms that add most to the logit of each row, in size, beyond what they add on average (`means`).

    Two arrays of (rows, top): the terms, largest size first, equal ones in their order; and what they add beyond the
    average. `top` is at most the number of terms.
    """
    cells = np.empty(touched, dtype=np.int32)
    counts = np.empty(touched, dtype=np.float64)
    owners = np.empty(touched, dtype=np.int32)
    added = np.empty(len(terms), dtype=np.float64)
    places = np.empty((len(rows), top), dtype=np.int32)
    values = np.empty((len(rows), top), dtype=np.float64)
    for at in range(len(rows)):
        n = lay_out(rows[at], sources, kind, slots, terms, grid, cells, counts, owners)
        added[:] = 0.0
        for i in range(n):
            added[owners[i]] += weights[cells[i]] * counts[i]
        added -= means
        for rank in range(top):
            best = -1
            for term in range(len(terms)):
                if not math.isnan(added[term]) and (best < 0 or abs(added[term]) > abs(added[best])):
                    best = term
            places[at, rank], values[at, rank] = best, added[best]
            added[best] = math.nan  # taken
    return places, values
