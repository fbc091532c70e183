"""What a model's name can mean."""

from __future__ import annotations

import difflib
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformer_lens.loading_from_pretrained import get_official_model_name, make_model_alias_map
from transformer_lens.supported_models import OFFICIAL_MODEL_NAMES

from mi_superposition.errors import RequestError
from mi_superposition.models.attention_only import MODEL_CONFIG
from mi_superposition.runs import MANIFEST, read_manifest

HUGGING_FACE_CONFIG = "config.json"
# What TransformerLens calls official stands on the hub under its owner's name.
_OWNED = {f"gpt2{size}": f"openai-community/gpt2{size}" for size in ("", "-medium", "-large", "-xl")} | {
    "distilgpt2": "distilbert/distilgpt2"
}
_BUNDLED_FOLDER = Path(__file__).parent.parent / "bundled"
BUNDLED_MODELS = {name: _BUNDLED_FOLDER / name for name in ("addition", "addition-exact", "stories")}


def model_folder(name: str | Path) -> Path | None:
    """Folder of a bundled model, of a finished run that holds one, of a model in Hugging Face layout, or of one of ``save_model``.

    ``None`` for what can only be an id on the hub. Raises ``RequestError`` for a folder without a model.
    """
    if str(name) in BUNDLED_MODELS:
        return BUNDLED_MODELS[str(name)]
    folder = Path(name)
    if (folder / MANIFEST).is_file():
        read_manifest(folder)
        if not any((folder / config).is_file() for config in (MODEL_CONFIG, HUGGING_FACE_CONFIG)):
            raise RequestError(f"{str(name)!r} is a run folder without a model: give one of 'addition train'")
        return folder
    if (folder / HUGGING_FACE_CONFIG).is_file() or (folder / MODEL_CONFIG).is_file():
        return folder
    if folder.is_dir():
        raise RequestError(
            f"{str(name)!r} is a folder without {HUGGING_FACE_CONFIG}, {MODEL_CONFIG} or {MANIFEST}: it holds no model"
        )
    return None


def local_model_folder(name: str | Path) -> Path:
    """As ``model_folder``, for what must lie on this machine. Raises ``RequestError`` for an id on the hub."""
    folder = model_folder(name)
    if folder is None:
        known = ", ".join(repr(known) for known in BUNDLED_MODELS)
        raise RequestError(f"{str(name)!r} is neither a bundled model nor a run folder: {_hint(str(name), known)}")
    return folder


def hub_id(name: str) -> str:
    """The id on the hub that a name stands for: TransformerLens's official id for its aliases, else ``OWNER/MODEL``.

    Raises ``RequestError`` for what can be neither.
    """
    if name.lower() in make_model_alias_map():
        official = get_official_model_name(name)
        return _OWNED.get(official, official)
    parts = name.split("/")
    if len(parts) == 2:
        try:
            validate_repo_id(name)
        except HFValidationError:
            raise RequestError(f"{name!r} is no folder here, and no id on the hub can be written so") from None
        return name
    known = f"bundled models are {', '.join(repr(known) for known in BUNDLED_MODELS)}; a hub id or a folder works too"
    raise RequestError(f"{name!r} is no model: {_hint(name, known)}")


def nearest_name(name: str) -> str | None:
    """The bundled name or official id that is spelt most like ``name``; ``None`` where none is."""
    # Official ids last: in their own spelling they replace what the alias map has in small letters.
    known = {
        known.lower(): known
        for known in (*make_model_alias_map(), *OFFICIAL_MODEL_NAMES, *_OWNED.values(), *BUNDLED_MODELS)
    }
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return known[near[0]] if near else None


def _hint(name: str, otherwise: str) -> str:
    near = nearest_name(name)
    return f"did you mean {near!r}?" if near and near != name else otherwise
