"""What a sentence makes of an autoencoder's features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_superposition.corpora import model_batches
from mi_superposition.corpora.tokens import visible_tokens
from mi_superposition.errors import RequestError
from mi_superposition.models import read_hooks
from mi_superposition.neurons.effects import direction_effects
from mi_superposition.sae import check_sae
from mi_superposition.training import seeded_generator

_WORDS = 3


@dataclass(frozen=True)
class SentenceFeatures:
    """The features most active anywhere in a sentence, the strongest first, with the tokens whose logits each raises most."""

    tokens: list[str]
    features: list[int]
    names: list[str]
    activations: Float[Tensor, "feature token"]


@torch.no_grad()
def features_of_sentence(
    model: Any, sae: Any, sentence: str, *, hook: str | None = None, n: int = 16, shuffled: int | None = None
) -> SentenceFeatures:
    """Read a sentence (its first row of tokens) and keep the ``n`` features with the largest activation at any token.

    ``hook``: the one the autoencoder reads (default: that it was trained on). ``shuffled``: a seed, to read the sentence's
    tokens in a random order. Raises ``RequestError`` for an empty sentence, or an autoencoder of another model.
    """
    hook = check_sae(sae, model, hook)
    batch = next(iter(model_batches(model, [sentence] if sentence.strip() else [], 1)), None)
    if batch is None:
        raise RequestError(f"{sentence!r} holds no text: there is nothing to read")
    strings = visible_tokens(model.tokenizer, model.cfg.d_vocab)
    mask, tokens = batch.mask[0], batch.tokens.clone()
    if shuffled is not None:
        order = torch.randperm(int(mask.sum()), generator=seeded_generator(shuffled, "sentence"))
        tokens[0, mask] = tokens[0, mask][order]
    found = read_hooks(model, tokens, [hook])[hook][0].cpu()[mask].float()
    activations = sae.encode(found.to(sae.W_dec.device)).cpu().T
    chosen = activations.amax(dim=1).topk(min(n, len(activations))).indices
    return SentenceFeatures(
        tokens=[strings[token] for token in tokens[0][mask].tolist()],
        features=chosen.tolist(),
        names=_names(model, sae, hook, chosen.tolist(), strings),
        activations=activations[chosen],
    )


def _names(model: Any, sae: Any, hook: str, features: list[int], strings: list[str]) -> list[str]:
    """A feature's number, and where it writes into the residual stream the tokens whose logits it raises most."""
    if ".hook_resid_" not in hook:
        return [str(feature) for feature in features]
    raised = direction_effects(model, sae.W_dec.detach()[features], _WORDS).top
    return [
        f"{feature} ({' '.join(strings[token].strip() or '␣' for token in row)})"
        for feature, row in zip(features, raised.tolist(), strict=True)
    ]
