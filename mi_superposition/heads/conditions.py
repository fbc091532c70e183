"""Sets of heads ablated in a model of any number of layers, many at a time: from the first layer that a set changes, in pieces that stay in a
CPU's cache, and with logits only where they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mi_superposition.corpora.batches import CPU_TOKENS
from mi_superposition.errors import RequestError
from mi_superposition.heads.prediction import Unembedding, agree, picking
from mi_superposition.models.protocol import HookedModel

Reduction = Callable[[Tensor, Tensor], Tensor]


class AblatedPiece(NamedTuple):
    """Logits (nats) of some conditions on some examples, at the positions needed, one example's after the other's."""

    conditions: Int[Tensor, " condition"]
    examples: slice
    logits: Float[Tensor, "condition token d_vocab"]


class Conditions:
    """Sets of kept heads, and what stands in for the others.

    ``keep`` is [condition, layer, head] over ``layers``, for each of which ``replacements`` has what stands in for ``hook_z``, of each example or
    of all: [donor, pos, head, d_head]. ``memory_budget``: about so many bytes of activations are alive at once, but for one condition on one
    example. A model that is no ``HookedTransformer``, or found to give something else when it begins at a layer, is run from its first.
    """

    def __init__(
        self,
        model: HookedModel,
        tokens: Int[Tensor, "batch pos"],
        keep: Bool[Tensor, "condition layer head"],
        layers: Sequence[int],
        replacements: Sequence[Float[Tensor, "donor pos head d_head"]],
        memory_budget: int,
    ):
        self.model, self.tokens, self.keep, self.layers = model, tokens, keep, list(layers)
        self.replacements, self.memory_budget = replacements, memory_budget
        self.causal = getattr(model.cfg, "attention_dir", "causal") == "causal"

    def pieces(self, needed: Bool[Tensor, "batch pos"], *, together: bool = False) -> Iterator[AblatedPiece]:
        """Logits at the positions needed, every condition once for every example; ``together``: all examples at once."""
        fast = self._can_begin_at_a_layer(needed)
        # The first layer that a condition changes; one past the last where it changes none.
        changes = ~self.keep.all(dim=2)
        begins = torch.tensor([*self.layers, self.model.cfg.n_layers])[
            torch.where(changes.any(dim=1), changes.int().argmax(dim=1), len(self.layers)).cpu()
        ]
        for examples in self._examples(needed, together=together):
            there = needed[examples]
            if not there.any():
                continue
            # Of a causal model nothing behind the last position needed is read.
            width = int(there.any(dim=0).nonzero()[-1]) + 1 if self.causal else there.shape[1]
            there, tokens = there[:, :width], self.tokens[examples, :width]
            streams = self._streams(tokens, set(begins.tolist())) if fast else {}
            at_once = max(1, self._tokens_at_once(width, there) // tokens.numel())
            for begin in sorted(set(begins.tolist())):
                for some in (begins == begin).nonzero()[:, 0].split(at_once):
                    logits = self._logits(tokens, there, some, examples, begin, streams.get(begin))
                    yield AblatedPiece(some, examples, logits.unflatten(0, (len(some), -1)))

    def losses(self, counts: Bool[Tensor, "batch pos"]) -> Float[Tensor, "condition batch"]:
        """Mean cross-entropy (nats) of each example's tokens that count. Raises ``RequestError`` for a model whose logits are over others."""
        tokens = self.tokens
        if self.model.W_U.shape[1] < int(tokens.max()) + 1:
            raise RequestError(
                "reduce = 'loss': the model's logits are not over the tokens that it reads; give a function"
            )
        # A position counts by the token that follows.
        needed = torch.nn.functional.pad(counts[:, 1:], (0, 1))
        sums = torch.zeros(len(self.keep), len(tokens), device=tokens.device)
        for piece in self.pieces(needed):
            there = needed[piece.examples]
            right = tokens[piece.examples].roll(-1, dims=1)[there]
            losses = torch.nn.functional.cross_entropy(
                piece.logits.flatten(0, 1), right.repeat(len(piece.conditions)), reduction="none"
            ).view(len(piece.conditions), -1)
            example = piece.examples.start + there.nonzero()[:, 0]
            part = torch.zeros(len(losses), len(tokens), device=losses.device).index_add_(1, example, losses.float())
            sums[piece.conditions.to(sums.device)] += part
        return sums / needed.sum(dim=1)

    def _logits(
        self,
        tokens: Tensor,
        needed: Tensor,
        conditions: Tensor,
        examples: slice,
        begin: int,
        stream: Float[Tensor, "batch pos d_model"] | None,
    ) -> Float[Tensor, "token d_vocab"]:
        n, width, n_layers = len(conditions), tokens.shape[1], self.model.cfg.n_layers
        everywhere = needed.repeat(n, 1)
        hooks: list[tuple[str, Callable[..., Tensor]]] = [
            (f"blocks.{layer}.attn.hook_z", self._putting_in(at, conditions, examples, width))
            for at, layer in enumerate(self.layers)
            if layer >= begin
        ]
        if stream is None:
            repeated = repeat(tokens, "batch pos -> (condition batch) pos", condition=n)
            return self.model.run_with_hooks(repeated, fwd_hooks=hooks)[everywhere]
        begun = repeat(stream, "batch ... -> (condition batch) ...", condition=n)
        if begin == n_layers:
            return self._unembedded(begun[everywhere])
        with self.model.hooks(fwd_hooks=[*hooks, picking(self.model, everywhere)]):
            ended = self.model(begun, start_at_layer=begin, stop_at_layer=n_layers)
        return self._unembedded(ended[0])

    def _putting_in(self, at: int, conditions: Tensor, examples: slice, width: int) -> Callable[..., Tensor]:
        stands_in = self.replacements[at][:, :width]
        stands_in = stands_in if len(stands_in) == 1 else stands_in[examples]
        stays = rearrange(self.keep[conditions.to(self.keep.device), at], "condition head -> condition 1 1 head 1")

        def replace(z: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            each = rearrange(z, "(condition batch) ... -> condition batch ...", condition=len(conditions))
            return rearrange(torch.where(stays, each, stands_in), "condition batch ... -> (condition batch) ...")

        return replace

    @cached_property
    def _unembedded(self) -> Unembedding:
        return Unembedding(self.model)

    def _streams(self, tokens: Tensor, begins: set[int]) -> dict[int, Tensor]:
        """The unchanged residual stream before each of these layers, or after the last."""
        heard: dict[int, Tensor] = {}

        def hearing(layer: int) -> tuple[str, Callable[..., None]]:
            def hear(stream: Tensor, hook: Any) -> None:  # noqa: ARG001
                heard[layer] = stream

            return f"blocks.{layer}.hook_resid_pre", hear

        *first, last = sorted(begins)
        end = self.model.run_with_hooks(tokens, fwd_hooks=list(map(hearing, first)), stop_at_layer=last)
        return heard | {last: end}

    def _examples(self, needed: Tensor, *, together: bool) -> Iterator[slice]:
        """Examples that are read at once."""
        n, width = self.tokens.shape
        size = n if together else max(1, self._tokens_at_once(width, needed) // max(width, 1))
        return (slice(first, first + size) for first in range(0, n, size))

    def _tokens_at_once(self, width: int, needed: Tensor) -> int:
        """Tokens in a forward pass: on a CPU as many as stay in its cache, and no more than the memory budget allows."""
        cfg = self.model.cfg
        # Of one token the residual stream, the pattern, an MLP and the logits are alive together; four covers copies.
        logits = self.model.W_U.shape[1] * float(needed.float().mean())
        floats = cfg.d_model + (cfg.d_mlp or 0) + cfg.n_heads * width + logits
        room = int(self.memory_budget / (4 * 4 * floats))
        return max(1, min(room, CPU_TOKENS) if self.tokens.device.type == "cpu" else room)

    def _can_begin_at_a_layer(self, needed: Tensor) -> bool:
        """Whether the last layer alone gives the first example's logits from what the layers before gave."""
        # Padding on the left is masked by what the tokens say, which a residual stream does not.
        left = getattr(self.model.tokenizer, "padding_side", "right") == "left"
        if not isinstance(self.model, HookedTransformer) or left or not needed.any():
            return False
        one = int(needed.any(dim=1).int().argmax())
        examples = slice(one, one + 1)
        tokens, there, begin = self.tokens[examples], needed[examples], self.model.cfg.n_layers - 1
        whole = Conditions(self.model, self.tokens, self.keep[:0], [], [], self.memory_budget)
        stream = whole._streams(tokens, {begin})[begin]
        found = whole._logits(tokens, there, torch.zeros(1, dtype=torch.long), examples, begin, stream)
        return agree(found, self.model(tokens)[there])


def reduced(logits: Tensor, tokens: Tensor, reduce: Reduction) -> Tensor:
    """What a function makes of logits and tokens. Raises ``RequestError`` for what is not of as many rows."""
    found = reduce(logits, tokens)
    if not isinstance(found, Tensor) or found.shape[:1] != logits.shape[:1]:
        what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise RequestError(
            f"reduce gives {what}: its result must be a tensor that begins with the axis of {len(logits)} rows"
        )
    return found
