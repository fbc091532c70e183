"""The search for a certificate: boxes are divided, the most open first, for as long as there is time.

Every problem is in exactly one box of each answer digit, and every box has proven counts, so the search may stop at any moment. What a
box is found to hold depends on nothing but the box and the model; time decides only how many are divided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mi_superposition.addition.certificate.boxes import bound_boxes
from mi_superposition.addition.certificate.layout import Tables
from mi_superposition.engine import Engine, results_of

# Boxes divided at a time: as many as give work for a fraction of a second, more where very many are open.
_CHUNK, _CHUNK_SHARE = 512, 1 / 64
# Open boxes kept of an answer digit. The smallest beyond these are not divided any more; they stay open.
_MOST_OPEN = 3_000_000
# A digit whose last boxes gave nothing is tried again when what it has is so many times larger: bounds may need two divisions.
_LEAST_YIELD = 0.05
# Column sums of two digits.
N_SUMS = 19


@dataclass(frozen=True)
class Piece:
    """Boxes of one answer digit for a worker: digits ``[box, position]``, -1 where free, and the classes that may be largest."""

    query: int
    boxes: NDArray[np.int8]
    classes: NDArray[np.int64]


@dataclass(frozen=True)
class Bounds:
    """What a worker found of a piece: ``counts [box, (right, wrong)]``, and what ``boxes.bound_boxes`` says of each."""

    classes: NDArray[np.int64]
    position: NDArray[np.int8]
    counts: NDArray[np.float64]


def bound_piece(piece: Piece, tables: Sequence[Tables], threads: int = 1) -> Bounds:
    """The bounds of a piece's boxes, in ``threads`` threads; they do not depend on how many."""
    if threads > 1:
        # Every thread takes boxes of all kinds.
        parts = [slice(start, None, threads) for start in range(threads)]
        pieces = [Piece(piece.query, np.ascontiguousarray(piece.boxes[part]), piece.classes[part]) for part in parts]
        with ThreadPoolExecutor(threads) as pool:
            bounds = list(pool.map(partial(bound_piece, tables=tables), pieces))
        found = Bounds(*(np.empty((len(piece.boxes), *one.shape[1:]), one.dtype) for one in vars(bounds[0]).values()))
        for part, one in zip(parts, bounds, strict=True):
            found.classes[part], found.position[part], found.counts[part] = one.classes, one.position, one.counts
        return found
    n = len(piece.boxes)
    found = Bounds(piece.classes.copy(), np.full(n, -1, np.int8), np.zeros((n, 2)))
    bound_boxes(piece.boxes, found.classes, piece.query, tables[piece.query], found.counts, found.position)
    return found


@dataclass
class _Boxes:
    """Boxes with what is known of them, side by side."""

    boxes: NDArray[np.int8]
    classes: NDArray[np.int64]
    position: NDArray[np.int8]
    counts: NDArray[np.float64]

    def __getitem__(self, which: Any) -> _Boxes:
        return _Boxes(self.boxes[which], self.classes[which], self.position[which], self.counts[which])

    def sizes(self) -> NDArray[np.float64]:
        """Problems in each."""
        return 10.0 ** (self.boxes < 0).sum(axis=1)

    def gaps(self) -> NDArray[np.float64]:
        """Problems of each that are neither proven right nor proven wrong."""
        return self.sizes() - self.counts.sum(axis=1)

    @classmethod
    def joined(cls, parts: Sequence[_Boxes]) -> _Boxes:
        """All of them."""
        return cls(*(np.concatenate([getattr(part, name.name) for part in parts]) for name in fields(cls)))


class DigitSearch:
    """The boxes of one answer digit: settled ones as counts by column sums, open ones as they are.

    ``settled [own column's sum, sum of the column below, (right, wrong)]``; without a column below all stand in its first place.
    """

    def __init__(self, query: int, n_digits: int):
        self.query, self.n_digits = query, n_digits
        self.n_boxes = 0
        self.settled = np.zeros((N_SUMS, N_SUMS, 2))
        none = np.zeros(0, np.int64)
        self._open = _Boxes(np.zeros((0, 2 * n_digits), np.int8), none, none.astype(np.int8), np.zeros((0, 2)))
        # Being divided at this moment, in the order in which they were taken.
        self._taken: list[_Boxes] = []
        # What share of the open problems of divided boxes was proven by dividing them, lately.
        self._yield = 1.0
        self._look()

    @property
    def columns(self) -> list[int]:
        """The columns that all boxes fix: the digit's own (of the last digit, the one below) and the next below."""
        top = min(self.query, self.n_digits - 1)
        return [column for column in (top, top - 1) if column >= 0]

    def first_piece(self, n_classes: int) -> Piece:
        """The boxes that the search starts from."""
        positions = [p for column in self.columns for p in (column, column + self.n_digits)]
        digits = np.indices((10,) * len(positions), dtype=np.int8).reshape(len(positions), -1).T
        boxes = np.full((len(digits), 2 * self.n_digits), -1, np.int8)
        boxes[:, positions] = digits
        return Piece(self.query, boxes, np.full(len(boxes), 2**n_classes - 1, np.int64))

    def take(self) -> Piece | None:
        """The most open boxes, divided by the digit at each one's next position; ``None`` where none is left to divide."""
        size = len(self._next)
        if size == 0:
            return None
        taken = self._open[self._next]
        left = np.ones(len(self._open.boxes), bool)
        left[self._next] = False
        self._open = self._open[left]
        self._taken.append(taken)
        self._look()
        boxes = np.repeat(taken.boxes, 10, axis=0)
        boxes[np.arange(len(boxes)), np.repeat(taken.position, 10)] = np.tile(np.arange(10, dtype=np.int8), size)
        return Piece(self.query, boxes, np.repeat(taken.classes, 10))

    def add(self, piece: Piece, bounds: Bounds) -> None:
        """Take in the bounds of new boxes, in place of those that were divided into them."""
        new = _Boxes(piece.boxes, bounds.classes, bounds.position, bounds.counts)
        if self.n_boxes:
            before = self._taken.pop(0).gaps().sum()
            self._yield = 0.5 * self._yield + 0.5 * max(_LEAST_YIELD, 1 - new.gaps().sum() / before)
        self.n_boxes += len(piece.boxes)
        done = (new.gaps() <= 0) | (new.position < 0)
        self._count_in(self.settled, new[done])
        self._open = _Boxes.joined([self._open, new[~done]])
        if len(self._open.boxes) > _MOST_OPEN:
            order = np.argsort(-self._open.gaps(), kind="stable")
            kept, rest = np.sort(order[: _MOST_OPEN * 3 // 4]), order[_MOST_OPEN * 3 // 4 :]
            self._count_in(self.settled, self._open[rest])
            self._open = self._open[kept]
        self._look()

    def cells(self) -> NDArray[np.float64]:
        """Problems proven right and proven wrong by column sums, as ``settled``, of all boxes."""
        cells = self.settled.copy()
        for some in (self._open, *self._taken):
            self._count_in(cells, some)
        return cells

    def proven(self) -> tuple[float, float]:
        """Shares of all problems that are proven right and proven wrong."""
        counts = self.settled.sum(axis=(0, 1))
        for some in (self._open, *self._taken):
            counts = counts + some.counts.sum(axis=0)
        right, wrong = (counts / 10.0 ** (2 * self.n_digits)).tolist()
        return right, wrong

    def state(self) -> dict[str, Any]:
        """What goes on exactly, as tensors; what is being divided is open again."""
        all_open = _Boxes.joined([self._open, *self._taken])
        arrays = {one.name: torch.from_numpy(getattr(all_open, one.name)) for one in fields(all_open)}
        return {"n_boxes": self.n_boxes, "yield": self._yield, "settled": torch.from_numpy(self.settled), **arrays}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of ``state``."""
        self.n_boxes, self._yield, self.settled = state["n_boxes"], state["yield"], state["settled"].numpy()
        self._open = _Boxes(*(state[one.name].numpy() for one in fields(_Boxes)))
        self._taken = []
        self._look()

    def _look(self) -> None:
        """Find the most open boxes, those to divide next, and what dividing them promises, in problems proven for every box."""
        gaps = self._open.gaps()
        self.open_problems = float(gaps.sum())
        size = min(len(gaps), max(_CHUNK, int(len(gaps) * _CHUNK_SHARE)))
        self._next = np.argpartition(-gaps, size - 1)[:size] if size else np.zeros(0, np.int64)
        self.promise = self._yield * float(gaps[self._next].sum()) / size if size else 0.0

    def _count_in(self, cells: NDArray[np.float64], some: _Boxes) -> None:
        if len(some.boxes):
            sums = [
                some.boxes[:, column].astype(np.int64) + some.boxes[:, column + self.n_digits]
                for column in self.columns
            ]
            below = sums[1] if len(sums) > 1 else np.zeros_like(sums[0])
            np.add.at(cells, (sums[0], below), some.counts)


class CertificateSearch:
    """The searches of all answer digits of one model."""

    def __init__(self, tables: Sequence[Tables]):
        self.tables = list(tables)
        n_digits = tables[0].weight.shape[0] // 2
        self.digits = [DigitSearch(query, n_digits) for query in range(n_digits + 1)]

    @property
    def n_boxes(self) -> int:
        """Boxes bounded so far."""
        return sum(digit.n_boxes for digit in self.digits)

    def run(
        self,
        go_on: Callable[[], bool],
        *,
        threads: int = 1,
        engine: Engine = "local",
        ray_address: str | None = None,
    ) -> Iterator[int]:
        """Divide boxes while ``go_on()``; yields the number of new boxes after each piece. Always bounds the first boxes of all digits."""
        work = partial(bound_piece, tables=self.tables, threads=threads)
        drawn: list[Piece] = []
        for bounds in results_of(work, self._pieces(go_on, drawn), engine=engine, address=ray_address, cpus=threads):
            piece = drawn.pop(0)
            self.digits[piece.query].add(piece, bounds)
            yield len(piece.boxes)

    def _pieces(self, go_on: Callable[[], bool], drawn: list[Piece]) -> Iterator[Piece]:
        for digit, tables in zip(self.digits, self.tables, strict=True):
            if digit.n_boxes == 0:
                piece = digit.first_piece(len(tables.base))
                drawn.append(piece)
                yield piece
        # Where workers are many, the last pieces come back while there is nothing to draw: one more round takes up what they leave.
        while go_on():
            following = max(self.digits, key=lambda digit: digit.promise).take()
            if following is None:
                return
            drawn.append(following)
            yield following

    def state(self) -> list[dict[str, Any]]:
        """What goes on exactly."""
        return [digit.state() for digit in self.digits]

    def load_state(self, state: list[dict[str, Any]]) -> None:
        """Inverse of ``state``."""
        for digit, saved in zip(self.digits, state, strict=True):
            digit.load_state(saved)
