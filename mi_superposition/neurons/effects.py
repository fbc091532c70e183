"""What a neuron adds to the logits directly, and which token's embedding drives it directly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.models.norms import folded, normalised
from mi_superposition.models.protocol import HookedModel
from mi_superposition.neurons.similarity import check_layer

_UNITS_AT_ONCE = 512


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


def _extremes(
    vectors: Float[Tensor, "neuron d_model"], tokens: Float[Tensor, "d_model d_vocab"], k: int
) -> TokenEffects:
    parts = []
    for some in vectors.split(_UNITS_AT_ONCE):
        effects = some @ tokens
        top, bottom = effects.topk(min(k, effects.shape[1])), effects.topk(min(k, effects.shape[1]), largest=False)
        parts.append((top.indices, top.values, bottom.indices, bottom.values))
    return TokenEffects(*(torch.cat(column) for column in zip(*parts, strict=True)))
