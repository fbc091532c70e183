"""Spots: windows of an order whose neurons are more similar than those of windows of an ordered control."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.neurons.config import OrderConfig
from mi_superposition.neurons.control import Control
from mi_superposition.neurons.order import window_similarity


@dataclass(frozen=True)
class Spot:
    """A window of an order.

    ``start`` is its first position in the order. ``similarity`` is the mean squared similarity of the pairs within it; ``excess`` how
    far that is above the windows of a control's orders, in their standard deviations. ``p`` is the probability that the best window
    of one more sample of the control is at least as similar: it holds for all windows of the order together. With n samples it is
    at least 1 / (n + 1).
    """

    start: int
    neurons: tuple[int, ...]
    similarity: float
    excess: float
    p: float


def find_spots(
    similarity: Float[Tensor, "neuron neuron"],
    order: Int[Tensor, " neuron"],
    control: Control,
    *,
    window: int = OrderConfig.window,
) -> list[Spot]:
    """All windows of an order, the most similar first, none overlapping another.

    ``control`` was measured with windows of the same size. Raises ``RequestError`` for one that does not fit.
    """
    mean = float(control.window_mean.mean())
    deviation = float(control.window_variance.mean()) ** 0.5
    values = window_similarity(similarity, order, window)
    free = torch.ones(len(values), dtype=torch.bool)
    spots: list[Spot] = []
    for start in values.argsort(descending=True, stable=True).tolist():
        if not free[start]:
            continue
        free[max(start - window + 1, 0) : start + window] = False
        value = float(values[start])
        p = (1 + int((control.window_max >= value).sum())) / (1 + len(control.window_max))
        neurons = tuple(order[start : start + window].tolist())
        spots.append(Spot(start, neurons, value, (value - mean) / max(deviation, 1e-12), p))
    return spots
