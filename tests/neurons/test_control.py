"""Controls keep what they promise to keep and lose the rest; a planted structure beats them, noise does not."""

import itertools
import math

import plotly.graph_objects as go
import pytest
import torch

from mi_superposition.errors import RequestError
from mi_superposition.neurons import (
    NeuronOrder,
    NeuronVectors,
    control_vectors,
    find_spots,
    measure_control,
    order_neurons,
    randomised,
)
from mi_superposition.neurons import control as controls
from mi_superposition.neurons.control import Control, hash_seed
from mi_superposition.neurons.order import window_similarity


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def vectors():
    return torch.randn(60, 12, generator=generator()) * torch.linspace(0.2, 3, 60)[:, None] + torch.arange(12) / 8


def test_spectrum_keeps_norms_and_singular_values(vectors):
    made = randomised(vectors, "spectrum", generator(1))
    assert torch.allclose(made.norm(dim=1), vectors.norm(dim=1), rtol=1e-5)
    assert torch.allclose(torch.linalg.svdvals(made), torch.linalg.svdvals(vectors), rtol=0.02)
    assert (made - vectors).abs().max() > 0.5


def test_shuffled_keeps_each_rows_entries(vectors):
    made = randomised(vectors, "shuffled", generator(1))
    assert torch.equal(made.sort(dim=1).values, vectors.sort(dim=1).values)
    assert not torch.equal(made, vectors)


def test_gaussian_keeps_the_shape_alone(vectors):
    made = randomised(vectors, "gaussian", generator(1))
    assert made.shape == vectors.shape
    assert abs(float(made.mean())) < 0.2


def test_samples_differ_and_repeat(vectors):
    held = NeuronVectors((vectors, vectors))
    once, again = (list(control_vectors(held, "gaussian", 2, seed=5)) for _ in range(2))
    assert torch.equal(once[0].parts[0], again[0].parts[0])
    assert not torch.equal(once[0].parts[0], once[1].parts[0])
    assert not torch.equal(once[0].parts[0], once[0].parts[1])


def test_another_kind_moves_no_sample_of_the_others(vectors, monkeypatch):
    def first_samples():
        held = NeuronVectors((vectors,))
        return {
            kind: next(control_vectors(held, kind, 1, seed=5)).parts[0] for kind in ("gaussian", "spectrum", "shuffled")
        }

    before = first_samples()
    monkeypatch.setattr(controls, "KINDS", {"rotated": "rows turned alike", **controls.KINDS})
    after = first_samples()
    assert all(torch.equal(before[kind], after[kind]) for kind in before)
    assert (
        len({hash_seed(seed, kind, sample) for seed in (0, 5) for kind in controls.KINDS for sample in range(9)}) == 108
    )


@pytest.mark.parametrize(
    ("kind", "seed"), [("gaussian", 35000120), ("spectrum", 35000121), ("shuffled", 35000122), ("shifted", 35000124)]
)
def test_seeds_are_those_of_the_published_numbers(kind, seed):
    assert hash_seed(7, kind, 3) == seed


def test_a_sample_is_that_of_the_published_numbers():
    held = NeuronVectors((torch.arange(12.0).reshape(4, 3) + 1,))
    *_, last = control_vectors(held, "gaussian", 2, seed=5)
    assert last.parts[0][0].tolist() == pytest.approx([0.8777520656585693, -0.43142378330230713, -2.3976120948791504])


def test_unknown_kind_is_refused(vectors):
    with pytest.raises(RequestError, match="'gauss': give 'gaussian'"):
        randomised(vectors, "gauss", generator())
    with pytest.raises(RequestError, match="initialised afresh"):
        next(control_vectors(NeuronVectors((vectors,)), "untrained", 1, seed=0))


def scored(vectors, kind="gaussian", n=8):
    held = NeuronVectors((vectors,))
    samples = (sample.similarity() for sample in control_vectors(held, kind, n, seed=0))
    control = measure_control(kind, samples, seed=0, seconds=0.02)
    return control, order_neurons(held.similarity(), seconds=0.02).score


def test_noise_is_no_more_than_chance():
    control, score = scored(torch.randn(80, 30, generator=generator(99)), n=20)
    assert abs(control.z_score(score)) < 4
    assert 0 < control.percentile(score) < 100


def test_spectrum_of_a_wide_matrix():
    wide = torch.randn(40, 90, generator=generator(1)) * torch.linspace(0.5, 2, 40)[:, None]
    made = randomised(wide, "spectrum", generator(2))
    assert torch.allclose(made.norm(dim=1), wide.norm(dim=1), rtol=1e-5)
    assert torch.allclose(torch.linalg.svdvals(made), torch.linalg.svdvals(wide), rtol=0.02)


@pytest.mark.parametrize("kind", ["gaussian", "spectrum", "shuffled"])
def test_planted_pairs_beat_every_control(kind):
    vectors = torch.randn(80, 30, generator=generator(99))
    vectors[40:] = vectors[:40] + 0.3 * torch.randn(40, 30, generator=generator(7))
    control, score = scored(vectors, kind)
    assert control.z_score(score) > 10
    assert control.percentile(score) == 100


def test_threads_do_not_change_the_scores():
    vectors = NeuronVectors((torch.randn(50, 20, generator=generator()),))

    def samples():
        return (sample.similarity() for sample in control_vectors(vectors, "gaussian", 5, seed=0))

    one, three = (measure_control("gaussian", samples(), seed=0, seconds=0.02, threads=threads) for threads in (1, 3))
    assert torch.equal(one.scores, three.scores)
    assert torch.equal(one.profiles, three.profiles)


def test_the_example_is_the_first_sample():
    vectors = NeuronVectors((torch.randn(50, 20, generator=generator()),))
    samples = [sample.similarity() for sample in control_vectors(vectors, "shuffled", 3, seed=0)]
    control = measure_control("shuffled", iter(samples), seed=1, seconds=0.02)
    again = order_neurons(samples[0], seed=1, seconds=0.02, bound=False)
    assert torch.equal(control.example.order, again.order)
    assert torch.equal(control.example.neighbours, again.neighbours)
    assert control.example.score == float(control.scores[0])


def test_a_control_is_a_result():
    control, _ = scored(torch.randn(80, 30, generator=generator(99)), n=5)
    assert "Gaussian of the same shape: score" in repr(control)
    assert len(repr(control)) < 400
    assert control.to_frame()["score"].tolist() == control.scores.tolist()
    assert isinstance(control.plot(), go.Figure)


def test_the_largest_seed_is_taken():
    vectors = NeuronVectors((torch.randn(5, 4, generator=generator()),))
    assert len(list(control_vectors(vectors, "gaussian", 2, seed=2**63 - 1))) == 2


def control_of(scores):
    """A control with these scores, of two neurons."""
    n = len(scores)
    example = NeuronOrder(torch.arange(2), scores[0], math.inf, torch.zeros(1))
    return Control(
        "gaussian", torch.tensor(scores, dtype=torch.float64), torch.zeros(n, 1), *[torch.zeros(n)] * 3, example
    )


def test_z_score_and_percentile_by_hand():
    control = control_of([1.0, 2.0, 3.0])
    assert control.z_score(4.0) == pytest.approx(2)
    assert control.percentile(2.5) == pytest.approx(200 / 3)
    # 4.303 is the two-sided 5 % point of t with two degrees of freedom, in every table.
    assert control.p_value(2.0) == 1
    assert control.p_value(2 + 4.302652729911275 * (4 / 3) ** 0.5) == pytest.approx(0.05)
    assert control.p_value(-1.0) == pytest.approx(control.p_value(5.0))
    still = control_of([2.0, 2.0])
    assert still.z_score(2.0) == 0
    assert still.z_score(3.0) == math.inf


def test_no_order_of_a_sample_scores_above_its_bound():
    """Every order of six neurons is tried; what is not bounded says so."""
    samples = [NeuronVectors((torch.randn(6, 3, generator=generator(seed)),)).similarity() for seed in range(3)]
    control = measure_control("gaussian", iter(samples), seed=0, seconds=0.02, window=3)
    for sample, bound in zip(samples, control.bounds.tolist(), strict=True):
        weights = sample.double().square()
        best = max(float(weights[list(path[:-1]), list(path[1:])].sum()) for path in itertools.permutations(range(6)))
        assert best <= bound + 1e-6
        assert bound < 1.2 * best
    assert control.highest == float(control.bounds.max())
    without = measure_control("gaussian", iter(samples), seed=0, seconds=0.02, window=3, bound=False)
    assert without.highest == math.inf
    assert without.scores.tolist() == control.scores.tolist()


def test_the_gain_is_relative_to_the_mean():
    assert control_of([1.0, 2.0, 3.0]).gain(3.0) == pytest.approx(0.5)
    assert control_of([0.0, 0.0]).gain(1.0) == 0


def test_window_similarity_is_the_mean_over_pairs():
    similarity = NeuronVectors((torch.randn(9, 4, generator=generator()),)).similarity()
    order = torch.randperm(9, generator=generator())
    for size in (2, 3, 9):
        for start, value in enumerate(window_similarity(similarity, order, size).tolist()):
            inside = order[start : start + size]
            pairs = similarity[inside][:, inside].double().square()
            assert value == pytest.approx(float(pairs.triu(1).sum()) / (size * (size - 1) / 2), abs=1e-7)
    with pytest.raises(RequestError, match="window = 10"):
        window_similarity(similarity, order, 10)


def measured(vectors, kind="gaussian", n=10, window=6):
    samples = (sample.similarity() for sample in control_vectors(NeuronVectors((vectors,)), kind, n, seed=0))
    return measure_control(kind, samples, seed=0, seconds=0.05, window=window)


def test_spots_find_the_planted_stretch_and_do_not_overlap():
    vectors = torch.randn(100, 40, generator=generator(3))
    planted = [7, 23, 42, 61, 77, 91]
    vectors[planted] = torch.randn(40, generator=generator(4)) + 0.2 * torch.randn(6, 40, generator=generator(5))
    similarity = NeuronVectors((vectors,)).similarity()
    spots = find_spots(similarity, order_neurons(similarity, seconds=0.1).order, measured(vectors), window=6)
    assert set(spots[0].neurons) == set(planted)
    assert spots[0].p == pytest.approx(1 / 11)
    assert spots[0].excess > 10
    assert [spot.excess for spot in spots] == sorted((spot.excess for spot in spots), reverse=True)
    places = sorted(spot.start for spot in spots)
    assert all(b - a >= 6 for a, b in itertools.pairwise(places))


def test_noise_has_spots_no_oftener_than_p_says():
    """Of forty matrices of noise about one in eleven has a window above all those of ten controls."""
    noise = torch.randn(40, 20, generator=generator(0))
    control = measured(noise, n=10)
    surprises = 0
    for number in range(40):
        similarity = NeuronVectors((torch.randn(40, 20, generator=generator(100 + number)),)).similarity()
        spots = find_spots(similarity, order_neurons(similarity, seconds=0.05, bound=False).order, control, window=6)
        surprises += spots[0].p <= 1 / 11
    assert surprises <= 10


def test_an_empty_control_is_refused():
    with pytest.raises(RequestError, match="no samples of the control 'gaussian'"):
        measure_control("gaussian", iter(()), seed=0, seconds=0.0)
