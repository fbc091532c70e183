"""What every head does as a model reads tokens, layer after layer: nothing is kept of a layer once it was heard."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.errors import RequestError, WorkError
from mi_superposition.models.protocol import HookedModel
from mi_superposition.parts import ForwardPart


@dataclass(frozen=True)
class LayerReading:
    """The heads of one layer on some tokens. Float32, on the model's device.

    ``values`` are the value vectors in coordinates in which lengths and inner products are those of what ``W_O`` makes of them;
    ``written`` is the norm of what each head adds to the residual stream (before a normalisation that some models have there);
    ``entering`` is the residual stream that the layer reads.
    """

    layer: int
    pattern: Float[Tensor, "batch head query key"]
    values: Float[Tensor, "batch key head d_head"]
    written: Float[Tensor, "batch query head"]
    entering: Float[Tensor, "batch query d_model"]


class _Enough(Exception):
    """Raised within the model when its last heads have been heard."""


class HeadReader:
    """Hears the heads of a model. Keys and values that several heads share count for each of them.

    Raises ``RequestError`` for a model without attention heads.
    """

    def __init__(self, model: HookedModel, precision: str = ForwardPart.precision):
        self.model = model
        # Refuses a precision that there is none of.
        self.precision = ForwardPart().replace(precision=precision).precision
        self.layers = layers_with_heads(model)
        self._frames = {layer: _frame(model.blocks[layer].attn.W_O) for layer in self.layers}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.W_E.device

    @torch.no_grad()
    def read(self, tokens: Int[Tensor, "batch pos"], hear: Callable[[LayerReading], None]) -> None:
        """Run the model on tokens up to its last heads, and give ``hear`` what those of each layer do.

        Raises ``WorkError`` for a NaN or an infinity.
        """
        heard: dict[int, dict[str, Tensor]] = {}
        parts = ("hook_resid_pre", "attn.hook_v", "attn.hook_pattern", "attn.hook_z")

        # A TransformerBridge calls a hook by another name than the one it was asked for by, so layer and part come along.
        def listen(activation: Tensor, hook: Any, layer: int, part: str) -> None:  # noqa: ARG001
            found = heard.setdefault(layer, {})
            found[part] = activation
            if len(found) == len(parts):
                hear(self._reading(layer, heard.pop(layer)))
                if layer == self.layers[-1]:
                    raise _Enough

        hooks = [
            (f"blocks.{layer}.{part}", functools.partial(listen, layer=layer, part=part))
            for layer in self.layers
            for part in parts
        ]
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")
        with contextlib.suppress(_Enough), autocast, self.model.hooks(fwd_hooks=hooks):
            self.model(tokens.to(self.device))

    def _reading(self, layer: int, heard: dict[str, Tensor]) -> LayerReading:
        frame, n_heads = self._frames[layer], self.model.cfg.n_heads
        values = heard["attn.hook_v"].float()
        values = values.repeat_interleave(n_heads // values.shape[2], dim=2)

        def framed(vectors: Tensor) -> Tensor:
            return einsum(vectors.float(), frame, "batch pos head d, head d e -> batch pos head e")

        written = framed(heard["attn.hook_z"]).norm(dim=-1)
        if not bool(written.isfinite().all()):
            raise WorkError(f"what the heads of layer {layer} write holds a NaN or an infinity")
        pattern = heard["attn.hook_pattern"].float()
        return LayerReading(layer, pattern, framed(values), written, heard["hook_resid_pre"].float())


def layers_with_heads(model: HookedModel) -> Sequence[int]:
    """The layers that have attention heads. Raises ``RequestError`` where none has."""
    hooks = model.hook_dict
    layers = [layer for layer in range(model.cfg.n_layers) if f"blocks.{layer}.attn.hook_pattern" in hooks]
    if not layers:
        raise RequestError("the model has no attention heads: give one with attention")
    return layers


def _frame(output: Float[Tensor, "head d_head d_model"]) -> Float[Tensor, "head d_head d_head"]:
    """The symmetric root of ``W_O W_O^T``: it makes of a vector one as long as what ``W_O`` makes of it."""
    device, output = output.device, output.detach().cpu().double()
    squares, axes = torch.linalg.eigh(output @ output.transpose(1, 2))
    root = axes * squares.clamp_min(0).sqrt()[:, None] @ axes.transpose(1, 2)
    return root.float().to(device)
