"""The page of a training of toy models."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go

from mi_superposition.figures.toy import feature_directions, interactions, neuron_stacks
from mi_superposition.pages.toy.frames import interaction_frames
from mi_superposition.pages.toy.losses import loss_table
from mi_superposition.pages.toy.words import setting_labels
from mi_superposition.site import FigureRecord, Page, Section
from mi_superposition.studies.toy.train import load
from mi_superposition.toy.geometry import represented
from mi_superposition.toy.models import ToyModels, initial_weights

# A figure holds no more than about so many numbers: further settings, or else features, are left out.
_MAX_NUMBERS = 400_000
_MAX_FEATURES = 200


def sections(folder: Path) -> list[Section]:
    """A finished training as a page."""
    models = load(folder)
    page = Page(
        slug="toy-models",
        title="Toy models",
        intro=f"{models.summary()}. The figure shows the best of the instances of each setting by held-out loss.",
        items=[_weights(models), loss_table({"": models})],
    )
    ratio = models.loss_ratio.amin(dim=1)
    return [
        Section(
            slug="toy-models",
            title=page.title,
            summary="Weights of the best instances, and the losses of all.",
            number=f"{float(ratio.median()):.3g}",
            number_is="loss of the best instance relative to the best constant output, median over settings",
            control=f"{float(models.untrained_loss_ratio.median()):.3g} before training",
            page=page,
        )
    ]


def figure(models: ToyModels) -> go.Figure:
    """The directions of features in two hidden dimensions; the weights of each neuron of a layer with an activation; W^T W of any
    other bottleneck. A slider over settings.
    """
    shape = models.config.architecture
    W, b = models.W_in[:, :, :_MAX_FEATURES], models.b[:, :_MAX_FEATURES]
    per_setting = W[0].numel() if shape.network != "bottleneck" or shape.n_hidden == 2 else W.shape[-1] ** 2
    every = -(-len(W) * per_setting // _MAX_NUMBERS)
    labels, W, b = setting_labels(models.config.settings)[::every], W[::every], b[::every]
    if shape.network != "bottleneck":
        frames = {label: {"": one} for label, one in zip(labels, W, strict=True)}
        return neuron_stacks(frames, "setting", y_title="Σ |input weight| over features")
    if shape.n_hidden == 2:
        return feature_directions(dict(zip(labels, W, strict=True)), "setting")
    return interactions(interaction_frames(labels, W, b), "setting")


def _weights(models: ToyModels) -> FigureRecord:
    shape = models.config.architecture
    kept = represented(models.W_in)
    untrained = float(represented(initial_weights(models.config).W_in).mean())
    if shape.network != "bottleneck":
        look_at = "One bar per neuron, its input weights stacked, one colour per feature."
    elif shape.n_hidden == 2:
        look_at = "Each line is the direction of one feature in the hidden space."
    else:
        look_at = "Entry (i, j) of W^T W is how much an active feature j adds to output i."
    return FigureRecord(
        id="toy-weights",
        title="Weights of the best instances",
        look_at=look_at,
        number=(
            f"{float(kept.mean()):.1f} of {shape.n_features} features have input weights of norm above 0.5 (mean over settings; "
            f"{int(kept.min())} to {int(kept.max())}), with {shape.n_hidden} hidden dimensions."
        ),
        control=f"{untrained:.1f} before training.",
        figure=figure(models),
    )
