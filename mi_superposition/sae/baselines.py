"""What an autoencoder is compared with: untrained dictionaries, with as many features per token."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.errors import RequestError
from mi_superposition.linalg import unit_rows
from mi_superposition.parts import SeedPart
from mi_superposition.sae.evaluate import Reconstruct
from mi_superposition.streaming import CovarianceAccumulator
from mi_superposition.training import seeded_generator

# Added to a Gram matrix of unit vectors, so that two that are all but equal can be told apart in single precision.
_RIDGE = 1e-4
# What is left of a unit vector outside the span of others, below which it counts as inside, in single precision.
_LEAST_NEW = 1e-4
# Tokens of a matching pursuit at once: their products with a dictionary of some thousands stay in the cache.
_PURSUED_AT_ONCE = 1024


def principal_components(statistics: CovarianceAccumulator, k: int) -> Reconstruct:
    """The k directions of most variance, the same for every token: the best that a linear map of rank k can do."""
    mean = statistics.mean.float()
    _check_k(k, len(mean))
    # Not scikit-learn's PCA: it wants the samples, and of those that were streamed only the covariance is kept.
    components = torch.linalg.eigh(statistics.covariance()).eigenvectors[:, -k:].float()

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        centre, basis = mean.to(x.device), components.to(x.device)
        coordinates = (x - centre) @ basis
        return coordinates @ basis.T + centre, coordinates

    return reconstruct


def largest_dimensions(statistics: CovarianceAccumulator, k: int) -> Reconstruct:
    """Of every token the k dimensions (neurons, where these are the dimensions) that are furthest from their mean."""
    mean = statistics.mean.float()
    _check_k(k, len(mean))

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        centred = x - mean.to(x.device)
        chosen = centred.abs().topk(k, dim=1).indices
        kept = torch.zeros_like(centred).scatter_(1, chosen, centred.gather(1, chosen))
        return kept + mean.to(x.device), kept

    return reconstruct


def random_unit_directions(n: int, d: int, *, seed: int = SeedPart.seed) -> Float[Tensor, "direction d"]:
    """So many random directions, all equally likely."""
    return unit_rows(torch.randn(n, d, generator=seeded_generator(seed, "random dictionary", n)))


def random_dictionary(
    statistics: CovarianceAccumulator, n_features: int, k: int, *, seed: int = SeedPart.seed
) -> Reconstruct:
    """``largest_projections`` on so many random directions."""
    mean = statistics.mean.float()
    _check_k(k, min(n_features, len(mean)))
    return largest_projections(mean, random_unit_directions(n_features, len(mean), seed=seed), k)


def largest_projections(mean: Float[Tensor, " d"], directions: Float[Tensor, "direction d"], k: int) -> Reconstruct:
    """Of every token the k directions that it points along most, measured from ``mean``, with the coefficients of least squares.

    Both signs count and the coefficients are the best there are, so with random directions this is more than an untrained
    autoencoder could do.
    """
    _check_k(k, min(directions.shape))
    directions = unit_rows(directions)

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        centre, dictionary = mean.to(x.device), directions.to(x.device)
        along = (x - centre) @ dictionary.T
        chosen = along.abs().topk(k, dim=1).indices
        some: Float[Tensor, "token k d"] = dictionary[chosen]
        gram = some @ some.mT + _RIDGE * torch.eye(k, device=x.device)
        weights = torch.linalg.solve(gram, along.gather(1, chosen)[:, :, None])
        made = (weights.mT @ some)[:, 0] + centre
        return made, torch.zeros_like(along).scatter_(1, chosen, weights[:, :, 0])

    return reconstruct


def pursued(mean: Float[Tensor, " d"], directions: Float[Tensor, "direction d"], k: int) -> Reconstruct:
    """Of every token k directions found by orthogonal matching pursuit, measured from ``mean``, with the coefficients of least squares."""
    _check_k(k, min(directions.shape))
    directions = unit_rows(directions)

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        centre, dictionary = mean.to(x.device), directions.to(x.device)
        made, acts = torch.empty_like(x), x.new_zeros(len(x), len(dictionary))
        for start in range(0, len(x), _PURSUED_AT_ONCE):
            some = slice(start, start + _PURSUED_AT_ONCE)
            chosen, weights, rest = matching_pursuit(x[some] - centre, dictionary, k)
            made[some] = x[some] - rest
            acts[some].scatter_(1, chosen, weights)
        return made, acts

    return reconstruct


def matching_pursuit(
    x: Float[Tensor, "token d"], atoms: Float[Tensor, "atom d"], k: int
) -> tuple[Int[Tensor, "token k"], Float[Tensor, "token k"], Float[Tensor, "token d"]]:
    """Orthogonal matching pursuit of many vectors at once: which ``k`` unit ``atoms`` of each, their weights, and what is left.

    k times: the atom along which what is left points most (either sign) is taken, and x is projected anew onto all that were
    taken. Where nothing is left, the remaining weights are 0. Source: Pati, Rezaiifar & Krishnaprasad 1993; as in scikit-learn's
    ``orthogonal_mp``, which takes one vector after another.
    """
    n, d = x.shape
    rest, taken = x.clone(), torch.zeros(n, k, dtype=torch.long, device=x.device)
    # x = sum of along_i basis_i + rest, and atoms taken = triangle^T basis, by Gram and Schmidt.
    basis, triangle, along = x.new_zeros(n, k, d), x.new_zeros(n, k, k), x.new_zeros(n, k)
    for step in range(k):
        points = (rest @ atoms.T).abs_().scatter_(1, taken[:, :step], -1.0)
        taken[:, step] = points.argmax(dim=1)
        new = atoms[taken[:, step]]
        # Twice, as single precision is not enough for once.
        for _ in range(2):
            inside = (basis[:, :step] @ new[:, :, None])[:, :, 0]
            new = new - (inside[:, None] @ basis[:, :step])[:, 0]
            triangle[:, :step, step] += inside
        length = new.norm(dim=1)
        outside = length > _LEAST_NEW
        triangle[:, step, step] = torch.where(outside, length, 1.0)
        basis[:, step] = torch.where(outside[:, None], new / triangle[:, step, step, None], 0.0)
        along[:, step] = (rest * basis[:, step]).sum(dim=1)
        rest = rest - along[:, step, None] * basis[:, step]
    weights = torch.linalg.solve_triangular(triangle, along[:, :, None], upper=True)[:, :, 0]
    return taken, weights, rest


def encoding_cost(d: int, n_features: int) -> int:
    """Multiply-adds with which an encoder of one layer finds a token's features."""
    return d * n_features


def pursuit_cost(d: int, n_atoms: int, k: int) -> int:
    """Multiply-adds per token of matching pursuit in the cheapest form that we know, with all products of two atoms stored.

    The products with the token; after each atom but the last the products with what is left, brought up to date from those of the
    atoms taken; and a triangular system that grows. Source: Rubinstein, Zibulevsky & Elad 2008 (batch OMP). ``matching_pursuit``
    itself keeps no products of atoms, and multiplies k times by all of them.
    """
    return d * n_atoms + n_atoms * k * (k - 1) // 2 + sum(step * step for step in range(1, k + 1))


def brought_to(reconstruct: Reconstruct, own: CovarianceAccumulator, known: CovarianceAccumulator) -> Reconstruct:
    """A reconstruction made for other activations, given these with the mean and the variance of those it knows.

    ``own``: statistics of the activations that come; ``known``: of those it was made for. What it gives is brought back.
    """
    means = [statistics.mean.float() for statistics in (own, known)]
    sizes = [float(statistics.covariance().diagonal().sum()) ** 0.5 for statistics in (own, known)]
    factor = sizes[1] / sizes[0] if sizes[0] > 0 else 1.0

    def brought(x: Tensor) -> tuple[Tensor, Tensor]:
        here, there = (mean.to(x.device) for mean in means)
        made, acts = reconstruct((x - here) * factor + there)
        return (made.to(x.device) - there) / factor + here, acts

    return brought


def _check_k(k: int, most: int) -> None:
    if not 1 <= k <= most:
        raise RequestError(f"k = {k}: must be 1 to {most}")
