"""What a model says when only some of its attention heads speak."""

from __future__ import annotations

from typing import Any, Literal

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_superposition.errors import RequestError
from mi_superposition.heads.config import AblateConfig, Replacement
from mi_superposition.models.protocol import HookedModel
from mi_superposition.parts import SeedPart
from mi_superposition.training import seeded_generator

Method = Literal["auto", "linear", "hooks"]


def keep_only(n_heads: int) -> Bool[Tensor, "condition head"]:
    """One condition a head: that head alone is kept."""
    return torch.eye(n_heads, dtype=torch.bool)


def leave_out(n_heads: int) -> Bool[Tensor, "condition head"]:
    """One condition a head: every head but that one is kept."""
    return ~keep_only(n_heads)


@torch.no_grad()
def ablate_heads(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    keep: Bool[Tensor, "condition head"],
    *,
    layer: int = 0,
    replace_with: Replacement = AblateConfig.replace_with,
    seed: int = SeedPart.seed,
    positions: slice = slice(None),
    method: Method = "auto",
    memory_budget: int = 1 << 28,
) -> Float[Tensor, "condition batch pos_out d_vocab_out"]:
    """Logits under each set of kept heads of one layer, the other heads' outputs (``hook_z``) replaced.

    ``replace_with``: ``"zero"``; ``"mean"``, the head's mean output over the batch at each position;
    ``"resample"``, its output on another example of the batch (donors form one seeded random cycle, so never its own). Biases
    ``b_O`` and ``b_U`` stay: they belong to no head. ``positions`` picks the positions returned.

    A model of one attention-only layer without normalisation is linear in its heads' outputs, so all conditions
    come from one forward pass (``method="linear"``). Any other runs in batches of conditions that keep the
    activations of one pass within about ``memory_budget`` bytes, the result itself not counted (``method="hooks"``). ``"auto"`` takes the first
    where it holds. Logits in nats. Method: ablation as in Olsson et al. 2022, section "Ablations"; the linear
    form is ours.

    Raises ``RequestError`` for a mask of the wrong width, a layer the model lacks, tokens outside the vocabulary,
    resampling from a batch of one, or ``method="linear"`` on a model that is not.
    """
    _check_request(model, tokens, keep, layer, replace_with)
    device = model.W_U.device
    tokens, keep = tokens.to(device), keep.to(device)
    linear = _is_linear_in_heads(model)
    if method == "linear" and not linear:
        raise RequestError("method = 'linear': the model is not one attention-only layer without normalisation")
    if linear and method != "hooks":
        return _ablate_linear(model, tokens, keep, replace_with, seed, positions)
    return _ablate_with_hooks(model, tokens, keep, layer, replace_with, seed, positions, memory_budget)


def head_outputs(
    model: HookedModel, tokens: Int[Tensor, "batch pos"], layer: int = 0
) -> Float[Tensor, "batch pos head d_head"]:
    """Each head's output before ``W_O`` (``hook_z``), in activation units."""
    _, z = _logits_and_z(model, tokens, layer)
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
    logits, z = _logits_and_z(model, tokens, layer=0)
    logits, z = logits[:, positions], z[:, positions]
    if replace_with == "zero":
        return logits, -head_logits(model, z)
    return logits, head_logits(model, _replacement(z, replace_with, seed) - z)


def attention_output_weight(model: HookedModel, layer: int) -> Float[Tensor, "head d_head d_model"]:
    """``W_O`` of one layer."""
    return model.blocks[layer].attn.W_O


def _check_request(model: HookedModel, tokens: Tensor, keep: Tensor, layer: int, replace_with: str) -> None:
    cfg = model.cfg
    if keep.ndim != 2 or keep.shape[1] != cfg.n_heads:
        raise RequestError(
            f"keep has shape {tuple(keep.shape)}: the model has {cfg.n_heads} heads, so it must be (condition, {cfg.n_heads})"
        )
    if keep.dtype != torch.bool:
        raise RequestError(f"keep has dtype {keep.dtype}: give a bool mask, True for each head that stays")
    if not 0 <= layer < cfg.n_layers:
        raise RequestError(f"layer = {layer}: the model has layers 0 to {cfg.n_layers - 1}")
    if replace_with not in ("zero", "mean", "resample"):
        raise RequestError(f"replace_with = {replace_with!r}: give 'zero', 'mean' or 'resample'")
    if tokens.ndim != 2 or tokens.numel() == 0:
        raise RequestError(f"tokens have shape {tuple(tokens.shape)}: give (batch, pos), neither empty")
    if tokens.shape[1] > cfg.n_ctx:
        raise RequestError(f"{tokens.shape[1]} positions: the model reads at most {cfg.n_ctx}")
    if replace_with == "resample" and tokens.shape[0] < 2:
        raise RequestError("replace_with = 'resample' with a batch of 1: there is no other example to take from")
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= cfg.d_vocab:
        raise RequestError(f"token {low if low < 0 else high}: the vocabulary is 0 to {cfg.d_vocab - 1}")


def _is_linear_in_heads(model: HookedModel) -> bool:
    cfg = model.cfg
    capped = (getattr(cfg, "output_logits_soft_cap", None) or 0) > 0
    return cfg.n_layers == 1 and bool(cfg.attn_only) and cfg.normalization_type is None and not capped


def _logits_and_z(model: HookedModel, tokens: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    kept: list[Tensor] = []

    def keep_z(z: Tensor, hook: Any) -> None:  # noqa: ARG001 - TransformerLens passes it by name
        kept.append(z)

    logits = model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", keep_z)])
    return logits, kept[0]


def _replacement(
    z: Float[Tensor, "batch pos head d_head"], replace_with: Replacement, seed: int
) -> Float[Tensor, "donor pos head d_head"]:
    """What stands in for an ablated head: one row for all examples or one for each."""
    if replace_with == "zero":
        return torch.zeros_like(z[:1])
    if replace_with == "mean":
        return z.mean(dim=0, keepdim=True)
    cycle = torch.randperm(z.shape[0], generator=seeded_generator(seed, "resample-ablation"))
    donors = torch.empty_like(cycle)
    donors[cycle] = cycle.roll(1)
    return z[donors.to(z.device)]


def _ablate_linear(
    model: HookedModel, tokens: Tensor, keep: Tensor, replace_with: Replacement, seed: int, positions: slice
) -> Tensor:
    logits, change = logits_and_head_changes(model, tokens, replace_with, seed, positions)
    ablated = (~keep).to(logits.dtype)
    result = torch.addmm(logits.reshape(1, -1), ablated, rearrange(change, "head ... -> head (...)"))
    return result.view(keep.shape[0], *logits.shape)


def _ablate_with_hooks(
    model: HookedModel,
    tokens: Tensor,
    keep: Tensor,
    layer: int,
    replace_with: Replacement,
    seed: int,
    positions: slice,
    memory_budget: int,
) -> Tensor:
    logits, clean = _logits_and_z(model, tokens, layer)
    replacement = _replacement(clean, replace_with, seed)
    n_examples = tokens.shape[0]
    # Of one example the residual stream, the pattern, an MLP and the logits are alive together; four covers copies.
    cfg = model.cfg
    widths = cfg.d_model + (cfg.d_mlp or 0) + cfg.n_heads * tokens.shape[1] + logits.shape[-1]
    floats = tokens.shape[1] * widths
    at_once = max(1, memory_budget // (4 * 4 * floats * n_examples))
    results = []
    for conditions in keep.split(at_once):
        kept = rearrange(conditions, "condition head -> condition 1 1 head 1")
        z = rearrange(torch.where(kept, clean, replacement), "condition batch ... -> (condition batch) ...")

        def put_in(original: Tensor, hook: Any, z: Tensor = z) -> Tensor:  # noqa: ARG001
            return z

        repeated = repeat(tokens, "batch pos -> (condition batch) pos", condition=len(conditions))
        out = model.run_with_hooks(repeated, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", put_in)])
        out = rearrange(out, "(condition batch) ... -> condition batch ...", batch=n_examples)
        results.append(out[:, :, positions])
    return torch.cat(results)
