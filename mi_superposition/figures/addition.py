"""Figures of the addition study."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from mi_superposition.addition.ablation import AblationMaps, CircuitCounts, HeadSets
from mi_superposition.figures.style import BLUE, GREY, SERIES, SKY, VERMILION, framed, plain_heatmap, styled

_DIGITS = [str(digit) for digit in range(10)]


def accuracy_by_digit(accuracies: Mapping[str, Sequence[float]], chance: Sequence[float]) -> go.Figure:
    """Bars of accuracy per answer digit, one group per model, with the accuracy of the best constant guess."""
    figure = go.Figure()
    n_digits = len(chance)
    names = [f"{digit}" for digit in range(n_digits)]
    for (name, values), colour in zip(accuracies.items(), itertools.cycle(SERIES), strict=False):
        figure.add_bar(
            x=names, y=[100 * value for value in values], name=name, marker_color=colour,
            hovertemplate="digit %{x}: %{y:.2f} %<extra>" + name + "</extra>",
        )  # fmt: skip
    figure.add_scatter(
        x=names, y=[100 * value for value in chance], name="best constant guess", mode="markers",
        marker=dict(symbol="line-ew-open", size=26, line=dict(width=2), color=VERMILION),
    )  # fmt: skip
    figure.update_xaxes(title="answer digit (0 = ones)", type="category")
    figure.update_yaxes(title="correct digits, %", range=[0, 102])
    return styled(figure, height=360)


def training_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> go.Figure:
    """Held-out error during training on a logarithmic axis, per digit (solid) and per whole sum (dotted)."""
    figure = go.Figure()
    for (name, rows), colour in zip(histories.items(), itertools.cycle(SERIES), strict=False):
        steps = [row["step"] for row in rows]
        for key, label, dash in [("test_accuracy", "digits", "solid"), ("test_sum_accuracy", "whole sums", "dot")]:
            # The axis ends at one wrong answer in ten thousand.
            errors = [max(100 * (1 - row[key]), 0.01) for row in rows]
            figure.add_scatter(
                x=steps, y=errors, mode="lines", name=f"{name}: {label}", line=dict(color=colour, dash=dash, width=1.5),
                hovertemplate="step %{x}: %{y:.2f} % wrong<extra></extra>",
            )  # fmt: skip
    figure.update_xaxes(title="optimizer steps", rangemode="tozero")
    figure.update_yaxes(title="held-out error, %", type="log", dtick=1)
    return styled(figure, height=400)


def error_by_nines(errors: Mapping[str, Sequence[float]], guess: Sequence[float], counts: Sequence[int]) -> go.Figure:
    """Fraction of wrong digits by the number of columns directly below that sum to 9, one group of bars per model.

    ``guess`` is the error of a predictor that knows everything except the carry and always chooses the more frequent
    case.
    """
    figure = go.Figure()
    names = [f"{nines}<br>{100 * count / sum(counts):.2g} % of digits" for nines, count in enumerate(counts)]
    for (name, values), colour in zip(errors.items(), itertools.cycle(SERIES), strict=False):
        figure.add_bar(
            x=names,
            y=[100 * value for value in values],
            name=name,
            marker_color=colour,
            hovertemplate="%{y:.2f} % wrong<extra>" + name + "</extra>",
        )
    figure.add_scatter(
        x=names,
        y=[100 * value for value in guess],
        name="everything known except the carry",
        mode="markers",
        marker=dict(symbol="line-ew-open", size=26, line=dict(width=2), color=VERMILION),
    )
    figure.update_xaxes(title="columns directly below that sum to 9", type="category")
    figure.update_yaxes(title="wrong digits, %", rangemode="tozero")
    return styled(figure, height=380, min_width=480)


def attention_patterns(
    pattern: Float[Tensor, "head query key"], key_labels: Sequence[str], query_labels: Sequence[str]
) -> go.Figure:
    """Small multiples, one per head: attention from each answer position to each position before it."""
    n_heads = pattern.shape[0]
    columns = 4
    rows = -(-n_heads // columns)
    figure = make_subplots(
        rows, columns, subplot_titles=[f"head {head}" for head in range(n_heads)],
        horizontal_spacing=0.025, vertical_spacing=0.28 / rows,
    )  # fmt: skip
    for head in range(n_heads):
        row, column = divmod(head, columns)
        figure.add_heatmap(
            z=pattern[head].tolist(), coloraxis="coloraxis", row=row + 1, col=column + 1,
            customdata=[[f"{q} → {k}" for k in key_labels] for q in query_labels],
            hovertemplate="%{customdata}: %{z:.3f}<extra>head " + str(head) + "</extra>",
        )  # fmt: skip
        outer_row, outer_column = row == rows - 1, column == 0
        figure.update_xaxes(
            row=row + 1, col=column + 1, tickvals=list(range(len(key_labels))), ticktext=list(key_labels),
            showticklabels=outer_row, tickangle=0, tickfont=dict(size=9),
        )  # fmt: skip
        figure.update_yaxes(
            row=row + 1, col=column + 1, tickvals=list(range(len(query_labels))), ticktext=list(query_labels),
            showticklabels=outer_column, autorange="reversed", tickfont=dict(size=9),
        )  # fmt: skip
    figure.update_layout(
        coloraxis=dict(
            colorscale="Blues", cmin=0, cmax=1, colorbar=dict(title="attention", thickness=10, len=0.25, y=0.9)
        )
    )
    return styled(figure, height=90 * rows + 80, min_width=860)


def ablation_animation(maps: AblationMaps, conditions: Sequence[str]) -> go.Figure:
    """Logits over the two digits, one frame per condition, all on one colour scale.

    Left: the correct digit's logit. Right: the logit of each digit, 2 × 5 panels.
    """
    limit = float(maps.by_digit.abs().max())
    figure = make_subplots(
        2, 7, specs=[[{"colspan": 2, "rowspan": 2}, None, *[{}] * 5], [None, None, *[{}] * 5]],
        subplot_titles=["correct digit", *_DIGITS], horizontal_spacing=0.02, vertical_spacing=0.12,
    )  # fmt: skip

    def traces(condition: str) -> list[go.Heatmap]:
        row = maps.of(condition)
        right = plain_heatmap(
            _rounded(maps.correct[row]), limit=limit, colorbar=dict(title="logit", thickness=10),
            hovertemplate="%{y} + %{x}: %{z:.2f}<extra>correct digit</extra>",
        )  # fmt: skip
        each = [
            plain_heatmap(
                _rounded(maps.by_digit[row, digit]),
                limit=limit,
                showscale=False,
                hovertemplate=f"%{{y}} + %{{x}}: %{{z:.2f}}<extra>digit {digit}</extra>",
            )
            for digit in range(10)
        ]
        return [right, *each]

    first, *rest = traces(conditions[0])
    figure.add_trace(first, row=1, col=1)
    for digit, trace in enumerate(rest):
        figure.add_trace(trace, row=1 + digit // 5, col=3 + digit % 5)
    framed(figure, {condition: traces(condition) for condition in conditions}, "heads kept")
    figure.update_yaxes(autorange="reversed", dtick=1, tickfont=dict(size=9))
    figure.update_xaxes(dtick=1, tickfont=dict(size=9))
    figure.update_xaxes(title="b", row=1, col=1)
    figure.update_yaxes(title="a", row=1, col=1)
    figure = styled(figure, height=420, min_width=1000)
    return figure.update_xaxes(ticks="")


def ablation_accuracy(maps: AblationMaps) -> go.Figure:
    """Accuracy of each answer digit when only one head is kept (top) and when one head is ablated (bottom)."""
    figure = make_subplots(2, 1, subplot_titles=["only this head kept", "this head ablated"], vertical_spacing=0.16)
    for row, prefix in [(1, "only"), (2, "without")]:
        chosen = [i for i, name in enumerate(maps.conditions) if name.startswith(prefix)]
        figure.add_heatmap(
            z=(100 * maps.accuracy[chosen].T).tolist(), coloraxis="coloraxis", row=row, col=1,
            hovertemplate="head %{x}, digit %{y}: %{z:.1f} %<extra></extra>",
        )  # fmt: skip
        figure.update_xaxes(title="head" if row == 2 else None, row=row, col=1, dtick=2)
        figure.update_yaxes(title="answer digit", row=row, col=1, dtick=1)
    figure.update_layout(
        coloraxis=dict(colorscale="Viridis", cmin=0, cmax=100, colorbar=dict(title="correct, %", thickness=10))
    )
    return styled(figure, height=460, min_width=640)


def push_counts(counts: CircuitCounts) -> go.Figure:
    """Number of heads with a positive and with a negative contribution to the correct digit's logit, for each of the
    100 sums of two digits, and the net contribution in logits.
    """
    net = counts.push.sum(dim=0)
    figure = make_subplots(
        1, 3, subplot_titles=["positive heads", "negative heads", "net contribution (logits)"],
        column_widths=[0.28, 0.28, 0.28], horizontal_spacing=0.1,
    )  # fmt: skip
    n_heads = counts.push.shape[0]
    for column, values in [(1, counts.n_up), (2, counts.n_down)]:
        figure.add_heatmap(
            z=values.tolist(), zmin=0, zmax=n_heads, colorscale="Viridis", row=1, col=column,
            showscale=column == 2, colorbar=dict(thickness=8, x=0.635, len=0.95),
            hovertemplate="%{y} + %{x}: %{z} heads<extra></extra>",
        )  # fmt: skip
    limit = max(float(net.abs().max()), 1e-6)
    figure.add_trace(
        plain_heatmap(net.tolist(), limit=limit, colorbar=dict(thickness=8), hovertemplate="%{y} + %{x}: %{z:.1f}<extra></extra>"),
        row=1, col=3,
    )  # fmt: skip
    figure.update_xaxes(title="b", dtick=1, tickfont=dict(size=9))
    figure.update_yaxes(autorange="reversed", dtick=1, tickfont=dict(size=9))
    figure.update_yaxes(title="a", row=1, col=1)
    return styled(figure, height=360, min_width=860)


def head_set_accuracy(sets: HeadSets) -> go.Figure:
    """Accuracy of each answer digit's greedy head set, compared with other sets of the same size."""
    figure = go.Figure()
    names = [f"digit {digit}<br>{int(size)} heads" for digit, size in enumerate(sets.size)]
    for name, others in zip(names, sets.accuracy_of_others, strict=True):
        figure.add_box(
            x=[name] * len(others), y=(100 * others).tolist(), boxpoints=False, line_color=GREY, showlegend=name == names[0],
            name="other sets of the same size", legendgroup="others",
        )  # fmt: skip
    for values, label, colour, symbol in [
        (sets.accuracy, "greedy set", BLUE, "circle"),
        (sets.accuracy_of_all, "all heads", SKY, "line-ew-open"),
    ]:
        figure.add_scatter(
            x=names, y=(100 * values).tolist(), mode="markers", name=label,
            marker=dict(color=colour, symbol=symbol, size=12 if symbol == "circle" else 26, line=dict(width=2)),
            hovertemplate="%{y:.1f} %<extra>" + label + "</extra>",
        )  # fmt: skip
    figure.update_yaxes(title="correct digits, %", range=[0, 102])
    return styled(figure, height=400, min_width=560)


def accuracy_over_training(epochs: Sequence[int], by_digit: Float[Tensor, "snapshot digit"]) -> go.Figure:
    """Accuracy of each answer digit at each snapshot, epochs on a logarithmic axis (epoch 0 is drawn at 0.5)."""
    figure = go.Figure()
    for digit in range(by_digit.shape[1]):
        figure.add_scatter(
            x=[max(epoch, 0.5) for epoch in epochs],
            y=(100 * by_digit[:, digit]).tolist(),
            mode="lines+markers",
            marker=dict(size=5),
            line=dict(width=1.5, color=SERIES[digit % len(SERIES)], dash="solid" if digit < len(SERIES) else "dot"),
            name=f"digit {digit}",
            hovertemplate="epoch %{x}: %{y:.1f} %<extra>digit " + str(digit) + "</extra>",
        )
    figure.update_xaxes(title="epoch", type="log", dtick=1)
    figure.update_yaxes(title="correct digits, %", range=[0, 102])
    return styled(figure, height=380, min_width=420)


def _rounded(values: Float[Tensor, "*axes"]) -> list:
    """Four significant digits of the largest: what a colour can show, in a fifth of the bytes."""
    decimals = max(0, 3 - int(values.abs().max().clamp_min(1e-6).log10().floor()))
    return values.double().round(decimals=decimals).tolist()
