"""Orders: against brute force, SciPy's spanning tree, and the bound against both."""

import itertools
import subprocess
import sys

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import minimum_spanning_tree

from mi_superposition.errors import RequestError
from mi_superposition.neurons import bound, cosine_similarity, neighbour_similarity, order_neurons
from mi_superposition.neurons.bound import path_bound, priced_tree
from mi_superposition.neurons.near_tree import near_tree
from mi_superposition.neurons.order import path_score
from mi_superposition.neurons.path import greedy_path, search_path


def random_similarity(n, d=5, seed=0):
    return cosine_similarity(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))


def best_score(similarity):
    weights = similarity.double().square().numpy()
    n = len(weights)
    return max(sum(weights[a, b] for a, b in itertools.pairwise(path)) for path in itertools.permutations(range(n)))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 7), d=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_small_orders_are_the_best_there_are(n, d, seed):
    similarity = random_similarity(n, d, seed)
    found = order_neurons(similarity, seed=seed, seconds=0.05)
    assert sorted(found.order.tolist()) == list(range(n))
    best = best_score(similarity)
    assert found.score == pytest.approx(best, abs=1e-5)
    assert best - 1e-5 <= found.upper_bound


@pytest.mark.parametrize("n", [10, 60, 300])
def test_score_is_the_sum_over_neighbours_and_below_the_bound(n):
    similarity = random_similarity(n, 20)
    found = order_neurons(similarity)
    assert sorted(found.order.tolist()) == list(range(n))
    assert found.score == pytest.approx(float(neighbour_similarity(similarity, found.order).double().square().sum()))
    assert found.score <= found.upper_bound * (1 + 1e-9)
    assert found.gap < 0.03
    greedy = greedy_path(similarity.square().fill_diagonal_(0).numpy(), 0)
    assert found.score > path_score(similarity.square(), torch.from_numpy(greedy))


def test_a_hidden_chain_is_found_whole():
    """Vectors that turn step by step: the best path is the turning itself."""
    angles = torch.linspace(0, 1.4, 80)
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1)
    hidden = torch.randperm(80, generator=torch.Generator().manual_seed(3))
    found = order_neurons(cosine_similarity(vectors[hidden]))
    path = hidden[found.order]
    assert path.tolist() in (list(range(80)), list(range(79, -1, -1)))
    assert found.gap < 1e-3


def test_the_same_seed_gives_the_same_order_and_another_seed_another():
    similarity = random_similarity(400, 30)
    first, second = (order_neurons(similarity, seed=1, seconds=0.2) for _ in range(2))
    assert torch.equal(first.order, second.order)
    assert (first.score, first.upper_bound) == (second.score, second.upper_bound)
    assert not torch.equal(first.order, order_neurons(similarity, seed=2, seconds=0.2).order)


def test_search_never_loses_what_it_had():
    similarity = random_similarity(200, 30)
    scores = [order_neurons(similarity, seconds=seconds, bound=False).score for seconds in (0.0, 0.05, 0.5)]
    assert scores == sorted(scores)


def test_renaming_the_neurons_renames_the_order():
    """The bound does not depend on names at all, the score hardly: the search is a heuristic."""
    similarity = random_similarity(150, 25)
    renamed = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    here, there = order_neurons(similarity), order_neurons(similarity[renamed][:, renamed])
    assert there.upper_bound == pytest.approx(here.upper_bound, rel=0.01)
    assert there.score == pytest.approx(here.score, rel=0.005)


def test_dead_neurons_come_last_and_duplicates_together():
    vectors = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    vectors[[3, 17]] = 0
    vectors[21] = vectors[5]
    vectors[30] = -vectors[5]
    found = order_neurons(cosine_similarity(vectors))
    assert found.order[-2:].tolist() == [3, 17]
    at = {neuron: place for place, neuron in enumerate(found.order.tolist())}
    assert max(at[5], at[21], at[30]) - min(at[5], at[21], at[30]) == 2


def test_an_order_is_a_result():
    found = order_neurons(random_similarity(60, 20))
    assert repr(found) == f"NeuronOrder({found.summary()})"
    assert found.summary().startswith(f"60 neurons: score {found.score:.2f} (upper bound ")
    frame = found.to_frame()
    assert frame["neuron"].tolist() == found.order.tolist()
    assert frame["similarity_to_next"].tolist()[:-1] == found.neighbours.tolist()
    assert frame["similarity_to_next"].isna().tolist() == [False] * 59 + [True]
    assert found._repr_html_().count("<tr") == 12
    assert isinstance(found.plot(), go.Figure)
    assert "no upper bound" in repr(order_neurons(torch.eye(3), bound=False))


@pytest.mark.parametrize(("n", "score"), [(1, 0.0), (2, 0.25)])
def test_one_and_two_neurons(n, score):
    found = order_neurons(torch.eye(n) + 0.5 * (1 - torch.eye(n)))
    assert found.order.tolist() == list(range(n))
    assert (found.score, found.upper_bound) == (score, score)


def test_all_dead_is_the_order_they_came_in():
    found = order_neurons(torch.zeros(5, 5))
    assert found.order.tolist() == [0, 1, 2, 3, 4]
    assert (found.score, found.upper_bound, found.gap) == (0, 0, 0)


@pytest.mark.parametrize(
    ("similarity", "said"),
    [
        (torch.zeros(0, 0), "at least one neuron"),
        (torch.tensor([[1.0, float("nan")], [float("nan"), 1.0]]), "neurons 0 and 1 is nan"),
        (torch.tensor([[1.0, 0.5], [0.2, 1.0]]), "0.5 one way and 0.2 the other"),
    ],
)
def test_what_cannot_be_ordered_is_said(similarity, said):
    with pytest.raises(RequestError, match=said):
        order_neurons(similarity)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_scale_changes_nothing_but_the_score(scale):
    similarity = random_similarity(120, 15)
    found, scaled = order_neurons(similarity, seconds=0.1), order_neurons(similarity * scale, seconds=0.1)
    assert scaled.gap < 0.02
    assert scaled.score == pytest.approx(found.score * scale**2, rel=0.005)


def test_negative_seconds_are_refused():
    with pytest.raises(RequestError, match="seconds = -1"):
        order_neurons(torch.eye(3), seconds=-1.0)


def test_priced_tree_is_scipys_spanning_tree():
    weights = random_similarity(50, 10).square().fill_diagonal_(0).numpy()
    prices = np.random.default_rng(0).normal(0, 0.1, 50)
    value, degree, _ = priced_tree(weights, prices)
    priced = weights.astype(np.float64) + prices[:, None] + prices
    offset = priced.max() + 1
    tree = minimum_spanning_tree(np.triu(offset - priced, 1))
    heaviest = offset * 49 - tree.sum()
    dearest = np.sort(prices)[-2:]
    assert value == pytest.approx(heaviest + dearest.sum() - 2 * prices.sum())
    links = (tree.toarray() > 0).sum(0) + (tree.toarray() > 0).sum(1)
    links[np.argsort(prices)[-2:]] += 1
    assert degree.tolist() == links.tolist()


def test_every_price_gives_a_bound():
    similarity = random_similarity(7, 4)
    weights = similarity.square().fill_diagonal_(0).numpy()
    best = best_score(similarity)
    generator = np.random.default_rng(0)
    for _ in range(20):
        value, *_ = priced_tree(weights, generator.normal(0, 0.3, 7))
        assert value >= best - 1e-6
    assert path_bound(weights, best) >= best - 1e-6


def test_the_tree_of_few_edges_is_that_of_the_matrix():
    """Where no edge is missing; and where some are, SciPy's of what is left."""
    n = 60
    weights = random_similarity(n, 8).square().fill_diagonal_(0).numpy()
    prices = np.random.default_rng(1).normal(0, 0.1, n)
    value, degree, parent = priced_tree(weights, prices)
    one, other = np.nonzero(~np.eye(n, dtype=bool))
    starts = np.concatenate([[0], np.bincount(one).cumsum()])
    found, degrees, _ = near_tree(starts, other, weights[one, other], prices)
    assert found == pytest.approx(value)
    assert degrees.tolist() == degree.tolist()
    keep = np.random.default_rng(2).random((n, n)) < 0.1
    keep[np.arange(1, n), parent[1:]] = True
    keep = (keep | keep.T) & ~np.eye(n, dtype=bool)
    # Without a third of the tree's edges, but still connected by a ring.
    keep[np.arange(1, 20), parent[1:20]] = keep[parent[1:20], np.arange(1, 20)] = False
    keep[np.arange(n), (np.arange(n) + 1) % n] = keep[(np.arange(n) + 1) % n, np.arange(n)] = True
    one, other = np.nonzero(keep)
    starts = np.concatenate([[0], np.bincount(one, minlength=n).cumsum()])
    found, _, _ = near_tree(starts, other, weights[one, other], prices)
    priced = weights.astype(np.float64) + prices[:, None] + prices
    offset = priced.max() + 1
    heaviest = offset * (n - 1) - minimum_spanning_tree(np.triu((offset - priced) * keep, 1)).sum()
    assert found == pytest.approx(heaviest + np.sort(prices)[-2:].sum() - 2 * prices.sum())
    assert found < value


def test_bound_by_near_edges_is_a_bound_and_no_looser(monkeypatch):
    """Of 300 nodes both ways are quick: prices found on near edges give a tree of the whole matrix that no path outweighs."""
    monkeypatch.setattr(bound, "_ALL_EDGES_UP_TO", 10**9)
    similarity = random_similarity(300, 30)
    weights = similarity.square().fill_diagonal_(0).numpy()
    score = order_neurons(similarity, seconds=1.0, bound=False).score
    by_all = path_bound(weights, score)
    monkeypatch.setattr(bound, "_ALL_EDGES_UP_TO", 2)
    by_near = path_bound(weights, score)
    assert score <= by_near <= 1.001 * by_all
    path = order_neurons(similarity, seconds=1.0, bound=False).order.numpy()
    assert score <= path_bound(weights, score, path) <= 1.001 * by_all
    # Whatever score it is told of.
    assert path_bound(weights, 0.5 * score) >= score
    small = random_similarity(7, 4)
    weights = small.square().fill_diagonal_(0).numpy()
    monkeypatch.setattr(bound, "_NEAR", 3)
    assert path_bound(weights, 0.9 * best_score(small)) >= best_score(small) - 1e-6


def test_search_path_keeps_its_books():
    """The score it climbs to is the score of the path it returns: no kick is half taken back."""
    weights = random_similarity(120, 12).square().fill_diagonal_(0)
    near = weights.topk(10, dim=1).indices.numpy()
    start = greedy_path(weights.numpy(), 0)
    before = path_score(weights, torch.from_numpy(start.copy()))
    path = search_path(weights.numpy(), near, start, 3000, np.random.default_rng(0))
    assert sorted(path.tolist()) == list(range(120))
    assert path_score(weights, torch.from_numpy(path)) >= before


FULL_SIZE = """
import resource, time, torch
from mi_superposition.neurons import cosine_similarity, order_neurons
from mi_superposition.neurons.order import path_score
from mi_superposition.neurons.path import greedy_path
generator = torch.Generator().manual_seed(0)
hidden, vectors = (torch.randn(n, 1024, generator=generator) for n in (120, 4096))
near = torch.randint(120, (1024,), generator=generator)
vectors[:1024] = hidden[near] + 2 * torch.rand(1024, 1, generator=generator) * vectors[:1024]
similarity = cosine_similarity(vectors[torch.randperm(4096, generator=generator)])
order_neurons(similarity[:64, :64])
del vectors, hidden
greedy = path_score(similarity.square(), torch.from_numpy(greedy_path(similarity.square().numpy(), 0)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.perf_counter()
found = order_neurons(similarity)
print(found.score / greedy, found.gap, time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_full_size_meets_its_numbers():
    """4096 neurons of 1024 dimensions, a quarter of them around 120 hidden directions, near or far."""
    done = subprocess.run([sys.executable, "-c", FULL_SIZE], capture_output=True, text=True, check=True)
    ratio, gap, _, added_kib = map(float, done.stdout.split())
    assert ratio >= 1.04
    assert gap <= 0.03
    assert added_kib <= 2**20
