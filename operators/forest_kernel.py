"""The machine code of the forest: cells of a payment, leaves of the trees, learning one label, splitting a leaf.

A tree is a row in a few arrays; its nodes are numbered from 0, the root, and a node's children stand side by side:

    nodes    int32   (rows, nodes, 4)            split input or LEAF, its cell, left child, histogram of a leaf
    sums     float64 (rows, nodes, 5)            weight genuine, weight fraud, probability of the parent, logit,
                                                 bagged labels since the last attempt to split
    hists    float32 (rows, leaves, cells, 2)    how often a leaf met a cell, by class, in bagged labels
    watched  uint8   (rows, leaves, inputs)      the inputs a leaf may split by
    sizes    int32   (rows, 3)                   nodes in use, histograms in use, whether the tree is alive
    drift    float64 (rows, 4)                   labels, mean loss, Page-Hinkley sum, its minimum
    random   uint64  (rows,)                     state of the tree's generator

A payment goes left at a node when its cell is at most the node's (numbers; absent is below all) or equal to it
(categories, booleans). With drift detection the second half of the rows are background trees of the first half.
The layout of the inputs is that of operators/model_terms.py, without crosses.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from operators import binning
from operators.binning import MISSING, position
from operators.jit import Array, jit

LEAF: Final = -1

_SLOTS: Final = 1
_WHOLE: Final = 2.0**31
_LEAST: Final = 1e-6
"""Bound of a leaf's probability and of one minus it: a logit of 14 is beyond what any count of labels can support."""
_GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_A: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B: Final = np.uint64(0x94D049BB133111EB)

# Places in the array of parameters, as operators/forest.py fills it.
BAGGING: Final = 0
GRACE: Final = 1
DELTA: Final = 2
TAU: Final = 3
LEAST_BRANCH: Final = 4
PRIOR: Final = 5
DRIFT: Final = 6
TOLERANCE: Final = 7
WATCHED: Final = 8
DEPTH: Final = 9
FRAUDS: Final = 10
PARAMETERS: Final = 11

_TREES: Final = (
    "int32[:,:,::1], float64[:,:,::1], float32[:,:,:,::1], uint8[:,:,::1], int32[:,::1], float64[:,::1], uint64[::1]"
)
_LAYOUT: Final = "int32[:,::1], int32[::1], int32[::1], int32[:,::1], int32[::1]"


@jit()
def _next(random: Array, tree: int) -> float:
    """0 <= number < 1. Source: splitmix64, Steele, Lea, Flood 2014, OOPSLA, doi 10.1145/2660193.2660195."""
    random[tree] += _GAMMA
    z = random[tree]
    z = (z ^ (z >> np.uint64(30))) * _MIX_A
    z = (z ^ (z >> np.uint64(27))) * _MIX_B
    z = z ^ (z >> np.uint64(31))
    return float(z >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@jit()
def _poisson(random: Array, tree: int, floor: float) -> int:
    """A Poisson number; `floor` is exp(-mean). Source: Knuth, The Art of Computer Programming 2, 3.4.1."""
    k = 0
    product = _next(random, tree)
    while product > floor:
        k += 1
        product *= _next(random, tree)
    return k


@jit()
def _cells(row: Array, sources: Array, kind: Array, slots: Array, terms: Array, grid: Array, out: Array) -> None:
    """Cell of each input, counted from the input's own first cell."""
    for at in range(len(terms)):
        source = terms[at, 0]
        value = row[sources[source, 0]]
        if sources[source, 1] >= 0:
            divisor = row[sources[source, 1]]
            value = value / divisor if divisor > 0.0 else math.nan
        if math.isnan(value) or (kind[source] == _SLOTS and abs(value) >= _WHOLE):
            out[at] = MISSING
        elif kind[source] == _SLOTS:
            out[at] = 1 + int(value) % slots[source]
        else:
            out[at] = 1 + int(position(value, grid[0]))


@jit()
def _child(nodes: Array, tree: int, node: int, kind: Array, terms: Array, cells: Array) -> int:
    entry = nodes[tree, node, 0]
    cell = cells[entry]
    at = nodes[tree, node, 1]
    left = cell == at if kind[terms[entry, 0]] == _SLOTS else cell <= at
    return int(nodes[tree, node, 2] + (0 if left else 1))


@jit()
def _leaf(nodes: Array, tree: int, kind: Array, terms: Array, cells: Array) -> tuple[int, int]:
    """The leaf a payment falls into, and its depth."""
    node, depth = 0, 0
    while nodes[tree, node, 0] != LEAF:
        node = _child(nodes, tree, node, kind, terms, cells)
        depth += 1
    return node, depth


@jit()
def _belief(sums: Array, tree: int, node: int, prior: float) -> float:
    """Probability of fraud at a node: its labels, shrunk towards its parent's probability."""
    genuine, fraud = sums[tree, node, 0], sums[tree, node, 1]
    p = (fraud + prior * sums[tree, node, 2]) / (genuine + fraud + prior)
    return float(min(max(p, _LEAST), 1.0 - _LEAST))


@jit()
def _settle(sums: Array, tree: int, node: int, prior: float) -> None:
    p = _belief(sums, tree, node, prior)
    sums[tree, node, 3] = math.log(p / (1.0 - p))


@jit()
def _watch(random: Array, tree: int, watched: Array, hist: int, share: float) -> None:
    """Choose the inputs of a leaf: `share` of them, none twice (Knuth, algorithm S of 3.4.2)."""
    inputs = watched.shape[2]
    wanted = max(1, int(share * inputs))
    for at in range(inputs):
        chosen = _next(random, tree) * (inputs - at) < wanted
        watched[tree, hist, at] = 1 if chosen else 0
        if chosen:
            wanted -= 1


@jit()
def _plant(
    tree: int, probability: float, nodes: Array, sums: Array, hists: Array, watched: Array, sizes: Array, drift: Array,
    random: Array, share: float,
) -> None:  # fmt: skip
    nodes[tree] = 0
    nodes[tree, 0, 0] = LEAF
    sums[tree] = 0.0
    sums[tree, 0, 2] = probability
    sums[tree, 0, 3] = math.log(probability / (1.0 - probability))
    hists[tree] = 0.0
    watched[tree] = 0
    sizes[tree, 0], sizes[tree, 1], sizes[tree, 2] = 1, 1, 1
    drift[tree] = 0.0
    _watch(random, tree, watched, 0, share)


@jit(f"void(int64, float64, {_TREES}, float64)")
def plant(
    tree: int, probability: float, nodes: Array, sums: Array, hists: Array, watched: Array, sizes: Array, drift: Array,
    random: Array, share: float,
) -> None:  # fmt: skip
    """Make a tree a single leaf that believes in `probability`."""
    _plant(tree, probability, nodes, sums, hists, watched, sizes, drift, random, share)


@jit()
def _entropy(a: float, b: float) -> float:
    total = a + b
    found = 0.0
    if a > 0.0:
        found -= a / total * math.log2(a / total)
    if b > 0.0:
        found -= b / total * math.log2(b / total)
    return found


@jit()
def _split(
    tree: int, node: int, terms: Array, kind: Array, widths: Array, nodes: Array, sums: Array, hists: Array,
    watched: Array, sizes: Array, random: Array, parameters: Array, total0: float, total1: float,
) -> None:  # fmt: skip
    """Split a leaf by its best input, when Hoeffding's bound says that it is the best, or that it hardly matters.

    Source: Domingos, Hulten 2000, Mining high-speed data streams, KDD, doi 10.1145/347090.347107.
    """
    hist = nodes[tree, node, 3]
    total = total0 + total1
    whole = _entropy(total0, total1)
    least = parameters[LEAST_BRANCH] * total
    best, second = 0.0, 0.0  # 0: not to split
    best_input, best_cell, best0, best1 = -1, 0, 0.0, 0.0
    for entry in range(len(terms)):
        if watched[tree, hist, entry] == 0:
            continue
        first = terms[entry, 2]
        category = kind[terms[entry, 0]] == _SLOTS
        left0, left1 = 0.0, 0.0
        gained, gained_cell, gained0, gained1 = 0.0, -1, 0.0, 0.0
        for cell in range(widths[entry]):
            met0, met1 = hists[tree, hist, first + cell, 0], hists[tree, hist, first + cell, 1]
            if met0 == 0.0 and met1 == 0.0:
                continue
            if category:
                left0, left1 = float(met0), float(met1)
            else:
                left0 += met0
                left1 += met1
            left = left0 + left1
            right = total - left
            if left < least or right < least or right <= 0.0:
                continue
            gain = whole - (left * _entropy(left0, left1) + right * _entropy(total0 - left0, total1 - left1)) / total
            if gain > gained:
                gained, gained_cell, gained0, gained1 = gain, cell, left0, left1
        if gained > best:
            second = best
            best, best_input, best_cell, best0, best1 = gained, entry, gained_cell, gained0, gained1
        elif gained > second:
            second = gained
    bound = math.sqrt(math.log(1.0 / parameters[DELTA]) / (2.0 * total))
    if best_input < 0 or not (best - second > bound or bound < parameters[TAU]):
        return
    left_child = sizes[tree, 0]
    nodes[tree, node, 0], nodes[tree, node, 1], nodes[tree, node, 2] = best_input, best_cell, left_child
    nodes[tree, node, 3] = 0
    p = _belief(sums, tree, node, parameters[PRIOR])
    for side in range(2):
        child = left_child + side
        sums[tree, child, 0] = (best0 if side == 0 else total0 - best0) / total0 * sums[tree, node, 0]
        sums[tree, child, 1] = (best1 if side == 0 else total1 - best1) / total1 * sums[tree, node, 1]
        sums[tree, child, 2] = p
        _settle(sums, tree, child, parameters[PRIOR])
        used = hist if side == 0 else sizes[tree, 1]
        nodes[tree, child, 0], nodes[tree, child, 3] = LEAF, used
        hists[tree, used] = 0.0
        _watch(random, tree, watched, used, parameters[WATCHED])
    sizes[tree, 0] += 2
    sizes[tree, 1] += 1


@jit()
def _drifted(
    tree: int, loss: float, nodes: Array, sums: Array, hists: Array, watched: Array, sizes: Array, drift: Array,
    random: Array, parameters: Array,
) -> bool:  # fmt: skip
    """Watch a tree's loss: at half of the threshold plant a background tree, at the threshold put it in its place.

    Source: Page-Hinkley test, Page 1954, Biometrika 41:100-115; warning and background trees as in Gomes et al. 2017.
    """
    drift[tree, 0] += 1.0
    drift[tree, 1] += (loss - drift[tree, 1]) / drift[tree, 0]
    drift[tree, 2] += loss - drift[tree, 1] - parameters[TOLERANCE]
    drift[tree, 3] = min(drift[tree, 3], drift[tree, 2])
    alarm = drift[tree, 2] - drift[tree, 3]
    other = tree + len(nodes) // 2
    if sizes[other, 2] == 0:
        if alarm > parameters[DRIFT] / 2.0:
            p = _belief(sums, tree, 0, parameters[PRIOR])
            _plant(other, p, nodes, sums, hists, watched, sizes, drift, random, parameters[WATCHED])
        return False
    if alarm <= parameters[DRIFT] / 2.0:
        sizes[other, 2] = 0  # a false alarm
        return False
    if alarm <= parameters[DRIFT]:
        return False
    nodes[tree], sums[tree], hists[tree], watched[tree] = nodes[other], sums[other], hists[other], watched[other]
    sizes[tree] = sizes[other]
    drift[tree] = 0.0
    sizes[other, 2] = 0
    return True


@jit(f"int64(float64[::1], {_LAYOUT}, int32[::1], int64, float64, {_TREES}, float64[::1])", uses=(binning,))
def learn(
    row: Array, sources: Array, kind: Array, slots: Array, terms: Array, grid: Array, widths: Array, label: int,
    weight: float, nodes: Array, sums: Array, hists: Array, watched: Array, sizes: Array, drift: Array,
    random: Array, parameters: Array,
) -> int:  # fmt: skip
    """Learn one label (1: fraud) in every tree; returns how many trees were replaced.

    Structure is found in bagged labels as they come, probabilities in their weights: so sampled genuine labels neither
    drown the frauds in the search for splits nor make them likelier than they are.
    Source: online bagging, Oza, Russell 2001; random inputs a leaf, Gomes et al. 2017, Adaptive random forests for
    evolving data stream classification, Machine Learning 106:1469-1495.
    """
    cells = np.empty(len(terms), dtype=np.int32)
    _cells(row, sources, kind, slots, terms, grid, cells)
    watching = parameters[DRIFT] > 0.0
    trees = len(nodes) // 2 if watching else len(nodes)
    floor = math.exp(-parameters[BAGGING])
    replaced = 0
    for tree in range(len(nodes)):
        if sizes[tree, 2] == 0:
            continue
        node, depth = _leaf(nodes, tree, kind, terms, cells)
        if watching and tree < trees:
            logit = sums[tree, node, 3]
            loss = math.log1p(math.exp(-logit if label == 1 else logit))
            if _drifted(tree, loss, nodes, sums, hists, watched, sizes, drift, random, parameters):
                replaced += 1
                node, depth = _leaf(nodes, tree, kind, terms, cells)
        k = _poisson(random, tree, floor)
        if k == 0:
            continue
        at = 0
        while True:
            sums[tree, at, label] += weight * k / parameters[BAGGING]
            if at == node:
                break
            at = _child(nodes, tree, at, kind, terms, cells)
        _settle(sums, tree, node, parameters[PRIOR])
        hist = nodes[tree, node, 3]
        for entry in range(len(terms)):
            if watched[tree, hist, entry] == 1:
                hists[tree, hist, terms[entry, 2] + cells[entry], label] += np.float32(k)
        sums[tree, node, 4] += k
        if sums[tree, node, 4] < parameters[GRACE]:
            continue
        sums[tree, node, 4] = 0.0
        if sizes[tree, 1] >= hists.shape[1] or depth >= parameters[DEPTH]:
            continue
        total0, total1 = 0.0, 0.0
        for entry in range(len(terms)):
            if watched[tree, hist, entry] == 1:
                for cell in range(terms[entry, 2], terms[entry, 2] + widths[entry]):
                    total0 += hists[tree, hist, cell, 0]
                    total1 += hists[tree, hist, cell, 1]
                break
        if total0 > 0.0 and total1 >= parameters[FRAUDS]:
            _split(
                tree, node, terms, kind, widths, nodes, sums, hists, watched, sizes, random, parameters, total0, total1
            )
    return replaced


@jit(f"float64[::1](float64[:,::1], {_LAYOUT}, int64, int32[:,:,::1], float64[:,:,::1])", uses=(binning,))
def probabilities(
    rows: Array, sources: Array, kind: Array, slots: Array, terms: Array, grid: Array, trees: int, nodes: Array,
    sums: Array,
) -> Array:  # fmt: skip
    """Mean over the trees of their leaves' probabilities, for each row; (rows,)."""
    out = np.empty(len(rows), dtype=np.float64)
    cells = np.empty(len(terms), dtype=np.int32)
    for at in range(len(rows)):
        _cells(rows[at], sources, kind, slots, terms, grid, cells)
        total = 0.0
        for tree in range(trees):
            node, _ = _leaf(nodes, tree, kind, terms, cells)
            total += 1.0 / (1.0 + math.exp(-sums[tree, node, 3]))
        out[at] = total / trees
    return out


@jit(f"float64[:,::1](float64[:,::1], {_LAYOUT}, int64, int32[:,:,::1], float64[:,:,::1], float64)", uses=(binning,))
def steps(
    rows: Array, sources: Array, kind: Array, slots: Array, terms: Array, grid: Array, trees: int, nodes: Array,
    sums: Array, prior: float,
) -> Array:  # fmt: skip
    """What each input adds to the probability on the way from root to leaf, mean over the trees; (rows, inputs + 1).

    The last column is where the ways begin: the mean of the roots. A row sums up to the probability.
    Source: Saabas 2014, Interpreting random forests, https://blog.datadive.net/interpreting-random-forests/
    """
    inputs = len(terms)
    out = np.zeros((len(rows), inputs + 1), dtype=np.float64)
    cells = np.empty(inputs, dtype=np.int32)
    for at in range(len(rows)):
        _cells(rows[at], sources, kind, slots, terms, grid, cells)
        for tree in range(trees):
            node = 0
            p = _belief(sums, tree, 0, prior)
            out[at, inputs] += p / trees
            while nodes[tree, node, 0] != LEAF:
                entry = nodes[tree, node, 0]
                node = _child(nodes, tree, node, kind, terms, cells)
                reached = _belief(sums, tree, node, prior)
                out[at, entry] += (reached - p) / trees
                p = reached
    return out
