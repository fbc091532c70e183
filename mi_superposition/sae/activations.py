"""A seeded stream of shuffled activations: batch number i is the same whenever and however often it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from mi_superposition.corpora import Given, TokenBatch, as_batches
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.models import check_hooks, read_hooks
from mi_superposition.models.protocol import HookedModel
from mi_superposition.parts import ForwardPart, SeedPart
from mi_superposition.sae.config import StreamPart
from mi_superposition.training import seeded_generator


@runtime_checkable
class ActivationSource(Protocol):
    """Where training batches come from: batch number i of each hook, the same whenever it is asked for."""

    hooks: tuple[str, ...]
    batch_size: int
    buffer_batches: int

    def batch(self, index: int) -> dict[str, Float[Tensor, "batch d"]]:
        """Batch number ``index`` of every hook, float32."""


class ActivationStream:
    """Activations ``[batch d]`` of hooks, token by token in random order.

    The tokens that count (no BOS, EOS or padding), over and over the corpus, are cut into buffers of ``batch_size *
    buffer_batches``; each is shuffled as a whole, by the seed and its number. So batch i depends on nothing but the
    request, memory is that of one buffer, and whoever resumes computes again the buffer it stopped in. Skipping tokens costs
    tokenizing them.

    Raises ``RequestError`` for batches that can be read only once, for a hook that is not there, and (when it finds out) for a
    corpus with fewer tokens than a buffer.
    """

    def __init__(
        self,
        model: HookedModel,
        batches: Given,
        hooks: Sequence[str],
        *,
        batch_size: int = StreamPart.batch_size,
        buffer_batches: int = StreamPart.buffer_batches,
        seed: int = SeedPart.seed,
        precision: str = ForwardPart.precision,
    ):
        batches = as_batches(model, batches)
        for name, value in (("batch_size", batch_size), ("buffer_batches", buffer_batches)):
            if value < 1:
                raise RequestError(f"{name} = {value}: must be at least 1")
        if not hooks:
            raise RequestError("hooks = []: name at least one")
        check_hooks(model, hooks)
        self.model, self.batches, self.hooks = model, batches, tuple(hooks)
        self.batch_size, self.buffer_batches, self.seed, self.precision = batch_size, buffer_batches, seed, precision
        self._buffer: dict[str, Tensor] = {}
        self._number = -1
        self._walk: Iterator[tuple[int, TokenBatch]] = iter(())
        self._over: tuple[int, dict[str, Tensor]] | None = None
        self._order = torch.zeros(0, dtype=torch.long)

    @property
    def buffer_tokens(self) -> int:
        """Tokens held at once."""
        return self.batch_size * self.buffer_batches

    def batch(self, index: int) -> dict[str, Float[Tensor, "batch d"]]:
        """Batch number ``index`` of every hook, float32, on the CPU.

        Raises ``WorkError`` for activations that hold a NaN or an infinity.
        """
        number, within = divmod(index, self.buffer_batches)
        if number != self._number:
            self._fill(number)
        chosen = self._order[within * self.batch_size : (within + 1) * self.batch_size]
        return {hook: buffer[chosen] for hook, buffer in self._buffer.items()}

    def _fill(self, number: int) -> None:
        first, last = number * self.buffer_tokens, (number + 1) * self.buffer_tokens
        if number != self._number + 1 or self._number < 0:
            self._walk, self._over = self._pieces(), None
        self._number = -1
        filled = 0
        while filled < self.buffer_tokens:
            if self._over is not None:
                start, found = self._over
            else:
                start, piece = next(self._walk)
                n = int(piece.mask.sum())
                if start + n <= first:
                    continue
                found = self._read(piece)
            for hook, values in found.items():
                room = self._buffer.get(hook)
                if room is None:
                    room = self._buffer[hook] = torch.empty(self.buffer_tokens, values.shape[1])
                wanted = values[max(first - start, 0) : last - start]
                room[filled : filled + len(wanted)] = wanted
            n = len(next(iter(found.values())))
            filled += min(last, start + n) - max(first, start)
            # What is left of it is the beginning of the next buffer.
            self._over = (start, found) if start + n > last else None
        self._order = torch.randperm(self.buffer_tokens, generator=seeded_generator(self.seed, "activations", number))
        self._number = number

    def _read(self, piece: TokenBatch) -> dict[str, Tensor]:
        found = read_hooks(self.model, piece.tokens, self.hooks, precision=self.precision)
        counted = {hook: values[piece.mask.to(values.device)].float().cpu() for hook, values in found.items()}
        for hook, values in counted.items():
            if not bool(values.isfinite().all()):
                raise WorkError(f"the activations at {hook!r} hold a NaN or an infinity")
        return counted

    def _pieces(self) -> Iterator[tuple[int, TokenBatch]]:
        """Pieces of the corpus, again and again, with how many tokens came before."""
        start = 0
        while True:
            before = start
            for batch in self.batches:
                for piece in batch.pieces(self.model.W_E.device):
                    n = int(piece.mask.sum())
                    if n:
                        yield start, piece
                    start += n
            if start - before < self.buffer_tokens:
                raise RequestError(
                    f"the corpus has {start - before:,} tokens, fewer than a buffer of {self.buffer_tokens:,} "
                    f"({self.buffer_batches:,} batches of {self.batch_size:,}): give a smaller one"
                )
