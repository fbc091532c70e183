"""Figures of the order of neurons, of what it is compared with, and of clusters."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from mi_superposition.figures.style import BLUE, GREY, SERIES, VERMILION, styled
from mi_superposition.neurons import ClusterOrder, Control, NeuronOrder

_SMOOTHED_OVER = 15
_POINTS = 512


def order_curve(order: NeuronOrder) -> go.Figure:
    """``|similarity|`` of neighbours in an order."""
    return neighbour_curves(order.neighbours, [], name="neighbours")


def control_curve(control: Control) -> go.Figure:
    """``|similarity|`` of neighbours in the ordered samples of a control."""
    return neighbour_curves(None, [control])


def neighbour_curves(
    neighbours: Float[Tensor, " step"] | None, controls: Sequence[Control], *, name: str = "trained"
) -> go.Figure:
    """``|similarity|`` of neighbours: along the order (running mean; left), and sorted by size (right). Of each control: the first
    sample's on the left, the mean and the range of all samples on the right.
    """
    figure = make_subplots(
        1,
        2,
        horizontal_spacing=0.09,
        subplot_titles=[f"along the order (running mean over {_SMOOTHED_OVER})", "sorted by size"],
    )
    for colour, control in zip(SERIES, controls, strict=False):
        path = _thinned(_smoothed(control.example.neighbours.abs()))
        figure.add_trace(_line(path, control.name, colour, legend=False), row=1, col=1)
        low, high = (_thinned(edge) for edge in (control.profiles.amin(dim=0), control.profiles.amax(dim=0)))
        figure.add_trace(
            go.Scatter(
                x=[*low[0], *high[0][::-1]], y=[*low[1], *high[1][::-1]], fill="toself", fillcolor=colour, opacity=0.25,
                line=dict(width=0), hoverinfo="skip", showlegend=False, legendgroup=control.name,
            ),
            row=1, col=2,
        )  # fmt: skip
        figure.add_trace(_line(_thinned(control.profiles.mean(dim=0)), control.name, colour, legend=True), row=1, col=2)
    if neighbours is not None:
        smooth, ranked = _smoothed(neighbours.abs()), neighbours.abs().sort(descending=True).values
        figure.add_trace(_line(_thinned(smooth), name, VERMILION, legend=False, width=2.5), row=1, col=1)
        figure.add_trace(_line(_thinned(ranked), name, VERMILION, legend=True, width=2.5), row=1, col=2)
    figure.update_yaxes(title_text="|similarity| to the next neuron", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(rangemode="tozero", row=1, col=2)
    figure.update_xaxes(title_text="position in the order", row=1, col=1)
    figure.update_xaxes(title_text="rank", row=1, col=2)
    figure = styled(figure, height=420, min_width=640)
    return figure.update_layout(legend=dict(y=1.12), margin=dict(t=96))


def control_scores(order: NeuronOrder, own_order_score: float, controls: Sequence[Control]) -> go.Figure:
    """Scores of every control sample, of the trained order, of its upper bound and of the model's own order."""
    figure = go.Figure()
    for colour, control in zip(SERIES, controls, strict=False):
        figure.add_trace(
            go.Scatter(
                x=control.scores.tolist(), y=[control.name] * len(control.scores), mode="markers",
                marker=dict(color=colour, size=9, opacity=0.6), showlegend=False,
                hovertemplate="score %{x:.2f}<extra></extra>",
            )
        )  # fmt: skip
    levels = (
        (own_order_score, "own order", "dot"), (order.score, "trained", "solid"), (order.upper_bound, "upper bound", "dash"),
    )  # fmt: skip
    for value, name, dash in levels:
        figure.add_vline(x=value, line=dict(color=GREY if name == "own order" else VERMILION, width=2, dash=dash))
        figure.add_annotation(
            x=value, y=1.0, yref="paper", yanchor="bottom", text=name, showarrow=False,
            xanchor="left" if name == "upper bound" else "right",
        )  # fmt: skip
    figure.update_xaxes(title_text="score: sum of squared similarities of neighbours", rangemode="tozero")
    figure.update_yaxes(autorange="reversed")
    # The label of the bound stands to the right of its line.
    return styled(figure, height=120 + 46 * max(len(controls), 1), min_width=480).update_layout(margin=dict(r=72))


def cluster_sizes(clusters: ClusterOrder) -> go.Figure:
    """Neurons in each cluster, in the order of the clusters."""
    sizes = torch.bincount(clusters.label[clusters.label >= 0], minlength=clusters.n_clusters).tolist()
    figure = go.Figure(go.Bar(x=list(range(len(sizes))), y=sizes, marker=dict(color=BLUE)))
    figure.update_xaxes(title_text="cluster")
    figure.update_yaxes(title_text="neurons")
    return styled(figure, height=320)


def _line(
    points: tuple[list[int], list[float]], name: str, colour: str, *, legend: bool, width: float = 1.5
) -> go.Scatter:
    return go.Scatter(
        x=points[0], y=points[1], mode="lines", name=name, legendgroup=name, showlegend=legend,
        line=dict(color=colour, width=width), hovertemplate=f"{name}: %{{y:.3f}}<extra></extra>",
    )  # fmt: skip


def _smoothed(values: Float[Tensor, " step"]) -> Float[Tensor, " step"]:
    """Running mean; at both ends over the values that exist."""
    width = min(_SMOOTHED_OVER, len(values))
    running = torch.cat([torch.zeros(1, dtype=torch.float64), values.double().cumsum(0)])
    steps = torch.arange(len(values))
    low, high = (steps - width // 2).clamp_min(0), (steps + width // 2 + 1).clamp_max(len(values))
    return ((running[high] - running[low]) / (high - low)).to(values.dtype)


def _thinned(values: Float[Tensor, " step"]) -> tuple[list[int], list[float]]:
    """At most ``_POINTS`` points, always with the first and the last."""
    steps = torch.linspace(0, len(values) - 1, min(len(values), _POINTS)).round().long()
    return steps.tolist(), [round(value, 4) for value in values[steps].tolist()]
