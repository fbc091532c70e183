"""The difference of two logits over a box, as a sum over the free positions plus an interval: compiled.

A box fixes the digits at some operand positions and leaves the others free. In it the difference of two logits is a constant plus a
ratio of two sums for every head. Each ratio is written as a sum over the free positions plus an interval, in one of four ways
(``expand_margin``), and the sums of all heads are added position by position. The proof, and the bound on rounding errors, is in
docs/certificate.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mi_superposition.addition.certificate.layout import (
    ABOVE,
    BELOW,
    COEFFICIENT,
    D_FIXED,
    D_HIGH,
    D_LOW,
    D_MEAN,
    E_FIXED,
    E_HIGH,
    E_LOW,
    FAST,
    LOWEST,
    LOWEST_HIGH,
    ONE_SIDED,
    RATIO,
    ROUNDING,
    SPAN,
    SPAN_HIGH,
    WIDTH,
    Room,
    Tables,
)
from mi_superposition.neurons.compiled import compiled

# Denominators that vary more than so many times over a box: only the hull of the head's values is used, or no second order.
_HULL_ONLY, _SECOND_ORDER = 30.0, 3.0
# Below this, what the tables round to zero could count.
_LEAST_DENOMINATOR = 1e-250
# Operations on one number, at most, besides the sum over heads; see docs/certificate.md.
_OPERATIONS = 256.0
_UNIT = 2.0**-51


@compiled(fastmath=FAST)
def prepare(x: NDArray[np.int64], tables: Tables, room: Room) -> float:
    """Range of every denominator over the box and a middle ratio of every head and class; returns the bound on rounding errors."""
    positions, _, heads = tables.weight.shape
    classes = len(tables.base)
    head, ratio, fixed = room.head, room.ratio, room.fixed
    for h in range(heads):
        head[D_FIXED, h] = tables.weight_equals[h]
    for c in range(classes):
        for h in range(heads):
            fixed[c, h] = tables.numerator_equals[c, h]
    for p in range(positions):
        if x[p] >= 0:
            for h in range(heads):
                head[D_FIXED, h] += tables.weight[p, x[p], h]
            for c in range(classes):
                for h in range(heads):
                    fixed[c, h] += tables.numerator[p, x[p], c, h]
    for h in range(heads):
        head[D_LOW, h] = head[D_HIGH, h] = head[D_MEAN, h] = head[D_FIXED, h]
    ratio[:] = fixed
    for p in range(positions):
        if x[p] >= 0:
            continue
        for h in range(heads):
            head[D_LOW, h] += tables.weight_low[p, h]
            head[D_HIGH, h] += tables.weight_high[p, h]
            head[D_MEAN, h] += tables.weight_mean[p, h]
        for c in range(classes):
            for h in range(heads):
                ratio[c, h] += tables.numerator_mean[p, c, h]
    magnitude = 0.0
    for h in range(heads):
        # Any number may stand for the middle ratio; where there is no denominator it is not used. Where a few digits have most of the weight,
        # it is the ratio without these.
        mean = head[D_MEAN, h]
        spread = _spread(head[D_LOW, h], head[D_HIGH, h])
        if spread >= _SECOND_ORDER:
            mean = head[D_LOW, h]
            for c in range(classes):
                ratio[c, h] = fixed[c, h]
                for p in range(positions):
                    if x[p] < 0:
                        ratio[c, h] += tables.numerator_quiet[p, c, h]
        mean = max(mean, _LEAST_DENOMINATOR)
        for c in range(classes):
            ratio[c, h] = min(max(ratio[c, h] / mean, -tables.largest[h]), tables.largest[h])
        if spread > _HULL_ONLY:
            spread = 1.0
        magnitude += 16.0 * tables.largest[h] * (1.0 + spread) ** 3
    for c in range(classes):
        magnitude += abs(tables.base[c])
    return (_OPERATIONS + heads) * _UNIT * magnitude


@compiled()
def _spread(low: float, high: float) -> float:
    """How many times a denominator's largest value is its smallest; infinite for those too small to be trusted."""
    return high / low if low > _LEAST_DENOMINATOR else np.inf


@compiled(fastmath=FAST)
def excess(x: NDArray[np.int64], one: int, other: int, tables: Tables, room: Room) -> None:
    """``n - r d`` of every head: what each free position and digit adds to it, and its range over the box."""
    positions, _, heads = tables.weight.shape
    head, excess, lowest, highest = room.head, room.excess, room.excess_low, room.excess_high
    for h in range(heads):
        head[RATIO, h] = room.ratio[one, h] - room.ratio[other, h]
        head[E_FIXED, h] = room.fixed[one, h] - room.fixed[other, h] - head[RATIO, h] * head[D_FIXED, h]
        head[E_LOW, h] = head[E_HIGH, h] = head[E_FIXED, h]
    for p in range(positions):
        if x[p] >= 0:
            continue
        for h in range(heads):
            lowest[p, h], highest[p, h] = 1e300, -1e300
        for k in range(10):
            for h in range(heads):
                e = (
                    tables.numerator[p, k, one, h]
                    - tables.numerator[p, k, other, h]
                    - head[RATIO, h] * tables.weight[p, k, h]
                )
                excess[p, k, h] = e
                lowest[p, h], highest[p, h] = min(lowest[p, h], e), max(highest[p, h], e)
        for h in range(heads):
            head[E_LOW, h] += lowest[p, h]
            head[E_HIGH, h] += highest[p, h]


@compiled()
def _hull(x: NDArray[np.int64], one: int, other: int, h: int, tables: Tables) -> tuple[float, float]:
    """Smallest and largest difference of two classes among all values that the head can mix over the box."""
    low, high = np.inf, -np.inf
    for key in range(len(tables.value_equals)):
        v = tables.value_equals[key, one, h] - tables.value_equals[key, other, h]
        low, high = min(low, v), max(high, v)
    for p in range(len(x)):
        for k in range(10):
            if x[p] < 0 or x[p] == k:
                v = tables.value[p, k, one, h] - tables.value[p, k, other, h]
                low, high = min(low, v), max(high, v)
    return low, high


@compiled(fastmath=FAST)
def expand_margin(
    x: NDArray[np.int64], one: int, other: int, tables: Tables, room: Room, rounding: float, second_order: bool
) -> None:
    """``logit[one] - logit[other]`` over the box as a sum over the free positions plus an interval.

    The sum is ``room.additive`` for the lower bound and ``room.additive_high`` for the upper one; they differ only if ``found[ONE_SIDED]``. Sets
    ``room.found``: each sum's smallest value and its span, and the interval's ends. For every head the narrowest of: a constant and the range of what it may be;
    for each free digit the most that it may add or take away; the first-order expansion of 1/d; with ``second_order`` the second-order one,
    whose products of two positions are added over heads before their range is taken.
    """
    positions, _, heads = tables.weight.shape
    head, additive, higher, found, chosen = room.head, room.additive, room.additive_high, room.found, room.chosen
    constant = tables.base[one] - tables.base[other]
    below, above = -rounding, rounding
    additive[:], higher[:] = 0.0, 0.0
    room.score[:] = 0.0
    n_second, one_sided = 0, 0.0
    for h in range(heads):
        low, high, r = head[D_LOW, h], head[D_HIGH, h], head[RATIO, h]
        e_low, e_high = head[E_LOW, h], head[E_HIGH, h]
        spread = _spread(low, high)
        constant += r
        least, most, first = -np.inf, np.inf, np.inf
        if spread <= _HULL_ONLY:
            least = e_low / (low if e_low < 0 else high)
            most = e_high / (low if e_high > 0 else high)
            first = max(abs(e_low), abs(e_high)) * 0.5 * (1.0 / low - 1.0 / high)
        if spread > 1.5:
            hull_low, hull_high = _hull(x, one, other, h, tables)
            least, most = max(least, hull_low - r), min(most, hull_high - r)
        head[COEFFICIENT, h] = 0.0
        if second_order and spread < _SECOND_ORDER and min(2.0 * first, most - least) > 1e-9 * tables.largest[h]:
            chosen[n_second] = h
            n_second += 1
            continue
        width = min(2.0 * first, most - least)
        if spread >= _SECOND_ORDER and low > _LEAST_DENOMINATOR and width > 1e-9 * tables.largest[h]:
            expected, least_quiet, most_quiet = _one_sided(x, h, tables, room, False)
            if expected < width:
                _one_sided(x, h, tables, room, True)
                below, above = below + least_quiet, above + most_quiet
                head[WIDTH, h] = expected
                one_sided = 1.0
                continue
        head[WIDTH, h] = width
        if 2.0 * first < most - least:
            middle = 0.5 * (1.0 / low + 1.0 / high)
            head[COEFFICIENT, h] = middle
            constant += head[E_FIXED, h] * middle
            below, above = below - first, above + first
        else:
            below, above = below + least, above + most
    for p in range(positions):
        if x[p] >= 0:
            continue
        for k in range(10):
            total = 0.0
            for h in range(heads):
                total += head[COEFFICIENT, h] * room.excess[p, k, h]
            additive[p, k] += total
            higher[p, k] += total
    if n_second:
        constant, below, above = _add_second_order(x, n_second, tables, room, constant, below, above)
    found[BELOW], found[ABOVE], found[ROUNDING], found[ONE_SIDED] = below, above, rounding, one_sided
    found[LOWEST], found[SPAN] = _from_zero(x, additive, constant)
    found[LOWEST_HIGH], found[SPAN_HIGH] = _from_zero(x, higher, constant)


@compiled()
def _from_zero(x: NDArray[np.int64], additive: NDArray[np.float64], constant: float) -> tuple[float, float]:
    """Makes every position's smallest entry zero; the sum's smallest value and its span."""
    span = 0.0
    for p in range(len(x)):
        if x[p] >= 0:
            continue
        least, most = additive[p].min(), additive[p].max()
        for k in range(10):
            additive[p, k] -= least
        constant += least
        span += most - least
    return constant, span


@compiled()
def _one_sided(x: NDArray[np.int64], h: int, tables: Tables, room: Room, add: bool) -> tuple[float, float, float]:
    """What each free digit may take away from ``e / d`` of a head and add to it, over what the digits of smallest weight give.

    As all other positions have at least their smallest weight, ``d`` is at least the smallest denominator with this digit. With ``add``
    these go into the additive parts. Returns their mean sum, and the ends of what the smallest weights give.
    """
    low = room.head[D_LOW, h]
    quiet = room.head[E_FIXED, h]
    expected = 0.0
    for p in range(len(x)):
        if x[p] >= 0:
            continue
        nothing = room.excess[p, tables.quiet[p, h], h]
        quiet += nothing
        for k in range(10):
            e = room.excess[p, k, h] - nothing
            part = e / (low + (tables.weight[p, k, h] - tables.weight_low[p, h]))
            expected += 0.1 * abs(part)
            if add:
                room.additive[p, k] += min(part, 0.0)
                room.additive_high[p, k] += max(part, 0.0)
    return expected + abs(quiet) / low, min(quiet, 0.0) / low, max(quiet, 0.0) / low


@compiled(fastmath=FAST)
def _add_second_order(
    x: NDArray[np.int64], n: int, tables: Tables, room: Room, constant: float, below: float, above: float
) -> tuple[float, float, float]:
    """Adds the chosen heads' ``e/c - e (d - c)/c**2`` to the additive part, and the ranges of the rest to the interval."""
    positions = len(x)
    head, additive, second, weight = room.head, room.additive, room.second, room.second_weight
    for j in range(n):
        h = room.chosen[j]
        low, high = head[D_LOW, h], head[D_HIGH, h]
        c = 0.5 * (low + high)
        e_mean, d_mean = head[E_FIXED, h], head[D_FIXED, h] - c
        for p in range(positions):
            if x[p] >= 0:
                continue
            e, w = 0.0, tables.weight_mean[p, h]
            for k in range(10):
                e += 0.1 * room.excess[p, k, h]
            for k in range(10):
                second[p * 10 + k, j] = room.excess[p, k, h] - e
                weight[p * 10 + k, j] = (tables.weight[p, k, h] - w) / (c * c)
            e_mean, d_mean = e_mean + e, d_mean + w
        constant += e_mean / c - e_mean * d_mean / (c * c)
        for p in range(positions):
            if x[p] >= 0:
                continue
            for k in range(10):
                e, w = second[p * 10 + k, j], weight[p * 10 + k, j]
                part = e * (1.0 / c - d_mean / (c * c)) - (e_mean + e) * w
                additive[p, k] += part
                room.additive_high[p, k] += part
        third = (0.5 * (high - low) / c) ** 2 / low
        least, most = min(0.0, head[E_LOW, h]) * third, max(0.0, head[E_HIGH, h]) * third
        head[WIDTH, h] = most - least
        below, above = below + least, above + most
    for p in range(positions):
        if x[p] >= 0:
            continue
        for o in range(p):
            if x[o] >= 0:
                continue
            least, most = np.inf, -np.inf
            for k in range(p * 10, p * 10 + 10):
                for i in range(o * 10, o * 10 + 10):
                    total = 0.0
                    for j in range(n):
                        total -= second[k, j] * weight[i, j] + weight[k, j] * second[i, j]
                    least, most = min(least, total), max(most, total)
            below, above = below + least, above + most
            room.score[p] += most - least
            room.score[o] += most - least
    return constant, below, above
