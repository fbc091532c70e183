"""Figures of the projections and circuits of attention heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from mi_superposition.figures.style import (
    BLUE,
    DIGIT_COLOURS,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    framed,
    plain_heatmap,
    styled,
)
from mi_superposition.heads import Circularity, HeadProjections, fourier_plane

_MATRICES = ("Q", "K", "V", "O")


def projection_chart(projections: HeadProjections, head: int, *, position: int, digit: int) -> go.Figure:
    """Digits at one position (top) and positions for one digit (bottom) in the plane of one head; of more than two dimensions in the
    plane of the digits' strongest Fourier component.

    Columns Q, K, V and O. O has no position; the panel below it shows the OV circuit, from input digit to output digit.
    """
    figure = make_subplots(
        2, 4, horizontal_spacing=0.06, vertical_spacing=0.16,
        subplot_titles=[
            *(f"{name}: digits" for name in _MATRICES), *(f"{name}: positions" for name in "QKV"), "OV: input → output",
        ],
    )  # fmt: skip
    by_digit = [
        *(getattr(projections, name)[head, position, :10] for name in ("query", "key", "value")),
        projections.output[head],
    ]
    for column, points in enumerate(by_digit):
        figure.add_trace(
            _labelled(_in_plane(points), [str(d) for d in range(10)], DIGIT_COLOURS), row=1, col=column + 1
        )
    n_positions = len(projections.positions)
    colours = _position_colours(n_positions)
    for column, name in enumerate(("query", "key", "value")):
        points = getattr(projections, name)[head, :, digit] @ fourier_plane(by_digit[column]).T
        figure.add_trace(_labelled(points, [str(p) for p in range(n_positions)], colours), row=2, col=column + 1)
    ov = projections.ov[head, :10]
    figure.add_trace(
        plain_heatmap(ov.tolist(), limit=max(float(ov.abs().max()), 1e-6), showscale=False,
                      hovertemplate="input %{y}, output %{x}: %{z:.2f}<extra></extra>"),
        row=2, col=4,
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", dtick=1, row=2, col=4)
    figure.update_xaxes(dtick=1, row=2, col=4)
    return _square(styled(figure, height=560, min_width=900), [1, 2, 3, 4, 5, 6, 7])


def projection_multiples(projections: HeadProjections, *, position: int = 0) -> go.Figure:
    """All heads at once: the ten digits under Q, K, V and O, one row per head, each in the plane of its strongest Fourier component."""
    n_heads = projections.query.shape[0]
    titles = [f"{name}, head {head}" for head in range(n_heads) for name in _MATRICES]
    figure = make_subplots(n_heads, 4, subplot_titles=titles, horizontal_spacing=0.04, vertical_spacing=0.28 / n_heads)
    for head in range(n_heads):
        panels = [
            *(getattr(projections, name)[head, position, :10] for name in ("query", "key", "value")),
            projections.output[head],
        ]
        for column, points in enumerate(panels):
            figure.add_trace(
                _labelled(_in_plane(points), [str(d) for d in range(10)], DIGIT_COLOURS), row=head + 1, col=column + 1
            )
    figure.update_xaxes(showticklabels=False)
    figure.update_yaxes(showticklabels=False)
    return _square(styled(figure, height=170 * n_heads, min_width=720), range(1, 4 * n_heads + 1))


def projection_animation(frames: Mapping[str, Sequence[Float[Tensor, "digit d_head"]]]) -> go.Figure:
    """The ten digits under Q, K, V and O during training: one frame per snapshot, the same axes in all frames, those of the last."""
    figure = make_subplots(1, 4, subplot_titles=_MATRICES, horizontal_spacing=0.06)
    labels = [str(d) for d in range(10)]

    # The first frame shown is the end of training; the slider moves back.
    last = list(frames)[-1]
    planes = [fourier_plane(points) for points in frames[last]]
    frames = {
        name: [points @ plane.T for points, plane in zip(panels, planes, strict=True)]
        for name, panels in frames.items()
    }

    def traces(points: Sequence[Tensor]) -> list[go.Scatter]:
        return [_labelled(panel, labels, DIGIT_COLOURS) for panel in points]

    for column, trace in enumerate(traces(frames[last])):
        figure.add_trace(trace, row=1, col=column + 1)
        limit = 1.08 * max(float(points[column].abs().max()) for points in frames.values())
        figure.update_xaxes(range=[-limit, limit], row=1, col=column + 1)
        figure.update_yaxes(range=[-limit, limit], row=1, col=column + 1)
    framed(figure, {name: traces(points) for name, points in frames.items()}, "epoch", shown=len(frames) - 1)
    return _square(styled(figure, height=340, min_width=900), [1, 2, 3, 4])


def circularity_ranking(
    trained: Mapping[str, Circularity], untrained: Mapping[str, Circularity], ramp: float
) -> go.Figure:
    """Circularity (fraction of variance in one Fourier frequency × roundness) of the heads, ranked, for each matrix;
    trained and untrained.

    The hover text names the head, its frequency, fraction and roundness. ``ramp`` is the fraction for digits on a
    straight line.
    """
    figure = make_subplots(1, 4, subplot_titles=_MATRICES, shared_yaxes=True, horizontal_spacing=0.03)
    for column, name in enumerate(_MATRICES):
        for measured, label, colour in [(trained[name], "trained", BLUE), (untrained[name], "untrained", ORANGE)]:
            product = measured.share * measured.roundness
            order = product.argsort(descending=True)
            about = torch.stack(
                [order.float(), measured.frequency[order].float(), measured.roundness[order], measured.share[order]],
                dim=1,
            )
            figure.add_scatter(
                y=product[order].tolist(), customdata=about.tolist(), mode="lines+markers",
                marker=dict(size=4, color=colour), line=dict(color=colour), name=label, legendgroup=label,
                showlegend=column == 0, row=1, col=column + 1,
                hovertemplate="head %{customdata[0]}: %{y:.2f} at frequency %{customdata[1]}, "
                "fraction %{customdata[3]:.2f}, roundness %{customdata[2]:.2f}<extra>" + label + "</extra>",
            )  # fmt: skip
        figure.add_scatter(
            x=[0, len(measured.share) - 1], y=[ramp, ramp], mode="lines", line=dict(color=VERMILION, dash="dot", width=1),
            name="ramp (fraction)", legendgroup="ramp", showlegend=column == 0, row=1, col=column + 1,
        )  # fmt: skip
        figure.update_xaxes(title="head (ranked)", row=1, col=column + 1)
    figure.update_yaxes(title="circularity: fraction × roundness", range=[0, 1.02], row=1, col=1)
    figure = styled(figure, height=360, min_width=720)
    return figure.update_layout(margin=dict(t=70), legend=dict(y=1.12))


def ov_singular_directions(projections: HeadProjections, head: int) -> go.Figure:
    """The singular directions of one head's OV circuit: over the input digits and over the output digits."""
    figure = make_subplots(1, 2, subplot_titles=["input digits", "output digits"], shared_yaxes=True)
    for index, colour in zip(
        range(projections.ov_singular_values.shape[1]), (BLUE, ORANGE, PURPLE, GREY), strict=False
    ):
        name = f"direction {index + 1} (σ = {float(projections.ov_singular_values[head, index]):.2f})"
        for column, values in [(1, projections.ov_read[head, index, :10]), (2, projections.ov_write[head, index])]:
            figure.add_scatter(
                x=list(range(10)), y=values.tolist(), mode="lines+markers", line=dict(color=colour), name=name,
                legendgroup=name, showlegend=column == 1, row=1, col=column,
            )  # fmt: skip
    figure.update_xaxes(dtick=1, title="digit")
    figure.update_yaxes(title="component", row=1, col=1)
    figure = styled(figure, height=340, min_width=480)
    return figure.update_layout(margin=dict(t=76), legend=dict(y=1.14))


def _in_plane(points: Float[Tensor, "digit d_head"]) -> Float[Tensor, "digit 2"]:
    return points @ fourier_plane(points).T


def _labelled(points: Float[Tensor, "point 2"], labels: Sequence[str], colours: Sequence[str]) -> go.Scatter:
    """Points, drawn as their labels."""
    return go.Scatter(
        x=points[:, 0].tolist(), y=points[:, 1].tolist(), text=list(labels), mode="markers+text", textposition="middle right",
        marker=dict(color=list(colours), size=7), textfont=dict(size=11), showlegend=False,
        hovertemplate="%{text}: (%{x:.3f}, %{y:.3f})<extra></extra>",
    )  # fmt: skip


def _position_colours(n_positions: int) -> list[str]:
    """Light to dark along the sequence."""
    return [f"hsl(210, 60%, {80 - 50 * p // max(n_positions - 1, 1)}%)" for p in range(n_positions)]


def _square(figure: go.Figure, panels: Iterable[int]) -> go.Figure:
    """Equal scales on both axes of these panels, so that a circle is drawn as a circle."""
    for panel in panels:
        name = "" if panel == 1 else str(panel)
        figure.layout[f"yaxis{name}"].update(scaleanchor=f"x{name}", constrain="domain")
        figure.layout[f"xaxis{name}"].update(constrain="domain")
    return figure
