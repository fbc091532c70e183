"""Which features of an autoencoder are active in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from sae_lens import SAE
from torch import Tensor

from mi_superposition.corpora import model_batches
from mi_superposition.corpora.tokens import visible_tokens
from mi_superposition.errors import RequestError
from mi_superposition.models import read_hooks
from mi_superposition.models.protocol import HookedModel
from mi_superposition.neurons.effects import direction_effects
from mi_superposition.results import Result
from mi_superposition.sae.files import check_sae
from mi_superposition.training import seeded_generator

# Tokens that name a feature.
_WORDS = 3


@dataclass(frozen=True, repr=False)
class SentenceFeatures(Result):
    """The features most active anywhere in a sentence, the strongest first, with the tokens whose logits each raises most."""

    DRAWN_BY: ClassVar[str] = "mi_superposition.figures.sae:sentence_features"

    tokens: list[str]
    features: list[int]
    names: list[str]
    activations: Float[Tensor, "feature token"]

    def summary(self) -> str:
        """How many features of how many tokens, and the strongest."""
        return (
            f"{len(self.features)} features of a sentence of {len(self.tokens)} tokens, the strongest {self.names[0]}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per feature, the strongest first: its largest activation and the token it has there."""
        largest = self.activations.max(dim=1)
        return pd.DataFrame(
            {
                "feature": self.features,
                "name": self.names,
                "largest_activation": largest.values.tolist(),
                "at_token": [self.tokens[position] for position in largest.indices.tolist()],
            }
        ).set_index("feature")


@torch.no_grad()
def features_of_sentence(
    model: HookedModel,
    sae: SAE[Any],
    sentence: str,
    *,
    hook: str | None = None,
    n: int = 16,
    shuffled: int | None = None,
) -> SentenceFeatures:
    """Read a sentence (its first sequence of tokens) and keep the ``n`` features with the largest activation at any token.

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
    read = read_hooks(model, tokens, [hook])[hook][0].cpu()[mask].float()
    activations = sae.encode(read.to(sae.W_dec.device)).cpu().T
    chosen = activations.amax(dim=1).topk(min(n, len(activations))).indices
    return SentenceFeatures(
        tokens=[strings[token] for token in tokens[0][mask].tolist()],
        features=chosen.tolist(),
        names=_names(model, sae, hook, chosen.tolist(), strings),
        activations=activations[chosen],
    )


def _names(model: HookedModel, sae: SAE[Any], hook: str, features: list[int], strings: Sequence[str]) -> list[str]:
    """A feature's number, and where it writes into the residual stream the tokens whose logits it raises most."""
    if ".hook_resid_" not in hook:
        return [str(feature) for feature in features]
    raised = direction_effects(model, sae.W_dec.detach()[features], _WORDS).top
    return [
        f"{feature} ({' '.join(strings[token].strip() or '␣' for token in row)})"
        for feature, row in zip(features, raised.tolist(), strict=True)
    ]
