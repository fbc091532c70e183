import math
import subprocess
import sys
from pathlib import Path

import plotly.graph_objects as go
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from mi_superposition.corpora import token_batches
from mi_superposition.errors import RequestError
from mi_superposition.models import layer_hooks, load_model
from mi_superposition.models.classifiers import build_classifier
from mi_superposition.spectra import (
    LayerSpectra,
    activation_covariances,
    activation_spectrum,
    effective_ranks,
    gaussian_spectrum,
    hooked_covariances,
    hooked_weight_matrices,
    marchenko_pastur_edge,
    matching,
    random_edge,
    samples_by_channel,
    spectrum_of_activations,
    spectrum_of_weights,
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


def test_the_share_of_the_sum_is_of_the_values_themselves():
    # Sums 8, 14, 16; squares 64, 100, 104.
    found = effective_ranks(torch.tensor([2.0, 8.0, 6.0]), energy=0.8)
    assert (found.energy_rank, found.sum_rank) == (2, 2)
    found = effective_ranks(torch.tensor([2.0, 8.0, 6.0]), energy=0.9)
    assert (found.energy_rank, found.sum_rank) == (2, 3)


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


def test_attention_of_torch_and_of_transformers(tiny_gpt2):
    attention = nn.MultiheadAttention(8, 2)
    found = dict(weight_matrices(nn.Sequential(attention)))
    assert list(found) == ["0.query", "0.key", "0.value", "0.out_proj"]
    x = gaussian(8).float()
    torch.testing.assert_close(found["0.key"] @ x, (attention.in_proj_weight @ x)[8:16])
    # GPT-2 of transformers keeps its matrices the other way round.
    found = dict(weight_matrices(tiny_gpt2.transformers))
    layer = tiny_gpt2.transformers.transformer.h[0].mlp.c_fc
    x = gaussian(layer.weight.shape[0]).float()
    torch.testing.assert_close(found["transformer.h.0.mlp.c_fc"] @ x + layer.bias, layer(x))


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


def test_one_draw_in_a_hundred_crosses_the_edge():
    """And more than one in ten that without the margin; docs/effective-rank.md has these numbers."""
    largest = torch.tensor([float(gaussian_spectrum(64, 128, seed)[0]) for seed in range(5000)])
    assert float((largest > marchenko_pastur_edge(64, 128, 1.0)).double().mean()) == pytest.approx(0.134, abs=0.005)
    assert float((largest > random_edge(64, 128, 1.0)).double().mean()) == pytest.approx(0.0096, abs=0.003)
    untrained = [
        spectrum_of_weights(matrix)
        for seed in range(40)
        for _, matrix in weight_matrices(build_classifier("simplenet", shape=(1, 28, 28), n_classes=10, seed=seed))
    ]
    assert sum(spectrum.above_edge > 0 for spectrum in untrained) <= 2
    planted = gaussian(64, 128)
    planted += 20 * torch.outer(gaussian(64, seed=1) / 8, gaussian(128, seed=2) / 128**0.5)
    assert spectrum_of_weights(planted).above_edge == 1


def test_activations_cannot_have_more_dimensions_than_their_weights():
    """A narrow convolution before a wide one; a transposed one, whose matrix is to a patch, is bounded by its channels alone."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 32, 1), nn.ReLU(), nn.Conv2d(32, 8, 3), nn.ConvTranspose2d(8, 16, 2)
    )
    names = ["0", "1", "2", "3", "4"]
    seen = activation_covariances(network, [torch.randn(64, 3, 6, 6)], names)
    spectra = LayerSpectra(
        {name: spectrum_of_weights(matrix) for name, matrix in weight_matrices(network)},
        {name: spectrum_of_activations(one) for name, one in seen.items()},
    )
    assert spectra.possible("activations") == {"0": 3, "1": 4, "2": 32, "3": 8, "4": 16}
    assert spectra.possible("weights") == {"0": 3, "1": 4, "3": 8, "4": 8}
    for name, most in spectra.possible("activations").items():
        values = spectra.activations[name].values
        assert int((values > 1e-5 * values[0]).sum()) <= most
    one = spectra.activations["1"]
    assert spectra.ratios("activations")["1"] == one.ranks().energy_rank / 4
    assert spectra.ratios("activations", of_channels=True)["1"] == one.ranks().energy_rank / 32
    frame = spectra.to_frame().loc[("1", "activations")]
    assert (frame["maximum"], frame["possible"]) == (32, 4)
    random = spectra.random(0)
    assert set(random.within) == {"0", "1"}
    assert all(ratio <= 1 for ratio in random.ratios("activations").values())
    assert random.ratios("activations")["1"] == 1
    assert random.ratios("activations", of_channels=True)["1"] > 0.9


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


def test_tokens_are_samples_of_linear_layers():
    """A transformer on images: the last axis of its linear layers has the channels."""
    network = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5)).eval()
    tokens = gaussian(40, 7, 3).float()
    found = activation_covariances(network, tokens.split(10), ["0", "1"])
    with torch.no_grad():
        values = network[0](tokens).reshape(-1, 5).double()
    assert found["0"].n == 280
    torch.testing.assert_close(found["0"].covariance(), values.T.cov(correction=0), rtol=1e-4, atol=1e-6)
    assert len(found["1"].covariance()) == 5
    norm = nn.Sequential(nn.BatchNorm2d(4)).eval()
    assert len(activation_covariances(norm, [torch.ones(2, 4, 6, 6)], ["0"])["0"].covariance()) == 4


def test_layers_that_are_not_there_or_do_not_run():
    network = nn.ModuleDict({"used": nn.Linear(3, 3), "idle": nn.Linear(3, 3)})
    network.forward = lambda x: network["used"](x)
    with pytest.raises(RequestError, match="layer 'usde' is not in the network: did you mean 'used'"):
        activation_covariances(network, [torch.ones(2, 3)], ["usde"])
    with pytest.raises(RequestError, match="layer 'idle' is in the network but did not run"):
        activation_covariances(network, [torch.ones(2, 3)], ["idle"])


def test_a_random_spectrum_is_drawn_without_its_matrix():
    """Mean of every singular value as of whole Gaussian matrices, and the same for rows and columns exchanged."""
    drawn = torch.stack([gaussian_spectrum(40, 6, seed) for seed in range(400)])
    whole = torch.stack([torch.linalg.svdvals(gaussian(40, 6, seed=seed)) for seed in range(400)])
    error = (drawn.var(dim=0) / 400 + whole.var(dim=0) / 400).sqrt()
    assert bool(((drawn.mean(dim=0) - whole.mean(dim=0)).abs() < 4 * error).all())
    torch.testing.assert_close(drawn.std(dim=0), whole.std(dim=0), rtol=0.25, atol=0)
    assert len(gaussian_spectrum(6, 40, 0)) == 6
    assert not torch.equal(gaussian_spectrum(40, 6, 0), gaussian_spectrum(40, 6, 1))
    assert gaussian_spectrum(2000, 500, 0)[0] == pytest.approx(marchenko_pastur_edge(2000, 500, 1.0), rel=0.02)


def test_a_hooked_models_matrices_and_activations(tiny_gpt2):
    model = tiny_gpt2.hooked
    matrices = dict(hooked_weight_matrices(model))
    # What a head writes along its own column block, as the model itself multiplies it.
    z = gaussian(model.cfg.n_heads, model.cfg.d_head).float()
    written = torch.einsum("hd,hdm->m", z, model.W_O[0])
    torch.testing.assert_close(matrices["blocks.0.attn.W_O"] @ z.flatten(), written)
    x = gaussian(model.cfg.d_model).float()
    torch.testing.assert_close(matrices["blocks.1.mlp.W_in"] @ x, x @ model.W_in[1])
    torch.testing.assert_close(matrices["blocks.0.attn.W_K"] @ x, torch.einsum("m,hmd->hd", x, model.W_K[0]).flatten())
    documents = ["a cat ran", "the dog sat on a cat and said so", "play"]
    batches = list(token_batches(documents, model.tokenizer, batch=2, context=8))
    found = hooked_covariances(model, batches, layer_hooks(model))
    assert list(found) == layer_hooks(model)
    # One document at a time, no padding, only its own tokens.
    alone = []
    for batch in token_batches(documents, model.tokenizer, batch=1, context=8):
        _, cache = model.run_with_cache(batch.tokens)
        alone.append(cache["blocks.1.mlp.hook_post"][batch.mask])
    alone = torch.cat(alone).double()
    assert found["blocks.1.mlp.hook_post"].n == len(alone)
    torch.testing.assert_close(
        found["blocks.1.mlp.hook_post"].covariance(), alone.T.cov(correction=0), rtol=1e-4, atol=1e-7
    )
    with pytest.raises(RequestError, match="no tokens"):
        hooked_covariances(model, [], layer_hooks(model))
    assert hooked_covariances(model, [], []) == {}


def test_patterns_of_layers():
    names = ["conv1", "conv2", "fc"]
    assert matching(names, ["fc", "conv?"], "a net") == names
    with pytest.raises(
        RequestError, match=r"layers = 'dense\*' matches nothing in a net: it has 'conv1', 'conv2', 'fc'"
    ):
        matching(names, ["fc", "dense*"], "a net")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_two_thousand_channels_in_a_gigabyte():
    """10,000 images at a layer of 2,048 channels, the whole process."""
    # Not getrusage: its peak is handed down from the process that started this one.
    program = """
import re, torch
from torch import nn
from mi_superposition.spectra import activation_covariances, activation_spectrum
torch.set_num_threads(2)
layer = nn.Sequential(nn.Conv2d(8, 2048, 1))
batches = (torch.randn(125, 8, 1, 1) for _ in range(80))
found = activation_covariances(layer, batches, ["0"])["0"]
assert found.n == 10_000
assert (activation_spectrum(found.covariance()) > 1e-2).sum() == 8
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) / 1024 < 1000


def test_a_single_sample_has_no_variance():
    found = activation_covariances(nn.Sequential(nn.Linear(3, 2)), [torch.ones(1, 3)], ["0"])["0"]
    assert float(found.covariance().abs().max()) == 0


def test_no_more_values_than_centred_samples_and_true_zeros():
    """20 samples of 50 channels lie in 19 dimensions; 5 inputs make no more than 5."""
    few = activation_covariances(nn.Sequential(nn.Linear(60, 50)), [gaussian(20, 60).float()], ["0"])["0"]
    spectrum = spectrum_of_activations(few)
    assert len(spectrum.values) == len(spectrum.random(0).values) == 19
    assert float(spectrum.values[-1]) > 0.01
    thin = activation_covariances(nn.Sequential(nn.Linear(5, 50)), [gaussian(400, 5).float()], ["0"])["0"]
    values = spectrum_of_activations(thin).values
    assert float(values[5] / values[0]) < 1e-6 < float(values[4] / values[0])
    assert effective_ranks(values, energy=1 - 1e-9).energy_rank == 5


def test_layers_that_give_a_tuple_and_norms_of_sequences():
    lstm = nn.Sequential(nn.LSTM(3, 4, batch_first=True))
    assert activation_covariances(lstm, [gaussian(10, 6, 3).float()], ["0"])["0"].n == 60
    norm = nn.Sequential(nn.Conv1d(3, 5, 1), nn.BatchNorm1d(5)).eval()
    assert len(activation_covariances(norm, [gaussian(10, 3, 11).float()], ["1"])["1"].covariance()) == 5


def test_grouped_queries_and_gates(tmp_path):
    """Keys and values are counted once, and the gate is a matrix too."""
    config = LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1,
        max_position_embeddings=16,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu")
    shapes = {name: tuple(matrix.shape) for name, matrix in hooked_weight_matrices(model)}
    assert shapes["blocks.1.attn.W_Q"] == (16, 16)
    assert shapes["blocks.1.attn.W_K"] == (4, 16)
    assert shapes["blocks.0.mlp.W_gate"] == (24, 16)


def test_results_are_short_tables_and_figures():
    ranks = effective_ranks(torch.tensor([3.0, 2.0, 1.0]), energy=0.9)
    spectrum = spectrum_of_weights(gaussian(80, 60))
    layers = LayerSpectra({"fc1": spectrum, "fc2": spectrum}, {})
    for result, n_rows in ((ranks, 5), (spectrum, 60), (layers, 2)):
        assert len(repr(result)) < 200
        assert result._repr_html_().startswith("<p>")
        assert len(result.to_frame()) == n_rows
        assert isinstance(result.plot(), go.Figure)
    assert repr(ranks) == (
        "EffectiveRanks(2 of 3 singular directions explain 90 % of the sum of squared singular values; entropy rank 2.7)"
    )
    assert ranks.to_frame()["rank"].tolist() == [ranks.energy_rank, ranks.sum_rank, *ranks.to_frame()["rank"][2:]]
    assert layers.to_frame().loc[("fc2", "weights"), "maximum"] == 60
    assert layers.to_frame().loc[("fc2", "weights"), "energy_rank"] == spectrum.ranks().energy_rank
    assert LayerSpectra({}, {}).to_frame().empty


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 8, 3, bias=False),
        nn.Conv2d(8, 12, 3, groups=4, bias=False),
        nn.Conv2d(6, 6, 3, groups=6, bias=False),
        nn.Conv1d(6, 4, 3, groups=2, bias=False),
    ],
    ids=["dense", "four groups", "depthwise", "one dimension"],
)
def test_a_convolution_is_the_map_from_a_patch_to_its_channels(layer):
    """Found by sending every entry of a patch through the layer by itself."""
    n_dims = len(layer.kernel_size)
    impulses = torch.eye(layer.in_channels * 3**n_dims).view(-1, layer.in_channels, *layer.kernel_size)
    with torch.no_grad():
        wanted = layer(impulses).flatten(1).T
    [(_, matrix)] = weight_matrices(nn.Sequential(layer))
    assert torch.allclose(matrix, wanted, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_is_the_map_from_channels_to_a_patch(groups):
    layer = nn.ConvTranspose2d(6, 4, 3, groups=groups, bias=False)
    with torch.no_grad():
        wanted = layer(torch.eye(6)[:, :, None, None]).flatten(1).T
    [(_, matrix)] = weight_matrices(nn.Sequential(layer))
    assert torch.allclose(matrix, wanted, atol=1e-6)


def test_embeddings_and_gates_are_matrices_of_their_own():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.lstm, self.gru = nn.Embedding(9, 4), nn.LSTM(4, 5), nn.GRU(5, 3)

    found = dict(weight_matrices(Reader()))
    assert found["words"].shape == (4, 9)
    assert [name for name in found if name.startswith("lstm.weight_ih")] == [
        f"lstm.weight_ih_l0.{gate}" for gate in ("input", "forget", "cell", "output")
    ]
    assert found["lstm.weight_hh_l0.forget"].shape == (5, 5)
    assert found["gru.weight_ih_l0.new"].shape == (3, 5)
