"""Sums over the attention patterns of all heads, and what they would be if each query's keys were permuted. Sums merge by adding."""

from __future__ import annotations

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_superposition.heads.scan.reader import LayerReading
from mi_superposition.heads.scan.view import BatchView

# What is summed over queries for each head; ``written`` in squares.
OVER_QUERIES = ("entropy", "distance", "first", "itself", "previous", "strongest", "written")
# Those of them whose mean over all permutations of a query's keys does not depend on the head.
OF_POSITIONS = ("entropy", "distance", "first", "itself", "previous")


class PatternSums:
    """What the heads of one model did on the tokens seen so far. Heads of all layers stand in one axis, layer after layer.

    The control permutes the attention weights of a query among its ``n`` keys. Its means over all permutations are exact: they follow from
    ``n``, and for what is written, with ``S`` the sum of the squared weights, ``Q`` that of the squared norms of what each key would have the
    head write and ``T`` the squared norm of the sum of these: the mean square norm is ``S Q / n + (1 - S) (T - Q) / (n (n - 1))``. Only the largest
    entry is drawn, on some queries. In place of the entropy, which a permutation leaves as it is, stands its largest possible value.
    """

    def __init__(self, layers: list[int], n_heads: int, d_vocab: int, n_pairs: int):
        self.layers, self.n_heads = layers, n_heads
        n = len(layers) * n_heads

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64)

        self.sums = {
            "n": zeros(1),
            "totals": zeros(len(OVER_QUERIES), n),
            "permuted_positions": zeros(len(OF_POSITIONS)),
            "permuted_written": zeros(n),
            "permuted_strongest": zeros(n),
            "n_drawn": zeros(1),
            "products": zeros(n, n),
            "received": zeros(d_vocab, n),
            "received_permuted": zeros(d_vocab),
            "occurrences": zeros(d_vocab),
            "pair_attention": zeros(n_pairs, n),
            "pair_permuted": zeros(n_pairs),
            "pair_queries": zeros(n_pairs),
        }

    def merge(self, other: PatternSums) -> None:
        """Add what another one has seen."""
        for name, value in self.sums.items():
            value += other.sums[name]

    def begin(self, view: BatchView) -> PatternBatch:
        """Take up a batch: what does not depend on the head now, the rest layer by layer."""
        counts = view.counts.double()
        n_keys = torch.arange(1, counts.shape[1] + 1, dtype=torch.float64)
        uniform = counts / n_keys
        sums = self.sums
        sums["n"] += counts.sum()
        after_first = (torch.arange(counts.shape[1]) > 0).double()
        permuted = (counts * n_keys.log(), counts * (n_keys - 1) / 2, uniform, uniform, uniform * after_first)
        sums["permuted_positions"] += torch.stack([each.sum() for each in permuted])
        sums["n_drawn"] += view.drawn.shape[1]
        tokens, at = view.tokens[view.counts], view.counts
        sums["occurrences"].index_add_(0, tokens, torch.ones(len(tokens), dtype=torch.float64))
        # A key is seen by itself and all later queries of its row.
        seen = uniform.flip(1).cumsum(1).flip(1)
        sums["received_permuted"].index_add_(0, tokens, seen[at])
        row, query, _, pair = view.at
        sums["pair_permuted"].index_add_(0, pair, uniform[row, query])
        sums["pair_queries"].index_add_(0, pair, view.first_of_token.double())
        return PatternBatch(self, view)

    def place_of(self, layer: int) -> slice:
        """Where the heads of a layer stand."""
        start = self.layers.index(layer) * self.n_heads
        return slice(start, start + self.n_heads)

    def means(self) -> dict[str, Float[Tensor, " head"]]:
        """Of each head the means over queries: nats, tokens, shares, and norms (``written``: root of the mean square)."""
        means = dict(zip(OVER_QUERIES, self.sums["totals"] / self.sums["n"], strict=True))
        return means | {"written": means["written"].sqrt()}

    def permuted_means(self) -> dict[str, Float[Tensor, " head"]]:
        """The same if each query's keys were permuted."""
        n = self.sums["totals"].shape[1]
        shared = self.sums["permuted_positions"] / self.sums["n"]
        means = {name: value.expand(n) for name, value in zip(OF_POSITIONS, shared, strict=True)}
        means["strongest"] = self.sums["permuted_strongest"] / self.sums["n_drawn"]
        means["written"] = (self.sums["permuted_written"] / self.sums["n"]).clamp_min(0).sqrt()
        return means

    def similarity(self) -> Float[Tensor, "head head"]:
        """Cosine of the attention of two heads on the queries drawn, what each query's permuted keys would have on average taken off."""
        products = self.sums["products"]
        length = products.diagonal().clamp_min(0).sqrt()
        return (products / (length[:, None] * length).clamp_min(1e-300)).clamp(-1, 1)


class PatternBatch:
    """A batch whose layers are taken up one after the other."""

    def __init__(self, sums: PatternSums, view: BatchView):
        self._sums, self._view = sums, view
        self._drawn: list[Float[Tensor, "head entry"]] = []

    def take(self, reading: LayerReading) -> Float[Tensor, "batch query head"]:
        """Take up a layer; its strongest value-weighted attention at every query (norm of what the key adds to the head's output)."""
        view, sums = self._view, self._sums.sums
        pattern, device = reading.pattern, reading.pattern.device
        place = self._sums.place_of(reading.layer)
        counts = view.counts.to(device)
        position = torch.arange(pattern.shape[-1], device=device, dtype=torch.float32)
        lengths = key_lengths(reading, counts)
        strongest = strongest_attention(pattern, lengths)
        squares = einsum(pattern, pattern, "batch head query key, batch head query key -> batch head query")
        over_queries = {
            "entropy": torch.special.entr(pattern).sum(dim=-1),
            "distance": position - pattern @ position,
            "first": pattern[..., 0],
            "itself": pattern.diagonal(dim1=2, dim2=3),
            "previous": torch.nn.functional.pad(pattern.diagonal(offset=-1, dim1=2, dim2=3), (1, 0)),
            "strongest": strongest,
            "written": reading.written.transpose(1, 2).square(),
        }
        at = counts[:, None].float()
        for row, name in enumerate(OVER_QUERIES):
            sums["totals"][row, place] += _total(over_queries[name] * at)
        sums["permuted_written"][place] += _total(_permuted_written(reading.values, squares) * at)
        received = (at[:, :, None] @ pattern)[:, :, 0].transpose(1, 2)
        self._index_add("received", view.tokens[view.counts], received[counts], place)
        row, query, key, pair = view.at
        if len(pair):
            self._index_add("pair_attention", pair, pattern[row, :, query, key], place)
        if view.drawn.shape[1]:
            self._take_drawn(pattern, lengths, place)
        return strongest.transpose(1, 2)

    def finish(self) -> None:
        """After the last layer: how alike the attention of all heads is on the queries drawn."""
        if self._drawn:
            together = torch.cat(self._drawn)
            self._sums.sums["products"] += (together @ together.T).cpu().double()

    def _take_drawn(self, pattern: Tensor, lengths: Tensor, place: slice) -> None:
        view, device = self._view, pattern.device
        row, query = view.drawn.to(device)
        some = pattern[row, :, query]
        order, n_keys = view.order.to(device), view.n_keys.to(device)
        by_key = lengths[row].transpose(1, 2).gather(2, order[:, None].expand_as(some))
        inside = torch.arange(some.shape[2], device=device) < n_keys[:, None]
        strongest = (view.permuted(some) * by_key * inside[:, None]).amax(dim=2)
        self._sums.sums["permuted_strongest"][place] += strongest.cpu().double().sum(dim=0)
        causal = torch.arange(some.shape[2], device=device) <= query[:, None]
        self._drawn.append(((some - 1 / (query + 1)[:, None, None]) * causal[:, None]).transpose(0, 1).flatten(1))

    def _index_add(self, name: str, index: Int[Tensor, " n"], values: Tensor, place: slice) -> None:
        self._sums.sums[name][:, place].index_add_(0, index, values.cpu().double())


def key_lengths(reading: LayerReading, counts: Bool[Tensor, "batch key"]) -> Float[Tensor, "batch key head"]:
    """The norm of what each key adds to a head's output at full attention; 0 for those that do not count."""
    return reading.values.norm(dim=-1) * counts.to(reading.values.device)[..., None]


def strongest_attention(
    pattern: Float[Tensor, "batch head query key"], lengths: Float[Tensor, "batch key head"]
) -> Float[Tensor, "batch head query"]:
    """The largest value-weighted attention of every query."""
    return (pattern * lengths.transpose(1, 2)[:, :, None, :]).amax(dim=-1)


def _permuted_written(
    values: Float[Tensor, "batch key head d_head"], squares: Float[Tensor, "batch head query"]
) -> Float[Tensor, "batch head query"]:
    """The mean square norm of what a head writes if its keys are permuted, from the sum of the squares of its weights."""
    n = torch.arange(1, values.shape[1] + 1, device=values.device, dtype=values.dtype)[:, None]
    own = values.square().sum(dim=-1).cumsum(dim=1)
    together = values.cumsum(dim=1).square().sum(dim=-1)
    own, together = own / n, (together - own) / (n * (n - 1).clamp_min(1))
    return squares * own.transpose(1, 2) + (1 - squares) * together.transpose(1, 2)


def _total(values: Float[Tensor, "batch head query"]) -> Float[Tensor, " head"]:
    return values.cpu().double().sum(dim=(0, 2))
