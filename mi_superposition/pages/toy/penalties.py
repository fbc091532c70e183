"""The page on L1 and uneven sparsity."""

from __future__ import annotations

from collections.abc import Sequence

from mi_superposition.figures.lines import Line, lines
from mi_superposition.figures.toy import neuron_stacks
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item
from mi_superposition.studies.toy.penalties import HIDDEN, L1, SPARSITIES, PenaltiesStudy
from mi_superposition.toy.polysemanticity import features_per_neuron, monosemantic

TITLE = "L1 and uneven sparsity"
QUESTION = "Do an L1 penalty and uneven sparsity make neurons monosemantic?"
SOURCE = "ours, after K. Thaman, A. Rigg, N. Oozeer and J. David, “Experiments in Superposition” (Alignment Jam 10), project 4"
_ACTIVATIONS = {"relu": "ReLU", "gelu": "GELU"}
# Zero has no position on a logarithmic axis: it is drawn one step before the smallest weight.
_X = [L1[1] / 3, *L1[1:]]


def outcome(study: PenaltiesStudy) -> str:
    """Polysemantic neurons without L1, and with what L1 can be afforded."""
    by_activation = []
    for name, label in _ACTIVATIONS.items():
        share, parts = study.mean_polysemantic[name], []
        for row, sparsity in enumerate(SPARSITIES):
            column = study.affordable(name, row)
            parts.append(
                f"{100 * float(share[row, 0]):.0f} % of the neurons are polysemantic at {sparsity}, {100 * float(share[row, column]):.0f} % with "
                f"L1 {L1[column]:g}"
            )
        by_activation.append(f"{label}: {' and '.join(parts)}")
    return f"{'; '.join(by_activation)} (the largest L1 weight that increases the loss by at most 20 %)."


def items(study: PenaltiesStudy) -> Sequence[Item]:
    """Polysemanticity and loss over L1, and the weights."""
    return [_share(study), _loss(study), _stacks(study)]


def _share(study: PenaltiesStudy) -> FigureRecord:
    curves = {}
    for name, label in _ACTIVATIONS.items():
        for row, sparsity in enumerate(SPARSITIES):
            by_instance = study.polysemantic[name][row * len(L1) : (row + 1) * len(L1)]
            mean, low, high = by_instance.mean(dim=1), by_instance.amin(dim=1), by_instance.amax(dim=1)
            curves[f"{label}, {sparsity}"] = Line(_X, mean.tolist(), low.tolist(), high.tolist())
    return FigureRecord(
        id="toy-l1-share",
        title="Polysemantic neurons under L1 and uneven sparsity",
        look_at=(
            f"Fraction of active neurons that are polysemantic, mean of {study.polysemantic['relu'].shape[1]} instances (band: all of them); "
            "the leftmost point has no L1. Compare with the next figure: where the loss ratio is close to 1, nothing was learnt."
        ),
        number=outcome(study),
        control=f"{study.untrained_polysemantic['relu']:.2f} before training.",
        figure=lines(
            curves, x_title="weight of L1 (leftmost: none)", y_title="fraction of polysemantic neurons", log_x=True
        ),
    )


def _loss(study: PenaltiesStudy) -> FigureRecord:
    curves = {
        f"{label}, {sparsity}": Line(_X, study.loss_ratio[name][row].tolist())
        for name, label in _ACTIVATIONS.items()
        for row, sparsity in enumerate(SPARSITIES)
    }
    first = study.loss_ratio["relu"][0]
    return FigureRecord(
        id="toy-l1-loss",
        title="What L1 costs",
        look_at="Held-out loss of the best instance, without the L1 term, relative to the best constant prediction.",
        number=(f"ReLU at even sparsity: {float(first[0]):.2f} without, {float(first[-1]):.2f} with L1 {L1[-1]:g}."),
        control="1 for the best constant output.",
        figure=lines(
            curves, x_title="weight of L1 (leftmost: none)", y_title="loss / loss of the best constant", log_x=True
        ),
    )


def _stacks(study: PenaltiesStudy) -> FigureRecord:
    alone, untrained = study.monosemantic, study.untrained["relu"].W_in
    return FigureRecord(
        id="toy-l1-stacks",
        title="Input weights with and without L1",
        look_at="Input weights of the ten neurons of the best instance, stacked, one colour per feature.",
        number=(
            f"ReLU: {int(alone[0, 0])} of {HIDDEN} monosemantic without L1 at even sparsity, {int(alone[0, -1])} with {L1[-1]:g}; "
            f"{int(alone[1, 0])} and {int(alone[1, -1])} at uneven."
        ),
        control=(
            f"{float(monosemantic(untrained).float().sum(dim=-1).mean()):.1f} before training; "
            f"{float(features_per_neuron(untrained).mean()):.0f} features per neuron."
        ),
        figure=neuron_stacks(
            {
                f"{sparsity}, L1 {weight:g}": {
                    label: study.models[name].W_in[row * len(L1) + column] for name, label in _ACTIVATIONS.items()
                }
                for row, sparsity in enumerate(SPARSITIES)
                for column, weight in enumerate(L1)
            },
            "setting",
            y_title="Σ |input weight|",
        ),
    )
