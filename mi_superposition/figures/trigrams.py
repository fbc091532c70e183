"""Figures of superposition among heads."""

from __future__ import annotations

import plotly.graph_objects as go

from mi_superposition.figures.lines import Line, lines
from mi_superposition.figures.style import BLUE, plain_heatmap, styled
from mi_superposition.heads.trigrams.comparison import OBSERVED
from mi_superposition.heads.trigrams.result import HeadSharing


def feature_matrix(result: HeadSharing) -> go.Figure:
    """Every feature's effect by head, as a share of the sum of magnitudes of its row, features sorted by their strongest head."""
    heads = result.edges.heads
    share = heads / heads.abs().sum(1, keepdim=True).clamp_min(1e-12)
    order = sorted(range(len(share)), key=lambda one: (int(share[one].abs().argmax()), -float(share[one].abs().max())))
    names = [f"{head // result.n_heads}.{head % result.n_heads}" for head in range(heads.shape[1])]
    texts = [
        " … ".join(_seen(word) for word in result.words[one][:2]) + f" → {_seen(result.words[one][2])}" for one in order
    ]
    figure = go.Figure(
        plain_heatmap(
            share[order].tolist(), limit=1.0, x=names, customdata=[[text] * len(names) for text in texts],
            hovertemplate="%{customdata}<br>head %{x}: %{z:.2f} of the row<extra></extra>", colorbar=dict(title="share"),
        )
    )  # fmt: skip
    figure.update_xaxes(title="head (layer.head)", type="category")
    figure.update_yaxes(title="features, sorted by their strongest head", showticklabels=False, autorange="reversed")
    return styled(figure, height=520)


def groups_needed(result: HeadSharing) -> go.Figure:
    """Held-out share of the rows explained by the number of groups of heads, beside permuted matrices."""
    series = {name: Line(one.n_atoms, one.explained) for name, one in result.compared.items()}
    observed = result.compared[OBSERVED]
    series["observed, freely mixed directions"] = Line(observed.n_atoms, observed.subspace)
    return lines(series, x_title="groups of heads", y_title="held-out share explained", log_x=True)


def features_by_head(result: HeadSharing) -> go.Figure:
    """How many features each head carries, and how many of them have no token in common."""
    names = [f"{head // result.n_heads}.{head % result.n_heads}" for head in range(result.edges.heads.shape[1])]
    figure = go.Figure()
    figure.add_bar(x=names, y=result.carried.sum(0).tolist(), name="features", marker_color=BLUE)
    figure.add_bar(x=names, y=result.disjoint_by_head, name="of these without a common token, no copies")
    figure.update_xaxes(title="head (layer.head)", type="category")
    figure.update_yaxes(title="features carried")
    figure.update_layout(barmode="group")
    return styled(figure, height=340)


def _seen(token: str) -> str:
    return token.strip() or repr(token)[1:-1].replace(" ", "␣")
