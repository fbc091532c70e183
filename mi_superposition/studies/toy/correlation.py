"""Features that occur together, and features that exclude each other."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from mi_superposition.studies.toy.result import ToyStudyResult
from mi_superposition.toy.config import Sets, ToyConfig
from mi_superposition.toy.geometry import cosines, feature_norms, represented

PROBABILITIES = (0.8, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02)
SIZES = (4, 6)
SETS: tuple[Sets, ...] = get_args(Sets)
RELATIONS = ("one direction", "acute", "orthogonal", "obtuse", "antipodal", "one not represented")
# The direction of a shorter feature says little.
_SHORT = 0.3


def cosine_within_pairs(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many pair"]:
    """Cosine between the two features of each pair; NaN where one of them is shorter than 0.3."""
    between, norms = cosines(W), feature_norms(W)
    first = torch.arange(0, W.shape[-1], 2)
    within = between[..., first, first + 1]
    return torch.where((norms[..., first] > _SHORT) & (norms[..., first + 1] > _SHORT), within, torch.nan)


def relation(cosine: float) -> str:
    """The relation of two features by the cosine between their directions."""
    if cosine != cosine:
        return "one not represented"
    for least, name in ((0.9, "one direction"), (0.2, "acute"), (-0.2, "orthogonal"), (-0.9, "obtuse")):
        if cosine >= least:
            return name
    return "antipodal"


class CorrelationStudy(ToyStudyResult):
    """Two and three pairs of features in two dimensions: independent, correlated, anticorrelated."""

    @staticmethod
    def trainings(full: bool) -> dict[str, ToyConfig]:
        """``independent-4``, ``independent-6``, ``correlated-4``, …"""
        usual = ToyConfig(
            n_hidden=2, probability=PROBABILITIES, n_instances=256 if full else 32, n_kept=32, n_steps=5000, batch_size=512,
            learning_rate=5e-3, decay="cosine",
        )  # fmt: skip
        return {f"{sets}-{n}": usual.replace(sets=sets, n_features=n) for sets in SETS for n in SIZES}

    @cached_property
    def cosines(self) -> dict[str, Float[Tensor, "setting kept pair"]]:
        """Cosine within each pair of each kept instance, the best first, by run."""
        return {name: cosine_within_pairs(trained.weights.W_in) for name, trained in self.models.items()}

    @cached_property
    def relations(self) -> dict[str, list[Counter[str]]]:
        """How many pairs of the best instance stand in each relation, by run and setting."""
        return {
            name: [Counter(map(relation, best.tolist())) for best in by_setting[:, 0]]
            for name, by_setting in self.cosines.items()
        }

    def summary(self) -> str:
        """What pairs do when sparse."""
        last = {sets: self.relations[f"{sets}-4"][-1].most_common(1)[0][0] for sets in SETS}
        return (
            f"two pairs of features in two dimensions at sparsity {1 - PROBABILITIES[-1]:.2f}: correlated ones are mostly "
            f"'{last['correlated']}', anticorrelated ones '{last['anticorrelated']}' (independent: '{last['independent']}')"
        )

    def metrics(self) -> dict[str, Any]:
        """How many pairs of the best instance stand in each relation, by probability."""
        metrics: dict[str, Any] = {"probability": list(PROBABILITIES)}
        for name, trained in self.models.items():
            key = name.replace("-", "_")
            for kind in RELATIONS:
                counts = [by_relation[kind] for by_relation in self.relations[name]]
                metrics[f"{key}_pairs_{kind.replace(' ', '_')}"] = counts
            metrics[f"{key}_represented"] = represented(trained.W_in).int().tolist()
        return metrics


STUDY = CorrelationStudy
