"""Sparse inputs and what a task makes of them. The batch is the last axis throughout."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from mi_superposition.toy.config import PAIRED, ToyConfig
from mi_superposition.training import derived_seed, seeded_generator


class InputSampler:
    """Draws inputs ``[setting, feature, batch]``; instances of one setting share them. Source: Elhage et al. 2022,
    "Toy Models of Superposition", for independent and for (anti)correlated features.

    One uniform number decides both whether an independent feature is zero and what it is: given that it lies below the
    probability p, it is uniform in [0, p].
    """

    def __init__(self, config: ToyConfig, device: torch.device):
        self.config, self.device = config, device
        self._threads = ThreadPoolExecutor(config.threads, thread_name_prefix="toy")
        given = [torch.tensor(setting.probability, dtype=torch.float32) for setting in config.settings]
        probability = torch.stack([value.expand(config.n_features) for value in given])
        self.probability = rearrange(probability, "setting feature -> setting feature 1").to(device)

    def draw(self, purpose: str, index: int, n: int) -> Float[Tensor, "setting feature batch"]:
        """``n`` inputs for each setting; equal for equal (seed, purpose, index) on one kind of device."""
        config = self.config
        shape = (len(config.settings), config.n_features, n)
        uniform = self._uniform(f"{purpose} values", index, shape)
        if config.sets == "independent" and config.inputs in ("uniform", "signed", "binary"):
            # Below p, u / p is uniform in [0, 1) and goes on to be the value.
            active = uniform < self.probability
            uniform.div_(self.probability.clamp_min(1e-12))
        else:
            active = self._active(purpose, index, shape)
        match config.inputs:
            case "uniform":
                values = uniform
            case "signed":
                values = uniform.mul_(2).sub_(1)
            case "binary":
                return active.float()
            case "ternary":
                values = uniform.sub_(0.5).sign_()
            case _:
                # The least float32 that a uniform number may be stands in for 0, of which there is no quantile.
                values = torch.special.ndtri(uniform.clamp_(2**-25, 1 - 2**-24))
        return values.mul_(active)

    def _active(self, purpose: str, index: int, shape: tuple[int, int, int]) -> Tensor:
        config = self.config
        if config.sets == "independent":
            return self._uniform(f"{purpose} active", index, shape) < self.probability
        n_settings, n_features, n = shape
        drawn = self._uniform(f"{purpose} active", index, (n_settings, n_features // config.set_size, n))
        probability = self.probability[:, :: config.set_size]
        together = repeat(
            drawn < probability, "setting set batch -> setting (set member) batch", member=config.set_size
        )
        if config.sets == "correlated":
            return together
        # Given that the set is active, its own number says which member is.
        chosen = (drawn / probability.clamp_min(1e-12) * config.set_size).long().clamp_max(config.set_size - 1)
        member = torch.arange(n_features, device=self.device)[:, None] % config.set_size
        return together & (chosen.repeat_interleave(config.set_size, dim=1) == member)

    def _uniform(self, purpose: str, index: int, shape: tuple[int, ...]) -> Tensor:
        """Uniform in [0, 1). NumPy's generator takes half of torch's time on a CPU, and runs on several threads."""
        if self.device.type != "cpu":
            generator = seeded_generator(self.config.seed, purpose, index, self.device)
            return torch.rand(shape, generator=generator, device=self.device)
        drawn = np.empty(shape, np.float32)
        parts = np.array_split(drawn.reshape(-1), self.config.threads)
        seed = derived_seed(self.config.seed, purpose, index)

        def fill(part: int) -> None:
            np.random.Generator(np.random.SFC64([seed, part])).random(dtype=np.float32, out=parts[part])

        list(self._threads.map(fill, range(len(parts))))
        return torch.from_numpy(drawn)


def targets(task: str, inputs: Float[Tensor, "setting feature batch"]) -> Float[Tensor, "setting output batch"]:
    """What the outputs should be. Tasks of pairs take neighbours: features 0 and 1, 2 and 3, …"""
    match task:
        case "reconstruct":
            return inputs
        case "abs":
            return inputs.abs()
        case "square":
            return inputs.square()
    assert task in PAIRED
    first, second = inputs[:, 0::2], inputs[:, 1::2]
    match task:
        case "and":
            return first * second
        case "or":
            return first + second - first * second
    return torch.maximum(first.abs(), second.abs())
