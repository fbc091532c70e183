"""Language models in Hugging Face layout: built, saved, and read into TransformerLens."""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.loading_from_pretrained import (
    convert_mingpt_weights,
    convert_neel_model_config,
    convert_neel_solu_old_weights,
    get_pretrained_model_config,
    get_pretrained_state_dict,
)
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from mi_superposition.errors import RequestError, WorkError, first_line, is_out_of_memory
from mi_superposition.files import read_json, write_json, write_tensors
from mi_superposition.models.attention_only import without_deprecations
from mi_superposition.models.bridge import bridge_of
from mi_superposition.models.catalogue import HUGGING_FACE_CONFIG
from mi_superposition.models.hub import fetch_tokenizer, refuse_own_code
from mi_superposition.models.probe import LoadCheck, Probe
from mi_superposition.models.protocol import NO_BEGINNING, PROCESSED, PROCESSING, HookedModel
from mi_superposition.models.tokenizer_files import read_tokenizer, save_tokenizer

HOOKED, BRIDGE = "HookedTransformer", "TransformerBridge"
# Their configuration says 2048, but they saw no longer text.
_TINY_STORIES_CONTEXT = 512
# Of models without a longest text, such as BLOOM.
_UNLIMITED_CONTEXT = 2048


def load_hugging_face(
    folder: Path,
    name: str,
    *,
    dtype: torch.dtype,
    n_ctx: int | None,
    process_weights: Mapping[str, bool],
    gguf_file: str | None = None,
) -> HookedModel:
    """A model in Hugging Face layout on the CPU, proven to be the one that transformers reads; ``name`` says what was asked for.

    It is a ``HookedTransformer`` where that gives the log-probabilities of transformers, else a ``TransformerBridge``, which is then said
    on standard error; ``load_check_of`` tells how near it comes. With ``gguf_file`` it is that file of the folder, its quantised
    weights as numbers of ``dtype``. Bundled models, local folders and what came from the hub all pass here.
    Raises ``RequestError`` for an architecture that neither gives back and ``WorkError`` for damaged files.
    """
    settings = {} if gguf_file else read_json(folder / HUGGING_FACE_CONFIG)
    if not isinstance(settings, dict):
        raise WorkError(f"{str(folder / HUGGING_FACE_CONFIG)!r} is damaged: it must hold an object")
    if "model_type" not in settings and "d_model" in settings:
        if n_ctx is not None:
            raise RequestError(f"n_ctx = {n_ctx}: {name!r} keeps the context it was trained with")
        return _load_own_layout(folder, name, dtype, process_weights)
    network = _network(folder, name, settings, dtype, gguf_file)
    if gguf_file:
        # What a configuration file would say.
        settings = network.config.to_dict() | {"architectures": [type(network).__name__]}
        print(f"{name}: weights as transformers dequantises them", file=sys.stderr, flush=True)
    tokenizer = read_tokenizer(folder, gguf_file)
    # Before TransformerLens gives it one.
    no_beginning = tokenizer is not None and tokenizer.bos_token_id is None
    config, tried = None, {}
    try:
        config = _hooked_config(settings, dtype)
    # TransformerLens raises errors of all kinds for what it does not know.
    except Exception as error:
        tried[HOOKED] = f"does not know the architecture ({first_line(error)})"
    n_ctx = _context(network, config, name, settings, n_ctx)
    probe = Probe(network, n_ctx)
    if config is not None:
        config.n_ctx, config.tokenizer_name, config.model_name = n_ctx, None, _short(name)
        model = _proven(
            name, HOOKED, lambda: _hooked(network, folder, config, tokenizer, process_weights), probe, dtype, tried
        )
        if model is not None:
            return _remembering(model, no_beginning)
    model = _proven(
        name,
        BRIDGE,
        lambda: bridge_of(network, tokenizer, name=_short(name), n_ctx=n_ctx, process_weights=process_weights),
        probe,
        dtype,
        tried,
    )
    if model is None:
        what = type(network).__name__
        unusual = _unusual(network.config)
        raise RequestError(
            f"{name!r} is a {what}{f' with {unusual}' if unusual else ''}: TransformerLens does not give what transformers gives"
            f"{', with ' + ', '.join(process_weights) if process_weights else ''}. "
            + "; ".join(f"{implementation} {why}" for implementation, why in tried.items())
        )
    print(f"{name}: loaded as a {BRIDGE}, because {HOOKED} {tried[HOOKED]}", file=sys.stderr, flush=True)
    return _remembering(model, no_beginning)


def load_check_of(model: HookedModel) -> LoadCheck | None:
    """How near a loaded model comes to transformers; ``None`` for one that transformers cannot read, or that was not loaded."""
    return getattr(model, "load_check", None)


def _proven(
    name: str, implementation: str, load: Callable[[], Any], probe: Probe, dtype: torch.dtype, tried: dict[str, str]
) -> HookedModel | None:
    """The model, if it is what transformers reads; else ``tried`` is told why not."""
    try:
        model = load()
        check = probe.check(model, implementation)
    # As above.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        tried[implementation] = f"cannot hold it ({first_line(error)})"
        return None
    if not check.passed(dtype):
        tried[implementation] = (
            f"gives other log-probabilities (largest difference {check.difference:.2g} nats on {check.positions} positions; its logits "
            f"have a standard deviation of {check.logit_sd:.2g})"
        )
        return None
    if check.unchecked_from is not None:
        print(
            f"{name}: positions from {check.unchecked_from} on were not compared with transformers: that would take too long",
            file=sys.stderr,
            flush=True,
        )
    model.load_check = check
    return model


def _network(
    folder: Path, name: str, settings: dict[str, Any], dtype: torch.dtype, gguf_file: str | None = None
) -> Any:
    """The model of transformers, in eval mode. Raises ``RequestError`` for a kind that is none of text."""
    # Its progress bar counts tensors, thousands a second.
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    loader: Any = AutoModelForCausalLM
    try:
        network, loaded = loader.from_pretrained(
            folder, dtype=dtype, local_files_only=True, trust_remote_code=False, output_loading_info=True,
            gguf_file=gguf_file,
        )  # fmt: skip
    except ImportError as error:
        what = "pip install 'mi-superposition[gguf]'" if gguf_file else first_line(error)
        raise RequestError(f"{name!r} needs another package: {what}") from error
    except (ValueError, KeyError) as error:
        refuse_own_code(name, error)
        what = settings.get("architectures") or settings.get("model_type") or "unknown"
        raise RequestError(
            f"{name!r} has the architecture {what!r}: transformers reads no causal language model from it ({first_line(error)})"
        ) from error
    except (OSError, RuntimeError, SafetensorError) as error:
        raise WorkError(f"the weights in {str(folder)!r} are damaged: {first_line(error)}") from error
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
    # Transformers makes up what it does not find.
    if absent := sorted(map(str, {*loaded["missing_keys"], *loaded["mismatched_keys"]})):
        raise WorkError(f"the weights in {str(folder)!r} are damaged: {absent[0]} is missing or has another shape")
    return network.eval()


def _hooked_config(settings: dict[str, Any], dtype: torch.dtype) -> HookedTransformerConfig:
    complete = dict(settings)
    if "n_positions" in settings:
        # TransformerLens asks GPT-2 for a field that newer files do not have, and that older ones may have wrong.
        complete["n_ctx"] = settings["n_positions"]
    with tempfile.TemporaryDirectory(prefix="config") as bare:
        # TransformerLens guesses the architecture from the path, so a folder under ``/data/llama`` would be a llama.
        (Path(bare) / HUGGING_FACE_CONFIG).write_text(json.dumps(complete))
        config = get_pretrained_model_config(bare, device="cpu", dtype=dtype)
    if settings["model_type"] in ("gpt2", "gpt_neo"):
        # TransformerLens takes four times d_model for granted in these two.
        config.d_mlp = settings.get("n_inner") or settings.get("intermediate_size") or config.d_mlp
    return config


def _context(
    network: Any, config: HookedTransformerConfig | None, name: str, settings: dict[str, Any], asked: int | None
) -> int:
    """The longest text that is read. Raises ``RequestError`` where more is asked for than there is."""
    longest = getattr(network.config, "max_position_embeddings", None) or _UNLIMITED_CONTEXT
    if config is not None:
        longest = min(longest, config.n_ctx)
    if asked is not None:
        if not 1 <= asked <= longest:
            raise RequestError(f"n_ctx = {asked}: must be 1 to {longest}, the context of {name!r}")
        return asked
    names = (Path(name).name, _short(str(settings.get("_name_or_path", ""))))
    if settings["model_type"] == "gpt_neo" and any(map(_is_tiny_stories, names)):
        return min(_TINY_STORIES_CONTEXT, longest)
    return longest


def _hooked(
    network: Any,
    folder: Path,
    config: HookedTransformerConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    process_weights: Mapping[str, bool],
) -> HookedTransformer:
    state = get_pretrained_state_dict(str(folder), config, network, dtype=config.dtype)
    return _with_weights(config, tokenizer, state, process_weights)


def _with_weights(
    config: HookedTransformerConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    state: dict[str, Tensor],
    process_weights: Mapping[str, bool],
) -> HookedTransformer:
    with torch.random.fork_rng(devices=[]), without_deprecations():
        model = HookedTransformer(config, tokenizer, move_to_device=False)
        _clear_unread(model, state)
        if any(process_weights.values()):
            model.load_and_process_state_dict(state, **{name: bool(process_weights.get(name)) for name in PROCESSING})
        else:
            # At once: TransformerLens goes through all modules for each of the weights.
            model.load_state_dict(model.fill_missing_keys(state), strict=False)
    setattr(model, PROCESSED, dict(process_weights))
    _store_as_read(model)
    return model.eval()


@torch.no_grad()
def _clear_unread(model: HookedTransformer, state: Mapping[str, Tensor]) -> None:
    """Zero the weights that no checkpoint gives, such as positions beside ALiBi: TransformerLens leaves in them what the memory held."""
    for name, weight in model.named_parameters():
        if name not in state and name.rpartition(".")[2].startswith("W_"):
            weight.zero_()


def _store_as_read(model: HookedTransformer) -> None:
    """Lay weights out as the forward pass reads them: TransformerLens copies these, transposed, at every call. Values stay."""
    read_transposed = [model.unembed.W_U]
    if model.cfg.gated_mlp:
        mlps = [getattr(block, "mlp", None) for block in model.blocks]
        read_transposed += [
            weight
            for mlp in mlps
            for name in ("W_in", "W_gate", "W_out")
            if (weight := getattr(mlp, name, None)) is not None
        ]
    for weight in read_transposed:
        # Mixtures of experts have other things under these names.
        if isinstance(weight, Tensor) and weight.ndim == 2:
            weight.data = weight.data.T.contiguous().T


def _remembering(model: Any, no_beginning: bool) -> HookedModel:
    setattr(model, NO_BEGINNING, no_beginning)
    return model


def _unusual(config: Any) -> str:
    """Entries of a configuration, sizes and names apart, that are not the defaults of its kind."""
    usual = type(config)().to_dict()
    entries = {
        name: value
        for name, value in config.to_dict().items()
        if isinstance(value, bool | float | dict) and name in usual and value != usual[name]
    }
    return ", ".join(f"{name} = {value!r}" for name, value in entries.items())


def _short(name: str) -> str:
    return name.rstrip("/").split("/")[-1]


def _is_tiny_stories(name: str) -> bool:
    return name.lower().replace("-", "").replace("_", "").startswith("tinystories")


def _load_own_layout(
    folder: Path, name: str, dtype: torch.dtype, process_weights: Mapping[str, bool]
) -> HookedTransformer:
    """Models that were trained in TransformerLens: the attn-only, gelu and solu models."""
    try:
        fields = convert_neel_model_config(name, cache_dir=constants.HF_HUB_CACHE)
    except (NotImplementedError, ValueError, KeyError, AttributeError) as error:
        raise RequestError(f"{name!r}: TransformerLens cannot read its configuration ({first_line(error)})") from error
    config = HookedTransformerConfig.from_dict(
        {**fields, "model_name": name, "init_weights": False, "device": "cpu", "dtype": dtype}
    )
    tokenizer = read_tokenizer(folder if config.tokenizer_name is None else fetch_tokenizer(config.tokenizer_name))
    weights = next(iter(sorted(folder.glob("*final.pth"))), None)
    if weights is None:
        raise WorkError(f"{str(folder)!r} has no weights: no file *final.pth is there")
    state = {key: value.to(dtype) for key, value in torch.load(weights, weights_only=True).items()}
    if config.original_architecture == "neel-solu-old":
        state = convert_neel_solu_old_weights(state, config)
    elif config.original_architecture == "mingpt":
        state = convert_mingpt_weights(state, config)
    config.tokenizer_name, config.model_name = None, _short(name)
    # Shortformer's layer norms were trained without the pieces that folding needs.
    return _with_weights(
        config, tokenizer, state, {} if config.positional_embedding_type == "shortformer" else process_weights
    )


def build_gpt2(
    *,
    d_vocab: int,
    n_ctx: int,
    d_model: int,
    d_mlp: int,
    n_layers: int,
    n_heads: int,
    dropout: float,
    end_token: int,
    seed: int,
) -> GPT2LMHeadModel:
    """A fresh GPT-2 as transformers initialises it from ``seed``, to be trained.

    ``dropout`` is on the embeddings and on what attention and MLP write. Leaves the global random state as it was.
    """
    config = GPT2Config(
        vocab_size=d_vocab,
        n_positions=n_ctx,
        n_embd=d_model,
        n_inner=d_mlp,
        n_layer=n_layers,
        n_head=n_heads,
        embd_pdrop=dropout,
        resid_pdrop=dropout,
        attn_pdrop=0.0,
        bos_token_id=end_token,
        eos_token_id=end_token,
        use_cache=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config)


def save_hugging_face(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write configuration, half-precision weights and tokenizer as ``from_pretrained`` of transformers reads them."""
    config = copy.deepcopy(model.config)
    config.architectures, config.dtype, config.use_cache = [type(model).__name__], torch.float16, True
    write_json(folder / HUGGING_FACE_CONFIG, config.to_dict())
    # The unembedding is the embedding: from_pretrained ties them again.
    half = {name: parameter.detach().half() for name, parameter in model.named_parameters()}
    write_tensors(folder / "model.safetensors", half, {"format": "pt"})
    save_tokenizer(tokenizer, folder)
