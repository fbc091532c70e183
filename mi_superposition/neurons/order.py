"""An order of neurons in which neighbours are similar, with an upper bound on the score of any order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.errors import RequestError
from mi_superposition.neurons.bound import path_bound
from mi_superposition.neurons.path import greedy_path, search_path
from mi_superposition.parts import SeedPart
from mi_superposition.results import Result

# Kicks in a second of search: about what one core of a laptop does at 4096 neurons. Counting kicks and not seconds
# makes the answer the same everywhere.
_KICKS_PER_SECOND = 10_000
_NEAR = 10
# Rows of a matrix that are looked at together.
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, repr=False)
class NeuronOrder(Result):
    """A path through the neurons.

    ``neighbours`` is the similarity of each neuron on the path to the next. ``score`` is the sum of their squares; ``upper_bound`` is
    at least the score of every order, infinite where none was asked for.
    """

    DRAWN_BY: ClassVar[str] = "mi_superposition.figures.neuron_order:order_curve"

    order: Int[Tensor, " neuron"]
    score: float
    upper_bound: float
    neighbours: Float[Tensor, " step"]

    @property
    def gap(self) -> float:
        """By how much, at most, the best order's score exceeds this one's, over this one's (0 for a score of 0)."""
        return self.upper_bound / self.score - 1 if self.score > 0 else 0.0

    def summary(self) -> str:
        """The score and what no order can exceed."""
        bound = f"upper bound {self.upper_bound:.2f}, {100 * self.gap:.2f} % higher"
        return f"{len(self.order):,} neurons: score {self.score:.2f} ({bound if math.isfinite(self.upper_bound) else 'no upper bound'})"

    def to_frame(self) -> pd.DataFrame:
        """One row per position in the order: the neuron, and its similarity to the next (none for the last)."""
        neighbours = [*self.neighbours.tolist(), float("nan")]
        return pd.DataFrame({"neuron": self.order.tolist(), "similarity_to_next": neighbours}).rename_axis("position")


def order_neurons(
    similarity: Float[Tensor, "neuron neuron"], *, seed: int = SeedPart.seed, seconds: float = 2.0, bound: bool = True
) -> NeuronOrder:
    """A path through all neurons with a large sum of squared similarities of neighbours; ours, see ``path.py``.

    ``seconds`` is how long to search, roughly, on one core of a laptop: it is turned into a number of steps, so the
    same seed and the same matrix give the same order everywhere. The command ``neurons order`` searches more briefly,
    because it orders every control too. Neurons that are similar to nothing (dead ones) come last, by
    index. The path starts at the end with the smaller index. Without ``bound`` the upper bound is infinite.

    Raises ``RequestError`` for a matrix that is not square and symmetric, has no neurons, or holds a NaN.
    """
    if seconds < 0:
        raise RequestError(f"seconds = {seconds}: must be at least 0")
    weights = _squared(similarity)
    # The search counts gains below a ten-millionth of the heaviest edge as rounding, whatever the scale.
    scale = float(weights.max()) or 1.0
    weights /= scale
    like_any = weights.amax(dim=1) > 0
    alive, dead = like_any.nonzero().flatten(), (~like_any).nonzero().flatten()
    if len(alive) < len(weights):
        weights = weights[alive][:, alive].contiguous()
    n = len(alive)
    path = np.arange(n)
    if n > 2:
        near = weights.topk(min(_NEAR, n - 1), dim=1).indices.numpy()
        path = search_path(
            weights.numpy(),
            near,
            greedy_path(weights.numpy(), 0),
            round(seconds * _KICKS_PER_SECOND),
            np.random.default_rng(seed),
        )
        if path[0] > path[-1]:
            path = path[::-1].copy()
    local = torch.from_numpy(path)
    score = path_score(weights, local)
    upper = path_bound(weights.numpy(), score, path) if bound else float("inf")
    order = torch.cat([alive[local], dead])
    neighbours = neighbour_similarity(similarity, order).detach().float().cpu()
    return NeuronOrder(order, score * scale, upper * scale, neighbours)


def path_score(weights: Float[Tensor, "neuron neuron"], path: Int[Tensor, " neuron"]) -> float:
    """Sum of the weights of neighbours on a path."""
    return float(weights[path[:-1], path[1:]].double().sum())


def neighbour_similarity(
    similarity: Float[Tensor, "neuron neuron"], order: Int[Tensor, " neuron"]
) -> Float[Tensor, " step"]:
    """Similarity of each neuron on the path to the next: one fewer than there are neurons."""
    return similarity[order[:-1], order[1:]]


def window_similarity(
    similarity: Float[Tensor, "neuron neuron"], order: Int[Tensor, " neuron"], size: int
) -> Float[Tensor, " window"]:
    """Mean squared similarity of the pairs in each window of ``size`` neighbours on the order, by its start."""
    n = len(order)
    if not 2 <= size <= n:
        raise RequestError(f"window = {size}: must be 2 to the number of neurons, {n}")
    pairs = torch.zeros(n - size + 1, dtype=torch.float64)
    for offset in range(1, size):
        # A window's pairs at this offset are a stretch of one diagonal: a difference of its running sums.
        diagonal = similarity[order[:-offset], order[offset:]].double().square()
        running = torch.cat([torch.zeros(1, dtype=torch.float64), diagonal.cumsum(0)])
        pairs += running[size - offset :][: n - size + 1] - running[: n - size + 1]
    return pairs / (size * (size - 1) / 2)


def _squared(similarity: Float[Tensor, "neuron neuron"]) -> Float[Tensor, "neuron neuron"]:
    """Squares on the CPU in float32, with a diagonal of 0."""
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1] or not len(similarity):
        raise RequestError(f"a similarity of shape {tuple(similarity.shape)}: must be square, with at least one neuron")
    weights = similarity.detach().float().cpu().square()
    # Not infinite and not a NaN, of which the largest would be one too. Nothing as large as the matrix is made on the way.
    largest = float(weights.max())
    if not math.isfinite(largest):
        row, column = (~weights.isfinite()).nonzero()[0].tolist()
        raise RequestError(f"the similarity of neurons {row} and {column} is {float(similarity[row, column])}")
    for rows, columns in zip(weights.split(_ROWS_AT_ONCE), weights.split(_ROWS_AT_ONCE, dim=1), strict=True):
        if not torch.allclose(rows, columns.T, atol=1e-5 * largest):
            row, column = divmod(int((weights - weights.T).abs().argmax()), len(weights))
            raise RequestError(
                f"the similarity of neurons {row} and {column} is {float(similarity[row, column]):g} one way and "
                f"{float(similarity[column, row]):g} the other: it must be symmetric"
            )
    return weights.fill_diagonal_(0)
