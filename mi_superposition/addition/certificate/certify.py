"""A certificate of an addition model: bounds that hold over all problems, better the longer it may search."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformer_lens import HookedTransformer

from mi_superposition.addition.ablation import digits_of
from mi_superposition.addition.certificate.layout import Tables
from mi_superposition.addition.certificate.result import Certificate, Curve, Sampled
from mi_superposition.addition.certificate.search import CertificateSearch, Piece, bound_piece
from mi_superposition.addition.certificate.tables import certificate_tables, table_logits
from mi_superposition.addition.problems import answer_digits, n_problems
from mi_superposition.addition.train import answer_logits, load_addition_model
from mi_superposition.engine import Engine
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.training import seeded_generator

# Problems drawn at random are answered so many at a time.
_AT_A_TIME = 8192
# The bounds are noted when so many times as many boxes are bounded.
_NOTED_EVERY = 1.25
# Logits in float32 are off by so much of the largest number that they are made of, at most; a table that is off by more is another model's.
_FLOAT32 = 1e-3


def certify_addition(
    model: HookedTransformer | str | Path,
    *,
    seconds: float = 60.0,
    boxes: int | None = None,
    without_heads: Sequence[int] = (),
    n_sampled: int = 100_000,
    seed: int = 0,
    threads: int = 2,
) -> Certificate:
    """Bounds, proven, on the share of all problems whose answer digits a model gets right.

    ``model``: an addition model, its name or its folder. The search ends after ``seconds``, or after ``boxes`` boxes, which gives the same result
    everywhere. ``without_heads``: heads whose output is set to zero. ``n_sampled`` problems are drawn and answered by the model itself; accuracies
    on these stand beside the bounds. Raises ``RequestError`` for a model that is no table. The proof is in docs/certificate.md.
    """
    name = model if isinstance(model, str | Path) else "model"
    found = model if isinstance(model, HookedTransformer) else load_addition_model(model)
    work = CertificateWork(found, without_heads)
    work.search_for(seconds, boxes, threads=threads)
    return work.certificate(str(name), n_sampled, seed)


class CertificateWork:
    """A certificate in the making: may be stopped, kept, and gone on with."""

    def __init__(self, model: HookedTransformer, without_heads: Sequence[int] = ()):
        self.model, self.n_digits = model, digits_of(model)
        n_heads = model.cfg.n_heads
        for head in without_heads:
            if not 0 <= head < n_heads:
                raise RequestError(f"without_heads = {head}: the model has heads 0 to {n_heads - 1}")
        self.without_heads = sorted(set(without_heads))
        kept = [head for head in range(n_heads) if head not in self.without_heads]
        self.tables: list[Tables] = certificate_tables(model, self.n_digits, kept)
        self.search = CertificateSearch(self.tables)
        self.seconds = 0.0
        # Seconds, boxes, then the shares proven right and proven wrong.
        self.curve: list[tuple[float, int, list[float], list[float]]] = []

    def search_for(
        self,
        seconds: float,
        boxes: int | None = None,
        *,
        threads: int = 1,
        engine: Engine = "local",
        ray_address: str | None = None,
        on_piece: Callable[[int], None] = lambda boxes: None,
    ) -> None:
        """Search until ``seconds`` have gone by in all, or so many ``boxes`` are bounded. ``on_piece`` is told of every few boxes; it may raise to stop."""
        _compile(self.tables)
        began = time.monotonic() - self.seconds

        def go_on() -> bool:
            return time.monotonic() - began < seconds and (boxes is None or self.search.n_boxes < boxes)

        for new in self.search.run(go_on, threads=threads, engine=engine, ray_address=ray_address):
            self.seconds = time.monotonic() - began
            if not self.curve or self.search.n_boxes > _NOTED_EVERY * self.curve[-1][1]:
                self._note(timed=boxes is None)
            on_piece(new)
        self._note(timed=boxes is None)

    def certificate(self, name: str, n_sampled: int, seed: int) -> Certificate:
        """What is proven by now, beside the model on problems drawn at random.

        Raises ``WorkError`` where these contradict the bounds: then something is wrong with this program, or with the machine.
        """
        proven = torch.tensor([digit.proven() for digit in self.search.digits], dtype=torch.float64)
        seconds, boxes, right, wrong = zip(*self.curve, strict=True)
        found = Certificate(
            model=name,
            n_digits=self.n_digits,
            without_heads=self.without_heads,
            right=proven[:, 0],
            wrong=proven[:, 1],
            cells=torch.from_numpy(np.stack([digit.cells() for digit in self.search.digits]))
            / n_problems(self.n_digits),
            boxes=torch.tensor([digit.n_boxes for digit in self.search.digits]),
            curve=Curve(
                seconds=torch.tensor(seconds, dtype=torch.float64),
                boxes=torch.tensor(boxes),
                right=torch.tensor(right, dtype=torch.float64),
                wrong=torch.tensor(wrong, dtype=torch.float64),
            ),
            sampled=self._sampled(n_sampled, seed),
        )
        if not found.holds:
            raise WorkError(
                f"sampled accuracies {found.sampled.by_digit.tolist()} are outside the bounds {found.lower.tolist()} to "
                f"{found.upper.tolist()}: the certificate is wrong"
            )
        return found

    def state(self) -> dict[str, Any]:
        """What goes on exactly."""
        return {"seconds": self.seconds, "curve": self.curve, "search": self.search.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of ``state``."""
        self.seconds, self.curve = state["seconds"], [tuple(row) for row in state["curve"]]
        self.search.load_state(state["search"])

    def _note(self, *, timed: bool) -> None:
        # What is to be the same on every machine has no times.
        seconds = self.seconds if timed else math.nan
        proven = [digit.proven() for digit in self.search.digits]
        row = (seconds, self.search.n_boxes, [right for right, _ in proven], [wrong for _, wrong in proven])
        self.curve.append(row)

    @torch.no_grad()
    def _sampled(self, n_sampled: int, seed: int) -> Sampled:
        generator = seeded_generator(seed, "certificate")
        right, whole, other = torch.zeros(self.n_digits + 1, dtype=torch.float64), 0, 0
        scale = max(float(np.abs(one.base).max() + one.largest.sum()) for one in self.tables)
        silenced = copy.deepcopy(self.model)
        silenced.blocks[0].attn.W_O[self.without_heads] = 0.0
        for start in range(0, n_sampled, _AT_A_TIME):
            # From all problems, those that models are trained on included.
            operands = torch.randint(10, (min(_AT_A_TIME, n_sampled - start), 2 * self.n_digits), generator=generator)
            exact = torch.stack([torch.from_numpy(table_logits(operands, one)) for one in self.tables], dim=1)
            logits = answer_logits(silenced, operands).double()
            known = exact.isfinite().all(dim=-1)
            if float(((logits - exact).abs() * known[..., None]).nan_to_num().max()) > _FLOAT32 * scale:
                raise RequestError("the model's logits are not those of its table: it is of another form")
            answer = logits.argmax(dim=-1)
            other += int(((answer != exact.argmax(dim=-1)) & known).any(dim=1).sum())
            hits = answer == answer_digits(operands)
            right += hits.double().sum(dim=0)
            whole += int(hits.all(dim=1).sum())
        return Sampled(n_sampled, right / n_sampled, whole / n_sampled, other)


def _compile(tables: Sequence[Tables]) -> None:
    """Have numba compile what the search runs, or read it from its cache: the time to search begins afterwards."""
    bound_piece(Piece(0, np.zeros((0, tables[0].weight.shape[0]), np.int8), np.zeros(0, np.int64)), tables)
