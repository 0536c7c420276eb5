"""Names of the generator's numbers: stable identifiers, IPv4 addresses, test card numbers."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

# Beginnings that the schemes and payment processors print in their manuals as test cards.
TEST_BINS: Final = ("400000", "411111", "424242", "510510", "520082", "555555")


def identifiers(prefix: str, seed: int, numbers: NDArray[np.int32]) -> list[str | None]:
    """An id for each number, None for -1: the prefix and 48 bits in hex that tell nothing of the number.

    Source: SplitMix64, Steele, Lea, Flood 2014, OOPSLA: a bijection of 64 bits; of a million numbers two share their
    upper 48 bits with a probability of 0.2 %, of the tens of thousands used here never yet.
    """
    distinct, at = np.unique(numbers, return_inverse=True)
    salt = np.uint64((int.from_bytes(prefix.encode(), "big") ^ seed * 0x9E3779B97F4A7C15) & 0xFFFF_FFFF_FFFF_FFFF)
    mixed = distinct.astype(np.uint64) + salt
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = (mixed ^ (mixed >> np.uint64(31))) >> np.uint64(16)
    texts = [
        None if number < 0 else f"{prefix}-{code:012x}"
        for number, code in zip(distinct.tolist(), mixed.tolist(), strict=True)
    ]
    return [texts[place] for place in at.ravel().tolist()]


def addresses(numbers: NDArray[np.int64]) -> list[str | None]:
    """Dotted IPv4 addresses, None for -1."""
    distinct, at = np.unique(numbers, return_inverse=True)
    texts = [
        None if number < 0 else f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        for number in distinct.tolist()
    ]
    return [texts[place] for place in at.ravel().tolist()]


def trial_pan(card: int) -> str:
    """A card number that no bank issues: a scheme's test beginning, the card's number, Luhn's check digit.

    Source: ISO/IEC 7812-1 annex B for the check digit.
    """
    body = f"{TEST_BINS[card % len(TEST_BINS)]}{card:09d}"
    total = 0
    for place, digit in enumerate(reversed(body)):
        doubled = int(digit) * (2 if place % 2 == 0 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return f"{body}{-total % 10}"
