"""Figures of weight matrices."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go
from jaxtyping import Float
from plotly.basedatatypes import BaseTraceType
from plotly.subplots import make_subplots
from torch import Tensor

from mi_superposition.figures.style import framed, plain_heatmap, styled

_DECIMALS = 4


def weight_heatmaps(frames: Mapping[str, Mapping[str, Float[Tensor, "out in"]]], what: str) -> go.Figure:
    """The same panels of weights for each frame of a slider, side by side; the panels of a frame share a scale."""
    panels = list(next(iter(frames.values())))
    figure = make_subplots(1, len(panels), subplot_titles=panels, horizontal_spacing=0.06, shared_yaxes=True)

    def traces(series: Mapping[str, Tensor]) -> list[BaseTraceType]:
        limit = max(float(matrix.abs().max()) for matrix in series.values()) or 1.0
        return [
            plain_heatmap(
                matrix.double().round(decimals=_DECIMALS).tolist(), limit=limit, showscale=place == len(series) - 1,
                colorbar=dict(thickness=10, len=0.9), hovertemplate="output %{y}, input %{x}: %{z:.3f}<extra></extra>",
            )
            for place, matrix in enumerate(series.values())
        ]  # fmt: skip

    drawn = {name: traces(series) for name, series in frames.items()}
    for column, trace in enumerate(next(iter(drawn.values())), start=1):
        figure.add_trace(trace, row=1, col=column)
    framed(figure, drawn, what)
    figure.update_xaxes(title="input", showticklabels=False)
    figure.update_yaxes(autorange="reversed", showticklabels=False)
    figure.update_yaxes(title="output", row=1, col=1)
    return styled(figure, height=460, min_width=560)
