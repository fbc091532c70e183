"""Many halvings of words, a layer chosen without the held-out half, and what needs no model."""

import pytest
import torch

from mi_superposition.concepts.halves import (
    HalvesMeasured,
    _folds,
    co_occurrence_vectors,
    cross_validated,
    measure_halves,
    nested_accuracy,
)
from mi_superposition.concepts.overlap import compare_shared
from mi_superposition.concepts.split import ConceptSplit, Side, split_by_words
from mi_superposition.concepts.words import without_words

N_CONCEPTS, N_WORDS, N_TEXTS = 3, 4, 10


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def split():
    """Three concepts of four words a side, ten texts a word."""
    sides = []
    for side in range(2):
        n = N_CONCEPTS * N_WORDS * N_TEXTS
        groups = torch.arange(n) // N_TEXTS + 1000 * side
        sides.append(Side(torch.arange(n) + n * side, torch.arange(n) // (N_WORDS * N_TEXTS), groups))
    return ConceptSplit(N_CONCEPTS, *sides)


def planted(split, strength, seed):
    """Noise with the concept in it."""
    labels = torch.cat([split.train.labels, split.test.labels])
    return normal(len(labels), 8, seed=seed) + strength * torch.nn.functional.one_hot(labels, 8)


def test_no_word_is_in_both_folds_and_every_concept_is_in_each(split):
    fold = _folds(split.train.labels, split.train.groups)
    for group in split.train.groups.unique():
        assert len(fold[split.train.groups == group].unique()) == 1
    for label in range(N_CONCEPTS):
        assert len(fold[split.train.labels == label].unique()) == 2


def test_the_layer_is_chosen_without_the_held_out_half(split):
    layers = {"noise": planted(split, 0, 1), "good": planted(split, 3, 2), "weak": planted(split, 1, 3)}
    layer, accuracy = nested_accuracy(layers, split)
    assert layer == "good"
    assert accuracy > 0.8
    # On the held-out texts another would be better, and is not taken.
    n = len(split.train.labels)
    layers["good"][n:] = normal(n, 8, seed=4)
    layer, accuracy = nested_accuracy(layers, split)
    assert layer == "good"
    assert accuracy < 0.5


def test_among_many_layers_of_noise_the_accuracy_is_that_of_chance(split):
    layers = {f"{number}": planted(split, 0, 10 + number) for number in range(30)}
    best = max(cross_validated(points, split) for points in layers.values())
    assert best > 1 / N_CONCEPTS + 0.06
    nested = [nested_accuracy({name: layers[name] for name in list(layers)[start::3]}, split)[1] for start in range(3)]
    assert sum(nested) / 3 == pytest.approx(1 / N_CONCEPTS, abs=0.06)


def test_a_fold_of_one_concept_tells_nothing():
    side = Side(torch.arange(4), torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 1, 1]))
    assert cross_validated(normal(4, 2), ConceptSplit(2, side, side)) == 0


def test_what_is_measured_of_every_split(split):
    texts = [
        f"text {number} w{label}"
        for number, label in enumerate(torch.cat([split.train.labels, split.test.labels]).tolist())
    ]
    good, noise = {"layer": planted(split, 3, 2)}, {"layer": planted(split, 0, 1)}
    found = measure_halves(
        [split] * 2, good, noise, texts=texts, without=["w0", "w1", "w2"], word_vectors=good["layer"], denied=noise
    )
    assert found.layers == ("layer", "layer")
    assert found.trained == found.word_vectors
    assert found.denied == found.untrained
    assert found.mean("trained") > 0.8 > 0.6 > found.mean("untrained")
    assert found.mean("bag_of_words") == pytest.approx(1 / 3, abs=0.05)
    labels_only = measure_halves([split], good, noise, texts=texts, without=[])
    assert (labels_only.word_vectors, labels_only.denied) == ((), ())
    assert labels_only.mean("bag_of_words") == 1


def test_mean_and_standard_deviation():
    found = HalvesMeasured(("a", "b", "b"), (0.5, 0.6, 0.7), (0.1,), (0.1,))
    assert found.mean("trained") == pytest.approx(0.6)
    assert found.deviation("trained") == pytest.approx(0.1)
    assert found.deviation("untrained") == 0
    assert found.usual_layer == "b"


def test_words_in_the_same_company_have_similar_vectors():
    texts = [
        {kind, place, f"filler{n % 7}"}
        for n in range(300)
        for kind, place in [(("cat", "dog", "car", "bus")[n % 4], "home" if n % 4 < 2 else "road")]
    ]
    texts += [{"cat"}] * 3 + [{"dog"}, {"car"}, {"never"}]
    vectors = co_occurrence_vectors(texts, dimensions=6)
    cat, dog, car, never = torch.nn.functional.normalize(vectors[[-4, -3, -2, -1]], dim=1)
    assert float(cat @ dog) > float(cat @ car) + 0.3
    assert never.tolist() == [0] * 6


def test_random_halves_differ_by_seed_and_keep_families_together():
    lists = [("mom", "mommy", "dad", "aunt"), ("cat", "dog", "cow", "fox")]
    words = [{word, f"other{n}"} for some in lists for word in some for n in range(20)] + [{"none"}] * 20
    halves = set()
    for seed in range(8):
        split = split_by_words(words, lists, names=["a", "b"], per_concept=100, seed=0, random_halves=seed)
        held = [
            {
                next(word for word in words[index] if not word.startswith("other"))
                for index in side.of_concepts().index.tolist()
            }
            for side in (split.train, split.test)
        ]
        assert not held[0] & held[1]
        assert held[0] | held[1] == {word for some in lists for word in some}
        assert sum({"mom", "mommy"} <= side for side in held) == 1
        halves.add(frozenset(held[0]))
    assert len(halves) > 2


def test_a_text_without_its_concept_words():
    assert without_words("The Cat sat; cats ran.", {"cat"}) == "The  sat; cats ran."
    assert without_words("Sad", {"sad"}) == "."


def test_holms_correction_by_hand():
    draws = normal(50, seed=3).double()
    draws = ((draws - draws.mean()) / draws.std()).tolist()
    observed = {("layer", 10): 0.0, ("layer", 20): 3.0, ("layer", 40): 5.0}
    found = {one.k: one for one in compare_shared(observed, dict.fromkeys(observed, draws))}
    assert found[10].p == pytest.approx(1)
    assert found[40].p < found[20].p < 0.01
    assert found[40].adjusted == pytest.approx(3 * found[40].p)
    assert found[20].adjusted == pytest.approx(2 * found[20].p)
    assert found[10].adjusted == 1
    [single] = compare_shared({("layer", 10): 1.0}, {("layer", 10): [0.0]})
    assert single.p == single.adjusted == 1
