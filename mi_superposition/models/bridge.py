"""TransformerLens's bridge: a model of transformers under the hook names of a ``HookedTransformer``."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mi_superposition.models.protocol import PROCESSED, PROCESSING


def bridge_of(
    network: Any,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    name: str,
    n_ctx: int | None = None,
    process_weights: Mapping[str, bool] | None = None,
) -> TransformerBridge:
    """A model of transformers, on the CPU, as a bridge; ``network`` becomes part of it and is not to be used by itself.

    Raises what TransformerLens raises for an architecture that its bridge does not know: exceptions of all kinds.
    """
    # Attention whose pattern can be read.
    network.set_attn_implementation("eager")
    dtype = next(network.parameters()).dtype
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        bridge = TransformerBridge.boot_transformers(
            name, hf_model=network, device="cpu", dtype=dtype, tokenizer=tokenizer or _no_tokenizer()
        )
        if process_weights:
            options = {name: bool(process_weights.get(name)) for name in PROCESSING}
            bridge.enable_compatibility_mode(disable_warnings=True, **options)
    bridge.tokenizer = tokenizer
    bridge.cfg.model_name = name.rstrip("/").split("/")[-1]
    if n_ctx is not None:
        bridge.cfg.n_ctx = n_ctx
    setattr(bridge, PROCESSED, dict(process_weights or {}))
    return bridge.eval()


def untrained_bridge(bridge: TransformerBridge, seed: int) -> TransformerBridge:
    """The same architecture, freshly initialised as transformers does from ``seed``, on the CPU."""
    trained = bridge.original_model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = type(trained)(copy.deepcopy(trained.config))
    network = network.to(next(trained.parameters()).dtype)
    return bridge_of(network, bridge.tokenizer, name=bridge.cfg.model_name, n_ctx=bridge.cfg.n_ctx)


def _no_tokenizer() -> PreTrainedTokenizerFast:
    """A bridge without a tokenizer looks for one on the hub; this one is taken off again."""
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))
