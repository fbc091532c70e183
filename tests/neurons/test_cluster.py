"""Clusters: planted ones are recovered, noise has few."""

import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from mi_superposition.errors import RequestError
from mi_superposition.neurons import cluster_neurons, cosine_similarity


def planted(n_clusters=6, size=8, n_noise=60, d=40):
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(n_clusters, d, generator=generator).repeat_interleave(size, 0)
    members = centres + 0.25 * torch.randn(n_clusters * size, d, generator=generator)
    noise = torch.randn(n_noise, d, generator=generator)
    truth = torch.arange(n_clusters).repeat_interleave(size)
    shuffled = torch.randperm(n_clusters * size + n_noise, generator=generator)
    return torch.cat([members, noise])[shuffled], torch.cat([truth, torch.full((n_noise,), -1)])[shuffled]


def test_planted_clusters_are_recovered():
    vectors, truth = planted()
    found = cluster_neurons(cosine_similarity(vectors))
    inside = truth >= 0
    assert adjusted_rand_score(truth[inside], found.label[inside]) > 0.9
    assert 5 <= found.n_clusters <= 8


def test_the_order_goes_cluster_by_cluster_and_loses_nobody():
    vectors, _ = planted()
    found = cluster_neurons(cosine_similarity(vectors))
    assert sorted(found.order.tolist()) == list(range(len(vectors)))
    along = found.label[found.order].tolist()
    seen = [label for place, label in enumerate(along) if place == 0 or along[place - 1] != label]
    assert seen == [*range(found.n_clusters), -1]


def test_clusters_are_a_result():
    vectors, _ = planted()
    found = cluster_neurons(cosine_similarity(vectors))
    assert repr(found).startswith(f"ClusterOrder({found.n_clusters} clusters of 108 neurons, of which ")
    frame = found.to_frame()
    assert frame["neuron"].tolist() == found.order.tolist()
    assert frame["cluster"].tolist() == found.label[found.order].tolist()
    [bars] = found.plot().data
    assert sum(bars.y) == int((found.label >= 0).sum())


def test_signs_do_not_part_a_cluster():
    """Similarity is squared: a direction and its opposite lie on one line."""
    vectors, truth = planted()
    flipped = vectors * torch.where(torch.arange(len(vectors)) % 2 == 0, 1.0, -1.0)[:, None]
    inside = truth >= 0
    found = cluster_neurons(cosine_similarity(flipped))
    assert adjusted_rand_score(truth[inside], found.label[inside]) > 0.9


def test_few_neurons_are_no_cluster():
    found = cluster_neurons(torch.eye(3))
    assert found.n_clusters == 0
    assert sorted(found.order.tolist()) == [0, 1, 2]


def test_wrong_requests():
    with pytest.raises(RequestError, match="min_size = 1"):
        cluster_neurons(torch.eye(3), min_size=1)
    with pytest.raises(RequestError, match="nan"):
        cluster_neurons(torch.full((9, 9), float("nan")))
