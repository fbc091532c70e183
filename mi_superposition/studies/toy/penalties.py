"""L1 on the hidden layer, features of uneven sparsity, and what they do to polysemanticity."""

from __future__ import annotations

import functools
import operator
from functools import cached_property
from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mi_superposition.studies.toy.result import ToyStudyResult
from mi_superposition.toy.config import Activation, ToyConfig, geometric
from mi_superposition.toy.models import ToyModels, initial_weights
from mi_superposition.toy.network import ToyWeights
from mi_superposition.toy.polysemanticity import active_neurons, monosemantic, polysemantic_share

L1 = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
N, HIDDEN = 20, 10
# Uneven: from one half down to 0.02; even: of the same mean.
_FIRST, _RATIO = 0.5, 0.85
# One after the other: Python's own sum adds up more exactly from 3.12 on, and a training is known by its exact options.
EVEN = functools.reduce(operator.add, geometric(_FIRST, _RATIO, N)) / N
SPARSITIES = ("even sparsity", "uneven sparsity")
ACTIVATIONS: tuple[Activation, ...] = ("relu", "gelu")

_Grid = Float[Tensor, "sparsity l1"]


def grid(values: Float[Tensor, " setting"]) -> _Grid:
    """Values of all settings by sparsity and L1."""
    return rearrange(values, "(sparsity l1) -> sparsity l1", l1=len(L1))


def mean_share(models: ToyModels) -> _Grid:
    """Fraction of active neurons that are polysemantic, mean over the kept instances."""
    return grid(polysemantic_share(models.weights.W_in).mean(dim=1))


class PenaltiesStudy(ToyStudyResult):
    """``|x|`` of twenty features by ten neurons: even and uneven sparsity of the same mean, six weights of L1."""

    @staticmethod
    def trainings(full: bool) -> dict[str, ToyConfig]:
        """``relu`` and ``gelu``."""
        usual = ToyConfig(
            task="abs", n_features=N, n_hidden=HIDDEN, probability=(EVEN, _FIRST), probability_ratio=(1.0, _RATIO), l1=L1,
            n_instances=64 if full else 8, n_kept=8, n_steps=5000, batch_size=512, learning_rate=5e-3, decay="cosine",
        )  # fmt: skip
        return {activation: usual.replace(activation=activation) for activation in ACTIVATIONS}

    @cached_property
    def polysemantic(self) -> dict[str, Float[Tensor, "setting kept"]]:
        """Fraction of active neurons that are polysemantic, by activation."""
        return {name: polysemantic_share(trained.weights.W_in) for name, trained in self.models.items()}

    @cached_property
    def mean_polysemantic(self) -> dict[str, _Grid]:
        """The same, mean over the kept instances."""
        return {name: mean_share(trained) for name, trained in self.models.items()}

    @cached_property
    def untrained(self) -> dict[str, ToyWeights]:
        """The weights before training, by activation."""
        return {name: initial_weights(trained.config) for name, trained in self.models.items()}

    @cached_property
    def untrained_polysemantic(self) -> dict[str, float]:
        """Fraction of polysemantic neurons before training."""
        return {name: float(polysemantic_share(weights.W_in).mean()) for name, weights in self.untrained.items()}

    @cached_property
    def loss_ratio(self) -> dict[str, _Grid]:
        """Loss of the best instance, without the L1 term, relative to the best constant output."""
        return {name: grid(trained.loss_ratio.amin(dim=1)) for name, trained in self.models.items()}

    @cached_property
    def monosemantic(self) -> _Grid:
        """Monosemantic neurons of the best instance with ReLU."""
        return grid(monosemantic(self.models["relu"].W_in).float().sum(dim=1))

    def affordable(self, activation: str, row: int) -> int:
        """Index of the largest L1 with which the best instance's loss is at most a fifth higher than without."""
        loss = grid(self.models[activation].best_loss)[row]
        return int((loss <= 1.2 * loss[0]).nonzero().max())

    def summary(self) -> str:
        """Polysemantic neurons without L1 and with what L1 can be afforded."""
        share = self.mean_polysemantic["relu"]
        said = " and ".join(
            f"{100 * float(share[row, 0]):.0f} % at {sparsity} ({100 * float(share[row, column]):.0f} % with L1 {L1[column]:g})"
            for row, sparsity in enumerate(SPARSITIES)
            for column in [self.affordable("relu", row)]
        )
        return (
            f"polysemantic neurons with ReLU: {said}; {100 * self.untrained_polysemantic['relu']:.0f} % before training"
        )

    def metrics(self) -> dict[str, Any]:
        """By activation and sparsity, each a list over L1."""
        metrics: dict[str, Any] = {"l1": list(L1), "mean_probability": EVEN}
        for name, trained in self.models.items():
            active = grid(active_neurons(trained.weights.W_in).float().sum(dim=2).mean(dim=1))
            for row, sparsity in enumerate(SPARSITIES):
                key = f"{name}_{sparsity.split()[0]}"
                metrics[f"{key}_polysemantic_share"] = self.mean_polysemantic[name][row].tolist()
                metrics[f"{key}_working_neurons"] = active[row].tolist()
                metrics[f"{key}_loss_over_constant"] = self.loss_ratio[name][row].tolist()
            metrics[f"{name}_polysemantic_share_untrained"] = self.untrained_polysemantic[name]
        return metrics


STUDY = PenaltiesStudy
