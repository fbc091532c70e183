"""What a model says when only some of its attention heads speak."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_superposition.corpora.batches import CPU_TOKENS
from mi_superposition.corpora.given import Given, as_batches
from mi_superposition.errors import RequestError
from mi_superposition.heads.conditions import AblatedPiece, Conditions, Reduction, reduced
from mi_superposition.heads.config import AblateConfig, HeadReplacement, Replacement
from mi_superposition.models.protocol import HookedModel
from mi_superposition.models.reading import check_hooks, read_hooks
from mi_superposition.parts import SeedPart
from mi_superposition.training import seeded_generator

Method = Literal["auto", "linear", "hooks"]


class _Rows(NamedTuple):
    """Tokens, and the positions that count."""

    tokens: Int[Tensor, "batch pos"]
    counts: Bool[Tensor, "batch pos"]


def keep_only(n_heads: int) -> Bool[Tensor, "condition head"]:
    """One condition a head: that head alone is kept."""
    return torch.eye(n_heads, dtype=torch.bool)


def leave_out(n_heads: int) -> Bool[Tensor, "condition head"]:
    """One condition a head: every head but that one is kept."""
    return ~keep_only(n_heads)


@torch.no_grad()
def ablate_heads(
    model: HookedModel,
    tokens: Given,
    keep: Bool[Tensor, "condition ... head"],
    *,
    layer: int = 0,
    replace_with: HeadReplacement = AblateConfig.replace_with,
    mask: Tensor | None = None,
    reduce: Literal["loss"] | Reduction | None = None,
    seed: int = SeedPart.seed,
    positions: slice = slice(None),
    method: Method = "auto",
    memory_budget: int = 1 << 28,
) -> Float[Tensor, "condition batch ..."]:
    """Logits [condition, batch, pos, d_vocab] under each set of kept heads, the other heads' outputs (``hook_z``) replaced.

    ``tokens``: [batch, pos] (what ``model.to_tokens(texts)`` gives), texts, or token batches. ``keep`` is [condition, head], of
    one ``layer``, or [condition, layer, head], of all: heads kept in later layers then read what the ablation of earlier ones left.

    ``replace_with``: ``"zero"``; ``"mean"``, the head's mean output over the batch at each position; ``"overall mean"``, that over all
    positions; ``"resample"``, its output on
    another example of the batch (donors form one seeded random cycle, so never its own). Means and donors are those of positions that
    count: where ``mask`` is true, by default all but beginning tokens and padding. Biases ``b_O`` and ``b_U`` stay: they belong to no
    head. ``positions`` picks the positions returned.

    ``reduce`` makes of each condition's logits what is kept, so that those of all conditions need never be in memory together:
    ``"loss"``, the mean cross-entropy of each example's tokens that count (nats, [condition, batch]), or a function of the logits and
    tokens, both [condition × batch, pos, …], whose result begins with the same axis.

    A model of one attention-only layer without normalisation is linear in its heads' outputs, so all conditions
    come from one forward pass (``method="linear"``). Any other runs in batches of conditions that keep the
    activations of one pass within about ``memory_budget`` bytes, the result itself not counted (``method="hooks"``). ``"auto"`` takes the first
    where it holds, but for ``reduce="loss"``, which takes the second. Logits in nats. Method: ablation as in Olsson et al. 2022, section "Ablations"; the linear
    form is ours.

    Raises ``RequestError`` for a ``keep`` of the wrong width, a layer the model lacks, tokens outside the vocabulary,
    resampling from a batch of one, ``positions`` beside ``reduce``, or ``method="linear"`` on a model that is not.
    """
    _check_request(model, keep, layer, replace_with)
    rows = _rows(model, tokens, mask)
    if replace_with == "resample" and len(rows.tokens) < 2:
        raise RequestError("replace_with = 'resample' with a batch of 1: there is no other example to take from")
    if reduce is not None and positions != slice(None):
        raise RequestError(f"positions = {positions}: a reduction gets all of them")
    device = model.W_U.device
    rows = _Rows(rows.tokens.to(device), rows.counts.to(device))
    layers = [layer] if keep.ndim == 2 else list(range(model.cfg.n_layers))
    kept = keep.to(device)[:, None] if keep.ndim == 2 else keep.to(device)
    linear = _is_linear_in_heads(model)
    if method == "linear" and not linear:
        raise RequestError("method = 'linear': the model is not one attention-only layer without normalisation")
    if linear and method != "hooks" and reduce != "loss":
        logits = _ablate_linear(model, rows, kept[:, 0], replace_with, seed, positions)
        return logits if reduce is None else torch.stack([reduced(one, rows.tokens, reduce) for one in logits])
    conditions = Conditions(
        model, rows.tokens, kept, layers, _replacements(model, rows, layers, replace_with, seed), memory_budget
    )
    return _ablate_with_hooks(conditions, rows, positions, reduce)


@torch.no_grad()
def logits_at(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    keep: Bool[Tensor, "condition layer head"],
    at: Int[Tensor, " batch"],
    *,
    replace_with: HeadReplacement,
    mask: Bool[Tensor, "batch pos"],
    seed: int,
    memory_budget: int = 1 << 28,
) -> Iterator[AblatedPiece]:
    """What ``ablate_heads`` gives at one position of each example, piece by piece: no other logits are made."""
    device = model.W_U.device
    rows = _Rows(*(given.to(device) for given in _rows(model, tokens, mask)))
    layers = list(range(model.cfg.n_layers))
    replacements = _replacements(model, rows, layers, replace_with, seed)
    needed = torch.arange(tokens.shape[1], device=device) == at.to(device)[:, None]
    yield from Conditions(model, rows.tokens, keep.to(device), layers, replacements, memory_budget).pieces(needed)


def head_outputs(
    model: HookedModel, tokens: Int[Tensor, "batch pos"], layer: int = 0
) -> Float[Tensor, "batch pos head d_head"]:
    """Each head's output before ``W_O`` (``hook_z``), in activation units."""
    _, [z] = _logits_and_z(model, tokens, [layer])
    return z


def head_logits(
    model: HookedModel, z: Float[Tensor, "batch pos head d_head"], layer: int = 0
) -> Float[Tensor, "head batch pos d_vocab_out"]:
    """What each head adds to the logits by itself: ``z[h] @ W_O[h] @ W_U``, biases left out.

    Exact where nothing follows the layer; elsewhere this is direct logit attribution (Elhage et al. 2021) without
    the final normalisation.
    """
    to_logits = attention_output_weight(model, layer) @ model.W_U
    return einsum(z, to_logits, "batch pos head d_head, head d_head value -> head batch pos value")


@torch.no_grad()
def logits_and_head_changes(
    model: HookedModel, tokens: Int[Tensor, "batch pos"], replace_with: Replacement, seed: int, positions: slice
) -> tuple[Float[Tensor, "batch pos_out d_vocab_out"], Float[Tensor, "head batch pos_out d_vocab_out"]]:
    """Logits with every head, and what replacing each head's output adds to them (nats), from one forward pass.

    Any ablation of a model that is linear in its heads is the first plus the sum of the second over ablated heads.
    """
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    return _logits_and_changes(model, _Rows(tokens, everywhere), replace_with, seed, positions)


def _logits_and_changes(
    model: HookedModel, rows: _Rows, replace_with: HeadReplacement, seed: int, positions: slice
) -> tuple[Tensor, Tensor]:
    logits, [z] = _logits_and_z(model, rows.tokens, [0])
    if replace_with == "zero":
        return logits[:, positions], -head_logits(model, z[:, positions])
    change = _replacement(z, rows.counts, replace_with, seed) - z
    return logits[:, positions], head_logits(model, change[:, positions])


def attention_output_weight(model: HookedModel, layer: int) -> Float[Tensor, "head d_head d_model"]:
    """``W_O`` of one layer."""
    return model.blocks[layer].attn.W_O


def _check_request(model: HookedModel, keep: Tensor, layer: int, replace_with: str) -> None:
    cfg = model.cfg
    wanted = f"(condition, {cfg.n_heads}), or (condition, {cfg.n_layers}, {cfg.n_heads}) for all layers"
    if keep.ndim not in (2, 3) or keep.shape[1:] not in ((cfg.n_heads,), (cfg.n_layers, cfg.n_heads)):
        raise RequestError(
            f"keep has shape {tuple(keep.shape)}: the model has {cfg.n_layers} layers of {cfg.n_heads} heads, so it must be {wanted}"
        )
    if keep.dtype != torch.bool:
        raise RequestError(f"keep has dtype {keep.dtype}: give a bool mask, True for each head that stays")
    if not 0 <= layer < cfg.n_layers:
        raise RequestError(f"layer = {layer}: the model has layers 0 to {cfg.n_layers - 1}")
    if replace_with not in get_args(HeadReplacement):
        raise RequestError(f"replace_with = {replace_with!r}: give {', '.join(map(repr, get_args(HeadReplacement)))}")


def _rows(model: HookedModel, given: Given, mask: Tensor | None) -> _Rows:
    """All that is given as one batch, padded where rows are shorter."""
    batches = list(as_batches(model, given, mask))
    if not batches:
        raise RequestError("no text: there is nothing to read")
    width = max(batch.tokens.shape[1] for batch in batches)

    def padded(tensor: Tensor) -> Tensor:
        return torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]))

    return _Rows(
        torch.cat([padded(batch.tokens) for batch in batches]), torch.cat([padded(batch.mask) for batch in batches])
    )


def _is_linear_in_heads(model: HookedModel) -> bool:
    cfg = model.cfg
    capped = (getattr(cfg, "output_logits_soft_cap", None) or 0) > 0
    return cfg.n_layers == 1 and bool(cfg.attn_only) and cfg.normalization_type is None and not capped


def _logits_and_z(model: HookedModel, tokens: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    kept: list[Tensor] = []

    def keep_z(z: Tensor, hook: Any) -> None:  # noqa: ARG001 - TransformerLens passes it by name
        kept.append(z)

    # Layers run in their order.
    logits = model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", keep_z) for layer in layers])
    return logits, kept


def _replacements(
    model: HookedModel, rows: _Rows, layers: Sequence[int], replace_with: HeadReplacement, seed: int
) -> list[Tensor]:
    """Of each layer what stands in for its ablated heads."""
    cfg, names = model.cfg, [f"blocks.{layer}.attn.hook_z" for layer in layers]
    check_hooks(model, names)
    if replace_with == "zero":
        return [model.W_E.new_zeros(1, rows.tokens.shape[1], cfg.n_heads, cfg.d_head) for _ in layers]
    at_once = max(1, CPU_TOKENS // rows.tokens.shape[1]) if rows.tokens.device.type == "cpu" else len(rows.tokens)
    heard = [read_hooks(model, some, names) for some in rows.tokens.split(at_once)]
    return [
        _replacement(torch.cat([one[name] for one in heard]).unflatten(2, (cfg.n_heads, cfg.d_head)), rows.counts, replace_with, seed)
        for name in names
    ]  # fmt: skip


def _replacement(
    z: Float[Tensor, "batch pos head d_head"],
    counts: Bool[Tensor, "batch pos"],
    replace_with: HeadReplacement,
    seed: int,
) -> Float[Tensor, "donor pos head d_head"]:
    """What stands in for an ablated head: one row for all examples or one for each."""
    if replace_with == "zero":
        return torch.zeros_like(z[:1])
    if replace_with == "mean":
        # Where no example counts, as at a beginning token, which later layers still read, that of all.
        weight = (counts | ~counts.any(dim=0)).to(z.dtype)[..., None, None]
        return (z * weight).sum(dim=0, keepdim=True) / weight.sum(dim=0, keepdim=True)
    if replace_with == "overall mean":
        weight = counts.to(z.dtype)[..., None, None]
        mean = (z * weight).sum(dim=(0, 1), keepdim=True) / weight.sum(dim=(0, 1), keepdim=True).clamp_min(1)
        return mean.expand(1, *z.shape[1:])
    cycle = torch.randperm(z.shape[0], generator=seeded_generator(seed, "resample-ablation")).to(z.device)
    donors = torch.arange(z.shape[0], device=z.device)[:, None].repeat(1, z.shape[1])
    for position in range(z.shape[1]):
        # The cycle of the examples that count here.
        there = cycle[counts[cycle, position]]
        donors[there, position] = there.roll(1)
    return z.gather(0, donors[..., None, None].expand_as(z))


def _ablate_linear(
    model: HookedModel, rows: _Rows, keep: Tensor, replace_with: HeadReplacement, seed: int, positions: slice
) -> Tensor:
    logits, change = _logits_and_changes(model, rows, replace_with, seed, positions)
    ablated = (~keep).to(logits.dtype)
    result = torch.addmm(logits.reshape(1, -1), ablated, rearrange(change, "head ... -> head (...)"))
    return result.view(keep.shape[0], *logits.shape)


def _ablate_with_hooks(
    conditions: Conditions, rows: _Rows, positions: slice, reduce: Literal["loss"] | Reduction | None
) -> Tensor:
    if reduce == "loss":
        return conditions.losses(rows.counts)
    needed = torch.zeros_like(rows.counts)
    needed[:, positions] = True
    if reduce is None:
        n_positions = len(range(needed.shape[1])[positions])
        weight = conditions.model.W_U
        logits = weight.new_empty(len(conditions.keep), len(needed), n_positions, weight.shape[1])
        for piece in conditions.pieces(needed):
            logits[piece.conditions.to(logits.device), piece.examples] = piece.logits.unflatten(1, (-1, n_positions))
        return logits
    results, order = [], []
    for piece in conditions.pieces(needed, together=True):
        repeated = rows.tokens.repeat(len(piece.conditions), 1)
        found = reduced(piece.logits.flatten(0, 1).unflatten(0, repeated.shape), repeated, reduce)
        results.append(found.unflatten(0, (len(piece.conditions), -1)))
        order.append(piece.conditions)
    return torch.cat(results)[torch.cat(order).argsort()]
