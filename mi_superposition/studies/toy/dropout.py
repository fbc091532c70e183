"""Dropout on the hidden layer: what it does to superposition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mi_superposition.figures.toy import Line, grid_heatmaps, lines
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item
from mi_superposition.studies.toy.study import Models, ToyStudy
from mi_superposition.toy import ToyConfig, ToyModels, setting_grid
from mi_superposition.toy.geometry import dimensions_per_feature, feature_norms, interference, represented
from mi_superposition.toy.polysemanticity import features_per_neuron
from mi_superposition.toy.train import initial_weights

PROBABILITIES = (1.0, 0.3, 0.1, 0.03, 0.01)
DROPOUT = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)


def configs(full: bool) -> dict[str, ToyConfig]:
    """Forty equally important features in ten dimensions, over sparsity and dropout."""
    return {
        "relu": ToyConfig(
            n_features=40, n_hidden=10, settings=setting_grid(probability=PROBABILITIES, dropout=DROPOUT),
            n_instances=16 if full else 2, n_steps=5000, batch_size=512, learning_rate=5e-3, decay="cosine",
        )
    }  # fmt: skip


def _grid(values: Float[Tensor, " setting"]) -> Float[Tensor, "probability dropout"]:
    return rearrange(values, "(probability dropout) -> probability dropout", dropout=len(DROPOUT))


def measured(models: ToyModels) -> dict[str, Float[Tensor, "probability dropout"]]:
    """Of the best instance: represented features, their mean interference, dimensions per feature, features a neuron."""
    norms = feature_norms(models.W_in)
    between = torch.where(norms > 0.5, interference(models.W_in), torch.nan).nanmean(dim=1).nan_to_num(0.0)
    return {
        "features represented": _grid(represented(models.W_in)),
        "interference": _grid(between),
        "dimensions per feature": _grid(dimensions_per_feature(models.W_in)),
        "features per neuron": _grid(features_per_neuron(models.W_in).mean(dim=1)),
    }


def metrics(models: Models) -> dict[str, Any]:
    """Every measure by probability, each a list over dropout; and the untrained control."""
    trained = models["relu"]
    found: dict[str, Any] = {"probability": list(PROBABILITIES), "dropout": list(DROPOUT)}
    for name, values in measured(trained).items():
        for probability, row in zip(PROBABILITIES, values, strict=True):
            found[f"{name.replace(' ', '_')}_at_{probability:g}"] = row.tolist()
    found["dimensions_per_feature_untrained"] = float(
        dimensions_per_feature(initial_weights(trained.config).W_in).mean()
    )
    return found


def outcome(models: Models) -> str:
    """What was found."""
    found = measured(models["relu"])
    kept, between, dims, neuron = found.values()
    half = DROPOUT.index(0.5)
    middle, sparse = PROBABILITIES.index(0.3), len(PROBABILITIES) - 1
    falls = int((between[:, half] < between[:, 0]).sum())
    return (
        f"Dropout of one half lowers the interference at {falls} of {len(PROBABILITIES)} sparsities and raises the dimensions for "
        f"each feature from {float(dims[sparse, 0]):.2f} to {float(dims[sparse, half]):.2f} at sparsity {1 - PROBABILITIES[sparse]:.2f}, "
        f"but there {int(kept[sparse, half])} of {int(kept[sparse, 0])} features stay represented: weights shrink before features "
        f"are given up. At sparsity {1 - PROBABILITIES[middle]:.2f} it lines features up with neurons: {float(neuron[middle, 0]):.1f} a "
        f"neuron become {float(neuron[middle, half]):.1f}."
    )


def items(models: Models) -> Sequence[Item]:
    """The four measures over the grid, and along dropout."""
    trained = models["relu"]
    found = measured(trained)
    kept, between, dims, neuron = found.values()
    half, middle, sparse = DROPOUT.index(0.5), PROBABILITIES.index(0.3), len(PROBABILITIES) - 1
    wide = [1 - p for p in PROBABILITIES]
    untrained = initial_weights(trained.config).W_in

    def along(values: Tensor) -> dict[str, Line]:
        return {
            f"sparsity {1 - p:.2f}": Line(DROPOUT, row.tolist()) for p, row in zip(PROBABILITIES, values, strict=True)
        }

    return [
        FigureRecord(
            id="toy-dropout-grid",
            title="Superposition under dropout",
            look_at=(
                "Left to right: more dropout. The published expectation is that dropout works against superposition (Pona 2023, "
                "Superposition and Dropout): fewer features, less interference. The second holds everywhere; the first only "
                "where features are not very sparse."
            ),
            number=(
                f"{int(kept[2, 0])} features represented become {int(kept[2, half])} at sparsity {wide[2]:.2f}, but "
                f"{int(kept[sparse, 0])} become {int(kept[sparse, half])} at {wide[sparse]:.2f} (dropout one half)."
            ),
            control=f"{float(represented(untrained).mean()):.0f} before training; the leftmost column has no dropout.",
            figure=grid_heatmaps(
                {"features represented": kept, "mean interference": between}, rows=wide, columns=DROPOUT, row_title="sparsity",
                column_title="dropout",
            ),
        ),
        FigureRecord(
            id="toy-dropout-dimensions",
            title="Dimensions for each feature",
            look_at=(
                "m / ‖W‖² rises with dropout at every sparsity, because weights shrink: a feature spread over dimensions that may "
                "go missing is worth less."
            ),
            number=f"{float(dims[sparse, 0]):.2f} to {float(dims[sparse, half]):.2f} at sparsity {wide[sparse]:.2f}.",
            control=f"{float(dimensions_per_feature(untrained).mean()):.2f} before training.",
            figure=lines(along(dims), x_title="dropout", y_title="m / ‖W‖²", log_y=True),
        ),
        FigureRecord(
            id="toy-dropout-basis",
            title="Dropout can make neurons a basis",
            look_at=(
                "Effective number of features that have weights on a hidden dimension. A bottleneck has no reason to line "
                "features up with its dimensions; dropout, which acts on dimensions one by one, gives it one at moderate "
                "sparsity: two opposite features on each."
            ),
            number=f"{float(neuron[middle, 0]):.1f} to {float(neuron[middle, half]):.1f} at sparsity {wide[middle]:.2f}.",
            control=f"{float(features_per_neuron(untrained).mean()):.1f} before training; {float(neuron[sparse, half]):.1f} at sparsity {wide[sparse]:.2f}.",
            figure=lines(along(neuron), x_title="dropout", y_title="features per hidden dimension"),
        ),
    ]  # fmt: skip


STUDY = ToyStudy(
    name="dropout",
    title="Dropout against superposition",
    question="Does dropout keep features out of superposition?",
    source="Pona 2023, Superposition and Dropout; dropout and privileged bases were discussed beside it",
    configs=configs,
    metrics=metrics,
    outcome=outcome,
    items=items,
)
