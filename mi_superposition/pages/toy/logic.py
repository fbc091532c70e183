"""The page on AND, OR, max and x²."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mi_superposition.figures.toy import loss_spread, neuron_stacks
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.studies.toy.logic import PROBABILITIES, LogicStudy
from mi_superposition.toy.config import Activation, Task

TITLE = "AND, OR, max and x²"
QUESTION = "Which activation function computes which function better, with and without superposition?"
SOURCE = "ours, after K. Thaman, A. Rigg, N. Oozeer and J. David, “Experiments in Superposition” (Alignment Jam 10), project 4"
_FUNCTIONS: Mapping[Task, str] = {"and": "x AND y", "or": "x OR y", "max": "max(|x|, |y|)", "square": "x²"}
_ACTIVATIONS: Mapping[Activation, str] = {"relu": "ReLU", "gelu": "GELU"}
_SPARSITIES = [f"{1 - probability:.2f}" for probability in PROBABILITIES]


def outcome(study: LogicStudy) -> str:
    """Where which activation is better."""

    def where(winner: Activation | None) -> str:
        by_function = {
            name: [
                _SPARSITIES[setting]
                for (of, setting), one in study.comparisons.items()
                if of == task and winner == (one.median if one.significant else None)
            ]
            for task, name in _FUNCTIONS.items()
        }
        return (
            ", ".join(f"{name} at sparsity {' and '.join(at)}" for name, at in by_function.items() if at) or "nothing"
        )

    n = next(iter(study.models.values())).loss.shape[1]
    return (
        f"Rank test over {n} instances each. ReLU is better at {where('relu')}; GELU is better at {where('gelu')}; no "
        f"significant difference for {where(None)}."
    )


def items(study: LogicStudy) -> Sequence[Item]:
    """Losses of all instances, and weights side by side."""
    return [_losses(study), *(_stacks(study, task) for task in _FUNCTIONS), _table(study)]


def _losses(study: LogicStudy) -> FigureRecord:
    groups = {
        f"{function}<br>{sparsity}": {
            label: study.models[f"{task}-{name}"].loss_ratio[setting].tolist() for name, label in _ACTIVATIONS.items()
        }
        for task, function in _FUNCTIONS.items()
        for setting, sparsity in enumerate(_SPARSITIES)
    }
    untrained = float(study.models["and-relu"].untrained_loss_ratio.median())
    return FigureRecord(
        id="toy-logic-losses",
        title="ReLU or GELU",
        look_at=(
            "Held-out loss of every instance relative to the best constant prediction (logarithmic), by function and sparsity. Where the two "
            "groups overlap, the activation function hardly matters."
        ),
        number=outcome(study),
        control=f"1 for the best constant; {untrained:.1f} for untrained models (median, AND).",
        figure=loss_spread(groups, y_title="loss / loss of the best constant"),
    )


def _stacks(study: LogicStudy, task: Task) -> FigureRecord:
    number = {label: study.inputs_per_neuron[f"{task}-{name}"] for name, label in _ACTIVATIONS.items()}
    return FigureRecord(
        id=f"toy-logic-{task}",
        title=f"The neurons that compute {_FUNCTIONS[task]}",
        look_at="Input weights of the ten neurons of the best instance, stacked; the two inputs of a pair have the same hue.",
        number=" ".join(
            f"{label}: {float(inputs[0]):.1f} inputs per neuron (effective number) at sparsity {_SPARSITIES[0]}, {float(inputs[-1]):.1f} at "
            f"{_SPARSITIES[-1]}."
            for label, inputs in number.items()
        ),
        control=f"{1 if task == 'square' else 2} for neurons that are used by one output only.",
        figure=neuron_stacks(
            {
                sparsity: {label: study.models[f"{task}-{name}"].W_in[setting] for name, label in _ACTIVATIONS.items()}
                for setting, sparsity in enumerate(_SPARSITIES)
            },
            "sparsity",
            y_title="Σ |input weight|",
            paired=True,
        ),
    )


def _table(study: LogicStudy) -> TableRecord:
    rows = []
    for (task, setting), one in study.comparisons.items():
        row = [f"{_FUNCTIONS[task]}, sparsity {_SPARSITIES[setting]}"]
        for name in _ACTIVATIONS:
            ratio = study.models[f"{task}-{name}"].loss_ratio[setting]
            row += [f"{float(value):.3f}" for value in (ratio.min(), ratio.median())]
        median = _ACTIVATIONS[one.median]
        rows.append([*row, _ACTIVATIONS[one.best], median if one.significant else f"{median}, not significant"])
    return TableRecord(
        id="toy-logic-table",
        title="Best and median loss relative to the best constant prediction",
        look_at=(
            "Last column: the activation with the lower median loss; “not significant” if a rank test (Mann–Whitney, Holm-corrected over all "
            "twelve comparisons) does not reach 1 %."
        ),
        columns=[
            "task",
            *(f"{label} {kind}" for label in _ACTIVATIONS.values() for kind in ("best", "median")),
            "lower best",
            "lower median",
        ],
        rows=rows,
        words=("lower best", "lower median"),
    )
