"""Figures of sparse autoencoders: decoder directions, and feature activations on a sentence."""

from __future__ import annotations

import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from mi_superposition.figures.style import BLUE, plain_heatmap, styled
from mi_superposition.sae.sentence import SentenceFeatures

_DECIMALS = 3


def feature_heatmaps(panels: dict[str, Float[Tensor, "feature d"]]) -> go.Figure:
    """Decoder directions: one row per feature, one column per dimension; all panels share a colour scale."""
    figure = make_subplots(1, len(panels), subplot_titles=list(panels), horizontal_spacing=0.06, shared_yaxes=True)
    limit = max(float(directions.abs().max()) for directions in panels.values()) or 1.0
    for column, directions in enumerate(panels.values(), start=1):
        figure.add_trace(
            plain_heatmap(
                directions.double().round(decimals=_DECIMALS).tolist(), limit=limit, showscale=column == len(panels),
                colorbar=dict(thickness=10, len=0.9),
                hovertemplate="feature %{y}, dimension %{x}: %{z:.3f}<extra></extra>",
            ),
            row=1, col=column,
        )  # fmt: skip
    figure.update_xaxes(title="dimension")
    figure.update_yaxes(autorange="reversed", showticklabels=False)
    figure.update_yaxes(title="feature", row=1, col=1)
    return styled(figure, height=460, min_width=640)


def sentence_features(sentence: SentenceFeatures) -> go.Figure:
    """Largest activation of each feature in a sentence (bars) and its activation at each token (heat map)."""
    tokens, names, activations = sentence.tokens, sentence.names, sentence.activations
    figure = make_subplots(
        1, 2, column_widths=[0.24, 0.76], horizontal_spacing=0.02, shared_yaxes=True,
        subplot_titles=["largest activation", "activation at each token"],
    )  # fmt: skip
    strongest = activations.amax(dim=1)
    figure.add_trace(
        go.Bar(
            x=strongest.double().round(decimals=_DECIMALS).tolist(), y=names, orientation="h",
            marker=dict(color=BLUE), showlegend=False, hovertemplate="%{y}: %{x:.2f}<extra></extra>",
        ),
        row=1, col=1,
    )  # fmt: skip
    positions = list(range(len(tokens)))
    figure.add_trace(
        go.Heatmap(
            z=activations.double().round(decimals=_DECIMALS).tolist(), x=positions, y=names, zmin=0,
            zmax=float(activations.max()) or 1.0, colorscale="Blues", colorbar=dict(thickness=10, len=0.9),
            customdata=[tokens] * len(names), hovertemplate="%{y} at %{customdata}: %{z:.2f}<extra></extra>",
        ),
        row=1, col=2,
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(tickvals=positions, ticktext=tokens, tickangle=-60, row=1, col=2)
    return styled(figure, height=140 + 24 * len(names), min_width=max(720, 300 + 24 * len(tokens)))
