"""Accumulators for data that does not fit into memory. ``merge(a, b)`` equals one pass over both."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from mi_superposition.errors import RequestError

# Numbers that are centred at once: 32 MB of them, or 64 MB in double precision.
_NUMBERS_AT_ONCE = 1 << 23
# Of a product that is symmetric, blocks of so many rows are multiplied from the diagonal on.
_ROWS_AT_ONCE = 256


def covariance_bytes(widths: Iterable[int]) -> int:
    """About how much memory accumulators for vectors of these widths take, the products of a batch and the eigenvalues of the widest
    included.
    """
    squares = [width**2 for width in widths]
    return 8 * (sum(squares) + 3 * max(squares, default=0))


class CovarianceAccumulator:
    """Counts, means and centred products of vectors, accumulated in float64: memory independent of how many there are.

    ``precise`` multiplies in float64 too, at half the speed: directions of no variance are then zero to 1e-8 of the largest
    deviation and not to 1e-4.

    Source: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance", equation 2.1.
    """

    def __init__(self, d: int, *, precise: bool = False):
        self.precise = precise
        self.n = 0
        self.mean = torch.zeros(d, dtype=torch.float64)
        self.products = torch.zeros(d, d, dtype=torch.float64)

    def update(self, vectors: Float[Tensor, "sample d"]) -> None:
        """Add samples. Raises ``RequestError`` for a NaN or an infinity."""
        if not len(vectors):
            return
        if not vectors.isfinite().all():
            raise RequestError("the samples hold a NaN or an infinity: a covariance needs finite numbers")
        for block in vectors.split(max(1, _NUMBERS_AT_ONCE // vectors.shape[1])):
            self._add_block(block)

    def _add_block(self, vectors: Float[Tensor, "sample d"]) -> None:
        # Centred before the product: what is left is small enough for the fast float32 product. Centred twice, as a mean in single
        # precision is off in its last digits: what never varies would seem to.
        vectors = vectors.double() if self.precise else vectors.float()
        about = vectors.mean(dim=0)
        centred = vectors - about
        left = centred.mean(dim=0)
        centred -= left
        mean = about.double() + left.double()
        for first in range(0, centred.shape[1], _ROWS_AT_ONCE):
            rows, below = slice(first, first + _ROWS_AT_ONCE), slice(first + _ROWS_AT_ONCE, None)
            products = (centred[:, rows].T @ centred[:, first:]).cpu()
            self.products[rows, first:] += products
            self.products[below, rows] += products[:, _ROWS_AT_ONCE:].T
        self._shift(len(vectors), mean.cpu())

    def _shift(self, n: int, mean: Float[Tensor, " d"]) -> None:
        """From the products around two means, that of the samples seen and that of ``n`` more, to those around the mean of all."""
        total = self.n + n
        shift = mean - self.mean
        # In place: at thousands of dimensions a temporary costs more than the sum.
        self.products.addr_(shift, shift, alpha=self.n * n / total)
        self.mean += shift * (n / total)
        self.n = total

    @classmethod
    def merge(cls, a: CovarianceAccumulator, b: CovarianceAccumulator) -> CovarianceAccumulator:
        """What one accumulator would hold after both passes."""
        merged = cls(len(a.mean), precise=a.precise and b.precise)
        for part in (a, b):
            if part.n:
                merged.products += part.products
                merged._shift(part.n, part.mean)
        return merged

    def covariance(self) -> Float[Tensor, "d d"]:
        """Covariance (squared units of the vectors), over the number of samples. float64.

        Raises ``RequestError`` without samples.
        """
        if not self.n:
            raise RequestError("0 samples: a covariance needs at least 1")
        return self.products / self.n

    def correlation(self) -> Float[Tensor, "d d"]:
        """Pearson correlation (dimensionless); 0 with and of anything that never varied. float32.

        Raises ``RequestError`` with fewer than two samples.
        """
        if self.n < 2:
            raise RequestError(f"{self.n} samples: a correlation needs at least 2")
        deviation = self.products.diagonal().clamp_min(0).sqrt()
        varies = deviation > 1e-9 * (self.n**0.5) * self.mean.abs().clamp_min(1e-30)
        inverse = torch.where(varies, 1 / deviation.clamp_min(1e-300), 0.0)
        return (self.products * inverse[:, None] * inverse).float().clamp_(-1, 1)
