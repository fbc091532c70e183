"""Directions of concepts: the mean of their texts minus the mean of all others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.errors import RequestError
from mi_superposition.linalg import unit_rows
from mi_superposition.results import Result


@dataclass(frozen=True, repr=False)
class ConceptDirections(Result):
    """A unit direction for each concept, from the centre of the texts they were made of."""

    DRAWN_BY: ClassVar[str] = "mi_superposition.figures.concepts:direction_cosines"

    centre: Float[Tensor, " d"]
    directions: Float[Tensor, "concept d"]

    def cosines(self, points: Float[Tensor, "text d"]) -> Float[Tensor, "text concept"]:
        """Cosine (-1 to 1) of each centred text with each direction; 0 for a text at the centre."""
        return unit_rows(points - self.centre) @ self.directions.T

    def summary(self) -> str:
        """How close the directions are to one another, compared with random ones."""
        n, d = self.directions.shape
        between = self.directions @ self.directions.T
        mean = float(between[~torch.eye(n, dtype=torch.bool)].abs().mean())
        # Of a standard normal vector's component over its length.
        random = math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2)) / math.sqrt(math.pi)
        return f"{n} concept directions in {d} dimensions: mean |cosine| of two {mean:.3f} ({random:.3f} for random directions)"

    def to_frame(self) -> pd.DataFrame:
        """One row per concept: the cosine of its direction with that of each concept."""
        n = len(self.directions)
        cosines = (self.directions @ self.directions.T).tolist()
        return pd.DataFrame(cosines, columns=range(n)).rename_axis(index="concept", columns="concept")


def concept_directions(
    points: Float[Tensor, "text d"], labels: Int[Tensor, " text"], n_concepts: int
) -> ConceptDirections:
    """The mean of each concept's texts minus the mean of all other texts; texts with the label -1 belong to none.

    Without centring all means are alike, and every text has a high cosine with every concept. Raises ``RequestError`` for
    a concept without texts or without others.
    """
    directions = []
    for concept in range(n_concepts):
        member = labels == concept
        if not bool(member.any()) or bool(member.all()):
            raise RequestError(
                f"concept {concept} is that of {int(member.sum())} of {len(labels)} texts: it needs some with it and some without"
            )
        directions.append(points[member].mean(dim=0) - points[~member].mean(dim=0))
    return ConceptDirections(points.mean(dim=0), unit_rows(torch.stack(directions)))
