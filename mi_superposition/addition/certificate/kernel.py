"""Bounds for one box, compiled: how many of its problems are proven right, and how many proven wrong.

A box fixes the digits at some operand positions and leaves the others free. In it the difference of two logits is a constant
plus a ratio of two sums for every head. Each ratio is written as a sum over the free positions plus an interval (three ways,
see ``_margin``); the sums of all heads are added position by position, so that the distribution of the whole is a convolution. The
proof, and the bound on rounding errors, is in docs/certificate.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mi_superposition.neurons.compiled import compiled

# Sums may be taken in any order: the bound on rounding errors holds for every order.
_FAST = {"reassoc", "contract", "nsz"}
# Bins of the distribution of a margin's additive part; few while many positions are free, as such boxes are divided anyway.
_BINS, _BINS_WIDE, _WIDE = 1024, 256, 7
# Denominators that vary more than so many times over a box: only the hull of the head's values is used, or no second order.
_HULL_ONLY, _SECOND_ORDER = 30.0, 3.0
# Below this, what the tables round to zero could count.
_LEAST_DENOMINATOR = 1e-250
# Operations on one number, at most, besides the sum over heads; see docs/certificate.md.
_OPERATIONS = 256.0
_UNIT = 2.0**-51


class Tables(NamedTuple):
    """One query's tables; ``position`` is one of the 2 n operand positions, ``digit`` what stands there.

    ``weight [position, digit, head]``, ``value [position, digit, class, head]`` in logits, ``weight * value`` as ``numerator``; what the
    ``=`` positions give: ``weight_equals [head]``, ``numerator_equals [class, head]``, ``value_equals [key, class, head]``; ``base [class]``;
    ``largest [head]``, the largest magnitude of the head's values. The other fields are what these give: smallest, largest and mean weight
    and the mean numerator at each position.
    """

    weight: NDArray[np.float64]
    value: NDArray[np.float64]
    numerator: NDArray[np.float64]
    weight_equals: NDArray[np.float64]
    numerator_equals: NDArray[np.float64]
    value_equals: NDArray[np.float64]
    base: NDArray[np.float64]
    largest: NDArray[np.float64]
    weight_low: NDArray[np.float64]
    weight_high: NDArray[np.float64]
    weight_mean: NDArray[np.float64]
    numerator_mean: NDArray[np.float64]


class _Room(NamedTuple):
    """Places for intermediate numbers, made once for many boxes."""

    head: NDArray[np.float64]
    ratio: NDArray[np.float64]
    fixed: NDArray[np.float64]
    excess: NDArray[np.float64]
    excess_low: NDArray[np.float64]
    excess_high: NDArray[np.float64]
    second: NDArray[np.float64]
    second_weight: NDArray[np.float64]
    chosen: NDArray[np.int64]
    additive: NDArray[np.float64]
    bins: NDArray[np.int64]
    score: NDArray[np.float64]
    counts: NDArray[np.float64]
    found: NDArray[np.float64]


# Rows of ``_Room.head``.
_D_FIXED, _D_LOW, _D_HIGH, _D_MEAN, _R, _E_FIXED, _E_LOW, _E_HIGH, _WIDTH, _COEFFICIENT = range(10)
# Entries of ``_Room.found``: of a margin.
_LOWEST, _SPAN, _BELOW, _ABOVE, _ROUNDING = range(5)


@compiled()
def _room(tables: Tables) -> _Room:
    positions, _, heads = tables.weight.shape
    classes = len(tables.base)
    return _Room(
        np.zeros((10, heads)),
        np.zeros((classes, heads)),
        np.zeros((classes, heads)),
        np.zeros((positions, 10, heads)),
        np.zeros((positions, heads)),
        np.zeros((positions, heads)),
        np.zeros((positions * 10, heads)),
        np.zeros((positions * 10, heads)),
        np.zeros(heads, np.int64),
        np.zeros((positions, 10)),
        np.zeros((positions, 10), np.int64),
        np.zeros(positions),
        np.zeros((4, _BINS + 2 * positions + 2)),
        np.zeros(5),
    )


@compiled(fastmath=_FAST)
def _prepare(x: NDArray[np.int64], tables: Tables, room: _Room) -> float:
    """Range of every denominator over the box and a middle ratio of every head and class; returns the bound on rounding errors."""
    positions, _, heads = tables.weight.shape
    classes = len(tables.base)
    head, ratio, fixed = room.head, room.ratio, room.fixed
    for h in range(heads):
        head[_D_FIXED, h] = tables.weight_equals[h]
    for c in range(classes):
        for h in range(heads):
            fixed[c, h] = tables.numerator_equals[c, h]
    for p in range(positions):
        if x[p] >= 0:
            for h in range(heads):
                head[_D_FIXED, h] += tables.weight[p, x[p], h]
            for c in range(classes):
                for h in range(heads):
                    fixed[c, h] += tables.numerator[p, x[p], c, h]
    for h in range(heads):
        head[_D_LOW, h] = head[_D_HIGH, h] = head[_D_MEAN, h] = head[_D_FIXED, h]
    ratio[:] = fixed
    for p in range(positions):
        if x[p] >= 0:
            continue
        for h in range(heads):
            head[_D_LOW, h] += tables.weight_low[p, h]
            head[_D_HIGH, h] += tables.weight_high[p, h]
            head[_D_MEAN, h] += tables.weight_mean[p, h]
        for c in range(classes):
            for h in range(heads):
                ratio[c, h] += tables.numerator_mean[p, c, h]
    magnitude = 0.0
    for h in range(heads):
        # Any number may stand for the middle ratio; where there is no denominator it is not used.
        mean = max(head[_D_MEAN, h], _LEAST_DENOMINATOR)
        for c in range(classes):
            ratio[c, h] = min(max(ratio[c, h] / mean, -tables.largest[h]), tables.largest[h])
        spread = _spread(head[_D_LOW, h], head[_D_HIGH, h])
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


@compiled(fastmath=_FAST)
def _excess(x: NDArray[np.int64], one: int, other: int, tables: Tables, room: _Room) -> None:
    """``n - r d`` of every head: what each free position and digit adds to it, and its range over the box."""
    positions, _, heads = tables.weight.shape
    head, excess, lowest, highest = room.head, room.excess, room.excess_low, room.excess_high
    for h in range(heads):
        head[_R, h] = room.ratio[one, h] - room.ratio[other, h]
        head[_E_FIXED, h] = room.fixed[one, h] - room.fixed[other, h] - head[_R, h] * head[_D_FIXED, h]
        head[_E_LOW, h] = head[_E_HIGH, h] = head[_E_FIXED, h]
    for p in range(positions):
        if x[p] >= 0:
            continue
        for h in range(heads):
            lowest[p, h], highest[p, h] = 1e300, -1e300
        for k in range(10):
            for h in range(heads):
                e = tables.numerator[p, k, one, h] - tables.numerator[p, k, other, h] - head[_R, h] * tables.weight[p, k, h]
                excess[p, k, h] = e
                lowest[p, h], highest[p, h] = min(lowest[p, h], e), max(highest[p, h], e)
        for h in range(heads):
            head[_E_LOW, h] += lowest[p, h]
            head[_E_HIGH, h] += highest[p, h]


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


@compiled(fastmath=_FAST)
def _margin(
    x: NDArray[np.int64], one: int, other: int, tables: Tables, room: _Room, rounding: float, second_order: bool
) -> None:
    """``logit[one] - logit[other]`` over the box as a sum over the free positions (``room.additive``) plus an interval.

    Sets ``room.found``: the sum's smallest value and its span, and the interval's ends. For every head the narrowest of: a constant and the range
    of what it may be; the first-order expansion of 1/d; with ``second_order`` the second-order one, whose products of two
    positions are added over heads before their range is taken.
    """
    positions, _, heads = tables.weight.shape
    head, additive, found, chosen = room.head, room.additive, room.found, room.chosen
    constant = tables.base[one] - tables.base[other]
    below, above = -rounding, rounding
    additive[:] = 0.0
    room.score[:] = 0.0
    n_second = 0
    for h in range(heads):
        low, high, r = head[_D_LOW, h], head[_D_HIGH, h], head[_R, h]
        e_low, e_high = head[_E_LOW, h], head[_E_HIGH, h]
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
        if second_order and spread < _SECOND_ORDER and min(2.0 * first, most - least) > 1e-9 * tables.largest[h]:
            chosen[n_second] = h
            n_second += 1
            head[_COEFFICIENT, h] = 0.0
        elif 2.0 * first < most - least:
            middle = 0.5 * (1.0 / low + 1.0 / high)
            head[_COEFFICIENT, h], head[_WIDTH, h] = middle, 2.0 * first
            constant += head[_E_FIXED, h] * middle
            below, above = below - first, above + first
        else:
            head[_COEFFICIENT, h], head[_WIDTH, h] = 0.0, most - least
            below, above = below + least, above + most
    for p in range(positions):
        if x[p] >= 0:
            continue
        for k in range(10):
            total = 0.0
            for h in range(heads):
                total += head[_COEFFICIENT, h] * room.excess[p, k, h]
            additive[p, k] = total
    if n_second:
        constant, below, above = _add_second_order(x, n_second, tables, room, constant, below, above)
    span = 0.0
    for p in range(positions):
        if x[p] >= 0:
            continue
        least, most = additive[p].min(), additive[p].max()
        for k in range(10):
            additive[p, k] -= least
        constant += least
        span += most - least
    found[_LOWEST], found[_SPAN], found[_BELOW], found[_ABOVE], found[_ROUNDING] = constant, span, below, above, rounding


@compiled(fastmath=_FAST)
def _add_second_order(
    x: NDArray[np.int64], n: int, tables: Tables, room: _Room, constant: float, below: float, above: float
) -> tuple[float, float, float]:
    """Adds the chosen heads' ``e/c - e (d - c)/c**2`` to the additive part, and the ranges of the rest to the interval."""
    positions = len(x)
    head, additive, second, weight = room.head, room.additive, room.second, room.second_weight
    for j in range(n):
        h = room.chosen[j]
        low, high = head[_D_LOW, h], head[_D_HIGH, h]
        c = 0.5 * (low + high)
        e_mean, d_mean = head[_E_FIXED, h], head[_D_FIXED, h] - c
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
                additive[p, k] += e * (1.0 / c - d_mean / (c * c)) - (e_mean + e) * w
        third = (0.5 * (high - low) / c) ** 2 / low
        least, most = min(0.0, head[_E_LOW, h]) * third, max(0.0, head[_E_HIGH, h]) * third
        head[_WIDTH, h] = most - least
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


@compiled(fastmath=_FAST)
def _count(x: NDArray[np.int64], query: int, carried: bool, room: _Room) -> tuple[float, float, float, float]:
    """Problems of the box by the sign of the margin, and with ``carried`` by the carry into the query's column.

    Returns those without carry whose margin is proven above zero and below zero, then those with carry. All counts are whole numbers
    that a float64 holds exactly.
    """
    positions = len(x)
    n = positions // 2
    free = 0
    for p in range(positions):
        free += x[p] < 0
    span, lowest = room.found[_SPAN], room.found[_LOWEST]
    step = span / (_BINS_WIDE if free > _WIDE else _BINS)
    if not step > 0.0:
        step = 1.0
    # How far a sum of bins may be from the sum that it stands for.
    short = long = 0.0
    for p in range(positions):
        if x[p] >= 0:
            continue
        least, most = np.inf, -np.inf
        for k in range(10):
            room.bins[p, k] = int(np.rint(room.additive[p, k] / step))
            error = room.additive[p, k] - room.bins[p, k] * step
            least, most = min(least, error), max(most, error)
        short, long = short + least, long + most
    states = 2 if carried else 1
    now, then = room.counts[:2], room.counts[2:]
    now[:] = 0.0
    now[0, 0] = 1.0
    top = 0
    for column in range(n):
        if carried and column < query:
            then[:] = 0.0
            reach = 0
            for a in range(10):
                if x[column] >= 0 and x[column] != a:
                    continue
                for b in range(10):
                    if x[column + n] >= 0 and x[column + n] != b:
                        continue
                    shift = (room.bins[column, a] if x[column] < 0 else 0) + (room.bins[column + n, b] if x[column + n] < 0 else 0)
                    reach = max(reach, shift)
                    for carry in range(2):
                        onward = 1 if a + b + carry >= 10 else 0
                        for i in range(top + 1):
                            then[onward, i + shift] += now[carry, i]
            top += reach
            now, then = then, now
            continue
        for p in (column, column + n):
            if x[p] >= 0:
                continue
            reach = room.bins[p].max()
            if reach == 0:
                for carry in range(states):
                    for i in range(top + 1):
                        now[carry, i] *= 10.0
                continue
            then[:] = 0.0
            for k in range(10):
                shift = room.bins[p, k]
                for carry in range(states):
                    for i in range(top + 1):
                        then[carry, i + shift] += now[carry, i]
            top += reach
            now, then = then, now
    above = lowest + room.found[_BELOW] + short - room.found[_ROUNDING]
    below = lowest + room.found[_ABOVE] + long + room.found[_ROUNDING]
    above_0 = below_0 = above_1 = below_1 = 0.0
    for i in range(top + 1):
        if above + i * step > 0:
            above_0 += now[0, i]
            above_1 += now[1, i]
        elif below + i * step < 0:
            below_0 += now[0, i]
            below_1 += now[1, i]
    return above_0, below_0, above_1, below_1


@compiled()
def _carry(x: NDArray[np.int64], query: int) -> int:
    """The carry into the query's column, the same for all problems of the box; -1 where it differs."""
    n = len(x) // 2
    for column in range(query - 1, -1, -1):
        a, b = x[column], x[column + n]
        if max(a, 0) + max(b, 0) >= 10:
            return 1
        if (a if a >= 0 else 9) + (b if b >= 0 else 9) <= 8:
            return 0
        if a < 0 or b < 0:
            return -1
    return 0


@compiled()
def _next_position(x: NDArray[np.int64], tables: Tables, room: _Room) -> int:
    """The free position whose digit, once fixed, narrows the last margin's interval most, by each head's shares in e and d."""
    head = room.head
    best, found = -1.0, -1
    for p in range(len(x)):
        if x[p] >= 0:
            continue
        total = room.score[p]
        for h in range(tables.weight.shape[2]):
            e_range, d_range = head[_E_HIGH, h] - head[_E_LOW, h], head[_D_HIGH, h] - head[_D_LOW, h]
            if head[_WIDTH, h] > 0.0:
                share = (room.excess_high[p, h] - room.excess_low[p, h]) / e_range if e_range > 0.0 else 0.0
                if d_range > 0.0:
                    share += (tables.weight_high[p, h] - tables.weight_low[p, h]) / d_range
                total += head[_WIDTH, h] * share
        if total > best:
            best, found = total, p
    return found


@compiled()
def _settle(x: NDArray[np.int64], one: int, other: int, tables: Tables, room: _Room, rounding: float) -> int:
    """1 or -1 where the margin of two classes has one sign on the whole box, else 0 and ``room`` holds its expansion."""
    _excess(x, one, other, tables, room)
    for second_order in (False, True):
        _margin(x, one, other, tables, room, rounding, second_order)
        if room.found[_LOWEST] + room.found[_BELOW] - rounding > 0:
            return 1
        if room.found[_LOWEST] + room.found[_SPAN] + room.found[_ABOVE] + rounding < 0:
            return -1
    return 0


@compiled()
def _bound(
    x: NDArray[np.int64], query: int, classes: int, tables: Tables, room: _Room
) -> tuple[float, float, int, int]:
    """Problems of the box proven right and proven wrong, the classes that may be largest in it, the position to fix next.

    ``classes`` has a bit for every class that may be the largest logit somewhere in the box. A problem is right if the right class's logit
    is above all others; a tie is wrong, and never proven right.
    """
    n = len(x) // 2
    size = 1.0
    for p in range(len(x)):
        if x[p] < 0:
            size *= 10.0
    carry = _carry(x, query)
    first = 0 if query == n else (x[query] + x[query + n]) % 10
    second = (first + 1) % 10
    if carry == 1:
        first = second
    if carry >= 0 and not classes >> first & 1:
        return 0.0, size, classes, -1
    rounding = _prepare(x, tables, room)
    right, wrong, missed, widest, position = size, 0.0, 0.0, 0.0, -1
    if carry < 0:
        sign = 0
        if classes >> first & 1 and classes >> second & 1:
            sign = _settle(x, first, second, tables, room, rounding)
            if sign:
                classes &= ~(1 << (second if sign > 0 else first))
        elif classes >> first & 1:
            sign = 1
        elif classes >> second & 1:
            sign = -1
        else:
            return 0.0, size, classes, -1
        if sign:
            # The margin's sign is known: all bins count for it.
            room.additive[:], room.found[:] = 0.0, 0.0
            room.found[_LOWEST] = sign
        above_0, below_0, above_1, below_1 = _count(x, query, True, room)
        right, wrong = above_0 + below_1, below_0 + above_1
        widest = size - right - wrong
        if widest > 0:
            position = _next_position(x, tables, room)
    for other in range(len(tables.base)):
        if not classes >> other & 1 or other == first or (carry < 0 and other == second):
            continue
        # Where the carry is open, a class is in the way only if it beats both candidates: the better of two bounds.
        least = size
        for side in range(1 if carry >= 0 else 2):
            one = first if side == 0 else second
            if not classes >> one & 1:
                continue
            sign = _settle(x, one, other, tables, room, rounding)
            if sign > 0:
                classes &= ~(1 << other)
                least = 0.0
                break
            if sign < 0:
                classes &= ~(1 << one)
                continue
            above, below, _, _ = _count(x, query, False, room)
            least = min(least, size - above)
            if carry >= 0:
                wrong = max(wrong, below)
            if size - above - below > widest:
                widest, position = size - above - below, _next_position(x, tables, room)
        if carry >= 0 and not classes >> first & 1:
            return 0.0, size, classes, -1
        missed += least
    right = max(0.0, right - missed)
    wrong = min(wrong, size - right)
    if right + wrong < size and position < 0:
        position = _first_free(x)
    return right, wrong, classes, position if right + wrong < size else -1


@compiled()
def _first_free(x: NDArray[np.int64]) -> int:
    for p in range(len(x)):
        if x[p] < 0:
            return p
    return -1


@compiled()
def bound_boxes(
    boxes: NDArray[np.int8],
    classes: NDArray[np.int64],
    query: int,
    tables: Tables,
    counts: NDArray[np.float64],
    position: NDArray[np.int8],
) -> None:
    """Bounds of many boxes: digits ``boxes [box, position]`` (-1 where free) with the column of the answer digit ``query`` fixed.

    Writes ``counts [box, (right, wrong)]``, ``position [box]``, the one to fix next (-1: nothing is left open, or nothing is left to fix), and what remains of
    ``classes [box]``.
    """
    room = _room(tables)
    x = np.empty(boxes.shape[1], np.int64)
    for i in range(len(boxes)):
        x[:] = boxes[i]
        counts[i, 0], counts[i, 1], classes[i], position[i] = _bound(x, query, classes[i], tables, room)
