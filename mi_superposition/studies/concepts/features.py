"""Which features of a sparse autoencoder serve a concept, beside what random word lists find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from mi_superposition.concepts.material import Material
from mi_superposition.studies.concepts.measure import concept_effects


@dataclass(frozen=True)
class FeaturesMeasured:
    """How much each concept moves each feature (means over a text's tokens), in standard deviations; ``name`` is that of the units.

    ``random_largest``: of each draw of random word lists the largest magnitude that any of its lists moves any feature by, so that
    it allows for having looked at all of them.
    """

    name: str
    effects: Float[Tensor, "concept feature"]
    random_largest: tuple[float, ...]


def measure_features(
    name: str, points: Float[Tensor, "text feature"], material: Material, draws: Sequence[Material]
) -> FeaturesMeasured:
    """Effects of concepts, and of random word lists."""
    return FeaturesMeasured(
        name,
        concept_effects(points, material),
        tuple(float(concept_effects(points, draw).abs().max()) for draw in draws),
    )
