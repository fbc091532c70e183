"""Single hidden neurons: how many features each has weights on, and two ways of computing with them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# A neuron is monosemantic when one feature has this fraction of its squared weights (ours).
MONOSEMANTIC = 0.9
# A neuron with less than this fraction of the layer's mean squared weights is not active (ours).
_DEAD = 0.01


def features_per_neuron(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many hidden"]:
    """Effective number of features with weights on each neuron: (Σ w²)² / Σ w⁴, 1 when it reads a single one.

    0 for a neuron without weights. Source: the participation ratio, of squared weights.
    """
    squares = W.square()
    total, fourth = squares.sum(dim=-1), squares.square().sum(dim=-1)
    return torch.where(total > 1e-12, total.square() / fourth.clamp_min(1e-30), 0.0)


def active_neurons(W: Float[Tensor, "*many hidden feature"]) -> Bool[Tensor, "*many hidden"]:
    """Neurons whose squared weights are at least a hundredth of the layer's mean."""
    total = W.square().sum(dim=-1)
    return total > _DEAD * total.mean(dim=-1, keepdim=True)


def monosemantic(W: Float[Tensor, "*many hidden feature"]) -> Bool[Tensor, "*many hidden"]:
    """Active neurons of which one feature has at least 90 % of the squared weights."""
    squares = W.square()
    share = squares.amax(dim=-1) / squares.sum(dim=-1).clamp_min(1e-30)
    return active_neurons(W) & (share >= MONOSEMANTIC)


def polysemantic_share(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many"]:
    """Fraction of the active neurons that are not monosemantic."""
    active = active_neurons(W)
    return (active & ~monosemantic(W)).sum(dim=-1) / active.sum(dim=-1).clamp_min(1)


def effective_map(
    W_out: Float[Tensor, "*many output hidden"], W_in: Float[Tensor, "*many hidden feature"]
) -> Float[Tensor, "*many output feature"]:
    """W_out W_in: the effect of each feature on each output if every neuron were linear."""
    return W_out @ W_in


def permuted_within_neurons(
    W_in: Float[Tensor, "*many hidden feature"],
    W_out: Float[Tensor, "*many feature hidden"],
    generator: torch.Generator,
) -> tuple[Float[Tensor, "*many hidden feature"], Float[Tensor, "*many feature hidden"]]:
    """The control: every neuron keeps its weights, and which input weight goes with which output weight; the feature that each
    belongs to is permuted independently per neuron, which breaks what neurons do together.
    """
    order = torch.rand(W_in.shape, generator=generator).argsort(dim=-1)
    return W_in.gather(-1, order), W_out.gather(-2, order.transpose(-1, -2))


@dataclass(frozen=True)
class SignedPair:
    """Two monosemantic neurons that compute ``|x|`` of one feature: one reads it, the other reads its negative."""

    feature: int
    positive: int
    negative: int


def signed_pairs(W_in: Float[Tensor, "hidden feature"], W_out: Float[Tensor, "output hidden"]) -> list[SignedPair]:
    """Pairs of monosemantic neurons with input weights of opposite sign on one feature, both of which write positively to
    the output of the same number.
    """
    chosen = monosemantic(W_in).nonzero()[:, 0].tolist()
    feature_of = {neuron: int(W_in[neuron].abs().argmax()) for neuron in chosen}
    found = []
    for up in chosen:
        feature = feature_of[up]
        for down in chosen:
            reads_opposite = feature_of[down] == feature and bool(W_in[up, feature] > 0 > W_in[down, feature])
            if reads_opposite and bool((W_out[feature, [up, down]] > 0).all()):
                found.append(SignedPair(feature, up, down))
    return found


@dataclass(frozen=True)
class AsymmetricMotif:
    """A neuron shared unevenly by two features, and one that cancels what the first feature adds to the second one's output.

    ``strong`` has the larger weight into ``neuron`` and the smaller one out of it, ``weak`` the other way round.
    """

    neuron: int
    strong: int
    weak: int
    inhibitor: int


def asymmetric_motifs(
    W_in: Float[Tensor, "hidden feature"],
    W_out: Float[Tensor, "output hidden"],
    *,
    ratio: float = 2.0,
    least: float = 0.25,
) -> list[AsymmetricMotif]:
    """Asymmetric superposition, by this criterion (ours, after the description of Elhage et al. 2022, "Computation in
    superposition"):

    1. one neuron serves two features: for each, input weight times output weight to its own output is at least ``least``;
    2. the strong one's input weight is at least ``ratio`` times the weak one's in magnitude, and the weak one's output
       weight at least ``ratio`` times the strong one's;
    3. another neuron is active for the strong feature with the same sign and writes negatively to the weak one's output, where
       it cancels at least half of what the shared neuron adds there when the strong feature is active.
    """
    found = []
    for neuron, weights in enumerate(W_in):
        served = [
            feature
            for feature in range(min(W_in.shape[1], W_out.shape[0]))
            if float(weights[feature].abs() * W_out[feature, neuron]) >= least
        ]
        for strong in served:
            for weak in served:
                if not (
                    weights[strong].abs() >= ratio * weights[weak].abs()
                    and W_out[weak, neuron] >= ratio * W_out[strong, neuron]
                ):
                    continue
                added = weights[strong].abs() * W_out[weak, neuron]
                # Neurons that are active with the strong feature, of the sign that makes the shared one active.
                reads = (W_in[:, strong] * weights[strong].sign()).clamp_min(0)
                cancels = reads * W_out[weak]
                cancels[neuron] = 0
                inhibitor = int(cancels.argmin())
                if cancels[inhibitor] <= -0.5 * added:
                    found.append(AsymmetricMotif(neuron, strong, weak, inhibitor))
    return found
