"""Pure tensors in, pure tensors out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from mi_superposition.errors import RequestError


def cosine_similarity(vectors: Float[Tensor, "neuron d"]) -> Float[Tensor, "neuron neuron"]:
    """Cosine (dimensionless, -1 to 1) between every two rows, in float32.

    A row of zeros has no direction: its cosine with everything, itself too, is 0. Raises ``RequestError`` for a NaN
    or an infinity.
    """
    unit = unit_rows(vectors)
    return (unit @ unit.T).clamp_(-1, 1)


def unit_rows(vectors: Float[Tensor, "neuron d"]) -> Float[Tensor, "neuron d"]:
    """The rows with length 1 in float32; rows of zeros stay zero. Raises ``RequestError`` for a NaN or infinity."""
    finite = vectors.isfinite().all(dim=1)
    if not finite.all():
        bad = int((~finite).nonzero()[0])
        raise RequestError(f"row {bad} of the vectors holds a NaN or an infinity: directions need finite numbers")
    # Scaled by its largest entry first: squares of tiny or huge weights would leave the range.
    scaled = vectors.double() / vectors.double().abs().amax(dim=1, keepdim=True).clamp_min(1e-300)
    return (scaled / scaled.norm(dim=1, keepdim=True).clamp_min(1e-300)).float()


def inner_products(vectors: Float[Tensor, "neuron d"]) -> Float[Tensor, "neuron neuron"]:
    """Inner product of every two rows (squared units of the rows): W^T W of the toy models of superposition, where
    each column of W is a feature; here each row is one.
    """
    return vectors @ vectors.T


def shares_by_bin(
    groups: Mapping[str, Float[Tensor, " _value"]], n_bins: int = 40
) -> tuple[Float[Tensor, " bin"], dict[str, Float[Tensor, " bin"]]]:
    """The middles of equal bins over the range of all groups, and the share of each group's values in every bin."""
    together = torch.cat(list(groups.values()))
    low, high = float(together.min()), float(together.max())
    edges = torch.linspace(low, high, n_bins + 1)
    shares = {name: torch.histc(values, n_bins, low, high) / len(values) for name, values in groups.items()}
    return (edges[1:] + edges[:-1]) / 2, shares
