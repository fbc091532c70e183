"""When superposition starts: a phase diagram, and how many features a dimension holds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mi_superposition.studies.toy.result import ToyStudyResult
from mi_superposition.toy.config import Activation, ToyConfig
from mi_superposition.toy.geometry import (
    REPRESENTED,
    coherence,
    dimensions_per_feature,
    feature_dimensionality,
    feature_norms,
    frame_condition,
    largest_cosine,
    represented,
    shape_counts,
)
from mi_superposition.toy.models import ToyModels, initial_weights

PROBABILITIES = tuple(10 ** (-k / 6) for k in range(13))
IMPORTANCES = tuple(10 ** (k / 6) for k in range(-6, 7))
STAIR_PROBABILITIES = tuple(10 ** (-k / 9.5) for k in range(20))
PHASES = ("phase", "phase_linear")
# Draws of random directions.
N_RANDOM = 100

_Grid = Float[Tensor, "probability importance"]


@dataclass(frozen=True)
class Arrangement:
    """How the represented features of one model are arranged; ``dimensionality`` is their mean feature dimensionality.

    The last three tell an even arrangement from a random one, which the share of a dimension does not: ``geometry.frame_condition``
    of the weights, the largest cosine between two directions, and the largest absolute one.
    """

    dimensions_per_feature: float
    represented: int
    dimensionality: float
    features_by_shape: dict[str, int]
    frame_condition: float
    largest_cosine: float
    coherence: float

    def fraction_in(self, shape: str) -> float:
        """Fraction of the represented features that form shapes of this name."""
        return self.features_by_shape.get(shape, 0) / max(self.represented, 1)


def arrangement(W: Float[Tensor, "hidden feature"]) -> Arrangement:
    """Measure the features of one model."""
    kept = W[:, feature_norms(W) > REPRESENTED]
    return Arrangement(
        float(dimensions_per_feature(W)),
        int(represented(W)),
        float(feature_dimensionality(W)[feature_norms(W) > REPRESENTED].mean()),
        shape_counts(W),
        float(frame_condition(kept)),
        float(largest_cosine(kept)),
        float(coherence(kept)),
    )


@dataclass(frozen=True)
class RandomFrames:
    """The control of an arrangement: as many random directions of length 1, ``N_RANDOM`` draws."""

    frame_condition: Float[Tensor, " draw"]
    largest_cosine: Float[Tensor, " draw"]
    coherence: Float[Tensor, " draw"]


def random_directions(n_draws: int, n_hidden: int, n_features: int) -> Float[Tensor, "draw hidden feature"]:
    """Directions drawn evenly from the sphere, always the same."""
    drawn = torch.randn(n_draws, n_hidden, n_features, generator=torch.Generator().manual_seed(0))
    return drawn / drawn.norm(dim=1, keepdim=True)


def random_frames(n_hidden: int, n_features: int) -> RandomFrames:
    """Measure the draws."""
    drawn = random_directions(N_RANDOM, n_hidden, n_features)
    return RandomFrames(frame_condition(drawn), largest_cosine(drawn), coherence(drawn))


def squared_norm(models: ToyModels) -> _Grid:
    """‖W‖² of the one dimension: 1 for one feature, or for two that share a direction of length 1; 2 for two whole ones."""
    return _phase_grid(models.W_in.square().sum(dim=(1, 2)))


def superposed(models: ToyModels) -> _Grid:
    """1 where the dimension holds two features in opposite directions, ‖W‖² above 1.5; 0 elsewhere."""
    opposite = models.W_in[:, 0].prod(dim=1) < 0
    return (_phase_grid(opposite.float()) * (squared_norm(models) > 1.5)).float()


class SparsityStudy(ToyStudyResult):
    """Two features in one dimension over sparsity and importance, with and without ReLU; 100 features (``full``: 400) in 10 (30)
    dimensions over sparsity.
    """

    @staticmethod
    def trainings(full: bool) -> dict[str, ToyConfig]:
        """``phase``, ``phase_linear`` and ``staircase``."""

        def phase(activation: Activation, n_instances: int) -> ToyConfig:
            return ToyConfig(
                activation=activation, n_features=2, n_hidden=1, probability=PROBABILITIES, importance_ratio=IMPORTANCES,
                n_instances=n_instances, batch_size=512, n_steps=5000, learning_rate=5e-3, decay="cosine",
            )  # fmt: skip

        staircase = ToyConfig(
            n_features=400 if full else 100, n_hidden=30 if full else 10, probability=STAIR_PROBABILITIES,
            n_instances=2, n_steps=5000, learning_rate=5e-3, decay="cosine",
        )  # fmt: skip
        return {"phase": phase("relu", 8), "phase_linear": phase("linear", 2), "staircase": staircase}

    @cached_property
    def squared_norm(self) -> dict[str, _Grid]:
        """‖W‖² in both phase diagrams."""
        return {name: squared_norm(self.models[name]) for name in PHASES}

    @cached_property
    def superposed(self) -> dict[str, _Grid]:
        """Where both phase diagrams are in superposition."""
        return {name: superposed(self.models[name]) for name in PHASES}

    @cached_property
    def between(self) -> float:
        """Fraction of the cells of the phase diagram with ReLU that are neither one feature nor two."""
        values = self.squared_norm["phase"]
        return float(((values > 1.1) & (values < 1.7)).float().mean())

    @cached_property
    def second_norm(self) -> _Grid:
        """Norm of the second feature in the phase diagram with ReLU."""
        return _phase_grid(feature_norms(self.models["phase"].W_in)[:, 1])

    @cached_property
    def stairs(self) -> list[Arrangement]:
        """The features of the best instance of the staircase, by probability."""
        return [arrangement(W) for W in self.models["staircase"].W_in]

    @cached_property
    def random(self) -> Arrangement:
        """As many random directions of length 1 as there are features: the first of the draws."""
        n_hidden, n_features = self.models["staircase"].W_in.shape[1:]
        return arrangement(random_directions(1, n_hidden, n_features)[0])

    @cached_property
    def random_frames(self) -> list[RandomFrames]:
        """The control of each of ``stairs``: as many random directions as it represents features."""
        n_hidden = self.models["staircase"].W_in.shape[1]
        return [random_frames(n_hidden, one.represented) for one in self.stairs]

    def summary(self) -> str:
        """Where features share a dimension, and how evenly they lie when sparse."""
        relu, linear = (100 * float(self.superposed[name].mean()) for name in PHASES)
        last, control = self.stairs[-1], self.random_frames[-1]
        return (
            f"two features share one dimension in {relu:.0f} % of the phase diagram ({linear:.0f} % without ReLU); at the highest sparsity "
            f"the frame condition is {last.frame_condition:.2f} ({float(control.frame_condition.mean()):.2f} of random directions) and the "
            f"largest cosine {last.largest_cosine:.2f} ({float(control.largest_cosine.mean()):.2f})"
        )

    def metrics(self) -> dict[str, Any]:
        """The fraction of the phase diagram in superposition by sparsity, and the staircase."""
        stairs = self.models["staircase"]
        untrained = dimensions_per_feature(initial_weights(stairs.config).W_in)
        control = self.random_frames[-1]
        return {
            "probability": list(PROBABILITIES),
            "superposed_share_of_importances": self.superposed["phase"].mean(dim=1).tolist(),
            "superposed_share_of_importances_linear": self.superposed["phase_linear"].mean(dim=1).tolist(),
            "staircase_probability": list(STAIR_PROBABILITIES),
            "staircase_dimensions_per_feature": dimensions_per_feature(stairs.W_in).tolist(),
            "staircase_represented": represented(stairs.W_in).tolist(),
            "staircase_dimensions_per_feature_untrained": float(untrained.mean()),
            # Its inverse: 0 where the features leave a dimension out.
            "staircase_inverse_frame_condition": [1 / one.frame_condition for one in self.stairs],
            "staircase_largest_cosine": [one.largest_cosine for one in self.stairs],
            "staircase_coherence": [one.coherence for one in self.stairs],
            "staircase_last_inverse_frame_condition_random": (1 / control.frame_condition).tolist(),
            "staircase_last_largest_cosine_random": control.largest_cosine.tolist(),
            "staircase_last_coherence_random": control.coherence.tolist(),
        }


def _phase_grid(values: Float[Tensor, " setting"]) -> _Grid:
    return rearrange(values, "(probability importance) -> probability importance", importance=len(IMPORTANCES))


STUDY = SparsityStudy
