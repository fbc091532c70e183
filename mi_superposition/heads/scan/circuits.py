"""What the weights of every head say of it: copying, effective ranks, which heads are alike, and what it writes.

No matrix of ``d_vocab × d_vocab`` or ``d_model × d_model`` is made: a head's circuits have the rank ``d_head``, and so have their spectra.
The weight and the centring of the normalisations before a layer and before the unembedding are folded in, their division is not. Biases
belong to no circuit. With rotary positions the QK circuit is that before the rotation: of a query and a key at the same position.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.heads.scan.reader import layers_with_heads
from mi_superposition.models.norms import folded, normalised
from mi_superposition.models.protocol import HookedModel
from mi_superposition.neurons.effects import logit_directions
from mi_superposition.spectra import effective_ranks

_HEADS_AT_ONCE = 64


@dataclass(frozen=True)
class HeadWeights:
    """The weights of all heads as seen from the residual stream, in float32 on the CPU. Heads of all layers stand in one axis."""

    query: Float[Tensor, "head d_model d_head"]
    key: Float[Tensor, "head d_model d_head"]
    value: Float[Tensor, "head d_model d_head"]
    output: Float[Tensor, "head d_head d_model"]

    @classmethod
    @torch.no_grad()
    def of(cls, model: HookedModel) -> HeadWeights:
        """Those of a model. Raises ``RequestError`` for one without attention heads."""
        parts: dict[str, list[Tensor]] = {letter: [] for letter in "QKVO"}
        for layer in layers_with_heads(model):
            block = model.blocks[layer]
            norm = getattr(block, "ln1", None)
            for letter in "QKV":
                weight = getattr(block.attn, f"W_{letter}").detach().float().cpu()
                heads = torch.stack([folded(norm, matrix) for matrix in weight])
                # Keys and values that several heads share, once for each of these.
                parts[letter].append(heads.repeat_interleave(model.cfg.n_heads // len(heads), dim=0))
            parts["O"].append(block.attn.W_O.detach().float().cpu())
        return cls(*(torch.cat(parts[letter]) for letter in "QKVO"))


def copying_scores(model: HookedModel, weights: HeadWeights) -> dict[str, Float[Tensor, " head"]] | None:
    """Whether a head that attends to a token makes that token more likely, by the eigenvalues of ``W_E W_V W_O W_U``: ``positive``, the
    share of those with a positive real part, and ``copying``, the sum of the real parts over the sum of the magnitudes (-1 to 1).
    ``None`` for a model whose logits are not over the tokens that it reads.

    Of its ``d_vocab`` eigenvalues all but ``d_head`` are 0; the others are those of ``W_O W_U W_E W_V``, which has ``d_head`` rows. The mean
    over tokens is taken off ``W_U``: it changes no probability. Source: Elhage et al. 2021, "A mathematical framework for transformer
    circuits", section "Summarizing OV/QK matrices".
    """
    embedding, unembedding = model.W_E.detach().double().cpu(), logit_directions(model).double()
    if len(embedding) != unembedding.shape[1]:
        return None
    through = unembedding @ embedding
    small = weights.output.double() @ through @ weights.value.double()
    eigenvalues = torch.linalg.eigvals(small)
    magnitude = eigenvalues.abs()
    # Rounding makes of zeros numbers of any sign.
    real = eigenvalues.real.where(magnitude > 1e-9 * magnitude.amax(dim=1, keepdim=True), 0.0)
    n = (magnitude > 1e-9 * magnitude.amax(dim=1, keepdim=True)).sum(dim=1).clamp_min(1)
    return {
        "positive": (real > 0).sum(dim=1) / n,
        "copying": real.sum(dim=1) / magnitude.sum(dim=1).clamp_min(1e-300),
    }


def circuit_spectra(left: Float[Tensor, "head d_model d_head"], right: Float[Tensor, "head d_head d_model"]) -> Tensor:
    """Singular values of each head's ``left @ right`` [head, d_head], the largest first, in float64."""
    _, left_root = torch.linalg.qr(left.double())
    _, right_root = torch.linalg.qr(right.double().transpose(1, 2))
    return torch.linalg.svdvals(left_root @ right_root.transpose(1, 2))


def circuit_ranks(weights: HeadWeights) -> dict[str, Float[Tensor, " head"]]:
    """Effective ranks of ``W_Q W_K^T`` and of ``W_V W_O``, from 1 to ``d_head``: exponential of the entropy of the singular values divided
    by their sum (Roy & Vetterli 2007).
    """

    def ranks(spectra: Float[Tensor, "head value"]) -> Float[Tensor, " head"]:
        return torch.tensor([effective_ranks(one).entropy_rank for one in spectra], dtype=torch.float64)

    return {
        "qk_rank": ranks(circuit_spectra(weights.query, weights.key.transpose(1, 2))),
        "ov_rank": ranks(circuit_spectra(weights.value, weights.output)),
    }


def circuit_similarity(
    left: Float[Tensor, "head d_model d_head"], right: Float[Tensor, "head d_head d_model"]
) -> Float[Tensor, "head head"]:
    """Cosines between the matrices ``left @ right`` of every two heads, as vectors of their entries (-1 to 1)."""

    def products(some: slice) -> Float[Tensor, "some head"]:
        first = einsum(left[some], left, "some d e, head d f -> some head e f")
        second = einsum(right[some], right, "some e d, head f d -> some head e f")
        return (first.double() * second).sum(dim=(2, 3))

    # As many at a time as leave 2^24 products of vectors in memory.
    n, d_head = len(left), left.shape[2]
    at_once = max(1, min(_HEADS_AT_ONCE, 2**24 // (n * d_head**2)))
    inner = torch.cat([products(slice(start, start + at_once)) for start in range(0, n, at_once)])
    length = inner.diagonal().clamp_min(0).sqrt()
    return (inner / (length[:, None] * length).clamp_min(1e-300)).clamp(-1, 1)


def written_directions(
    weights: HeadWeights, n: int
) -> tuple[Float[Tensor, "head direction d_model"], Float[Tensor, "head direction"]]:
    """The directions in which each head can write most: right singular vectors of ``W_V W_O``, and their singular values over the sum of
    all squares' root. At most ``d_head`` of them.
    """
    _, value_root = torch.linalg.qr(weights.value.double())
    left, values, right = torch.linalg.svd(value_root @ weights.output.double(), full_matrices=False)
    del left
    share = values / values.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-300)
    return right[:, :n].float(), share[:, :n].float()


@dataclass(frozen=True)
class TokenWrites:
    """What heads write when they attend to some tokens: of each head and token those whose logits it raises and lowers most, with the
    effects (logits, the division by the final norm left out), and the place of the token itself among all (1: raised most).
    """

    raised: Int[Tensor, "head token rank"]
    raised_effect: Float[Tensor, "head token rank"]
    lowered: Int[Tensor, "head token rank"]
    lowered_effect: Float[Tensor, "head token rank"]
    own_rank: Int[Tensor, "head token"]


@torch.no_grad()
def token_writes(
    model: HookedModel, weights: HeadWeights, tokens: Int[Tensor, "head token"], k: int = 5
) -> TokenWrites:
    """The OV circuit through the unembedding, from the embedding of each token alone, normalised as before the layer.

    In layers above the first, a head reads more than the embedding: this is the direct path. Where the logits are not over the tokens
    read, ``own_rank`` is 0.
    """
    unembedding = logit_directions(model)
    same = unembedding.shape[1] == model.cfg.d_vocab
    embedding = model.W_E.detach().float().cpu()
    layers = layers_with_heads(model)
    parts: list[list[Tensor]] = [[], [], [], [], []]
    for head, some in enumerate(tokens):
        norm = getattr(model.blocks[layers[head // model.cfg.n_heads]], "ln1", None)
        effects = normalised(norm, embedding[some]) @ weights.value[head] @ weights.output[head] @ unembedding
        width = min(k, effects.shape[1])
        top, bottom = effects.topk(width), effects.topk(width, largest=False)
        own = effects.gather(1, some[:, None]) if same else effects.new_full((len(some), 1), torch.inf)
        rank = (effects > own).sum(dim=1) + int(same)
        for part, value in zip(parts, (top.indices, top.values, bottom.indices, bottom.values, rank), strict=True):
            part.append(value)
    return TokenWrites(*map(torch.stack, parts))
