"""Models from the Hugging Face hub, by way of its local cache."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo

from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import read_json
from mi_superposition.models.catalogue import HUGGING_FACE_CONFIG, nearest_name

# Any of these is a tokenizer.
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spm.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_DOWNLOADED_TOKENIZER = (
    "tokenizer*",
    "vocab.*",
    "spm.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
_SAFE_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
_PICKLED_WEIGHTS = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
# TransformerLens's own layout: of all checkpoints the last.
_OWN_WEIGHTS = ("*final.pth",)
# Whatever says that something on the hub cannot be had.
HUB_ERRORS = (HfHubHTTPError, OfflineModeIsEnabled, LocalEntryNotFoundError, HTTPError, ConnectionError, TimeoutError)
_TIMEOUT = 20.0
_Answer = TypeVar("_Answer")


def refuse_own_code(name: str | Path, error: Exception) -> None:
    """Raise ``RequestError`` where transformers refused a folder because it brings code of its own, which nothing here ever runs."""
    if "trust_remote_code" in str(error):
        raise RequestError(
            f"{str(name)!r} needs code that comes with it (auto_map in its configuration), which is never run: give a model that "
            "transformers itself has"
        ) from error


def kept_beside_hub_cache(*parts: str) -> Path:
    """Where what was made from files of the hub is kept; ``HF_HOME`` moves it with the hub's cache."""
    return Path(constants.HF_HOME, "mi_superposition", *parts)


def fetch_model(hub_id: str, *, tokenizer: bool = True) -> Path:
    """Folder of a model in the local hub cache, downloaded first where it is not there.

    Without ``tokenizer`` one in the cache will do that has none, as those of images have. What will be downloaded and how large it is goes to standard error before it starts. Raises ``RequestError`` for
    an id that is not on the hub (with the nearest known one) or not open to this user, ``WorkError`` when the
    network or the disk fails.
    """
    cached = _cached(hub_id)
    if cached is not None and (not tokenizer or _has_tokenizer(cached)):
        return cached
    try:
        return _download(hub_id)
    except WorkError:
        # Transformers caches a model and its tokenizer apart; a model without one is better than none.
        if cached is None:
            raise
        return cached


def fetch_tokenizer(hub_id: str) -> Path:
    """Folder of a tokenizer in the local hub cache, downloaded first where it is not there."""
    patterns = [HUGGING_FACE_CONFIG, *_DOWNLOADED_TOKENIZER]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns, local_files_only=True))
    except LocalEntryNotFoundError:
        return answered(hub_id, lambda: Path(snapshot_download(hub_id, allow_patterns=patterns)))


def _cached(hub_id: str) -> Path | None:
    """The snapshot in the cache, if its weights are whole."""
    try:
        folder = Path(snapshot_download(hub_id, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    if not (folder / HUGGING_FACE_CONFIG).is_file():
        return None
    return folder if _has_weights(folder) else None


def _has_tokenizer(folder: Path) -> bool:
    """Whether the tokenizer lies there; models in TransformerLens's own layout name one elsewhere."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES) or any(folder.glob(_OWN_WEIGHTS[0]))


def _has_weights(folder: Path) -> bool:
    """Whether one format of the weights is there with all its parts."""
    for index in (folder / "model.safetensors.index.json", folder / "pytorch_model.bin.index.json"):
        if index.is_file():
            return all((folder / part).is_file() for part in read_json(index)["weight_map"].values())
    whole = ("model.safetensors", "pytorch_model.bin", *_OWN_WEIGHTS)
    return any(path for name in whole for path in folder.glob(name))


def _download(hub_id: str) -> Path:
    info = answered(hub_id, lambda: HfApi().model_info(hub_id, files_metadata=True, timeout=_TIMEOUT))
    files = _needed(info)
    if not any(Path(name).suffix in (".safetensors", ".bin", ".pth") for name in files):
        raise RequestError(f"{hub_id!r} holds no weights that can be read: safetensors, pytorch_model.bin or final.pth")
    size = sum(files.values()) / 1e6
    print(f"downloading {hub_id}: {len(files)} files, {size:,.0f} MB", file=sys.stderr, flush=True)
    return answered(hub_id, lambda: Path(snapshot_download(hub_id, allow_patterns=list(files))))


def _needed(info: ModelInfo) -> dict[str, int]:
    """Files of the model and their sizes in bytes; of several formats of the weights the safest."""
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}

    def matching(*patterns: str) -> list[str]:
        return [name for name in sizes if any(Path(name).match(pattern) for pattern in patterns) and "/" not in name]

    weights = matching(*_SAFE_WEIGHTS) or matching(*_PICKLED_WEIGHTS) or matching(*_OWN_WEIGHTS)
    names = [*matching(HUGGING_FACE_CONFIG, "generation_config.json", *_DOWNLOADED_TOKENIZER), *weights]
    return {name: sizes[name] for name in names}


def answered(hub_id: str, ask: Callable[[], _Answer]) -> _Answer:
    """What the hub answers, its refusals as one line each."""
    try:
        return ask()
    except GatedRepoError as error:
        raise RequestError(
            f"{hub_id!r} is gated: accept its terms on its page, then log in with 'hf auth login' or set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        near = nearest_name(hub_id)
        hint = (
            f"did you mean {near!r}?" if near and near != hub_id else "check the spelling, or log in if it is private"
        )
        raise RequestError(f"{hub_id!r} is not on the hub: {hint}") from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise WorkError(_missing(hub_id, "the hub is switched off or not to be reached")) from error
    except HfHubHTTPError as error:
        raise WorkError(f"the hub failed on {hub_id!r}: {str(error).splitlines()[0]}") from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise WorkError(_missing(hub_id, "the hub cannot be reached")) from error


def _missing(hub_id: str, reason: str) -> str:
    near = nearest_name(hub_id)
    hint = f" (did you mean {near!r}?)" if near and near != hub_id else ""
    offline = " with HF_HUB_OFFLINE unset" if os.environ.get("HF_HUB_OFFLINE") else ""
    return f"{hub_id!r} is not in the local hub cache and {reason}{hint}: try again on a network{offline}, or give a folder"
