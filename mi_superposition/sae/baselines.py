"""What an autoencoder is compared with: untrained dictionaries, with as many features per token."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mi_superposition.errors import RequestError
from mi_superposition.linalg import unit_rows
from mi_superposition.parts import SeedPart
from mi_superposition.sae.evaluate import Reconstruct
from mi_superposition.streaming import CovarianceAccumulator
from mi_superposition.training import seeded_generator

# Added to a Gram matrix of unit vectors, so that two that are all but equal can be told apart in single precision.
_RIDGE = 1e-4


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


def random_dictionary(
    statistics: CovarianceAccumulator, n_features: int, k: int, *, seed: int = SeedPart.seed
) -> Reconstruct:
    """Of every token the k random directions, of so many, that it points along most, with the coefficients of least squares.

    Both signs count and the coefficients are the best there are, so this is more than an untrained autoencoder could do.
    """
    mean = statistics.mean.float()
    _check_k(k, min(n_features, len(mean)))
    directions = unit_rows(
        torch.randn(n_features, len(mean), generator=seeded_generator(seed, "random dictionary", n_features))
    )

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
