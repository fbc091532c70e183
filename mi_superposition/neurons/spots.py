"""Spots: stretches of an order whose neurons are more alike than any stretch of an ordered control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.errors import RequestError


@dataclass(frozen=True)
class Spot:
    """A window of an order.

    ``similarity`` is the mean squared similarity of the pairs within it; ``excess`` is how far that is above the mean
    over all windows of all controls, in their standard deviations; ``beats_control`` says whether no window of any
    control reaches it.
    """

    start: int
    neurons: tuple[int, ...]
    similarity: float
    excess: float
    beats_control: bool


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


def find_spots(
    similarity: Float[Tensor, "neuron neuron"],
    order: Int[Tensor, " neuron"],
    controls: Sequence[tuple[Float[Tensor, "neuron neuron"], Int[Tensor, " neuron"]]],
    *,
    window: int = 8,
    limit: int = 50,
) -> list[Spot]:
    """Windows of an order by their excess over ordered controls, largest first, none overlapping another.

    ``controls`` are (similarity, order) pairs of random matrices. Raises ``RequestError`` without one.
    """
    if not controls:
        raise RequestError("spots are windows that exceed a control: give at least one")
    expected = torch.cat([window_similarity(*control, window) for control in controls])
    mean, deviation, most = float(expected.mean()), float(expected.std()), float(expected.max())
    values = window_similarity(similarity, order, window)
    free = torch.ones(len(values), dtype=torch.bool)
    spots: list[Spot] = []
    for start in values.argsort(descending=True, stable=True).tolist():
        if len(spots) == limit:
            break
        if not free[start]:
            continue
        free[max(start - window + 1, 0) : start + window] = False
        value = float(values[start])
        neurons = tuple(order[start : start + window].tolist())
        spots.append(Spot(start, neurons, value, (value - mean) / max(deviation, 1e-12), value > most))
    return spots
