"""Figures of toy models: directions, interactions, neurons, grids of settings."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from numpy.typing import NDArray
from plotly.basedatatypes import BaseTraceType
from plotly.subplots import make_subplots
from torch import Tensor

from mi_superposition.figures.style import SERIES, framed, plain_heatmap, styled

_DECIMALS = 4
# The panels of stacks that are drawn in both colourings.
_COLOURED_BY = ("coloured by feature", "coloured by interference")


@dataclass(frozen=True)
class Interactions:
    """One model's W^T W, biases, feature norms and interference."""

    gram: Float[Tensor, "feature feature"]
    bias: Float[Tensor, " feature"]
    norms: Float[Tensor, " feature"]
    interference: Float[Tensor, " feature"]


def feature_directions(frames: Mapping[str, Float[Tensor, "2 feature"]], what: str, *, shown: int = 0) -> go.Figure:
    """Each feature as a line from the origin of a two-dimensional hidden space; a slider over models, ``shown`` is
    the first.
    """

    def traces(W: Tensor) -> list[BaseTraceType]:
        return [
            go.Scatter(
                x=[0, x], y=[0, y], mode="lines+markers", line=dict(width=3, color=colour),
                marker=dict(size=[0, 9], color=colour), name=f"feature {feature}",
                hovertemplate=f"feature {feature}: (%{{x:.2f}}, %{{y:.2f}})<extra></extra>",
            )
            for feature, ((x, y), colour) in enumerate(zip(_rounded(W.T), feature_colours(W.shape[1]), strict=True))
        ]  # fmt: skip

    drawn = {name: traces(W) for name, W in frames.items()}
    figure = go.Figure(list(drawn.values())[shown])
    framed(figure, drawn, what, shown=shown)
    limit = 1.15 * max(float(W.norm(dim=0).max()) for W in frames.values())
    figure.update_xaxes(range=[-limit, limit], title="hidden dimension 1", constrain="domain")
    figure.update_yaxes(range=[-limit, limit], title="hidden dimension 2", scaleanchor="x")
    return styled(figure, height=480)


def interactions(frames: Mapping[str, Interactions], what: str, *, shown: int = 0) -> go.Figure:
    """W^T W, the biases, and feature norms coloured by interference; a slider over models, ``shown`` is the first."""
    figure = make_subplots(
        1, 3, column_widths=[0.48, 0.1, 0.42], horizontal_spacing=0.1,
        subplot_titles=["W<sup>T</sup>W", "bias", "norm (colour: interference)"],
    )  # fmt: skip
    limit = max(float(found.gram.abs().max()) for found in frames.values())
    most = max(float(found.interference.max()) for found in frames.values())

    def traces(found: Interactions) -> list[BaseTraceType]:
        n = len(found.norms)
        return [
            plain_heatmap(
                _rounded(found.gram), limit=limit, showscale=False,
                hovertemplate="output %{y}, feature %{x}: %{z:.3f}<extra></extra>",
            ),
            plain_heatmap(
                _rounded(found.bias[:, None]), limit=limit, showscale=False,
                hovertemplate="bias of output %{y}: %{z:.3f}<extra></extra>",
            ),
            go.Bar(
                x=list(range(n)), y=_rounded(found.norms), customdata=_rounded(found.interference),
                marker=dict(
                    color=_rounded(found.interference), cmin=0, cmax=most, colorscale="Viridis",
                    colorbar=dict(thickness=10, len=0.9),
                ),
                hovertemplate="feature %{x}: norm %{y:.3f}, interference %{customdata:.3f}<extra></extra>",
            ),
        ]  # fmt: skip

    drawn = {name: traces(found) for name, found in frames.items()}
    for column, trace in enumerate(list(drawn.values())[shown]):
        figure.add_trace(trace, row=1, col=column + 1)
    framed(figure, drawn, what, shown=shown)
    for column in (1, 2):
        figure.update_yaxes(autorange="reversed", dtick=1, row=1, col=column)
    figure.update_xaxes(dtick=1)
    figure.update_xaxes(showticklabels=False, row=1, col=2)
    figure.update_yaxes(
        rangemode="tozero", range=[0, 1.05 * max(float(f.norms.max()) for f in frames.values())], row=1, col=3
    )
    return styled(figure, height=360, min_width=720).update_layout(showlegend=False)


def grid_heatmaps(
    panels: Mapping[str, Float[Tensor, "row column"]],
    *,
    rows: Sequence[float],
    columns: Sequence[float],
    row_title: str,
    column_title: str,
    limits: tuple[float, float] | None = None,
) -> go.Figure:
    """One heat map per panel over two settings; each has its own colour scale unless ``limits`` are given."""
    n = len(panels)
    figure = make_subplots(1, n, subplot_titles=list(panels), horizontal_spacing=0.14 if n > 1 else 0)
    for column, (name, values) in enumerate(panels.items(), start=1):
        low, high = limits or (float(values.min()), float(values.max()))
        # Beside its own panel, or beside the last one where all share a scale.
        bar = dict(
            thickness=10, len=0.9, x=(column - 1) * (1 + (0.14 if n > 1 else 0)) / n + (1 - 0.14 * (n - 1)) / n + 0.005
        )
        figure.add_heatmap(
            z=_rounded(values), x=[f"{value:.3g}" for value in columns], y=[f"{value:.3g}" for value in rows],
            zmin=low, zmax=high, colorscale="Viridis", showscale=limits is None or column == n, colorbar=bar,
            row=1, col=column, hovertemplate=f"{column_title} %{{x}}, {row_title} %{{y}}: %{{z:.3g}}<extra>{name}</extra>",
        )  # fmt: skip
    figure.update_xaxes(title=column_title, type="category", tickangle=-60, nticks=8)
    figure.update_yaxes(type="category", nticks=8)
    figure.update_yaxes(title=row_title, row=1, col=1)
    return styled(figure, height=400, min_width=320 * n)


def neuron_stacks(
    frames: Mapping[str, Mapping[str, Float[Tensor, "hidden feature"]]],
    what: str,
    *,
    y_title: str,
    paired: bool = False,
    interference: Mapping[str, Float[Tensor, " feature"]] | None = None,
) -> go.Figure:
    """One bar per hidden neuron: the magnitudes of its weights stacked, one colour per feature; a slider over frames
    with the same panels side by side.

    Bars are relative to the largest bar of the panel; the hover text shows the weights. ``paired``: features 0 and 1,
    2 and 3, … share a hue. ``interference``: of each feature, 0 to 1, by frame; every panel is then drawn a second time in its colours
    (dark: 0).
    """
    panels = list(next(iter(frames.values())))
    titles = panels if interference is None else [f"{name} {by}".strip() for name in panels for by in _COLOURED_BY]
    figure = make_subplots(1, len(titles), subplot_titles=titles, horizontal_spacing=0.06, shared_yaxes=True)

    def trace(W: Tensor, values: Tensor | None = None) -> go.Bar:
        # One trace for all features, each piece on top of those before, in arrays: a trace a feature is slow to make and to draw.
        heights = (W.abs() / W.abs().sum(dim=1).max().clamp_min(1e-12)).T
        feature, neuron = (heights > 10**-_DECIMALS / 2).nonzero(as_tuple=True)
        number = feature.numpy().astype(np.int16)
        colour = number if values is None else _single(values[feature])
        return go.Bar(
            x=neuron.numpy().astype(np.int16), y=_single(heights[feature, neuron]),
            base=_single((heights.cumsum(dim=0) - heights)[feature, neuron]), customdata=_single(W[neuron, feature]),
            marker=dict(color=colour, line=dict(width=0), **(by_feature(W.shape[1]) if values is None else by_interference)),
            text=None if values is None else number, textposition="none",
            hovertemplate="neuron %{x}, feature %{marker.color}: %{customdata:.3f}<extra></extra>" if values is None
            else "neuron %{x}, feature %{text}: %{customdata:.3f}; interference %{marker.color:.3f}<extra></extra>",
        )  # fmt: skip

    def by_feature(n_features: int) -> dict[str, Any]:
        last, colours = max(n_features - 1, 1), dict(enumerate(feature_colours(n_features, paired)))
        return dict(cmin=0, cmax=last, colorscale=[[at / last, colours.get(at, colours[0])] for at in range(last + 1)])

    by_interference: dict[str, Any] = dict(cmin=0, cmax=1, colorscale="Viridis", colorbar=dict(thickness=10, len=0.9))

    def traces(name: str, by_panel: Mapping[str, Tensor]) -> list[go.Bar]:
        colourings = [None] if interference is None else [None, interference[name]]
        return [trace(W, values) for W in by_panel.values() for values in colourings]

    first, *others = frames.items()
    for column, drawn in enumerate(traces(*first), start=1):
        figure.add_trace(drawn, row=1, col=column)
    if others:
        framed(figure, {name: traces(name, by_panel) for name, by_panel in frames.items()}, what)
    figure.update_layout(barmode="overlay", bargap=0.15)
    figure.update_xaxes(title="hidden neuron")
    figure.update_yaxes(range=[0, 1.02])
    figure.update_yaxes(title=f"{y_title} / maximum", row=1, col=1)
    return styled(figure, height=420, min_width=560 if interference is None else 720).update_layout(showlegend=False)


def loss_spread(groups: Mapping[str, Mapping[str, Sequence[float]]], *, y_title: str) -> go.Figure:
    """Losses of all instances: one strip of points per group, one colour per kind within it."""
    figure = go.Figure()
    kinds = list(dict.fromkeys(kind for kind_losses in groups.values() for kind in kind_losses))
    for kind, colour in zip(kinds, itertools.cycle(SERIES), strict=False):
        x = [name for name, by_kind in groups.items() for _ in by_kind.get(kind, ())]
        y = [loss for by_kind in groups.values() for loss in by_kind.get(kind, ())]
        figure.add_box(
            x=x, y=[float(f"{loss:.4g}") for loss in y], name=kind, boxpoints="all", jitter=0.6, pointpos=0,
            marker=dict(color=colour, size=4), line=dict(width=1), fillcolor="rgba(0,0,0,0)",
        )  # fmt: skip
    figure.update_layout(boxmode="group")
    figure.update_yaxes(title=y_title, type="log")
    return styled(figure, height=420, min_width=560)


def feature_colours(n: int, paired: bool = False) -> list[str]:
    """One colour per feature, consecutive features far apart on the colour wheel (golden angle); ``paired``: both
    features of a pair share a hue, the second one is lighter.
    """
    if paired:
        return [f"hsl({137.5 * (feature // 2) % 360:.0f}, 60%, {42 + 22 * (feature % 2)}%)" for feature in range(n)]
    return [f"hsl({137.5 * feature % 360:.0f}, 60%, 50%)" for feature in range(n)]


def _single(values: Tensor) -> NDArray[np.float32]:
    return values.numpy().astype(np.float32)


def _rounded(values: Tensor) -> list:
    return values.double().round(decimals=_DECIMALS).tolist()
