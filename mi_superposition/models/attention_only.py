"""Attention-only models: built, saved in run folders, and their snapshots over training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec
import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import read_tensors, write_json, write_tensors
from mi_superposition.models.protocol import HookedModel
from mi_superposition.schemas import read_as

MODEL_WEIGHTS = "model.safetensors"
MODEL_CONFIG = "model.json"
SNAPSHOTS = "snapshots"
# The fields that, with the weights, make an attention-only model again.
_Size = Annotated[int, msgspec.Meta(ge=1)]


class _Sizes(TypedDict):
    n_layers: _Size
    n_heads: _Size
    d_head: _Size
    d_model: _Size
    n_ctx: _Size
    d_vocab: _Size
    d_vocab_out: _Size


def load_attention_only(folder: Path) -> HookedTransformer:
    """The model that ``save_attention_only`` wrote. Raises ``WorkError`` for damaged files."""
    return _loaded(folder, folder / MODEL_WEIGHTS)


def build_attention_only_model(
    *,
    n_layers: int,
    n_heads: int,
    d_head: int,
    d_model: int,
    n_ctx: int,
    d_vocab: int,
    d_vocab_out: int,
    seed: int,
) -> HookedTransformer:
    """A fresh attention-only transformer without normalisation, initialised as TransformerLens does from ``seed``.

    Leaves the global random state as it was. Raises ``RequestError`` for a size below 1.
    """
    sizes = dict(
        n_layers=n_layers,
        n_heads=n_heads,
        d_head=d_head,
        d_model=d_model,
        n_ctx=n_ctx,
        d_vocab=d_vocab,
        d_vocab_out=d_vocab_out,
    )
    for name, value in sizes.items():
        if value < 1:
            raise RequestError(f"{name} = {value}: must be at least 1")
    shape: dict[str, Any] = dict(sizes)
    config = HookedTransformerConfig(
        **shape, attn_only=True, normalization_type=None, attention_dir="causal", device="cpu"
    )
    with torch.random.fork_rng(devices=[]), without_deprecations():
        torch.manual_seed(seed)
        return HookedTransformer(config)


@contextmanager
def without_deprecations() -> Iterator[None]:
    """TransformerLens says at every ``HookedTransformer`` that 4.0 drops the class; this project stays below 4."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


def load_snapshots(folder: Path) -> list[tuple[int, HookedTransformer]]:
    """The models kept while a run was trained, as (epoch, model) in order; empty where there are none."""
    snapshots = []
    for path in sorted((folder / SNAPSHOTS).glob("*.safetensors")):
        snapshots.append((int(path.stem), _loaded(folder, path).eval()))
    return snapshots


def _loaded(folder: Path, weights: Path) -> HookedTransformer:
    tensors, _ = read_tensors(weights)
    sizes: _Sizes = read_as(folder / MODEL_CONFIG, _Sizes)
    # Before a model is built, which may be larger than the memory.
    queries = (sizes["n_heads"], sizes["d_model"], sizes["d_head"])
    shapes: dict[str, tuple[int, ...]] = {
        f"blocks.{layer}.attn.W_Q": queries for layer in range(min(sizes["n_layers"], len(tensors)))
    }
    shapes |= {
        "embed.W_E": (sizes["d_vocab"], sizes["d_model"]),
        "pos_embed.W_pos": (sizes["n_ctx"], sizes["d_model"]),
        "unembed.W_U": (sizes["d_model"], sizes["d_vocab_out"]),
    }
    for name, shape in shapes.items():
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != shape:
            raise WorkError(f"{str(weights)!r}: {name} has shape {found}, {MODEL_CONFIG} says {shape}")
    model = build_attention_only_model(**sizes, seed=0)
    load_weights(model, tensors, source=weights)
    return model


def save_snapshot(model: HookedTransformer, folder: Path, epoch: int) -> None:
    """Keep the weights of one epoch in half precision, for ``load_snapshots``."""
    half = {name: tensor.half() for name, tensor in weights_of(model).items()}
    write_tensors(folder / SNAPSHOTS / f"{epoch:06d}.safetensors", half)


def save_attention_only(model: HookedTransformer, folder: Path) -> None:
    """Write an attention-only model so that ``load_model(folder)`` gives it back."""
    write_json(folder / MODEL_CONFIG, _config_of(model))
    write_tensors(folder / MODEL_WEIGHTS, weights_of(model))


def weights_of(model: torch.nn.Module | HookedModel) -> dict[str, Tensor]:
    """The model's parameters by name, without buffers such as the causal mask."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def load_weights(model: torch.nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Copy parameters into the model. Raises ``WorkError`` naming ``source`` unless names and shapes agree."""
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != found:
        name = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))[0]
        raise WorkError(f"{str(source)!r}: {name} has shape {found.get(name)}, the model needs {wanted.get(name)}")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])


def _config_of(model: HookedTransformer) -> dict[str, Any]:
    return {field: getattr(model.cfg, field) for field in _Sizes.__annotations__}
