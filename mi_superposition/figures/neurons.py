"""Figures of neurons: their order, and how what is measured of them is spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from mi_superposition.figures.style import GREY, SERIES, VERMILION, styled
from mi_superposition.neurons.control import KINDS, Control

_SMOOTHED_OVER = 15
_POINTS = 512


def neighbour_curves(
    trained: Float[Tensor, " step"], controls: Sequence[Control], along: Mapping[str, Float[Tensor, " step"]]
) -> go.Figure:
    """``|similarity|`` of neighbours: along the path (running mean; left) and sorted, with the range of all control samples
    (right). ``along`` gives for each kind of control the neighbour similarities along one sample's path.
    """
    figure = make_subplots(
        1, 2, horizontal_spacing=0.09, subplot_titles=[f"along the path (mean of {_SMOOTHED_OVER})", "sorted"]
    )
    for colour, control in zip(SERIES, controls, strict=False):
        name = KINDS[control.kind]
        path = _thinned(_smoothed(along[control.kind].abs()))
        figure.add_trace(_line(path, name, colour, legend=False), row=1, col=1)
        low, high = (_thinned(edge) for edge in (control.profiles.amin(dim=0), control.profiles.amax(dim=0)))
        figure.add_trace(
            go.Scatter(
                x=[*low[0], *high[0][::-1]], y=[*low[1], *high[1][::-1]], fill="toself", fillcolor=colour, opacity=0.25,
                line=dict(width=0), hoverinfo="skip", showlegend=False, legendgroup=name,
            ),
            row=1, col=2,
        )  # fmt: skip
        figure.add_trace(_line(_thinned(control.profiles.mean(dim=0)), name, colour, legend=True), row=1, col=2)
    figure.add_trace(
        _line(_thinned(_smoothed(trained.abs())), "trained", VERMILION, legend=False, width=2.5), row=1, col=1
    )
    ranked = trained.abs().sort(descending=True).values
    figure.add_trace(_line(_thinned(ranked), "trained", VERMILION, legend=True, width=2.5), row=1, col=2)
    figure.update_yaxes(title_text="|similarity| to the next neuron", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(rangemode="tozero", row=1, col=2)
    figure.update_xaxes(title_text="place", row=1, col=1)
    figure.update_xaxes(title_text="rank", row=1, col=2)
    figure = styled(figure, height=420, min_width=640)
    return figure.update_layout(legend=dict(y=1.12), margin=dict(t=96))


def control_scores(score: float, bound: float, unordered: float, controls: Sequence[Control]) -> go.Figure:
    """Scores of every control sample, and where the trained order, its upper bound and the unordered neurons lie."""
    figure = go.Figure()
    for colour, control in zip(SERIES, controls, strict=False):
        figure.add_trace(
            go.Scatter(
                x=control.scores.tolist(), y=[KINDS[control.kind]] * len(control.scores), mode="markers",
                marker=dict(color=colour, size=9, opacity=0.6), showlegend=False,
                hovertemplate="score %{x:.2f}<extra></extra>",
            )
        )  # fmt: skip
    for value, name, dash in ((unordered, "not ordered", "dot"), (score, "trained", "solid"), (bound, "bound", "dash")):
        figure.add_vline(x=value, line=dict(color=VERMILION if name != "not ordered" else GREY, width=2, dash=dash))
        figure.add_annotation(
            x=value, y=1.0, yref="paper", yanchor="bottom", text=name, showarrow=False,
            xanchor="left" if name == "bound" else "right",
        )  # fmt: skip
    figure.update_xaxes(title_text="score: sum of squared similarities of neighbours", rangemode="tozero")
    figure.update_yaxes(autorange="reversed")
    return styled(figure, height=120 + 46 * max(len(controls), 1), min_width=480)


def distributions(
    values: Float[Tensor, " bin"], groups: Mapping[str, Float[Tensor, " bin"]], what: str, share: str
) -> go.Figure:
    """How often each value occurs in several groups: their shares by bin, around the same values."""
    middles = [round(value, 3) for value in values.tolist()]
    figure = go.Figure()
    for number, (name, shares) in enumerate(groups.items()):
        figure.add_trace(
            go.Scatter(
                x=middles, y=[round(y, 4) for y in shares.tolist()], mode="lines", name=name,
                line=dict(color=SERIES[number % len(SERIES)], width=2, dash=None if "trained" in name.split() else "dot"),
                hovertemplate=f"{name}: %{{y:.1%}} at %{{x:.1f}}<extra></extra>",
            )
        )  # fmt: skip
    figure.update_xaxes(title_text=what)
    figure.update_yaxes(title_text=share, tickformat=".0%", rangemode="tozero")
    return styled(figure, height=400, min_width=480)


def _line(
    points: tuple[list[int], list[float]], name: str, colour: str, *, legend: bool, width: float = 1.5
) -> go.Scatter:
    return go.Scatter(
        x=points[0], y=points[1], mode="lines", name=name, legendgroup=name, showlegend=legend,
        line=dict(color=colour, width=width), hovertemplate=f"{name}: %{{y:.3f}}<extra></extra>",
    )  # fmt: skip


def _smoothed(values: Float[Tensor, " step"]) -> Float[Tensor, " step"]:
    """Running mean; at both ends over what there is."""
    width = min(_SMOOTHED_OVER, len(values))
    running = torch.cat([torch.zeros(1, dtype=torch.float64), values.double().cumsum(0)])
    places = torch.arange(len(values))
    low, high = (places - width // 2).clamp_min(0), (places + width // 2 + 1).clamp_max(len(values))
    return ((running[high] - running[low]) / (high - low)).to(values.dtype)


def _thinned(values: Float[Tensor, " step"]) -> tuple[list[int], list[float]]:
    """At most so many points, the first and the last among them."""
    places = torch.linspace(0, len(values) - 1, min(len(values), _POINTS)).round().long()
    return places.tolist(), [round(value, 4) for value in values[places].tolist()]
