"""Panes: what answers a window that holds more rows than are measured one by one.

Window w of length L has panes of L/64: pane number k holds the rows with k * L/64 <= time < (k + 1) * L/64. As of t it
is answered by the panes from the one that holds the first instant of (t - L, t] up to the one that holds t, so the
answer is exact for some length between L and L + L/64. A pane is a row of int64 words as in `operators.window_record`,
its sum of squares beside it as a float.

Distinct counts: a HyperLogLog of 256 registers a pane (Flajolet, Fusy, Gandouet, Meunier 2007, "HyperLogLog: the
analysis of a near-optimal cardinality estimation algorithm", AofA 127-146): standard error 1.04 / sqrt(256) = 6.5 %.
Fewer registers would be too coarse for rules; more would make each busy distinct window's record (70 panes) larger than
its present 18 KB.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from operators.jit import Array, jit
from operators.window_record import ABSENT, NEVER, PANE_WORDS

PANES: Final = 64
"""Panes a window; DESIGN.md promises at most w/64. Every whole second of µs divides by it."""
SPARE_PANES: Final = 32
"""Room for panes ahead of the shard clock; when future-dated rows need more, the oldest panes are given up."""

HLL_REGISTERS: Final = 256
HLL_WORDS: Final = HLL_REGISTERS // 8
LOW: Final = 0xFFFFFFFF

# Columns of the measures of one window, filled by rows or by panes.
M_COUNT: Final = 0  # rows
M_VALUED: Final = 1  # rows that have a value
M_HIGH: Final = 2  # sum of values = high * 2**32 + low
M_LOW: Final = 3
M_MAX: Final = 4  # -1 without values
M_START: Final = 5  # first row
M_PANE_FROM: Final = 6  # positions of the panes, -1: answered from rows
M_PANE_STOP: Final = 7
M_PARTIAL: Final = 8  # first row of the newest pane, when rows later than the event lie in it, else -1
MEASURES: Final = 9


@jit()
def pane_at(panes: Array, w: int, count: int, number: int) -> int:
    """Position of the first of `count` panes whose number is >= `number`; `count` if there is none."""
    k = count
    while k > 0 and panes[w, k - 1, 0] >= number:
        k -= 1
    return k


@jit()
def hll_add(pane: Array, at: int, value: int) -> None:
    """Count a hash in the packed registers that start at word `at` of the pane."""
    register = value & (HLL_REGISTERS - 1)
    rest = (value >> 8) & 0x00FFFFFFFFFFFFFF
    rank = 1
    while rank < 57 and (rest & 1) == 0:
        rest >>= 1
        rank += 1
    word = at + (register >> 3)
    shift = (register & 7) << 3
    if ((pane[word] >> shift) & 255) < rank:
        pane[word] = (pane[word] & ~(255 << shift)) | (rank << shift)


@jit()
def hll_merge(pane: Array, at: int, registers: Array) -> None:
    """Raise `registers` (256 words) to those packed in the pane."""
    for word in range(HLL_WORDS):
        packed = pane[at + word]
        for byte in range(8):
            registers[word * 8 + byte] = max(registers[word * 8 + byte], (packed >> (byte << 3)) & 255)


@jit()
def hll_estimate(registers: Array) -> float:
    """Estimated cardinality, a whole number; linear counting while registers are empty."""
    total = 0.0
    zeros = 0
    for k in range(HLL_REGISTERS):
        total += 2.0 ** -float(registers[k])
        if registers[k] == 0:
            zeros += 1
    estimate = 0.7213 / (1.0 + 1.079 / HLL_REGISTERS) * HLL_REGISTERS * HLL_REGISTERS / total
    if estimate <= 2.5 * HLL_REGISTERS and zeros > 0:
        estimate = HLL_REGISTERS * np.log(HLL_REGISTERS / zeros)
    return float(np.floor(estimate + 0.5))


@jit()
def pane_fill(pane: Array, spread: Array, sketches: Array, valued: int, value: int, hashes: Array, row: int) -> None:
    """Count one row in a pane.

    Args:
        pane: Words of the pane.
        spread: One float, its sum of squares.
        sketches: Word at which each distinct field's registers start, -1: not counted here.
        valued: Whether the series has values.
        value: The row's, or ABSENT.
        hashes: Hash columns of the series, shape [fields, rows].
        row: Which row of them.
    """
    pane[1] += 1
    if valued != 0 and value != ABSENT:
        if pane[2] == 0:
            pane[3] = value
        delta = value - pane[3]
        pane[2] += 1
        pane[4] += delta >> 32
        pane[5] += delta & LOW
        pane[6] = max(pane[6], value)
        spread[0] += float(delta) * float(delta)
    for f in range(sketches.shape[0]):
        if sketches[f] >= 0 and hashes[f, row] != 0:
            hll_add(pane, sketches[f], hashes[f, row])


@jit()
def pane_clear(pane: Array, spread: Array, number: int) -> None:
    """An empty pane of that number."""
    for k in range(pane.shape[0]):
        pane[k] = 0
    pane[0] = number
    pane[6] = -1
    spread[0] = 0.0


@jit()
def pane_move(panes: Array, spreads: Array, w: int, source: int, target: int) -> None:
    """Copy a pane of window w to another place."""
    for k in range(panes.shape[2]):  # a loop, not a slice: slices cost seconds of compilation each
        panes[w, target, k] = panes[w, source, k]
    spreads[w, target, 0] = spreads[w, source, 0]


@jit()
def pane_add(
    panes: Array, spreads: Array, counts: Array, since: Array, w: int, window: Array, sketches: Array, clock: int,
    t: int, valued: int, value: int, hashes: Array, row: int,
) -> None:  # fmt: skip
    """Count a row in the panes of window w, after giving up panes nobody can ask for any more.

    What is given up follows the shard clock, not the newest row: one future-dated row must not push panes out. A row
    before `since[w]` is left out: the panes never held its time completely.
    """
    length = window[1]
    drop = 0
    if clock != NEVER:
        oldest = (clock - window[0]) // length - window[2]
        while drop < counts[w] and panes[w, drop, 0] < oldest:
            drop += 1
    number = t // length
    at = pane_at(panes, w, counts[w], number)
    known = at < counts[w] and panes[w, at, 0] == number
    if not known and counts[w] - drop >= panes.shape[1]:
        drop += 1
    if drop > 0:
        since[w] = max(since[w], (panes[w, drop - 1, 0] + 1) * length)
        for k in range(drop, counts[w]):
            pane_move(panes, spreads, w, k, k - drop)
        counts[w] -= drop
        at -= drop
    if t < since[w]:
        return
    if not known:
        for k in range(counts[w], at, -1):
            pane_move(panes, spreads, w, k - 1, k)
        pane_clear(panes[w, at], spreads[w, at], number)
        counts[w] += 1
    pane_fill(panes[w, at], spreads[w, at], sketches, valued, value, hashes, row)


@jit()
def pane_take(
    panes: Array, spreads: Array, counts: Array, w: int, window: Array, t: int, valued: int, value: int
) -> None:
    """Take a retracted row's value out of the panes of window w; series with retractions have no max and no spread."""
    number = t // window[1]
    at = pane_at(panes, w, counts[w], number)
    if at < counts[w] and panes[w, at, 0] == number:
        pane = panes[w, at]
        if valued != 0 and value != ABSENT:
            delta = value - pane[3]
            pane[2] -= 1
            pane[4] -= delta >> 32
            pane[5] -= delta & LOW
            spreads[w, at, 0] -= float(delta) * float(delta)


@jit()
def pane_merge(pane: Array, spread: float, measures: Array, squares: Array, w: int) -> None:
    """Add a pane to the measures of window w; spreads are combined as in Chan, Golub, LeVeque 1983, eq. 2.1."""
    n = pane[2]
    if n > 0:
        high = pane[4] + n * (pane[3] >> 32)
        low = pane[5] + n * (pane[3] & LOW)
        off = float(pane[4]) * 4294967296.0 + float(pane[5])
        inner = max(0.0, spread - off * off / n)
        m = measures[w, M_VALUED]
        if m > 0:
            mean = (float(measures[w, M_HIGH]) * 4294967296.0 + float(measures[w, M_LOW])) / m
            apart = (float(high) * 4294967296.0 + float(low)) / n - mean
            inner += apart * apart * (float(m) * float(n) / float(m + n))
        squares[w] += inner
        measures[w, M_VALUED] += n
        measures[w, M_HIGH] += high
        measures[w, M_LOW] += low
        measures[w, M_MAX] = max(measures[w, M_MAX], pane[6])
    measures[w, M_COUNT] += pane[1]


@jit()
def measure_panes(
    panes: Array, spreads: Array, counts: Array, w: int, window: Array, t: int, times: Array, values: Array,
    end: int, n: int, floor: int, dropped: int, valued: int, sketches: Array, measures: Array, squares: Array,
    spare: Array, spare_spread: Array, hashes: Array,
) -> None:  # fmt: skip
    """Measure window w as of t by its panes.

    The pane that holds t counts whole, unless rows later than t lie in it: then its rows up to t are counted one by
    one, as long as they are all kept. Of the n rows those in [floor, end) may be looked at; dropped is the largest
    time of a row that is not kept any more; spare is a pane to work in.
    """
    length = window[1]
    measures[w, M_PARTIAL] = -1
    measures[w, M_PANE_FROM] = pane_at(panes, w, counts[w], (t - window[0] + 1) // length)
    last = t // length
    if end < n and times[end] < (last + 1) * length and dropped < last * length:
        first = end
        while first > floor and times[first - 1] >= last * length:
            first -= 1
        measures[w, M_PARTIAL] = first
        measures[w, M_PANE_STOP] = pane_at(panes, w, counts[w], last)
    else:
        measures[w, M_PANE_STOP] = pane_at(panes, w, counts[w], last + 1)
    for k in range(M_MAX):
        measures[w, k] = 0
    measures[w, M_MAX] = -1
    squares[w] = 0.0
    for k in range(measures[w, M_PANE_FROM], measures[w, M_PANE_STOP]):
        pane_merge(panes[w, k], spreads[w, k, 0], measures, squares, w)
    if measures[w, M_PARTIAL] >= 0:
        pane_clear(spare, spare_spread, last)
        for k in range(measures[w, M_PARTIAL], end):
            pane_fill(spare, spare_spread, sketches[:0], valued, values[k], hashes, k)
        pane_merge(spare, spare_spread[0], measures, squares, w)


@jit()
def distinct_panes(
    panes: Array, w: int, sketch: int, hashes: Array, end: int, measures: Array, registers: Array, spare: Array
) -> float:
    """Estimated distinct count of a field over what `measure_panes` has just measured of window w."""
    for k in range(HLL_REGISTERS):
        registers[k] = 0
    for k in range(measures[w, M_PANE_FROM], measures[w, M_PANE_STOP]):
        hll_merge(panes[w, k], sketch, registers)
    if measures[w, M_PARTIAL] >= 0:
        for k in range(spare.shape[0]):
            spare[k] = 0
        for k in range(measures[w, M_PARTIAL], end):
            if hashes[k] != 0:
                hll_add(spare, PANE_WORDS, hashes[k])
        hll_merge(spare, PANE_WORDS, registers)
    return hll_estimate(registers)
