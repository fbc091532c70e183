"""Dropout on the hidden layer: what it does to superposition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mi_superposition.figures.lines import Line, lines
from mi_superposition.figures.toy import grid_heatmaps
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item
from mi_superposition.studies.toy.study import Models, ToyStudy
from mi_superposition.toy import ToyConfig, ToyModels, geometric, setting_grid
from mi_superposition.toy.geometry import (
    dimensions_per_feature,
    feature_dimensionality,
    feature_norms,
    interference,
    relative_interference,
)
from mi_superposition.toy.models import initial_weights
from mi_superposition.toy.polysemanticity import features_per_neuron

PROBABILITIES = (1.0, 0.3, 0.1, 0.03, 0.01)
DROPOUT = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
KINDS = {"even": "equally important", "falling": "of falling importance"}
_HALF = DROPOUT.index(0.5)


def configs(full: bool) -> dict[str, ToyConfig]:
    """Forty features in ten dimensions over sparsity and dropout: equally important, and of importance 0.9^i."""
    return {
        kind: ToyConfig(
            n_features=40, n_hidden=10, n_instances=16 if full else 3, n_steps=4000, batch_size=512, learning_rate=5e-3,
            decay="cosine", settings=setting_grid(probability=PROBABILITIES, importance=[importance], dropout=DROPOUT),
        )
        for kind, importance in (("even", 1.0), ("falling", geometric(1.0, 0.9, 40)))
    }  # fmt: skip


def _grid(values: Float[Tensor, " setting"]) -> Float[Tensor, "probability dropout"]:
    return rearrange(values, "(probability dropout) -> probability dropout", dropout=len(DROPOUT))


def measured(models: ToyModels) -> dict[str, Float[Tensor, "probability dropout"]]:
    """Of the best instance.

    Dropout makes all weights shorter. What does not change with their length: features at least half as long as the
    longest, and of those the interference over their own squared norm (``relative``) and the share of a dimension. What
    does: the plain interference and ‖W‖².
    """
    W = models.W_in
    norms = feature_norms(W)
    there = norms > 0.5 * norms.amax(dim=1, keepdim=True)

    def mean(values: Tensor) -> Tensor:
        return _grid(torch.where(there, values, torch.nan).nanmean(dim=1))

    return {
        "features kept": _grid(there.sum(dim=1).float()),
        "relative interference": mean(relative_interference(W)),
        "share of a dimension": mean(feature_dimensionality(W)),
        "plain interference": mean(interference(W)),
        "dimensions per feature": _grid(dimensions_per_feature(W)),
        "features per neuron": _grid(features_per_neuron(W).mean(dim=1)),
    }


def metrics(models: Models) -> dict[str, Any]:
    """Every measure by kind of importance and probability, each a list over dropout; and the untrained control."""
    found: dict[str, Any] = {"probability": list(PROBABILITIES), "dropout": list(DROPOUT)}
    for kind, trained in models.items():
        for name, values in measured(trained).items():
            for probability, row in zip(PROBABILITIES, values, strict=True):
                found[f"{kind}_{name.replace(' ', '_')}_at_{probability:g}"] = row.tolist()
        untrained = initial_weights(trained.config).W_in
        found[f"{kind}_relative_interference_untrained"] = float(relative_interference(untrained).mean())
    return found


def _changes(models: ToyModels) -> str:
    """Relative interference without dropout and at one half, by sparsity."""
    relative = measured(models)["relative interference"]
    return ", ".join(
        f"{float(row[0]):.2f} to {float(row[_HALF]):.2f} at sparsity {1 - probability:.2f}"
        for probability, row in zip(PROBABILITIES, relative, strict=True)
    )


def outcome(models: Models) -> str:
    """What was found."""
    even, falling = (measured(models[kind]) for kind in KINDS)
    sparse = [row for row, probability in enumerate(PROBABILITIES) if probability <= 0.03]
    still = all(
        abs(float(even["relative interference"][r, _HALF] / even["relative interference"][r, 0]) - 1) < 0.1
        for r in sparse
    )
    middle, last = PROBABILITIES.index(0.3), len(PROBABILITIES) - 1
    kept, relative = falling["features kept"], falling["relative interference"]
    return (
        f"Dropout of one half changes the interference of equally important features, over their own squared norm, from "
        f"{_changes(models['even'])}: "
        f"{'of very sparse ones it changes hardly anything but the length of weights' if still else 'of very sparse ones too'}. Of "
        f"falling importance fewer are kept ({int(kept[last, 0])} become {int(kept[last, _HALF])} at sparsity 0.99) and they interfere less "
        f"({float(relative[last, 0]):.2f} becomes {float(relative[last, _HALF]):.2f}), but for dense features, which were not in superposition "
        f"({int(kept[0, 0])} and {int(kept[0, _HALF])} kept). At sparsity 0.70 dropout lines features up with hidden dimensions "
        f"({float(even['features per neuron'][middle, 0]):.1f} features a dimension become {float(even['features per neuron'][middle, _HALF]):.1f})."
    )


def items(models: Models) -> Sequence[Item]:
    """What dropout changes and what it does not, for both kinds of importance."""
    even = measured(models["even"])
    middle, tenth, sparse = PROBABILITIES.index(0.3), PROBABILITIES.index(0.1), len(PROBABILITIES) - 1
    wide = [1 - p for p in PROBABILITIES]
    untrained = initial_weights(models["even"].config).W_in

    def along(values: Tensor) -> dict[str, Line]:
        return {
            f"sparsity {1 - p:.2f}": Line(DROPOUT, row.tolist()) for p, row in zip(PROBABILITIES, values, strict=True)
        }

    grids = []
    for kind, said in KINDS.items():
        found = measured(models[kind])
        relative, kept = found["relative interference"], found["features kept"]
        grids.append(
            FigureRecord(
                id=f"toy-dropout-{kind}",
                title=f"Forty features {said} under dropout",
                look_at=(
                    "Left to right: more dropout. Both measures do not depend on how long the weights are: how many features are "
                    "at least half as long as the longest, and how much others project on each, over its own squared norm (1 in an "
                    "antipodal pair). Published for comparison: dropout works against superposition, but for features of falling "
                    "importance at low sparsity (Pona 2023)."
                ),
                number=(
                    f"Relative interference {float(relative[tenth, 0]):.2f} without and {float(relative[tenth, _HALF]):.2f} with dropout one half "
                    f"at sparsity {wide[tenth]:.2f}; {float(relative[sparse, 0]):.2f} and {float(relative[sparse, _HALF]):.2f} at {wide[sparse]:.2f}. "
                    f"Features kept: {int(kept[tenth, 0])} and {int(kept[tenth, _HALF])}; {int(kept[sparse, 0])} and {int(kept[sparse, _HALF])}."
                ),
                control=f"{float(relative_interference(untrained).mean()):.2f} before training; the leftmost column has no dropout.",
                figure=grid_heatmaps(
                    {"features kept": kept, "relative interference": relative}, rows=wide, columns=DROPOUT,
                    row_title="sparsity", column_title="dropout",
                ),
            )
        )  # fmt: skip
    return [
        *grids,
        FigureRecord(
            id="toy-dropout-length",
            title="What dropout does change everywhere: the length of weights",
            look_at=(
                "m / ‖W‖² counts dimensions for each feature by squared norms, so it rises as weights shrink, whether or not features "
                "leave superposition."
            ),
            number=f"{float(even['dimensions per feature'][sparse, 0]):.2f} to {float(even['dimensions per feature'][sparse, _HALF]):.2f} at sparsity {wide[sparse]:.2f}.",
            control=f"The share of a dimension each feature has, which lengths do not enter: {float(even['share of a dimension'][sparse, 0]):.2f} to {float(even['share of a dimension'][sparse, _HALF]):.2f}.",
            figure=lines(along(even["dimensions per feature"]), x_title="dropout", y_title="m / ‖W‖²", log_y=True),
        ),
        FigureRecord(
            id="toy-dropout-basis",
            title="Dropout can make hidden dimensions a basis",
            look_at=(
                "Effective number of features that have weights on a hidden dimension. A bottleneck has no reason to line "
                "features up with its dimensions; dropout, which acts on dimensions one by one, gives it one at moderate "
                "sparsity: two opposite features on each."
            ),
            number=f"{float(even['features per neuron'][middle, 0]):.1f} to {float(even['features per neuron'][middle, _HALF]):.1f} at sparsity {wide[middle]:.2f}.",
            control=f"{float(features_per_neuron(untrained).mean()):.1f} before training; {float(even['features per neuron'][sparse, _HALF]):.1f} at sparsity {wide[sparse]:.2f}.",
            figure=lines(
                along(even["features per neuron"]), x_title="dropout", y_title="features per hidden dimension"
            ),
        ),
    ]


STUDY = ToyStudy(
    name="dropout",
    title="Dropout against superposition",
    question="Does dropout keep features out of superposition?",
    source=(
        "Pona 2023, Superposition and Dropout; the post Dropout can create a privileged basis in the ReLU output model for the last "
        "figure"
    ),
    configs=configs,
    metrics=metrics,
    outcome=outcome,
    items=items,
)
