"""Autoencoders in SAELens's file format: ``cfg.json`` and ``sae_weights.safetensors``."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from sae_lens import SAE, TrainingSAE
from safetensors import SafetensorError

from mi_superposition.corpora import begins_with_token
from mi_superposition.errors import RequestError, WorkError, first_line
from mi_superposition.files import content_hash, file_hash, make_folder, text_hash, write_json, write_tensors
from mi_superposition.models import PROCESSED, PROCESSING, check_hooks, hook_widths, weights_of
from mi_superposition.models.protocol import HookedModel
from mi_superposition.runs import LOCK, MANIFEST, read_config
from mi_superposition.sae.catalogue import BUNDLED_SAES, is_published
from mi_superposition.sae.config import SaeTrainConfig
from mi_superposition.sae.declared import check_declared, check_encodes
from mi_superposition.sae.published import fetch_published, kept_folder

SAE_CONFIG, SAE_WEIGHTS = "cfg.json", "sae_weights.safetensors"
# SAELens's name for activations with an axis for heads, which it takes as one.
_BY_HEAD = "hook_z"
# Architectures whose features at a token depend on the tokens before it.
_OF_SEQUENCES = ("temporal",)


def inference_sae(training_sae: TrainingSAE[Any]) -> SAE[Any]:
    """What a trained autoencoder is used as, in eval mode: a batch top-k one, for example, gets a threshold."""
    weights = {name: value.detach().clone() for name, value in training_sae.state_dict().items()}
    training_sae.process_state_dict_for_saving_inference(weights)
    config = json.loads(json.dumps(training_sae.cfg.get_inference_sae_cfg_dict()))
    kind = config["architecture"]
    with _without_advice():
        sae = SAE.get_sae_class_for_architecture(kind)(
            SAE.get_sae_config_class_for_architecture(kind).from_dict(config)
        )
    sae.load_state_dict(weights)
    return sae.eval()


@contextmanager
def _without_advice() -> Iterator[None]:
    """Inside, SAELens does not say how a model would be loaded with its own functions: ours is loaded as it should be."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="\nThis SAE has non-empty model_from_pretrained_kwargs")
        yield


def save_sae(sae: SAE[Any], folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write an autoencoder whole or not at all; ``sae_lens.SAE.load_from_disk`` reads it.

    Raises ``WorkError`` when the disk refuses.
    """
    config = json.loads(json.dumps(sae.cfg.to_dict()))
    config |= {"dtype": str(dtype).removeprefix("torch."), "device": "cpu"}
    if (config["metadata"].get("hook_name") or "").endswith(_BY_HEAD):
        config["reshape_activations"] = _BY_HEAD
    write_tensors(folder / SAE_WEIGHTS, {name: value.to(dtype) for name, value in sae.state_dict().items()})
    # Last: a folder with a configuration is a whole one.
    write_json(folder / SAE_CONFIG, config)


def sae_folders(name: str | Path) -> dict[str, Path]:
    """The autoencoders a name stands for: ``"stories"`` (bundled), a finished run of 'sae train', which may hold several, a folder
    in SAELens's layout, or ``RELEASE:ID`` of SAELens's registry, which is fetched once and kept beside the hub's cache.

    Raises ``RequestError`` for what holds none, ``WorkError`` for a published one that cannot be had.
    """
    if str(name) in BUNDLED_SAES:
        return {str(name): BUNDLED_SAES[str(name)]}
    if is_published(name):
        folder = kept_folder(str(name))
        make_folder(folder)
        # Two processes may ask for it at once; the second waits.
        with FileLock(folder / LOCK):
            if not (folder / SAE_CONFIG).is_file():
                save_sae(fetch_published(str(name)), folder)
        return {str(name): folder}
    folder = Path(name)
    found = {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{SAE_CONFIG}"))}
    if (folder / MANIFEST).is_file():
        # In the order they were asked for.
        names = [job.name for job in read_config(folder, SaeTrainConfig, "sae train").jobs]
        found = {name: found[name] for name in names if name in found}
    if (folder / SAE_CONFIG).is_file():
        found = {folder.resolve().name: folder}
    if not found:
        known = ", ".join(map(repr, BUNDLED_SAES))
        raise RequestError(
            f"{str(name)!r} holds no sparse autoencoder: give {known}, a run of 'sae train', a folder with {SAE_CONFIG} or RELEASE:ID"
        )
    return found


def sae_identity(folder: Path) -> str:
    """SHA-256 over both files. Raises ``WorkError`` when one cannot be read."""
    return text_hash([file_hash(folder / SAE_CONFIG), file_hash(folder / SAE_WEIGHTS)])


def one_sae_folder(name: str | Path) -> Path:
    """The folder of the autoencoder a name stands for. Raises ``RequestError`` where there is none or more than one."""
    folders = sae_folders(name)
    if len(folders) > 1:
        several = ", ".join(repr(str(folder)) for folder in list(folders.values())[:3])
        raise RequestError(f"{str(name)!r} holds {len(folders)} autoencoders: give the folder of one ({several}, …)")
    [folder] = folders.values()
    return folder


def load_sae(name: str | Path, *, device: str | torch.device = "cpu") -> SAE[Any]:
    """One of SAELens's autoencoders in single precision and eval mode: bundled, of a run, from a folder of SAELens's, or published
    (``"gpt2-small-res-jb:blocks.8.hook_resid_pre"``).

    It reads activations with their last axes taken as one. Raises ``RequestError`` where there is none or more than one,
    ``WorkError`` for damaged files.
    """
    return read_sae(one_sae_folder(name), device=device)


def read_sae(folder: Path, *, device: str | torch.device = "cpu") -> SAE[Any]:
    """As ``load_sae``, from a folder that holds one. Raises ``WorkError`` for damaged files."""
    try:
        with _without_advice():
            sae = SAE.load_from_disk(folder, device=str(device), dtype="float32").eval()
        check_declared(sae)
        if sae.cfg.reshape_activations == _BY_HEAD:
            sae.turn_off_forward_pass_hook_z_reshaping()
            sae.cfg.reshape_activations = "none"
        if sae.cfg.architecture() not in _OF_SEQUENCES:
            check_encodes(sae)
    except (
        OSError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
        SafetensorError,
    ) as error:
        raise WorkError(f"cannot read the autoencoder in {str(folder)!r}: {first_line(error)}") from error
    return sae


def check_sae(sae: SAE[Any], model: HookedModel, hook: str | None = None) -> str:
    """The hook that an autoencoder reads in a model: ``hook``, or the one it was trained on.

    Raises ``RequestError`` for an autoencoder of another model (other weights, where it says which ones it was trained on, weights
    processed in another way, another number of dimensions).
    """
    metadata = sae.cfg.metadata
    if sae.cfg.architecture() in _OF_SEQUENCES:
        raise RequestError(
            f"a {sae.cfg.architecture()} autoencoder reads whole sequences in their order: only those that read each token by itself are "
            "evaluated"
        )
    hook = hook or metadata.hook_name
    if hook is None:
        raise RequestError("the autoencoder does not say which hook it reads: name one")
    check_hooks(model, [hook])
    wanted = metadata.model_sha256
    if wanted is not None and wanted != (given := content_hash(weights_of(model))):
        raise RequestError(
            f"the autoencoder was trained on {metadata.model_name!r} with the weights {wanted[:12]}…: these are {given[:12]}…"
        )
    asked, processed = processing_of(sae), getattr(model, PROCESSED, None)
    # One that names no model was trained a moment ago, and equal weights are processed alike.
    named = metadata.model_name is not None and wanted is None
    if named and processed is not None and asked != processed:
        raise RequestError(
            f"the autoencoder was trained on a model with {_told(asked)}, this one has {_told(processed)}: "
            f"give load_model(…, process_weights={asked or False})"
        )
    d_hook = hook_widths(model, [hook])[hook]
    if d_hook != sae.cfg.d_in:
        raise RequestError(f"the autoencoder reads {sae.cfg.d_in} dimensions: {hook!r} has {d_hook}")
    return hook


def target_of(sae: SAE[Any], model: HookedModel, hook: str) -> str:
    """The hook that an autoencoder which reads ``hook`` predicts: the same, or a transcoder's own target.

    Raises ``RequestError`` for a transcoder that does not say which hook it predicts, or predicts one of another width.
    """
    target = sae.cfg.metadata.hook_name_out
    d_out = getattr(sae.cfg, "d_out", None)
    if d_out is None and target in (None, sae.cfg.metadata.hook_name):
        return hook
    if target is None:
        raise RequestError(
            f"the transcoder reads {hook!r} and does not say which hook it predicts (metadata.hook_name_out)"
        )
    check_hooks(model, [target])
    d_target, d_out = hook_widths(model, [target])[target], sae.W_dec.shape[1]
    if d_target != d_out:
        raise RequestError(f"the transcoder predicts {d_out} dimensions: {target!r} has {d_target}")
    return target


def processing_of(sae: SAE[Any]) -> dict[str, bool]:
    """How the weights of the model were processed that an autoencoder was trained on, by TransformerLens's names; empty: not at all."""
    options = sae.cfg.metadata.model_from_pretrained_kwargs or {}
    return {name: True for name in PROCESSING if options.get(name)}


def _told(processing: dict[str, bool]) -> str:
    return ", ".join(processing) or "weights as they are in its file"


def trained_on(model: HookedModel, model_name: str, corpus_name: str, context: int) -> dict[str, Any]:
    """What an autoencoder remembers of its training: SAELens's names, and the hash of the model's weights."""
    return {
        "model_name": model_name,
        "model_sha256": content_hash(weights_of(model)),
        "model_class_name": type(model).__name__,
        # By default the residual stream as the model's file has it, not centred.
        "model_from_pretrained_kwargs": {"center_writing_weights": False, **getattr(model, PROCESSED, {})},
        "dataset_path": corpus_name,
        "context_size": context,
        "prepend_bos": begins_with_token(model),
        "exclude_special_tokens": True,
        "disable_concat_sequences": True,
    }
