"""An upper bound on the heaviest path through all nodes: the Held–Karp 1-tree bound, by subgradient steps.

A path through all nodes is a spanning tree, so no path outweighs the heaviest spanning tree. Adding a price to every
edge at a node shifts all paths alike but not all trees; the prices are moved until the tree is as nearly a path as they
can make it (Held & Karp 1971, "The traveling-salesman problem and minimum spanning trees: part II"). The ends of the
path are free: a dummy node with edges of weight 0 closes it, and takes its two dearest edges.

Of many nodes the prices are moved on the heaviest edges of each, which is a hundred times faster and needs as many more steps; only
then is the tree of the whole matrix under these prices a bound, and its edges that were missing are taken in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from mi_superposition.neurons.compiled import compiled
from mi_superposition.neurons.near_tree import closed, near_tree

_STEPS = 100
# Without a better bound for so many steps, the steps become half as long, down to the shortest.
_PATIENCE = 5
_SHORTEST = 1 / 128
# Of more nodes prices are moved on so many near edges a node, in rounds of so many steps; the whole matrix is looked at between them.
# Smaller matrices are passed over quickly.
_ALL_EDGES_UP_TO = 2048
_NEAR = 16
_ROUNDS = 3
_NEAR_STEPS = 400
_NEAR_PATIENCE = 10
_NEAR_SHORTEST = 1 / 512
# The first steps of the rounds after the first, which begin near the best prices.
_LATER_SCALE = 1 / 16
_ROWS_AT_ONCE = 256

# Value of the heaviest 1-tree under prices, the degree of every node in it, and the node before it.
_Tree = Callable[[NDArray[np.float64]], tuple[float, NDArray[np.int64], NDArray[np.int64]]]


def path_bound(weights: NDArray[np.float32], score: float, path: NDArray[np.int64] | None = None) -> float:
    """Upper bound on the weight of any path through all nodes. ``weights`` is symmetric, ``score`` any path's weight, ``path`` that path,
    whose edges of many nodes make the bound tighter.

    The value of every tree of the whole matrix is a bound, so the answer is right wherever the steps stop; they stop early when it
    meets ``score``. Accuracy: sums run in float64.
    """
    n = len(weights)
    if n < 3:
        return float(weights[0, 1]) if n == 2 else 0.0
    if n > _ALL_EDGES_UP_TO:
        return max(_near_bound(weights, score, path), score)
    best, _ = _lowered(functools.partial(priced_tree, weights), np.zeros(n), score)
    return float(max(best, score))


def _near_bound(weights: NDArray[np.float32], score: float, path: NDArray[np.int64] | None) -> float:
    n = len(weights)
    prices, best = np.zeros(n), np.inf
    # With the path's edges no tree of the graph weighs less than the path.
    known = np.zeros(0, np.int64) if path is None else _pairs(path[:-1], path[1:], n)
    for number in range(_ROUNDS + 1):
        value, _, parent = priced_tree(weights, prices)
        improved = best - value > 1e-5 * abs(score)
        best = min(best, float(value))
        # After the first round edges may still be missing.
        if number == _ROUNDS or (number > 1 and not improved) or best - score <= 1e-6 * max(abs(score), 1e-12):
            break
        # The heaviest edges of each node under the prices, and those of the tree, which connects all.
        tree = _pairs(np.arange(1, n), parent[1:], n)
        known = np.unique(np.concatenate([known, _near_pairs(weights, prices), tree]))
        _, prices = _lowered(
            functools.partial(near_tree, *_graph(weights, known)),
            prices,
            score,
            steps=_NEAR_STEPS,
            patience=_NEAR_PATIENCE,
            shortest=_NEAR_SHORTEST,
            scale=_LATER_SCALE if number else 1.0,
        )
    return best


def _lowered(
    tree: _Tree,
    prices: NDArray[np.float64],
    score: float,
    *,
    steps: int = _STEPS,
    patience: int = _PATIENCE,
    shortest: float = _SHORTEST,
    scale: float = 1.0,
) -> tuple[float, NDArray[np.float64]]:
    """The least value of the tree that steps from these prices reach, and the prices it has there."""
    best, best_prices, waited = np.inf, prices, 0
    direction = np.zeros(len(prices))
    for _ in range(steps):
        value, degree, _ = tree(prices)
        if value < best:
            best, best_prices, waited = value, prices, 0
        else:
            waited += 1
            if waited == patience:
                scale, waited, prices = scale / 2, 0, best_prices
                if scale < shortest:
                    break
                continue
        direction = 0.7 * (degree - 2.0) + 0.3 * direction
        length = float(direction @ direction)
        if length == 0 or best - score <= 1e-6 * max(abs(score), 1e-12):
            break
        # Polyak's step: as far as would close the gap to the known path if the function were linear.
        prices = prices - scale * (value - score) / length * direction
    return best, best_prices


def _near_pairs(weights: NDArray[np.float32], prices: NDArray[np.float64]) -> NDArray[np.int64]:
    matrix, priced = torch.from_numpy(weights), torch.from_numpy(prices).float()
    near = torch.cat([(rows + priced).topk(_NEAR, dim=1).indices for rows in matrix.split(_ROWS_AT_ONCE)]).numpy()
    return _pairs(np.repeat(np.arange(len(weights)), _NEAR), near.ravel(), len(weights))


def _pairs(one: NDArray[np.int64], other: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Edges as numbers, each in both directions; none from a node to itself."""
    one, other = one[one != other], other[one != other]
    return np.concatenate([one * n + other, other * n + one])


def _graph(
    weights: NDArray[np.float32], pairs: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Edges, sorted, as ``near_tree`` takes them."""
    one, other = np.divmod(pairs, len(weights))
    starts = np.concatenate([[0], np.bincount(one, minlength=len(weights)).cumsum()])
    return starts, other, weights[one, other]


@compiled()
def priced_tree(weights, prices):
    """Weight of the heaviest 1-tree under the prices, less twice their sum, the degree of every node in it, and what it hangs on (the
    first node on itself).

    Prim's algorithm on the complete graph: one pass over the matrix.
    """
    n = weights.shape[0]
    degree = np.zeros(n, np.int64)
    waiting = np.arange(1, n)
    n_waiting = n - 1
    # Heaviest edge from each waiting node to the tree (its own price left out), and where it leads.
    heaviest = np.full(n, -np.inf)
    parent = np.zeros(n, np.int64)
    newest, total = 0, 0.0
    while n_waiting > 0:
        row, price = weights[newest], prices[newest]
        best_index, best_value = -1, -np.inf
        for index in range(n_waiting):
            node = waiting[index]
            value = row[node] + price
            if value > heaviest[node]:
                heaviest[node] = value
                parent[node] = newest
            if heaviest[node] + prices[node] > best_value:
                best_index, best_value = index, heaviest[node] + prices[node]
        newest = waiting[best_index]
        n_waiting -= 1
        waiting[best_index] = waiting[n_waiting]
        degree[newest] += 1
        degree[parent[newest]] += 1
        total += best_value
    return closed(total, degree, prices), degree, parent
