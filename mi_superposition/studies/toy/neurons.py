"""A hidden layer with ReLU: neurons are a basis, and each serves one feature or several."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.studies.toy.result import ToyStudyResult
from mi_superposition.toy.config import ToyConfig
from mi_superposition.toy.geometry import REPRESENTED, feature_dimensionality, feature_norms, interference, represented
from mi_superposition.toy.models import ToyModels, initial_weights
from mi_superposition.toy.network import ToyWeights
from mi_superposition.toy.polysemanticity import features_per_neuron, monosemantic, polysemantic_share

PROBABILITIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)


def mean_interference(W: Float[Tensor, "*many hidden feature"]) -> float:
    """Mean over the represented features: of another one, the others are all there is on its direction."""
    return float(interference(W)[feature_norms(W) > REPRESENTED].mean())


def others_share(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many feature"]:
    """Of the squared projections on each feature's direction, the share of the others: 0 where it is orthogonal to them, 1/2 in an
    antipodal pair.
    """
    return 1 - feature_dimensionality(W)


class NeuronsStudy(ToyStudyResult):
    """Ten features of falling importance, five neurons, seven sparsities; ``full``: 1,000 instances as in the source."""

    @staticmethod
    def trainings(full: bool) -> dict[str, ToyConfig]:
        """``relu`` alone."""
        kept = 50
        return {
            "relu": ToyConfig(
                network="neuron", n_features=10, n_hidden=5, probability=PROBABILITIES, importance_ratio=(0.75,),
                n_instances=1000 if full else kept, n_kept=kept, batch_size=512, n_steps=5000, learning_rate=5e-3,
                decay="cosine",
            )
        }  # fmt: skip

    @property
    def trained(self) -> ToyModels:
        """The models."""
        return self.models["relu"]

    @cached_property
    def untrained(self) -> ToyWeights:
        """The weights before training: the control."""
        return initial_weights(self.trained.config)

    @cached_property
    def monosemantic(self) -> Int[Tensor, " setting"]:
        """Monosemantic neurons of the best instance."""
        return monosemantic(self.trained.W_in).sum(dim=1)

    @cached_property
    def represented(self) -> Float[Tensor, " setting"]:
        """Represented features of the best instance."""
        return represented(self.trained.W_in)

    @cached_property
    def features_per_neuron(self) -> Float[Tensor, " setting"]:
        """Effective number of features per neuron of the best instance."""
        return features_per_neuron(self.trained.W_in).mean(dim=1)

    @cached_property
    def polysemantic(self) -> Float[Tensor, "setting kept"]:
        """Fraction of active neurons that are polysemantic, the best instance first."""
        return polysemantic_share(self.trained.weights.W_in)

    @cached_property
    def untrained_polysemantic(self) -> float:
        """The same before training, mean over the instances."""
        return float(polysemantic_share(self.untrained.W_in).mean())

    def summary(self) -> str:
        """Polysemantic neurons when dense and when sparse."""
        first, last = self.polysemantic[0, 0], self.polysemantic[-1, 0]
        return (
            f"{100 * float(first):.0f} % of 5 neurons for 10 features are polysemantic when features are dense, {100 * float(last):.0f} % at "
            f"sparsity {1 - PROBABILITIES[-1]:.3f} ({100 * self.untrained_polysemantic:.0f} % before training)"
        )

    def metrics(self) -> dict[str, Any]:
        """By probability."""
        return {
            "probability": list(PROBABILITIES),
            "best_monosemantic_neurons": self.monosemantic.tolist(),
            "best_polysemantic_share": self.polysemantic[:, 0].tolist(),
            "mean_polysemantic_share": self.polysemantic.mean(dim=1).tolist(),
            "best_features_represented": self.represented.tolist(),
            "untrained_polysemantic_share": self.untrained_polysemantic,
            "best_loss": self.trained.best_loss.tolist(),
            "worst_loss": self.trained.loss.amax(dim=1).tolist(),
        }


STUDY = NeuronsStudy
