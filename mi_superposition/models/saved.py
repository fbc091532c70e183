"""Any ``HookedTransformer`` in a folder: its configuration, its weights, and its tokenizer if it has one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

from mi_superposition.errors import RequestError, WorkError, first_line, is_out_of_memory
from mi_superposition.files import read_tensors, write_json, write_tensors
from mi_superposition.models.attention_only import (
    MODEL_CONFIG,
    MODEL_WEIGHTS,
    load_weights,
    weights_of,
    without_deprecations,
)
from mi_superposition.models.protocol import NO_BEGINNING, PROCESSED, HookedModel
from mi_superposition.models.tokenizer_files import read_tokenizer, save_tokenizer
from mi_superposition.schemas import read_as

# The entry of ``model.json`` that says that the whole configuration is there.
WHOLE = "hooked_transformer"
# Where a model is, and what it was made from, is not part of what it is.
_NOT_SAVED = {"device", "n_devices", "tokenizer_name", "init_weights", "seed", "checkpoint_index", "checkpoint_value"}


class _Described(TypedDict):
    """``model.json``: the fields of TransformerLens's configuration, and what is remembered of the model."""

    hooked_transformer: dict[str, Any]
    no_beginning_token: NotRequired[bool]
    processed_weights: NotRequired[dict[str, bool]]


def save_model(model: HookedModel, folder: str | Path) -> None:
    """Write a ``HookedTransformer`` so that ``load_model(folder)`` gives it back: ``model.json``, ``model.safetensors`` and the files of
    its tokenizer.

    Raises ``RequestError`` for another kind of model and for a folder that holds files, ``WorkError`` when the disk refuses.
    """
    folder = Path(folder)
    if not isinstance(model, HookedTransformer):
        raise RequestError(
            f"a {type(model).__name__} cannot be saved: save the model of transformers in it, model.original_model, with save_pretrained"
        )
    if folder.exists() and (others := sorted(path.name for path in folder.iterdir())):
        raise RequestError(f"{str(folder)!r} holds files ({others[0]!r}, …): give a new or empty folder")
    fields = {field.name: getattr(model.cfg, field.name) for field in dataclasses.fields(model.cfg)}
    config = {name: value for name, value in fields.items() if name not in _NOT_SAVED}
    config["dtype"] = str(model.W_E.dtype).removeprefix("torch.")
    try:
        json.dumps(config, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RequestError(f"the model's configuration cannot be written as JSON: {error}") from error
    write_tensors(folder / MODEL_WEIGHTS, weights_of(model))
    if model.tokenizer is not None:
        save_tokenizer(model.tokenizer, folder)
    remembered = {name: getattr(model, name) for name in (NO_BEGINNING, PROCESSED) if hasattr(model, name)}
    # Last: a folder with a configuration is a whole one.
    write_json(folder / MODEL_CONFIG, {WHOLE: config, **remembered})


def load_saved(folder: Path) -> HookedTransformer:
    """The model that ``save_model`` wrote, on the CPU. Raises ``WorkError`` for damaged files."""
    described = read_as(folder / MODEL_CONFIG, _Described)
    tensors, _ = read_tensors(folder / MODEL_WEIGHTS)
    _check_sizes(described[WHOLE], tensors, folder)
    try:
        fields = dict(described[WHOLE])
        dtype = getattr(torch, fields.pop("dtype"))
        with torch.random.fork_rng(devices=[]), without_deprecations():
            config = HookedTransformerConfig(**fields, dtype=dtype, device="cpu", init_weights=False)
            model = HookedTransformer(config, read_tokenizer(folder), move_to_device=False)
    # It checks with errors of all kinds.
    except Exception as error:
        if isinstance(error, RequestError | WorkError) or is_out_of_memory(error):
            raise
        raise WorkError(
            f"{str(folder / MODEL_CONFIG)!r} is damaged, or of another version of TransformerLens: {first_line(error)}"
        ) from error
    load_weights(model, tensors, source=folder / MODEL_WEIGHTS)
    for name in (NO_BEGINNING, PROCESSED):
        if name in described:
            setattr(model, name, described[name])
    return model


def _check_sizes(fields: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Raise ``WorkError`` for a configuration of other sizes than the weights: a model of them may be larger than the memory."""
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    embedding, queries = (tensors.get(name, torch.zeros(())) for name in ("embed.W_E", "blocks.0.attn.W_Q"))
    sizes = {"n_layers": len(blocks)}
    sizes |= dict(zip(("d_vocab", "d_model"), embedding.shape, strict=False))
    sizes |= dict(zip(("n_heads", "d_model", "d_head"), queries.shape, strict=False))
    for name, weight, axis in (("d_mlp", "blocks.0.mlp.W_in", 1), ("d_vocab_out", "unembed.W_U", 1)):
        if weight in tensors and tensors[weight].ndim == 2:
            sizes[name] = tensors[weight].shape[axis]
    if fields.get("positional_embedding_type") == "standard" and "pos_embed.W_pos" in tensors:
        sizes["n_ctx"] = len(tensors["pos_embed.W_pos"])
    for name, size in sizes.items():
        if fields.get(name) != size:
            raise WorkError(
                f"{str(folder / MODEL_CONFIG)!r} is damaged: {name} is {fields.get(name)!r}, in {MODEL_WEIGHTS} it is {size}"
            )


def is_whole(folder: Path) -> bool:
    """Whether the model in a folder was written by ``save_model``, not by 'addition train'."""
    return WHOLE in read_as(folder / MODEL_CONFIG, dict[str, Any])
