"""Everything a scan remembers of the activations it has seen. ``merge`` of two equals one pass over both."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from mi_superposition.corpora import TokenBatch
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.neurons.scan.kernel import (
    N_TENTHS,
    NOWHERE,
    Batch,
    Bins,
    Slots,
    Sums,
    merge_slots,
    scan_units,
)
from mi_superposition.neurons.scan.reader import Found
from mi_superposition.streaming import CovarianceAccumulator

# A matrix of all their pairs in float64 is 2 GB at this many.
_MOST_CORRELATED = 16_384
_CORRELATED_AT_ONCE = 2048


@dataclass(frozen=True)
class ScanSettings:
    """What is kept of each unit. Two scans can be merged when they agree in all of it.

    ``spare`` examples are kept beside the best ``top_k``, to take the place of near-duplicates. ``reach``: tokens before
    and after an example whose activations are kept. ``correlation_share``: share of the tokens, drawn at random, from
    which correlations between units are computed; 0 for none. ``active_above``: a unit is active above this activation.
    """

    top_k: int = 20
    spare: int = 10
    per_tenth: int = 4
    reach: int = 32
    n_bins: int = 40
    active_above: float = 0.0
    correlation_share: float = 1 / 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("top_k", 1), ("spare", 0), ("per_tenth", 1), ("reach", 0)):
            if getattr(self, name) < least:
                raise RequestError(f"{name} = {getattr(self, name)}: must be at least {least}")
        if self.n_bins < N_TENTHS or self.n_bins % N_TENTHS:
            raise RequestError(f"n_bins = {self.n_bins}: must be a multiple of {N_TENTHS}")
        if not 0 <= self.correlation_share <= 1:
            raise RequestError(f"correlation_share = {self.correlation_share}: must be 0 to 1")


@dataclass(frozen=True)
class Calibration:
    """What a first sample says of a hook: the range of each unit's activations, their mean, and the mean representation.

    The bins of the histogram and the tenths divide ``low`` to ``high``; what lies outside goes into bins of its own, and
    into the outermost tenths.
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
        """What was found. Raises ``RequestError`` when nothing was."""
        if not self.n:
            raise RequestError("the first sample holds no token that counts: there is nothing to scan")
        width = self.high - self.low
        # A unit that hardly moved in the sample gets the widest range of the others; bins need some width in float32.
        least = 1e-4 * torch.maximum(self.low.abs(), self.high.abs()).clamp_min(1e-20)
        widest = torch.maximum(least, torch.full_like(width, float(width.max()) or 1.0))
        high = torch.where(width > least, self.high, self.low + widest)
        return Calibration(self.low, high, (self.total / self.n).float(), (self.representation / self.n).float())


class UnitAccumulator:
    """Sums and examples of the units of one hook."""

    def __init__(self, hook: str, calibration: Calibration, settings: ScanSettings):
        n, d_vector = len(calibration.low), len(calibration.representation)
        if settings.correlation_share and n > _MOST_CORRELATED:
            raise RequestError(
                f"{hook!r} has {n:,} units: correlations are for {_MOST_CORRELATED:,} at most; set correlation_share = 0"
            )
        self.settings = settings
        self.bins = Bins(
            calibration.low.numpy(), calibration.high.numpy(), calibration.mean.numpy(), _salts(settings.seed, hook, n)
        )
        self.sums = Sums(
            powers=np.zeros((3, n)),
            active=np.zeros(n, np.int64),
            extremes=np.tile(np.array([np.inf, -np.inf], np.float32), (n, 1)),
            histogram=np.zeros((n, settings.n_bins + 2), np.int64),
            by_token=np.zeros((0, n), np.float32),
        )
        best = settings.top_k + settings.spare
        self.top, self.bottom, self.drawn = (
            _empty_slots(n, groups, size, 2 * settings.reach + 1, d_vector)
            for groups, size in ((1, best), (1, best), (N_TENTHS, settings.per_tenth))
        )
        self.covariance = CovarianceAccumulator(n) if settings.correlation_share else None
        # Tokens drawn for correlations wait until there are many: taking them up is a product of matrices.
        self._waiting: list[Tensor] = []

    def scan(
        self, part: int, n_parts: int, activations: NDArray[np.float32], vectors: NDArray[np.float32], batch: Batch
    ) -> None:
        """Take up a batch for one part of the units: parts may be scanned by different threads."""
        first, last = (len(self.sums.active) * edge // n_parts for edge in (part, part + 1))
        scan_units(
            activations, vectors, first, last, self.settings.active_above,
            batch, self.bins, self.sums, self.top, self.bottom, self.drawn,
        )  # fmt: skip

    def check_finite(self) -> None:
        """Raise ``WorkError`` when a NaN or an infinity was taken up."""
        if not np.isfinite(self.sums.powers).all():
            bad = int(np.flatnonzero(~np.isfinite(self.sums.powers).all(axis=0))[0])
            raise WorkError(f"the activations of unit {bad} hold a NaN or an infinity")

    def correlate(self, activations: NDArray[np.float32], batch: Batch) -> None:
        """Take up the share of the batch that correlations are made of."""
        if self.covariance is not None:
            share = np.uint64(min(int(self.settings.correlation_share * 2**64), 2**64 - 1))
            self._waiting.append(torch.from_numpy(activations[batch.at[batch.number <= share]]))
            if sum(map(len, self._waiting)) >= _CORRELATED_AT_ONCE:
                self.settle()

    def settle(self) -> None:
        """Take up the tokens that wait."""
        if self.covariance is not None and self._waiting:
            self.covariance.update(torch.cat(self._waiting))
        self._waiting = []

    def make_room(self, n_tokens: int) -> None:
        """Room for the sums of so many different tokens."""
        room = len(self.sums.by_token)
        if n_tokens > room:
            more = np.zeros((max(n_tokens, 2 * room) - room, len(self.sums.active)), np.float32)
            self.sums = self.sums._replace(by_token=np.concatenate((self.sums.by_token, more)))

    def merge(self, other: UnitAccumulator, rows: NDArray[np.int64]) -> None:
        """Add what another one has seen; ``rows`` says where its tokens stand in this one's table."""
        mine, theirs = self.sums, other.sums
        for name in ("powers", "active", "histogram"):
            getattr(mine, name).__iadd__(getattr(theirs, name))
        np.minimum(mine.extremes[:, 0], theirs.extremes[:, 0], out=mine.extremes[:, 0])
        np.maximum(mine.extremes[:, 1], theirs.extremes[:, 1], out=mine.extremes[:, 1])
        mine.by_token[rows] += theirs.by_token[: len(rows)]
        merge_slots(self.top, other.top, True)
        merge_slots(self.bottom, other.bottom, True)
        merge_slots(self.drawn, other.drawn, False)
        if self.covariance is not None and other.covariance is not None:
            self.settle()
            other.settle()
            self.covariance = CovarianceAccumulator.merge(self.covariance, other.covariance)

    def state(self, n_tokens: int) -> dict[str, Tensor]:
        """Everything seen, as tensors."""
        sums = self.sums._replace(by_token=self.sums.by_token[:n_tokens])
        parts: dict[str, Any] = {"sums": sums, "top": self.top, "bottom": self.bottom, "drawn": self.drawn}
        state = {
            f"{part}.{name}": torch.from_numpy(np.ascontiguousarray(array))
            for part, arrays in parts.items()
            for name, array in arrays._asdict().items()
        }
        if self.covariance is not None:
            self.settle()
            state |= {
                "covariance.n": torch.tensor(self.covariance.n),
                "covariance.mean": self.covariance.mean,
                "covariance.products": self.covariance.products,
            }
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go back to a state of ``state()``."""

        def arrays(part: str, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
            return {name: state[f"{part}.{name}"].numpy() for name in names}

        self.sums = Sums(**arrays("sums", Sums._fields))
        self.top, self.bottom, self.drawn = (
            Slots(**arrays(part, Slots._fields)) for part in ("top", "bottom", "drawn")
        )
        if self.covariance is not None:
            self.covariance.n = int(state["covariance.n"])
            self.covariance.mean, self.covariance.products = state["covariance.mean"], state["covariance.products"]


class ScanAccumulator:
    """What a scan has seen so far, at all its hooks."""

    def __init__(self, calibrations: dict[str, Calibration], settings: ScanSettings):
        self.calibrations, self.settings = calibrations, settings
        self.hooks = {hook: UnitAccumulator(hook, found, settings) for hook, found in calibrations.items()}
        self.tokens: list[int] = []
        self.counts = np.zeros(0, np.int64)
        self.n_documents = 0
        self._row: dict[int, int] = {}

    @property
    def n_tokens(self) -> int:
        """Tokens that counted."""
        return int(self.counts.sum())

    def update(self, read: Sequence[tuple[TokenBatch, Found]]) -> None:
        """Add batches: the activations of every hook, and where the model was at each token.

        Raises ``WorkError`` for a NaN or an infinity.
        """
        work: list[tuple[UnitAccumulator, NDArray[np.float32], NDArray[np.float32], Batch]] = []
        for batch, found in read:
            prepared = self._prepare(batch)
            if len(prepared.at):
                work += [
                    (self.hooks[hook], activations.flatten(0, 1).numpy(), vectors.flatten(0, 1).numpy(), prepared)
                    for hook, (activations, vectors) in found.items()
                ]
        for units in self.hooks.values():
            units.make_room(len(self.tokens))
        n_parts = torch.get_num_threads()

        def scan(part: int) -> None:
            for units, activations, vectors, prepared in work:
                units.scan(part, n_parts, activations, vectors, prepared)

        list(_pool(n_parts).map(scan, range(n_parts)))
        for units in self.hooks.values():
            units.check_finite()
        for units, activations, _, prepared in work:
            units.correlate(activations, prepared)

    def _prepare(self, batch: TokenBatch) -> Batch:
        mask = batch.mask.flatten().numpy()
        at = np.flatnonzero(mask)
        document, place, token = (
            tensor.flatten().numpy()[at] for tensor in (batch.document, batch.place, batch.tokens)
        )
        different, which, counts = np.unique(token, return_inverse=True, return_counts=True)
        rows = self._rows(different)
        self.counts[rows] += counts
        line = at // batch.tokens.shape[1]
        starts = np.ones(len(at), bool)
        # A span ends with its row, with its document, and where a token does not count.
        starts[1:] = (np.diff(line) != 0) | (np.diff(document) != 0) | (np.diff(at) != 1)
        span_start = np.flatnonzero(starts)
        span_document = document[span_start]
        self.n_documents += int((place == 0).sum())
        return Batch(
            at=at,
            place=place,
            token=rows[which],
            number=_mixed(_mixed(document.astype(np.uint64)) + place.astype(np.uint64)),
            span_start=span_start,
            span_end=np.append(span_start[1:], len(at)),
            span_document=span_document,
            span_content=np.array([batch.content.get(int(d), int(d)) for d in span_document], np.int64),
        )

    def _rows(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """The table's rows of tokens, new ones given to those not seen before."""
        for token in tokens.tolist():
            if token not in self._row:
                self._row[token] = len(self.tokens)
                self.tokens.append(token)
        if len(self.tokens) > len(self.counts):
            self.counts = np.append(self.counts, np.zeros(len(self.tokens) - len(self.counts), np.int64))
        return np.array([self._row[token] for token in tokens.tolist()], np.int64)

    def merge(self, other: ScanAccumulator) -> None:
        """Add what another scan with the same calibration has seen; its documents must all be others.

        Raises ``RequestError`` when settings or calibration differ.
        """
        if self.settings != other.settings or self._ranges() != other._ranges():
            raise RequestError("two scans can be merged only with the same settings and the same calibration")
        rows = self._rows(np.array(other.tokens, np.int64))
        self.counts[rows] += other.counts
        self.n_documents += other.n_documents
        for hook, units in self.hooks.items():
            units.make_room(len(self.tokens))
            units.merge(other.hooks[hook], rows)

    def _ranges(self) -> dict[str, list[bytes]]:
        return {
            hook: [getattr(found, field.name).numpy().tobytes() for field in fields(found)]
            for hook, found in self.calibrations.items()
        }

    def state(self) -> dict[str, Tensor]:
        """Everything seen, as tensors."""
        state = {
            "tokens": torch.tensor(self.tokens, dtype=torch.long),
            "counts": torch.from_numpy(self.counts),
            "n_documents": torch.tensor(self.n_documents),
        }
        for hook, units in self.hooks.items():
            state |= {f"{hook}/{name}": value for name, value in units.state(len(self.tokens)).items()}
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go back to a state of ``state()``."""
        self.tokens = state["tokens"].tolist()
        self.counts = state["counts"].numpy()
        self.n_documents = int(state["n_documents"])
        self._row = {token: row for row, token in enumerate(self.tokens)}
        for hook, units in self.hooks.items():
            prefix = f"{hook}/"
            units.load_state(
                {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            )


def _empty_slots(n: int, groups: int, size: int, width: int, d_vector: int) -> Slots:
    slots = groups * size
    return Slots(
        rank=np.full((n, slots), -np.inf),
        value=np.full((n, slots), np.nan, np.float32),
        document=np.full((n, slots), NOWHERE),
        place=np.full((n, slots), NOWHERE),
        content=np.zeros((n, slots), np.int64),
        floor=np.full((n, groups), -np.inf),
        window=np.full((n, slots, width), np.nan, np.float32),
        vector=np.zeros((n, slots, d_vector), np.float32),
    )


def _salts(seed: int, hook: str, n: int) -> NDArray[np.uint64]:
    """A random number for each unit of a hook."""
    start = np.frombuffer(hashlib.sha256(f"{seed}|{hook}".encode()).digest()[:8], np.uint64)[0]
    with np.errstate(over="ignore"):
        return _mixed(start + np.arange(n, dtype=np.uint64))


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """64 random-looking bits for each number. Source: Steele, Lea & Flood 2014, SplitMix64."""
    with np.errstate(over="ignore"):
        mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay, one pool for each number of them."""
    return ThreadPoolExecutor(threads, thread_name_prefix="scan")
