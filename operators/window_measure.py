"""Measuring: what the windows of one series hold as of an event, and the features made of it.

The walk goes backwards from the event through the nested windows, so a row is touched once whatever the number of
windows. Sums are integers in two 32-bit halves, exact. The spread is a sum of squares around the newest amount, a part
of every window that has any: so cancellation costs at most a factor n (the shifted algorithm of Chan, Golub, LeVeque
1983, The American Statistician 37(3):242).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from operators.jit import Array, jit
from operators.panes import (
    LOW,
    M_COUNT,
    M_HIGH,
    M_LOW,
    M_MAX,
    M_PANE_FROM,
    M_START,
    M_VALUED,
    distinct_panes,
    measure_panes,
)
from operators.window_record import ABSENT

# Columns of `windows`; windows stand series by series, shortest first.
W_LENGTH: Final = 0  # µs
W_PANE: Final = 1  # µs
W_EXTRA: Final = 2  # panes kept for late events
W_BIT: Final = 3  # bit of its label in the approximated flags
W_WORDS: Final = 4  # words of a pane in the record

# Columns of `program`: operation, window, field, other window.
OP_COUNT: Final = 0
OP_SUM: Final = 1
OP_MEAN: Final = 2
OP_MAX: Final = 3
OP_STDDEV: Final = 4
OP_DISTINCT: Final = 5
OP_FRAUD_RATE: Final = 6  # of the labels' window and the frauds'
OP_WEIGHT: Final = 7
OP_SINCE_LAST: Final = 8
OP_SINCE_FIRST: Final = 9

MICROS: Final = 1e6
WEIGHT_ONE: Final = 4294967296.0
"""Labels' weights are held in steps of 2**-32, so that their sums are exact whatever the order."""


@jit()
def first_after(times: Array, low: int, high: int, bound: int) -> int:
    """First index in [low, high) whose time is > bound, or high."""
    while high - low > 16:
        middle = (low + high) >> 1
        if times[middle] > bound:
            high = middle
        else:
            low = middle + 1
    while high > low and times[high - 1] > bound:
        high -= 1
    return high


@jit()
def _total(measure: Array) -> float:
    """The exact sum of values, rounded once."""
    return float(measure[M_HIGH]) * 4294967296.0 + float(measure[M_LOW])


@jit()
def measure_windows(
    times: Array, values: Array, hashes: Array, n: int, end: int, floor: int, oldest: int, dropped: int, t: int,
    valued: int, first: int, stop: int, exact: int, windows: Array, sketches: Array, panes: Array, spreads: Array,
    counts: Array, since: Array, measures: Array, squares: Array, spare: Array, spare_spread: Array,
) -> int:  # fmt: skip
    """Measure the windows [first, stop) of one series as of t; returns the bit set of those not measured exactly.

    The n rows are looked at in [floor, end); those before the time `oldest` are invisible, and up to the time `dropped`
    some have been given up.
    """
    approximated = 0
    shift = 0
    if valued != 0:
        bound = max(t - windows[stop - 1, W_LENGTH], oldest - 1)
        k = end - 1
        while k >= floor and times[k] > bound and values[k] == ABSENT:
            k -= 1
        if k >= floor and times[k] > bound:
            shift = values[k]
    row = end
    with_value = 0
    high = 0
    low = 0
    largest = -1
    square = 0.0
    for w in range(first, stop):
        length = windows[w, W_LENGTH]
        bound = max(t - length, oldest - 1)
        start = first_after(times, floor, row, bound)
        if end - start > exact or (start == floor and dropped > bound):
            approximated |= 1 << windows[w, W_BIT]
            pane = windows[w, W_PANE]
            if counts[w] > 0 and since[w] <= (t - length + 1) // pane * pane:
                measure_panes(
                    panes, spreads, counts, w, windows[w], t, times, values, end, n, floor, dropped, valued,
                    sketches[w], measures, squares, spare, spare_spread, hashes,
                )  # fmt: skip
                continue
        if valued != 0:
            for k in range(start, row):
                value = values[k]
                if value != ABSENT:
                    delta = value - shift
                    with_value += 1
                    high += delta >> 32
                    low += delta & LOW
                    largest = max(largest, value)
                    square += float(delta) * float(delta)
        row = start
        measures[w, M_COUNT] = end - start
        measures[w, M_VALUED] = with_value
        measures[w, M_HIGH] = high + with_value * (shift >> 32)
        measures[w, M_LOW] = low + with_value * (shift & LOW)
        measures[w, M_MAX] = largest
        measures[w, M_START] = start
        measures[w, M_PANE_FROM] = -1
        if with_value > 0:
            off = float(high) * 4294967296.0 + float(low)
            squares[w] = max(0.0, square - off * off / with_value)
        else:
            squares[w] = 0.0
    return approximated


@jit()
def count_distinct(
    field: int, hashes: Array, end: int, stop: int, sketches: Array, panes: Array, measures: Array, found: Array,
    table: Array, stamps: Array, stamp: int, registers: Array, spare: Array,
) -> None:  # fmt: skip
    """Distinct counts of one field over the windows [0, stop) of the payments series, into found[window]."""
    mask = table.shape[0] - 1
    row = end
    seen = 0
    for w in range(stop):
        if sketches[w, field] < 0:
            continue
        if measures[w, M_PANE_FROM] >= 0:
            found[w] = distinct_panes(panes, w, sketches[w, field], hashes, end, measures, registers, spare)
            continue
        start = measures[w, M_START]
        for k in range(row - 1, start - 1, -1):
            value = hashes[k]
            if value == 0:
                continue
            slot = value & mask
            while stamps[slot] == stamp and table[slot] != value:
                slot = (slot + 1) & mask
            if stamps[slot] != stamp:
                stamps[slot] = stamp
                table[slot] = value
                seen += 1
        row = min(row, start)
        found[w] = seen


@jit()
def answer_features(
    program: Array, measures: Array, squares: Array, found: Array, prior: Array, since_last: float, since_first: float,
    out: Array,
) -> None:  # fmt: skip
    """One value a feature, from what was measured."""
    for f in range(program.shape[0]):
        op = program[f, 0]
        w = program[f, 1]
        answer = np.nan
        if op == OP_COUNT:
            answer = float(measures[w, M_COUNT])
        elif op == OP_SUM:
            answer = _total(measures[w]) / MICROS
        elif op == OP_MEAN:
            if measures[w, M_VALUED] > 0:
                answer = _total(measures[w]) / measures[w, M_VALUED] / MICROS
        elif op == OP_MAX:
            if measures[w, M_VALUED] > 0:
                answer = float(measures[w, M_MAX]) / MICROS
        elif op == OP_STDDEV:
            if measures[w, M_VALUED] > 1:
                answer = np.sqrt(squares[w] / (measures[w, M_VALUED] - 1)) / MICROS
        elif op == OP_DISTINCT:
            answer = found[program[f, 2], w]
        elif op == OP_FRAUD_RATE:
            labels = _total(measures[w]) / WEIGHT_ONE
            frauds = _total(measures[program[f, 3]]) / WEIGHT_ONE
            answer = (frauds + prior[0] * prior[1]) / (labels + prior[1])
        elif op == OP_WEIGHT:
            answer = _total(measures[w]) / WEIGHT_ONE
        elif op == OP_SINCE_LAST:
            answer = since_last
        else:
            answer = since_first
        out[f] = answer
