"""Geometry of features in the hidden space. Every function takes weights ``[… hidden feature]``: column i is feature i's.

Source of the quantities unless another is named: Elhage et al. 2022, "Toy Models of Superposition".
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# A feature counts as represented when its norm is above half of that of a feature with a dimension of its own.
REPRESENTED = 0.5
# Directions with a smaller cosine than this do not count as sharing a dimension.
_UNRELATED = 0.25


def gram(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many feature feature"]:
    """W^T W: entry (i, j) is output i when feature j alone is 1, before bias and activation."""
    return W.transpose(-1, -2) @ W


def feature_norms(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many feature"]:
    """Length of each feature's direction: about 1 where it is represented, about 0 where it is not."""
    return W.norm(dim=-2)


def represented(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many"]:
    """How many features have a norm above one half."""
    return (feature_norms(W) > REPRESENTED).sum(dim=-1).float()


def interference(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many feature"]:
    """Sum over the other features of their squared projection on each feature's direction; 0 for a feature of norm 0."""
    products = gram(W).square()
    own = products.diagonal(dim1=-2, dim2=-1)
    norms = feature_norms(W).square()
    others = (products.sum(dim=-1) - own).clamp_min(0)
    return torch.where(norms > 1e-12, others / norms.clamp_min(1e-12), 0.0)


def relative_interference(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many feature"]:
    """Interference over the feature's own squared norm: 1 in an antipodal pair, however long its vectors are.

    It is 1 / dimensionality - 1; 0 for a feature of norm 0.
    """
    norms = feature_norms(W).square()
    return torch.where(norms > 1e-12, interference(W) / norms.clamp_min(1e-12), 0.0)


def feature_dimensionality(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many feature"]:
    """Fraction of a dimension that each feature has: its squared norm over the sum of all squared projections on its
    direction.

    1 for a direction of its own, 1/2 in an antipodal pair, 0 for a feature of norm 0.
    """
    norms = feature_norms(W).square()
    return torch.where(norms > 1e-12, norms / (norms + interference(W)).clamp_min(1e-12), 0.0)


def dimensions_per_feature(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many"]:
    """m / ‖W‖²: hidden dimensions for each represented feature, counted by their squared norms. Infinite for W = 0."""
    return W.shape[-2] / W.square().sum(dim=(-2, -1))


def cosines(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many feature feature"]:
    """Cosine between the directions of features; 0 with a feature of norm 0."""
    norms = feature_norms(W)
    directions = torch.where(norms[..., None, :] > 1e-6, W / norms[..., None, :].clamp_min(1e-6), 0.0)
    return gram(directions).clamp(-1, 1)


def largest_cosine(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many"]:
    """Largest cosine between the directions of two features: how far they keep from each other. -1 with fewer than two."""
    if W.shape[-1] < 2:
        return W.new_full(W.shape[:-2], -1.0)
    return (cosines(W) - 2 * torch.eye(W.shape[-1], device=W.device)).amax(dim=(-2, -1))


def coherence(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many"]:
    """Largest absolute cosine between the directions of two features: 1 with an antipodal pair. 0 with fewer than two."""
    if W.shape[-1] < 2:
        return W.new_zeros(W.shape[:-2])
    return (cosines(W).abs() - torch.eye(W.shape[-1], device=W.device)).amax(dim=(-2, -1))


def frame_condition(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many"]:
    """Largest over smallest eigenvalue of W W^T, the ratio of the bounds of the frame that the features are (Casazza & Kutyniok 2013,
    Finite Frames): 1 for a tight frame, which treats all directions of the hidden space alike; infinite where features span less than
    all dimensions.
    """
    if W.shape[-1] < W.shape[-2]:
        return W.new_full(W.shape[:-2], torch.inf)
    values = torch.linalg.svdvals(W)
    largest, smallest = values[..., 0], values[..., -1]
    return torch.where(smallest > 1e-6 * largest, (largest / smallest).square(), torch.inf)


def angles(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many feature feature"]:
    """Angle between the directions of features, degrees."""
    return torch.rad2deg(torch.arccos(cosines(W)))


@dataclass(frozen=True)
class Shape:
    """Features that share dimensions, and the shape that their directions form ("unnamed" if it is none of the known ones)."""

    name: str
    features: tuple[int, ...]


def shapes(W: Float[Tensor, "hidden feature"], *, tolerance: float = 0.2) -> list[Shape]:
    """The shapes that represented features form, from the Gram matrix of their directions alone.

    Features belong together when a chain of cosines above 0.25 in magnitude links them (ours). A shape is recognised when the
    cosines of its features, sorted within each feature, are within ``tolerance`` of those of the known shape.
    """
    kept = (feature_norms(W) > REPRESENTED).nonzero()[:, 0]
    between = cosines(W)[kept][:, kept]
    left, found = set(range(len(kept))), []
    while left:
        group = _linked(between.abs() > _UNRELATED, min(left))
        left -= group
        members = sorted(group)
        name = _name(between[members][:, members], tolerance)
        found.append(Shape(name, tuple(int(kept[member]) for member in members)))
    return found


def shape_counts(W: Float[Tensor, "hidden feature"], *, tolerance: float = 0.2) -> dict[str, int]:
    """How many features form shapes of each name, the most frequent first."""
    return features_by_shape(shapes(W, tolerance=tolerance))


def features_by_shape(found: Iterable[Shape]) -> dict[str, int]:
    """How many features the shapes of each name have, the most frequent first."""
    counts: Counter[str] = Counter()
    for shape in found:
        counts[shape.name] += len(shape.features)
    return dict(counts.most_common())


@functools.cache
def known_shapes() -> dict[str, Float[Tensor, "feature dimension"]]:
    """Unit vectors of every shape that is recognised: regular polygons and polyhedra, and the square antiprism of
    eight points on a sphere that repel each other (Thomson 1904; angle to the axis 55.94°).
    """

    def polygon(n: int) -> Tensor:
        turns = 2 * math.pi * torch.arange(n) / n
        return torch.stack((turns.cos(), turns.sin()), dim=1)

    tetrahedron = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / math.sqrt(3)
    tilt = math.radians(55.94)
    squares = []
    for side, start in ((1, 0.0), (-1, math.pi / 4)):
        turns = start + math.pi / 2 * torch.arange(4)
        level = torch.full((4,), side * math.cos(tilt))
        squares.append(torch.stack((math.sin(tilt) * turns.cos(), math.sin(tilt) * turns.sin(), level), dim=1))
    return {
        "own dimension": torch.ones(1, 1),
        "antipodal pair": torch.tensor([[1.0], [-1.0]]),
        "triangle": polygon(3),
        "tetrahedron": tetrahedron,
        "pentagon": polygon(5),
        "square antiprism": torch.cat(squares),
    }


def shape_dimensionality(name: str) -> float:
    """Dimensions per feature of a known shape: 1, 1/2, 2/3, 3/4, 2/5, 3/8."""
    vectors = known_shapes()[name]
    return vectors.shape[1] / vectors.shape[0]


def _linked(linked: Tensor, start: int) -> set[int]:
    group, border = {start}, [start]
    while border:
        for other in linked[border.pop()].nonzero()[:, 0].tolist():
            if other not in group:
                group.add(other)
                border.append(other)
    return group


def _name(between: Float[Tensor, "feature feature"], tolerance: float) -> str:
    for name, vectors in known_shapes().items():
        if len(vectors) == len(between):
            expected = (vectors @ vectors.T).sort(dim=1).values
            if float((between.sort(dim=1).values - expected).abs().max()) <= tolerance:
                return name
    return "unnamed"
