"""Who reads what a head writes: the neurons and features whose input directions are closest to the directions in which it writes most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_superposition.linalg import unit_rows
from mi_superposition.training import seeded_generator

# Directions in which a head writes that are compared, and how often the control is drawn.
DIRECTIONS, DRAWS = 4, 8


@dataclass(frozen=True)
class Reader:
    """A unit of a hook with the cosine of its input direction and the one of the head's directions that is nearest, by magnitude."""

    hook: str
    unit: int
    cosine: float
    direction: int


@dataclass(frozen=True)
class HeadReaders:
    """The nearest readers of a head, the nearest first. ``chance``: the largest magnitude of a cosine among as many random directions with
    the covariance of the readers of each hook, mean over draws, and ``chance_deviation`` its standard deviation.
    """

    nearest: list[Reader]
    chance: float
    chance_deviation: float


def readers_of_heads(
    written: Float[Tensor, "head direction d_model"],
    reading: Mapping[str, Float[Tensor, "d_model _unit"]],
    later: Sequence[Sequence[str]],
    k: int,
    *,
    seed: int,
) -> list[HeadReaders | None]:
    """For each head its ``k`` nearest readers among the units of the hooks in ``later``, those after it; ``None`` where there are none.

    The control keeps the covariance of each hook's input directions: a direction is a sum of all of them with random weights. It says
    what the nearest of so many would be if directions had nothing to do with the head but lay in the same dimensions.
    """
    cosines = {hook: _cosines(written, weights) for hook, weights in reading.items()}
    drawn = {hook: _drawn(written, weights, hook, seed) for hook, weights in reading.items()}
    found: list[HeadReaders | None] = []
    for head, hooks in enumerate(later):
        if not hooks:
            found.append(None)
            continue
        together = torch.cat([cosines[hook][head] for hook in hooks], dim=1)
        names = [(hook, unit) for hook in hooks for unit in range(reading[hook].shape[1])]
        magnitude, direction = together.abs().max(dim=0)
        best = magnitude.argsort(descending=True, stable=True)[:k].tolist()
        chance = torch.stack([drawn[hook][:, head] for hook in hooks]).amax(dim=0)
        nearest = []
        for at in best:
            hook, unit = names[at]
            nearest.append(Reader(hook, unit, float(together[direction[at], at]), int(direction[at])))
        found.append(HeadReaders(nearest, float(chance.mean()), float(chance.std())))
    return found


def _cosines(
    written: Float[Tensor, "head direction d_model"], reading: Float[Tensor, "d_model unit"]
) -> Float[Tensor, "head direction unit"]:
    return unit_rows(written.flatten(0, 1)).unflatten(0, written.shape[:2]) @ unit_rows(reading.T).T


def _drawn(
    written: Float[Tensor, "head direction d_model"], reading: Float[Tensor, "d_model unit"], hook: str, seed: int
) -> Float[Tensor, "draw head"]:
    """The largest magnitude of each head's cosines with random directions of equal covariance, as many as there are units."""
    d, n = reading.shape
    squares, axes = torch.linalg.eigh(reading.double() @ reading.double().T)
    root = (axes * squares.clamp_min(0).sqrt()).float()
    largest = []
    for draw in range(DRAWS):
        noise = torch.randn(d, n, generator=seeded_generator(seed, f"readers of {hook}", draw))
        largest.append(_cosines(written, root @ noise).abs().amax(dim=(1, 2)))
    return torch.stack(largest)
