"""Language models in Hugging Face layout: built, saved, and read into TransformerLens."""

from __future__ import annotations

import copy
import tempfile
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
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import read_json, write_file, write_json, write_tensors
from mi_superposition.models.attention_only import without_deprecations
from mi_superposition.models.catalogue import HUGGING_FACE_CONFIG
from mi_superposition.models.hub import TOKENIZER_FILES, fetch_tokenizer

# Their configuration says 2048, but they saw no longer text.
_TINY_STORIES_CONTEXT = 512


def load_hugging_face(
    folder: Path, name: str, *, dtype: torch.dtype, n_ctx: int | None, process_weights: bool
) -> HookedTransformer:
    """A model in Hugging Face layout as a ``HookedTransformer`` on the CPU; ``name`` says what was asked for.

    Bundled models, local folders and what came from the hub all pass here. Raises ``RequestError`` for an
    architecture that TransformerLens cannot hold and ``WorkError`` for damaged files.
    """
    settings = read_json(folder / HUGGING_FACE_CONFIG)
    if not isinstance(settings, dict):
        raise WorkError(f"{str(folder / HUGGING_FACE_CONFIG)!r} is damaged: it must hold an object")
    own_layout = "model_type" not in settings and "d_model" in settings
    try:
        if own_layout:
            if n_ctx is not None:
                raise RequestError(f"n_ctx = {n_ctx}: {name!r} keeps the context it was trained with")
            config, state = _own_layout(folder, name, dtype)
        else:
            config, state = _transformers_layout(folder, name, settings, dtype, n_ctx)
    except RequestError:
        raise
    except (NotImplementedError, ValueError, KeyError, AttributeError) as error:
        what = settings.get("architectures") or settings.get("model_type") or "unknown"
        raise RequestError(f"{name!r} has the architecture {what!r}: TransformerLens cannot hold it") from error
    tokenizer = _tokenizer(folder, config.tokenizer_name if own_layout else None)
    config.tokenizer_name, config.model_name = None, name.rstrip("/").split("/")[-1]
    # Their layer norms were trained without the pieces that folding needs.
    foldable = process_weights and config.positional_embedding_type != "shortformer"
    with torch.random.fork_rng(devices=[]), without_deprecations():
        model = HookedTransformer(config, tokenizer, move_to_device=False)
        model.load_and_process_state_dict(
            state,
            fold_ln=foldable,
            center_writing_weights=foldable,
            center_unembed=foldable,
            fold_value_biases=foldable,
        )
    return model


def _transformers_layout(
    folder: Path, name: str, settings: dict[str, Any], dtype: torch.dtype, n_ctx: int | None
) -> tuple[HookedTransformerConfig, dict[str, Tensor]]:
    with tempfile.TemporaryDirectory(prefix="config") as bare:
        # TransformerLens guesses the architecture from the path, so a folder under ``/data/llama`` would be a llama; and
        # it asks GPT-2 for a field that newer files do not have.
        complete = {"n_ctx": settings["n_positions"], **settings} if "n_positions" in settings else settings
        write_json(Path(bare) / HUGGING_FACE_CONFIG, complete)
        config = get_pretrained_model_config(bare, device="cpu", dtype=dtype)
    if settings["model_type"] in ("gpt2", "gpt_neo"):
        # TransformerLens takes four times d_model for granted in these two.
        config.d_mlp = settings.get("n_inner") or settings.get("intermediate_size") or config.d_mlp
    names = (Path(name).name, str(settings.get("_name_or_path", "")).split("/")[-1])
    if n_ctx is None and settings["model_type"] == "gpt_neo" and any(map(_is_tiny_stories, names)):
        n_ctx = min(_TINY_STORIES_CONTEXT, config.n_ctx)
    if n_ctx is not None:
        if not 1 <= n_ctx <= config.n_ctx:
            raise RequestError(f"n_ctx = {n_ctx}: must be 1 to {config.n_ctx}, the context of {name!r}")
        config.n_ctx = n_ctx
    # Its progress bar counts tensors, thousands a second.
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        loader: Any = AutoModelForCausalLM
        source, loaded = loader.from_pretrained(folder, dtype=dtype, local_files_only=True, output_loading_info=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise WorkError(f"the weights in {str(folder)!r} are damaged: {str(error).strip().splitlines()[0]}") from error
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
    # Transformers makes up what it does not find.
    if absent := sorted(map(str, {*loaded["missing_keys"], *loaded["mismatched_keys"]})):
        raise WorkError(f"the weights in {str(folder)!r} are damaged: {absent[0]} is missing or has another shape")
    return config, get_pretrained_state_dict(str(folder), config, source, dtype=dtype)


def _is_tiny_stories(name: str) -> bool:
    return name.lower().replace("-", "").replace("_", "").startswith("tinystories")


def _own_layout(folder: Path, name: str, dtype: torch.dtype) -> tuple[HookedTransformerConfig, dict[str, Tensor]]:
    """Models that were trained in TransformerLens: the attn-only, gelu and solu models."""
    fields = convert_neel_model_config(name, cache_dir=constants.HF_HUB_CACHE)
    config = HookedTransformerConfig.from_dict(
        {**fields, "model_name": name, "init_weights": False, "device": "cpu", "dtype": dtype}
    )
    [weights, *_] = sorted(folder.glob("*final.pth"))
    state = {key: value.to(dtype) for key, value in torch.load(weights, weights_only=True).items()}
    if config.original_architecture == "neel-solu-old":
        return config, convert_neel_solu_old_weights(state, config)
    if config.original_architecture == "mingpt":
        return config, convert_mingpt_weights(state, config)
    return config, state


def _tokenizer(folder: Path, elsewhere: str | None) -> PreTrainedTokenizerBase | None:
    """The folder's tokenizer, or the one on the hub that the model names; ``None`` for a model saved without."""
    if elsewhere is not None:
        folder = fetch_tokenizer(elsewhere)
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        return None
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise WorkError(f"the tokenizer in {str(folder)!r} is damaged: {str(error).strip().splitlines()[0]}") from error


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


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer's files as ``from_pretrained`` of transformers reads them, each whole or not at all."""
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        for path in sorted(Path(scratch).iterdir()):
            write_file(folder / path.name, path.read_bytes())
