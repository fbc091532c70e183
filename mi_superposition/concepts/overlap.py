"""The units with the largest effects of concepts, and how many of them concepts share: the claim of superposition, counted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import t as student_t
from torch import Tensor

from mi_superposition.concepts.split import ConceptSplit, Side
from mi_superposition.concepts.words import NO_CONCEPT
from mi_superposition.errors import RequestError
from mi_superposition.training import seeded_generator

_SHUFFLES = 10


def effect_sizes(points: Float[Tensor, "text unit"], member: Bool[Tensor, " text"]) -> Float[Tensor, " unit"]:
    """Effect of a concept on each unit: the difference of means in pooled standard deviations (Cohen's d, Cohen 1988); 0 for a
    unit that never varies. Raises ``RequestError`` with fewer than two texts on either side.
    """
    if not 2 <= int(member.sum()) <= len(member) - 2:
        raise RequestError(
            f"{int(member.sum())} of {len(member)} texts are of the concept: give at least two on either side"
        )
    inside, outside = points[member].double(), points[~member].double()
    spread = inside.var(dim=0) * (len(inside) - 1) + outside.var(dim=0) * (len(outside) - 1)
    deviation = (spread / (len(points) - 2)).sqrt()
    difference = inside.mean(dim=0) - outside.mean(dim=0)
    return torch.where(deviation > 0, difference / deviation.clamp_min(1e-300), 0.0).float()


def concept_effects(points: Float[Tensor, "text unit"], split: ConceptSplit) -> Float[Tensor, "concept unit"]:
    """``effect_sizes`` of each concept, on texts of both sides, compared with texts of none, or with all others where every text
    has a concept.

    Each concept has texts of none for itself: with the same ones for all, their noise would be common, and concepts that are
    nothing would share units.
    """
    index = torch.cat((split.train.index, split.test.index))
    labels = torch.cat((split.train.labels, split.test.labels))
    none = (labels == NO_CONCEPT).nonzero().flatten()
    effects = []
    for concept in range(split.n_concepts):
        own = (labels == concept).nonzero().flatten()
        others = none[concept :: split.n_concepts] if len(none) else (labels != concept).nonzero().flatten()
        some = torch.cat((own, others))
        effects.append(effect_sizes(points[index[some]], torch.arange(len(some)) < len(own)))
    return torch.stack(effects)


def top_units(effects: Float[Tensor, "concept unit"], k: int) -> Int[Tensor, "concept k"]:
    """For each concept the k units with the largest magnitude of effect, largest first. Raises ``RequestError`` for more than
    there are.
    """
    if not 1 <= k <= effects.shape[1]:
        raise RequestError(f"k = {k}: must be 1 to {effects.shape[1]}, the number of units")
    return effects.abs().topk(k, dim=1).indices


def shared_units(top: Int[Tensor, "concept k"]) -> Int[Tensor, "concept concept"]:
    """How many of their top units each two concepts share; k on the diagonal."""
    return (top[:, None, :, None] == top[None, :, None, :]).any(dim=3).sum(dim=2)


def shared_top_units(effects: Float[Tensor, "concept unit"], k: int) -> Int[Tensor, "concept concept"]:
    """``shared_units`` of the ``top_units``: k of each concept, or all units where there are fewer."""
    return shared_units(top_units(effects, min(k, effects.shape[1])))


def mean_shared(shared: Int[Tensor, "concept concept"]) -> float:
    """Mean over all pairs of different concepts."""
    return float(shared[~torch.eye(len(shared), dtype=torch.bool)].double().mean())


@dataclass(frozen=True)
class SharedComparison:
    """Units that concepts share among ``k`` top units of a layer, beside those of random word lists.

    ``p``: two-sided probability of a further draw as far from the others' mean (Student's t); ``adjusted`` for all comparisons (Holm 1979).
    """

    layer: str
    k: int
    observed: float
    random: float
    deviation: float
    p: float
    adjusted: float


def compare_shared(
    observed: Mapping[tuple[str, int], float], random: Mapping[tuple[str, int], Sequence[float]]
) -> list[SharedComparison]:
    """Each layer and k, corrected for all of them together. With fewer than two draws p is 1."""
    means = {key: float(np.mean(values)) for key, values in random.items()}
    deviations = {key: float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for key, values in random.items()}
    p = {}
    for key, values in random.items():
        n, mean, deviation = len(values), means[key], deviations[key]
        if n < 2:
            p[key] = 1.0
        elif deviation == 0:
            p[key] = 1.0 if observed[key] == mean else 0.0
        else:
            p[key] = float(2 * student_t.sf(abs(observed[key] - mean) / (deviation * math.sqrt(1 + 1 / n)), n - 1))
    adjusted, largest = {}, 0.0
    for rank, key in enumerate(sorted(p, key=lambda one: p[one])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[key]))
        adjusted[key] = largest
    return [SharedComparison(*key, observed[key], means[key], deviations[key], p[key], adjusted[key]) for key in random]


def comparable(split: ConceptSplit) -> bool:
    """Whether concepts have units of their own: of two labels without texts of none, one is the other's complement."""
    return split.n_concepts > 2 or bool((split.train.labels == NO_CONCEPT).any())


def shared_by_chance(points: Float[Tensor, "text unit"], split: ConceptSplit, k: int, seed: int) -> float:
    """``mean_shared`` of the top k units with the labels of all texts shuffled, mean of ten shuffles: what noise gives."""
    n_train = len(split.train.labels)
    labels = torch.cat((split.train.labels, split.test.labels))
    means = []
    for number in range(_SHUFFLES):
        shuffled = labels[torch.randperm(len(labels), generator=seeded_generator(seed, "shuffled units", number))]
        control = ConceptSplit(
            split.n_concepts,
            train=Side(split.train.index, shuffled[:n_train], split.train.groups),
            test=Side(split.test.index, shuffled[n_train:], split.test.groups),
        )
        means.append(mean_shared(shared_top_units(concept_effects(points, control), k)))
    return sum(means) / len(means)
