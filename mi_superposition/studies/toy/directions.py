"""Five features in two dimensions."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mi_superposition.studies.toy.result import ToyStudyResult
from mi_superposition.toy.config import Activation, ToyConfig
from mi_superposition.toy.geometry import Shape, angles, feature_norms, features_by_shape, represented, shapes
from mi_superposition.toy.models import initial_weights

N = 5
PROBABILITIES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.13, 0.1, 0.07, 0.05, 0.03, 0.02)
HALF, TENTH = PROBABILITIES.index(0.5), PROBABILITIES.index(0.1)


class DirectionsStudy(ToyStudyResult):
    """A linear and a ReLU bottleneck at every sparsity; importance falls by a tenth from feature to feature."""

    @staticmethod
    def trainings(full: bool) -> dict[str, ToyConfig]:
        """``linear`` and ``relu``."""

        def training(activation: Activation, n_instances: int) -> ToyConfig:
            return ToyConfig(
                activation=activation, n_features=N, n_hidden=2, probability=PROBABILITIES, importance_ratio=(0.9,),
                n_instances=n_instances, n_kept=n_instances, n_steps=5000, learning_rate=5e-3, decay="cosine",
            )  # fmt: skip

        return {"linear": training("linear", 64 if full else 16), "relu": training("relu", 256 if full else 32)}

    @cached_property
    def represented(self) -> dict[str, Float[Tensor, " setting"]]:
        """Represented features of the best instance, by run."""
        return {name: represented(trained.W_in) for name, trained in self.models.items()}

    @cached_property
    def untrained_represented(self) -> Float[Tensor, " setting"]:
        """The same before training with ReLU, mean over the instances."""
        return represented(initial_weights(self.models["relu"].config).W_in).mean(dim=1)

    @cached_property
    def angles(self) -> dict[str, Float[Tensor, "setting feature feature"]]:
        """Angles between the features of the best instance, degrees, by run."""
        return {name: angles(trained.W_in) for name, trained in self.models.items()}

    @cached_property
    def shapes(self) -> list[list[list[Shape]]]:
        """Shapes of each kept instance with ReLU, by setting."""
        return [[shapes(W) for W in by_instance] for by_instance in self.models["relu"].weights.W_in]

    def summary(self) -> str:
        """Features represented with ReLU and without."""
        kept, kept_linear = (int(self.represented[name][TENTH]) for name in ("relu", "linear"))
        return (
            f"{kept} of {N} features represented in 2 dimensions at sparsity 0.9 ({kept_linear} without ReLU, "
            f"{float(self.untrained_represented[TENTH]):.1f} before training)"
        )

    def metrics(self) -> dict[str, Any]:
        """By probability, of the best instance."""
        metrics: dict[str, Any] = {"probability": list(PROBABILITIES)}
        for name, trained in self.models.items():
            metrics |= {
                f"{name}_represented": self.represented[name].tolist(),
                f"{name}_loss": trained.best_loss.tolist(),
                f"{name}_median_loss": trained.loss.median(dim=1).values.tolist(),
                f"{name}_largest_norm_of_the_last_three": feature_norms(trained.W_in)[:, 2:].amax(dim=1).tolist(),
            }
        metrics["constant_loss"] = self.models["relu"].constant_loss.tolist()
        metrics["linear_angle_of_the_first_two"] = self.angles["linear"][:, 0, 1].tolist()
        best = [features_by_shape(by_instance[0]) for by_instance in self.shapes]
        for shape in ("own dimension", "antipodal pair", "pentagon"):
            metrics[f"relu_features_in_{shape.replace(' ', '_')}"] = [counts.get(shape, 0) for counts in best]
        return metrics


STUDY = DirectionsStudy
