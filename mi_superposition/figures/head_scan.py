"""Figures of a scan of heads."""

from __future__ import annotations

import plotly.graph_objects as go

from mi_superposition.heads.scan import HeadScan
from mi_superposition.heads.scan.measures import MEASURE


def head_points(scan: HeadScan, x: str = "previous_token", y: str = "induction") -> go.Figure:
    """Every head as a point, by two of its measures, with the heads of the untrained model."""
    figure = go.Figure()
    groups = {"untrained": scan.measures[x].untrained, "trained": scan.measures[x].values}
    for name, across in groups.items():
        up = scan.measures[y].untrained if name == "untrained" else scan.measures[y].values
        if across is None or up is None:
            continue
        figure.add_trace(
            go.Scatter(
                x=across.tolist(),
                y=up.tolist(),
                name=name,
                mode="markers",
                text=scan.names,
                marker={"symbol": "circle-open" if name == "untrained" else "circle", "size": 9},
                hovertemplate="%{text}: %{x:.3f}, %{y:.3f}",
            )
        )
    figure.update_layout(xaxis_title=MEASURE[x].label, yaxis_title=MEASURE[y].label)
    return figure
