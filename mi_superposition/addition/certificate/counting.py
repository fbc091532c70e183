"""How many problems of a box have a margin of either sign: the distribution of its additive part, compiled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mi_superposition.addition.certificate.layout import (
    ABOVE,
    BELOW,
    BINS,
    FAST,
    LOWEST,
    LOWEST_HIGH,
    ONE_SIDED,
    ROUNDING,
    SPAN,
    SPAN_HIGH,
    Room,
)
from mi_superposition.neurons.compiled import compiled

# Few bins where more positions than these are free: such a box is divided anyway.
_FEW_BINS, _WIDE = 256, 7


@compiled(fastmath=FAST)
def _tally(
    x: NDArray[np.int64],
    query: int,
    carried: bool,
    room: Room,
    additive: NDArray[np.float64],
    lowest: float,
    span: float,
) -> tuple[float, float, float, float]:
    """The counts of ``count`` for an additive part with the given smallest value and span."""
    positions = len(x)
    n = positions // 2
    free = 0
    for p in range(positions):
        free += x[p] < 0
    step = span / (_FEW_BINS if free > _WIDE else BINS)
    if not step > 0.0:
        step = 1.0
    # How far a sum of bins may be from the sum that it stands for.
    short = long = 0.0
    for p in range(positions):
        if x[p] >= 0:
            continue
        least, most = np.inf, -np.inf
        for k in range(10):
            room.bins[p, k] = int(np.rint(additive[p, k] / step))
            error = additive[p, k] - room.bins[p, k] * step
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
                    shift = (room.bins[column, a] if x[column] < 0 else 0) + (
                        room.bins[column + n, b] if x[column + n] < 0 else 0
                    )
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
    above = lowest + room.found[BELOW] + short - room.found[ROUNDING]
    below = lowest + room.found[ABOVE] + long + room.found[ROUNDING]
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
def count(x: NDArray[np.int64], query: int, carried: bool, room: Room) -> tuple[float, float, float, float]:
    """Problems of the box by the sign of the margin, and with ``carried`` by the carry into the query's column.

    Returns those without carry whose margin is proven above zero and below zero, then those with carry. All counts are whole numbers
    that a float64 holds exactly.
    """
    found = room.found
    above_0, below_0, above_1, below_1 = _tally(x, query, carried, room, room.additive, found[LOWEST], found[SPAN])
    if found[ONE_SIDED] > 0:
        _, below_0, _, below_1 = _tally(
            x, query, carried, room, room.additive_high, found[LOWEST_HIGH], found[SPAN_HIGH]
        )
    return above_0, below_0, above_1, below_1


@compiled()
def carry_into(x: NDArray[np.int64], query: int) -> int:
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
