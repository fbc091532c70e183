"""Figures of distributions of what is measured per neuron or feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.figures.style import BLUE, SERIES, styled


def distributions(
    values: Float[Tensor, " bin"], groups: Mapping[str, Float[Tensor, " bin"]], what: str, share: str
) -> go.Figure:
    """Distributions of several groups over the same bins: the fraction of each group per bin."""
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


def activation_histogram(edges: Float[Tensor, " edge"], counts: Int[Tensor, " bin"]) -> go.Figure:
    """How many tokens have which activation. ``counts`` has the tokens below the first of the equal ``edges``, in each bin, and above
    the last edge.
    """
    width = float(edges[1] - edges[0])
    middles = [float(edges[0]) - width / 2, *((edges[1:] + edges[:-1]) / 2).tolist(), float(edges[-1]) + width / 2]
    figure = go.Figure(
        go.Bar(
            x=[round(middle, 4) for middle in middles], y=counts.tolist(), marker=dict(color=BLUE), name="tokens",
            hovertemplate="%{y:,} tokens at %{x:.2f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title_text="activation (first and last bar: outside the range)")
    figure.update_yaxes(title_text="tokens", type="log")
    return styled(figure, height=320, min_width=480)


def token_activations(tokens: Sequence[str], activations: Sequence[float]) -> go.Figure:
    """The activation on each token of a text, in its order."""
    figure = go.Figure(
        go.Bar(
            x=list(range(len(tokens))), y=list(activations), marker=dict(color=BLUE), customdata=list(tokens),
            hovertemplate="%{customdata}: %{y:.2f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(tickmode="array", tickvals=list(range(len(tokens))), ticktext=list(tokens))
    figure.update_yaxes(title_text="activation")
    return styled(figure, height=320, min_width=max(320, 14 * len(tokens)))
