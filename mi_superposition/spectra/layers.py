"""The weight matrices of a network's layers and the covariances of their activations, for any module and for language models with
hooks.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mi_superposition.corpora import TokenBatch
from mi_superposition.errors import RequestError
from mi_superposition.models import check_hooks, read_hooks
from mi_superposition.models.protocol import HookedModel
from mi_superposition.streaming import CovarianceAccumulator

# In the order in which PyTorch keeps them.
_GATES = {"LSTM": (".input", ".forget", ".cell", ".output"), "GRU": (".reset", ".update", ".new")}


def weight_matrices(module: nn.Module) -> Iterator[tuple[str, Float[Tensor, "out in"]]]:
    """Name and weight of every linear, convolutional, attention, embedding and recurrent layer, in the module's order.

    A convolution kernel is the matrix from an input patch to output channels, of a transposed one from input channels to an output
    patch; with groups it is block-diagonal. The transposed layers of GPT-2 in transformers are turned round; the query, key and value
    of ``MultiheadAttention`` and the gates of an LSTM or GRU come one by one. Layers that share a weight give it once.
    """
    seen: set[tuple[int, str]] = set()
    for name, layer in module.named_modules():
        for suffix, matrix, weight in _matrices(layer):
            if (id(weight), suffix) not in seen:
                seen.add((id(weight), suffix))
                yield f"{name}{suffix}", matrix.detach()


def _matrices(layer: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What follows the layer's name, the matrix, and the parameter it is from."""
    if isinstance(layer, nn.Linear):
        yield "", layer.weight, layer.weight
    elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        yield "", torch.block_diag(*layer.weight.flatten(1).chunk(layer.groups)), layer.weight
    elif isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        yield "", torch.block_diag(*layer.weight.flatten(1).chunk(layer.groups)).T, layer.weight
    elif isinstance(layer, Conv1D | nn.Embedding):
        yield "", layer.weight.T, layer.weight
    elif isinstance(layer, nn.RNNBase):
        for name, weight in layer.named_parameters():
            if name.startswith("weight_"):
                gates = _GATES.get(layer.mode, ("",))
                # A projection of an LSTM's state has no gates.
                gates = ("",) if name.startswith("weight_hr") else gates
                for gate, matrix in zip(gates, weight.chunk(len(gates)), strict=True):
                    yield f".{name}{gate}", matrix, weight
    elif isinstance(layer, nn.MultiheadAttention) and layer.in_proj_weight is not None:
        for suffix, matrix in zip((".query", ".key", ".value"), layer.in_proj_weight.chunk(3), strict=True):
            yield suffix, matrix, layer.in_proj_weight


def hooked_weight_matrices(model: HookedModel) -> Iterator[tuple[str, Float[Tensor, "out in"]]]:
    """Name and weight of embedding, attention, MLP and unembedding of a language model with hooks, as TransformerLens names them;
    the heads of a layer are concatenated.
    """
    yield "embed.W_E", model.W_E.detach().T
    for layer in range(model.cfg.n_layers):
        attention = model.blocks[layer].attn
        for name in ("W_Q", "W_K", "W_V"):
            # With grouped queries the plain name repeats keys and values for every query's head.
            matrix = getattr(attention, f"_{name}", None)
            matrix = getattr(attention, name) if matrix is None else matrix
            yield (
                f"blocks.{layer}.attn.{name}",
                rearrange(matrix.detach(), "head d_model d_head -> (head d_head) d_model"),
            )
        yield (
            f"blocks.{layer}.attn.W_O",
            rearrange(attention.W_O.detach(), "head d_head d_model -> d_model (head d_head)"),
        )
        if not model.cfg.attn_only:
            yield from _mlp_matrices(model.blocks[layer].mlp, f"blocks.{layer}.mlp")
    yield "unembed.W_U", model.W_U.detach().T


def _mlp_matrices(mlp: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Of a mixture of experts each expert's own, and the router's."""
    for part in ("W_in", "W_gate", "W_out"):
        matrix = getattr(mlp, part, None)
        if isinstance(matrix, nn.Linear):
            yield f"{name}.{part}", matrix.weight.detach()
        elif isinstance(matrix, Tensor):
            yield f"{name}.{part}", matrix.detach().T
    experts = getattr(mlp, "experts", None)
    # A bridge has those of transformers, which may be one module for all.
    for number, expert in enumerate(experts if isinstance(experts, nn.ModuleList) else ()):
        yield from _mlp_matrices(expert, f"{name}.experts.{number}")


def matching(names: Sequence[str], patterns: Sequence[str], what: str) -> list[str]:
    """The names that match any pattern (as file names do: ``*``, ``?``), in their order.

    Raises ``RequestError`` for a pattern that matches none.
    """
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            shown = ", ".join(map(repr, names[:6])) + (", …" if len(names) > 6 else "")
            raise RequestError(f"layers = {pattern!r} matches nothing in {what}: it has {shown or 'no such layers'}")
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def channel_axis(layer: nn.Module, output: Tensor) -> int:
    """The axis of a layer's output that has its channels: the second of convolutions and of images, the last of everything else."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.modules.batchnorm._BatchNorm):
        return 1
    features_last = isinstance(layer, nn.Linear | nn.LayerNorm | Conv1D)
    return 1 if output.ndim == 4 and not features_last else -1


def samples_by_channel(activations: Tensor, axis: int = 1) -> Float[Tensor, "sample channel"]:
    """Activations with their channels as variables and everything else, batch and space, as samples."""
    return activations.movedim(axis, -1).flatten(0, -2)


@torch.no_grad()
def activation_covariances(
    module: nn.Module, batches: Iterable[Tensor], layers: Sequence[str], *, axis: int | None = None
) -> dict[str, CovarianceAccumulator]:
    """Mean and covariance of the outputs of named layers over all batches, in one pass; ``axis`` is that of the channels
    (default: ``channel_axis``), every other one (batch, space, tokens) counts as samples. Memory does not grow with the number of
    batches.

    A layer that runs several times in a pass adds all its outputs. Raises ``RequestError`` for a layer that is not there or does
    not run, and as ``CovarianceAccumulator.update`` for values that are not finite.
    """
    known = dict(module.named_modules())
    for name in layers:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = (
                f"did you mean {' or '.join(map(repr, near))}?" if near else f"the network has {len(known) - 1} others"
            )
            raise RequestError(f"layer {name!r} is not in the network: {hint}")
    seen: dict[str, CovarianceAccumulator] = {}

    def record(name: str, output: Any) -> None:
        # Recurrent and attention layers give a tuple whose first is their output.
        output = output[0] if isinstance(output, tuple) else output
        if not isinstance(output, Tensor) or output.ndim < 2:
            raise RequestError(f"layer {name!r} gives no activations of samples by channels: name another")
        along = channel_axis(known[name], output) if axis is None else axis
        samples = samples_by_channel(output.detach().float(), along)
        seen.setdefault(name, CovarianceAccumulator(samples.shape[1], precise=True)).update(samples)

    hooks = [
        known[name].register_forward_hook(lambda layer, inputs, output, name=name: record(name, output))
        for name in layers
    ]
    try:
        for batch in batches:
            module(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if silent := [name for name in layers if name not in seen]:
        raise RequestError(f"layer {silent[0]!r} is in the network but did not run: name another")
    return {name: seen[name] for name in layers}


@torch.no_grad()
def hooked_covariances(
    model: HookedModel, batches: Iterable[TokenBatch], hooks: Sequence[str]
) -> dict[str, CovarianceAccumulator]:
    """Mean and covariance of a language model's activations at hooks over all tokens of text, in one pass; axes after the position
    are flattened. Padding, beginning and end tokens are no samples.

    Raises as ``read_hooks`` and ``CovarianceAccumulator.update`` do, and ``RequestError`` for a corpus without tokens.
    """
    if not hooks:
        return {}
    check_hooks(model, hooks)
    seen: dict[str, CovarianceAccumulator] = {}
    for batch in batches:
        for name, values in read_hooks(model, batch.tokens, hooks).items():
            samples = values[batch.mask.to(values.device)].float()
            seen.setdefault(name, CovarianceAccumulator(samples.shape[1], precise=True)).update(samples)
    if not seen:
        raise RequestError("the corpus holds no tokens: give another")
    return {name: seen[name] for name in hooks}
