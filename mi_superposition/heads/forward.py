"""A model from the attention of one layer on: its predictions when what stands there is changed, and nothing before is computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mi_superposition.corpora.batches import CPU_TOKENS
from mi_superposition.errors import RequestError
from mi_superposition.heads.config import HeadReplacement
from mi_superposition.heads.prediction import Unembedding, agree, picking, prediction_changes, tokens_in_cache
from mi_superposition.models.protocol import HookedModel
from mi_superposition.models.reading import check_hooks
from mi_superposition.training import seeded_generator

# On a GPU: bytes of logits that are computed at once.
_GPU_BYTES = 1 << 30

Done = HeadReplacement | Literal["random direction", "layer"]


class Ablation(NamedTuple):
    """What is done to one head of a layer, or with ``head`` ``None`` to all of them.

    ``done``: what replaces its output, or ``"random direction"``: its output stays, and what replacing it would add to the residual
    stream is added turned by a random rotation, so with the same norm at every token; or ``"layer"``: the whole layer is left out.
    """

    done: Done
    head: int | None = None


@dataclass(frozen=True)
class Clean:
    """What an unchanged model computes on some rows: what one layer reads and does, and its predictions.

    ``counts``: positions whose next token is predicted, ``logits`` those of these positions, in their order. ``before`` and ``after``:
    the residual stream before and after the layer; ``middle`` before its MLP, where that reads what the heads write.
    """

    tokens: Int[Tensor, "batch pos"]
    counts: Bool[Tensor, "batch pos"]
    z: Float[Tensor, "batch pos head d_head"]
    before: Float[Tensor, "batch pos d_model"]
    middle: Float[Tensor, "batch pos d_model"] | None
    after: Float[Tensor, "batch pos d_model"]
    logits: Float[Tensor, "token d_vocab"]

    @cached_property
    def probabilities(self) -> Float[Tensor, "token d_vocab"]:
        """The model's predictions where a token counts."""
        return self.logits.softmax(dim=1)


class LayerForward:
    """A model as seen from the attention heads of one layer.

    Of a ``HookedTransformer`` an ablation costs the layer's MLP, the layers that follow, and the unembedding of the tokens that count. A
    ``TransformerBridge`` cannot begin at a layer: there, and where the fast way is found to give something else, hooks are used.
    ``seed`` draws the rotation of the random direction. Raises ``RequestError`` for a layer that is not there and a model without
    attention heads.
    """

    def __init__(self, model: HookedModel, layer: int, seed: int):
        if not 0 <= layer < model.cfg.n_layers:
            raise RequestError(f"layer = {layer}: the model has layers 0 to {model.cfg.n_layers - 1}")
        self.model, self.layer, self.seed = model, layer, seed
        self._hook = {
            name: f"blocks.{layer}.{hook}"
            for name, hook in (("z", "attn.hook_z"), ("before", "hook_resid_pre"), ("wrote", "hook_attn_out"), ("after", "hook_resid_post"))
        }  # fmt: skip
        if self._hook["z"] not in model.hook_dict:
            raise RequestError(f"the model has no attention heads in layer {layer}: there is nothing to ablate")
        check_hooks(model, list(self._hook.values()))
        self.device = model.W_E.device
        # Known of a model at its first ablation.
        self._fast: bool | None = None if isinstance(model, HookedTransformer) else False

    @property
    def n_heads(self) -> int:
        """Heads of the layer; where several share keys and values, each has its own queries and output."""
        return self.model.cfg.n_heads

    @property
    def is_fast(self) -> bool | None:
        """Whether ablations begin at the layer; ``None`` before the first."""
        return self._fast

    @property
    def tokens_at_once(self) -> int:
        """Tokens in a forward pass: on a CPU as many as stay in its cache."""
        return CPU_TOKENS if self.device.type == "cpu" else max(CPU_TOKENS, _GPU_BYTES // (4 * self.model.W_U.shape[1]))

    def read(self, tokens: Int[Tensor, "batch pos"], counts: Bool[Tensor, "batch pos"]) -> Clean:
        """The unchanged model on some rows; ``counts`` as in ``Clean``."""
        heard: dict[str, Tensor] = {}
        tokens, counts = tokens.to(self.device), counts.to(self.device)
        listening = [(hook, _hearing(heard, name)) for name, hook in self._hook.items()]
        if not self._fast:
            logits = self.model.run_with_hooks(tokens, fwd_hooks=listening)[counts]
        else:
            end = self.model.run_with_hooks(tokens, fwd_hooks=listening, stop_at_layer=self.model.cfg.n_layers)
            logits = self._unembedded(end[counts])
        middle = None if self._in_parallel else heard["before"] + heard["wrote"]
        return Clean(tokens, counts, heard["z"], heard["before"], middle, heard["after"], logits)

    def ablated(
        self, clean: Clean, ablations: Sequence[Ablation], replaced: Callable[[Ablation], Tensor]
    ) -> Float[Tensor, "ablation token d_vocab"]:
        """Logits (nats) under each ablation, at the positions that count.

        ``replaced`` gives what stands in for the layer's ``z`` under an ablation: [batch, pos, head, d_head], or something that is
        broadcast to it, of all heads; for a random direction, what would stand in for it.
        """
        if not self._begins_here(clean):
            return torch.stack([self._with_hooks(clean, one, replaced) for one in ablations])
        ends = self._ends(clean, ablations, replaced)
        return torch.stack([self._unembedded(end) for end in ends])

    def changes(
        self,
        clean: Clean,
        ablations: Sequence[Ablation],
        replaced: Callable[[Ablation], Tensor],
        right: Int[Tensor, " token"],
    ) -> tuple[Float[Tensor, "ablation token"], Float[Tensor, "ablation token"]]:
        """How much each ablation raises the loss of the tokens ``right``, which follow the positions that count, and the divergence of the
        predictions there (``prediction_changes``); no more logits are in memory than a CPU's cache holds.
        """
        loss, divergence = clean.logits.new_empty(2, len(ablations), len(right))
        for number, at, changed in self._in_pieces(clean, ablations, replaced):
            loss[number, at], divergence[number, at] = prediction_changes(
                clean.logits[at], clean.probabilities[at], changed, right[at]
            )
        return loss, divergence

    def _in_pieces(
        self, clean: Clean, ablations: Sequence[Ablation], replaced: Callable[[Ablation], Tensor]
    ) -> Iterator[tuple[int, slice, Tensor]]:
        """Logits under each ablation by its number, of some tokens at a time: good until the next are asked for."""
        if not self._begins_here(clean):
            for number, one in enumerate(ablations):
                yield number, slice(None), self._with_hooks(clean, one, replaced)
            return
        rows = tokens_in_cache(clean.logits)
        made = clean.logits.new_empty(min(rows, len(clean.logits)), clean.logits.shape[1])
        for number, end in enumerate(self._ends(clean, ablations, replaced)):
            for first in range(0, len(end), rows):
                some = end[first : first + rows]
                yield number, slice(first, first + rows), self._unembedded(some, made[: len(some)])

    def _begins_here(self, clean: Clean) -> bool:
        if self._fast is None:
            self._fast = self._agrees(clean)
        return self._fast

    def _ends(
        self, clean: Clean, ablations: Sequence[Ablation], replaced: Callable[[Ablation], Tensor]
    ) -> Float[Tensor, "ablation token d_model"]:
        """The residual stream after the last layer under each ablation, at the positions that count."""
        starts = [clean.before if one.done == "layer" else self._started(clean, one, replaced) for one in ablations]
        n_layers = self.model.cfg.n_layers
        # Past the last attention nothing else is read from the other positions.
        last = self.layer + 1 == n_layers
        streams = torch.stack([start[clean.counts][None] for start in starts] if last else starts)
        if (block := self.model.blocks[self.layer]) and clean.middle is not None and not self.model.cfg.attn_only:
            # A layer that is left out has no MLP either.
            through = [at for at, one in enumerate(ablations) if one.done != "layer"]
            middle = rearrange(streams[through], "ablation batch ... -> (ablation batch) ...")
            streams[through] = (middle + block.apply_mlp(block.ln2(middle))).view_as(streams[through])
        if last:
            return streams[:, 0]
        stacked = rearrange(streams, "ablation batch ... -> (ablation batch) ...")
        # The MLP of the last layer is left out where nothing is predicted.
        with self.model.hooks(fwd_hooks=[picking(self.model, clean.counts.repeat(len(ablations), 1))]):
            ended = self.model(stacked, start_at_layer=self.layer + 1, stop_at_layer=n_layers)
        return ended.view(len(ablations), -1, ended.shape[-1])

    @cached_property
    def _unembedded(self) -> Unembedding:
        return Unembedding(self.model)

    @property
    def _in_parallel(self) -> bool:
        """Whether the layer's MLP reads what its attention reads, and not what that writes."""
        return bool(getattr(self.model.cfg, "parallel_attn_mlp", False))

    @cached_property
    def _rotation(self) -> Float[Tensor, "d_model d_model"]:
        """A random orthogonal map, uniform among all (Mezzadri 2007, "How to generate random matrices from the classical compact groups")."""
        d_model = self.model.cfg.d_model
        generator = seeded_generator(self.seed, "random direction", self.layer)
        q, r = torch.linalg.qr(torch.randn(d_model, d_model, generator=generator))
        return (q * r.diagonal().sign()).to(self.device)

    def _started(self, clean: Clean, one: Ablation, replaced: Callable[[Ablation], Tensor]) -> Tensor:
        """The residual stream in which the ablation has been done."""
        heads = slice(None) if one.head is None else slice(one.head, one.head + 1)
        change = replaced(one)[:, :, heads] - clean.z[:, :, heads]
        weight = self.model.blocks[self.layer].attn.W_O[heads]
        written = einsum(change, weight, "batch pos head d_head, head d_head d_model -> batch pos d_model")
        if one.done == "random direction":
            written = written @ self._rotation
        return (clean.after if clean.middle is None else clean.middle) + written

    def _with_hooks(self, clean: Clean, one: Ablation, replaced: Callable[[Ablation], Tensor]) -> Tensor:
        """The same by hooks in a whole forward pass."""

        def put(value: Tensor) -> Callable[..., Tensor]:
            return lambda activation, hook: value.to(activation)

        if one.done == "layer":
            hook = (self._hook["after"], put(clean.before))
            return self.model.run_with_hooks(clean.tokens, fwd_hooks=[hook])[clean.counts]
        z = replaced(one).expand_as(clean.z)
        if one.head is not None:
            z = torch.where(torch.arange(self.n_heads, device=z.device)[:, None] == one.head, z, clean.z)
        hooks = [(self._hook["z"], put(z))]
        if one.done == "random direction":
            # What replacing the output adds where it reaches the residual stream, after a normalisation if there is one.
            written: list[dict[str, Tensor]] = []
            for some in ([], hooks):
                written.append({})
                listening = (self._hook["wrote"], _hearing(written[-1], "wrote"))
                self.model.run_with_hooks(clean.tokens, fwd_hooks=[*some, listening])
            before, after = (heard["wrote"] for heard in written)
            hooks = [(self._hook["wrote"], put(before + (after - before) @ self._rotation))]
        return self.model.run_with_hooks(clean.tokens, fwd_hooks=hooks)[clean.counts]

    def _agrees(self, clean: Clean) -> bool:
        """Whether the fast way gives what hooks give: with all heads zero, and without the layer, on the first row that counts."""
        row = slice(int(clean.counts.any(dim=1).int().argmax()), None)
        row = slice(row.start, row.start + 1)
        first = int(clean.counts[: row.start].sum())
        logits = clean.logits[first : first + int(clean.counts[row].sum())]
        middle = None if clean.middle is None else clean.middle[row]
        small = Clean(
            clean.tokens[row], clean.counts[row], clean.z[row], clean.before[row], middle, clean.after[row], logits
        )
        self._fast = True
        none = torch.zeros_like(small.z)
        for one in (Ablation("zero"), Ablation("layer")):
            found = self.ablated(small, [one], lambda _: none)[0]
            expected = self._with_hooks(small, one, lambda _: none)
            if not agree(found, expected):
                return False
        return True


def _hearing(heard: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hear(activation: Tensor, hook: Any) -> None:  # noqa: ARG001 - TransformerLens passes it by name
        heard[name] = activation

    return hear
