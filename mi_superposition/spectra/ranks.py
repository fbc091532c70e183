"""How many directions a layer uses: effective ranks of singular values, of weights and of activations.

What these numbers say of superposition: little by themselves. A low rank means that some directions carry almost no variance, not
that features share the others; a layer of full rank may have one feature per dimension or eight. Ranks bound the available
dimensions, and are compared with those of the same layer before training and of random matrices of its shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.linalg import eigvalsh_tridiagonal
from torch import Tensor

from mi_superposition.errors import RequestError
from mi_superposition.results import Result
from mi_superposition.spectra.config import ENERGY
from mi_superposition.training import derived_seed

# Of the law for real matrices (Tracy & Widom 1996).
_TRACY_WIDOM_99 = 2.0234
# Fields of ``EffectiveRanks``.
MEASURES = ("energy_rank", "sum_rank", "entropy_rank", "participation_ratio", "stable_rank")


@dataclass(frozen=True, repr=False)
class EffectiveRanks(Result):
    """Effective ranks of one spectrum (dimensionless, 0 to ``n``, the number of singular values).

    ``energy_rank``: the smallest number of singular values whose squares reach the fraction ``energy`` of the sum of all squares;
    ``sum_rank``: the same for the values themselves. ``entropy_rank``: exponential of the entropy of the singular values divided
    by their sum (Roy & Vetterli 2007, equation 4). ``participation_ratio``: the square of the sum of the squares, divided by the
    sum of the fourth powers. ``stable_rank``: the sum of the squares, divided by the largest square (Rudelson & Vershynin 2007).

    For n equal singular values the last three are n and the first two the fraction ``energy`` of n; for a single one all are 1.
    The first two count small values in full as soon as they are needed; the last two are dominated by the largest values.
    """

    DRAWN_BY: ClassVar[str] = "mi_superposition.figures.spectra:rank_measures"

    n: int
    energy_rank: int
    sum_rank: int
    entropy_rank: float
    participation_ratio: float
    stable_rank: float
    energy: float

    @property
    def energy_ratio(self) -> float:
        """``energy_rank`` divided by the number of singular values, min(rows, columns) of a matrix."""
        return self.energy_rank / self.n

    def summary(self) -> str:
        """The energy and the entropy rank, next to their maximum."""
        return (
            f"{self.energy_rank} of {self.n} singular directions explain {100 * self.energy:g} % of the sum of squared singular values; "
            f"entropy rank {self.entropy_rank:.1f}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per rank measure: its value, and relative to the number of singular values."""
        values = pd.Series({name: getattr(self, name) for name in MEASURES}, dtype=float)
        return pd.DataFrame({"rank": values, "relative_to_maximum": values / self.n}).rename_axis("measure")


def effective_ranks(singular_values: Float[Tensor, " value"], *, energy: float = ENERGY) -> EffectiveRanks:
    """The effective ranks of singular values in any order; all 0 if all values are. ``energy`` is the fraction of the sum that
    defines the energy and sum ranks.

    Raises ``RequestError`` for values that are negative or not finite, for no values, and for ``energy`` outside (0, 1].
    """
    if not 0 < energy <= 1:
        raise RequestError(f"energy = {energy}: must be above 0 and at most 1")
    if not len(singular_values) or not bool(singular_values.isfinite().all()) or bool((singular_values < 0).any()):
        raise RequestError("singular values must be finite, 0 or more, and at least one")
    values = singular_values.double().sort(descending=True).values
    n = len(values)
    if float(values[0]) == 0:
        return EffectiveRanks(n, 0, 0, 0.0, 0.0, 0.0, energy)
    # Only ratios count: without the largest, squares of tiny or huge values would leave the range.
    values = values / values[0]
    squares, shares = values.square(), values / values.sum()
    return EffectiveRanks(
        n=n,
        energy_rank=_fewest(squares, energy),
        sum_rank=_fewest(values, energy),
        entropy_rank=math.exp(-float(torch.special.xlogy(shares, shares).sum())),
        participation_ratio=float(squares.sum() ** 2 / squares.square().sum()),
        stable_rank=float(squares.sum()),
        energy=energy,
    )


def _fewest(values: Float[Tensor, " value"], fraction: float) -> int:
    """How many of the values, the largest first, reach a fraction of their sum."""
    # Rounding of the sum must not ask for one more.
    return int((values.cumsum(0) >= fraction * values.sum() * (1 - 1e-12)).int().argmax()) + 1


def weight_spectrum(matrix: Float[Tensor, "row column"]) -> Float[Tensor, " value"]:
    """Singular values, the largest first, in float64. Raises ``RequestError`` for a NaN or an infinity."""
    if not bool(matrix.isfinite().all()):
        raise RequestError("the matrix holds a NaN or an infinity: a spectrum needs finite numbers")
    return torch.linalg.svdvals(matrix.double())


def activation_spectrum(covariance: Float[Tensor, "channel channel"]) -> Float[Tensor, " value"]:
    """Square roots of the eigenvalues of a covariance, the largest first (units of the activations): the singular values of the
    centred activations divided by the square root of the number of samples.
    """
    return torch.linalg.eigvalsh(covariance.double()).clamp_min(0).sqrt().flip(0)


def marchenko_pastur_edge(rows: int, columns: int, deviation: float) -> float:
    """Where the singular values of a large random matrix with independent entries of that standard deviation end:
    ``deviation * (sqrt(rows) + sqrt(columns))`` (Marchenko & Pastur 1967; Bai & Yin 1993 for the largest).
    """
    return deviation * (math.sqrt(rows) + math.sqrt(columns))


def random_edge(rows: int, columns: int, deviation: float) -> float:
    """What the largest singular value of a matrix with independent entries of that standard deviation exceeds in one draw of a hundred.

    The Marchenko–Pastur edge is where the spectrum ends on average over large matrices; single draws cross it. This is the 99 % point of the
    Tracy–Widom law about that edge (Johnstone 2001, with the centring of Ma 2012), exact for large matrices with normal entries.
    """
    n, d = math.sqrt(rows - 0.5), math.sqrt(columns - 0.5)
    return deviation * math.sqrt((n + d) ** 2 + _TRACY_WIDOM_99 * (n + d) * (1 / n + 1 / d) ** (1 / 3))


def gaussian_spectrum(rows: int, columns: int, seed: int) -> Float[Tensor, " value"]:
    """Singular values of a random matrix with independent standard normal entries, the largest first: the control.

    The matrix itself, which may have as many rows as there are samples, is never made: it has the singular values of a bidiagonal
    one of independent chi-distributed entries, n, n - 1, … on the diagonal and d - 1, d - 2, … next to it (Dumitriu & Edelman 2002).
    """
    n, d = max(rows, columns), min(rows, columns)
    generator = np.random.default_rng(derived_seed(seed, "gaussian spectrum", rows * 1_000_003 + columns))
    diagonal, adjacent = generator.chisquare(n - np.arange(d)), generator.chisquare(np.arange(d - 1, 0, -1))
    # The squares are the eigenvalues of its product with its own transpose, which is tridiagonal.
    squares = eigvalsh_tridiagonal(diagonal + np.append(0.0, adjacent), np.sqrt(diagonal[:-1] * adjacent))
    return torch.from_numpy(np.sqrt(squares.clip(min=0)))[torch.arange(d - 1, -1, -1)]
