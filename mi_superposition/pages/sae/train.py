"""The page of a training of autoencoders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import plotly.graph_objects as go

from mi_superposition.figures.lines import Line, lines
from mi_superposition.site import FigureRecord, Page, Section
from mi_superposition.site.records import TableRecord
from mi_superposition.studies.sae.rows import COLUMNS, cell, cells
from mi_superposition.studies.sae.train import SaeTrainingResult, load


def sections(folder: Path) -> list[Section]:
    """A finished run as a page."""
    training = load(folder)
    numbers = training.held_out[training.best]
    page = Page(
        slug="training",
        title="Training of sparse autoencoders",
        intro=f"Held-out numbers and training curves of {len(training.held_out)} sparse autoencoder{'s' * (len(training.held_out) > 1)} on {', '.join(training.config.hook)} of {Path(training.config.model.name).name}.",
        items=[_table(training), _explained(training), _dead(training)],
    )
    return [
        Section(
            slug="training",
            title=page.title,
            summary="Explained variance on held-out text, and training curves.",
            number=f"{cell(numbers, 'explained_variance')} explained",
            number_is=f"of the held-out variance, with {cell(numbers, 'l0')} features per token",
            control="0 for the mean of the activations; “sae evaluate” compares with baselines",
            page=page,
        )
    ]


def figure(training: SaeTrainingResult) -> go.Figure:
    """Explained variance of the training batches."""
    return _curves(training, "explained_variance", "explained variance")


def _curves(training: SaeTrainingResult, quantity: str, y_title: str) -> go.Figure:
    series = {}
    for name, history in training.history.items():
        rows = [(row["tokens"], row[quantity]) for row in history]
        points = [(float(x), float(y)) for x, y in rows if x is not None and y is not None]
        series[name] = Line([x for x, _ in points], [y for _, y in points])
    return lines(series, x_title="training tokens", y_title=y_title)


def _table(training: SaeTrainingResult) -> TableRecord:
    tokens = next(iter(training.held_out.values()))["tokens"]
    return TableRecord(
        id="held-out",
        title="Held-out text",
        look_at=(
            f"{tokens:,} tokens of held-out documents. {_losses(training.held_out)} Loss recovered: 1 for the model itself, 0 for mean "
            "ablation. Baselines and controls are measured by “sae evaluate”."
        ),
        columns=["autoencoder", *(name for name, _ in COLUMNS.values())],
        rows=[[name, *cells(numbers)] for name, numbers in training.held_out.items()],
    )


def _losses(held_out: Mapping[str, Mapping[str, float | int]]) -> str:
    one = next(iter(held_out.values()))
    if "ce_clean" not in one:
        return ""
    return f"Cross-entropy in nats per token: model {one['ce_clean']:.3f}, zero ablation {one['ce_zero']:.3f}."


def _explained(training: SaeTrainingResult) -> FigureRecord:
    first, last = (training.history[training.best][index] for index in (0, -1))
    return FigureRecord(
        id="explained-variance",
        title="Explained variance during training",
        look_at="Fraction of the variance of the training batch that the autoencoder explains; the value on held-out text is in the table.",
        number=f"{last['explained_variance'] or 0:.3f} at the end of training ({training.best}).",
        control=f"{first['explained_variance'] or 0:.3f} after {first['step']:,} of {last['step']:,} steps; 0 for the mean of the activations.",
        figure=figure(training),
    )


def _dead(training: SaeTrainingResult) -> FigureRecord:
    history = training.history[training.best]
    most = max(row["dead_features"] or 0 for row in history)
    n_features = training.held_out[training.best]["features"]
    return FigureRecord(
        id="dead-features",
        title="Dead features during training",
        look_at=f"Features that were not active in the last {training.config.dead_after:,} steps.",
        number=f"{history[-1]['dead_features'] or 0:,.0f} of {n_features:,} at the end of training ({training.best}).",
        control=f"{most:,.0f} at most during training; {cell(training.held_out[training.best], 'dead')} on held-out text.",
        figure=_curves(training, "dead_features", "dead features"),
    )
