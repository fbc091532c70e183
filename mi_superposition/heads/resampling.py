"""Means over the tokens of documents with standard errors by resampling the documents, in one pass and bounded memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_superposition.training import seeded_generator

# Documents whose weights are drawn together.
_AT_ONCE = 256


class ResampledMeans:
    """Means of quantities over tokens, and what they would be on other documents of the same kind.

    A mean is a sum over documents divided by a count over documents. For its standard error the documents are drawn anew ``n_resamples``
    times: each counts as often as a Poisson variable of mean 1 says, drawn from the document's number and the seed alone, so that parts
    of a corpus can be measured anywhere and merged. Source: Chamandy, Muralidharan, Najmi & Naidu 2012, "Estimating uncertainty for
    massive data streams"; the bootstrap is Efron's (1979).

    ``sums`` have the shape [condition, quantity], ``counts`` [quantity]; those of all resamples have one axis more before them. float64.
    """

    def __init__(self, n_conditions: int, n_quantities: int, *, n_resamples: int, seed: int):
        self.n_resamples, self.seed = n_resamples, seed
        self.n_documents = 0
        self.sums = torch.zeros(n_conditions, n_quantities, dtype=torch.float64)
        self.counts = torch.zeros(n_quantities, dtype=torch.float64)
        self.resampled_sums = torch.zeros(n_resamples, n_conditions, n_quantities, dtype=torch.float64)
        self.resampled_counts = torch.zeros(n_resamples, n_quantities, dtype=torch.float64)

    def update(
        self,
        documents: Sequence[int],
        sums: Float[Tensor, "document condition quantity"],
        counts: Float[Tensor, "document quantity"],
    ) -> None:
        """Add documents by their numbers in the corpus, each of which comes once in all."""
        sums, counts = sums.double().cpu(), counts.double().cpu()
        self.n_documents += len(documents)
        self.sums += sums.sum(dim=0)
        self.counts += counts.sum(dim=0)
        for first in range(0, len(documents), _AT_ONCE):
            at = slice(first, first + _AT_ONCE)
            weights = torch.stack([self._weights(number) for number in documents[at]], dim=1)
            self.resampled_sums += (weights @ sums[at].flatten(1)).view_as(self.resampled_sums)
            self.resampled_counts += weights @ counts[at]

    def merge(self, other: ResampledMeans) -> None:
        """Add what another one has seen of the same conditions."""
        self.n_documents += other.n_documents
        for mine, others in zip(self._tensors(), other._tensors(), strict=True):
            mine += others

    def means(self) -> Float[Tensor, "condition quantity"]:
        """Means over all tokens; not a number where nothing was counted."""
        return self.sums / self.counts

    def standard_errors(self) -> Float[Tensor, "condition quantity"]:
        """Standard deviations of the means over the resamples in which anything was counted."""
        found = self.resampled_sums / self.resampled_counts[:, None]
        # A rare quantity is missing in some of them.
        there = self.resampled_counts[:, None] > 0
        n = there.sum(dim=0)
        mean = found.where(there, 0.0).sum(dim=0) / n
        squares = (found - mean).square().where(there, 0.0).sum(dim=0)
        return (squares / (n - 1).clamp_min(1)).sqrt()

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        names = ("sums", "counts", "resampled_sums", "resampled_counts")
        return {"n_documents": self.n_documents, **dict(zip(names, self._tensors(), strict=True))}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``state``."""
        self.n_documents = state["n_documents"]
        self.sums, self.counts = state["sums"], state["counts"]
        self.resampled_sums, self.resampled_counts = state["resampled_sums"], state["resampled_counts"]

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.sums, self.counts, self.resampled_sums, self.resampled_counts

    def _weights(self, document: int) -> Float[Tensor, " resample"]:
        generator = seeded_generator(self.seed, "resampled documents", document)
        return torch.poisson(torch.ones(self.n_resamples, dtype=torch.float64), generator=generator)
