"""Measures of a sparse autoencoder's features for sae_features.py: words, relations between features, noise. Pure tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_superposition.linalg import unit_rows
from mi_superposition.sae.evaluate import reconstruct_with

# A feature stands for a word where so much of its activation is on one token; it is judged where it is active on so many tokens.
ONE_TOKEN, LEAST = 0.9, 10


def explained(x: Float[Tensor, "token d"], made: Float[Tensor, "token d"]) -> float:
    """Share of the variance."""
    return 1 - float((x - made).square().sum() / (x - x.mean(dim=0)).square().sum())


def shares(acts: Float[Tensor, "token feature"], numbers: Int[Tensor, " token"]) -> Float[Tensor, "number feature"]:
    """How each feature's activation is divided between tokens of each number; 0 for features that are never active."""
    mass = torch.zeros(int(numbers.max()) + 1, acts.shape[1]).index_add_(0, numbers, acts)
    return mass / mass.sum(dim=0).clamp_min(1e-12)


def judged(acts: Float[Tensor, "token feature"]) -> Bool[Tensor, " feature"]:
    """Features that are active often enough."""
    return (acts > 0).sum(dim=0) >= LEAST


class Words(NamedTuple):
    """Share of the features that stand for one token, and the median effective number of tokens of a feature."""

    alone: float
    effective: float


def words(acts: Float[Tensor, "token feature"], tokens: Int[Tensor, " token"]) -> Words:
    """Of the features that are active often enough; either sign counts."""
    divided = shares(acts.abs(), tokens)[:, judged(acts.abs())]
    number = torch.special.entr(divided).sum(dim=0).exp()
    return Words(float((divided.amax(dim=0) >= ONE_TOKEN).double().mean()), float(number.median()))


def partners(values: Float[Tensor, " feature"], generator: torch.Generator | None = None) -> Int[Tensor, " feature"]:
    """For each feature another one with nearly the same value: the next in order, or with ``generator`` one of the next five."""
    order, n = values.argsort(), len(values)
    steps = (
        torch.ones(n, dtype=torch.long) if generator is None else torch.randint(1, min(6, n), (n,), generator=generator)
    )
    found = torch.empty_like(order)
    found[order] = order[(torch.arange(n) + steps) % n]
    return found


def related(divided: Float[Tensor, "number feature"], pair: Int[Tensor, " feature"]) -> float:
    """Mean overlap of what features and their partners are active on: 1 for the same shares, 0 for nothing in common."""
    other = pair != torch.arange(len(pair))
    return float(torch.minimum(divided, divided[:, pair]).sum(dim=0)[other].mean())


class Related(NamedTuple):
    """Overlaps of features with their partners and, in their place, with others that are as often active."""

    near: float
    near_control: float
    level: float
    level_control: float


def relations(sae: Any, acts: Float[Tensor, "token feature"], numbers: Int[Tensor, " token"], seed: int) -> Related:
    """Of features with the nearest decoder direction, and with the same mean activation where active, in tokens or documents."""
    kept = judged(acts)
    acts, directions = acts[:, kept], unit_rows(sae.W_dec.detach().float()[kept])
    divided, rate = shares(acts, numbers), (acts > 0).double().mean(dim=0)
    near = (directions @ directions.T).fill_diagonal_(-1).argmax(dim=1)
    level = partners(acts.sum(dim=0) / (acts > 0).sum(dim=0))
    equal = partners(rate, torch.Generator().manual_seed(seed))
    return Related(*(related(divided, pair) for pair in (near, equal[near], level, equal[level])))


class Linear(NamedTuple):
    """Principal components of activations, the variance along each, the largest last."""

    mean: Float[Tensor, " d"]
    values: Float[Tensor, " d"]
    vectors: Float[Tensor, "d component"]

    @classmethod
    def of(cls, x: Float[Tensor, "token d"]) -> Linear:
        """Of these activations."""
        values, vectors = torch.linalg.eigh(x.T.double().cov())
        return cls(x.mean(dim=0), values.float().clamp_min(0), vectors.float())

    def kept(self, x: Float[Tensor, "token d"], weights: Float[Tensor, " component"]) -> Float[Tensor, "token d"]:
        """The activations with each component multiplied by a weight."""
        return self.mean + (x - self.mean) @ self.vectors * weights @ self.vectors.T

    def first(self, x: Float[Tensor, "token d"], k: int) -> Float[Tensor, "token d"]:
        """The k first components."""
        return self.kept(x, (torch.arange(len(self.values)) >= len(self.values) - k).float())

    def wiener(self, x: Float[Tensor, "token d"], noise: float) -> Float[Tensor, "token d"]:
        """The best linear estimate when noise of this variance was added to each dimension (Wiener 1949)."""
        return self.kept(x, self.values / (self.values + noise))


def cleaned(
    clean: Float[Tensor, "token d"], share: float, saes: Sequence[Any], linear: Linear, k: int
) -> dict[str, list[float]]:
    """Error of noisy activations, relative to their variance, after each way to take out the noise, one for each autoencoder; ``k``
    principal components.
    """
    spread_of = float((clean - clean.mean(dim=0)).square().mean()) ** 0.5 * share
    errors: dict[str, list[float]] = {"autoencoder": [], "none": [], "principal components": [], "best linear": []}
    for seed, sae in enumerate(saes):
        noisy = clean + spread_of * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
        made = (reconstruct_with(sae)(noisy)[0], noisy, linear.first(noisy, k), linear.wiener(noisy, spread_of**2))
        for name, one in zip(errors, made, strict=True):
            errors[name].append(1 - explained(clean, one))
    return errors
