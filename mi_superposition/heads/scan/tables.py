"""Tables of tokens of every head: the pairs that it attends most, and the keys that it attends most with what it then writes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.heads.scan.circuits import HeadWeights, TokenWrites, token_writes
from mi_superposition.heads.scan.sums import PatternSums
from mi_superposition.heads.scan.view import FollowedPairs
from mi_superposition.models.protocol import HookedModel

# Rows of each table, and how often a token or pair must have been seen to stand in one.
PAIRS_SHOWN, TOKENS_SHOWN, FEWEST = 16, 10, 10


@dataclass(frozen=True)
class TokenPairs:
    """The pairs of a query's and a key's token with the most attention, the most first; -1 where there are fewer.

    ``attention``: from a query to all keys with that token together, mean over the ``queries`` that have such a key; ``untrained`` the same
    in an untrained model, ``permuted`` if each query's keys were permuted.
    """

    query: Int[Tensor, "head rank"]
    key: Int[Tensor, "head rank"]
    attention: Float[Tensor, "head rank"]
    queries: Int[Tensor, "head rank"]
    untrained: Float[Tensor, "head rank"]
    permuted: Float[Tensor, "head rank"]


@dataclass(frozen=True)
class AttendedTokens:
    """The tokens that get the most attention as keys, relative to ``1``, what they would get if each query's keys were permuted; the most
    first. ``untrained``: the same in an untrained model. ``writes``: what the head writes for them; tokens -1 where there are fewer
    (their writes mean nothing).
    """

    token: Int[Tensor, "head rank"]
    times: Float[Tensor, "head rank"]
    occurrences: Int[Tensor, "head rank"]
    untrained: Float[Tensor, "head rank"]
    writes: TokenWrites


def token_pairs(trained: PatternSums, untrained: PatternSums, pairs: FollowedPairs) -> TokenPairs:
    """The table of every head, of the pairs followed."""
    n_queries = trained.sums["pair_queries"]
    often = n_queries >= FEWEST
    mean, other = ((sums.sums["pair_attention"] / n_queries.clamp_min(1)[:, None]).T for sums in (trained, untrained))
    permuted = trained.sums["pair_permuted"] / n_queries.clamp_min(1)
    best = _ranked(mean, often, PAIRS_SHOWN)
    query, key = pairs.tokens()
    return TokenPairs(
        query=_taken(query, best),
        key=_taken(key, best),
        attention=_gathered(mean, best),
        queries=_taken(n_queries.long(), best),
        untrained=_gathered(other, best),
        permuted=_taken(permuted, best),
    )


def attended_tokens(
    model: HookedModel, weights: HeadWeights, trained: PatternSums, untrained: PatternSums
) -> AttendedTokens:
    """The table of every head, of all tokens that occur often enough."""
    often = trained.sums["occurrences"] >= FEWEST
    expected = trained.sums["received_permuted"].clamp_min(1e-300)[:, None]
    times, other = ((sums.sums["received"] / expected).T for sums in (trained, untrained))
    best = _ranked(times, often, TOKENS_SHOWN)
    return AttendedTokens(
        token=best,
        times=_gathered(times, best),
        occurrences=_taken(trained.sums["occurrences"].long(), best),
        untrained=_gathered(other, best),
        writes=token_writes(model, weights, best.clamp_min(0)),
    )


def _ranked(values: Float[Tensor, "head item"], often: Tensor, n: int) -> Int[Tensor, "head rank"]:
    """The items with the largest values among those seen often, those with the smaller number first where they tie."""
    order = values.where(often, -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :n]
    return order.where(often[order], -1)


def _gathered(values: Float[Tensor, "head item"], chosen: Int[Tensor, "head rank"]) -> Float[Tensor, "head rank"]:
    return values.gather(1, chosen.clamp_min(0)).float()


def _taken(values: Tensor, chosen: Int[Tensor, "head rank"]) -> Tensor:
    taken = values[chosen.clamp_min(0)]
    return taken.where(chosen >= 0, -1) if not taken.is_floating_point() else taken.float()
