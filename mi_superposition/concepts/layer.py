"""Everything measured of one layer: of concepts, of random word lists, and of the features of a sparse autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.concepts.components import principal_coordinates
from mi_superposition.concepts.config import ConceptsConfig
from mi_superposition.concepts.directions import concept_directions
from mi_superposition.concepts.overlap import (
    comparable,
    concept_effects,
    mean_shared,
    shared_by_chance,
    shared_top_units,
)
from mi_superposition.concepts.permutation import Separation, separation
from mi_superposition.concepts.probe import balanced_accuracy, probe_accuracy, probe_predictions
from mi_superposition.concepts.split import ConceptSplit
from mi_superposition.concepts.words import NO_CONCEPT
from mi_superposition.linalg import unit_rows
from mi_superposition.training import seeded_generator

# Numbers of top units of which concepts may share some, all of them compared with random word lists.
SHARED_UNITS = (10, 20, 40, 80, 160)


@dataclass(frozen=True)
class LayerMeasured:
    """What one layer represents of the concepts.

    ``probe`` and ``nearest``: balanced accuracy on held-out texts of a linear probe and of the nearest class mean; ``predicted``:
    the concepts that the probe predicts for these texts; ``shuffled``: accuracy of a probe trained on shuffled labels.
    ``cosines``: mean cosine of held-out texts of each concept (rows; the last: of none, if there are such) with each direction,
    ``uncentred`` with the plain means instead. ``separations``: permutation test of each concept. ``effects``: Cohen's d of each
    concept on each unit; ``shared``: top units that each two concepts share, empty where every text has one of two labels, whose
    units are the same by construction; ``chance_shared`` its mean with labels shuffled. ``coordinates`` of held-out texts along
    the first two principal components, ``explained`` the fraction of the variance along each.
    """

    n_units: int
    probe: float
    predicted: Int[Tensor, " held_out"]
    shuffled: float
    nearest: float
    cosines: Float[Tensor, "label concept"]
    uncentred: Float[Tensor, "label concept"]
    separations: tuple[Separation, ...]
    effects: Float[Tensor, "concept unit"]
    shared: Int[Tensor, "some some"]
    chance_shared: float
    coordinates: Float[Tensor, "text two"]
    explained: Float[Tensor, " two"]

    @property
    def mean_shared(self) -> float:
        """Mean number of top units that two concepts share; NaN where that was not counted."""
        return mean_shared(self.shared)


def measure_layer(
    points: Float[Tensor, "text d"], split: ConceptSplit, config: ConceptsConfig, *, shuffles: int = 1
) -> LayerMeasured:
    """Measure one layer; ``points`` are of all texts. ``shuffled`` is the mean of so many shuffles."""
    train, test = split.train.of_concepts(), split.test.of_concepts()
    n, seed, k = split.n_concepts, config.random.seed, config.units_per_concept
    directions = concept_directions(points[split.train.index], split.train.labels, n)
    plain = unit_rows(torch.stack([points[train.index[train.labels == concept]].mean(dim=0) for concept in range(n)]))
    held_out = points[test.index]
    cosines = directions.cosines(held_out)
    shuffled = [
        probe_accuracy(points[train.index], train.labels[order], held_out, test.labels)
        for number in range(shuffles)
        for order in [torch.randperm(len(train.labels), generator=seeded_generator(seed, "shuffled labels", number))]
    ]
    predicted = probe_predictions(points[train.index], train.labels, held_out)
    effects = concept_effects(points, split)
    coordinates, explained = principal_coordinates(points[split.test.index])
    return LayerMeasured(
        n_units=points.shape[1],
        probe=balanced_accuracy(predicted, test.labels),
        predicted=predicted.to(torch.int32),
        shuffled=sum(shuffled) / len(shuffled),
        nearest=balanced_accuracy(cosines.argmax(dim=1), test.labels),
        cosines=_mean_by_label(directions.cosines(points[split.test.index]), split.test.labels, n),
        uncentred=_mean_by_label(unit_rows(points[split.test.index]) @ plain.T, split.test.labels, n),
        separations=tuple(
            separation(
                cosines[:, concept], test.labels == concept, test.groups, permutations=config.permutations, seed=seed
            )
            for concept in range(n)
        ),
        effects=effects,
        shared=shared_top_units(effects, k) if comparable(split) else torch.zeros(0, 0, dtype=torch.long),
        chance_shared=shared_by_chance(points, split, k, seed) if comparable(split) else 0.0,
        coordinates=coordinates,
        explained=explained,
    )


@dataclass(frozen=True)
class RandomMeasured:
    """The same of random word lists, a value for each draw: probe accuracies, and mean numbers of shared units; ``shared_of`` among other
    numbers of top units.
    """

    probes: tuple[float, ...]
    shared: tuple[float, ...]
    shared_of: dict[int, tuple[float, ...]] = field(default_factory=dict)

    @property
    def probe(self) -> float:
        """Mean accuracy."""
        return sum(self.probes) / len(self.probes)

    @property
    def mean_shared(self) -> float:
        """Mean number of shared units."""
        return sum(self.shared) / len(self.shared)


def measure_random(
    points: Float[Tensor, "text d"], draws: Sequence[ConceptSplit], config: ConceptsConfig
) -> RandomMeasured:
    """The shared units of every draw; of the first ones a probe too."""
    probes = []
    for split in draws[: config.random_probes]:
        train, test = split.train.of_concepts(), split.test.of_concepts()
        probes.append(probe_accuracy(points[train.index], train.labels, points[test.index], test.labels))
    effects = [concept_effects(points, split) for split in draws]

    def shared(k: int) -> tuple[float, ...]:
        return tuple(mean_shared(shared_top_units(one, k)) for one in effects)

    return RandomMeasured(
        tuple(probes), shared(config.units_per_concept), {k: shared(k) for k in SHARED_UNITS if k < points.shape[1]}
    )


@dataclass(frozen=True)
class FeaturesMeasured:
    """Effects (Cohen's d) of each concept on the features of a sparse autoencoder, from means over a text's tokens; ``name`` is
    that of the units.

    ``random_largest``: the largest magnitude of an effect of any list on any feature, for each draw of random word lists: a
    control that allows for the choice among all features.
    """

    name: str
    effects: Float[Tensor, "concept feature"]
    random_largest: tuple[float, ...]


def measure_features(
    name: str, points: Float[Tensor, "text feature"], split: ConceptSplit, draws: Sequence[ConceptSplit]
) -> FeaturesMeasured:
    """Effects of concepts, and of random word lists."""
    return FeaturesMeasured(
        name,
        concept_effects(points, split),
        tuple(float(concept_effects(points, draw).abs().max()) for draw in draws),
    )


def _mean_by_label(
    values: Float[Tensor, "text concept"], labels: Int[Tensor, " text"], n_concepts: int
) -> Float[Tensor, "label concept"]:
    kinds = [*range(n_concepts), *([NO_CONCEPT] if bool((labels == NO_CONCEPT).any()) else [])]
    return torch.stack([values[labels == kind].mean(dim=0) for kind in kinds])
