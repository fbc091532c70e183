"""The heaviest 1-tree in a graph of few edges: Prim's algorithm with a heap of the nodes that touch the tree.

A step of the bound of ``bound.py`` on a matrix is a pass over it; on some twenty edges a node it takes a hundredth of that.
"""

from __future__ import annotations

import numpy as np

from mi_superposition.neurons.compiled import compiled

# Where a node stands that no edge has touched yet, and one that is in the tree.
_UNTOUCHED, _IN_TREE = -1, -2


@compiled()
def _rise(heap, place, key, at):
    """Put a node whose key has grown where it belongs: the heaviest is first."""
    node = heap[at]
    while at > 0:
        above = (at - 1) // 2
        if key[heap[above]] >= key[node]:
            break
        heap[at] = heap[above]
        place[heap[at]] = at
        at = above
    heap[at], place[node] = node, at


@compiled()
def _sink(heap, place, key, size):
    """Put the first node of the heap where it belongs."""
    node, at = heap[0], 0
    while 2 * at + 1 < size:
        below = 2 * at + 1
        if below + 1 < size and key[heap[below + 1]] > key[heap[below]]:
            below += 1
        if key[heap[below]] <= key[node]:
            break
        heap[at] = heap[below]
        place[heap[at]] = at
        at = below
    heap[at], place[node] = node, at


@compiled()
def near_tree(starts, others, weights, prices):
    """As ``bound.priced_tree``, of the edges of a connected graph: those of node ``a`` lead to ``others[starts[a]:starts[a + 1]]``."""
    n = len(prices)
    degree = np.zeros(n, np.int64)
    parent = np.zeros(n, np.int64)
    key = np.full(n, -np.inf)
    place = np.full(n, _UNTOUCHED)
    heap = np.empty(n, np.int64)
    size, total, newest = 0, 0.0, 0
    place[newest] = _IN_TREE
    while True:
        for edge in range(starts[newest], starts[newest + 1]):
            node = others[edge]
            value = weights[edge] + prices[newest] + prices[node]
            if place[node] == _IN_TREE or value <= key[node]:
                continue
            key[node], parent[node] = value, newest
            if place[node] == _UNTOUCHED:
                heap[size], place[node] = node, size
                size += 1
            _rise(heap, place, key, place[node])
        if size == 0:
            break
        newest = heap[0]
        size -= 1
        if size > 0:
            heap[0] = heap[size]
            place[heap[0]] = 0
            _sink(heap, place, key, size)
        place[newest] = _IN_TREE
        degree[newest] += 1
        degree[parent[newest]] += 1
        total += key[newest]
    return closed(total, degree, prices), degree, parent


@compiled()
def closed(total, degree, prices):
    """The value of a tree of weight ``total`` with the dummy node's two dearest edges, which the degrees count from now on."""
    first, second = -1, -1
    for node in range(len(prices)):
        if first < 0 or prices[node] > prices[first]:
            first, second = node, first
        elif second < 0 or prices[node] > prices[second]:
            second = node
    degree[first] += 1
    degree[second] += 1
    return total + prices[first] + prices[second] - 2 * prices.sum()
