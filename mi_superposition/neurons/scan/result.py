"""What a scan found, ordered and ready to be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mi_superposition.models import FEATURES
from mi_superposition.neurons.scan.accumulator import ScanAccumulator, ScanSettings, UnitAccumulator
from mi_superposition.neurons.scan.kernel import N_TENTHS, NOWHERE, Slots, choose_different
from mi_superposition.neurons.scan.polysemanticity import effective_number, shuffled_examples

# Two documents are near-duplicates when they share so many of their runs of five tokens (their Jaccard similarity, as
# estimated by so many min-hashes; Broder 1997, "On the resemblance and containment of documents").
NEAR_DUPLICATE = 0.5
_RUN, _MIN_HASHES = 5, 64
# A token seen less often has no mean worth ranking.
FEWEST_OCCURRENCES = 5
_TOP_TOKENS, _PARTNERS = 20, 10
_UNITS_AT_ONCE = 256
_EXAMPLES = ("top", "bottom", "tenths")


@dataclass(frozen=True)
class Examples:
    """Examples of each unit in their order; activation NaN, document and place -1 where there are fewer. A feature has none
    that it is not active on.

    ``window`` holds the activations around each (NaN outside the row it stood in), the example itself in the middle.
    """

    activation: Float[Tensor, "unit example"]
    document: Int[Tensor, "unit example"]
    place: Int[Tensor, "unit example"]
    window: Float[Tensor, "unit example offset"]


@dataclass(frozen=True)
class UnitScan:
    """What the units of one hook did, in the hook's own units.

    ``top`` and ``bottom``: the largest and the least activations, one a document, near-duplicates passed over.
    ``tenths``: tokens drawn uniformly from each tenth of the range ``edges[:, 0]`` to ``edges[:, -1]`` (found in the first
    sample; what lies beyond belongs to the outermost tenths), the lowest tenth first; its axis ``example`` is tenth by
    tenth. ``histogram`` counts what lies below the edges, in each bin, and above.

    ``top_tokens``: those with the largest mean activation among tokens seen at least 5 times.
    ``partners``: the units whose activations correlate most with it in magnitude; no columns where not asked for.
    ``contexts``: the effective number of different contexts among the top examples, ``contexts_shuffled`` the same where
    every unit was dealt other units' examples (see ``polysemanticity``).
    """

    top: Examples
    bottom: Examples
    tenths: Examples
    edges: Float[Tensor, "unit edge"]
    histogram: Int[Tensor, "unit bin"]
    fraction_active: Float[Tensor, " unit"]
    mean: Float[Tensor, " unit"]
    variance: Float[Tensor, " unit"]
    skewness: Float[Tensor, " unit"]
    minimum: Float[Tensor, " unit"]
    maximum: Float[Tensor, " unit"]
    top_tokens: Int[Tensor, "unit token"]
    top_token_mean: Float[Tensor, "unit token"]
    top_token_count: Int[Tensor, "unit token"]
    partners: Int[Tensor, "unit partner"]
    partner_correlation: Float[Tensor, "unit partner"]
    contexts: Float[Tensor, " unit"]
    contexts_shuffled: Float[Tensor, " unit"]

    @property
    def n_units(self) -> int:
        """How many units the hook has."""
        return len(self.mean)


@dataclass(frozen=True)
class NeuronScan:
    """What a corpus makes of the units of every hook. ``documents`` holds the tokens of each document shown."""

    hooks: dict[str, UnitScan]
    documents: dict[int, list[int]]
    n_documents: int
    n_tokens: int
    settings: ScanSettings

    @property
    def top_activations(self) -> dict[str, Float[Tensor, "unit k"]]:
        """The largest activations of each hook's units, best first; NaN where there are fewer."""
        return {hook: found.top.activation for hook, found in self.hooks.items()}

    @property
    def top_documents(self) -> dict[str, Int[Tensor, "unit k"]]:
        """The documents they are in."""
        return {hook: found.top.document for hook, found in self.hooks.items()}

    @property
    def top_places(self) -> dict[str, Int[Tensor, "unit k"]]:
        """Which token of the document it is."""
        return {hook: found.top.place for hook, found in self.hooks.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Everything as tensors by name, to be saved; windows in half precision."""
        numbers = list(self.documents)
        tokens = [torch.tensor(self.documents[number], dtype=torch.int32) for number in numbers]
        saved = {
            "documents.number": torch.tensor(numbers, dtype=torch.long),
            "documents.length": torch.tensor([len(document) for document in tokens], dtype=torch.long),
            "documents.tokens": torch.cat(tokens) if tokens else torch.zeros(0, dtype=torch.int32),
        }
        for hook, found in self.hooks.items():
            for field in fields(UnitScan):
                value = getattr(found, field.name)
                if isinstance(value, Examples):
                    largest = torch.finfo(torch.float16).max
                    parts = {part.name: getattr(value, part.name) for part in fields(Examples)}
                    parts["window"] = parts["window"].clamp(-largest, largest).half()
                    saved |= {f"{hook}/{field.name}.{part}": tensor for part, tensor in parts.items()}
                else:
                    saved[f"{hook}/{field.name}"] = value
        return saved

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        *,
        hooks: Sequence[str],
        n_documents: int,
        n_tokens: int,
        settings: ScanSettings,
    ) -> NeuronScan:
        """Inverse of ``tensors``, with what is no tensor; ``hooks`` in their order."""
        numbers, lengths = tensors["documents.number"].tolist(), tensors["documents.length"].tolist()
        documents = dict(
            zip(numbers, (part.tolist() for part in tensors["documents.tokens"].split(lengths)), strict=True)
        )

        def examples(start: str) -> Examples:
            return Examples(*(tensors[f"{start}.{part.name}"] for part in fields(Examples)))

        def unit_scan(hook: str) -> UnitScan:
            parts: dict[str, Any] = {
                field.name: examples(f"{hook}/{field.name}")
                if field.name in _EXAMPLES
                else tensors[f"{hook}/{field.name}"]
                for field in fields(UnitScan)
            }
            return UnitScan(**parts)

        return cls({hook: unit_scan(hook) for hook in hooks}, documents, n_documents, n_tokens, settings)


def documents_needed(accumulator: ScanAccumulator) -> set[int]:
    """Numbers of the documents that any kept example stands in."""
    needed: set[int] = set()
    for units in accumulator.hooks.values():
        for slots in (units.top, units.bottom, units.drawn):
            needed |= set(np.unique(slots.document).tolist())
    return needed - {NOWHERE}


def scan_result(accumulator: ScanAccumulator, documents: Mapping[int, list[int]]) -> NeuronScan:
    """Order what was kept and pass over near-duplicates; ``documents`` are those of ``documents_needed``."""
    documents = dict(sorted(documents.items()))
    numbers = np.array(list(documents), np.int64)
    signatures = np.stack([_min_hashes(tokens) for tokens in documents.values()]) if documents else _NO_SIGNATURES
    hooks = {
        hook: _unit_scan(hook, units, accumulator.calibrations[hook].representation, accumulator, numbers, signatures)
        for hook, units in accumulator.hooks.items()
    }
    shown: set[int] = set()
    for found in hooks.values():
        for examples in (found.top, found.bottom, found.tenths):
            shown |= set(examples.document.unique().tolist())
    kept = {number: list(documents[number]) for number in sorted(shown - {NOWHERE})}
    return NeuronScan(hooks, kept, accumulator.n_documents, accumulator.n_tokens, accumulator.settings)


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
    dealt_vectors, dealt = shuffled_examples(vectors, present, settings.seed)
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
        contexts_shuffled=effective_number(dealt_vectors, dealt),
    )


def _order(slots: Slots) -> NDArray[np.int64]:
    """Slots of each unit from the best on, empty ones last."""
    empty = slots.document == NOWHERE
    return np.lexsort((slots.place, slots.document, -slots.rank, empty), axis=1)


def _best(slots: Slots, numbers: NDArray[np.int64], signatures: NDArray[np.uint64], top_k: int) -> NDArray[np.int64]:
    """The first ``top_k`` slots of each unit without near-duplicates of a better one; -1 where there are fewer.

    ``signatures`` are those of the documents with these ``numbers``.
    """
    order = _order(slots)
    documents = np.take_along_axis(slots.document, order, 1)
    rows = np.searchsorted(numbers, documents)
    how_many = (documents != NOWHERE).sum(axis=1)
    return choose_different(signatures, rows, order, how_many, top_k, NEAR_DUPLICATE * _MIN_HASHES)


def _drawn_order(drawn: Slots, per_tenth: int) -> NDArray[np.int64]:
    """Slots tenth by tenth, in each from the largest activation on."""
    grouped: list[NDArray[Any]] = [
        rearrange(array, "unit (tenth slot) -> unit tenth slot", slot=per_tenth) for array in drawn[:4]
    ]
    _, value, document, place = grouped
    within = np.lexsort((place, document, -np.nan_to_num(value), document == NOWHERE), axis=2)
    return rearrange(within + per_tenth * np.arange(N_TENTHS)[:, None], "unit tenth slot -> unit (tenth slot)")


def _examples(slots: Slots, order: NDArray[np.int64]) -> Examples:
    missing = order == NOWHERE
    value, document, place = (
        np.where(missing, nothing, np.take_along_axis(array, order, 1))
        for array, nothing in ((slots.value, np.float32(np.nan)), (slots.document, NOWHERE), (slots.place, NOWHERE))
    )
    window = np.take_along_axis(slots.window, order[:, :, None], 1)
    window[missing] = np.nan
    return Examples(*map(torch.from_numpy, (value, document, place, window)))


def _top_tokens(
    sums: Float[Tensor, "token unit"], tokens: Int[Tensor, " token"], counts: Int[Tensor, " token"]
) -> tuple[Int[Tensor, "unit rank"], Float[Tensor, "unit rank"], Int[Tensor, "unit rank"]]:
    """Tokens by their mean activation, those with the smaller number first where they tie."""
    often = counts >= FEWEST_OCCURRENCES
    by_number = tokens[often].argsort()
    rows = often.nonzero()[:, 0][by_number]
    found: list[list[Tensor]] = [[], [], []]
    width = min(_TOP_TOKENS, len(rows))
    for start in range(0, sums.shape[1], _UNITS_AT_ONCE):
        means = sums[rows, start : start + _UNITS_AT_ONCE].T / counts[rows]
        order = means.argsort(dim=1, descending=True, stable=True)[:, :width]
        for kept, value in zip(found, (tokens[rows][order], means.gather(1, order), counts[rows][order]), strict=True):
            kept.append(value)
    return torch.cat(found[0]), torch.cat(found[1]), torch.cat(found[2])


def _partners(units: UnitAccumulator) -> tuple[Int[Tensor, "unit partner"], Float[Tensor, "unit partner"]]:
    n = len(units.sums.active)
    units.settle()
    if units.covariance is None or units.covariance.n < 2:
        return torch.zeros(n, 0, dtype=torch.long), torch.zeros(n, 0)
    correlation = units.covariance.correlation().fill_diagonal_(0)
    partners = correlation.abs().topk(min(_PARTNERS, n - 1), dim=1).indices
    return partners, correlation.gather(1, partners)


def _min_hashes(tokens: list[int]) -> NDArray[np.uint64]:
    """The smallest of 64 random hashes over the document's runs of tokens."""
    numbers = np.array(tokens, np.uint64)
    run = min(_RUN, len(numbers))
    with np.errstate(over="ignore"):
        hashes = np.zeros(len(numbers) - run + 1, np.uint64)
        for offset in range(run):
            hashes = hashes * np.uint64(1_000_003) + numbers[offset : offset + len(hashes)] + np.uint64(1)
        hashes = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (hashes[:, None] ^ _MIN_HASH_SALTS) * np.uint64(0x9E3779B97F4A7C15)
        return np.asarray((mixed ^ (mixed >> np.uint64(32))).min(axis=0))


_NO_SIGNATURES = np.zeros((0, _MIN_HASHES), np.uint64)
_MIN_HASH_SALTS = np.random.default_rng(0).integers(0, 2**64, _MIN_HASHES, dtype=np.uint64)
