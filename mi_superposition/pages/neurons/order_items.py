"""Figures, tables and the matrix of an order of neurons, with their words."""

from __future__ import annotations

import math
from collections.abc import Mapping

import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.figures.neuron_order import control_scores, neighbour_curves
from mi_superposition.neurons import Spot
from mi_superposition.neurons.control import KINDS
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item, Link, MatrixRecord, MatrixView, TableRecord
from mi_superposition.studies.neurons.order import ACTIVATIONS, FEW_CONTROLS, MANY_NEURONS
from mi_superposition.studies.neurons.order_result import OrderResult

MATRIX_ID = "similarity"
# Neuron pages by neuron: addresses relative to the page.
Linked = Mapping[int, str]
_SPOTS_SHOWN = 20
# Below this probability, over all comparisons, a difference is not called chance.
_SURE = 0.01


def figure(result: OrderResult) -> go.Figure:
    """The score and those of its controls."""
    return control_scores(result.order, result.own_order_score, result.controls)


def items(result: OrderResult, pages: Linked) -> list[Item]:
    """Everything on the page; neurons in ``pages`` are linked."""
    every_layer = [_every_layer(result)] if result.every_layer else []
    return [
        _scores(result), _controls(result), *_thinned(result), *every_layer, _neighbours(result), _matrix(result, pages), _spots(result, pages),
    ]  # fmt: skip


def verdict(result: OrderResult) -> str:
    """What the comparison says, in a few sentences."""
    control, score = result.strictest, result.order.score
    z, p = control.z_score(score), control.p_value(score)
    # As many comparisons as controls, so each must be surer by as much.
    if p * len(result.controls) > _SURE:
        return f"Not different from chance: {z:+.1f} standard deviations from the strictest control ({control.name}), p = {p:.2g}."
    sure = (
        f"{abs(z):.1f} standard deviations from {'it' if control is result.hardest or z < 0 else control.name}, p = {p:.1g} if scores are "
        f"normally distributed (both depend on the spread of {len(control.scores)} samples)"
    )
    if z < 0:
        gain = f"{-100 * control.gain(score):.1f} % below the strictest control ({control.name})"
        spread = "" if _of_activations(result) else " The directions are spread more evenly than random ones."
        return f"Neighbours are less {_alike(result)} than in an ordered random matrix: {gain}, {sure}.{spread}"
    gain = f"{100 * result.gain:.1f} % above the mean of the hardest control ({result.hardest.name})"
    facts = "".join(f" {fact[0].upper()}{fact[1:]}." for fact in [*bounded(result), *without_close(result)])
    return (
        f"Neighbours are more {_alike(result)} than ordering alone produces: {gain}, {sure}.{facts} {_groups(result)}"
    )


def bounded(result: OrderResult) -> list[str]:
    """The trained score beside what no order of any control sample can exceed; nothing where that was not computed."""
    highest, score = result.highest_control, result.order.score
    if not math.isfinite(highest):
        return []
    samples = sum(len(control.scores) for control in result.controls)
    above = "above" if score > highest else "not above"
    return [
        f"{score:.2f} is {above} {highest:.2f}, the most that any order of any of the {samples} control samples can score (proven bound)"
    ]


def without_close(result: OrderResult) -> list[str]:
    """What is left of the difference without close pairs; nothing where none were taken out."""
    said = [
        f"{100 * one.gain:+.1f} % without the {one.n_removed} in pairs above {one.above:g}" for one in result.thinned
    ]
    return (
        [f"without neurons in close pairs (by magnitude of the {_entry(result)}), ordered again: {', '.join(said)}"]
        if said
        else []
    )


def _groups(result: OrderResult) -> str:
    n_clusters = result.clusters.n_clusters
    controls = [count for control in result.controls for count in result.clusters_in(control.kind)]
    few, many = min(controls), max(controls)
    evidence = "There is less evidence for groups" if n_clusters <= many else "There is evidence for groups, too"
    by_chance = f"{few}" if few == many else f"{few} to {many}"
    return (
        f"{evidence}: {_windows(len(result.best_spots))} more similar than every window of the control, and HDBSCAN "
        f"finds {n_clusters} clusters, compared with {by_chance} in "
        f"{len(controls)} control samples."
    )


def percent(share: float) -> str:
    """A small share in percent, to two digits."""
    return f"{100 * share:.2f}"


def _scores(result: OrderResult) -> FigureRecord:
    order, control = result.order, result.strictest
    whose = "neurons" if _of_activations(result) else "directions"
    return FigureRecord(
        id="scores",
        title="Is the order more than an effect of ordering?",
        look_at=(
            "Any matrix looks ordered after it is ordered. Compare the trained score (line) with the scores of random matrices ordered by "
            f"the same search (points). {verdict(result)}"
        ),
        number=(
            f"Score {order.score:.2f}; upper bound for any order {order.upper_bound:.2f} ({percent(order.gap)} % higher). In "
            f"{100 * result.opposite_share:.0f} % of neighbouring pairs the two {whose} are opposite (negative {_entry(result)})."
        ),
        control=(
            f"{float(control.scores.mean()):.2f} ± {float(control.scores.std()):.2f} ({control.name}, {len(control.scores)} samples); "
            f"{result.own_order_score:.2f} in the model's own order."
        ),
        figure=figure(result),
    )


def _controls(result: OrderResult) -> TableRecord:
    score = result.order.score
    return TableRecord(
        id="controls",
        title="All controls",
        look_at=(
            "Score: sum of squared similarities of neighbours. Every sample was ordered by the same search with the "
            "same number of steps. z and p: the trained score compared with the samples (two-sided, Student's t for "
            "one new sample). Percentile: percentage of samples with a lower score. Clusters: number of HDBSCAN "
            "clusters, in the controls over the samples that were clustered. Upper bound: no order of any sample can score more "
            "(Held & Karp 1971). z and p depend on the spread of the samples and p on how many there are; gain and bound do not."
        ),
        columns=[
            "matrix", "samples", "score", "standard deviation", "gain of trained", "upper bound", "z of trained", "p", "percentile", "clusters",
        ],
        rows=[
            ["trained", "1", f"{score:.2f}", "", "", f"{result.order.upper_bound:.2f}", "", "", "", f"{result.clusters.n_clusters}"],
            *(
                [
                    control.name,
                    f"{len(control.scores)}",
                    f"{float(control.scores.mean()):.2f}",
                    f"{float(control.scores.std()):.3f}",
                    f"{100 * control.gain(score):+.1f} %",
                    f"{control.highest:.2f}" if math.isfinite(control.highest) else "–",
                    f"{control.z_score(score):+.1f}",
                    f"{control.p_value(score):.1g}",
                    f"{control.percentile(score):.0f}",
                    _counts(result.clusters_in(control.kind)),
                ]
                for control in result.controls
            ),
        ],
    )  # fmt: skip


def _counts(counts: list[int]) -> str:
    few, many = min(counts), max(counts)
    return (
        f"{few}" if few == many else f"{few} to {many}"
    ) + f" ({len(counts)} sample{'s' if len(counts) > 1 else ''})"


def _thinned(result: OrderResult) -> list[TableRecord]:
    """Orders without close pairs; nothing where none were taken out."""
    if not result.thinned:
        return []
    name = KINDS[result.thinned[0].kind]
    return [
        TableRecord(
            id="without-close",
            title="Without close pairs",
            look_at=(
                f"How much of the difference is made by a few close pairs? Neurons with a |{_entry(result)}| above the threshold to any other "
                f"are taken out, and the rest is ordered again, as are samples of the control that is hardest for all neurons ({name}), drawn "
                "anew for the rest. The samples keep the close pairs that they have by chance, so the comparison is against the trained order."
            ),
            columns=[
                "without pairs above",
                "neurons taken out",
                "score",
                "control",
                "standard deviation",
                "gain",
                "control's upper bound",
            ],
            rows=[
                [
                    f"{one.above:g}",
                    f"{one.n_removed}",
                    f"{one.score:.2f}",
                    f"{one.mean:.2f}",
                    f"{one.deviation:.2f}",
                    f"{100 * one.gain:+.1f} %",
                    f"{one.highest:.2f}",
                ]
                for one in result.thinned
            ],
        )
    ]


def _neighbours(result: OrderResult) -> FigureRecord:
    largest = max(float(control.profiles.max()) for control in result.controls)
    return FigureRecord(
        id="neighbours",
        title="Similarity of neighbours",
        look_at=(
            "|Similarity| of each neuron to the next one. Left: along the order (running mean). Right: sorted from "
            "large to small, with the range of all control samples. As far as the trained curve on the right is above "
            f"the bands, its pairs are more {_alike(result)} than in ordered random matrices."
        ),
        number=f"Largest |similarity| of two neighbours: {float(result.order.neighbours.abs().max()):.2f}.",
        control=f"{largest:.2f} is the largest in any control sample.",
        figure=neighbour_curves(result.order.neighbours, result.controls),
    )


def _matrix(result: OrderResult, pages: Linked) -> MatrixRecord:
    order, example = result.order.order, result.strictest.example.order
    trained, name = result.similarity.unpacked(), result.strictest.name
    views = [
        MatrixView("trained", "Trained, ordered", _permuted(trained, order), order),
        MatrixView("control", f"Control, ordered: {name}", _permuted(result.example.unpacked(), example), example),
        MatrixView("unordered", "Trained, model's own order", trained, torch.arange(len(order)), values_of="trained"),
    ]
    # Each view of many neurons is megabytes of tiles.
    if len(order) <= MANY_NEURONS:
        clusters = result.clusters.order
        views.append(
            MatrixView("clusters", "Trained, by cluster", _permuted(trained, clusters), clusters, values_of="trained")
        )
    return MatrixRecord(
        id=MATRIX_ID,
        title="The matrix",
        look_at=(
            "Zoom with the mouse wheel, two fingers or the + and − keys; drag or use the arrow keys to move; the , and . keys move along the "
            "diagonal. Red: similar (positive); blue: opposite (negative). When zoomed out, each pixel shows the strongest entry it covers. "
            "Boxes mark the spots listed below."
        ),
        number=f"Largest |similarity| of any two of {len(order):,} neurons: {result.similarity.largest:.2f}.",
        control=f"{result.example.largest:.2f} in the ordered random matrix (second button; {name}).",
        what=_entry(result),
        views=views,
        spots=[(spot.start, len(spot.neurons)) for spot in result.best_spots],
        pages=pages,
    )


def _spots(result: OrderResult, pages: Linked) -> TableRecord:
    control = result.spot_control
    return TableRecord(
        id="spots",
        title="Spots",
        look_at=(
            f"A spot is a window of {result.config.window} consecutive neurons in the order; spots are ranked by their "
            "mean squared similarity, so negative similarities count as much as positive ones (column “opposite "
            "pairs”). Excess: distance from the mean of the windows of the control with the most similar windows "
            f"({control.name}), in standard deviations. p: fraction of its samples (including this order) whose best "
            f"window is at least as similar. {_windows(len(result.best_spots))} more similar than every window of all "
            f"{len(control.window_max)} samples."
        ),
        columns=["start in the order", "mean squared similarity", "opposite pairs", "excess", "p", "neurons"],
        rows=[
            [
                Link(f"{spot.start}", f"#{MATRIX_ID}={spot.start},{len(spot.neurons)}"),
                f"{spot.similarity:.3f}",
                f"{_opposite_pairs(result, spot)} of {len(spot.neurons) - 1}",
                f"{spot.excess:+.1f} sd",
                f"{spot.p:.2f}",
                [Link(str(neuron), pages[neuron]) if neuron in pages else str(neuron) for neuron in spot.neurons],
            ]
            for spot in result.spots[:_SPOTS_SHOWN]
        ],
    )


def _every_layer(result: OrderResult) -> TableRecord:
    kinds = list(result.every_layer[0].z)
    return TableRecord(
        id="every-layer",
        title="Every layer, inputs and outputs",
        look_at=(
            f"z-scores relative to {FEW_CONTROLS} samples of each control, with a short search. With so few samples only the sign is reliable."
        ),
        columns=["neurons", "score", "gap to upper bound", *(f"z: {KINDS[kind]}" for kind in kinds)],
        rows=[
            [
                f"layer {short.layer}, {short.weights}",
                f"{short.score:.2f}",
                f"{100 * short.gap:.1f} %",
                *(f"{short.z[kind]:+.0f}" for kind in kinds),
            ]
            for short in result.every_layer
        ],
    )


def _of_activations(result: OrderResult) -> bool:
    return result.config.weights == ACTIVATIONS


def _alike(result: OrderResult) -> str:
    """What neighbours are whose similarity is large in magnitude."""
    return "correlated" if _of_activations(result) else "parallel or antiparallel"


def _windows(n: int) -> str:
    return "1 window is" if n == 1 else f"{n} windows are"


def _opposite_pairs(result: OrderResult, spot: Spot) -> int:
    """Neighbours within a spot whose similarity is negative."""
    return int((result.order.neighbours[spot.start : spot.start + len(spot.neurons) - 1] < 0).sum())


def _entry(result: OrderResult) -> str:
    """What an entry of the matrix is."""
    if _of_activations(result):
        return "correlation"
    return {"cosine": "cosine", "inner": "inner product"}[result.config.measure]


def _permuted(
    similarity: Float[Tensor, "neuron neuron"], order: Int[Tensor, " neuron"]
) -> Float[Tensor, "neuron neuron"]:
    return similarity[order][:, order]
