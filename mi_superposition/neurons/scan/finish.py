"""From what a scan remembers to its result: examples in their order, without near-duplicates, and statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mi_superposition.models import FEATURES
from mi_superposition.neurons.config import N_INTERVALS
from mi_superposition.neurons.scan.accumulator import ScanAccumulator
from mi_superposition.neurons.scan.duplicates import MIN_HASHES, NEAR_DUPLICATE, NO_SIGNATURES, min_hashes
from mi_superposition.neurons.scan.examples import Examples
from mi_superposition.neurons.scan.kernel import NOWHERE, Slots, choose_different
from mi_superposition.neurons.scan.polysemanticity import effective_number, permuted_examples
from mi_superposition.neurons.scan.result import NeuronScan, UnitScan
from mi_superposition.neurons.scan.units import UnitAccumulator

# A token that occurs less often has no mean worth ranking.
FEWEST_OCCURRENCES = 5
_TOP_TOKENS, _PARTNERS = 20, 10
_UNITS_AT_ONCE = 256


def documents_needed(accumulator: ScanAccumulator) -> set[int]:
    """Numbers of the documents that have any example kept."""
    needed: set[int] = set()
    for units in accumulator.hooks.values():
        for slots in (units.top, units.bottom, units.drawn):
            needed |= set(np.unique(slots.document).tolist())
    return needed - {NOWHERE}


def scan_result(
    accumulator: ScanAccumulator, documents: Mapping[int, list[int]], vocabulary: Sequence[str] = ()
) -> NeuronScan:
    """Order what was kept and skip near-duplicates; ``documents`` are those of ``documents_needed``, ``vocabulary`` is what each token
    looks like.
    """
    documents = dict(sorted(documents.items()))
    numbers = np.array(list(documents), np.int64)
    signatures = np.stack([min_hashes(tokens) for tokens in documents.values()]) if documents else NO_SIGNATURES
    hooks = {
        hook: _unit_scan(hook, units, accumulator.calibrations[hook].representation, accumulator, numbers, signatures)
        for hook, units in accumulator.hooks.items()
    }
    shown: set[int] = set()
    for units in hooks.values():
        for examples in (units.top, units.bottom, units.tenths):
            shown |= set(examples.document.unique().tolist())
    kept = {number: list(documents[number]) for number in sorted(shown - {NOWHERE})}
    return NeuronScan(
        hooks, kept, accumulator.n_documents, accumulator.n_tokens, accumulator.settings, tuple(vocabulary)
    )


def _unit_scan(
    hook: str,
    units: UnitAccumulator,
    representation: Float[Tensor, " d"],
    accumulator: ScanAccumulator,
    numbers: NDArray[np.int64],
    signatures: NDArray[np.uint64],
) -> UnitScan:
    settings, n = accumulator.settings, accumulator.n_tokens
    best = [_best(slots, numbers, signatures, settings.top_k) for slots in (units.top, units.bottom)]
    if hook.endswith(FEATURES):
        for slots, order in zip((units.top, units.bottom), best, strict=True):
            order[np.take_along_axis(slots.value, order, 1) == 0] = NOWHERE
    vectors = torch.from_numpy(np.take_along_axis(units.top.vector, best[0][:, :, None], 1)) - representation
    present = torch.from_numpy(np.take_along_axis(units.top.document, best[0], 1) != NOWHERE)
    present &= torch.from_numpy(best[0] != NOWHERE)
    permuted_vectors, permuted = permuted_examples(vectors, present, settings.random.seed)
    powers = torch.from_numpy(units.sums.powers) / n
    mean, square, cube = powers.unbind(dim=0)
    variance = (square - mean.square()).clamp_min(0)
    third = cube - 3 * mean * square + 2 * mean**3
    skewness = torch.where(variance > 0, third / variance.clamp_min(1e-300).pow(1.5), 0.0)
    low, high = torch.from_numpy(units.bins.low), torch.from_numpy(units.bins.high)
    edges = low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, settings.n_bins + 1)
    tokens, token_mean, token_count = _top_tokens(
        torch.from_numpy(units.sums.by_token[: len(accumulator.tokens)]),
        torch.tensor(accumulator.tokens),
        torch.from_numpy(accumulator.counts),
    )
    partners, correlations = _partners(units)
    return UnitScan(
        top=_examples(units.top, best[0]),
        bottom=_examples(units.bottom, best[1]),
        tenths=_examples(units.drawn, _drawn_order(units.drawn, settings.per_tenth)),
        edges=edges,
        histogram=torch.from_numpy(units.sums.histogram),
        fraction_active=torch.from_numpy(units.sums.active).float() / n,
        mean=(mean + torch.from_numpy(units.bins.centre)).float(),
        variance=variance.float(),
        skewness=skewness.float(),
        minimum=torch.from_numpy(units.sums.extremes[:, 0].copy()),
        maximum=torch.from_numpy(units.sums.extremes[:, 1].copy()),
        top_tokens=tokens,
        top_token_mean=token_mean,
        top_token_count=token_count,
        partners=partners,
        partner_correlation=correlations,
        contexts=effective_number(vectors, present),
        contexts_shuffled=effective_number(permuted_vectors, permuted),
    )


def _order(slots: Slots) -> NDArray[np.int64]:
    """Slots of each unit, the best first, empty ones last."""
    empty = slots.document == NOWHERE
    return np.lexsort((slots.position, slots.document, -slots.rank, empty), axis=1)


def _best(slots: Slots, numbers: NDArray[np.int64], signatures: NDArray[np.uint64], top_k: int) -> NDArray[np.int64]:
    """The first ``top_k`` slots of each unit without near-duplicates of a better one; -1 where there are fewer.

    ``signatures`` are those of the documents with these ``numbers``.
    """
    order = _order(slots)
    documents = np.take_along_axis(slots.document, order, 1)
    rows = np.searchsorted(numbers, documents)
    how_many = (documents != NOWHERE).sum(axis=1)
    return choose_different(signatures, rows, order, how_many, top_k, NEAR_DUPLICATE * MIN_HASHES)


def _drawn_order(drawn: Slots, per_tenth: int) -> NDArray[np.int64]:
    """Slots interval by interval, in each the largest activation first."""
    grouped: list[NDArray[Any]] = [
        rearrange(array, "unit (interval slot) -> unit interval slot", slot=per_tenth) for array in drawn[:4]
    ]
    _, value, document, position = grouped
    within = np.lexsort((position, document, -np.nan_to_num(value), document == NOWHERE), axis=2)
    return rearrange(within + per_tenth * np.arange(N_INTERVALS)[:, None], "unit interval slot -> unit (interval slot)")


def _examples(slots: Slots, order: NDArray[np.int64]) -> Examples:
    missing = order == NOWHERE
    value, document, position = (
        np.where(missing, nothing, np.take_along_axis(array, order, 1))
        for array, nothing in ((slots.value, np.float32(np.nan)), (slots.document, NOWHERE), (slots.position, NOWHERE))
    )
    window = np.take_along_axis(slots.window, order[:, :, None], 1)
    window[missing] = np.nan
    return Examples(*map(torch.from_numpy, (value, document, position, window)))


def _top_tokens(
    sums: Float[Tensor, "token unit"], tokens: Int[Tensor, " token"], counts: Int[Tensor, " token"]
) -> tuple[Int[Tensor, "unit rank"], Float[Tensor, "unit rank"], Int[Tensor, "unit rank"]]:
    """Tokens by their mean activation, those with the smaller number first where they tie."""
    often = counts >= FEWEST_OCCURRENCES
    by_number = tokens[often].argsort()
    rows = often.nonzero()[:, 0][by_number]
    parts: list[list[Tensor]] = [[], [], []]
    width = min(_TOP_TOKENS, len(rows))
    for start in range(0, sums.shape[1], _UNITS_AT_ONCE):
        means = sums[rows, start : start + _UNITS_AT_ONCE].T / counts[rows]
        order = means.argsort(dim=1, descending=True, stable=True)[:, :width]
        for part, value in zip(parts, (tokens[rows][order], means.gather(1, order), counts[rows][order]), strict=True):
            part.append(value)
    return torch.cat(parts[0]), torch.cat(parts[1]), torch.cat(parts[2])


def _partners(units: UnitAccumulator) -> tuple[Int[Tensor, "unit partner"], Float[Tensor, "unit partner"]]:
    n = len(units.sums.active)
    units.settle()
    if units.covariance is None or units.covariance.n < 2:
        return torch.zeros(n, 0, dtype=torch.long), torch.zeros(n, 0)
    correlation = units.covariance.correlation().fill_diagonal_(0)
    partners = correlation.abs().topk(min(_PARTNERS, n - 1), dim=1).indices
    return partners, correlation.gather(1, partners)
