"""Sums and examples of the units of one hook. ``merge`` of two equals one pass over both."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mi_superposition.errors import RequestError, WorkError
from mi_superposition.neurons.config import N_INTERVALS, ScanSettings
from mi_superposition.neurons.scan.calibration import Calibration
from mi_superposition.neurons.scan.hashing import salts
from mi_superposition.neurons.scan.kernel import NOWHERE, Batch, Bins, Slots, Sums, merge_slots, scan_units
from mi_superposition.streaming import CovarianceAccumulator

# A matrix of all their pairs in float64 is 2 GB at this many.
_LIMIT_CORRELATED = 16_384
_CORRELATED_AT_ONCE = 2048


class UnitAccumulator:
    """Sums and examples of the units of one hook."""

    def __init__(self, hook: str, calibration: Calibration, settings: ScanSettings):
        n, d_vector = len(calibration.low), len(calibration.representation)
        if settings.correlation_share and n > _LIMIT_CORRELATED:
            raise RequestError(
                f"{hook!r} has {n:,} units: correlations are computed for at most {_LIMIT_CORRELATED:,}; set correlation_share = 0"
            )
        self.settings = settings
        self.bins = Bins(
            calibration.low.numpy(),
            calibration.high.numpy(),
            calibration.mean.numpy(),
            salts(settings.random.seed, hook, n),
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
            for groups, size in ((1, best), (1, best), (N_INTERVALS, settings.per_tenth))
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
        """Take up the tokens of the batch that are drawn for correlations."""
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
        """Add what another one has seen; ``rows`` gives the rows of its tokens in this one's table."""
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


def _empty_slots(n: int, groups: int, size: int, width: int, d_vector: int) -> Slots:
    slots = groups * size
    return Slots(
        rank=np.full((n, slots), -np.inf),
        value=np.full((n, slots), np.nan, np.float32),
        document=np.full((n, slots), NOWHERE),
        position=np.full((n, slots), NOWHERE),
        content=np.zeros((n, slots), np.int64),
        floor=np.full((n, groups), -np.inf),
        window=np.full((n, slots, width), np.nan, np.float32),
        vector=np.zeros((n, slots, d_vector), np.float32),
    )
