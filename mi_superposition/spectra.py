"""How many directions a layer uses: effective ranks of singular values, of weights and of activations.

What these numbers say of superposition: little by themselves. A rank below the number of dimensions says that some directions
carry next to nothing, not that features share the others; a layer of full rank may hold one feature a dimension or eight. They
bound how much room there is, and are read against the same layer before training and against random matrices of its shape.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mi_superposition.errors import RequestError
from mi_superposition.streaming import CovarianceAccumulator

ENERGY = 0.99


@dataclass(frozen=True)
class EffectiveRanks:
    """Effective ranks of one spectrum (dimensionless, 0 to ``n``, the number of singular values).

    ``energy_rank``: the fewest singular values whose squares sum to the share asked for of all squares. ``entropy_rank``: exp of
    the entropy of the singular values over their sum (Roy & Vetterli 2007, equation 4). ``participation_ratio``: the square of
    the sum of the squares over the sum of the fourth powers. ``stable_rank``: the sum of the squares over the largest (Rudelson
    & Vershynin 2007). Each is n for equal singular values and 1 for a single one; the first counts small values in full as soon
    as they are needed, the last two hardly see them.
    """

    n: int
    energy_rank: int
    entropy_rank: float
    participation_ratio: float
    stable_rank: float

    @property
    def energy_ratio(self) -> float:
        """``energy_rank`` over the number of singular values, min(rows, columns) of a matrix."""
        return self.energy_rank / self.n


def effective_ranks(singular_values: Float[Tensor, " value"], *, energy: float = ENERGY) -> EffectiveRanks:
    """The effective ranks of singular values in any order; all 0 where all of them are.

    Raises ``RequestError`` for values that are negative, not finite or none, and a share of energy outside (0, 1].
    """
    if not 0 < energy <= 1:
        raise RequestError(f"energy = {energy}: must be above 0 and at most 1")
    if not len(singular_values) or not bool(singular_values.isfinite().all()) or bool((singular_values < 0).any()):
        raise RequestError("singular values must be finite, 0 or more, and at least one")
    values = singular_values.double().sort(descending=True).values
    n = len(values)
    if float(values[0]) == 0:
        return EffectiveRanks(n, 0, 0.0, 0.0, 0.0)
    # Only ratios count: without the largest, squares of tiny or huge values would leave the range.
    values = values / values[0]
    squares, shares = values.square(), values / values.sum()
    reached = squares.cumsum(0) >= energy * squares.sum() * (1 - 1e-12)
    return EffectiveRanks(
        n=n,
        energy_rank=int(reached.int().argmax()) + 1,
        entropy_rank=math.exp(-float(torch.special.xlogy(shares, shares).sum())),
        participation_ratio=float(squares.sum() ** 2 / squares.square().sum()),
        stable_rank=float(squares.sum()),
    )


def weight_matrices(module: nn.Module) -> Iterator[tuple[str, Float[Tensor, "out in"]]]:
    """Name and weight of every linear and convolutional layer, in the module's order; a kernel as the matrix from what a place
    sees to its channels. Layers that share a weight give it once.
    """
    seen: set[int] = set()
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and id(layer.weight) not in seen:
            seen.add(id(layer.weight))
            yield name, layer.weight.detach().flatten(1)


def weight_spectrum(matrix: Float[Tensor, "row column"]) -> Float[Tensor, " value"]:
    """Singular values, the largest first, in float64. Raises ``RequestError`` for a NaN or an infinity."""
    if not bool(matrix.isfinite().all()):
        raise RequestError("the matrix holds a NaN or an infinity: a spectrum needs finite numbers")
    return torch.linalg.svdvals(matrix.double())


def activation_spectrum(covariance: Float[Tensor, "channel channel"]) -> Float[Tensor, " value"]:
    """Square roots of the eigenvalues of a covariance, the largest first (units of the activations): the singular values of the
    centred activations over the square root of the number of samples.
    """
    return torch.linalg.eigvalsh(covariance.double()).clamp_min(0).sqrt().flip(0)


def marchenko_pastur_edge(rows: int, columns: int, deviation: float) -> float:
    """Where the singular values of a large random matrix with independent entries of that deviation end:
    ``deviation * (sqrt(rows) + sqrt(columns))`` (Marchenko & Pastur 1967; Bai & Yin 1993 for the largest).
    """
    return deviation * (math.sqrt(rows) + math.sqrt(columns))


def samples_by_channel(activations: Tensor, axis: int = 1) -> Float[Tensor, "sample channel"]:
    """Activations with their channels as variables and everything else, batch and space, as samples."""
    return activations.movedim(axis, -1).flatten(0, -2)


@torch.no_grad()
def activation_covariances(
    module: nn.Module, batches: Iterable[Tensor], layers: Sequence[str], *, axis: int = 1
) -> dict[str, CovarianceAccumulator]:
    """Mean and covariance of the outputs of named layers over all batches, in one pass; ``axis`` is that of the channels, every
    other one (batch, space) counts as samples. Memory does not grow with the number of batches.

    A layer that runs several times in a pass adds all it gave. Raises ``RequestError`` for a layer that is not there or does not
    run, and as ``CovarianceAccumulator.update`` for what is not finite.
    """
    known = dict(module.named_modules())
    for name in layers:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = (
                f"did you mean {' or '.join(map(repr, near))}?" if near else f"the network has {len(known) - 1} others"
            )
            raise RequestError(f"layer {name!r} is not in the network: {hint}")
    found: dict[str, CovarianceAccumulator] = {}

    def hear(name: str, output: Tensor) -> None:
        samples = samples_by_channel(output.detach().float(), axis)
        found.setdefault(name, CovarianceAccumulator(samples.shape[1])).update(samples)

    hooks = [
        known[name].register_forward_hook(lambda layer, inputs, output, name=name: hear(name, output))
        for name in layers
    ]
    try:
        for batch in batches:
            module(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if silent := [name for name in layers if name not in found]:
        raise RequestError(f"layer {silent[0]!r} is in the network but did not run: name another")
    return {name: found[name] for name in layers}
