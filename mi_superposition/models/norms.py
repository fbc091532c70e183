"""What a normalisation does to directions: its weight and its centring, whatever kind of model it is in."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.components import LayerNorm, LayerNormPre, RMSNorm, RMSNormPre

_KNOWN_NORMS = (LayerNorm, LayerNormPre, RMSNorm, RMSNormPre)


def folded(norm: nn.Module | None, matrix: Float[Tensor, "d_model column"]) -> Float[Tensor, "d_model column"]:
    """The matrix as seen before a normalisation, whose weight and centring go into it."""
    if isinstance(norm, _KNOWN_NORMS):
        weight = getattr(norm, "w", None)
        weight = None if weight is None else weight.detach().float().cpu()
    else:
        weight = None if norm is None else _measured_weight(norm, len(matrix))
    if weight is not None:
        matrix = weight[:, None] * matrix
    return matrix - matrix.mean(dim=0) if centres(norm, len(matrix)) else matrix


def normalised(norm: nn.Module | None, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """Rows of the residual stream as a normalisation leaves them, but for its weight and bias; as they are where there is none."""
    if norm is None:
        return rows
    centred = rows - rows.mean(dim=1, keepdim=True) if centres(norm, rows.shape[1]) else rows
    return centred / centred.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-12)


def _measured_weight(norm: nn.Module, d_model: int) -> Float[Tensor, " d_model"]:
    """What a normalisation multiplies each dimension by, asked of it: kinds of models keep it as a weight, or as a weight less one."""
    # Mean 0 and variance 1, which stay as they are.
    # None of the entries is near 0: they are divided by.
    probe = torch.where(torch.arange(d_model) % 2 == 0, 1.0, -1.0) * torch.linspace(1, 2, d_model)
    probe = (probe - probe.mean()) / probe.std(correction=0)
    x = _as_its_weights(norm, probe)
    # A bias is the same in both.
    return ((norm(x) - norm(-x)) / 2)[0, 0].float().cpu() / probe


def centres(norm: nn.Module | None, d_model: int) -> bool:
    """Whether a normalisation takes off the mean: layer norms do, root-mean-square norms and none at all do not."""
    if norm is None or isinstance(norm, _KNOWN_NORMS):
        return isinstance(norm, LayerNorm | LayerNormPre)
    x = _as_its_weights(norm, torch.linspace(-1, 1, d_model))
    return bool(torch.allclose(norm(x), norm(x + 1), atol=0.1))


def _as_its_weights(norm: nn.Module, vector: Tensor) -> Float[Tensor, "1 1 d_model"]:
    """A vector where a normalisation's weights are and in their precision; some have none."""
    weight = next(norm.parameters(), vector)
    return vector.to(weight.device, weight.dtype)[None, None]
