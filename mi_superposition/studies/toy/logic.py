"""AND, OR, max and x²: which activation computes them better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from scipy.stats import mannwhitneyu
from torch import Tensor

from mi_superposition.figures.toy import loss_spread, neuron_stacks
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.studies.toy.study import Models, ToyStudy
from mi_superposition.toy import ToyConfig, setting_grid
from mi_superposition.toy.models import ToyModels
from mi_superposition.toy.polysemanticity import features_per_neuron

TASKS = {"and": "x AND y", "or": "x OR y", "max": "max(|x|, |y|)", "square": "x²"}
ACTIVATIONS = {"relu": "ReLU", "gelu": "GELU"}
PROBABILITIES = (0.5, 0.2, 0.05)
# Over all comparisons together.
_SURE = 0.01


def configs(full: bool) -> dict[str, ToyConfig]:
    """Twenty inputs, ten neurons, three sparsities for each task and activation; each run with a seed of its own."""
    return {
        f"{task}-{activation}": ToyConfig(
            model="computation", task=task, activation=activation, n_features=20, n_hidden=10,
            settings=setting_grid(probability=PROBABILITIES), n_instances=200 if full else 40, n_steps=4000, batch_size=256,
            learning_rate=5e-3, decay="cosine", seed=number,
        )
        for number, (task, activation) in enumerate((task, activation) for task in TASKS for activation in ACTIVATIONS)
    }  # fmt: skip


class Comparison(NamedTuple):
    """Of one task at one sparsity: the activation with the lower median loss, whether a rank test over instances is sure of
    it, and the activation with the lower best loss.
    """

    median: str
    sure: bool
    best: str


def comparisons(models: Models) -> dict[tuple[str, int], Comparison]:
    """ReLU against GELU by task and place of the probability, by losses in units of the best constant's on the same inputs: every
    run has held-out inputs of its own.

    Source of the test: Mann & Whitney 1947; at 1 % over all comparisons by Holm 1979.
    """
    found, chances = {}, {}
    for task in TASKS:
        for setting in range(len(PROBABILITIES)):
            losses = {label: _relative(models[f"{task}-{name}"])[setting] for name, label in ACTIVATIONS.items()}
            chances[task, setting] = float(mannwhitneyu(*(values.numpy() for values in losses.values())).pvalue)
            median = min(losses, key=lambda label: float(losses[label].median()))
            best = min(losses, key=lambda label: float(losses[label].min()))
            found[task, setting] = Comparison(median, False, best)
    for passed, key in enumerate(sorted(chances, key=chances.__getitem__)):
        if chances[key] * (len(chances) - passed) > _SURE:
            break
        found[key] = found[key]._replace(sure=True)
    return found


def _relative(trained: ToyModels) -> Float[Tensor, "setting instance"]:
    return trained.loss / trained.constant_loss[:, None]


def metrics(models: Models) -> dict[str, Any]:
    """Losses in units of the best constant's, by probability."""
    found: dict[str, Any] = {"probability": list(PROBABILITIES)}
    for name, trained in models.items():
        key = name.replace("-", "_")
        found[f"{key}_best"] = (trained.best_loss / trained.constant_loss).tolist()
        found[f"{key}_median"] = _relative(trained).median(dim=1).values.tolist()
        found[f"{key}_worst"] = _relative(trained).amax(dim=1).tolist()
    return found


def outcome(models: Models) -> str:
    """What was found."""
    found = comparisons(models)

    def said(winner: str, sure: bool) -> str:
        by_task = {
            name: [
                f"{1 - PROBABILITIES[setting]:.2f}"
                for (of, setting), one in found.items()
                if of == task and one.sure == sure and (one.median == winner or not sure)
            ]
            for task, name in TASKS.items()
        }
        return ", ".join(f"{name} at sparsity {' and '.join(at)}" for name, at in by_task.items() if at) or "nothing"

    n = next(iter(models.values())).loss.shape[1]
    return (
        f"By a rank test over {n} instances each, ReLU computes better: {said('ReLU', True)}; GELU: {said('GELU', True)}. Not shown "
        f"either way: {said('', False)}."
    )


def items(models: Models) -> Sequence[Item]:
    """Losses of all instances, and weights side by side."""
    groups = {
        f"{TASKS[task]}<br>{1 - probability:.2f}": {
            label: _relative(models[f"{task}-{name}"])[setting].tolist()
            for name, label in ACTIVATIONS.items()
        }
        for task in TASKS
        for setting, probability in enumerate(PROBABILITIES)
    }  # fmt: skip
    first = models["and-relu"]
    untrained = float((first.untrained_loss / first.constant_loss[:, None]).median())
    stacks = [
        FigureRecord(
            id=f"toy-logic-{task}",
            title=f"The neurons that compute {said}",
            look_at="Input weights of the ten neurons of the best instance, stacked; the two inputs of a pair share a hue.",
            number=" ".join(
                f"{label}: {_inputs(models, task, name, 0):.1f} inputs a neuron (effective number) at sparsity "
                f"{1 - PROBABILITIES[0]:.2f}, {_inputs(models, task, name, -1):.1f} at {1 - PROBABILITIES[-1]:.2f}."
                for name, label in ACTIVATIONS.items()
            ),
            control=f"{1 if task == 'square' else 2} for neurons that serve one output alone.",
            figure=neuron_stacks(
                {
                    f"{1 - probability:.2f}": {
                        label: models[f"{task}-{name}"].W_in[setting] for name, label in ACTIVATIONS.items()
                    }
                    for setting, probability in enumerate(PROBABILITIES)
                },
                "sparsity",
                y_title="Σ |input weight|",
                paired=True,
            ),
        )
        for task, said in TASKS.items()
    ]
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
        *stacks,
        _table(models),
    ]


def _inputs(models: Models, task: str, activation: str, setting: int) -> float:
    return float(features_per_neuron(models[f"{task}-{activation}"].W_in[setting]).mean())


def _table(models: Models) -> TableRecord:
    rows = []
    for (task, setting), found in comparisons(models).items():
        row = [f"{TASKS[task]}, sparsity {1 - PROBABILITIES[setting]:.2f}"]
        for name in ACTIVATIONS:
            trained = models[f"{task}-{name}"]
            ratio = _relative(trained)[setting]
            row += [f"{float(value):.3f}" for value in (ratio.min(), ratio.median())]
        rows.append([*row, found.best, found.median if found.sure else f"{found.median}, not sure"])
    return TableRecord(
        id="toy-logic-table",
        title="Best and median loss in units of the best constant's",
        look_at="The last column: the lower median, and whether a rank test over instances is sure at 1 % over all twelve.",
        columns=["task", *(f"{label} {kind}" for label in ACTIVATIONS.values() for kind in ("best", "median")), "lower best", "lower median"],
        rows=rows,
        words=("lower best", "lower median"),
    )  # fmt: skip


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
