"""Figures of concepts: texts in two principal components, and heat maps of texts, words and concepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from jaxtyping import Float, Int
from plotly.basedatatypes import BaseTraceType
from plotly.subplots import make_subplots
from torch import Tensor

from mi_superposition.concepts import ConceptDirections
from mi_superposition.figures.style import GREY, SERIES, framed, plain_heatmap, styled

_DECIMALS = 3


def labelled_points(
    frames: Mapping[str, Float[Tensor, "text two"]],
    labels: Int[Tensor, " text"],
    names: Sequence[str],
    what: str,
    *,
    none: str,
    shown: int = 0,
) -> go.Figure:
    """Texts in two dimensions, one colour per label; a slider over the frames. Label -1 is grey and named ``none``."""
    kinds = [(-1, none, GREY)] if bool((labels == -1).any()) else []
    kinds += [(number, name, SERIES[number % len(SERIES)]) for number, name in enumerate(names)]

    def traces(points: Tensor) -> list[BaseTraceType]:
        return [
            go.Scatter(
                x=_rounded(points[labels == kind, 0]), y=_rounded(points[labels == kind, 1]), mode="markers", name=name,
                marker=dict(color=colour, size=5, opacity=0.35 if kind == -1 else 0.65), hovertemplate=name + "<extra></extra>",
            )
            for kind, name, colour in kinds
        ]  # fmt: skip

    drawn = {name: traces(points) for name, points in frames.items()}
    figure = framed(go.Figure(list(drawn.values())[shown]), drawn, what, shown=shown)
    figure.update_xaxes(title="first principal component")
    figure.update_yaxes(title="second principal component")
    return styled(figure, height=500, min_width=440).update_layout(margin=dict(t=90))


def labelled_heatmaps(
    frames: Mapping[str, Mapping[str, Float[Tensor, "row column"]]],
    what: str,
    *,
    rows: Mapping[str, Sequence[str]],
    columns: Mapping[str, Sequence[str]],
    limit: float,
    form: str = ".2f",
    shown: int = 0,
    written: bool = True,
) -> go.Figure:
    """Heat maps side by side with named rows and columns and, with ``written``, the numbers in the cells; a slider if
    there is more than one frame. All share a colour scale.
    """
    panels = list(next(iter(frames.values())))
    figure = make_subplots(1, len(panels), subplot_titles=panels, horizontal_spacing=0.3 / len(panels))

    def traces(series: Mapping[str, Tensor]) -> list[BaseTraceType]:
        return [
            plain_heatmap(
                _rounded(values), x=list(columns[panel]), y=list(rows[panel]), limit=limit, showscale=False,
                texttemplate=f"%{{z:{form}}}" if written else None,
                hovertemplate="%{y}, %{x}: %{z:.3f}<extra></extra>",
            )
            for panel, values in series.items()
        ]  # fmt: skip

    drawn = {name: traces(series) for name, series in frames.items()}
    for column, trace in enumerate(list(drawn.values())[shown], start=1):
        figure.add_trace(trace, row=1, col=column)
    if len(frames) > 1:
        framed(figure, drawn, what, shown=shown)
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(tickangle=-60, type="category")
    most = max(len(rows[panel]) for panel in panels)
    width = sum(120 + (46 if written else 20) * len(columns[panel]) for panel in panels)
    return styled(figure, height=200 + (34 if written else 20) * most, min_width=max(440, width))


def direction_cosines(directions: ConceptDirections) -> go.Figure:
    """Cosine of each two concept directions."""
    names = [str(number) for number in range(len(directions.directions))]
    return labelled_heatmaps(
        {"": {"cosine": directions.directions @ directions.directions.T}},
        "",
        rows={"cosine": names},
        columns={"cosine": names},
        limit=1.0,
    )


def _rounded(values: Tensor) -> list[Any]:
    return values.double().round(decimals=_DECIMALS).tolist()
