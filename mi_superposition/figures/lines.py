"""Line charts: with bands and reference levels, stacked panels, or a slider over many charts."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.basedatatypes import BaseTraceType
from plotly.subplots import make_subplots

from mi_superposition.figures.style import GREY, SERIES, framed, styled

# Up to so many points, their names fit below the axis.
_NAMED = 8
_LONG = 10


@dataclass(frozen=True)
class Line:
    """Points of one line; ``low`` and ``high`` are the edges of the band around it."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def lines(
    series: Mapping[str, Line],
    *,
    x_title: str,
    y_title: str,
    log_x: bool = False,
    log_y: bool = False,
    marks: Mapping[str, float] | None = None,
    labels: Sequence[str] | None = None,
) -> go.Figure:
    """Lines with markers, bands where given, and grey horizontal lines at ``marks``. ``labels`` are hover texts of
    the first line's points.
    """
    figure = go.Figure()
    for number, ((name, line), colour) in enumerate(zip(series.items(), itertools.cycle(SERIES), strict=False)):
        if line.low is not None and line.high is not None:
            figure.add_scatter(
                x=[*line.x, *list(line.x)[::-1]], y=[*line.high, *list(line.low)[::-1]], fill="toself", fillcolor=colour,
                opacity=0.18, mode="lines", line=dict(width=0), hoverinfo="skip", showlegend=False, legendgroup=name,
            )  # fmt: skip
        figure.add_scatter(
            x=list(line.x), y=list(line.y), mode="lines+markers", name=name, legendgroup=name,
            line=dict(color=colour, width=2, dash="solid" if number < len(SERIES) else "dot"), marker=dict(size=6),
            customdata=list(labels) if labels and number == 0 else None,
            hovertemplate="%{x:.3g}: %{y:.4g}" + (" %{customdata}" if labels and number == 0 else "") + f"<extra>{name}</extra>",
        )  # fmt: skip
    for label, level in (marks or {}).items():
        figure.add_hline(
            y=level, line=dict(color=GREY, width=1, dash="dot"), annotation_text=label, annotation_position="top left"
        )
    figure.update_xaxes(title=x_title, type="log" if log_x else "linear")
    figure.update_yaxes(title=y_title, type="log" if log_y else "linear")
    return styled(figure, height=400, min_width=440).update_layout(margin=dict(t=70))


def framed_lines(
    frames: Mapping[str, Mapping[str, Line]],
    what: str,
    *,
    x_title: str,
    y_title: str,
    log_x: bool = False,
    log_y: bool = False,
    levels: Collection[str] = (),
    shown: int = 0,
) -> go.Figure:
    """A slider over charts with the same lines; ``what`` names what changes. Axes fit the chart that is shown. Lines
    named in ``levels`` are dotted and grey.
    """

    def traces(series: Mapping[str, Line]) -> list[BaseTraceType]:
        return [
            go.Scatter(
                x=list(line.x), y=list(line.y), mode="lines", name=name, hovertemplate=f"%{{x:.3g}}: %{{y:.4g}}<extra>{name}</extra>",
                line=dict(color=GREY, width=1.5, dash="dot") if name in levels else dict(color=colour, width=2),
            )
            for (name, line), colour in zip(series.items(), itertools.cycle(SERIES), strict=False)
        ]  # fmt: skip

    drawn = {name: traces(series) for name, series in frames.items()}
    figure = framed(go.Figure(list(drawn.values())[shown]), drawn, what, shown=shown)
    figure.update_xaxes(title=x_title, type="log" if log_x else "linear")
    figure.update_yaxes(title=y_title, type="log" if log_y else "linear")
    return styled(figure, height=420, min_width=440).update_layout(margin=dict(t=70))


def stacked_lines(
    panels: Mapping[str, Mapping[str, Line]], *, names: Mapping[str, Sequence[str]], x_title: str, y_title: str
) -> go.Figure:
    """Stacked charts with the same lines and the same y range of 0 to 1; ``names`` names the points of each chart."""
    figure = make_subplots(len(panels), 1, subplot_titles=list(panels), vertical_spacing=0.32 / len(panels))
    for row, (panel, series) in enumerate(panels.items(), start=1):
        for (name, line), colour in zip(series.items(), itertools.cycle(SERIES), strict=False):
            figure.add_scatter(
                x=list(line.x), y=list(line.y), mode="lines+markers", name=name, legendgroup=name, showlegend=row == 1,
                line=dict(color=colour, width=2), marker=dict(size=5), customdata=list(names[panel]), row=row, col=1,
                hovertemplate="%{customdata}: %{y:.3f}" + f"<extra>{name}</extra>",
            )  # fmt: skip
        if len(names[panel]) <= _NAMED:
            figure.update_xaxes(
                tickvals=list(line.x), ticktext=list(names[panel]), tickangle=-30 if max(map(len, names[panel])) > _LONG else 0,
                ticklabeloverflow="allow", row=row, col=1,
            )  # fmt: skip
    figure.update_xaxes(title=x_title, row=len(panels), col=1)
    figure.update_yaxes(title=y_title, range=[0, 1.04])
    # Long names are drawn slanted below the figure and need height of their own.
    longest = max(len(name) for some in names.values() for name in some)
    figure = styled(figure, height=110 + 240 * len(panels) + 5 * longest, min_width=440)
    return figure.update_layout(margin=dict(t=84), legend=dict(y=1.0 + 0.14 / len(panels)))
