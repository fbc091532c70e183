"""Figures of heads ablated on text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from mi_superposition.figures.style import GREY, SERIES, plain_heatmap, styled


def head_effects(
    names: Sequence[str],
    effects: Mapping[str, Float[Tensor, " head"]],
    errors: Mapping[str, Float[Tensor, " head"]],
    controls: Sequence[str],
) -> go.Figure:
    """What the loss rises by without each head, under every replacement, with standard errors; ``controls`` are drawn open and grey."""
    figure = go.Figure()
    for number, (name, values) in enumerate(effects.items()):
        control = name in controls
        colour = GREY if control else SERIES[number % len(SERIES)]
        symbol = ("circle-open" if name == controls[0] else "x-thin-open") if control else "circle"
        figure.add_scatter(
            x=list(names), y=[round(value, 5) for value in values.tolist()], mode="markers", name=name,
            error_y=dict(type="data", array=[round(value, 5) for value in errors[name].tolist()], thickness=1, width=2, color=colour),
            marker=dict(size=7, color=colour, symbol=symbol), hovertemplate=f"%{{x}}, {name}: %{{y:.4f}}<extra></extra>",
        )  # fmt: skip
    figure.update_yaxes(title_text="change of the loss, nats a token")
    figure.update_xaxes(title_text="layer and head", type="category")
    figure = styled(figure, height=430, min_width=max(560, 40 * len(names)))
    # What is measured of one head stands side by side: much of it is alike.
    return figure.update_layout(margin=dict(t=80), scattermode="group", scattergap=0.35)


def by_head(rows: Sequence[str], names: Sequence[str], values: Float[Tensor, "row head"], what: str) -> go.Figure:
    """A number of every head (columns) for several things (rows)."""
    shown = values.nan_to_num(0.0)
    figure = go.Figure(
        plain_heatmap([[round(value, 4) for value in row] for row in shown.tolist()], x=list(names), y=list(rows), limit=max(float(shown.abs().max()), 1e-6),
                      colorbar=dict(title=what), hovertemplate="%{x}, %{y}: %{z:.4f}<extra></extra>")
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title_text="layer and head", type="category")
    return styled(figure, height=130 + 38 * len(rows), min_width=max(560, 26 * len(names)))
