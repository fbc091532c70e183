"""Bounds for one box, compiled: how many of its problems are proven right, and how many proven wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mi_superposition.addition.certificate.counting import carry_into, count
from mi_superposition.addition.certificate.expansion import excess, expand_margin, prepare
from mi_superposition.addition.certificate.layout import (
    ABOVE,
    BELOW,
    D_HIGH,
    D_LOW,
    E_HIGH,
    E_LOW,
    LOWEST,
    LOWEST_HIGH,
    SPAN_HIGH,
    WIDTH,
    Room,
    Tables,
    new_room,
)
from mi_superposition.neurons.compiled import compiled


@compiled()
def _next_position(x: NDArray[np.int64], tables: Tables, room: Room) -> int:
    """The free position whose digit, once fixed, narrows the last margin's interval most, by each head's shares in e and d."""
    head = room.head
    best, found = -1.0, -1
    for p in range(len(x)):
        if x[p] >= 0:
            continue
        total = room.score[p]
        for h in range(tables.weight.shape[2]):
            e_range, d_range = head[E_HIGH, h] - head[E_LOW, h], head[D_HIGH, h] - head[D_LOW, h]
            if head[WIDTH, h] > 0.0:
                share = (room.excess_high[p, h] - room.excess_low[p, h]) / e_range if e_range > 0.0 else 0.0
                if d_range > 0.0:
                    share += (tables.weight_high[p, h] - tables.weight_low[p, h]) / d_range
                total += head[WIDTH, h] * share
        if total > best:
            best, found = total, p
    return found


@compiled()
def _settle(x: NDArray[np.int64], one: int, other: int, tables: Tables, room: Room, rounding: float) -> int:
    """1 or -1 where the margin of two classes has one sign on the whole box, else 0 and ``room`` holds its expansion."""
    excess(x, one, other, tables, room)
    for second_order in (False, True):
        expand_margin(x, one, other, tables, room, rounding, second_order)
        if room.found[LOWEST] + room.found[BELOW] - rounding > 0:
            return 1
        if room.found[LOWEST_HIGH] + room.found[SPAN_HIGH] + room.found[ABOVE] + rounding < 0:
            return -1
    return 0


@compiled()
def _bound(x: NDArray[np.int64], query: int, classes: int, tables: Tables, room: Room) -> tuple[float, float, int, int]:
    """Problems of the box proven right and proven wrong, the classes that may be largest in it, the position to fix next.

    ``classes`` has a bit for every class that may be the largest logit somewhere in the box. A problem is right if the right class's logit
    is above all others; a tie is wrong, and never proven right.
    """
    n = len(x) // 2
    size = 1.0
    for p in range(len(x)):
        if x[p] < 0:
            size *= 10.0
    carry = carry_into(x, query)
    first = 0 if query == n else (x[query] + x[query + n]) % 10
    second = (first + 1) % 10
    if carry == 1:
        first = second
    if carry >= 0 and not classes >> first & 1:
        return 0.0, size, classes, -1
    rounding = prepare(x, tables, room)
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
            room.found[LOWEST] = sign
        above_0, below_0, above_1, below_1 = count(x, query, True, room)
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
            above, below, _, _ = count(x, query, False, room)
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
    room = new_room(tables)
    x = np.empty(boxes.shape[1], np.int64)
    for i in range(len(boxes)):
        x[:] = boxes[i]
        counts[i, 0], counts[i, 1], classes[i], position[i] = _bound(x, query, classes[i], tables, room)
