"""What single attention edges do to a logit: an edge (query position, key positions) is cut in one head, or in all heads at once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

from mi_superposition.errors import RequestError
from mi_superposition.heads.trigrams.config import Cut
from mi_superposition.models.norms import centres, folded
from mi_superposition.models.protocol import HookedModel

Method = Literal["auto", "last token", "hooks"]
# Positions whose meaning does not depend on how many tokens are read at once.
_POSITIONS = ("standard", "rotary", "alibi", "none")


class EdgeEffects(NamedTuple):
    """Logits with the edge less those without it, centred over the vocabulary, in nats; positive: the edge raises the logit.

    The last of the ``head`` axis is the edge cut in all heads of all layers at once; before it every head of layer 0, then of layer 1 and so
    on. ``total``: everything after the cut is computed anew, but the scale of the final normalisation. ``mlps_frozen``: the outputs of all
    MLPs at the query keep their values. ``direct``: everything after the head keeps its value, so only what the head itself writes
    reaches the logits. Hence ``direct``, ``mlps_frozen - direct`` (through later heads) and ``total - mlps_frozen`` (through MLPs, later
    heads included) add up to ``total``.
    """

    total: Float[Tensor, "head target"]
    mlps_frozen: Float[Tensor, "head target"]
    direct: Float[Tensor, "head target"]


@dataclass(frozen=True)
class FrozenLogits:
    """The map from a change of the last residual stream to logits, while the final normalisation keeps its scale.

    Logits are centred over the vocabulary: a number added to all of them changes no probability. A cap or a scale that a model puts on its
    logits afterwards is left out.
    """

    model: HookedModel

    @cached_property
    def unembedding(self) -> Float[Tensor, "d_model d_vocab"]:
        """``W_U`` with the weight and the centring of the final normalisation in it, centred over the vocabulary."""
        matrix = folded(getattr(self.model, "ln_final", None), self.model.W_U.detach().float().cpu())
        return (matrix - matrix.mean(dim=1, keepdim=True)).to(self.model.W_U.device)

    @cached_property
    def _norm(self) -> tuple[bool, bool]:
        norm = getattr(self.model, "ln_final", None)
        absent = norm is None or isinstance(norm, torch.nn.Identity) or self.model.cfg.normalization_type is None
        return not absent, not absent and centres(norm, self.model.cfg.d_model)

    def scale(self, stream: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 1"]:
        """What the final normalisation divides by."""
        divides, is_centred = self._norm
        if not divides:
            return torch.ones_like(stream[..., :1])
        centred = stream - stream.mean(dim=-1, keepdim=True) if is_centred else stream
        return (centred.square().mean(dim=-1, keepdim=True) + self.model.cfg.eps).sqrt()

    def changes(
        self, change: Float[Tensor, "row d_model"], clean: Float[Tensor, " d_model"], targets: Int[Tensor, " target"]
    ) -> Float[Tensor, "row target"]:
        """What a change of the stream does to the logits of the targets."""
        return (change / self.scale(clean)) @ self.unembedding[:, targets]


class DocumentEdges:
    """The edges of one document, which is read once. ``tokens``: with the beginning token, where the model has one.

    ``method``: with ``"last token"`` only the query is computed anew for every cut, with the keys and values of what stands before it (what
    stands there does not see the query); ``"hooks"`` reads the whole text for every cut, which any hooked model can do; ``"auto"`` takes
    the first for a ``HookedTransformer``. Both give the same (a test compares them).
    """

    def __init__(
        self,
        model: HookedModel,
        tokens: Int[Tensor, " pos"],
        logits: FrozenLogits | None = None,
        *,
        method: Method = "auto",
        memory_budget: int = 1 << 29,
    ):
        check_has_attention(model)
        by_last = isinstance(model, HookedTransformer) and model.cfg.positional_embedding_type in _POSITIONS
        if method == "last token" and not by_last:
            raise RequestError("method = 'last token': the model keeps no keys and values; give 'hooks'")
        self.model, self.logits = model, logits or FrozenLogits(model)
        self.tokens = tokens.to(model.W_U.device)
        self.by_last = by_last and method != "hooks"
        self.memory_budget = memory_budget
        self._cache: TransformerLensKeyValueCache | None = None

    def effects(
        self, query: int, keys: Sequence[int], targets: Int[Tensor, " target"], *, cut: Cut = "zero"
    ) -> EdgeEffects:
        """The effects of the edges from ``query`` to all of ``keys`` (cut together) on the logits of ``targets`` after the query.

        ``cut``: ``"zero"`` sets the entry of the pattern to zero and leaves the others, which takes out exactly what the key adds;
        ``"renormalise"`` then scales the others up to the same sum, as if the key were masked (attention knockout, Geva et al. 2023).
        Raises ``RequestError`` for keys that do not stand before the query.
        """
        if not keys or min(keys) < 0 or max(keys) >= query or query >= len(self.tokens):
            raise RequestError(
                f"keys {list(keys)} of query {query}: keys must stand before it, in {len(self.tokens)} tokens"
            )
        cfg = self.model.cfg
        with_mlps = not cfg.attn_only
        plan = [(state, head) for state in range(1 + with_mlps) for head in range(cfg.n_layers * cfg.n_heads + 1)]
        parts = [
            self._rows(plan[first : first + size], query, keys, targets.to(self.tokens.device), cut)
            for size in [self._rows_at_once(query + 1)]
            for first in range(0, len(plan), size)
        ]
        by_row, direct = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        n = cfg.n_layers * cfg.n_heads + 1
        # With nothing computed anew, what all heads do is the sum of what each does.
        direct = torch.cat([direct[: n - 1], direct[: n - 1].sum(dim=0, keepdim=True)])
        frozen = by_row[n:] if with_mlps else by_row
        return EdgeEffects(by_row[:n].cpu(), frozen.cpu(), direct.cpu())

    @torch.no_grad()
    def _rows(
        self, plan: list[tuple[int, int]], query: int, keys: Sequence[int], targets: Tensor, cut: Cut
    ) -> tuple[Float[Tensor, "row target"], Float[Tensor, "row target"]]:
        """Total and direct effects of some cuts. Row 0 is read whole, the others each with a cut; ``plan``: whether MLPs are frozen, and
        the head (one more than there are: all).
        """
        cfg, device = self.model.cfg, self.tokens.device
        heads = torch.tensor([head for _, head in plan], device=device)
        frozen = torch.tensor([state for state, _ in plan], device=device).nonzero()[:, 0] + 1
        every = (heads == cfg.n_layers * cfg.n_heads).nonzero()[:, 0] + 1
        key_index = torch.tensor(keys, device=device)
        written = torch.zeros(len(plan), cfg.d_model, device=device)
        last: list[Tensor] = []

        def cut_pattern(pattern: Tensor, hook: Any, layer: int) -> Tensor:  # noqa: ARG001 - passed by name
            of_layer = ((heads // cfg.n_heads == layer) & (heads < cfg.n_layers * cfg.n_heads)).nonzero()[:, 0]
            rows = torch.cat([of_layer + 1, every.repeat_interleave(cfg.n_heads)])
            which = torch.cat(
                [heads[of_layer] % cfg.n_heads, torch.arange(cfg.n_heads, device=device).repeat(len(every))]
            )
            before = pattern[rows, which, -1]
            after = before.index_fill(-1, key_index, 0.0)
            if cut == "renormalise":
                after = after * (before.sum(-1, keepdim=True) / after.sum(-1, keepdim=True).clamp_min(1e-12))
            changed = pattern.clone()
            changed[rows, which, -1] = after
            return changed

        def keep_written(out: Tensor, hook: Any, layer: int) -> None:  # noqa: ARG001 - passed by name
            rows = (heads // cfg.n_heads == layer).nonzero()[:, 0]
            written[rows] = (out[rows + 1, -1] - out[0, -1]).float()

        def freeze(out: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 - passed by name
            changed = out.clone()
            changed[frozen, -1] = out[0, -1]
            return changed

        def keep_last(stream: Tensor, hook: Any) -> None:  # noqa: ARG001 - passed by name
            last.append(stream[:, -1].float())

        hooks: list[tuple[str, Any]] = []
        for layer in range(cfg.n_layers):
            hooks.append((f"blocks.{layer}.attn.hook_pattern", _at(cut_pattern, layer)))
            hooks.append((f"blocks.{layer}.hook_attn_out", _at(keep_written, layer)))
            if len(frozen):
                hooks.append((f"blocks.{layer}.hook_mlp_out", freeze))
        hooks.append((f"blocks.{cfg.n_layers - 1}.hook_resid_post", keep_last))
        self._run(query, len(plan) + 1, hooks)
        clean = last[0][0]
        # What is lost by the cut, so that a positive number means that the edge raises the logit.
        return (
            -self.logits.changes(last[0][1:] - clean, clean, targets),
            -self.logits.changes(written, clean, targets),
        )

    def _run(self, query: int, n_rows: int, hooks: list[tuple[str, Any]]) -> None:
        if not self.by_last:
            rows = self.tokens[None, : query + 1].expand(n_rows, -1)
            self.model.run_with_hooks(rows, fwd_hooks=hooks, **without_logits(self.model))
            return
        cache = copy.copy(self._read())
        cache.entries = [copy.copy(entry) for entry in cache.entries]
        for entry in cache.entries:
            entry.past_keys = entry.past_keys[:, :query].expand(n_rows, -1, -1, -1)
            entry.past_values = entry.past_values[:, :query].expand(n_rows, -1, -1, -1)
        cache.previous_attention_mask = cache.previous_attention_mask[:, :query].expand(n_rows, -1)
        cache.freeze()
        rows = self.tokens[query].expand(n_rows, 1)
        self.model.run_with_hooks(
            rows,
            fwd_hooks=hooks,
            past_kv_cache=cache,
            attention_mask=torch.ones_like(rows),
            **without_logits(self.model),
        )

    @torch.no_grad()
    def _read(self) -> TransformerLensKeyValueCache:
        """Keys and values of the whole document."""
        if self._cache is None:
            cache = TransformerLensKeyValueCache.init_cache(self.model.cfg, self.tokens.device, 1)
            row = self.tokens[None]
            self.model(row, past_kv_cache=cache, attention_mask=torch.ones_like(row), **without_logits(self.model))
            self._cache = cache
        return self._cache

    def _rows_at_once(self, n_tokens: int) -> int:
        """Cuts in one pass: about what one layer's activations, keys and pattern take of the budget."""
        cfg = self.model.cfg
        computed = 1 if self.by_last else n_tokens
        mlp = 0 if cfg.attn_only else 2 * cfg.d_mlp
        d_vocab = 0 if self.by_last else cfg.d_vocab
        one = (
            computed * (12 * cfg.d_model + mlp + 2 * cfg.n_heads * n_tokens + 2 * d_vocab) + 8 * n_tokens * cfg.d_model
        )
        return max(1, self.memory_budget // (4 * one))


def check_has_attention(model: HookedModel) -> None:
    """Raise ``RequestError`` for a model without the hooks that a cut needs."""
    needed = [
        "attn.hook_pattern",
        "hook_attn_out",
        "hook_resid_post",
        *([] if model.cfg.attn_only else ["hook_mlp_out"]),
    ]
    for name in needed:
        if f"blocks.0.{name}" not in model.hook_dict:
            raise RequestError(f"the model has no hook 'blocks.0.{name}': edges of attention cannot be cut in it")


def without_logits(model: HookedModel) -> dict[str, Any]:
    """Options of a pass that ends before the unembedding, where the model can."""
    return {"stop_at_layer": model.cfg.n_layers} if isinstance(model, HookedTransformer) else {}


def _at(function: Any, layer: int) -> Any:
    def at_layer(value: Tensor, hook: Any) -> Any:
        return function(value, hook, layer)

    return at_layer
