"""What the configuration of a model says, read before its weights are downloaded."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from mi_superposition.errors import RequestError
from mi_superposition.files import read_json
from mi_superposition.models.catalogue import HUGGING_FACE_CONFIG, hub_id, model_folder
from mi_superposition.models.hub import answered

# What configurations of transformers call the number of heads, of layers and of positions.
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")


def model_settings(name: str) -> dict[str, Any] | None:
    """The configuration of a model in Hugging Face layout, of which at most this file is downloaded; ``None`` for other layouts.

    Raises as ``load_model`` for a name that is none, and as ``fetch_model`` for what the hub does not give.
    """
    folder = model_folder(name)
    if folder is None and Path(name).suffix.lower() == ".gguf":
        return None
    if folder is None:
        known = hub_id(name)
        path = answered(known, lambda: Path(hf_hub_download(known, HUGGING_FACE_CONFIG)))
    else:
        path = folder / HUGGING_FACE_CONFIG
    settings = read_json(path) if path.is_file() else None
    return settings if isinstance(settings, dict) else None


def check_heads(name: str, *, layers: Collection[int] = (), context: int | None = None) -> None:
    """Raise ``RequestError``, before its weights are downloaded, for a model without attention heads, layers that it lacks, and a context
    longer than its own, as far as its configuration tells.
    """
    settings = model_settings(name)
    if settings is None:
        return
    # Models that read pictures too keep what is said of their text apart.
    text = settings.get("text_config")
    settings = settings | text if isinstance(text, dict) else settings
    if "model_type" in settings and not any(settings.get(key) for key in _HEADS):
        raise RequestError(f"{name!r} is a {settings['model_type']!r}: it has no attention heads")
    n_layers = next((settings[key] for key in _LAYERS if isinstance(settings.get(key), int)), None)
    for layer in layers:
        if n_layers is not None and layer >= n_layers:
            raise RequestError(f"layer = {layer}: the model has layers 0 to {n_layers - 1}")
    longest = next((settings[key] for key in _POSITIONS if isinstance(settings.get(key), int)), None)
    if context is not None and longest is not None and context > longest:
        raise RequestError(f"context = {context}: must be 2 to {longest}, the context of the model")
