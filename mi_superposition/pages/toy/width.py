"""The page on more neurons than features."""

from __future__ import annotations

from collections.abc import Sequence

from mi_superposition.figures.lines import Line, lines
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.studies.toy.width import L1, PENALISED, PLAIN, PROBABILITY, N, WidthStudy
from mi_superposition.toy.polysemanticity import features_per_neuron, monosemantic

TITLE = "More neurons than features"
QUESTION = "Do neurons become monosemantic when there are enough of them?"
SOURCE = "ours, after K. Thaman, A. Rigg, N. Oozeer and J. David, “Experiments in Superposition” (Alignment Jam 10), project 4"


def outcome(study: WidthStudy) -> str:
    """Polysemantic neurons by width."""
    first, *_, last = study.models
    lowest = _least_polysemantic(study)
    return (
        f"{_percent(study, first)} of {_width(study, first)} neurons are polysemantic after training, {_percent(study, lowest)} of "
        f"{_width(study, lowest)}, and {_percent(study, last)} of {_width(study, last)}, although {N} would be enough and the loss there is "
        f"only {float(study.loss_ratio[last][PLAIN]):.0e} of the best constant prediction's: more neurons alone do not make neurons "
        f"monosemantic. With L1 {L1:g} it is {_percent(study, last, PENALISED)}."
    )


def items(study: WidthStudy) -> Sequence[Item]:
    """Polysemantic neurons over training, and at its end."""
    return [_training(study), _table(study)]


def _training(study: WidthStudy) -> FigureRecord:
    curves = {}
    for name, by_step in study.polysemantic_over_training.items():
        curves[f"{_width(study, name)} neurons"] = Line(
            # Step 0 has no position on a logarithmic axis: it is drawn at 3.
            [float(max(step, 3)) for step in by_step],
            [float(share.mean()) for share in by_step.values()],
            [float(share.min()) for share in by_step.values()],
            [float(share.max()) for share in by_step.values()],
        )
    lowest, widest = _least_polysemantic(study), list(study.models)[-1]
    return FigureRecord(
        id="toy-width-training",
        title="Polysemantic neurons over training",
        look_at=(
            f"{N} features at sparsity {1 - PROBABILITY:.1f}; one line per hidden size, mean of {_kept(study)} (band: all of those). Neurons are "
            "polysemantic at initialisation; where there are more neurons than needed, nothing in the loss makes them monosemantic."
        ),
        number=(
            f"{_percent(study, lowest)} at the end with {_width(study, lowest)} neurons, {_percent(study, widest)} with {_width(study, widest)}."
        ),
        control=(
            f"{100 * study.untrained_polysemantic:.0f} % at step 0; {_percent(study, widest, PENALISED)} of {_width(study, widest)} with L1 "
            f"{L1:g}."
        ),
        figure=lines(curves, x_title="step (leftmost: 0)", y_title="fraction of polysemantic neurons", log_x=True),
    )


def _table(study: WidthStudy) -> TableRecord:
    rows = []
    for name, trained in study.models.items():
        W, ratio = trained.weights.W_in, study.loss_ratio[name]
        rows.append(
            [
                _width(study, name),
                _percent(study, name),
                f"{float(features_per_neuron(W[PLAIN]).mean()):.1f}",
                f"{float(ratio[PLAIN]):.2g}",
                _percent(study, name, PENALISED),
                f"{float(monosemantic(W[PENALISED]).float().sum(dim=1).mean()):.1f}",
                f"{float(ratio[PENALISED]):.2g}",
            ]
        )
    return TableRecord(
        id="toy-width-table",
        title="At the end of training",
        look_at=(
            f"Means over {_kept(study)}; losses are those of the best instance, relative to the best constant prediction."
        ),
        columns=[
            "neurons", "polysemantic", "features per neuron", "loss", "with L1: polysemantic", "monosemantic neurons", "loss with L1",
        ],
        rows=rows,
    )  # fmt: skip


def _least_polysemantic(study: WidthStudy) -> str:
    return min(study.models, key=lambda name: float(study.polysemantic[name][PLAIN]))


def _width(study: WidthStudy, run: str) -> str:
    return str(study.models[run].config.n_hidden)


def _percent(study: WidthStudy, run: str, setting: int = PLAIN) -> str:
    return f"{100 * float(study.polysemantic[run][setting]):.0f} %"


def _kept(study: WidthStudy) -> str:
    first = next(iter(study.models.values()))
    return f"the best {first.kept.shape[1]} of {first.loss.shape[1]} instances"
