"""Stringer's simple language model, smaller, and like it untrained; single words in it and in a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mi_superposition.concepts.permutation import Separation, pair_separation
from mi_superposition.linalg import cosine_similarity
from mi_superposition.parts import SeedPart
from mi_superposition.training import derived_seed

# The model shown: dimensions and seed.
_D_EMBEDDING, _D_HIDDEN, _SEED = 10, 5, 0
# Models of other seeds that the magnitude of its correlations, and their separation, are compared with.
_OTHERS, _OTHERS_SEPARATED = 1000, 200


class SimpleLanguageModel(nn.Module):
    """Word → embedding → hidden → logits, as torch initialises it from ``seed``.

    It is not trained, so its representation of a word is random numbers.
    """

    def __init__(self, n_words: int, d_embedding: int = _D_EMBEDDING, d_hidden: int = _D_HIDDEN, *, seed: int = _SEED):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(n_words, d_embedding)
            self.linear = nn.Linear(d_embedding, d_hidden)
            self.output = nn.Linear(d_hidden, n_words)

    @torch.no_grad()
    def hidden(self) -> Float[Tensor, "word hidden"]:
        """The hidden layer of each word, after ReLU."""
        return torch.relu(self.linear(self.embedding.weight))


def correlations(rows: Float[Tensor, "row d"]) -> Float[Tensor, "row row"]:
    """Pearson correlation of each two rows (dimensionless); 0 with a row that does not vary."""
    return cosine_similarity(rows - rows.mean(dim=1, keepdim=True))


def mean_magnitude(correlation: Float[Tensor, "row row"]) -> float:
    """Mean of ``|correlation|`` over pairs of different rows."""
    n = len(correlation)
    return float(correlation.abs()[~torch.eye(n, dtype=torch.bool)].mean())


def chance_magnitudes(
    n_words: int, d_embedding: int = _D_EMBEDDING, d_hidden: int = _D_HIDDEN, *, seeds: int, seed: int = SeedPart.seed
) -> Float[Tensor, " seed"]:
    """``mean_magnitude`` of the hidden layers of as many simple models with other seeds."""
    drawn = [derived_seed(seed, "simple model", index) % 2**63 for index in range(seeds)]
    return torch.tensor(
        [
            mean_magnitude(correlations(SimpleLanguageModel(n_words, d_embedding, d_hidden, seed=one).hidden()))
            for one in drawn
        ]
    )


@dataclass(frozen=True)
class WordCorrelations:
    """Correlations of single words, each alone: in the simple model, and at ``layer`` of a model and of its untrained copy, there
    centred over the words.

    ``words`` has a few of each concept; ``embedding`` and ``hidden`` are the simple model's. The separations compare words of one
    concept with words of two. ``chance_magnitudes`` and ``chance_separations`` (differences) are of simple models of other seeds.
    """

    words: Mapping[str, tuple[str, ...]]
    layer: str
    seed: int
    embedding: Float[Tensor, "word d_embedding"]
    hidden: Float[Tensor, "word d_hidden"]
    simple: Float[Tensor, "word word"]
    trained: Float[Tensor, "word word"]
    untrained: Float[Tensor, "word word"]
    simple_separation: Separation
    trained_separation: Separation
    untrained_separation: Separation
    chance_magnitudes: Float[Tensor, " seed"]
    chance_separations: Float[Tensor, " another_seed"]

    @property
    def all_words(self) -> list[str]:
        """The words in the order of rows and columns."""
        return all_words(self.words)


def all_words(words: Mapping[str, Sequence[str]]) -> list[str]:
    """The words of all concepts in one list."""
    return [word for some in words.values() for word in some]


def word_correlations(
    words: Mapping[str, tuple[str, ...]],
    layer: str,
    trained: Float[Tensor, "word d"],
    untrained: Float[Tensor, "word d"],
) -> WordCorrelations:
    """Measure the words of each concept; ``trained`` and ``untrained`` are the activations at ``layer`` for each word alone."""
    n = len(all_words(words))
    model = SimpleLanguageModel(n)
    simple, real, control = (
        correlations(rows)
        for rows in (model.hidden(), trained - trained.mean(dim=0), untrained - untrained.mean(dim=0))
    )
    owner = torch.tensor([number for number, some in enumerate(words.values()) for _ in some])
    others = (SimpleLanguageModel(n, seed=seed).hidden() for seed in range(1, _OTHERS_SEPARATED + 1))
    return WordCorrelations(
        words=words,
        layer=layer,
        seed=_SEED,
        embedding=model.embedding.weight.detach(),
        hidden=model.hidden(),
        simple=simple,
        trained=real,
        untrained=control,
        simple_separation=pair_separation(simple, owner),
        trained_separation=pair_separation(real, owner),
        untrained_separation=pair_separation(control, owner),
        chance_magnitudes=chance_magnitudes(n, seeds=_OTHERS),
        chance_separations=torch.tensor(
            [pair_separation(correlations(rows), owner, permutations=1).difference for rows in others]
        ),
    )
