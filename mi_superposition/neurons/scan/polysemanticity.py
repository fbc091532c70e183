"""How polysemantic is a unit? The effective number of different contexts among its top examples.

Every example is represented by the model's own representation of the token on which the unit acted (on at most 64 random
directions), minus the mean over the first sample. The effective number is exp of the entropy of the eigenvalues of the examples'
similarities over their number (the Vendi score; Friedman & Dieng 2023, equation 2). Two examples of cosine c have the similarity
(c + c^2) / 2: 1 for the same direction, 0 for directions at right angles and for opposite ones. With c itself opposite examples would be
one context, and independent ones, whose cosines are never quite 0, fewer contexts than there are. Powers of c and their sums are
positive semidefinite (Schur 1911), so this is a similarity that the score is defined for; c clipped at 0 is not. The number is 1 when all
point the same way, k when they form k groups of the same size at right angles or opposite. That it is applied to a neuron's examples
in the model's own representation, and this similarity, are ours.

What it does not show: one feature that occurs in varied text also counts as several contexts. So it is compared with controls: examples
permuted across units, directions drawn at random in several ways, and an untrained model.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_superposition.linalg import unit_rows
from mi_superposition.training import seeded_generator


def effective_number(
    vectors: Float[Tensor, "unit example d"], present: Bool[Tensor, "unit example"]
) -> Float[Tensor, " unit"]:
    """The effective number of directions (dimensionless, 1 to the number of examples); 0 for a unit without examples.

    Examples that are not ``present``, or have no direction, do not count.
    """
    n, k, _ = vectors.shape
    unit = unit_rows(vectors.masked_fill(~present[:, :, None], 0).flatten(0, 1)).unflatten(0, (n, k)).double()
    counted = (unit.abs().sum(dim=2) > 0).sum(dim=1)
    cosines = unit @ unit.mT
    similarities = (cosines + cosines.square()) / 2
    shares = torch.linalg.eigvalsh(similarities / counted.clamp_min(1)[:, None, None]).clamp_min(0)
    entropy = -torch.special.xlogy(shares, shares).sum(dim=1)
    return torch.where(counted > 0, entropy.exp(), 0.0).float()


def permuted_examples(
    vectors: Float[Tensor, "unit example d"], present: Bool[Tensor, "unit example"], seed: int
) -> tuple[Float[Tensor, "unit example d"], Bool[Tensor, "unit example"]]:
    """The control: the examples of all units permuted across them; each keeps its number of examples."""
    permuted = vectors.clone()
    pool = vectors[present]
    permuted[present] = pool[torch.randperm(len(pool), generator=seeded_generator(seed, "shuffled examples"))]
    return permuted, present
