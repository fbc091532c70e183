"""The numbers that bounds are made from, and the places for those on the way, as compiled code reads and writes them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mi_superposition.neurons.compiled import compiled

# Sums may be taken in any order: the bound on rounding errors holds for every order.
FAST = {"reassoc", "contract", "nsz"}
# Bins of the distribution of a margin's additive part.
BINS = 1024


class Tables(NamedTuple):
    """One query's tables; ``position`` is one of the 2 n operand positions, ``digit`` what stands there.

    ``weight [position, digit, head]``, ``value [position, digit, class, head]`` in logits, ``weight * value`` as ``numerator``; what the
    ``=`` positions give: ``weight_equals [head]``, ``numerator_equals [class, head]``, ``value_equals [key, class, head]``; ``base [class]``;
    ``largest [head]``, the largest magnitude of the head's values. The other fields are what these give: smallest, largest and mean weight
    and the mean numerator at each position; ``quiet [position, head]``, the digit of smallest weight, and its numerators.
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
    quiet: NDArray[np.int64]
    numerator_quiet: NDArray[np.float64]


class Room(NamedTuple):
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
    additive_high: NDArray[np.float64]
    bins: NDArray[np.int64]
    score: NDArray[np.float64]
    counts: NDArray[np.float64]
    found: NDArray[np.float64]


# Rows of ``Room.head``.
D_FIXED, D_LOW, D_HIGH, D_MEAN, RATIO, E_FIXED, E_LOW, E_HIGH, WIDTH, COEFFICIENT = range(10)
# Entries of ``Room.found``: of a margin.
LOWEST, SPAN, BELOW, ABOVE, ROUNDING, ONE_SIDED, LOWEST_HIGH, SPAN_HIGH = range(8)


@compiled()
def new_room(tables: Tables) -> Room:
    """Room for boxes of these tables."""
    positions, _, heads = tables.weight.shape
    classes = len(tables.base)
    return Room(
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
        np.zeros((positions, 10)),
        np.zeros((positions, 10), np.int64),
        np.zeros(positions),
        np.zeros((4, BINS + 2 * positions + 2)),
        np.zeros(8),
    )
