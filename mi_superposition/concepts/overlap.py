"""Units that several concepts move: the claim of superposition, counted."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_superposition.errors import RequestError


def effect_sizes(points: Float[Tensor, "text unit"], member: Bool[Tensor, " text"]) -> Float[Tensor, " unit"]:
    """How much a concept moves each unit: the difference of means in pooled standard deviations (Cohen's d); 0 for a unit that
    never varies. Raises ``RequestError`` with fewer than two texts on either side.
    """
    if not 2 <= int(member.sum()) <= len(member) - 2:
        raise RequestError(
            f"{int(member.sum())} of {len(member)} texts are of the concept: give at least two on either side"
        )
    inside, outside = points[member].double(), points[~member].double()
    spread = inside.var(dim=0) * (len(inside) - 1) + outside.var(dim=0) * (len(outside) - 1)
    deviation = (spread / (len(points) - 2)).sqrt()
    difference = inside.mean(dim=0) - outside.mean(dim=0)
    return torch.where(deviation > 0, difference / deviation.clamp_min(1e-300), 0.0).float()


def top_units(effects: Float[Tensor, "concept unit"], k: int) -> Int[Tensor, "concept k"]:
    """For each concept the k units it moves most, up or down. Raises ``RequestError`` for more than there are."""
    if not 1 <= k <= effects.shape[1]:
        raise RequestError(f"k = {k}: must be 1 to {effects.shape[1]}, the number of units")
    return effects.abs().topk(k, dim=1).indices


def shared_units(top: Int[Tensor, "concept k"]) -> Int[Tensor, "concept concept"]:
    """How many of their top units each two concepts share; k on the diagonal."""
    return (top[:, None, :, None] == top[None, :, None, :]).any(dim=3).sum(dim=2)


def mean_shared(shared: Int[Tensor, "concept concept"]) -> float:
    """Mean over all pairs of different concepts."""
    return float(shared[~torch.eye(len(shared), dtype=torch.bool)].double().mean())
