"""How far two histograms are apart, against the same measures of the raw numbers."""

from __future__ import annotations

import numpy as np
import pytest

from operators.drift_measure import (
    CELLS,
    Counts,
    absent_share,
    category_cell,
    distance,
    pack_counts,
    stability_index,
    tally,
    unpack_counts,
)


def counted(numbers: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Counts:
    counts = np.zeros((1, CELLS), dtype=np.int64)
    tally(np.ascontiguousarray(numbers.reshape(-1, 1)), counts)
    row: Counts = counts[0]
    return row


@pytest.mark.parametrize("factor", [1.0, 1.3, 2.0, 5.0])
def test_the_distance_of_histograms_is_that_of_the_numbers_to_the_grid(factor: float) -> None:
    rng = np.random.default_rng(1)
    one, other = rng.lognormal(3, 1, 20_000), rng.lognormal(3, 1, 5_000) * factor
    points = np.sort(np.concatenate([one, other]))
    apart = np.searchsorted(np.sort(one), points, "right") / len(one)
    apart -= np.searchsorted(np.sort(other), points, "right") / len(other)
    exact = float(np.abs(apart).max())
    assert distance(counted(one), counted(other)) == pytest.approx(exact, abs=0.02)
    assert distance(counted(one), counted(other)) <= exact + 1e-9


@pytest.mark.parametrize("factor", [1.0, 1.5, 3.0])
def test_the_index_is_near_that_of_twenty_equal_bins(factor: float) -> None:
    rng = np.random.default_rng(2)
    one, other = rng.lognormal(3, 1, 20_000), rng.lognormal(3, 1, 20_000) * factor
    edges = np.quantile(one, np.linspace(0, 1, 21))[1:-1]
    shares = [np.bincount(np.searchsorted(edges, part), minlength=20) / len(part) for part in (one, other)]
    usual = float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
    assert stability_index(counted(one), counted(other)) == pytest.approx(usual, rel=0.25, abs=0.01)


def test_absent_values_are_told_apart() -> None:
    counts = counted(np.array([1.0, np.nan, np.nan, 0.0]))
    assert absent_share(counts) == 0.5
    assert absent_share(np.zeros(CELLS, dtype=np.int64)) == 0.0
    assert stability_index(counts, counted(np.array([np.nan]))) == 0.0


def test_extreme_numbers_stay_within_the_cells() -> None:
    counts = counted(np.array([np.inf, -np.inf, 1e300, 5e-324, -3.0]))
    assert counts.sum() == 5


def test_categories_have_cells_of_their_own() -> None:
    assert category_cell(None) == 0
    assert category_cell(False) != category_cell(True)
    assert 1 <= category_cell("atm") < CELLS
    assert category_cell("atm") != category_cell("ecommerce")


def test_counts_come_back_from_bytes() -> None:
    rng = np.random.default_rng(3)
    counts = rng.poisson(0.3, (5, CELLS)).astype(np.int64)
    assert (unpack_counts(pack_counts(counts), 5) == counts).all()
    with pytest.raises(ValueError, match="counts of more than 1 rows"):
        unpack_counts(pack_counts(counts), 1)
