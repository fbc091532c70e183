"""What single hidden neurons do: how many features each takes part in, and two ways of computing with them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# A neuron belongs to one feature when that feature has this share of its squared weights (ours).
MONOSEMANTIC = 0.9
# A neuron with less than this share of the layer's mean squared weights does nothing worth naming (ours).
_DEAD = 0.01


def features_per_neuron(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many hidden"]:
    """Effective number of features with weights on each neuron: (Σ w²)² / Σ w⁴, 1 when it reads one alone.

    0 for a neuron without weights. Source: the participation ratio, of squared weights.
    """
    squares = W.square()
    total, fourth = squares.sum(dim=-1), squares.square().sum(dim=-1)
    return torch.where(total > 1e-12, total.square() / fourth.clamp_min(1e-30), 0.0)


def working(W: Float[Tensor, "*many hidden feature"]) -> Bool[Tensor, "*many hidden"]:
    """Neurons whose squared weights are at least a hundredth of the layer's mean."""
    total = W.square().sum(dim=-1)
    return total > _DEAD * total.mean(dim=-1, keepdim=True)


def monosemantic(W: Float[Tensor, "*many hidden feature"]) -> Bool[Tensor, "*many hidden"]:
    """Working neurons one feature of which has at least 90 % of the squared weights."""
    squares = W.square()
    share = squares.amax(dim=-1) / squares.sum(dim=-1).clamp_min(1e-30)
    return working(W) & (share >= MONOSEMANTIC)


def polysemantic_share(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many"]:
    """Share of the working neurons that are not monosemantic."""
    alive = working(W)
    return (alive & ~monosemantic(W)).sum(dim=-1) / alive.sum(dim=-1).clamp_min(1)


def effective_map(
    W_out: Float[Tensor, "*many output hidden"], W_in: Float[Tensor, "*many hidden feature"]
) -> Float[Tensor, "*many output feature"]:
    """W_out W_in: what the network would do if every neuron were linear."""
    return W_out @ W_in


def relabelled(
    W_in: Float[Tensor, "*many hidden feature"],
    W_out: Float[Tensor, "*many feature hidden"],
    generator: torch.Generator,
) -> tuple[Float[Tensor, "*many hidden feature"], Float[Tensor, "*many feature hidden"]]:
    """The same neurons with features dealt anew to each: a control that keeps every neuron's weights and how its input and
    output weights go together, and breaks what neurons do together.
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
    """A neuron shared unevenly by two features, and one that takes back what the louder one does to the other.

    ``loud`` has the larger weight into ``neuron`` and the smaller one out of it, ``quiet`` the other way round.
    """

    neuron: int
    loud: int
    quiet: int
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
    2. the loud one's input weight is at least ``ratio`` times the quiet one's in magnitude, and the quiet one's output
       weight at least ``ratio`` times the loud one's;
    3. another neuron fires for the loud feature with the same sign and writes negatively to the quiet one's output, where
       it takes back at least half of what the shared neuron does there when the loud feature is on.
    """
    found = []
    for neuron, weights in enumerate(W_in):
        served = [
            feature
            for feature in range(min(W_in.shape[1], W_out.shape[0]))
            if float(weights[feature].abs() * W_out[feature, neuron]) >= least
        ]
        for loud in served:
            for quiet in served:
                if not (
                    weights[loud].abs() >= ratio * weights[quiet].abs()
                    and W_out[quiet, neuron] >= ratio * W_out[loud, neuron]
                ):
                    continue
                spills = weights[loud].abs() * W_out[quiet, neuron]
                # Neurons that fire with the loud feature, of the sign that makes the shared one fire.
                fires = (W_in[:, loud] * weights[loud].sign()).clamp_min(0)
                takes_back = fires * W_out[quiet]
                takes_back[neuron] = 0
                inhibitor = int(takes_back.argmin())
                if takes_back[inhibitor] <= -0.5 * spills:
                    found.append(AsymmetricMotif(neuron, loud, quiet, inhibitor))
    return found
