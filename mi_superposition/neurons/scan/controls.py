"""Directions drawn at random, the control of whatever is read off an activation.

There is no one way to draw them. The largest activations along a direction of which the activations vary much have more in common than
those along one of which they hardly vary, so a claim about units must hold against each of these.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mi_superposition.models import Encode
from mi_superposition.training import seeded_generator

# Ways to draw directions.
ISOTROPIC, INPUT, WEIGHTS, WHITENED, TOKENS = (
    "isotropic",
    "input covariance",
    "weight covariance",
    "whitened",
    "to a random token",
)
ENSEMBLES = {
    ISOTROPIC: "all directions equally likely",
    INPUT: "drawn with the covariance of the activations that the units read",
    WEIGHTS: "drawn with the covariance of the units' input weights",
    WHITENED: "all directions equally likely where the activations are whitened: drawn with the inverse of their covariance",
    TOKENS: "from the mean of the activations to that of one token, drawn at random",
}
# Parts of the largest variance below which activations do not vary along a direction, in single precision.
_LEAST_VARIANCE = 1e-6


def along(directions: Float[Tensor, "d direction"]) -> Encode:
    """Activations along given directions, ``[..., d] -> [..., direction]``: an ``encode`` of ``scan_neurons``."""
    return lambda activations: activations @ directions.to(activations.device)


def along_random_directions(d: int, n: int, *, seed: int) -> Encode:
    """Activations along ``n`` random directions, all equally likely, ``[..., d] -> [..., n]``: an ``encode`` of ``scan_neurons``.

    The largest activations along any direction have something in common; how much, these say.
    """
    return along(torch.randn(d, n, generator=seeded_generator(seed, "random directions")))


def drawn_directions(
    n: int,
    *,
    covariance: Float[Tensor, "d d"],
    tokens: Float[Tensor, "token d"],
    mean: Float[Tensor, " d"],
    weights: Float[Tensor, "d unit"] | None,
    seed: int,
) -> dict[str, Float[Tensor, "d direction"]]:
    """``n`` directions of every ensemble, by its name; ``tokens`` gives as many as it has.

    ``covariance``, ``mean`` and ``tokens`` are those of the activations read; ``weights`` those of the units that read them (``None``: there
    are none, and no such ensemble). Lengths mean nothing. Directions along which the activations do not vary are not drawn by
    whitening.
    """
    d = len(covariance)

    def noise(size: int, ensemble: str = ISOTROPIC) -> Float[Tensor, "size direction"]:
        purpose = "random directions" if ensemble == ISOTROPIC else f"random directions, {ensemble}"
        return torch.randn(size, n, generator=seeded_generator(seed, purpose))

    variances, axes = torch.linalg.eigh(covariance.double())
    varies = variances > _LEAST_VARIANCE * variances[-1].clamp_min(1e-300)
    deviations = variances.clamp_min(0).sqrt()

    def scaled(by: Tensor, ensemble: str) -> Float[Tensor, "d direction"]:
        return (axes @ (by[:, None] * noise(d, ensemble).double())).float()

    drawn = {
        # The first are those of ``along_random_directions``.
        ISOTROPIC: noise(d),
        INPUT: scaled(deviations, INPUT),
        WHITENED: scaled(torch.where(varies, 1 / deviations.clamp_min(1e-300), 0.0), WHITENED),
        TOKENS: (tokens[:n] - mean).T.float(),
    }
    if weights is not None:
        centred = weights.float() - weights.float().mean(dim=1, keepdim=True)
        drawn[WEIGHTS] = centred @ noise(weights.shape[1], WEIGHTS) / weights.shape[1] ** 0.5
    return {name: drawn[name].contiguous() for name in ENSEMBLES if name in drawn}
