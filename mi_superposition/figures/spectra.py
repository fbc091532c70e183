"""Figures of effective ranks, spectra and weight matrices."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go
from jaxtyping import Float
from plotly.basedatatypes import BaseTraceType
from plotly.subplots import make_subplots
from torch import Tensor

from mi_superposition.figures.lines import Line, framed_lines, lines, stacked_lines
from mi_superposition.figures.style import BLUE, framed, plain_heatmap, styled
from mi_superposition.spectra.config import ENERGY
from mi_superposition.spectra.ranks import EffectiveRanks
from mi_superposition.spectra.result import KINDS, LayerSpectra, Spectrum

_DECIMALS = 4
_POINTS = 120
_EDGE = "edge"


def rank_measures(ranks: EffectiveRanks) -> go.Figure:
    """Every rank measure of one spectrum as a bar; the axis ends at the maximum possible rank."""
    frame = ranks.to_frame()
    names = [name.replace("_", " ") for name in frame.index]
    figure = go.Figure(
        go.Bar(
            x=frame["rank"], y=names, orientation="h", marker_color=BLUE, hovertemplate="%{x:.4g}<extra>%{y}</extra>"
        )
    )
    figure.update_xaxes(title=f"rank (maximum {ranks.n})", range=[0, ranks.n])
    figure.update_yaxes(autorange="reversed")
    return styled(figure, height=260)


def energy_ratios(states: Mapping[str, LayerSpectra], energy: float) -> go.Figure:
    """Energy rank divided by the largest possible rank: a panel for weights and one for activations, a line for each state of a
    network (such as trained and untrained), a point for each layer.
    """
    first = next(iter(states.values()))
    kinds = [kind for kind in KINDS if first.of(kind)]
    panels: dict[str, dict[str, Line]] = {
        kind: {
            state: Line([float(number) for number in range(1, len(ratios) + 1)], list(ratios.values()))
            for state, spectra in states.items()
            for ratios in [spectra.ratios(kind, energy)]
        }
        for kind in kinds
    }
    return stacked_lines(
        panels,
        names={kind: list(first.of(kind)) for kind in kinds},
        x_title="layer, in network order",
        y_title="energy rank / largest possible",
    )


def energy_ratios_of_layers(spectra: LayerSpectra) -> go.Figure:
    """The same for a network in one state."""
    return energy_ratios({"energy rank": spectra}, ENERGY)


def spectrum_frames(frames: Mapping[str, Mapping[str, Spectrum]]) -> go.Figure:
    """A slider over layers: singular values of the layer in each state of the network, and the edge for the first one."""
    return framed_lines(
        {name: _curves(states) for name, states in frames.items()},
        "layer", x_title="rank", y_title="singular value", log_x=True, log_y=True, levels={_EDGE},
    )  # fmt: skip


def singular_values(spectrum: Spectrum) -> go.Figure:
    """Singular values of one matrix, of a random one of its shape, and the edge."""
    return lines(
        _curves({"singular values": spectrum, "random": spectrum.random(0)}),
        x_title="rank", y_title="singular value", log_x=True, log_y=True,
    )  # fmt: skip


def _curves(states: Mapping[str, Spectrum]) -> dict[str, Line]:
    """Values by rank, thinned evenly on a logarithmic axis."""
    curves = {}
    for state, spectrum in states.items():
        values = spectrum.values
        # Zeros, of dead channels say, have no logarithm.
        values = values[values > 1e-9 * float(values[0])] if len(values) else values
        n = len(values)
        ranks = sorted({round(n ** (step / (_POINTS - 1))) for step in range(_POINTS)} if n else [])
        curves[state] = Line(
            [float(rank) for rank in ranks], [float(f"{float(values[rank - 1]):.4g}") for rank in ranks]
        )
    first = next(iter(states.values()))
    return {**curves, _EDGE: Line([1.0, float(len(first.values))], [first.edge] * 2)}


def weight_heatmaps(frames: Mapping[str, Mapping[str, Float[Tensor, "out in"]]], what: str) -> go.Figure:
    """Weight heat maps side by side, one frame per slider step; the panels of a frame share a colour scale."""
    panels = list(next(iter(frames.values())))
    figure = make_subplots(1, len(panels), subplot_titles=panels, horizontal_spacing=0.06, shared_yaxes=True)

    def traces(series: Mapping[str, Tensor]) -> list[BaseTraceType]:
        limit = max(float(matrix.abs().max()) for matrix in series.values()) or 1.0
        return [
            plain_heatmap(
                matrix.double().round(decimals=_DECIMALS).tolist(), limit=limit, showscale=index == len(series) - 1,
                colorbar=dict(thickness=10, len=0.9), hovertemplate="output %{y}, input %{x}: %{z:.3f}<extra></extra>",
            )
            for index, matrix in enumerate(series.values())
        ]  # fmt: skip

    drawn = {name: traces(series) for name, series in frames.items()}
    for column, trace in enumerate(next(iter(drawn.values())), start=1):
        figure.add_trace(trace, row=1, col=column)
    framed(figure, drawn, what)
    figure.update_xaxes(title="input", showticklabels=False)
    figure.update_yaxes(autorange="reversed", showticklabels=False)
    figure.update_yaxes(title="output", row=1, col=1)
    return styled(figure, height=460, min_width=560)
