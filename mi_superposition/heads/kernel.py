"""How predictions change, logit by logit in one pass over them: compiled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mi_superposition.neurons.compiled import compiled

# Beyond so many nats a single-precision exponential is of no use: such a row is left to others.
FARTHEST = 80.0
# e^r - 1 - r for |r| <= ln 2 / 2, to the precision of single numbers: Cephes' coefficients (Moshier 1989) of r^2, r^3, …
_C7, _C6, _C5, _C4, _C3, _C2 = (
    np.float32(c) for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)  # fmt: skip
# ln 2 in two parts, of which the first has few digits.
_LOG2_E, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504088896), np.float32(0.693359375), np.float32(-2.12194440e-4)
_ONE, _FARTHEST, _BIAS, _MANTISSA = np.float32(1), np.float32(FARTHEST), np.int32(127), np.int32(23)


# Sums in any order, so that sixteen numbers are taken at once; what is not finite stays so.
@compiled(fastmath={"reassoc", "contract", "nsz", "arcp"})
def change_sums(
    logits: NDArray[np.float32],
    probabilities: NDArray[np.float32],
    changed: NDArray[np.float32],
    mean: NDArray[np.float32],
    growth: NDArray[np.float32],
) -> None:
    """Of each row, with d = ``changed`` - ``logits``: ``mean``, the sum of p d, and ``growth``, that of p (e^d - 1); not a number for a
    row in which some d is farther than ``FARTHEST`` from zero or not a number.
    """
    for row in range(changed.shape[0]):
        first = np.float32(0)
        second = np.float32(0)
        within = 0
        for at in range(changed.shape[1]):
            d = changed[row, at] - logits[row, at]
            within += abs(d) <= _FARTHEST
            # e^d - 1 = 2^n (e^r - 1) + 2^n - 1 with d = n ln 2 + r.
            n = np.rint(d * _LOG2_E)
            r = (d - n * _LN2_HIGH) - n * _LN2_LOW
            q = ((((_C7 * r + _C6) * r + _C5) * r + _C4) * r + _C3) * r + _C2
            scale = np.int32((np.int32(n) + _BIAS) << _MANTISSA).view(np.float32)
            first += probabilities[row, at] * d
            second += probabilities[row, at] * (scale * (q * r * r + r) + (scale - _ONE))
        there = within == changed.shape[1]
        mean[row] = first if there else np.nan
        growth[row] = second if there else np.nan
