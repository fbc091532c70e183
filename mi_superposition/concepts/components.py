"""The plane of the first two principal components, and how much of its variance is between concepts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.decomposition import PCA
from torch import Tensor

from mi_superposition.training import seeded_generator

_PERMUTATIONS = 100


def principal_coordinates(
    points: Float[Tensor, "text d"], k: int = 2
) -> tuple[Float[Tensor, "text k"], Float[Tensor, " k"]]:
    """Coordinates along the first k principal components, and the share of the variance along each (0 to 1).

    Both are 0 where all texts have one point. Source: scikit-learn's ``PCA``, with an exact decomposition in float64.
    """
    pca = PCA(min(k, *points.shape), svd_solver="full")
    # Without variance there is no share of it: 0 / 0.
    with np.errstate(invalid="ignore"):
        coordinates = pca.fit_transform(points.double().cpu().numpy())
    shares = np.nan_to_num(pca.explained_variance_ratio_)
    return torch.from_numpy(coordinates).float(), torch.from_numpy(shares).float()


@dataclass(frozen=True)
class PlaneVariance:
    """Fraction (0 to 1) of the variance of texts in a plane that is between concepts: of the trained model, of the untrained
    one, and with the concepts of the trained model's texts permuted by groups, so many times.
    """

    trained: float
    untrained: float
    permuted: tuple[float, ...]

    @property
    def permuted_mean(self) -> float:
        """Mean of the permutations."""
        return sum(self.permuted) / len(self.permuted)


def plane_variance(
    trained: Float[Tensor, "text two"],
    untrained: Float[Tensor, "text two"],
    labels: Int[Tensor, " text"],
    groups: Int[Tensor, " text"],
) -> PlaneVariance:
    """Measure both planes, and the control of the first."""
    permuted = [between_fraction(trained, permuted_by_group(labels, groups, seed)) for seed in range(_PERMUTATIONS)]
    return PlaneVariance(between_fraction(trained, labels), between_fraction(untrained, labels), tuple(permuted))


def between_fraction(points: Float[Tensor, "text two"], labels: Int[Tensor, " text"]) -> float:
    """Fraction (0 to 1) of the variance of points that is between the means of their labels."""
    total = (points - points.mean(dim=0)).square().sum()
    between = sum(
        float((labels == kind).sum() * (points[labels == kind].mean(dim=0) - points.mean(dim=0)).square().sum())
        for kind in labels.unique().tolist()
    )
    return between / max(float(total), 1e-30)


def permuted_by_group(labels: Int[Tensor, " text"], groups: Int[Tensor, " text"], seed: int) -> Int[Tensor, " text"]:
    """Labels permuted in whole groups: texts with one word are similar whatever their concept is."""
    _, group = groups.unique(return_inverse=True)
    of_group = torch.zeros(int(group.max()) + 1, dtype=torch.long).index_put_((group,), labels)
    # The name of a random stream stays as it is: it decides what is drawn.
    order = torch.randperm(len(of_group), generator=seeded_generator(seed, "dealt groups"))
    return of_group[order][group]
