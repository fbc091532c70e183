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
    cosines,
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
# Random rotations of the hidden space that alignment is compared with.
N_ROTATIONS = 100
# Features whose directions have a smaller cosine than this are opposite.
_OPPOSITE = -0.9

_Grid = Float[Tensor, "probability dropout"]
_Cells = Float[Tensor, "probability dropout instance"]


class DropoutMeasures(NamedTuple):
    """Of every kept instance at every probability and dropout.

    Dropout makes all weights smaller. Independent of their norm are: how many features are at least half as long as the longest one
    (``kept``), how many of these lie opposite another (``opposite``, in antipodal pairs: cosine below -0.9), and of the kept ones the
    mean interference over their own squared norm and the mean feature dimensionality. In a tight frame of equal norms the relative
    interference is ``kept`` / m - 1 (Welch 1974), so that it is no second measure. The plain interference and ‖W‖² depend on norms.
    ``alignment``: ``features_per_neuron`` against that of the same model under random rotations of its hidden space, in their
    standard deviations: negative where features are aligned with dimensions, positive where they avoid them more than at random.
    """

    kept: _Cells
    opposite: _Cells
    relative_interference: _Cells
    dimensionality: _Cells
    plain_interference: _Cells
    dimensions_per_feature: _Cells
    features_per_neuron: _Cells
    alignment: _Cells


# Measures whose keys in metrics.json are not their names.
_KEYS = {"kept": "features_kept", "opposite": "features_in_antipodal_pairs", "dimensionality": "share_of_a_dimension"}


def dropout_measures(models: ToyModels) -> DropoutMeasures:
    """Measure one run."""
    W = models.weights.W_in
    norms = feature_norms(W)
    kept = norms > 0.5 * norms.amax(dim=-1, keepdim=True)
    pairs = kept[..., :, None] & kept[..., None, :] & (cosines(W) < _OPPOSITE)

    def mean(values: Float[Tensor, "setting instance feature"]) -> _Cells:
        return _grid(torch.where(kept, values, torch.nan).nanmean(dim=-1))

    return DropoutMeasures(
        kept=_grid(kept.sum(dim=-1).float()),
        opposite=_grid(pairs.any(dim=-1).sum(dim=-1).float()),
        relative_interference=mean(relative_interference(W)),
        dimensionality=mean(feature_dimensionality(W)),
        plain_interference=mean(interference(W)),
        dimensions_per_feature=_grid(dimensions_per_feature(W)),
        features_per_neuron=_grid(features_per_neuron(W).mean(dim=-1)),
        alignment=_grid(torch.stack([alignment(of_setting) for of_setting in W])),
    )


def alignment(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many"]:
    """Effective features per dimension against those under ``N_ROTATIONS`` random rotations of the hidden space, as a z-score; 0 where
    rotations change nothing.
    """
    own = features_per_neuron(W).mean(dim=-1)
    rotated = features_per_neuron(random_rotations(W.shape[-2]) @ W[..., None, :, :]).mean(dim=-1)
    spread = rotated.std(dim=-1)
    return torch.where(spread > 1e-4, (own - rotated.mean(dim=-1)) / spread.clamp_min(1e-4), 0.0)


def random_rotations(n: int) -> Float[Tensor, "rotation row column"]:
    """Orthogonal matrices drawn evenly (Stewart 1980), always the same."""
    drawn = torch.randn(N_ROTATIONS, n, n, generator=torch.Generator().manual_seed(0))
    Q, R = torch.linalg.qr(drawn)
    return Q * R.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]


def _grid(values: Float[Tensor, "setting instance"]) -> _Cells:
    return rearrange(values, "(probability dropout) instance -> probability dropout instance", dropout=len(DROPOUT))


class DropoutStudy(ToyStudyResult):
    """Forty features in ten dimensions over sparsity and dropout: equally important, and of importance 0.9^i."""

    @staticmethod
    def trainings(full: bool) -> dict[str, ToyConfig]:
        """``even`` and ``falling``; all instances are kept."""
        n_instances = 16 if full else 10
        even = ToyConfig(
            n_features=40, n_hidden=10, probability=PROBABILITIES, dropout=DROPOUT, n_instances=n_instances,
            n_kept=n_instances, n_steps=4000, batch_size=512, learning_rate=5e-3, decay="cosine",
        )  # fmt: skip
        return {"even": even, "falling": even.replace(importance_ratio=(0.9,))}

    @cached_property
    def measures(self) -> dict[str, DropoutMeasures]:
        """All measures of every kept instance, by run."""
        return {name: dropout_measures(trained) for name, trained in self.models.items()}

    @cached_property
    def means(self) -> dict[str, DropoutMeasures]:
        """Their means over the instances: tensors [probability, dropout]."""
        return {
            name: DropoutMeasures(*(cells.mean(dim=-1) for cells in measures))
            for name, measures in self.measures.items()
        }

    @property
    def n_instances(self) -> int:
        """Instances per cell that are measured."""
        return self.measures["even"].kept.shape[-1]

    @cached_property
    def beyond_a_frame(self) -> dict[str, _Grid]:
        """By run, how much larger the mean relative interference is than in a tight frame of as many features: kept / m - 1, or 0."""
        n_hidden = self.models["even"].config.architecture.n_hidden
        return {
            name: (measures.relative_interference - (measures.kept / n_hidden - 1).clamp_min(0)).mean(dim=-1)
            for name, measures in self.measures.items()
        }

    @cached_property
    def untrained_interference(self) -> dict[str, float]:
        """Mean relative interference before training, by run."""
        return {
            name: float(relative_interference(initial_weights(trained.config).W_in).mean())
            for name, trained in self.models.items()
        }

    def summary(self) -> str:
        """Features kept with dropout and without, and alignment."""
        tenth, moderate = PROBABILITIES.index(0.1), PROBABILITIES.index(0.3)
        even, falling = (self.means[name] for name in ("even", "falling"))
        said = ", ".join(
            f"{float(even.kept[row, HALF]):.1f} instead of {float(even.kept[row, 0]):.1f} at sparsity {1 - PROBABILITIES[row]:.2f}"
            for row in (tenth, len(PROBABILITIES) - 1)
        )
        return (
            f"of 40 equally important features dropout 0.5 keeps {said} (the control is no dropout); alignment with dimensions against random "
            f"rotations at sparsity 0.70: z = {float(even.alignment[moderate, HALF]):+.1f}, at decreasing importance "
            f"{float(falling.alignment[moderate, HALF]):+.1f}"
        )

    def metrics(self) -> dict[str, Any]:
        """Every measure by importance and probability, each a list over dropout, as the mean of the instances and their standard
        deviation (``_sd``); and the untrained control.
        """
        metrics: dict[str, Any] = {
            "probability": list(PROBABILITIES),
            "dropout": list(DROPOUT),
            "instances": self.n_instances,
        }
        for run, measures in self.measures.items():
            for name, cells in measures._asdict().items():
                for probability, row in zip(PROBABILITIES, cells, strict=True):
                    key = f"{run}_{_KEYS.get(name, name)}_at_{probability:g}"
                    metrics[key] = row.mean(dim=-1).tolist()
                    metrics[f"{key}_sd"] = row.std(dim=-1, correction=int(self.n_instances > 1)).tolist()
            metrics[f"{run}_relative_interference_untrained"] = self.untrained_interference[run]
        return metrics


STUDY = DropoutStudy
