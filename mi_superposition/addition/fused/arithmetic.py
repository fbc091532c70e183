"""Products of small matrices and the exponential, compiled so that the processor's vectors do them.

Arrays are indexed to their last axis and never sliced in a loop, here and in the other modules: a slice costs two locked
counts of references, and the sum of two indices might be negative for all the compiler knows, which keeps it from using
vectors. ``error_model="numpy"`` for the same reason: a division that may raise an error is done alone.
"""

from __future__ import annotations

import math

import numpy as np

from mi_superposition.neurons.compiled import compiled

# Sums may be taken in any order, so that several are taken at once; always in the same one.
SUMS_IN_ANY_ORDER = {"reassoc", "contract"}

# exp(x) = 2^n exp(x - n ln 2) with ln 2 in two parts, and the series of exp on [-ln 2 / 2, ln 2 / 2] to the seventh power
# (the next term is below 1e-8).
_LOG2_E, _LN2_HIGH, _LN2_LOW = (
    np.float32(1 / math.log(2)),
    np.float32(0.693359375),
    np.float32(math.log(2) - 0.693359375),
)
_C2, _C3, _C4, _C5, _C6, _C7 = (np.float32(1 / math.factorial(power)) for power in range(2, 8))
HALF, ONE, ZERO = np.float32(0.5), np.float32(1), np.float32(0)
_LEAST_EXPONENT, _LN2 = np.float32(-86), np.float32(math.log(2))


@compiled(error_model="numpy", fastmath={"contract"})
def exponential(x, power):
    """``2^power exp(x)`` of every number ``[row, column]``, none above zero, in place; NaN stays NaN.

    ``power`` is 0 to 120. What is under ``exp(-86 - power ln 2)`` becomes zero: subnormal numbers would be slow.
    """
    least = _LEAST_EXPONENT - np.float32(power) * _LN2
    for r in range(x.shape[0]):
        for c in range(x.shape[1]):
            value = x[r, c]
            n = np.floor((value if value > least else least) * _LOG2_E + HALF)
            rest = value - n * _LN2_HIGH
            rest = rest - n * _LN2_LOW
            series = ((((_C7 * rest + _C6) * rest + _C5) * rest + _C4) * rest + _C3) * rest + _C2
            # The float whose exponent is n + power.
            scale = np.int32((np.int32(n) + np.int32(127 + power)) << np.int32(23)).view(np.float32)
            x[r, c] = ZERO if value < least else (series * rest * rest + rest + ONE) * scale


@compiled(error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def add_product(x, w, y):
    """y += x w. Four rows of w at a time, so that y is loaded and stored a quarter as often."""
    n, width = w.shape
    for r in range(x.shape[0]):
        for m in range(0, n // 4 * 4, 4):
            x0, x1, x2, x3 = x[r, m], x[r, m + 1], x[r, m + 2], x[r, m + 3]
            for c in range(width):
                y[r, c] += (x0 * w[m, c] + x1 * w[m + 1, c]) + (x2 * w[m + 2, c] + x3 * w[m + 3, c])
        for m in range(n // 4 * 4, n):
            x0 = x[r, m]
            for c in range(width):
                y[r, c] += x0 * w[m, c]


@compiled(error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def add_transposed_product(x, y, w):
    """w += x^T y."""
    n, width = y.shape
    for m in range(w.shape[0]):
        for r in range(0, n // 4 * 4, 4):
            x0, x1, x2, x3 = x[r, m], x[r + 1, m], x[r + 2, m], x[r + 3, m]
            for c in range(width):
                w[m, c] += (x0 * y[r, c] + x1 * y[r + 1, c]) + (x2 * y[r + 2, c] + x3 * y[r + 3, c])
        for r in range(n // 4 * 4, n):
            x0 = x[r, m]
            for c in range(width):
                w[m, c] += x0 * y[r, c]


@compiled(error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def add_product_transposed(y, w, x):
    """x += y w^T."""
    for r in range(y.shape[0]):
        for m in range(w.shape[0]):
            total = ZERO
            for c in range(y.shape[1]):
                total += y[r, c] * w[m, c]
            x[r, m] += total
