"""Figures of the program that an addition model has learnt."""

from __future__ import annotations

import math

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mi_superposition.addition.program.roles import HeadRoles, StepCheck
from mi_superposition.addition.program.tables import TableFidelity
from mi_superposition.figures.style import BLUE, GREY, SKY, VERMILION, styled


def fidelity_by_table(tables: TableFidelity) -> go.Figure:
    """Share of problems on which the best table disagrees with the model, over how many columns below it reads, a line a digit."""
    figure = make_subplots(rows=1, cols=2, subplot_titles=["a + b of each column", "a and b apart"], shared_yaxes=True)
    for panel, (shares, width) in enumerate([(tables.sums, 4), (tables.apart, 2)], start=1):
        for digit, row in enumerate(shares.tolist()):
            points = [
                (below, max(100 * (1 - share), 0.001)) for below, share in enumerate(row) if not math.isnan(share)
            ]
            figure.add_scatter(
                x=[below for below, _ in points], y=[other for _, other in points], mode="lines+markers",
                name=f"digit {digit}", legendgroup=str(digit), showlegend=panel == 1, line=dict(color=_digit_colour(digit, len(shares))),
                hovertemplate=f"digit {digit}, %{{x}} columns below: %{{y:.3f}} % other answers<extra></extra>", row=1, col=panel,
            )  # fmt: skip
        figure.update_xaxes(title="columns below that are read", dtick=1, range=[-0.2, width + 0.2], row=1, col=panel)
    figure.update_yaxes(type="log", row=1, col=1, title="other answers than the model, %")
    figure.update_yaxes(type="log", row=1, col=2)
    return styled(figure, height=420)


def fidelity_by_length(curves: dict[str, list[tuple[float, float]]], right: float) -> go.Figure:
    """Sums answered otherwise than by the model, over a program's description length; ``right``: that share for right answers to all."""
    figure = go.Figure()
    for (name, points), colour in zip(curves.items(), (BLUE, VERMILION), strict=False):
        figure.add_scatter(
            x=[bits for bits, _ in points], y=[100 * (1 - share) for _, share in points], mode="lines+markers", name=name,
            line=dict(color=colour), hovertemplate="%{x:,.0f} bits: %{y:.2f} % of sums otherwise<extra></extra>",
        )  # fmt: skip
    figure.add_hline(y=100 * (1 - right), line=dict(color=GREY, dash="dot"), annotation_text="right answers to all")
    figure.update_xaxes(title="description length, bits", type="log")
    figure.update_yaxes(title="sums otherwise than the model, %", rangemode="tozero")
    return styled(figure, height=380)


def roles_by_digit(roles: HeadRoles) -> go.Figure:
    """For every answer digit and head, the variance that the head gives it, split into what explains it."""
    figure = make_subplots(
        rows=1,
        cols=3,
        subplot_titles=["effect on the digit", "of it by a + b", "of it by the carry"],
        shared_yaxes=True,
    )
    amount = roles.amount.sqrt()
    heads = amount.sum(dim=0).argsort(descending=True).tolist()
    names = [str(head) for head in heads]
    for panel, values in enumerate([amount, roles.by_column_sum, roles.by_carry], start=1):
        figure.add_heatmap(
            z=values[:, heads].tolist(), x=names, y=[str(digit) for digit in range(len(values))], showscale=False,
            colorscale=[[0, "rgba(127,127,127,0.08)"], [1, BLUE]], zmin=0, zmax=float(amount.max()) if panel == 1 else 1.0,
            hovertemplate="head %{x}, digit %{y}: %{z:.2f}<extra></extra>", row=1, col=panel,
        )  # fmt: skip
        figure.update_xaxes(title="head", type="category", showticklabels=False, row=1, col=panel)
        figure.update_yaxes(type="category", row=1, col=panel)
    figure.update_yaxes(title="answer digit", row=1, col=1)
    return styled(figure, height=360)


def steps_broken(steps: StepCheck) -> go.Figure:
    """Accuracy that every answer digit loses without the heads of one digit's carry, beside random sets of as many heads."""
    lost = 100 * (steps.all_heads - steps.accuracy)
    random = 100 * (steps.all_heads - steps.random_mean)
    rows = [f"heads of digit {digit}" for digit in range(len(lost))] + ["random heads (mean)"]
    figure = go.Figure(
        go.Heatmap(
            z=[*lost.tolist(), random.tolist()], x=[str(digit) for digit in range(lost.shape[1])], y=rows,
            colorscale=[[0, "rgba(127,127,127,0.08)"], [1, VERMILION]], zmin=0, texttemplate="%{z:.0f}",
            hovertemplate="without the %{y}, digit %{x}: %{z:.1f} points lost<extra></extra>", colorbar=dict(title="points"),
        )
    )  # fmt: skip
    figure.update_xaxes(title="answer digit", type="category")
    figure.update_yaxes(autorange="reversed")
    return styled(figure, height=400)


def _digit_colour(digit: int, n_digits: int) -> str:
    """From light to dark with the digit's place."""
    share = digit / max(n_digits - 1, 1)
    return (
        SKY
        if share == 0
        else VERMILION
        if share == 1
        else f"rgb({int(40 + 20 * share)},{int(150 - 110 * share)},{int(200 - 60 * share)})"
    )
