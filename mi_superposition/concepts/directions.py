"""Directions of concepts by their mean, and whether texts never seen lie along them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_superposition.errors import RequestError
from mi_superposition.linalg import unit_rows
from mi_superposition.training import seeded_generator

_DEALS = 1000


@dataclass(frozen=True)
class ConceptDirections:
    """A unit direction for each concept, from the centre of all texts it was made of."""

    centre: Float[Tensor, " d"]
    directions: Float[Tensor, "concept d"]

    def cosines(self, points: Float[Tensor, "text d"]) -> Float[Tensor, "text concept"]:
        """Cosine (-1 to 1) of each centred text with each direction; 0 for a text at the centre."""
        return unit_rows(points - self.centre) @ self.directions.T


def concept_directions(
    points: Float[Tensor, "text d"], labels: Int[Tensor, " text"], n_concepts: int
) -> ConceptDirections:
    """The mean of each concept's texts less that of all other texts; texts with the label -1 belong to none.

    Without the centring all means point alike, and every text seems to lie along every concept. Raises ``RequestError`` for
    a concept without texts or without others.
    """
    directions = []
    for concept in range(n_concepts):
        member = labels == concept
        if not bool(member.any()) or bool(member.all()):
            raise RequestError(
                f"concept {concept} is that of {int(member.sum())} of {len(labels)} texts: it needs some with it and some without"
            )
        directions.append(points[member].mean(dim=0) - points[~member].mean(dim=0))
    return ConceptDirections(points.mean(dim=0), unit_rows(torch.stack(directions)))


@dataclass(frozen=True)
class Separation:
    """How a score differs between the texts of a concept and the others.

    ``inside`` and ``outside`` are mean scores, ``p`` the share of random assignments with as large a difference (one-sided, at
    least 1 over their number and one).
    """

    inside: float
    outside: float
    p: float

    @property
    def difference(self) -> float:
        """Inside less outside."""
        return self.inside - self.outside


def separation(
    scores: Float[Tensor, " text"],
    member: Bool[Tensor, " text"],
    groups: Int[Tensor, " text"] | None = None,
    *,
    permutations: int = 1000,
    seed: int = 0,
) -> Separation:
    """Permutation test of a score. Texts of one group, such as those with the same word, keep together: whole groups
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


def principal_coordinates(
    points: Float[Tensor, "text d"], k: int = 2
) -> tuple[Float[Tensor, "text k"], Float[Tensor, " k"]]:
    """Coordinates along the first k principal components, and the share of the variance along each (0 to 1)."""
    centred = (points - points.mean(dim=0)).double()
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    shares = values.square() / values.square().sum().clamp_min(1e-300)
    return (left[:, :k] * values[:k]).float(), shares[:k].float()


def between(points: Float[Tensor, "text two"], labels: Int[Tensor, " text"]) -> float:
    """Share (0 to 1) of the variance of points that lies between the means of their labels."""
    total = (points - points.mean(dim=0)).square().sum()
    kept = sum(
        float((labels == kind).sum() * (points[labels == kind].mean(dim=0) - points.mean(dim=0)).square().sum())
        for kind in labels.unique().tolist()
    )
    return kept / max(float(total), 1e-30)


def dealt_by_group(labels: Int[Tensor, " text"], groups: Int[Tensor, " text"], seed: int) -> Int[Tensor, " text"]:
    """Labels with whole groups dealt anew: texts with one word lie together whatever their concept is."""
    _, group = groups.unique(return_inverse=True)
    of_group = torch.zeros(int(group.max()) + 1, dtype=torch.long).index_put_((group,), labels)
    order = torch.randperm(len(of_group), generator=seeded_generator(seed, "dealt groups"))
    return of_group[order][group]


def same_less_other(
    matrix: Float[Tensor, "word word"], owner: Int[Tensor, " word"], *, deals: int = _DEALS
) -> Separation:
    """Mean entry of pairs of words with one owner, and of pairs with two; ``p`` by dealing the words anew so many times."""
    apart = ~torch.eye(len(owner), dtype=torch.bool)

    def means(owner: Tensor) -> tuple[float, float]:
        same = owner[:, None] == owner[None, :]
        return float(matrix[same & apart].mean()), float(matrix[~same].mean())

    inside, outside = means(owner)
    generator = seeded_generator(0, "words dealt anew")
    drawn = [means(owner[torch.randperm(len(owner), generator=generator)]) for _ in range(deals)]
    as_large = sum(one - other >= inside - outside for one, other in drawn)
    return Separation(inside, outside, (as_large + 1) / (deals + 1))
