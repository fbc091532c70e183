"""The chapter's simple language model: an embedding, a linear layer and an output, never trained."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mi_superposition.linalg import cosine_similarity
from mi_superposition.training import derived_seed


class SimpleLanguageModel(nn.Module):
    """Word → embedding → hidden → logits, as torch initialises it from ``seed``.

    Nothing in it has seen a text, so what it makes of words is a random number for each.
    """

    def __init__(self, n_words: int, d_embedding: int = 10, d_hidden: int = 5, *, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(n_words, d_embedding)
            self.linear = nn.Linear(d_embedding, d_hidden)
            self.output = nn.Linear(d_hidden, n_words)

    @torch.no_grad()
    def hidden(self) -> Float[Tensor, "word hidden"]:
        """The hidden layer at each word, after ReLU."""
        return torch.relu(self.linear(self.embedding.weight))


def correlations(rows: Float[Tensor, "row d"]) -> Float[Tensor, "row row"]:
    """Pearson correlation of each two rows (dimensionless); 0 with a row that does not vary."""
    return cosine_similarity(rows - rows.mean(dim=1, keepdim=True))


def mean_size(correlation: Float[Tensor, "row row"]) -> float:
    """Mean of ``|correlation|`` over pairs of different rows."""
    n = len(correlation)
    return float(correlation.abs()[~torch.eye(n, dtype=torch.bool)].mean())


def chance_sizes(n_words: int, d_embedding: int, d_hidden: int, *, seeds: int, seed: int = 0) -> Float[Tensor, " seed"]:
    """``mean_size`` of the hidden layers of as many simple models with other seeds."""
    drawn = [derived_seed(seed, "simple model", index) % 2**63 for index in range(seeds)]
    return torch.tensor(
        [
            mean_size(correlations(SimpleLanguageModel(n_words, d_embedding, d_hidden, seed=one).hidden()))
            for one in drawn
        ]
    )
