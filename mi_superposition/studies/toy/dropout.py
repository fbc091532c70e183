"""Dropout on the hidden layer: what it does to superposition."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mi_superposition.studies.toy.result import ToyStudyResult
from mi_superposition.toy.config import ToyConfig
from mi_superposition.toy.geometry import (
    dimensions_per_feature,
    feature_dimensionality,
    feature_norms,
    interference,
    relative_interference,
)
from mi_superposition.toy.models import ToyModels, initial_weights
from mi_superposition.toy.polysemanticity import features_per_neuron

PROBABILITIES = (1.0, 0.3, 0.1, 0.03, 0.01)
DROPOUT = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
HALF = DROPOUT.index(0.5)

_Grid = Float[Tensor, "probability dropout"]


class DropoutMeasures(NamedTuple):
    """Of the best instance at every probability and dropout.

    Dropout makes all weights smaller. Independent of their norm are: how many features are at least half as long as the longest one
    (``kept``), and of those the mean interference over their own squared norm and the mean feature dimensionality. The plain
    interference and ‖W‖² are not.
    """

    kept: _Grid
    relative_interference: _Grid
    dimensionality: _Grid
    plain_interference: _Grid
    dimensions_per_feature: _Grid
    features_per_neuron: _Grid


# Measures whose keys in metrics.json are not their names.
_KEYS = {"kept": "features_kept", "dimensionality": "share_of_a_dimension"}


def dropout_measures(models: ToyModels) -> DropoutMeasures:
    """Measure one run."""
    W = models.W_in
    norms = feature_norms(W)
    kept = norms > 0.5 * norms.amax(dim=1, keepdim=True)

    def mean(values: Float[Tensor, "setting feature"]) -> _Grid:
        return _grid(torch.where(kept, values, torch.nan).nanmean(dim=1))

    return DropoutMeasures(
        kept=_grid(kept.sum(dim=1).float()),
        relative_interference=mean(relative_interference(W)),
        dimensionality=mean(feature_dimensionality(W)),
        plain_interference=mean(interference(W)),
        dimensions_per_feature=_grid(dimensions_per_feature(W)),
        features_per_neuron=_grid(features_per_neuron(W).mean(dim=1)),
    )


def _grid(values: Float[Tensor, " setting"]) -> _Grid:
    return rearrange(values, "(probability dropout) -> probability dropout", dropout=len(DROPOUT))


class DropoutStudy(ToyStudyResult):
    """Forty features in ten dimensions over sparsity and dropout: equally important, and of importance 0.9^i."""

    @staticmethod
    def trainings(full: bool) -> dict[str, ToyConfig]:
        """``even`` and ``falling``."""
        even = ToyConfig(
            n_features=40, n_hidden=10, probability=PROBABILITIES, dropout=DROPOUT, n_instances=16 if full else 3,
            n_steps=4000, batch_size=512, learning_rate=5e-3, decay="cosine",
        )  # fmt: skip
        return {"even": even, "falling": even.replace(importance_ratio=(0.9,))}

    @cached_property
    def measures(self) -> dict[str, DropoutMeasures]:
        """All measures, by run."""
        return {name: dropout_measures(trained) for name, trained in self.models.items()}

    @cached_property
    def untrained_interference(self) -> dict[str, float]:
        """Mean relative interference before training, by run."""
        return {
            name: float(relative_interference(initial_weights(trained.config).W_in).mean())
            for name, trained in self.models.items()
        }

    @cached_property
    def untrained_features_per_neuron(self) -> float:
        """Effective number of features per hidden dimension before training, of equally important ones."""
        return float(features_per_neuron(initial_weights(self.models["even"].config).W_in).mean())

    def summary(self) -> str:
        """Relative interference with dropout and without."""
        tenth, relative = PROBABILITIES.index(0.1), self.measures["even"].relative_interference
        said = ", ".join(
            f"{float(relative[row, HALF]):.2f} instead of {float(relative[row, 0]):.2f} at sparsity {1 - PROBABILITIES[row]:.2f}"
            for row in (tenth, len(PROBABILITIES) - 1)
        )
        return (
            f"relative interference of equally important features with dropout 0.5: {said}; the control is no dropout"
        )

    def metrics(self) -> dict[str, Any]:
        """Every measure by importance and probability, each a list over dropout; and the untrained control."""
        metrics: dict[str, Any] = {"probability": list(PROBABILITIES), "dropout": list(DROPOUT)}
        for run, measures in self.measures.items():
            for name, values in measures._asdict().items():
                for probability, row in zip(PROBABILITIES, values, strict=True):
                    metrics[f"{run}_{_KEYS.get(name, name)}_at_{probability:g}"] = row.tolist()
            metrics[f"{run}_relative_interference_untrained"] = self.untrained_interference[run]
        return metrics


STUDY = DropoutStudy
