"""An upper bound on the heaviest path through all nodes: the Held–Karp 1-tree bound, by subgradient steps.

A path through all nodes is a spanning tree, so no path outweighs the heaviest spanning tree. Adding a price to every
edge at a node shifts all paths alike but not all trees; the prices are moved until the tree is as nearly a path as they
can make it (Held & Karp 1971, "The traveling-salesman problem and minimum spanning trees: part II"). The ends of the
path are free: a dummy node with edges of weight 0 closes it, and takes its two dearest edges.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mi_superposition.neurons.compiled import compiled

_STEPS = 100
# Without a better bound for so many steps, the steps become half as long, down to the shortest.
_PATIENCE = 5
_SHORTEST = 1 / 128


def path_bound(weights: NDArray[np.float32], score: float) -> float:
    """Upper bound on the weight of any path through all nodes. ``weights`` is symmetric, ``score`` any path's weight.

    Every step's value is a bound, so the answer is right wherever the steps stop; they stop early when it meets
    ``score``. Accuracy: sums run in float64.
    """
    n = len(weights)
    if n < 3:
        return float(weights[0, 1]) if n == 2 else 0.0
    prices = np.zeros(n)
    best, best_prices, scale, waited = np.inf, prices, 1.0, 0
    direction = np.zeros(n)
    for _ in range(_STEPS):
        value, degree = _priced_tree(weights, prices)
        if value < best:
            best, best_prices, waited = value, prices, 0
        else:
            waited += 1
            if waited == _PATIENCE:
                scale, waited, prices = scale / 2, 0, best_prices
                if scale < _SHORTEST:
                    break
                continue
        direction = 0.7 * (degree - 2.0) + 0.3 * direction
        length = float(direction @ direction)
        if length == 0 or best - score <= 1e-6 * max(abs(score), 1e-12):
            break
        # Polyak's step: as far as would close the gap to the known path if the function were linear.
        prices = prices - scale * (value - score) / length * direction
    return float(max(best, score))


@compiled()
def _priced_tree(weights, prices):
    """Weight of the heaviest 1-tree under the prices, less twice their sum, and the degree of every node in it.

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
    first, second = -1, -1
    for node in range(n):
        if first < 0 or prices[node] > prices[first]:
            first, second = node, first
        elif second < 0 or prices[node] > prices[second]:
            second = node
    degree[first] += 1
    degree[second] += 1
    return total + prices[first] + prices[second] - 2 * prices.sum(), degree
