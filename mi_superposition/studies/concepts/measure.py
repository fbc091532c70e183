"""Everything measured of one layer, and of random word lists at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.concepts.directions import (
    Separation,
    concept_directions,
    principal_coordinates,
    separation,
)
from mi_superposition.concepts.material import Material, Side
from mi_superposition.concepts.overlap import effect_sizes, mean_shared, shared_units, top_units
from mi_superposition.concepts.probe import balanced_accuracy, probe_accuracy, probe_predictions
from mi_superposition.concepts.words import NO_CONCEPT
from mi_superposition.linalg import unit_rows
from mi_superposition.training import seeded_generator

_SHUFFLES_OF_UNITS = 10


@dataclass(frozen=True)
class LayerMeasured:
    """What one layer keeps of the concepts.

    ``probe`` and ``nearest``: balanced accuracy on held-out texts of a linear probe and of the nearest mean direction; ``predicted``:
    the concepts that the probe gives to these texts; ``shuffled``: accuracy of a probe trained on shuffled labels. ``cosines``: mean cosine of held-out texts of each concept (rows; the last: of none, if
    there are such) with each direction, ``uncentred`` with the plain means instead. ``separations``: permutation test of each
    concept. ``shared``: top units that two concepts share; empty where every text has one of two labels, whose units
    are the same by construction; ``chance_shared`` its mean with labels shuffled. ``effects``: how much each concept moves each unit. ``coordinates`` of held-out texts along the first two
    principal components, ``explained`` the share of the variance there.
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


def measure_layer(
    points: Float[Tensor, "text d"], material: Material, *, top_k: int, permutations: int, seed: int, shuffles: int = 1
) -> LayerMeasured:
    """Measure one layer; ``points`` are of all texts. ``shuffled`` is the mean of so many shuffles."""
    train, test = material.train.of_concepts(), material.test.of_concepts()
    n = material.n_concepts
    learnt = concept_directions(points[material.train.places], material.train.labels, n)
    plain = unit_rows(torch.stack([points[train.places[train.labels == concept]].mean(dim=0) for concept in range(n)]))
    held_out = points[test.places]
    cosines = learnt.cosines(held_out)
    shuffled = [
        probe_accuracy(points[train.places], train.labels[order], held_out, test.labels)
        for number in range(shuffles)
        for order in [torch.randperm(len(train.labels), generator=seeded_generator(seed, "shuffled labels", number))]
    ]
    predicted = probe_predictions(points[train.places], train.labels, held_out)
    effects = concept_effects(points, material)
    coordinates, explained = principal_coordinates(points[material.test.places])
    return LayerMeasured(
        n_units=points.shape[1],
        probe=balanced_accuracy(predicted, test.labels),
        predicted=predicted,
        shuffled=sum(shuffled) / len(shuffled),
        nearest=balanced_accuracy(cosines.argmax(dim=1), test.labels),
        cosines=_by_label(learnt.cosines(points[material.test.places]), material.test.labels, n),
        uncentred=_by_label(unit_rows(points[material.test.places]) @ plain.T, material.test.labels, n),
        separations=tuple(
            separation(cosines[:, concept], test.labels == concept, test.groups, permutations=permutations, seed=seed)
            for concept in range(n)
        ),
        effects=effects,
        shared=_shared(effects, top_k) if _comparable(material) else torch.zeros(0, 0, dtype=torch.long),
        chance_shared=shared_by_chance(points, material, top_k, seed) if _comparable(material) else 0.0,
        coordinates=coordinates,
        explained=explained,
    )


@dataclass(frozen=True)
class RandomMeasured:
    """The same of random word lists: probe accuracies, and mean numbers of shared units, a value for each draw."""

    probes: tuple[float, ...]
    shared: tuple[float, ...]


def measure_random(
    points: Float[Tensor, "text d"], draws: Sequence[Material], *, top_k: int, n_probes: int
) -> RandomMeasured:
    """Of every draw the shared units, of the first ones a probe too."""
    probes = []
    for material in draws[:n_probes]:
        train, test = material.train.of_concepts(), material.test.of_concepts()
        probes.append(probe_accuracy(points[train.places], train.labels, points[test.places], test.labels))
    shared = [mean_shared(_shared(concept_effects(points, material), top_k)) for material in draws]
    return RandomMeasured(tuple(probes), tuple(shared))


def concept_effects(points: Float[Tensor, "text d"], material: Material) -> Float[Tensor, "concept unit"]:
    """Of each concept against texts of none, or against all others where every text has a concept.

    Each concept has texts of none for itself: with the same ones for all, their noise would be common, and concepts that are
    nothing would share units.
    """
    places = torch.cat((material.train.places, material.test.places))
    labels = torch.cat((material.train.labels, material.test.labels))
    none = (labels == NO_CONCEPT).nonzero().flatten()
    found = []
    for concept in range(material.n_concepts):
        own = (labels == concept).nonzero().flatten()
        others = none[concept :: material.n_concepts] if len(none) else (labels != concept).nonzero().flatten()
        some = torch.cat((own, others))
        found.append(effect_sizes(points[places[some]], torch.arange(len(some)) < len(own)))
    return torch.stack(found)


def shared_by_chance(points: Float[Tensor, "text d"], material: Material, top_k: int, seed: int) -> float:
    """Mean number of shared units with the labels of all texts shuffled: what noise gives at this layer."""
    n_train = len(material.train.labels)
    labels = torch.cat((material.train.labels, material.test.labels))
    found = []
    for number in range(_SHUFFLES_OF_UNITS):
        dealt = labels[torch.randperm(len(labels), generator=seeded_generator(seed, "shuffled units", number))]
        sides = [
            Side(side.places, some, side.groups)
            for side, some in zip((material.train, material.test), (dealt[:n_train], dealt[n_train:]), strict=True)
        ]
        shuffled = Material(material.n_concepts, sides[0], sides[1])
        found.append(mean_shared(_shared(concept_effects(points, shuffled), top_k)))
    return sum(found) / len(found)


def _comparable(material: Material) -> bool:
    """Whether concepts have units of their own: of two labels without texts of none, one is the other's rest."""
    return material.n_concepts > 2 or bool((material.train.labels == NO_CONCEPT).any())


def _shared(effects: Float[Tensor, "concept unit"], top_k: int) -> Int[Tensor, "some some"]:
    return shared_units(top_units(effects, min(top_k, effects.shape[1])))


def _by_label(
    values: Float[Tensor, "text concept"], labels: Int[Tensor, " text"], n_concepts: int
) -> Float[Tensor, "label concept"]:
    kinds = [*range(n_concepts), *([NO_CONCEPT] if bool((labels == NO_CONCEPT).any()) else [])]
    return torch.stack([values[labels == kind].mean(dim=0) for kind in kinds])
