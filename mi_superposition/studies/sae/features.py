"""The features of one autoencoder: how close their directions are, which neurons they read from, and what a sentence makes of them.

Every measure comes with the same for random directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from sae_lens import SAE
from torch import Tensor

from mi_superposition.models.protocol import HookedModel
from mi_superposition.sae.features import nearest_cosines, participation, random_directions, written_before
from mi_superposition.sae.sentence import SentenceFeatures, features_of_sentence

SENTENCE = "Once upon a time, there was a little girl named Lily. She loved to play with her big red ball in the park."
# What is measured of the autoencoder, and of two kinds of random directions in its place.
TRAINED, SPECTRUM, GAUSSIAN = "trained", "spectrum", "gaussian"
# Features whose directions are kept.
_SHOWN_FEATURES = 64
# Random orders of the sentence's tokens.
_ORDERS = 5


@dataclass(frozen=True)
class Sharing:
    """How many features read from each neuron before the hook, and the mean number of neurons that a feature reads from, by kind
    of directions.
    """

    features_of_neuron: dict[str, Int[Tensor, " neuron"]]
    neurons_of_feature: dict[str, float]


@dataclass(frozen=True)
class SentenceStudy:
    """The strongest features of a sentence, and how many of them are among the strongest of its tokens in random orders."""

    sentence: str
    features: SentenceFeatures
    kept_in_random_order: list[int]

    @property
    def mean_lost(self) -> float:
        """Features that are not among the strongest in a random order, on average."""
        kept = self.kept_in_random_order
        return len(self.features.features) - sum(kept) / len(kept)


@dataclass(frozen=True)
class LearnedFeatures:
    """Of the autoencoder ``sae``: for each feature the cosine with its nearest other one, by kind of directions; evenly spaced
    rows of its decoder, and as many random ones as long; ``sharing`` where there are neurons before the hook.
    """

    sae: str
    n_features: int
    nearest: dict[str, Float[Tensor, " feature"]]
    decoder: Float[Tensor, "shown d"]
    random_decoder: Float[Tensor, "shown d"]
    sharing: Sharing | None
    sentence: SentenceStudy


def learned_features(model: HookedModel, sae: SAE[Any], name: str, hook: str) -> LearnedFeatures:
    """Measure the features of an autoencoder of this name, on the CPU, that reads a hook of the model."""
    decoder = sae.W_dec.detach().float().cpu()
    shown = decoder[:: max(1, len(decoder) // _SHOWN_FEATURES)][:_SHOWN_FEATURES]
    random = random_directions(shown, GAUSSIAN, 0)
    return LearnedFeatures(
        sae=name,
        n_features=len(decoder),
        nearest={kind: nearest_cosines(directions) for kind, directions in _by_kind(decoder).items()},
        decoder=shown,
        random_decoder=random * (shown.norm(dim=1).mean() / random.norm(dim=1, keepdim=True)),
        sharing=_sharing(model, sae, hook),
        sentence=_sentence(model, sae, hook),
    )


def _by_kind(directions: Float[Tensor, "feature d"]) -> dict[str, Float[Tensor, "feature d"]]:
    return {TRAINED: directions} | {kind: random_directions(directions, kind, 0) for kind in (SPECTRUM, GAUSSIAN)}


def _sharing(model: HookedModel, sae: SAE[Any], hook: str) -> Sharing | None:
    written = written_before(model, hook)
    if not written:
        return None
    encoder = sae.W_enc.detach().float().cpu().T
    measured = {kind: participation(written, directions) for kind, directions in _by_kind(encoder).items()}
    return Sharing(
        features_of_neuron={kind: one.features_of_neuron for kind, one in measured.items()},
        neurons_of_feature={kind: float(one.neurons_of_feature.float().mean()) for kind, one in measured.items()},
    )


def _sentence(model: HookedModel, sae: SAE[Any], hook: str) -> SentenceStudy:
    features = features_of_sentence(model, sae, SENTENCE, hook=hook)
    shuffled = [features_of_sentence(model, sae, SENTENCE, hook=hook, shuffled=seed) for seed in range(_ORDERS)]
    return SentenceStudy(SENTENCE, features, [len({*features.features} & {*other.features}) for other in shuffled])
