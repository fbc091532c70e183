"""What a model's hooks hear as it reads tokens; the model stops at the last hook asked for."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Collection
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mi_superposition.errors import RequestError
from mi_superposition.models.protocol import HookedModel
from mi_superposition.parts import ForwardPart

# What is added to a hook's name for what an encoder, such as a sparse autoencoder's, makes of its activations.
FEATURES = ".features"
Encode = Callable[[Tensor], Tensor]


class _Enough(Exception):
    """Raised within the model when the last hook asked for has been heard."""


def check_hooks(model: HookedModel, hooks: Collection[str]) -> None:
    """Raise ``RequestError``, naming the nearest there is, for a hook that the model does not have."""
    for hook in hooks:
        if hook not in model.hook_dict:
            near = difflib.get_close_matches(hook, model.hook_dict, n=4)
            hint = f"did you mean {near[0]!r}?" if near else "model.hook_dict lists those there are"
            if near[1:]:
                hint += f" ({', '.join(map(repr, near[1:]))} are near too)"
            raise RequestError(f"hook {hook!r} is not in the model: {hint}")


def layer_hooks(model: HookedModel) -> list[str]:
    """Hooks of a language model along its depth: the residual stream before each layer, what its heads and its neurons give,
    and the residual stream at the end.
    """
    parts = ("hook_resid_pre", "attn.hook_z") + (() if model.cfg.attn_only else ("mlp.hook_post",))
    hooks = [f"blocks.{layer}.{part}" for layer in range(model.cfg.n_layers) for part in parts]
    return [*hooks, f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"]


def hook_widths(model: HookedModel, hooks: Collection[str]) -> dict[str, int]:
    """How many dimensions each hook's activations have at a token; raises as ``read_hooks`` does."""
    found = read_hooks(model, torch.zeros(1, 2, dtype=torch.long), hooks)
    return {hook: values.shape[2] for hook, values in found.items()}


@torch.no_grad()
def read_hooks(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    hooks: Collection[str],
    *,
    precision: str = ForwardPart.precision,
) -> dict[str, Tensor]:
    """The activations ``[batch pos d]`` of every hook, on the model's device; further axes are taken as one.

    ``precision="bfloat16"`` runs the model under autocast. Raises ``RequestError`` for a hook that is not there, says
    nothing, or whose first axes are not those of the tokens.
    """
    check_hooks(model, hooks)
    device = model.W_E.device
    heard: dict[str, Tensor] = {}

    # A TransformerBridge calls a hook by another name than the one it was asked for by, so the name comes along.
    def hear(activation: Tensor, hook: Any, name: str) -> None:  # noqa: ARG001
        if activation.shape[:2] != tokens.shape:
            raise RequestError(
                f"hook {name!r} gives {tuple(activation.shape)}: units need the axes (batch, pos, …), here "
                f"{tuple(tokens.shape)}"
            )
        heard[name] = activation.flatten(2)
        if len(heard) == len(hooks):
            raise _Enough

    listening = [(name, functools.partial(hear, name=name)) for name in hooks]
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    try:
        with autocast, model.hooks(fwd_hooks=listening):
            model(tokens.to(device))
    except _Enough:
        pass
    if silent := set(hooks) - heard.keys():
        raise RequestError(f"hook {min(silent)!r} is in the model but gives nothing as it is set up: name another")
    return heard
