import pytest
import torch

from mi_superposition.linalg import cosine_similarity
from mi_superposition.sae.features import (
    chance_cosine,
    nearest_cosines,
    participation,
    random_directions,
    written_before,
)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_nearest_direction_by_brute_force():
    directions = gaussian(1500, 20)
    expected = cosine_similarity(directions).fill_diagonal_(-1).amax(dim=1)
    torch.testing.assert_close(nearest_cosines(directions), expected, atol=1e-5, rtol=1e-5)


def test_orthogonal_and_opposite_directions():
    basis = torch.eye(4)
    assert torch.equal(nearest_cosines(basis), torch.zeros(4))
    assert torch.equal(nearest_cosines(torch.cat([basis, -basis])), torch.zeros(8))
    assert torch.equal(nearest_cosines(torch.cat([basis, 3 * basis])), torch.ones(8))


@pytest.mark.parametrize("d", [3, 16, 256])
def test_how_far_chance_goes(d):
    """The share of cosines of random directions beyond the limit is the share it was made for."""
    some, others = gaussian(600, d), gaussian(600, d, seed=1)
    cosines = torch.nn.functional.normalize(some) @ torch.nn.functional.normalize(others).T
    beyond = float((cosines.abs() > chance_cosine(d, 0.01)).float().mean())
    assert beyond == pytest.approx(0.01, abs=0.002)


def test_neurons_that_features_read_are_found():
    read = gaussian(500, 64)
    # Neuron 3 is read by the first twenty features, neuron 5 by none.
    written = {0: gaussian(10, 64, seed=1)}
    read[:20] += 4 * written[0][3]
    read -= (read @ written[0][5])[:, None] * written[0][5] / written[0][5].square().sum()
    found = participation(written, read)
    assert found.features_of_neuron[3] >= 20
    assert found.features_of_neuron[5] == 0
    assert (found.neurons_of_feature[:20] >= 1).all()
    random = participation(written, random_directions(read, "gaussian", 0))
    assert random.features_of_neuron.float().mean() < 3
    assert int(random.features_of_neuron.sum()) == int(random.neurons_of_feature.sum())


def test_who_writes_before_a_hook(tiny_gpt2):
    model = tiny_gpt2.hooked
    assert list(written_before(model, "blocks.0.hook_resid_pre")) == []
    assert list(written_before(model, "blocks.1.hook_resid_pre")) == [0]
    assert list(written_before(model, "blocks.1.hook_resid_mid")) == [0]
    assert list(written_before(model, "blocks.1.hook_resid_post")) == [0, 1]
    assert list(written_before(model, "blocks.1.mlp.hook_post")) == []
    torch.testing.assert_close(written_before(model, "blocks.1.hook_resid_pre")[0], model.blocks[0].mlp.W_out)


def test_attention_only_models_have_no_neurons(tiny_model):
    assert written_before(tiny_model, "blocks.0.hook_resid_post") == {}


def test_random_directions_of_the_same_spectrum():
    directions = gaussian(200, 16) * torch.linspace(0.1, 3, 16)
    random = random_directions(directions, "spectrum", 0)
    torch.testing.assert_close(random.norm(dim=1), directions.norm(dim=1), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(random, directions, atol=0.1)
    assert not torch.equal(random_directions(directions, "gaussian", 0), random_directions(directions, "gaussian", 1))
