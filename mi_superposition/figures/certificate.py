"""Figures of certificates of addition models."""

from __future__ import annotations

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from mi_superposition.addition.certificate.result import Certificate
from mi_superposition.figures.style import BLUE, SERIES, VERMILION, styled


def bounds_by_digit(certificate: Certificate) -> go.Figure:
    """Share not proven right, and share proven wrong, of every digit on a logarithmic axis; between them what is open."""
    digits = [str(digit) for digit in range(len(certificate.lower))]
    figure = go.Figure()
    for name, share, colour, symbol in [
        ("not proven right", 1 - certificate.lower, BLUE, "triangle-down"),
        ("sampled error", 1 - certificate.sampled.by_digit, "#777777", "line-ew-open"),
        ("proven wrong", certificate.wrong, VERMILION, "triangle-up"),
    ]:
        figure.add_scatter(
            x=digits, y=[100 * max(float(value), 1e-9) for value in share], name=name, mode="markers",
            marker=dict(color=colour, symbol=symbol, size=11, line=dict(width=2)),
            hovertemplate="digit %{x}: %{y:.4g} %<extra>" + name + "</extra>",
        )  # fmt: skip
    figure.update_xaxes(title="answer digit (0 = ones)", type="category")
    figure.update_yaxes(title="problems, %", type="log", dtick=1)
    return styled(figure, height=360)


def gap_over_time(certificate: Certificate) -> go.Figure:
    """Problems neither proven right nor wrong over seconds (over boxes where there are none), a line for each digit."""
    curve = certificate.curve
    x, unit = (curve.seconds, "seconds") if curve.timed else (curve.boxes, "boxes")
    figure = go.Figure()
    gap = 100 * (1 - curve.right - curve.wrong)
    # Where there are more digits than colours, the same colours come again as dashes.
    looks = [(colour, dash) for dash in ("solid", "dash") for colour in SERIES]
    for digit, (colour, dash) in zip(range(gap.shape[1]), looks, strict=False):
        figure.add_scatter(
            x=x.tolist(), y=gap[:, digit].clamp_min(1e-5).tolist(), mode="lines", name=f"digit {digit}",
            line=dict(color=colour, width=1.5, dash=dash), hovertemplate="%{x:,.0f} " + unit + ": %{y:.4g} points<extra>digit " + str(digit) + "</extra>",
        )  # fmt: skip
    figure.update_xaxes(title=unit, type="log")
    figure.update_yaxes(title="open, % of all problems", type="log", dtick=1)
    return styled(figure, height=400)


def proven_by_sums(certificate: Certificate) -> go.Figure:
    """For every digit with a column below: share proven right less share proven wrong, by the two columns' sums."""
    pairs = torch.tensor([10 - abs(total - 9) for total in range(19)], dtype=torch.float64) / 100
    whole = pairs[:, None] * pairs
    shown = list(range(1, len(certificate.lower)))
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = make_subplots(
        rows, columns, subplot_titles=[f"digit {digit}" for digit in shown], horizontal_spacing=0.06,
        vertical_spacing=0.12 if rows > 1 else 0.0,
    )  # fmt: skip
    for place, digit in enumerate(shown):
        right, wrong = (certificate.cells[digit, :, :, side] / whole for side in (0, 1))
        told = torch.stack([right, wrong, (1 - right - wrong).clamp_min(0)], dim=-1)
        figure.add_heatmap(
            z=(right - wrong).tolist(), customdata=(100 * told).tolist(), coloraxis="coloraxis",
            hovertemplate="own sum %{y}, below %{x}<br>right %{customdata[0]:.3f} %<br>wrong %{customdata[1]:.3f} %<br>open "
            "%{customdata[2]:.3f} %<extra>digit " + str(digit) + "</extra>",
            row=place // columns + 1, col=place % columns + 1,
        )  # fmt: skip
    figure.update_xaxes(tickvals=[0, 9, 18])
    figure.update_yaxes(tickvals=[0, 9, 18], autorange="reversed")
    for column in range(columns):
        figure.update_xaxes(title="sum below", row=rows, col=column + 1)
    for row in range(rows):
        figure.update_yaxes(title="own sum", row=row + 1, col=1)
    figure.update_layout(
        coloraxis=dict(
            colorscale=[[0, VERMILION], [0.5, "white"], [1, BLUE]], cmin=-1, cmax=1,
            colorbar=dict(
                thickness=10, tickvals=[-1, 0, 1], ticktext=["proven<br>wrong", "open", "proven<br>right"],
            ),
        )
    )  # fmt: skip
    return styled(figure, height=260 * rows + 60, min_width=720)
