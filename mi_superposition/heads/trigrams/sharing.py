"""How heads share features: the matrix of features and heads in numbers, beside the same with its entries permuted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control, t
from torch import Tensor


def participation_ratio(effects: Float[Tensor, "feature head"]) -> Float[Tensor, " feature"]:
    """Effective number of heads of each feature: (sum of magnitudes)² over the sum of squares, as the effects of heads add up.

    1 for a single head, n for n equal ones. Noise in small entries raises it; see ``unbiased_participation_ratio``.
    """
    magnitude = effects.double().abs()
    return (magnitude.sum(1).square() / magnitude.square().sum(1).clamp_min(1e-300)).float()


def unbiased_participation_ratio(
    effects: Float[Tensor, "feature head"], errors: Float[Tensor, "feature head"]
) -> Float[Tensor, " feature"]:
    """Effective number of heads by squared effects, (sum m²)² over sum m⁴, with noise taken out.

    With e = m + noise of standard error s, e² - s² has the mean m² and e⁴ - 6 e² s² + 3 s⁴ the mean m⁴ (Hermite polynomials); the square of
    the first sum has its own variance, 4 m² s² + 2 s⁴ for each head, taken off. Not a number where nothing is left of a sum. At least 1, at
    most the number of heads. Ours.
    """
    e, s = effects.double(), errors.double()
    squares = e.square() - s.square()
    fourth = (e**4 - 6 * e.square() * s.square() + 3 * s**4).sum(1)
    upper = squares.sum(1).square() - (4 * squares * s.square() + 2 * s**4).sum(1)
    left = (squares.sum(1) > 0) & (fourth > 0) & (upper > 0)
    ratio = torch.where(left, upper / fourth.clamp_min(1e-300), torch.nan)
    return ratio.clamp(1, effects.shape[1]).float()


def carriers(
    effects: Float[Tensor, "feature head"],
    errors: Float[Tensor, "feature head"],
    n_documents: Int[Tensor, " feature"],
    *,
    level: float = 0.05,
    least_share: float = 0.1,
) -> Bool[Tensor, "feature head"]:
    """Which heads carry which feature: the effect is above zero (t-test over documents, false discoveries over the whole matrix at
    ``level``) and at least ``least_share`` of the sum of magnitudes of the feature's effects.
    """
    degrees = (n_documents - 1).clamp_min(1)[:, None].expand_as(effects)
    ratio = (effects / errors.clamp_min(1e-12)).nan_to_num(0.0)
    p = t.sf(ratio.double().numpy(), degrees.numpy())
    significant = torch.from_numpy(false_discovery_control(p.ravel()).reshape(p.shape) < level)
    share = effects / effects.abs().sum(1, keepdim=True).clamp_min(1e-12)
    return significant & (share >= least_share)


def disjoint(trigrams: Sequence[tuple[str, str, str]]) -> list[int]:
    """As many of the trigrams as a greedy search finds of which no two have a token in common, apart from capitals and spaces."""
    words = [{token.strip().lower() for token in trigram} for trigram in trigrams]
    shared = [sum(bool(one & other) for other in words) for one in words]
    chosen: list[int] = []
    taken: set[str] = set()
    for number in sorted(range(len(words)), key=lambda number: (shared[number], number)):
        if not words[number] & taken:
            chosen.append(number)
            taken |= words[number]
    return sorted(chosen)


def identified(first: Float[Tensor, "feature head"], second: Float[Tensor, "feature head"]) -> Bool[Tensor, " feature"]:
    """Which features are told apart from all others by their heads: of all rows of ``second`` (measured on other documents) the one
    nearest in direction to the feature's row of ``first`` is its own, and the other way round.

    A test of distinct profiles, as brain scans are identified by their connections (Finn et al. 2015).
    """
    cosine = _unit(first) @ _unit(second).T
    own = torch.arange(len(first))
    return (cosine.argmax(1) == own) & (cosine.argmax(0) == own)


@dataclass(frozen=True)
class Factorisation:
    """Held-out variance that ``n_atoms`` groups of heads explain, each feature being carried by one group: ``explained``. Beside it
    ``subspace``: the same by as many directions that each feature may mix as it likes.
    """

    n_atoms: list[int]
    explained: list[float]
    subspace: list[float]

    def needed(self, share: float = 0.9) -> int | None:
        """Groups that explain ``share`` of what the largest number of groups does; ``None`` without any."""
        if not self.explained or max(self.explained) <= 0:
            return None
        goal = share * max(self.explained)
        return next(n for n, found in zip(self.n_atoms, self.explained, strict=True) if found >= goal)


def factorise(
    first: Float[Tensor, "feature head"], second: Float[Tensor, "feature head"], n_atoms: Sequence[int], seed: int
) -> Factorisation:
    """Groups of heads from ``first``, every feature by a multiple of one of them, judged on ``second`` (other documents).

    Rows are divided by their length first, so that every feature counts alike. Groups: lines through the origin, by k-means on lines
    (each atom the first singular vector of its features), started from rows far from each other; the best of three starts.
    """
    size = first.double().norm(dim=1, keepdim=True).clamp_min(1e-30)
    train, test = first.double() / size, second.double() / size
    total = float(test.square().sum())
    explained, subspace = [], []
    _, _, directions = torch.linalg.svd(train, full_matrices=False)
    for n in n_atoms:
        approximation = min(
            (_lines(train, n, seed + start) for start in range(3)), key=lambda one: float((train - one).square().sum())
        )
        explained.append(1 - float((test - approximation).square().sum()) / total)
        some = directions[:n]
        subspace.append(1 - float((test - train @ some.T @ some).square().sum()) / total)
    return Factorisation(list(n_atoms), explained, subspace)


def _lines(rows: Float[Tensor, "feature head"], n: int, seed: int) -> Float[Tensor, "feature head"]:
    """Every row replaced by its part along the nearest of ``n`` lines."""
    generator = torch.Generator().manual_seed(seed)
    atoms = rows[torch.randint(len(rows), (1,), generator=generator)]
    atoms = _unit(atoms)
    while len(atoms) < min(n, len(rows)):
        missed = (rows.square().sum(1) - (rows @ atoms.T).square().amax(1)).clamp_min(1e-15)
        atoms = torch.cat([atoms, _unit(rows[torch.multinomial(missed, 1, generator=generator)])])
    belongs = (rows @ atoms.T).square().argmax(1)
    for _ in range(50):
        for number in belongs.unique().tolist():
            atoms[number] = torch.linalg.svd(rows[belongs == number], full_matrices=False).Vh[0]
        moved = (rows @ atoms.T).square().argmax(1)
        if torch.equal(moved, belongs):
            break
        belongs = moved
    own = atoms[belongs]
    return (rows * own).sum(1, keepdim=True) * own


def spectrum_ratio(effects: Float[Tensor, "feature head"]) -> float:
    """Effective number of directions that the features' head profiles span: participation ratio of the squared singular values, rows
    divided by their length.
    """
    energy = torch.linalg.svdvals(_unit(effects.double())).square()
    return float(energy.sum().square() / energy.square().sum().clamp_min(1e-300))


def permuted(
    matrices: Sequence[Float[Tensor, "feature head"]], across: str, generator: torch.Generator
) -> list[Float[Tensor, "feature head"]]:
    """The matrices with their entries permuted alike: ``"heads"``, within each row (every feature keeps its sizes), or ``"features"``,
    within each column (every head keeps its sizes).
    """
    n_features, n_heads = matrices[0].shape
    if across == "heads":
        order = torch.stack([torch.randperm(n_heads, generator=generator) for _ in range(n_features)])
        return [matrix.gather(1, order) for matrix in matrices]
    order = torch.stack([torch.randperm(n_features, generator=generator) for _ in range(n_heads)], dim=1)
    return [matrix.gather(0, order) for matrix in matrices]


def _unit(rows: Float[Tensor, "feature head"]) -> Float[Tensor, "feature head"]:
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30)


def mean_and_error(values: Float[Tensor, " feature"] | np.ndarray) -> tuple[float, float]:
    """Mean over features and its standard error; of those that are numbers."""
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    if len(known) < 2:
        return (float(known.mean()) if len(known) else float("nan")), float("nan")
    return float(known.mean()), float(known.std(ddof=1) / len(known) ** 0.5)
