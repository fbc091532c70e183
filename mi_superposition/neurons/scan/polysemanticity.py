"""How polysemantic is a unit? The effective number of different contexts among its top examples.

Every example is represented by the model's own representation of the token on which the unit acted (on at most 64 random
directions), minus the mean over the first sample. The effective number is exp of the entropy of the eigenvalues of the examples'
cosines over their number (the Vendi score; Friedman & Dieng 2023, equation 2): 1 when all point the same way, k when they form k
groups of the same size at right angles. That it is applied to a neuron's examples in the model's own representation is ours.

What it does not show: one feature that occurs in varied text also counts as several contexts. So it is compared with three
controls: examples permuted across units, random directions, and an untrained model.
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
    cosines = unit @ unit.mT / counted.clamp_min(1)[:, None, None]
    shares = torch.linalg.eigvalsh(cosines).clamp_min(0)
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
