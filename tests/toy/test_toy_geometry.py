import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_superposition.toy.geometry import (
    angles,
    coherence,
    dimensions_per_feature,
    feature_dimensionality,
    feature_norms,
    frame_condition,
    gram,
    interference,
    known_shapes,
    largest_cosine,
    relative_interference,
    represented,
    shape_counts,
    shape_dimensionality,
    shapes,
)

PLATEAUS = {
    "own dimension": 1,
    "antipodal pair": 1 / 2,
    "triangle": 2 / 3,
    "tetrahedron": 3 / 4,
    "pentagon": 2 / 5,
    "square antiprism": 3 / 8,
}


def rotation(n, seed=0):
    return torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed)))[0]


def placed(*names, seed=0):
    """Figures in dimensions of their own, everything rotated and features shuffled."""
    W = torch.block_diag(*[known_shapes()[name].T for name in names])
    order = torch.randperm(W.shape[1], generator=torch.Generator().manual_seed(seed))
    return rotation(W.shape[0], seed) @ W[:, order], order


@pytest.mark.parametrize(("name", "share"), PLATEAUS.items())
def test_each_figure_is_recognised_and_has_its_plateau(name, share):
    W, _ = placed(name)
    assert [shape.name for shape in shapes(W)] == [name]
    assert shape_dimensionality(name) == pytest.approx(share)
    assert feature_dimensionality(W).mean() == pytest.approx(share, abs=2e-3)
    assert dimensions_per_feature(W) == pytest.approx(share, abs=1e-5)


def test_figures_side_by_side():
    W, order = placed("triangle", "antipodal pair", "own dimension", "square antiprism", "antipodal pair", seed=3)
    assert shape_counts(W) == {"square antiprism": 8, "antipodal pair": 4, "triangle": 3, "own dimension": 1}
    [triangle] = [shape for shape in shapes(W) if shape.name == "triangle"]
    assert {int(order[feature]) for feature in triangle.features} == {0, 1, 2}


@pytest.mark.parametrize("name", ["triangle", "pentagon", "square antiprism"])
def test_tolerance_decides(name):
    W, _ = placed(name)
    # A turn of 6° moves cosines by up to 0.1; one of 30° by up to 0.5.
    for degrees, recognised in ((6, True), (30, False)):
        moved = W.clone()
        turn = math.radians(degrees)
        moved[:2, 0] = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) @ W[:2, 0]
        assert (shapes(moved)[0].name == name) is recognised


def test_random_directions_form_no_figure():
    """The control: among random vectors hardly any figure is found."""
    generator = torch.Generator().manual_seed(0)
    named = 0
    for _ in range(50):
        W = torch.randn(3, 8, generator=generator)
        named += sum(len(shape.features) for shape in shapes(W / W.norm(dim=0)) if shape.name != "unnamed")
    assert named < 0.02 * 50 * 8


@pytest.mark.parametrize("name", ["antipodal pair", "triangle", "tetrahedron", "pentagon", "square antiprism"])
def test_figures_side_by_side_are_told_apart_in_noise(name):
    W, _ = placed(*[name] * 3)
    generator = torch.Generator().manual_seed(1)
    noisy = W + 0.04 * torch.randn(W.shape, generator=generator)
    assert shape_counts(noisy).get(name, 0) >= 2 / 3 * W.shape[1]


def test_relative_interference_does_not_depend_on_length():
    W = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(relative_interference(0.1 * W), relative_interference(W))
    torch.testing.assert_close(relative_interference(W), 1 / feature_dimensionality(W) - 1)
    assert relative_interference(torch.tensor([[1.0, -1.0]])).tolist() == [1, 1]


def test_what_is_not_represented_belongs_to_no_figure():
    W = torch.tensor([[1.0, -1.0, 0.3, 0.0], [0.0, 0.0, 0.1, 0.0]])
    assert represented(W) == 2
    assert shape_counts(W) == {"antipodal pair": 2}


def test_by_hand():
    W = torch.tensor([[1.0, 0.0, 1.0], [0.0, 2.0, 1.0]])
    assert feature_norms(W).tolist() == pytest.approx([1, 2, math.sqrt(2)])
    assert gram(W).tolist() == [[1, 0, 1], [0, 4, 2], [1, 2, 2]]
    # Feature 2: projections 1 and 2 on a direction of squared norm 2.
    assert interference(W).tolist() == pytest.approx([1, 1, 5 / 2])
    assert feature_dimensionality(W).tolist() == pytest.approx([1 / 2, 4 / 5, 2 / 4.5])
    assert float(dimensions_per_feature(W)) == pytest.approx(2 / 7)
    assert angles(W)[0].tolist() == pytest.approx([0, 90, 45], abs=0.05)


def test_a_feature_of_norm_zero():
    W = torch.zeros(2, 3)
    W[0, 0] = 1
    assert interference(W).tolist() == [0, 0, 0]
    assert feature_dimensionality(W).tolist() == [1, 0, 0]


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 2**16))
def test_laws(n_hidden, n_features, seed):
    W = torch.randn(n_hidden, n_features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    share = feature_dimensionality(W)
    assert bool(((share > 0) & (share <= 1 + 1e-12)).all())
    # The shares never exceed the dimensions there are.
    assert float(share.sum()) <= n_hidden + 1e-9
    turned = rotation(n_hidden, seed).double()
    # float32's rotation, made orthogonal again.
    turned = torch.linalg.qr(turned)[0]
    torch.testing.assert_close(feature_dimensionality(turned @ W), share)
    torch.testing.assert_close(interference(turned @ W), interference(W))


@pytest.mark.parametrize(("name", "largest", "absolute"), [
    ("antipodal pair", -1.0, 1.0),
    ("triangle", -1 / 2, 1 / 2),
    ("tetrahedron", -1 / 3, 1 / 3),
    ("pentagon", math.cos(math.radians(72)), math.cos(math.radians(36))),
])  # fmt: skip
def test_regular_shapes_are_tight_frames_with_known_cosines(name, largest, absolute):
    W = known_shapes()[name].T
    W = rotation(len(W), seed=2) @ W * 1.7
    assert frame_condition(W) == pytest.approx(1, abs=1e-5)
    assert float(largest_cosine(W)) == pytest.approx(largest, abs=1e-5)
    assert float(coherence(W)) == pytest.approx(absolute, abs=1e-5)


def test_the_frame_condition_is_that_of_the_frame_operator():
    """Of two axes with 3 and 1 unit vectors, the eigenvalues of W W^T are 3 and 1."""
    W = torch.tensor([[1.0, 1.0, -1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert float(frame_condition(W)) == pytest.approx(3)
    values = torch.linalg.eigvalsh(W @ W.T)
    assert float(frame_condition(rotation(2) @ W)) == pytest.approx(float(values[-1] / values[0]), rel=1e-5)
    # A tight frame with a vector that is twice as long is none; neither is one that leaves out a dimension, or fewer than there are.
    assert float(frame_condition(torch.eye(2) * torch.tensor([2.0, 1.0]))) == pytest.approx(4)
    for too_few in (torch.ones(2, 4), torch.eye(3)[:, :2], torch.zeros(3, 0)):
        assert frame_condition(too_few).isinf()
    assert frame_condition(torch.stack([W, 2 * W])).tolist() == pytest.approx([3, 3])
    for empty in (torch.zeros(3, 0), torch.ones(3, 1)):
        assert (float(largest_cosine(empty)), float(coherence(empty))) == (-1, 0)
