"""The range of every unit's activations, from a first sample: what bins and intervals divide."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_superposition.errors import RequestError, WorkError


@dataclass(frozen=True)
class Calibration:
    """What a first sample says of a hook: the range of each unit's activations, their mean, and the mean representation.

    The bins of the histogram and the ten intervals divide ``low`` to ``high``; what lies outside goes into bins of its own,
    and into the outermost intervals.
    """

    low: Float[Tensor, " unit"]
    high: Float[Tensor, " unit"]
    mean: Float[Tensor, " unit"]
    representation: Float[Tensor, " d"]


class RangeAccumulator:
    """Range and means of a first sample, a batch at a time."""

    def __init__(self) -> None:
        self.n = 0
        self.low = self.high = self.total = self.representation = torch.zeros(())

    def update(self, activations: Float[Tensor, "sample unit"], representation: Float[Tensor, "sample d"]) -> None:
        """Add samples. Raises ``WorkError`` for a NaN or an infinity."""
        if not len(activations):
            return
        if not activations.isfinite().all():
            raise WorkError("the activations hold a NaN or an infinity")
        low, high = activations.amin(dim=0), activations.amax(dim=0)
        self.low = torch.minimum(self.low, low) if self.n else low
        self.high = torch.maximum(self.high, high) if self.n else high
        self.total = self.total + activations.double().sum(dim=0)
        self.representation = self.representation + representation.double().sum(dim=0)
        self.n += len(activations)

    def calibration(self) -> Calibration:
        """The calibration. Raises ``RequestError`` when nothing was."""
        if not self.n:
            raise RequestError("the first sample has no token of a document: nothing to scan")
        width = self.high - self.low
        # A unit that hardly moved in the sample gets the widest range of the others; bins need some width in float32.
        least = 1e-4 * torch.maximum(self.low.abs(), self.high.abs()).clamp_min(1e-20)
        widest = torch.maximum(least, torch.full_like(width, float(width.max()) or 1.0))
        high = torch.where(width > least, self.high, self.low + widest)
        return Calibration(self.low, high, (self.total / self.n).float(), (self.representation / self.n).float())
