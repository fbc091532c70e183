"""The page of a training of the addition model."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go

from mi_superposition.figures.addition import training_curves
from mi_superposition.site import FigureRecord, Page, Section
from mi_superposition.studies.addition.train import AdditionTraining, load


def figure(training: AdditionTraining) -> go.Figure:
    """Error on held-out problems during training."""
    return training_curves({"this training": training.history})


def sections(folder: Path) -> list[Section]:
    """A finished training as a page."""
    training = load(folder)
    error, first = (100 * (1 - row["test_accuracy"]) for row in (training.history[-1], training.history[0]))
    record = FigureRecord(
        id="training",
        title="Error during training",
        look_at="Error on held-out problems during training, on a logarithmic scale.",
        number=f"{error:.2f} % of digits wrong at the end.",
        control=f"{first:.1f} % at epoch {training.history[0]['epoch']}; 90 % by guessing.",
        figure=figure(training),
    )
    page = Page(slug="training", title="Training of an addition model", intro=f"{training.summary()}.", items=[record])
    return [
        Section(
            slug="training",
            title=page.title,
            summary="Error on held-out problems over training.",
            number=f"{100 - error:.2f} %",
            number_is="of the digits of held-out problems correct",
            control="10 % by guessing",
            page=page,
        )
    ]
