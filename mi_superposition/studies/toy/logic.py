"""AND, OR, max and x²: which activation computes them better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scipy.stats import mannwhitneyu

from mi_superposition.figures.toy import loss_spread, neuron_stacks
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.studies.toy.study import Models, ToyStudy
from mi_superposition.toy import ToyConfig, setting_grid
from mi_superposition.toy.polysemanticity import features_per_neuron

TASKS = {"and": "x AND y", "or": "x OR y", "max": "max(|x|, |y|)", "square": "x²"}
ACTIVATIONS = {"relu": "ReLU", "gelu": "GELU"}
PROBABILITIES = (0.5, 0.2, 0.05)


def configs(full: bool) -> dict[str, ToyConfig]:
    """Twenty inputs, ten neurons, three sparsities for each task and activation."""
    return {
        f"{task}-{activation}": ToyConfig(
            model="computation", task=task, activation=activation, n_features=20, n_hidden=10,
            settings=setting_grid(probability=PROBABILITIES), n_instances=200 if full else 16, n_steps=5000, batch_size=512,
            learning_rate=5e-3, decay="cosine",
        )
        for task in TASKS
        for activation in ACTIVATIONS
    }  # fmt: skip


def metrics(models: Models) -> dict[str, Any]:
    """Losses in units of the best constant's, by probability."""
    found: dict[str, Any] = {"probability": list(PROBABILITIES)}
    for name, trained in models.items():
        key = name.replace("-", "_")
        found[f"{key}_best"] = (trained.best_loss / trained.constant_loss).tolist()
        found[f"{key}_median"] = (trained.loss.median(dim=1).values / trained.constant_loss).tolist()
        found[f"{key}_worst"] = (trained.loss.amax(dim=1) / trained.constant_loss).tolist()
    return found


def better(models: Models, task: str, setting: int) -> str:
    """The activation with the lower median loss over instances, or "neither" where a rank test over the instances cannot
    tell them apart (Mann & Whitney 1947; 1 % over all comparisons of the study).
    """
    losses = {activation: models[f"{task}-{activation}"].loss[setting] for activation in ACTIVATIONS}
    chance = mannwhitneyu(*(values.numpy() for values in losses.values())).pvalue
    if chance * len(TASKS) * len(PROBABILITIES) > 0.01:
        return "neither"
    return ACTIVATIONS[min(losses, key=lambda activation: float(losses[activation].median()))]


def outcome(models: Models) -> str:
    """What was found."""
    found = {(task, setting): better(models, task, setting) for task in TASKS for setting in range(len(PROBABILITIES))}

    def said(winner: str) -> str:
        by_task = {
            name: [
                f"{1 - PROBABILITIES[setting]:.2f}"
                for (of, setting), who in found.items()
                if of == task and who == winner
            ]
            for task, name in TASKS.items()
        }
        return (
            ", ".join(f"{name} at sparsity {' and '.join(where)}" for name, where in by_task.items() if where)
            or "nothing"
        )

    return (
        f"ReLU computes better: {said('ReLU')}. GELU: {said('GELU')}. A rank test over instances tells no difference: "
        f"{said('neither')}."
    )


def items(models: Models) -> Sequence[Item]:
    """Losses of all instances, and weights side by side."""
    groups = {
        f"{TASKS[task]}<br>{1 - probability:.2f}": {
            label: (models[f"{task}-{activation}"].loss[setting] / models[f"{task}-{activation}"].constant_loss[setting]).tolist()
            for activation, label in ACTIVATIONS.items()
        }
        for task in TASKS
        for setting, probability in enumerate(PROBABILITIES)
    }  # fmt: skip
    first = models["and-relu"]
    untrained = float((first.untrained_loss / first.constant_loss[:, None]).median())
    return [
        FigureRecord(
            id="toy-logic-losses",
            title="ReLU or GELU",
            look_at=(
                "Held-out loss of every instance in units of the best constant's, logarithmic, by task and sparsity. Where the "
                "two clouds overlap, the activation hardly matters."
            ),
            number=outcome(models),
            control=f"1 for the best constant; {untrained:.1f} for untrained models (median, AND).",
            figure=loss_spread(groups, y_title="loss / loss of the best constant"),
        ),
        *(
            FigureRecord(
                id=f"toy-logic-{task}",
                title=f"The neurons that compute {said}",
                look_at="Input weights of the ten neurons, stacked; the two inputs of a pair share a hue.",
                number=" ".join(
                    f"{label}: {float(features_per_neuron(models[f'{task}-{activation}'].W_in[0]).mean()):.1f} inputs a neuron at "
                    f"sparsity {1 - PROBABILITIES[0]:.2f}, {float(features_per_neuron(models[f'{task}-{activation}'].W_in[-1]).mean()):.1f} at "
                    f"{1 - PROBABILITIES[-1]:.2f}."
                    for activation, label in ACTIVATIONS.items()
                ),
                control=f"{_least(task)} inputs a neuron would do for neurons of one purpose.",
                figure=neuron_stacks(
                    {
                        f"{label}, sparsity {1 - probability:.2f}": models[f"{task}-{activation}"].W_in[setting]
                        for setting, probability in enumerate(PROBABILITIES)
                        for activation, label in ACTIVATIONS.items()
                    },
                    "shown",
                    y_title="Σ |input weight|",
                    paired=True,
                ),
            )
            for task, said in TASKS.items()
        ),
        _table(models),
    ]


def _least(task: str) -> str:
    return "One" if task == "square" else "Two"


def _table(models: Models) -> TableRecord:
    rows = []
    for task, said in TASKS.items():
        for setting, probability in enumerate(PROBABILITIES):
            row = [f"{said}, sparsity {1 - probability:.2f}"]
            for activation in ACTIVATIONS:
                trained = models[f"{task}-{activation}"]
                ratio = trained.loss[setting] / trained.constant_loss[setting]
                row += [f"{float(value):.3f}" for value in (ratio.min(), ratio.median(), ratio.max())]
            rows.append([*row, better(models, task, setting)])
    return TableRecord(
        id="toy-logic-table",
        title="Loss in units of the best constant's",
        look_at="The last column names the activation with the lower median where a rank test over the instances is sure at 1 %.",
        columns=[
            "task",
            *(f"{label} {kind}" for label in ACTIVATIONS.values() for kind in ("best", "median", "worst")),
            "better",
        ],
        rows=rows,
        words=("better",),
    )


STUDY = ToyStudy(
    name="logic",
    title="AND, OR, max and x²",
    question="Which activation computes which function better, in superposition or out of it?",
    source="ours, after the toy chapters on computing neurons",
    configs=configs,
    metrics=metrics,
    outcome=outcome,
    items=items,
)
