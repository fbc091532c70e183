"""AND, OR, max and x²: which activation computes them better."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

from jaxtyping import Float
from scipy.stats import mannwhitneyu
from torch import Tensor

from mi_superposition.studies.toy.result import Models, ToyStudyResult
from mi_superposition.toy.config import Activation, Task, ToyConfig
from mi_superposition.toy.polysemanticity import features_per_neuron

TASKS: tuple[Task, ...] = ("and", "or", "max", "square")
ACTIVATIONS: tuple[Activation, ...] = ("relu", "gelu")
PROBABILITIES = (0.5, 0.2, 0.05)
# Over all comparisons together.
_SIGNIFICANT = 0.01


class Comparison(NamedTuple):
    """Of one task at one sparsity: the activation with the lower median loss, whether a rank test over instances is significant, and
    the activation with the lower best loss.
    """

    median: Activation
    significant: bool
    best: Activation


def comparisons(models: Models) -> dict[tuple[Task, int], Comparison]:
    """ReLU against GELU by task and index of the probability, by losses relative to the best constant output on the same inputs: every
    run has held-out inputs of its own.

    Source of the test: Mann & Whitney 1947; at 1 % over all comparisons by Holm 1979.
    """
    found: dict[tuple[Task, int], Comparison] = {}
    p_values: dict[tuple[Task, int], float] = {}
    for task in TASKS:
        for setting in range(len(PROBABILITIES)):
            losses = {name: models[f"{task}-{name}"].loss_ratio[setting] for name in ACTIVATIONS}
            p_values[task, setting] = float(mannwhitneyu(*(values.numpy() for values in losses.values())).pvalue)
            median = min(losses, key=lambda name: float(losses[name].median()))
            best = min(losses, key=lambda name: float(losses[name].min()))
            found[task, setting] = Comparison(median, False, best)
    for passed, key in enumerate(sorted(p_values, key=p_values.__getitem__)):
        if p_values[key] * (len(p_values) - passed) > _SIGNIFICANT:
            break
        found[key] = found[key]._replace(significant=True)
    return found


class LogicStudy(ToyStudyResult):
    """Twenty inputs, ten neurons, three sparsities for each task and activation; each run with a seed of its own."""

    @staticmethod
    def trainings(full: bool) -> dict[str, ToyConfig]:
        """``and-relu``, ``and-gelu``, ``or-relu``, …"""
        usual = ToyConfig(
            task="and", n_features=20, n_hidden=10, probability=PROBABILITIES, n_instances=200 if full else 40, n_steps=4000,
            batch_size=256, learning_rate=5e-3, decay="cosine",
        )  # fmt: skip
        names = [(task, activation) for task in TASKS for activation in ACTIVATIONS]
        return {
            f"{task}-{activation}": usual.replace(task=task, activation=activation, seed=number)
            for number, (task, activation) in enumerate(names)
        }

    @cached_property
    def comparisons(self) -> dict[tuple[Task, int], Comparison]:
        """ReLU against GELU by task and index of the probability."""
        return comparisons(self.models)

    @cached_property
    def inputs_per_neuron(self) -> dict[str, Float[Tensor, " setting"]]:
        """Effective number of inputs per neuron of the best instance, by run."""
        return {name: features_per_neuron(trained.W_in).mean(dim=1) for name, trained in self.models.items()}

    def summary(self) -> str:
        """How many comparisons each activation wins."""
        won = [one.median for one in self.comparisons.values() if one.significant]
        return (
            f"of {len(self.comparisons)} comparisons of task and sparsity ReLU has the lower median loss in {won.count('relu')}, GELU in "
            f"{won.count('gelu')} (rank test over {next(iter(self.models.values())).loss.shape[1]} instances each, 1 % over all); the others are "
            "not significant"
        )

    def metrics(self) -> dict[str, Any]:
        """Losses relative to the best constant output, by probability."""
        metrics: dict[str, Any] = {"probability": list(PROBABILITIES)}
        for name, trained in self.models.items():
            key, ratio = name.replace("-", "_"), trained.loss_ratio
            metrics[f"{key}_best"] = ratio.amin(dim=1).tolist()
            metrics[f"{key}_median"] = ratio.median(dim=1).values.tolist()
            metrics[f"{key}_worst"] = ratio.amax(dim=1).tolist()
        return metrics


STUDY = LogicStudy
