"""Effective ranks on a page: by layer, during training, and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import plotly.graph_objects as go

from mi_superposition.figures.lines import Line, lines
from mi_superposition.figures.spectra import energy_ratios
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import TableRecord
from mi_superposition.spectra.result import Kind
from mi_superposition.studies.spectra.measure import RANDOM, SpectraResult
from mi_superposition.studies.spectra.network import STATES

_LAYERS_IN_TRAINING = 5
_Item = TypeVar("_Item")


def evenly(items: Sequence[_Item], limit: int) -> list[_Item]:
    """At most so many of the items: the first, the last and those evenly between."""
    if len(items) <= limit:
        return list(items)
    return [items[round(number * (len(items) - 1) / (limit - 1))] for number in range(limit)]


def ratio_figure(result: SpectraResult) -> go.Figure:
    """Energy rank divided by the largest possible rank, by layer."""
    return energy_ratios(result.all_spectra, result.config.energy)


def depth_correlations(result: SpectraResult, kind: Kind) -> str:
    """Spearman correlations of ranks with depth, trained and untrained; empty for few layers."""
    values = {state: result.depth_correlation(state, kind) for state in STATES}
    if None in values.values():
        return ""
    said = f"{kind} {values['trained']:+.2f} trained, {values['untrained']:+.2f} untrained"
    if not result.bounded(kind):
        return said
    trained, untrained = (result.depth_correlation(state, kind, of_channels=True) for state in STATES)
    if trained is None or untrained is None:
        return said
    return f"{said} (divided by channels {trained:+.2f} and {untrained:+.2f})"


def by_layer(result: SpectraResult) -> FigureRecord:
    """The ratio of ranks for every layer."""
    depth = "; ".join(text for kind in result.kinds if (text := depth_correlations(result, kind)))

    def means(state: str) -> str:
        return ", ".join(f"{result.mean_ratio(state, kind):.2f} {kind}" for kind in result.kinds)

    bounded = result.bounded("activations")
    channels = (
        ", ".join(f"{result.mean_ratio(state, 'activations', of_channels=True):.2f} {state}" for state in STATES)
        if bounded
        else ""
    )

    return FigureRecord(
        id="ranks-by-layer",
        title="Effective rank by layer",
        look_at=(
            "For each layer, in the order of the network: the energy rank, the number of singular directions that "
            f"explain {100 * result.config.energy:g} % of the sum of squared singular values, divided by the largest "
            "possible rank: of weights the smaller of rows and columns; of activations the number of channels (or of samples), or the rank of the "
            "layer's weights where that is smaller, after a narrower layer."
            + (
                f" {bounded} of {len(result.spectra['trained'].activations)} layers cannot reach their number of channels; divided by channels the "
                f"means of activations are {channels}."
                if bounded
                else ""
            )
            + (f" Spearman correlation with depth: {depth}." if depth else "")
        ),
        number=f"{means('trained')} (mean over layers)",
        control=f"untrained {means('untrained')}; random matrices of the same shapes and possible ranks {means(RANDOM)}",
        figure=ratio_figure(result),
    )


def during_training(result: SpectraResult) -> list[FigureRecord]:
    """The ratio of ranks during training, for a few layers; nothing for a network that was not trained here."""
    rows = result.history
    if len(rows) < 2:
        return []
    # A logarithmic axis has no zero: the state before training is drawn half a step before the first.
    steps = [float(row["step"] or 0.5) for row in rows]
    records = []
    for kind in result.kinds:
        maximum = result.spectra["trained"].possible(kind)
        shown = evenly(list(maximum), _LAYERS_IN_TRAINING)
        first, last = ([row[kind][name][0] / maximum[name] for name in shown] for row in (rows[0], rows[-1]))
        watched = f" Activations on the first {result.numbers.get('watched_images', 0):,} test images."
        records.append(
            FigureRecord(
                id=f"training-{kind}",
                title=f"During training: {kind}",
                look_at=(
                    "The same ratio during training (logarithmic steps); the leftmost point is before training."
                    + (watched if kind == "activations" else "")
                ),
                number=f"{sum(last) / len(last):.2f} at the end (mean of those shown); accuracy {rows[-1]['watched_accuracy']:.3f}",
                control=f"{sum(first) / len(first):.2f} before training; accuracy {rows[0]['watched_accuracy']:.3f}",
                figure=lines(
                    {name: Line(steps, [row[kind][name][0] / maximum[name] for row in rows]) for name in shown},
                    x_title="step (leftmost: before training)",
                    y_title="energy rank / largest possible",
                    log_x=True,
                ),
            )
        )
    return records


def rank_tables(result: SpectraResult) -> list[TableRecord]:
    """Every rank measure of every layer, a table for each kind."""
    return [_table(result, kind) for kind in result.kinds]


def _table(result: SpectraResult, kind: Kind) -> TableRecord:
    energy = result.config.energy
    rows = []
    possible = result.spectra["trained"].possible(kind)
    for name, spectrum in result.spectra["trained"].of(kind).items():
        ranks = {state: spectra.of(kind)[name].ranks(energy) for state, spectra in result.all_spectra.items()}
        rows.append(
            [
                name,
                f"{spectrum.rows:,} × {spectrum.columns:,}",
                f"{possible[name]:,}",
                *(f"{one.energy_rank:,}" for one in ranks.values()),
                f"{ranks['trained'].sum_rank:,}",
                *(f"{one.entropy_rank:,.1f}" for one in ranks.values()),
                f"{ranks['trained'].participation_ratio:,.1f}",
                f"{ranks['trained'].stable_rank:,.1f}",
            ]
        )
    return TableRecord(
        id=f"table-{kind}",
        title=f"All layers: {kind}",
        look_at=(
            f"Energy: smallest number of singular values whose squares reach {100 * energy:g} % of the total. Sum: the same for the values "
            "themselves (trained). Entropy: exponential of the entropy (Roy & Vetterli 2007). Participation ratio and stable rank "
            "(trained) are dominated by the largest values. "
            + ("Rows are samples: images × spatial positions, or tokens." if kind == "activations" else "Rows are outputs.")
        ),
        columns=[
            "layer", "rows × columns", "largest possible rank", "energy, trained", "untrained", "random", "sum", "entropy, trained", "untrained", "random",
            "participation ratio", "stable rank",
        ],
        rows=rows,
    )  # fmt: skip
