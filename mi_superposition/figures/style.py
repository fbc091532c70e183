"""The common style of all figures, for light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.basedatatypes import BaseTraceType

# Okabe and Ito 2008, distinguishable by colour-blind readers and on both backgrounds.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY = "#8a8f98"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION)
# Ten digits around a colour wheel: neighbouring digits have similar colours, and 9 is next to 0, as modulo ten.
DIGIT_COLOURS = [f"hsl({36 * digit}, 65%, 50%)" for digit in range(10)]
DIVERGING = "RdBu"


def styled(figure: go.Figure, *, height: int, min_width: int = 320) -> go.Figure:
    """Page layout of a figure: transparent, small margins; below ``min_width`` (pixels) a narrow screen scrolls."""
    figure.update_layout(
        template="none",
        height=height,
        margin=dict(l=52, r=16, t=48, b=44),
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font=dict(family="system-ui, sans-serif", size=13, color=GREY),
        legend=dict(orientation="h", yanchor="bottom", y=1.02, x=0),
        meta=dict(min_width=min_width),
    )
    figure.update_xaxes(showgrid=False, zeroline=False, ticks="outside", ticklen=4, tickcolor=GREY, automargin=True)
    figure.update_yaxes(gridcolor="rgba(138,143,152,0.25)", zeroline=False, automargin=True)
    figure.update_annotations(font=dict(size=12))
    return figure


def plain_heatmap(z: object, *, limit: float, **options: object) -> go.Heatmap:
    """A heatmap on a diverging scale that runs from ``-limit`` to ``limit``."""
    return go.Heatmap(z=z, zmin=-limit, zmax=limit, colorscale=DIVERGING, reversescale=True, **options)


def framed(figure: go.Figure, frames: Mapping[str, Sequence[BaseTraceType]], what: str, *, shown: int = 0) -> go.Figure:
    """Give a figure frames and a slider over them; ``what`` names what changes, ``shown`` is the index of the first
    frame shown.

    The site replaces the slider by one of its own that also works with the keyboard.
    """
    figure.frames = [go.Frame(data=list(traces), name=name) for name, traces in frames.items()]
    now = dict(mode="immediate", frame=dict(duration=0, redraw=True))
    steps = [dict(label=name, method="animate", args=[[name], now]) for name in frames]
    slider = dict(active=shown, currentvalue=dict(prefix=f"{what}: "), pad=dict(t=40), steps=steps)
    return figure.update_layout(sliders=[slider])
