"""How far two histograms are apart, and histograms of features on the model's grid.

A row of counts has `CELLS` cells: 0 counts absent values; a number falls on the grid of operators/binning.py (two cells
an octave), false and true into cells 1 and 2, a string into one of 64 by its hash. So a feature costs a fixed few
hundred bytes, whatever it takes for values.
"""

from __future__ import annotations

import zlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from operators import binning
from operators.binning import MISSING, grid_cells, position
from operators.jit import Array, jit

PER_OCTAVE: Final = 2
CELLS: Final = grid_cells(PER_OCTAVE)
_SLOTS: Final = 64
_FEWEST: Final = 0.05
"""Share of the reference that a bin holds at the least: some 10 to 20 bins, as usual for the index. Finer: noise of
empty bins. Coarser: shifts within a bin are not seen."""
_SCORE_SCALE: Final = 1024.0
"""The grid is linear below a thousandth; scores are rare events' probabilities and need it lower by so much."""

Counts = NDArray[np.int64]


@jit("void(float64[:, ::1], int64[:, ::1])", uses=(binning,))
def tally(rows: Array, counts: Array) -> None:
    """Count numbers; (payments, features) into (features, CELLS), NaN as absent; `position` bounds the cells."""
    for at in range(rows.shape[0]):
        for feature in range(rows.shape[1]):
            value = rows[at, feature]
            cell = MISSING if value != value else 1 + int(position(value, PER_OCTAVE))  # noqa: PLR0124  # NaN
            counts[feature, cell] += 1


def category_cell(value: Any) -> int:
    """Cell of a string or boolean, None as absent."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return 2 if value else 1
    return 1 + zlib.crc32(str(value).encode()) % _SLOTS


def score_position(score: float | None) -> float:
    """A score as a number for `tally`, None as absent."""
    return float("nan") if score is None else score * _SCORE_SCALE


def stability_index(reference: Counts, day: Counts) -> float:
    """Population stability index between two rows, of the values that are present.

    Bins are neighbouring cells, joined until each holds a twentieth of the reference. 0.1 is usually called slight,
    0.25 a shift.

    Source: Siddiqi 2006, Credit Risk Scorecards, Wiley, chapter 8; half a count added a bin, so that it is finite.
    """
    first, second = reference[1:], day[1:]
    total = first.sum()
    if total == 0 or second.sum() == 0:
        return 0.0
    group = np.minimum(np.cumsum(first) - first, total - 1) // max(1, int(_FEWEST * total))
    bins = np.unique(group, return_inverse=True)[1]
    size = int(bins.max()) + 1
    one = np.bincount(bins, first, size) + 0.5
    other = np.bincount(bins, second, size) + 0.5
    one, other = one / one.sum(), other / other.sum()
    return float(((other - one) * np.log(other / one)).sum())


def distance(reference: Counts, day: Counts) -> float:
    """Kolmogorov-Smirnov distance between two rows of numbers that are present, to the resolution of the grid."""
    first, second = reference[1:], day[1:]
    if first.sum() == 0 or second.sum() == 0:
        return 0.0
    apart = np.cumsum(first) / first.sum() - np.cumsum(second) / second.sum()
    return float(np.abs(apart).max())


def absent_share(counts: Counts) -> float:
    """Share of a row that was absent, 0 for an empty one."""
    total = int(counts.sum())
    return int(counts[MISSING]) / total if total else 0.0


def pack_counts(counts: Counts) -> list[bytes]:
    """Counts as bytes: places and numbers of those that are not 0; a day fills few of the cells."""
    flat = counts.reshape(-1)
    places = np.flatnonzero(flat)
    return [places.astype("<i4").tobytes(), flat[places].astype("<i8").tobytes()]


def unpack_counts(packed: list[bytes], rows: int) -> Counts:
    """What `pack_counts` was given, of so many rows.

    Raises:
        ValueError: They do not fit.
    """
    counts = np.zeros(rows * CELLS, dtype=np.int64)
    places = np.frombuffer(packed[0], "<i4")
    if len(places) and (int(places.max()) >= len(counts) or int(places.min()) < 0):
        message = f"counts of more than {rows} rows"
        raise ValueError(message)
    counts[places] = np.frombuffer(packed[1], "<i8")
    return counts.reshape(rows, CELLS)
