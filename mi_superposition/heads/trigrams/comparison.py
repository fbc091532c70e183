"""The matrix of features and heads beside the same matrix with its entries permuted within rows or within columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mi_superposition.heads.trigrams.carried import EdgeTable
from mi_superposition.heads.trigrams.sharing import factorise, identified, permuted, spectrum_ratio
from mi_superposition.training import seeded_generator

# What the matrix is compared with: entries permuted within each feature's row, or within each head's column.
PERMUTED = {"permuted within features": "heads", "permuted within heads": "features"}
OBSERVED = "observed"


@dataclass(frozen=True)
class MatrixNumbers:
    """One kind of matrix in numbers, means over its samples and, of permuted ones, standard deviations over samples.

    ``spectrum``: effective number of directions of the rows. ``told_apart``: features whose profile over heads, from half of the documents,
    is nearer to their own from the other half than to any other's. ``n_atoms`` and ``explained``: share of the held-out squared length of
    the rows that so many groups of heads explain, one group for each feature; ``subspace``: as many directions that every feature may mix.
    ``needed``: groups for 90 % of what the largest number of them explains.
    """

    spectrum: float
    spectrum_sd: float
    told_apart: float
    told_apart_sd: float
    needed: float
    needed_sd: float
    n_atoms: list[int]
    explained: list[float]
    subspace: list[float]


def compare_matrices(table: EdgeTable, *, n_permuted: int, seed: int) -> dict[str, MatrixNumbers]:
    """The observed matrix of total effects and the permuted ones, entries of both halves of the documents permuted alike."""
    whole, first, second = table.heads, table.halves[0, :, :-1], table.halves[1, :, :-1]
    sizes = atoms_tried(len(whole), whole.shape[1])
    found = {OBSERVED: _numbers([(whole, first, second)], sizes, seed)}
    for name, across in PERMUTED.items():
        generator = seeded_generator(seed, name)
        samples = [permuted([whole, first, second], across, generator) for _ in range(n_permuted)]
        found[name] = _numbers(samples, sizes, seed)
    return found


def atoms_tried(n_features: int, n_heads: int) -> list[int]:
    """Numbers of groups: powers of two, and 1, 2 and 4 for every head, up to half the features and at most 256."""
    wanted = {*(2**power for power in range(9)), n_heads, 2 * n_heads, 4 * n_heads}
    return sorted(n for n in wanted if n <= min(max(n_features // 2, 1), 256))


def _numbers(
    samples: Sequence[Sequence[Float[Tensor, "feature head"]]], sizes: Sequence[int], seed: int
) -> MatrixNumbers:
    spectra = [spectrum_ratio(whole) for whole, _, _ in samples]
    apart = [float(identified(first, second).sum()) for _, first, second in samples]
    factored = [factorise(first, second, sizes, seed) for _, first, second in samples]
    needed = [float("nan") if (n := one.needed()) is None else float(n) for one in factored]
    return MatrixNumbers(
        *_mean_and_deviation(spectra),
        *_mean_and_deviation(apart),
        *_mean_and_deviation(needed),
        n_atoms=list(sizes),
        explained=np.mean([one.explained for one in factored], axis=0).tolist(),
        subspace=np.mean([one.subspace for one in factored], axis=0).tolist(),
    )


def _mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
