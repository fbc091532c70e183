"""Sparse inputs and the targets of each task. The batch is the last axis throughout."""

from __future__ import annotations

import math

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from mi_superposition.toy.buffers import Buffers
from mi_superposition.toy.config import PAIRED, Task, ToyConfig
from mi_superposition.training import derived_seed, seeded_generator


class InputSampler:
    """Draws inputs ``[setting, feature, batch]``; instances of one setting share them. Source: Elhage et al. 2022,
    "Toy Models of Superposition", for independent and for (anti)correlated features.

    One random number decides both whether a feature is zero and what it is: y is uniform in [-1/p, 1/p]. With
    probability p it lies in [-1, 1], and given that it does it is uniform there.
    """

    def __init__(self, config: ToyConfig, device: torch.device):
        self.config, self.device = config, device
        self._inputs, self._n_features = config.architecture.inputs, config.architecture.n_features
        self._buffers = Buffers()
        given = [torch.tensor(setting.probability, dtype=torch.float32) for setting in config.settings]
        probability = torch.stack([value.expand(self._n_features) for value in given])
        self.probability = rearrange(probability, "setting feature -> setting feature 1").to(device)

    def draw(self, purpose: str, index: int, n: int) -> Float[Tensor, "setting feature batch"]:
        """``n`` inputs for each setting; equal for equal (seed, purpose, index) on one kind of device."""
        config = self.config
        if config.sets == "independent":
            y = self._scaled(f"{purpose} values", index, self.probability, n)
            return self._values(y) if self._inputs != "normal" else _normal(y).mul_(y.abs() <= 1)
        n_sets = self._n_features // config.set_size
        drawn = self._scaled(f"{purpose} sets", index, self.probability[:, :n_sets], n)
        active = repeat(drawn.abs() <= 1, "setting set batch -> setting (set member) batch", member=config.set_size)
        if config.sets == "anticorrelated":
            # Given that the set is active, its own number says which member is.
            chosen = ((drawn + 1) / 2 * config.set_size).floor().clamp(0, config.set_size - 1)
            member = torch.arange(self._n_features, device=self.device)[:, None] % config.set_size
            active &= chosen.repeat_interleave(config.set_size, dim=1) == member
        always = torch.ones_like(self.probability)
        y = self._scaled(f"{purpose} values", index, always, n)
        return (_normal(y) if self._inputs == "normal" else self._values(y)).mul_(active)

    def _values(self, y: Tensor) -> Tensor:
        """What the inputs are: 0 where y lies outside [-1, 1]. Writes over ``y``."""
        if self._inputs == "binary":
            return (y.abs_() <= 1).float()
        outside = torch.hardshrink(y, 1.0, out=self._buffers.get("outside", y))
        inside = y.sub_(outside)
        match self._inputs:
            case "uniform":
                return inside.abs_()
            case "ternary":
                return inside.sign_()
        return inside

    def _scaled(self, purpose: str, index: int, probability: Tensor, n: int) -> Tensor:
        """Uniform in [-1/p, 1/p]."""
        shape = (*probability.shape[:2], n)
        # With probability 0 whatever is drawn lies far outside.
        scale = 1 / probability.clamp_min(1e-20)
        if self.device.type != "cpu":
            generator = seeded_generator(self.config.random.seed, purpose, index, self.device)
            return torch.rand(shape, generator=generator, device=self.device).mul_(2).sub_(1).mul_(scale)
        # Two numbers from each of NumPy's 64 bits: a third of the time of torch.rand.
        size = math.prod(shape)
        bits_of = np.random.Generator(np.random.SFC64(derived_seed(self.config.random.seed, purpose, index)))
        bits = bits_of.integers(0, 2**64, -(-size // 2), dtype=np.uint64).view(np.int32)[:size]
        return torch.from_numpy(bits).view(shape).float().mul_(scale * 2.0**-31)


def targets(
    task: Task, inputs: Float[Tensor, "setting feature batch"], buffers: Buffers | None = None
) -> Float[Tensor, "setting output batch"]:
    """Targets of the outputs, in a tensor of ``buffers`` if given. Tasks of pairs take neighbours: features 0 and 1, 2 and
    3, …
    """
    buffer = buffers.get("targets", inputs) if buffers else None
    match task:
        case "reconstruct":
            return inputs
        case "abs":
            return torch.abs(inputs, out=buffer)
        case "square":
            return torch.square(inputs, out=buffer)
    assert task in PAIRED
    first, second = inputs[:, 0::2], inputs[:, 1::2]
    match task:
        case "and":
            return first * second
        case "or":
            return first + second - first * second
    return torch.maximum(first.abs(), second.abs())


def _normal(y: Tensor) -> Tensor:
    """The standard normal number of the same quantile as a number uniform in [-1, 1]."""
    # Of the ends themselves there is no quantile.
    return torch.special.ndtri((y + 1).div_(2).clamp_(2**-25, 1 - 2**-24))
