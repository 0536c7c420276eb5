"""The exact windows of all entities of a batch, in one call of machine code.

An entity has several series of rows (payments, refunds, filtered payments, labels, streams). A row is a time, a value
and, in the payments series, hashes for distinct counts; rows are sorted by time, equal times by arrival. The kernel
takes the entities one after the other: unpack the rows into columns, run the entity's events in order of arrival
(insert, then measure all windows as of the event's time), pack the rows again.

What comes out is a function of the rows and the order of arrival alone: rows that may have been given up (before the
horizon of the shard clock, beyond the raw limit) are invisible whether they still stand in the record or not.

Longer than the house's 400 lines: `run_windows` is one loop over flat arrays, and a piece of it cut out would take
twenty of them as arguments.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from operators import panes as panes_module
from operators import window_measure, window_record
from operators.jit import Array, jit
from operators.panes import HLL_REGISTERS, HLL_WORDS, MEASURES, pane_add, pane_take
from operators.window_measure import (
    MICROS,
    W_LENGTH,
    W_PANE,
    W_WORDS,
    answer_features,
    count_distinct,
    first_after,
    measure_windows,
)
from operators.window_record import (
    ABSENT,
    AT_FIRST_SEEN,
    AT_LAST_ANY,
    AT_LAST_PAYMENT,
    AT_TRIMMED,
    CLOCK_RANK,
    HEAD_WORDS,
    LAYOUT,
    NEVER,
    PANE_HEAD_WORDS,
    PANE_WORDS,
    PAYMENTS,
    REFUNDS,
)

# Columns of `series`.
S_WIDTH: Final = 0  # words of a row in the record
S_VALUED: Final = 1  # 1: rows have a value
S_KEEP: Final = 2  # µs: longest window and allowed lateness
S_FIELDS: Final = 3  # hashes of a row

# Columns of `events`; hashes follow.
E_ENTITY: Final = 0
E_KIND: Final = 1
E_TIME: Final = 2
E_VALUE: Final = 3
E_SERIES: Final = 4  # bit set
EVENT_COLUMNS: Final = 5
KIND_PAYMENT: Final = 0
KIND_STREAM: Final = 1
KIND_LABEL: Final = 2

# Places in `limits`.
L_EXACT: Final = 0  # a window with more rows is busy
L_RAW: Final = 1  # rows of a series that are visible, the newest
L_LATENESS: Final = 2
L_RETENTION: Final = 3
L_SINCE_LAST: Final = 4  # 1: since_last is declared
L_ROOM: Final = 5  # most rows a series of this batch can have
L_PANES: Final = 6  # most panes of a window, 0 when no entity of this batch can be busy
LIMITS: Final = 7

# Columns of `hot` and `hot_out`, one row a series of a busy entity.
H_START: Final = 0  # place of its loaded sealed rows in `sealed_in`
H_ROWS: Final = 1
H_UNLOADED: Final = 2  # rows older than those
H_DROPPED: Final = 3  # largest time of a row given up
O_TAIL: Final = 0  # place of its unsealed rows in `heads_out`
O_TAIL_ROWS: Final = 1
O_SEALED: Final = 2  # place of its sealed rows in `sealed_out`, -1: unchanged
O_SEALED_ROWS: Final = 3

PANES_UNCHANGED: Final = -1
PANES_GONE: Final = -2

FLAG_LATE: Final = 1
FLAG_INCOMPLETE: Final = 2
FLAG_RESET: Final = 4


@jit()
def _fill(array: Array, value: int) -> None:
    for k in range(array.shape[0]):
        array[k] = value


@jit()
def _insert(times: Array, values: Array, hashes: Array, fields: int, n: int, at: int, event: Array) -> None:
    """Put the event's row at position `at` of a series of n rows."""
    for k in range(n, at, -1):
        times[k] = times[k - 1]
        values[k] = values[k - 1]
    times[at] = event[E_TIME]
    values[at] = event[E_VALUE]
    for f in range(fields):
        for k in range(n, at, -1):
            hashes[f, k] = hashes[f, k - 1]
        hashes[f, at] = event[EVENT_COLUMNS + f]


@jit()
def _remove(times: Array, values: Array, hashes: Array, fields: int, n: int, at: int) -> None:
    """Take the row at position `at` out of a series of n rows."""
    for k in range(at, n - 1):
        times[k] = times[k + 1]
        values[k] = values[k + 1]
    for f in range(fields):
        for k in range(at, n - 1):
            hashes[f, k] = hashes[f, k + 1]


@jit()
def _advance(clock: Array, t: int) -> None:
    """Keep the largest times of the shard, ascending; clock[0] is the shard clock."""
    if t > clock[0]:
        k = 1
        while k < CLOCK_RANK and clock[k] < t:
            clock[k - 1] = clock[k]
            k += 1
        clock[k - 1] = t


@jit()
def _count_row(
    times: Array, values: Array, hashes: Array, n: int, at: int, floor: int, oldest: int, dropped: int, clock: int,
    valued: int, first: int, stop: int, exact: int, windows: Array, sketches: Array, panes: Array, spreads: Array,
    counts: Array, since: Array, changed: Array,
) -> None:  # fmt: skip
    """Keep the panes of the windows [first, stop) up to date with the row just put at `at`, or begin them."""
    t = times[at]
    for w in range(first, stop):
        if counts[w] > 0:
            pane_add(
                panes, spreads, counts, since, w, windows[w], sketches[w], clock, t, valued, values[at], hashes, at
            )
            total = 0
            for k in range(counts[w]):
                total += panes[w, k, 1]
            if total <= exact >> 1:  # half, so that a window around the limit does not begin and end them all the time
                counts[w] = 0
            changed[w] = 1
        elif at - exact >= floor and times[at - exact] > t - windows[w, W_LENGTH]:
            pane = windows[w, W_PANE]
            begin = (t - windows[w, W_LENGTH] + 1) // pane
            begin = max(begin, -(-oldest // pane), dropped // pane + 1) * pane
            since[w] = begin
            for k in range(first_after(times, floor, n, begin - 1), n):
                pane_add(
                    panes, spreads, counts, since, w, windows[w], sketches[w], clock, times[k], valued, values[k],
                    hashes, k,
                )  # fmt: skip
            changed[w] = 1


@jit(
    "void(int64[:,::1], int64[::1], int64[:,::1], int64[:,::1], int64[:,::1], int64[::1], float64[::1],"
    "int64[::1], int64[::1], int64[:,::1], int64[:,::1], int64[::1],"
    "int64[::1], int64[:,:,::1], int64[::1], int64[:,::1], int64[::1],"
    "int64[::1], int64[::1], float64[:,::1], int64[:,::1],"
    "int64[:,:,::1], int64[::1], int64[:,::1], int64[::1])",
    uses=(window_record, panes_module, window_measure),
)
def run_windows(  # the arguments are the whole interface between two worlds: flat arrays, nothing hidden
    series: Array, bounds: Array, windows: Array, sketches: Array, program: Array, limits: Array, prior: Array,
    heads: Array, starts: Array, events: Array, retractions: Array, clock: Array,
    hot_of: Array, hot: Array, sealed_in: Array, panes_at: Array, panes_in: Array,
    heads_out: Array, starts_out: Array, out: Array, flags: Array,
    hot_out: Array, sealed_out: Array, panes_at_out: Array, panes_out: Array,
) -> None:  # fmt: skip
    """Run a batch.

    Args:
        series: What each series is, S_ columns.
        bounds: First window of each series, and the number of all.
        windows: W_ columns.
        sketches: Shape [windows, fields]: word of a pane where the field's registers start, -1: none.
        program: One row a feature: operation, window, field, other window.
        limits: L_ places.
        prior: Fraud rate without labels, and the labels it is worth.
        heads: Records of the entities, one after the other; nothing for a new one.
        starts: Where each entity's record starts, and where the last one ends.
        events: E_ columns, in order of arrival.
        retractions: event, time, value, series (bit set) of rows to take out when that event comes.
        clock: The largest times of the shard; advanced.
        hot_of: Row of `hot` for each entity, -1: it has neither chunks nor panes and needs none.
        hot: H_ columns, shape [busy entities, series, 4].
        sealed_in: Sealed rows.
        panes_at: Where the panes record of each window of each busy entity starts in `panes_in`, -1: none.
        panes_in: Panes records.
        heads_out: Room for the new records.
        starts_out: Where each starts.
        out: Values, one row an event; only those of payments are set.
        flags: Of each event FLAG_ bits and the bit set of approximated windows.
        hot_out: O_ columns.
        sealed_out: Room for changed sealed rows.
        panes_at_out: Where each panes record stands in `panes_out`, or PANES_UNCHANGED, PANES_GONE.
        panes_out: Room for changed panes records.
    """
    n_series = series.shape[0]
    n_windows = windows.shape[0]
    n_entities = starts.shape[0] - 1
    n_events = events.shape[0]
    fields = series[PAYMENTS, S_FIELDS]
    room = limits[L_ROOM]
    exact = limits[L_EXACT]

    # The shard clock as each event finds it, itself included; and each entity's events as a chain.
    clocks = np.empty(n_events, np.int64)
    following = np.full(n_events, -1, np.int64)
    first_event = np.full(n_entities, -1, np.int64)
    last_event = np.full(n_entities, -1, np.int64)
    retraction_of = np.full(n_events, -1, np.int64)
    for k in range(n_events):
        if events[k, E_KIND] != KIND_LABEL:
            _advance(clock, events[k, E_TIME])
        clocks[k] = clock[0]
        e = events[k, E_ENTITY]
        if first_event[e] < 0:
            first_event[e] = k
        else:
            following[last_event[e]] = k
        last_event[e] = k
    for k in range(retractions.shape[0]):
        retraction_of[retractions[k, 0]] = k

    times = np.empty((n_series, room), np.int64)
    values = np.empty((n_series, room), np.int64)
    hashes = np.empty((max(fields, 1), room), np.int64)
    n = np.zeros(n_series, np.int64)
    sealed = np.zeros(n_series, np.int64)
    sealed_changed = np.zeros(n_series, np.int64)
    dropped = np.full(n_series, NEVER, np.int64)
    own = np.empty(n_series, np.int64)
    panes_room = limits[L_PANES]
    pane_words = PANE_WORDS + HLL_WORDS * fields
    panes = np.empty((n_windows, panes_room, pane_words), np.int64)
    spreads = np.empty((n_windows, panes_room, 1), np.float64)
    pane_counts = np.zeros(n_windows, np.int64)
    since = np.full(n_windows, NEVER, np.int64)
    panes_changed = np.zeros(n_windows, np.int64)
    spare = np.empty(pane_words, np.int64)
    spare_spread = np.empty(1, np.float64)
    float_of = np.empty(1, np.float64)
    bits_of = float_of.view(np.int64)
    measures = np.zeros((n_windows, MEASURES), np.int64)
    squares = np.zeros(n_windows, np.float64)
    found = np.zeros((max(fields, 1), n_windows), np.float64)
    slots = 32
    while slots < 2 * room:
        slots *= 2
    table = np.empty(slots if fields > 0 else 1, np.int64)
    stamps = np.zeros(slots if fields > 0 else 1, np.int64)
    stamp = 0
    registers = np.empty(HLL_REGISTERS, np.int64)
    write = 0
    write_sealed = 0
    write_panes = 0

    for e in range(n_entities):
        # Unpack.
        base = starts[e]
        h = hot_of[e]
        last_any = NEVER
        first_seen = NEVER
        last_payment = NEVER
        trimmed = NEVER
        _fill(n, 0)
        if h >= 0:
            _fill(sealed, 0)
            _fill(sealed_changed, 0)
            _fill(pane_counts, 0)
            _fill(panes_changed, 0)
        if starts[e + 1] > base:
            last_any = heads[base + AT_LAST_ANY]
            first_seen = heads[base + AT_FIRST_SEEN]
            last_payment = heads[base + AT_LAST_PAYMENT]
            trimmed = heads[base + AT_TRIMMED]
            read = base + HEAD_WORDS + n_series
            for s in range(n_series):
                k = 0
                if h >= 0:
                    sealed[s] = hot[h, s, H_ROWS]
                    dropped[s] = hot[h, s, H_DROPPED]
                    k = sealed[s]
                    at = hot[h, s, H_START]
                    for row in range(k):
                        times[s, row] = sealed_in[at]
                        at += 1
                        values[s, row] = ABSENT
                        if series[s, S_VALUED] != 0:
                            values[s, row] = sealed_in[at]
                            at += 1
                        for f in range(series[s, S_FIELDS]):
                            hashes[f, row] = sealed_in[at]
                            at += 1
                n[s] = k + heads[base + HEAD_WORDS + s]
                for row in range(k, n[s]):
                    times[s, row] = heads[read]
                    read += 1
                    values[s, row] = ABSENT
                    if series[s, S_VALUED] != 0:
                        values[s, row] = heads[read]
                        read += 1
                    for f in range(series[s, S_FIELDS]):
                        hashes[f, row] = heads[read]
                        read += 1
        if h >= 0:
            for w in range(n_windows):
                at = panes_at[h, w]
                if at >= 0:
                    pane_counts[w] = panes_in[at]
                    since[w] = panes_in[at + 1]
                    at += PANE_HEAD_WORDS
                    for k in range(pane_counts[w]):
                        for word in range(pane_words):
                            panes[w, k, word] = panes_in[at + word] if word < windows[w, W_WORDS] else 0
                        bits_of[0] = panes_in[at + PANE_WORDS - 1]
                        spreads[w, k, 0] = float_of[0]
                        at += windows[w, W_WORDS]

        event = first_event[e]
        while event >= 0:
            t = events[event, E_TIME]
            kind = events[event, E_KIND]
            now = clocks[event]
            flag = 0
            if now > NEVER and last_any > NEVER and last_any < now - limits[L_RETENTION]:
                # Expired: what the sweep may or may not have deleted already is as good as gone.
                flag |= FLAG_RESET
                last_any = NEVER
                first_seen = NEVER
                last_payment = NEVER
                trimmed = NEVER
                _fill(n, 0)
                if h >= 0:
                    for s in range(n_series):
                        sealed_changed[s] = 1
                    _fill(sealed, 0)
                    _fill(dropped, NEVER)
                    for w in range(n_windows):
                        panes_changed[w] = 1
                    _fill(pane_counts, 0)

            r = retraction_of[event]
            if r >= 0:
                old = retractions[r, 1]
                for s in range(n_series):
                    if retractions[r, 3] >> s & 1 == 0 or (now != NEVER and old < now - series[s, S_KEEP]):
                        continue
                    at = first_after(times[s], 0, n[s], old) - 1
                    while at >= 0 and times[s, at] == old and values[s, at] != retractions[r, 2]:
                        at -= 1
                    if at >= 0 and times[s, at] == old and at >= n[s] - limits[L_RAW]:
                        values[s, at] = ABSENT  # the row stays: ranks, and so the raw limit, must never go back
                        if h >= 0:
                            if at < sealed[s]:
                                sealed_changed[s] = 1
                            for w in range(bounds[s], bounds[s + 1]):
                                if pane_counts[w] > 0 and old >= since[w]:
                                    pane_take(
                                        panes, spreads, pane_counts, w, windows[w], old, series[s, S_VALUED],
                                        retractions[r, 2],
                                    )  # fmt: skip
                                    panes_changed[w] = 1

            since_last = np.nan
            since_first = np.nan
            if kind == KIND_PAYMENT:
                if last_payment != NEVER and t < last_payment:
                    flag |= FLAG_LATE
                if now != NEVER and t < now - limits[L_LATENESS]:
                    flag |= FLAG_INCOMPLETE
                since_first = 0.0
                if first_seen != NEVER and first_seen < t:
                    since_first = float(t - first_seen) / MICROS
                if limits[L_SINCE_LAST] != 0:
                    previous = NEVER
                    oldest = NEVER if now == NEVER else now - series[PAYMENTS, S_KEEP]
                    gone = trimmed
                    for s in range(PAYMENTS, REFUNDS + 1):
                        visible = max(first_after(times[s], 0, n[s], oldest - 1), n[s] - limits[L_RAW])
                        if visible > 0:
                            gone = max(gone, times[s, visible - 1])
                        at = first_after(times[s], visible, n[s], t)
                        if at > visible:
                            previous = max(previous, times[s, at - 1])
                    if gone <= t:
                        previous = max(previous, gone)
                    if previous != NEVER:
                        since_last = float(t - previous) / MICROS

            for s in range(n_series):
                own[s] = -1
                if events[event, E_SERIES] >> s & 1 == 0:
                    continue
                oldest = NEVER if now == NEVER else now - series[s, S_KEEP]
                if t < oldest and kind != KIND_PAYMENT:
                    continue
                at = first_after(times[s], 0, n[s], t)
                _insert(times[s], values[s], hashes, series[s, S_FIELDS], n[s], at, events[event])
                own[s] = at
                n[s] += 1
                if h >= 0:
                    if at < sealed[s]:
                        sealed[s] += 1
                        if t >= oldest:
                            sealed_changed[s] = 1
                    if t >= oldest:
                        floor = max(0, n[s] - limits[L_RAW])
                        gone = dropped[s] if floor == 0 else max(dropped[s], times[s, floor - 1])
                        _count_row(
                            times[s], values[s], hashes, n[s], at, floor, oldest, gone, now, series[s, S_VALUED],
                            bounds[s], bounds[s + 1], exact, windows, sketches, panes, spreads, pane_counts, since,
                            panes_changed,
                        )  # fmt: skip

            if kind == KIND_PAYMENT:
                approximated = 0
                for s in range(n_series):
                    if bounds[s] == bounds[s + 1]:
                        continue
                    oldest = NEVER if now == NEVER else now - series[s, S_KEEP]
                    end = own[s] + 1 if own[s] >= 0 else first_after(times[s], 0, n[s], t)
                    floor = max(0, n[s] - limits[L_RAW])
                    gone = NEVER
                    if h >= 0:
                        gone = dropped[s] if floor == 0 else max(dropped[s], times[s, floor - 1])
                    if t < oldest:  # older than anything kept: it sees itself alone
                        floor = end
                        oldest = NEVER
                        gone = NEVER
                    if own[s] >= 0:
                        floor = min(floor, own[s])
                    end = max(end, floor)
                    approximated |= measure_windows(
                        times[s], values[s], hashes, n[s], end, floor, oldest, gone, t, series[s, S_VALUED],
                        bounds[s], bounds[s + 1], exact, windows, sketches, panes, spreads, pane_counts, since,
                        measures, squares, spare, spare_spread,
                    )  # fmt: skip
                    if s == PAYMENTS:
                        for f in range(fields):
                            stamp += 1
                            count_distinct(
                                f, hashes[f], end, bounds[1], sketches, panes, measures, found[f], table, stamps,
                                stamp, registers, spare,
                            )  # fmt: skip
                answer_features(program, measures, squares, found, prior, since_last, since_first, out[event])
                flags[event, 1] = approximated
                for s in range(n_series):
                    if own[s] >= 0 and now != NEVER and t < now - series[s, S_KEEP]:
                        _remove(times[s], values[s], hashes, series[s, S_FIELDS], n[s], own[s])
                        n[s] -= 1
                        if h >= 0 and own[s] < sealed[s]:
                            sealed[s] -= 1
                        if s <= REFUNDS:
                            trimmed = max(trimmed, t)
                if first_seen == NEVER or t < first_seen:
                    first_seen = t
                last_payment = max(last_payment, t)
            last_any = max(last_any, t)
            flags[event, 0] = flag
            event = following[event]

        # Pack.
        starts_out[e] = write
        heads_out[write] = LAYOUT
        heads_out[write + AT_LAST_ANY] = last_any
        heads_out[write + AT_FIRST_SEEN] = first_seen
        heads_out[write + AT_LAST_PAYMENT] = last_payment
        into = write + HEAD_WORDS + n_series
        for s in range(n_series):
            first = 0
            if h >= 0:
                first = sealed[s]
            if first == 0 and clock[0] != NEVER:
                first = first_after(times[s], 0, n[s], clock[0] - series[s, S_KEEP] - 1)
                if first > 0 and s <= REFUNDS:
                    trimmed = max(trimmed, times[s, first - 1])
            heads_out[write + HEAD_WORDS + s] = n[s] - first
            if h >= 0:
                hot_out[h, s, O_TAIL] = into
                hot_out[h, s, O_TAIL_ROWS] = n[s] - first
            for row in range(first, n[s]):
                heads_out[into] = times[s, row]
                into += 1
                if series[s, S_VALUED] != 0:
                    heads_out[into] = values[s, row]
                    into += 1
                for f in range(series[s, S_FIELDS]):
                    heads_out[into] = hashes[f, row]
                    into += 1
        heads_out[write + AT_TRIMMED] = trimmed
        write = into
        if h < 0:
            continue
        for s in range(n_series):
            hot_out[h, s, O_SEALED] = -1
            hot_out[h, s, O_SEALED_ROWS] = sealed[s]
            if sealed_changed[s] == 0:
                continue
            hot_out[h, s, O_SEALED] = write_sealed
            for row in range(sealed[s]):
                sealed_out[write_sealed] = times[s, row]
                write_sealed += 1
                if series[s, S_VALUED] != 0:
                    sealed_out[write_sealed] = values[s, row]
                    write_sealed += 1
                for f in range(series[s, S_FIELDS]):
                    sealed_out[write_sealed] = hashes[f, row]
                    write_sealed += 1
        for w in range(n_windows):
            panes_at_out[h, w] = PANES_UNCHANGED
            if panes_changed[w] == 0:
                continue
            if pane_counts[w] == 0:
                panes_at_out[h, w] = PANES_GONE
                continue
            panes_at_out[h, w] = write_panes
            panes_out[write_panes] = pane_counts[w]
            panes_out[write_panes + 1] = since[w]
            write_panes += PANE_HEAD_WORDS
            for k in range(pane_counts[w]):
                float_of[0] = spreads[w, k, 0]
                panes[w, k, PANE_WORDS - 1] = bits_of[0]
                for word in range(windows[w, W_WORDS]):
                    panes_out[write_panes + word] = panes[w, k, word]
                write_panes += windows[w, W_WORDS]
    starts_out[n_entities] = write
