"""A batch of tokens as sums over attention see it: which queries and keys count, which pairs are followed, which queries are drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_superposition.corpora import TokenBatch
from mi_superposition.neurons.scan.hashing import mixed


@dataclass(frozen=True)
class FollowedPairs:
    """Pairs of tokens, as sorted numbers ``query * d_vocab + key``."""

    codes: Int[Tensor, " pair"]
    d_vocab: int

    def __len__(self) -> int:
        return len(self.codes)

    def tokens(self) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
        """The query's and the key's token of each."""
        return self.codes // self.d_vocab, self.codes % self.d_vocab


@dataclass(frozen=True)
class BatchView:
    """What is the same for all layers and models that read a batch. Of each row position ``q`` the keys are ``0 … q``.

    ``at``: row, query, key and number of each followed pair that stands in the batch; ``first_of_token``: whether the key is the first of
    its token in the row, so that each query counts once. ``drawn``: row and position of the queries drawn at random;
    ``order`` and ``shuffled``: the keys that count of each of these in their order and in a random one, as far as ``n_keys`` says.
    """

    counts: Bool[Tensor, "batch pos"]
    tokens: Int[Tensor, "batch pos"]
    at: Int[Tensor, "4 found"]
    first_of_token: Bool[Tensor, " found"]
    drawn: Int[Tensor, "2 query"]
    order: Int[Tensor, "query pos"]
    shuffled: Int[Tensor, "query pos"]
    n_keys: Int[Tensor, " query"]

    @classmethod
    def of(cls, batch: TokenBatch, pairs: FollowedPairs, query_share: float) -> BatchView:
        """A batch, with the queries that are drawn: the same ones whatever is read with them."""
        width = batch.tokens.shape[1]
        causal = torch.ones(width, width, dtype=torch.bool).tril()
        both = batch.mask[:, :, None] & batch.mask[:, None, :] & causal
        row, query, key = both.nonzero(as_tuple=True)
        codes = batch.tokens[row, query] * pairs.d_vocab + batch.tokens[row, key]
        number = torch.searchsorted(pairs.codes, codes).clamp_max(max(0, len(pairs) - 1))
        found = pairs.codes[number] == codes if len(pairs) else torch.zeros_like(codes, dtype=torch.bool)
        row, query, key, number = (index[found] for index in (row, query, key, number))
        numbers = mixed(mixed(batch.document.numpy().astype(np.uint64)) + batch.place.numpy().astype(np.uint64))
        limit = np.uint64(min(int(query_share * 2**64), 2**64 - 1))
        drawn = (batch.mask & torch.from_numpy(numbers <= limit)).nonzero() if query_share else row.new_zeros(0, 2)
        order, shuffled, n_keys = _permuted_keys(batch.mask[drawn[:, 0]], drawn[:, 1], numbers[tuple(drawn.T.numpy())])
        return cls(
            counts=batch.mask,
            tokens=batch.tokens,
            at=torch.stack([row, query, key, number]),
            first_of_token=_first_of_token(batch)[row, key],
            drawn=drawn.T,
            order=order,
            shuffled=shuffled,
            n_keys=n_keys,
        )

    def permuted(self, values: Float[Tensor, "query head pos"]) -> Float[Tensor, "query head pos"]:
        """Attention of the drawn queries by key, its entries permuted among the keys that count: in the places of ``order``."""
        return values.gather(2, self.shuffled.to(values.device)[:, None].expand_as(values))


def _first_of_token(batch: TokenBatch) -> Bool[Tensor, "batch pos"]:
    """Where a token that counts stands for the first time in its row."""
    same = (batch.tokens[:, :, None] == batch.tokens[:, None, :]) & batch.mask[:, None, :]
    return ~same.tril(-1).any(dim=2)


def _permuted_keys(
    counts: Bool[Tensor, "query pos"], position: Int[Tensor, " query"], numbers: np.ndarray
) -> tuple[Int[Tensor, "query pos"], Int[Tensor, "query pos"], Int[Tensor, " query"]]:
    """The keys of each query that count, in their order and in a random one; the others follow."""
    places = np.arange(counts.shape[1])
    allowed = counts.numpy() & (places[None] <= position.numpy()[:, None])
    with np.errstate(over="ignore"):
        random = mixed(numbers[:, None] + places.astype(np.uint64)[None]) >> np.uint64(1)
    random[~allowed] = np.iinfo(np.uint64).max
    order = np.argsort(~allowed, axis=1, kind="stable")
    shuffled = np.argsort(random, axis=1, kind="stable")
    return torch.from_numpy(order), torch.from_numpy(shuffled), torch.from_numpy(allowed.sum(axis=1))
