"""A similarity matrix as a run folder keeps it: half of it, one byte per entry."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int8
from torch import Tensor

# Entries of -1 to 1 are whole numbers -127 to 127, as in the tiles of the pages, which lose nothing more.
_STEPS = 127


@dataclass(frozen=True)
class PackedSimilarity:
    """A symmetric matrix with entries of -1 to 1, rounded to steps of 1/127.

    ``triangle`` holds the diagonal and what is above it, row by row. ``largest`` is the largest magnitude off the diagonal, not
    rounded.
    """

    triangle: Int8[Tensor, " pair"]
    largest: float

    @classmethod
    def of(cls, similarity: Float[Tensor, "neuron neuron"]) -> PackedSimilarity:
        """The matrix in short."""
        steps = (similarity * _STEPS).round().clamp(-_STEPS, _STEPS).to(torch.int8)
        largest = float(similarity.abs().fill_diagonal_(0).max())
        return cls(steps[_upper(len(similarity))], largest)

    def unpacked(self) -> Float[Tensor, "neuron neuron"]:
        """The matrix."""
        # n (n + 1) / 2 entries.
        n = (math.isqrt(8 * len(self.triangle) + 1) - 1) // 2
        matrix = torch.zeros(n, n)
        matrix[_upper(n)] = self.triangle.float() / _STEPS
        return matrix + matrix.triu(1).T


def _upper(n: int) -> Tensor:
    return torch.ones(n, n, dtype=torch.bool).triu()
