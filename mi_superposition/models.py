"""Models by name: bundled, or a run folder of this package. The only file that builds a language model."""

from __future__ import annotations

import difflib
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

from mi_superposition.errors import RequestError, WorkError
from mi_superposition.runs import MANIFEST, read_json, read_manifest, read_tensors, write_json, write_tensors

MODEL_WEIGHTS = "model.safetensors"
MODEL_CONFIG = "model.json"
SNAPSHOTS = "snapshots"
_BUNDLED_FOLDER = Path(__file__).parent / "bundled"
BUNDLED_MODELS = {"addition": _BUNDLED_FOLDER / "addition", "addition-exact": _BUNDLED_FOLDER / "addition-exact"}
# The fields that, with the weights, make an attention-only model again.
_CONFIG_FIELDS = ("n_layers", "n_heads", "d_head", "d_model", "n_ctx", "d_vocab", "d_vocab_out")


def load_model(name: str | Path, *, device: str = "auto") -> HookedTransformer:
    """A model by its bundled name (``"addition"``, ``"addition-exact"``) or from a run folder, in eval mode.

    ``device`` is ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``: cuda where there is one, else cpu. Raises
    ``RequestError`` for an unknown name or device and ``WorkError`` for damaged files.
    """
    folder = model_folder(name)
    config = _read_config(folder)
    tensors, _ = read_tensors(folder / MODEL_WEIGHTS)
    model = build_attention_only_model(**config, seed=0)
    load_weights(model, tensors, source=folder / MODEL_WEIGHTS)
    return _moved(model, _device(device)).eval()


def model_folder(name: str | Path) -> Path:
    """Folder of a bundled model or of a finished run that holds one. Raises ``RequestError`` otherwise."""
    if str(name) in BUNDLED_MODELS:
        return BUNDLED_MODELS[str(name)]
    folder = Path(name)
    if (folder / MANIFEST).is_file():
        read_manifest(folder)
        if not (folder / MODEL_CONFIG).is_file():
            raise RequestError(f"{str(name)!r} is a run folder without a model: give one of 'addition train'")
        return folder
    known = ", ".join(repr(known) for known in BUNDLED_MODELS)
    near = difflib.get_close_matches(str(name), BUNDLED_MODELS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"bundled models are {known}; a run folder works too"
    raise RequestError(f"{str(name)!r} is neither a bundled model nor a run folder: {hint}")


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
    # fork_rng and warnings: TransformerLens draws from the global generator and warns that 4.0 drops the class.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(seed)
        return HookedTransformer(config)


def load_snapshots(folder: Path) -> list[tuple[int, HookedTransformer]]:
    """The models kept while a run was trained, as (epoch, model) in order; empty where there are none."""
    snapshots = []
    for path in sorted((folder / SNAPSHOTS).glob("*.safetensors")):
        tensors, _ = read_tensors(path)
        model = build_attention_only_model(**_read_config(folder), seed=0)
        load_weights(model, tensors, source=path)
        snapshots.append((int(path.stem), model.eval()))
    return snapshots


def save_snapshot(model: HookedTransformer, folder: Path, epoch: int) -> None:
    """Keep the weights of one epoch in half precision, for ``load_snapshots``."""
    half = {name: tensor.half() for name, tensor in weights_of(model).items()}
    write_tensors(folder / SNAPSHOTS / f"{epoch:06d}.safetensors", half)


def untrained_copy(model: HookedTransformer, seed: int) -> HookedTransformer:
    """The control: the same architecture as an attention-only ``model``, freshly initialised, on its device."""
    return _moved(build_attention_only_model(**_config_of(model), seed=seed), model.W_E.device).eval()


def save_model(model: HookedTransformer, folder: Path) -> None:
    """Write an attention-only model so that ``load_model(folder)`` gives it back."""
    write_json(folder / MODEL_CONFIG, _config_of(model))
    write_tensors(folder / MODEL_WEIGHTS, weights_of(model))


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
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


def _read_config(folder: Path) -> dict[str, int]:
    config = read_json(folder / MODEL_CONFIG)
    whole = isinstance(config, dict) and set(config) == set(_CONFIG_FIELDS)
    if not whole or not all(isinstance(value, int) for value in config.values()):
        wanted = ", ".join(_CONFIG_FIELDS)
        raise WorkError(f"{str(folder / MODEL_CONFIG)!r} is damaged: it must give whole numbers for {wanted}")
    return config


def _config_of(model: HookedTransformer) -> dict[str, Any]:
    return {field: getattr(model.cfg, field) for field in _CONFIG_FIELDS}


def _moved(model: HookedTransformer, device: str | torch.device) -> HookedTransformer:
    """The model on a device, without TransformerLens's word on it to standard output."""
    return model.to(device, print_details=False)


def _device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device not in available:
        raise RequestError(f"device = {device!r}: give 'auto', 'cpu', 'cuda' or 'mps'")
    if not available[device]:
        raise RequestError(f"device = {device!r}: this machine has none; give 'auto' or 'cpu'")
    return device
