"""Accuracies of probes at every layer, with their controls."""

from __future__ import annotations

import plotly.graph_objects as go

from mi_superposition.figures.lines import Line, stacked_lines
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import TableRecord
from mi_superposition.studies.concepts.result import ConceptsResult

_PANEL = "balanced accuracy"


def probe_lines(result: ConceptsResult) -> go.Figure:
    """Accuracy of the probe at every layer, with its controls."""
    names = list(result.trained)
    x = [float(number) for number in range(1, len(names) + 1)]
    series: dict[str, Line] = {
        state: Line(x, [one.probe for one in layers.values()]) for state, layers in result.layers.items()
    }
    if result.by_words:
        series["random word lists"] = Line(x, [result.random[name].probe for name in names])
    series["shuffled labels"] = Line(x, [one.shuffled for one in result.trained.values()])
    series["bag of words"] = Line(x, [result.bag_of_words] * len(x))
    series["chance"] = Line(x, [result.chance] * len(x))
    return stacked_lines({_PANEL: series}, names={_PANEL: names}, x_title="layer", y_title="held-out accuracy")


def probe_figure(result: ConceptsResult) -> FigureRecord:
    """The lines with their words."""
    random = f", {result.best_random:.3f} random word lists" if result.by_words else ""
    return FigureRecord(
        id="probes",
        title="Concepts by layer",
        look_at=(
            "Balanced accuracy of a linear probe (logistic regression) on held-out texts, from each layer's activations averaged over "
            "tokens."
            + (
                " Random word lists have the same lengths and word frequencies: if the probe did as well on them, it "
                "would recognise words and not concepts. Bag of words: the same regression without any model; its "
                "inputs are which other words a text contains."
                if result.by_words
                else " Bag of words: the same regression without any model; its inputs are which words a text contains."
            )
        ),
        number=f"{result.best_probe('trained'):.3f} ± {result.error:.3f} at {result.best_layer}",
        control=(
            f"one halving, each at the layer that is best on its held-out texts: {result.best_probe('untrained'):.3f} untrained{random}, {result.best_shuffled:.3f} shuffled "
            f"labels, {result.bag_of_words:.3f} bag of words, {result.chance:.3f} chance"
        ),
        figure=probe_lines(result),
    )


_CONTROLS = {
    "trained": "linear probe on the trained model",
    "untrained": "the same on the untrained model",
    "denied": "the trained model reading the texts without their concept words",
    "word_vectors": "mean co-occurrence vector of all of a text's words, no model",
    "bag_of_words": "bag of words, no model",
}


def halvings_table(result: ConceptsResult) -> list[TableRecord]:
    """Accuracies over many halvings; nothing in runs of before they were measured."""
    halves = result.halves
    if halves is None:
        return []
    shown = [name for name in _CONTROLS if getattr(halves, name)]
    layers = ", ".join(f"{layer} ({halves.layers.count(layer)})" for layer in dict.fromkeys(halves.layers))
    return [
        TableRecord(
            id="halvings",
            title="Over many halvings",
            look_at=(
                f"Balanced accuracy on held-out texts over {len(halves.trained)} random halvings of the "
                f"{'words of each concept' if result.by_words else 'texts'}. The layer is chosen in each by two-fold cross-validation within the "
                f"training half (no word in both folds), for every model of its own; the held-out half is not looked at. Chosen for the trained "
                f"model: {layers}. Chance {result.chance:.3f}."
                + (
                    " A bag of words does not see the concept words, co-occurrence vectors do: their difference is what similar company of "
                    "words in these texts tells."
                    if result.by_words
                    else ""
                )
            ),
            columns=["probe", "mean", "standard deviation", "smallest", "largest"],
            rows=[
                [
                    _CONTROLS[name],
                    f"{halves.mean(name):.3f}",
                    f"{halves.deviation(name):.3f}",
                    f"{min(getattr(halves, name)):.3f}",
                    f"{max(getattr(halves, name)):.3f}",
                ]
                for name in shown
            ],
        )
    ]


def accuracy_table(result: ConceptsResult) -> TableRecord:
    """Accuracies of probe and nearest class mean by layer."""
    columns = ["layer", "probe", "untrained probe", "nearest class mean", "untrained class mean", "shuffled labels"]
    rows = []
    for name, trained in result.trained.items():
        untrained = result.untrained[name]
        numbers = [trained.probe, untrained.probe, trained.nearest, untrained.nearest, trained.shuffled]
        if result.by_words:
            numbers.append(result.random[name].probe)
        rows.append([name, *(f"{number:.3f}" for number in numbers)])
    return TableRecord(
        id="accuracies",
        title="All layers",
        look_at=(
            "Nearest class mean: each text is assigned to the concept whose centred mean has the largest cosine with it; only means are "
            f"estimated. {result.n_train:,} training texts. Chance {result.chance:.3f}."
        ),
        columns=columns + (["random word lists"] if result.by_words else []),
        rows=rows,
    )
