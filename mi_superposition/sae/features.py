"""What an autoencoder's weights say of superposition: how close its features are, and how many read from each neuron."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.stats import beta
from torch import Tensor

from mi_superposition.linalg import unit_rows
from mi_superposition.models.protocol import HookedModel
from mi_superposition.neurons.control import randomised
from mi_superposition.results import Result
from mi_superposition.training import seeded_generator

# A neuron and a feature have to do with each other where their cosine is one that so few random directions reach.
CHANCE = 1e-3
_AT_ONCE = 1024


def nearest_cosines(directions: Float[Tensor, "feature d"]) -> Float[Tensor, " feature"]:
    """For each direction the largest cosine with another one (dimensionless). Directions of length 0 have 0."""
    unit = unit_rows(directions)
    nearest = []
    for start in range(0, len(unit), _AT_ONCE):
        cosines = unit[start : start + _AT_ONCE] @ unit.T
        cosines[torch.arange(len(cosines)), torch.arange(start, start + len(cosines))] = -1.0
        nearest.append(cosines.amax(dim=1))
    return torch.cat(nearest).clamp(-1, 1)


def random_directions(directions: Float[Tensor, "feature d"], kind: str, seed: int) -> Float[Tensor, "feature d"]:
    """The control of the same shape: ``"gaussian"``, or ``"spectrum"`` with the same lengths and singular values."""
    return randomised(directions.float(), kind, seeded_generator(seed, f"directions {kind}"))


def chance_cosine(d: int, chance: float = CHANCE) -> float:
    """The magnitude that the cosine of two random directions in d dimensions exceeds with probability ``chance``.

    Its square is distributed as Beta(1/2, (d - 1)/2).
    """
    return float(beta.isf(chance, 0.5, (d - 1) / 2) ** 0.5)


def written_before(model: HookedModel, hook: str) -> dict[int, Float[Tensor, "neuron d"]]:
    """What the MLP neurons of each layer write into the residual stream before a hook of it, by layer.

    Empty for hooks that are not of the residual stream, and for models whose neurons do not write there plainly.
    """
    words = hook.split(".")
    if len(words) != 3 or words[0] != "blocks" or not words[2].startswith("hook_resid_"):
        return {}
    if getattr(model.cfg, "attn_only", False) or getattr(model.cfg, "use_normalization_before_and_after", False):
        return {}
    layers = range(int(words[1]) + (words[2] == "hook_resid_post"))
    return {layer: model.blocks[layer].mlp.W_out.detach().float().cpu() for layer in layers}


@dataclass(frozen=True, repr=False)
class Participation(Result):
    """How many features read from each neuron more closely than one random direction in a thousand does, and how many neurons each
    feature reads from.
    """

    DRAWN_BY: ClassVar[str] = "mi_superposition.pages.sae.features:participation_figure"

    features_of_neuron: Int[Tensor, " neuron"]
    neurons_of_feature: Int[Tensor, " feature"]

    def summary(self) -> str:
        """Features per neuron, next to what random directions would give."""
        counts, n_features = self.features_of_neuron.float(), len(self.neurons_of_feature)
        return (
            f"{counts.mean():.1f} of {n_features:,} features per neuron on average, median {counts.median():.0f} "
            f"({CHANCE * n_features:.1f} for random directions)"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per neuron."""
        return pd.DataFrame({"features": self.features_of_neuron.tolist()}).rename_axis("neuron")


def participation(written: Mapping[int, Float[Tensor, "_neuron d"]], read: Float[Tensor, "feature d"]) -> Participation:
    """From what neurons write and what features read (the encoder's columns), by the magnitude of their cosines.

    The control is the same with ``random_directions(read, …)``; isotropic ones give ``CHANCE`` times the features, per neuron.
    """
    neurons = unit_rows(torch.cat(list(written.values())))
    limit = chance_cosine(read.shape[1])
    of_neuron, of_feature = torch.zeros(len(neurons), dtype=torch.long), []
    for some in unit_rows(read).split(_AT_ONCE):
        together = (some @ neurons.T).abs_() > limit
        of_neuron += together.sum(dim=0)
        of_feature.append(together.sum(dim=1))
    return Participation(of_neuron, torch.cat(of_feature))
