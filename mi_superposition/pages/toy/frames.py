"""Models as the frames of a figure with a slider."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jaxtyping import Float
from torch import Tensor

from mi_superposition.figures.toy import Interactions
from mi_superposition.toy.geometry import feature_norms, gram, interference


def sparsity_labels(probabilities: Iterable[float], decimals: int) -> list[str]:
    """The sparsities, one minus the probabilities, as the slider names them."""
    return [f"{1 - probability:.{decimals}f}" for probability in probabilities]


def interaction_frames(
    labels: Sequence[str], W: Float[Tensor, "setting hidden feature"], b: Float[Tensor, "setting feature"]
) -> dict[str, Interactions]:
    """W^T W, biases, norms and interference of one model per label."""
    return {
        label: Interactions(gram(one), bias, feature_norms(one), interference(one))
        for label, one, bias in zip(labels, W, b, strict=True)
    }
