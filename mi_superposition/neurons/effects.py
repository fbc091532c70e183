"""What a neuron adds to the logits directly, and which token's embedding drives it directly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.components import LayerNorm, LayerNormPre, RMSNorm, RMSNormPre

from mi_superposition.models.protocol import HookedModel
from mi_superposition.neurons.similarity import check_layer

_UNITS_AT_ONCE = 512
_KNOWN_NORMS = (LayerNorm, LayerNormPre, RMSNorm, RMSNormPre)


@dataclass(frozen=True)
class TokenEffects:
    """For each neuron the tokens with the largest effects, the largest first, and with the smallest (most negative), the smallest first."""

    top: Int[Tensor, "neuron rank"]
    top_effect: Float[Tensor, "neuron rank"]
    bottom: Int[Tensor, "neuron rank"]
    bottom_effect: Float[Tensor, "neuron rank"]


@torch.no_grad()
def logit_effects(model: HookedModel, layer: int, k: int = 10) -> TokenEffects:
    """``W_out @ W_U``: what one unit of a neuron's activation adds directly to each token's logit (logits).

    The final normalisation is folded in: its mean is taken off and its weight multiplied, only its division, by the same
    number for all tokens, is left out. So is the mean over tokens, which changes no probability. Raises
    ``RequestError`` for a layer without MLP neurons.
    """
    check_layer(model, layer)
    return direction_effects(model, model.blocks[layer].mlp.W_out, k)


@torch.no_grad()
def direction_effects(model: HookedModel, written: Float[Tensor, "unit d_model"], k: int = 10) -> TokenEffects:
    """The same for anything that writes into the residual stream: what one unit of it adds to each token's logit (logits)."""
    return _extremes(written.detach().float().cpu(), logit_directions(model), k)


@torch.no_grad()
def logit_directions(model: HookedModel) -> Float[Tensor, "d_model d_vocab_out"]:
    """``W_U`` as seen from the residual stream: the weight and the centring of the final normalisation folded in, and the mean over
    tokens, which changes no probability, taken off. Float32, on the CPU.
    """
    unembedding = folded(getattr(model, "ln_final", None), model.W_U.detach().float().cpu())
    return unembedding - unembedding.mean(dim=1, keepdim=True)


@torch.no_grad()
def input_effects(model: HookedModel, layer: int, k: int = 10) -> TokenEffects:
    """What each token's embedding alone, normalised as before the MLP, adds to a neuron's input (before its activation
    function; in a gated MLP that is the product with ``W_gate``); without position, attention or earlier layers.
    """
    check_layer(model, layer)
    embedding = normalised(getattr(model.blocks[layer], "ln2", None), model.W_E.detach().float().cpu())
    return _extremes(input_directions(model, layer).T, embedding.T, k)


@torch.no_grad()
def input_directions(model: HookedModel, layer: int) -> Float[Tensor, "d_model neuron"]:
    """The input weights of a layer's neurons (in a gated MLP those of ``W_gate``), the weight and the centring of the normalisation
    before them folded in. Float32, on the CPU.
    """
    check_layer(model, layer)
    block = model.blocks[layer]
    gate = getattr(block.mlp, "W_gate", None)
    return folded(getattr(block, "ln2", None), (block.mlp.W_in if gate is None else gate).detach().float().cpu())


def folded(norm: nn.Module | None, matrix: Float[Tensor, "d_model column"]) -> Float[Tensor, "d_model column"]:
    """The matrix as seen before a normalisation (``None``: there is none), whose weight and centring go into it."""
    if isinstance(norm, _KNOWN_NORMS):
        weight = getattr(norm, "w", None)
        weight = None if weight is None else weight.detach().float().cpu()
    else:
        weight = None if norm is None else _measured_weight(norm, len(matrix))
    if weight is not None:
        matrix = weight[:, None] * matrix
    return matrix - matrix.mean(dim=0) if _centres(norm, len(matrix)) else matrix


def normalised(norm: nn.Module | None, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """Rows of the residual stream as a normalisation leaves them, but for its weight and bias; as they are where there is none."""
    if norm is None:
        return rows
    centred = rows - rows.mean(dim=1, keepdim=True) if _centres(norm, rows.shape[1]) else rows
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


def _centres(norm: nn.Module | None, d_model: int) -> bool:
    """Whether a normalisation takes off the mean: layer norms do, root-mean-square norms and none at all do not."""
    if norm is None or isinstance(norm, _KNOWN_NORMS):
        return isinstance(norm, LayerNorm | LayerNormPre)
    x = _as_its_weights(norm, torch.linspace(-1, 1, d_model))
    return bool(torch.allclose(norm(x), norm(x + 1), atol=0.1))


def _as_its_weights(norm: nn.Module, vector: Tensor) -> Float[Tensor, "1 1 d_model"]:
    """A vector where a normalisation's weights are and in their precision; some have none."""
    weight = next(norm.parameters(), vector)
    return vector.to(weight.device, weight.dtype)[None, None]


def _extremes(
    vectors: Float[Tensor, "neuron d_model"], tokens: Float[Tensor, "d_model d_vocab"], k: int
) -> TokenEffects:
    parts = []
    for some in vectors.split(_UNITS_AT_ONCE):
        effects = some @ tokens
        top, bottom = effects.topk(min(k, effects.shape[1])), effects.topk(min(k, effects.shape[1]), largest=False)
        parts.append((top.indices, top.values, bottom.indices, bottom.values))
    return TokenEffects(*(torch.cat(column) for column in zip(*parts, strict=True)))
