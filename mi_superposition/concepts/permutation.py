"""Permutation tests: whether a score differs between the texts of a concept and the others by more than chance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_superposition.concepts.config import ConceptsConfig
from mi_superposition.errors import RequestError
from mi_superposition.parts import SeedPart
from mi_superposition.training import seeded_generator


@dataclass(frozen=True)
class Separation:
    """How a score differs between the texts of a concept and the others.

    ``inside`` and ``outside`` are mean scores, ``p`` the fraction of permutations with at least this difference (one-sided, at
    least 1 over their number and one).
    """

    inside: float
    outside: float
    p: float

    @property
    def difference(self) -> float:
        """Inside minus outside."""
        return self.inside - self.outside


def separation(
    scores: Float[Tensor, " text"],
    member: Bool[Tensor, " text"],
    groups: Int[Tensor, " text"] | None = None,
    *,
    permutations: int = ConceptsConfig.permutations,
    seed: int = SeedPart.seed,
) -> Separation:
    """Permutation test of a score. Texts of one group, such as those with the same word, are permuted together: whole groups
    change sides. Raises ``RequestError`` where all or none are members, or a group has both.
    """
    groups = torch.arange(len(scores)) if groups is None else groups
    _, group = groups.unique(return_inverse=True)
    n = int(group.max()) + 1
    counts = torch.zeros(n, dtype=torch.float64).index_add_(0, group, torch.ones(len(group), dtype=torch.float64))
    sums = torch.zeros(n, dtype=torch.float64).index_add_(0, group, scores.double())
    inside = torch.zeros(n, dtype=torch.float64).index_add_(0, group, member.double())
    if bool(((inside > 0) & (inside < counts)).any()):
        raise RequestError("a group has texts of the concept and others: give groups that lie on one side")
    flags = inside > 0
    if not 0 < int(flags.sum()) < n:
        raise RequestError(
            f"{int(member.sum())} of {len(member)} texts are of the concept: give some with it and some without"
        )
    generator = seeded_generator(seed, "permutations")
    order = torch.rand(permutations, n, generator=generator).argsort(dim=1)
    drawn = torch.cat([flags[None], flags[order]]).double()

    def means(of: Tensor) -> Tensor:
        return (of @ sums) / (of @ counts)

    within, beyond = means(drawn), means(1 - drawn)
    differences = within - beyond
    # The assignment itself is one of those that could have come out, so p is never 0.
    p = float((differences[1:] >= differences[0] - 1e-12).sum() + 1) / (permutations + 1)
    return Separation(float(within[0]), float(beyond[0]), p)


def pair_separation(
    matrix: Float[Tensor, "word word"], owner: Int[Tensor, " word"], *, permutations: int = ConceptsConfig.permutations
) -> Separation:
    """Mean entry of pairs of words with one owner (inside), and of pairs with two (outside); ``p`` by permuting the words across
    owners.
    """
    apart = ~torch.eye(len(owner), dtype=torch.bool)

    def means(owner: Tensor) -> tuple[float, float]:
        same = owner[:, None] == owner[None, :]
        return float(matrix[same & apart].mean()), float(matrix[~same].mean())

    inside, outside = means(owner)
    # The name of a random stream stays as it is: it decides what is drawn.
    generator = seeded_generator(0, "words dealt anew")
    drawn = [means(owner[torch.randperm(len(owner), generator=generator)]) for _ in range(permutations)]
    as_large = sum(one - other >= inside - outside for one, other in drawn)
    return Separation(inside, outside, (as_large + 1) / (permutations + 1))
