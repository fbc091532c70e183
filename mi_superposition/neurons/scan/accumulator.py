"""Everything a scan remembers of the activations it has seen. ``merge`` of two equals one pass over both."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mi_superposition.corpora import TokenBatch
from mi_superposition.errors import RequestError
from mi_superposition.neurons.config import ScanSettings
from mi_superposition.neurons.scan.calibration import Calibration
from mi_superposition.neurons.scan.hashing import mixed
from mi_superposition.neurons.scan.kernel import Batch
from mi_superposition.neurons.scan.reader import Readings
from mi_superposition.neurons.scan.units import UnitAccumulator


class ScanAccumulator:
    """What a scan has seen so far, at all its hooks."""

    def __init__(self, calibrations: dict[str, Calibration], settings: ScanSettings):
        self.calibrations, self.settings = calibrations, settings
        self.hooks = {hook: UnitAccumulator(hook, calibration, settings) for hook, calibration in calibrations.items()}
        self.tokens: list[int] = []
        self.counts = np.zeros(0, np.int64)
        self.n_documents = 0
        self._row: dict[int, int] = {}

    @property
    def n_tokens(self) -> int:
        """Tokens that counted."""
        return int(self.counts.sum())

    def update(self, read: Sequence[tuple[TokenBatch, Readings]]) -> None:
        """Add batches: the activations of every hook, and the model's representation of each token.

        Raises ``WorkError`` for a NaN or an infinity.
        """
        work: list[tuple[UnitAccumulator, NDArray[np.float32], NDArray[np.float32], Batch]] = []
        for batch, readings in read:
            prepared = self._prepare(batch)
            if len(prepared.at):
                work += [
                    (self.hooks[hook], activations.flatten(0, 1).numpy(), vectors.flatten(0, 1).numpy(), prepared)
                    for hook, (activations, vectors) in readings.items()
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
        document, position, token = (
            tensor.flatten().numpy()[at] for tensor in (batch.document, batch.place, batch.tokens)
        )
        different, which, counts = np.unique(token, return_inverse=True, return_counts=True)
        rows = self._rows(different)
        self.counts[rows] += counts
        line = at // batch.tokens.shape[1]
        starts = np.ones(len(at), bool)
        # A span ends with its sequence, with its document, and where a token does not count.
        starts[1:] = (np.diff(line) != 0) | (np.diff(document) != 0) | (np.diff(at) != 1)
        span_start = np.flatnonzero(starts)
        span_document = document[span_start]
        # Of a document too whose first token does not count.
        self.n_documents += int((batch.place == 0).sum())
        return Batch(
            at=at,
            position=position,
            token=rows[which],
            number=mixed(mixed(document.astype(np.uint64)) + position.astype(np.uint64)),
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
            hook: [getattr(calibration, field.name).numpy().tobytes() for field in fields(calibration)]
            for hook, calibration in self.calibrations.items()
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


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay, one pool for each number of them."""
    return ThreadPoolExecutor(threads, thread_name_prefix="scan")
