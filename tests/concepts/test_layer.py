"""A layer with planted concepts: units with their effects are counted, and by chance no others."""

import pytest
import torch

from mi_superposition.concepts import ConceptsConfig, split_by_words
from mi_superposition.concepts.layer import measure_features, measure_layer, measure_random

WORDS = [("aa", "ab", "ac", "ad"), ("ba", "bb", "bc", "bd"), ("ca", "cb", "cc", "cd")]


@pytest.fixture
def planted():
    """Texts with words of three concepts, and a layer in which each concept moves eight of 100 units."""
    texts = [{word, f"x{k}"} for some in WORDS for word in some for k in range(30)] + [{f"y{k}"} for k in range(200)]
    split = split_by_words(texts, WORDS, names=["a", "b", "c"], per_concept=50, seed=0)
    points = torch.randn(len(texts), 100, generator=torch.Generator().manual_seed(0))
    for concept, some in enumerate(WORDS):
        member = torch.tensor([bool(text & set(some)) for text in texts])
        units = {0: range(0, 8), 1: range(4, 12), 2: range(20, 28)}[concept]
        points[member] += 3 * torch.tensor([float(unit in units) for unit in range(100)])
    return points, split


def test_planted_concepts(planted):
    points, split = planted
    measured = measure_layer(points, split, ConceptsConfig(units_per_concept=8, permutations=200))
    assert measured.shared.tolist() == [[8, 4, 0], [4, 8, 0], [0, 0, 8]]
    assert measured.mean_shared == pytest.approx(4 / 3)
    assert measured.probe > 0.95
    assert measured.nearest > 0.9
    assert abs(measured.shuffled - 1 / 3) < 0.15
    assert max(one.p for one in measured.separations) < 0.1
    assert measured.cosines.shape == (4, 3)
    assert measured.coordinates.shape == (len(split.test.labels), 2)


def test_draws_and_features(planted):
    points, split = planted
    config = ConceptsConfig(units_per_concept=8, random_lists=3, random_probes=2)
    random = measure_random(points, [split] * 3, config)
    assert (len(random.probes), len(random.shared)) == (2, 3)
    assert random.mean_shared == pytest.approx(4 / 3)
    features = measure_features("hook.features", points, split, [split] * 2)
    assert features.effects.shape == (3, 100)
    assert features.random_largest == (float(features.effects.abs().max()),) * 2
