"""Where heads look."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.heads.ablation import HookedModel


@torch.no_grad()
def attention_pattern(
    model: HookedModel, tokens: Int[Tensor, "batch pos"], *, layer: int = 0
) -> Float[Tensor, "batch head query key"]:
    """Attention weights of one layer (``hook_pattern``): rows sum to 1, dimensionless."""
    kept: list[Tensor] = []

    def keep(pattern: Tensor, hook: object) -> None:  # noqa: ARG001 - TransformerLens passes it by name
        kept.append(pattern)

    model.run_with_hooks(tokens.to(model.W_U.device), fwd_hooks=[(f"blocks.{layer}.attn.hook_pattern", keep)])
    return kept[0]
