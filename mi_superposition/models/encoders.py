"""Encoders of transformers (BERT, DistilBERT, RoBERTa, …): models that read a text in both directions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import read_json, write_json, write_tensors
from mi_superposition.models.catalogue import HUGGING_FACE_CONFIG, hub_id, model_folder
from mi_superposition.models.hub import TOKENIZER_FILES, fetch_model, fetch_tokenizer, refuse_own_code
from mi_superposition.models.tokenizer_files import save_tokenizer
from mi_superposition.training import derived_seed


@dataclass(frozen=True)
class Encoder:
    """A model of transformers in eval mode, and its tokenizer."""

    network: nn.Module
    tokenizer: Any

    @property
    def context(self) -> int:
        """Tokens it can read at once."""
        most = int(getattr(self.network.config, "max_position_embeddings", self.tokenizer.model_max_length))
        for name, module in self.network.named_modules():
            # RoBERTa and its kin count positions from behind that of padding.
            if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
                most -= module.padding_idx + 1
        return min(most, self.tokenizer.model_max_length)

    def untrained(self, seed: int) -> Encoder:
        """The control: the same architecture, freshly initialised from ``seed``, on the same device."""
        device = next(self.network.parameters()).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "untrained encoder") % 2**63)
            return Encoder(AutoModel.from_config(self.network.config).to(device).eval(), self.tokenizer)


def is_encoder(name: str | Path) -> bool:
    """Whether a name stands for an encoder, by its configuration: a folder, or what lies in the local hub cache or on the hub.

    False for bundled models and everything else; raises as ``load_encoder`` for a hub that cannot be reached.
    """
    try:
        folder = model_folder(name)
    except RequestError:
        return False
    if folder is None:
        if len(parts := str(name).split("/")) != 2 or not all(parts):
            return False
        folder = fetch_model(str(name))
    if not (folder / HUGGING_FACE_CONFIG).is_file():
        return False
    settings = read_json(folder / HUGGING_FACE_CONFIG)
    if not isinstance(settings, dict) or settings.get("is_encoder_decoder"):
        return False
    return settings.get("model_type") in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def load_encoder(name: str | Path, *, device: str = "cpu") -> Encoder:
    """An encoder from a folder in Hugging Face layout or from the hub, with its tokenizer.

    Raises ``RequestError`` for a name that is not there, another kind of model, or one without a tokenizer; ``WorkError`` for
    damaged files or a network that fails.
    """
    if not is_encoder(name):
        raise RequestError(f"{str(name)!r} is no encoder: give a BERT, DistilBERT, RoBERTa, …")
    folder = model_folder(name) or fetch_model(str(name))
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise RequestError(f"{str(name)!r} came without a tokenizer: it can read no text")
    # Heads for pretraining or for labels are left aside, which transformers would tell at length.
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        loader: Any = AutoModel
        network, loaded = loader.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:
        refuse_own_code(name, error)
        raise WorkError(f"the weights in {str(folder)!r} are damaged: {str(error).strip().splitlines()[0]}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shown:
            transformers_logging.enable_progress_bar()
    # A pooler that was never trained does not matter: hidden states come before it.
    if absent := sorted(key for key in map(str, loaded["missing_keys"]) if "pooler" not in key):
        raise WorkError(f"the weights in {str(folder)!r} are damaged: {absent[0]} is missing")
    return Encoder(network.to(device).eval(), tokenizer)


def load_tokenizer(name: str | Path) -> Any:
    """A tokenizer of transformers from a folder, or from the hub by way of its local cache.

    Raises ``RequestError`` for a folder without one or an id that is not there, ``WorkError`` for damaged files or a network that fails.
    """
    folder = Path(name) if Path(name).is_dir() else fetch_tokenizer(hub_id(str(name)))
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise RequestError(f"{str(name)!r} has no tokenizer: it needs one of {', '.join(TOKENIZER_FILES)}")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    # The parser of tokenizer.json has no exception of its own.
    except Exception as error:
        refuse_own_code(name, error)
        raise WorkError(f"the tokenizer in {str(folder)!r} is damaged: {str(error).strip().splitlines()[0]}") from error


def save_encoder(network: nn.Module, tokenizer: Any, folder: Path) -> None:
    """Write configuration, weights and tokenizer as ``from_pretrained`` of transformers reads them, each file whole or not at all."""
    config: Any = network.config
    write_json(folder / HUGGING_FACE_CONFIG, config.to_dict() | {"architectures": [type(network).__name__]})
    write_tensors(folder / "model.safetensors", network.state_dict(), {"format": "pt"})
    save_tokenizer(tokenizer, folder)


def fresh_encoder(settings: dict[str, Any], n_labels: int, seed: int) -> nn.Module:
    """An untrained classifier of texts on an encoder of transformers with these settings, to be trained and saved."""
    from transformers import AutoModelForSequenceClassification

    config = AutoConfig.for_model(**settings)
    config.num_labels = n_labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "encoder") % 2**63)
        return AutoModelForSequenceClassification.from_config(config)
