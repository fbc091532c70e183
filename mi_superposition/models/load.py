"""``load_model``: a language model by name, on the device and in the precision asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import content_hash
from mi_superposition.models.attention_only import MODEL_CONFIG, load_attention_only, weights_of
from mi_superposition.models.catalogue import hub_id, model_folder
from mi_superposition.models.device import device_of
from mi_superposition.models.hub import fetch_model
from mi_superposition.models.hugging_face import load_check_of, load_hugging_face
from mi_superposition.models.protocol import PROCESSING, HookedModel
from mi_superposition.models.saved import is_whole, load_saved
from mi_superposition.parts import DevicePart
from mi_superposition.runs import CHECKED

GGUF = ".gguf"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def load_model(
    name: str | Path | HookedModel,
    *,
    device: str = DevicePart.device,
    dtype: str | torch.dtype = torch.float32,
    n_ctx: int | None = None,
    process_weights: bool | Mapping[str, bool] = False,
) -> HookedModel:
    """A model in eval mode: bundled, from a folder, or from the Hugging Face hub.

    A model object is given back as it is, whatever the other arguments are. ``name`` is ``"addition"``, ``"addition-exact"`` or ``"stories"``; a run folder that holds a model; a folder in
    Hugging Face layout; a ``.gguf`` file (extra ``[gguf]``); or an id on the hub such as ``"roneneldan/TinyStories-33M"`` (TransformerLens's short names
    work too). What is not in the local hub cache is downloaded after a line on standard error that says how large it
    is.

    ``device`` is ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``: cuda where there is one, else cpu. ``n_ctx`` shortens
    the context; TinyStories models get 512, the longest text they saw. The weights are those of the file, so logits
    are those of transformers; with ``process_weights`` layer norms are folded in and what cannot matter is centred, as
    TransformerLens's ``from_pretrained`` does, or with ``{"center_writing_weights": True}`` some of that (``fold_ln``,
    ``center_writing_weights``, ``center_unembed``, ``fold_value_biases``). It does nothing to an addition model, which has no layer norms.

    Raises ``RequestError`` for a name, device or dtype that is not there, a model that is not open to this user or an
    architecture that TransformerLens does not give back, and ``WorkError`` for damaged files or a network that fails.
    """
    if isinstance(name, HookedTransformer | TransformerBridge):
        return name
    if not isinstance(name, str | Path):
        raise RequestError(
            f"a {type(name).__name__} is no model: give a HookedTransformer, a TransformerBridge, a name or a folder"
        )
    place = device_of(device)
    precision = _dtype(dtype)
    processing = dict.fromkeys(PROCESSING, process_weights) if isinstance(process_weights, bool) else process_weights
    if unknown := sorted(processing.keys() - set(PROCESSING)):
        raise RequestError(f"process_weights: {unknown[0]!r} is not one of {', '.join(map(repr, PROCESSING))}")
    processing = {name: True for name in PROCESSING if processing.get(name)}
    folder = model_folder(name)
    asked = str(name)
    gguf_file = None
    if folder is None and Path(name).suffix.lower() == GGUF:
        if not Path(name).is_file():
            raise RequestError(f"{asked!r} is not there: give a file that exists")
        folder, gguf_file = Path(name).parent, Path(name).name
    if folder is None and Path(name).is_file():
        raise RequestError(
            f"{asked!r} is a file: give a folder or a {GGUF} file; of weights that Python can load, ms.save_model(model, folder) writes one"
        )
    if folder is None:
        asked = hub_id(asked)
        folder = fetch_model(asked)
    if gguf_file is None and (folder / MODEL_CONFIG).is_file():
        if n_ctx is not None:
            raise RequestError(f"n_ctx = {n_ctx}: {asked!r} keeps the context it was trained with")
        if processing and is_whole(folder):
            raise RequestError(f"process_weights: the weights in {asked!r} are as they were saved; process them before")
        load = load_saved if is_whole(folder) else load_attention_only
        model = load(folder).to(precision, print_details=False)
    else:
        model = load_hugging_face(
            folder, asked, dtype=precision, n_ctx=n_ctx, process_weights=processing, gguf_file=gguf_file
        )
    _check_finite(model, asked)
    # Without TransformerLens's word on it to standard output.
    return model.to(place, print_details=False).eval()


def _check_finite(model: HookedModel, name: str) -> None:
    """Raise ``WorkError`` for weights that hold a NaN or an infinity."""
    for parameter, weights in weights_of(model).items():
        # A sum shows both, and reads each number once.
        if not bool(weights.sum(dtype=torch.float64).isfinite()):
            raise WorkError(f"the weights of {name!r} hold a NaN or an infinity: {parameter}")


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    found = _DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise RequestError(f"dtype = {str(dtype)!r}: give {' or '.join(map(repr, _DTYPES))}")
    return found


def _rounded(value: float) -> float | None:
    return float(f"{value:.2g}") if math.isfinite(value) else None


def model_record(name: str, model: HookedModel) -> dict[str, Any]:
    """What a run folder says of the model that it read: its name, a hash of its weights, and how near it came to transformers."""
    check = load_check_of(model)
    record: dict[str, Any] = {"name": name, "sha256": content_hash(weights_of(model))}
    if check is not None:
        # Two digits: on another machine the last ones are others.
        rounded = {key: _rounded(value) if isinstance(value, float) else value for key, value in asdict(check).items()}
        record[CHECKED] = rounded
    return record
