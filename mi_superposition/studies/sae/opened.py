"""What an evaluation reads: the model and text that the autoencoders were trained on, and the hook that each reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sae_lens import SAE

from mi_superposition.corpora import Corpus
from mi_superposition.errors import RequestError
from mi_superposition.sae import SaeEvaluateConfig, check_sae
from mi_superposition.sae.files import processing_of, target_of
from mi_superposition.studies.sae.text import ReadText, open_corpus, open_text


@dataclass(frozen=True)
class OpenEvaluation:
    """``config`` as it is recorded; by name the autoencoders, the hooks that they read, and those that they predict: the same, but for
    transcoders.
    """

    config: SaeEvaluateConfig
    text: ReadText
    control_corpus: Corpus
    saes: Mapping[str, SAE[Any]]
    hooks: Mapping[str, str]
    targets: Mapping[str, str]


def open_evaluation(config: SaeEvaluateConfig, saes: Mapping[str, SAE[Any]]) -> OpenEvaluation:
    """Load the model and the text. Raises ``RequestError`` for autoencoders of another model, or that do not record theirs."""
    metadata = next(iter(saes.values())).cfg.metadata
    model_name = config.model or metadata.model_name
    if not model_name:
        raise RequestError(f"{config.sae!r} does not record its model: give --model")
    text = open_text(
        model_name, config.text, forward_batch=config.forward.forward_batch, context=config.context,
        device=config.device.device, process_weights=processing_of(next(iter(saes.values()))),
        prepend_bos=metadata.prepend_bos,
    )  # fmt: skip
    # Read as it was trained, unless asked for otherwise.
    n_ctx = text.model.cfg.n_ctx
    text = replace(text, context=config.context or min(metadata.context_size or n_ctx, n_ctx))
    hooks = {name: check_sae(sae, text.model, config.hook) for name, sae in saes.items()}
    targets = {name: target_of(sae, text.model, hooks[name]) for name, sae in saes.items()}
    control_corpus = text.corpus if config.control_corpus is None else open_corpus(config.control_corpus, text.text)
    recorded = config.replace(model=model_name, context=text.context, device=text.device)
    moved = {name: sae.to(text.device) for name, sae in saes.items()}
    return OpenEvaluation(recorded, text, control_corpus, moved, hooks, targets)
