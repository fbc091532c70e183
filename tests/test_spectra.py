import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mi_superposition.errors import RequestError
from mi_superposition.spectra import (
    activation_covariances,
    activation_spectrum,
    effective_ranks,
    marchenko_pastur_edge,
    samples_by_channel,
    weight_matrices,
    weight_spectrum,
)
from mi_superposition.streaming import CovarianceAccumulator

NAMES = ("energy_rank", "entropy_rank", "participation_ratio", "stable_rank")
spectra = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30).map(torch.tensor)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equal_values_have_full_rank():
    found = effective_ranks(torch.full((100,), 3.0))
    assert found.energy_rank == 99
    for name in NAMES[1:]:
        assert getattr(found, name) == pytest.approx(100)
    assert effective_ranks(torch.ones(100), energy=1.0).energy_rank == 100


def test_one_value_has_rank_one():
    found = effective_ranks(torch.tensor([0.0, 5.0, 0.0]))
    assert [getattr(found, name) for name in NAMES] == pytest.approx([1, 1, 1, 1])
    assert found.energy_ratio == pytest.approx(1 / 3)


def test_the_share_of_energy_is_reached_and_not_one_short():
    # Squares 90, 9, 1: the first two are exactly 99 %.
    values = torch.tensor([90.0, 9.0, 1.0], dtype=torch.float64).sqrt()
    assert effective_ranks(values).energy_rank == 2
    assert effective_ranks(values, energy=0.9).energy_rank == 1
    assert effective_ranks(values, energy=0.991).energy_rank == 3


@settings(deadline=None)
@given(spectra, st.floats(1e-20, 1e20))
def test_scale_and_order_do_not_matter(values, scale):
    values = values.double()
    expected = effective_ranks(values)
    shuffled = effective_ranks(values[torch.randperm(len(values))] * scale)
    for name in NAMES:
        assert getattr(shuffled, name) == pytest.approx(getattr(expected, name), rel=1e-6)


@settings(deadline=None)
@given(spectra)
def test_none_exceeds_the_number_of_values_and_they_are_in_order(values):
    found = effective_ranks(values)
    assert found.stable_rank * (1 + 1e-9) >= 1
    assert found.stable_rank <= found.participation_ratio * (1 + 1e-9)
    assert found.participation_ratio <= found.entropy_rank**2 + 1e-9
    assert found.entropy_rank <= len(values) * (1 + 1e-9)
    assert found.energy_rank <= len(values)


def test_of_a_kronecker_product_they_multiply():
    a, b = gaussian(6, 4), gaussian(5, 7, seed=1)
    whole = effective_ranks(weight_spectrum(torch.kron(a, b))[: 4 * 5])
    parts = [effective_ranks(weight_spectrum(one)) for one in (a, b)]
    for name in NAMES[1:]:
        assert getattr(whole, name) == pytest.approx(getattr(parts[0], name) * getattr(parts[1], name), rel=1e-9)


def test_rotations_do_not_matter():
    matrix = gaussian(8, 5)
    left, right = (torch.linalg.qr(gaussian(n, n, seed=n)).Q for n in (8, 5))
    torch.testing.assert_close(weight_spectrum(left @ matrix @ right), weight_spectrum(matrix))


def test_nothing_has_rank_nothing():
    assert effective_ranks(torch.zeros(4)).entropy_rank == 0
    assert effective_ranks(torch.zeros(4)).energy_rank == 0


@pytest.mark.parametrize("values", [torch.zeros(0), torch.tensor([1.0, -1.0]), torch.tensor([math.nan])])
def test_what_is_no_spectrum(values):
    with pytest.raises(RequestError, match="singular values must be finite"):
        effective_ranks(values)


@pytest.mark.parametrize("energy", [0.0, 1.1])
def test_wrong_shares(energy):
    with pytest.raises(RequestError, match=f"energy = {energy}: must be above 0"):
        effective_ranks(torch.ones(3), energy=energy)


def test_every_layer_with_weights_once():
    shared = nn.Linear(4, 4)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4), shared, shared)
    found = dict(weight_matrices(module))
    assert {name: tuple(matrix.shape) for name, matrix in found.items()} == {"0": (8, 27), "3": (4, 8), "4": (4, 4)}


def test_the_streamed_spectrum_is_that_of_all_samples():
    """In small parts, float32, far from zero: the leading values to a millionth."""
    samples = (gaussian(5000, 40) * torch.logspace(0, -3, 40) + 10).float()
    found = CovarianceAccumulator(40)
    for part in samples.split(77):
        found.update(part)
    full = torch.linalg.svdvals(samples.double() - samples.double().mean(dim=0)) / math.sqrt(5000)
    streamed = activation_spectrum(found.covariance())
    torch.testing.assert_close(streamed[:10], full[:10], rtol=1e-6, atol=0)


def test_channels_are_the_variables():
    activations = torch.arange(120.0).reshape(2, 3, 4, 5)
    found = samples_by_channel(activations)
    assert found.shape == (40, 3)
    assert torch.equal(found[:, 1].sort().values, activations[:, 1].flatten())
    assert torch.equal(found[0], activations[0, :, 0, 0])
    assert torch.equal(samples_by_channel(torch.ones(6, 7)), torch.ones(6, 7))


@pytest.mark.parametrize("shape", [(400, 100), (300, 300)])
def test_where_a_random_spectrum_ends(shape):
    largest = float(weight_spectrum(0.3 * gaussian(*shape))[0])
    assert largest == pytest.approx(marchenko_pastur_edge(*shape, 0.3), rel=0.05)


def test_covariances_of_layers_are_those_of_all_their_outputs():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 7)).eval()
    images = torch.randn(50, 2, 8, 8)
    found = activation_covariances(network, images.split(12), ["0", "3"])
    with torch.no_grad():
        maps = network[0](images)
    # Channels are variables: pixels of all images are samples, none is mixed with another channel.
    pixels = maps.permute(0, 2, 3, 1).reshape(-1, 5).double()
    torch.testing.assert_close(found["0"].covariance(), pixels.T.cov(correction=0), rtol=1e-5, atol=1e-6)
    assert (found["0"].n, found["3"].n) == (50 * 36, 50)
    # Nothing is left hanging on the network.
    assert not any(layer._forward_hooks for layer in network.modules())


def test_layers_that_are_not_there_or_do_not_run():
    network = nn.ModuleDict({"used": nn.Linear(3, 3), "idle": nn.Linear(3, 3)})
    network.forward = lambda x: network["used"](x)
    with pytest.raises(RequestError, match="layer 'usde' is not in the network: did you mean 'used'"):
        activation_covariances(network, [torch.ones(2, 3)], ["usde"])
    with pytest.raises(RequestError, match="layer 'idle' is in the network but did not run"):
        activation_covariances(network, [torch.ones(2, 3)], ["idle"])
