"""Similarity of neurons: against NumPy, and against a brute-force pass over activations."""

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from mi_superposition.errors import RequestError
from mi_superposition.linalg import cosine_similarity, inner_products, unit_rows
from mi_superposition.models.attention_only import without_deprecations
from mi_superposition.neurons import NeuronVectors, input_effects, neuron_correlations, neuron_vectors


def test_cosine_is_numpys():
    vectors = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    rows = vectors.double().numpy()
    wanted = rows @ rows.T / np.outer(np.linalg.norm(rows, axis=1), np.linalg.norm(rows, axis=1))
    assert np.allclose(cosine_similarity(vectors).numpy(), wanted, atol=1e-6)
    assert torch.allclose(inner_products(vectors), vectors @ vectors.T)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_cosine_does_not_depend_on_length(scale):
    vectors = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(cosine_similarity(vectors * scale), cosine_similarity(vectors), atol=1e-6)


def test_a_row_of_zeros_is_like_nothing():
    similarity = cosine_similarity(torch.tensor([[1.0, 2.0], [0.0, 0.0]]))
    assert similarity[1].tolist() == [0, 0]
    assert similarity[0, 0] == pytest.approx(1)
    assert unit_rows(torch.zeros(2, 3)).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_nan_is_refused_with_its_row():
    vectors = torch.ones(3, 2)
    vectors[2, 1] = float("nan")
    with pytest.raises(RequestError, match="row 2"):
        cosine_similarity(vectors)


def test_directions_are_rows_of_w_out_and_columns_of_w_in(tiny_gpt2):
    model = tiny_gpt2.hooked
    mlp = model.blocks[1].mlp
    assert torch.equal(neuron_vectors(model, 1, "out").parts[0], mlp.W_out)
    assert torch.equal(neuron_vectors(model, 1, "in").parts[0], mlp.W_in.T)
    both = neuron_vectors(model, 1, "both").similarity()
    mean = (cosine_similarity(mlp.W_in.detach().T) + cosine_similarity(mlp.W_out.detach())) / 2
    assert torch.allclose(both, mean, atol=1e-6)


def test_inner_products_are_w_transposed_w(tiny_gpt2):
    model = tiny_gpt2.hooked
    out = model.blocks[0].mlp.W_out.detach()
    products = neuron_vectors(model, 0, "out").similarity("inner")
    assert torch.allclose(products, out @ out.T / (out @ out.T).abs().max(), atol=1e-6)
    with pytest.raises(RequestError, match="measure = 'dot': give 'cosine' or 'inner'"):
        NeuronVectors.similarity.__wrapped__(neuron_vectors(model, 0, "out"), "dot")


def test_a_matrix_with_too_many_rows_is_refused(tiny_gpt2, monkeypatch):
    monkeypatch.setattr("mi_superposition.neurons.similarity._MOST_ROWS", 100)
    with pytest.raises(RequestError, match="has 300 rows"):
        neuron_vectors(tiny_gpt2.hooked, weights="embed.W_E")


def test_any_matrix_of_the_model(tiny_gpt2):
    model = tiny_gpt2.hooked
    assert torch.equal(neuron_vectors(model, weights="embed.W_E").parts[0], model.W_E)
    assert torch.equal(neuron_vectors(model, weights="unembed.W_U.T").parts[0], model.W_U.T)
    with pytest.raises(RequestError, match="'embed.W_X': give 'out', 'in', 'gate', 'both' or a matrix"):
        neuron_vectors(model, weights="embed.W_X")
    with pytest.raises(RequestError, match="has 3 axes"):
        neuron_vectors(model, weights="blocks.0.attn.W_Q")
    with pytest.raises(RequestError, match="layer = 9: the model has layers 0 to 1"):
        neuron_vectors(model, 9)


def test_attention_only_has_no_neurons(tiny_model):
    with pytest.raises(RequestError, match="attention only"):
        neuron_vectors(tiny_model, 0)


def test_unequal_parts_still_average():
    a, b = torch.randn(4, 3), torch.randn(4, 6)
    wanted = (cosine_similarity(a) + cosine_similarity(b)) / 2
    assert torch.allclose(NeuronVectors((a, b)).similarity(), wanted, atol=1e-6)


def masked_batches(model, n_batches=3):
    generator = torch.Generator().manual_seed(0)
    for _ in range(n_batches):
        tokens = torch.randint(model.cfg.d_vocab, (4, 12), generator=generator)
        yield tokens, torch.rand(4, 12, generator=generator) > 0.3


def test_correlations_are_numpys_over_counted_tokens(tiny_gpt2):
    model = tiny_gpt2.hooked
    found = neuron_correlations(model, masked_batches(model), 1)
    rows = []
    for tokens, counted in masked_batches(model):
        _, cache = model.run_with_cache(tokens)
        rows.append(cache["blocks.1.mlp.hook_post"][counted])
    wanted = np.corrcoef(torch.cat(rows).double().numpy(), rowvar=False)
    assert np.allclose(found.numpy(), wanted, atol=1e-5)


def test_shifted_activations_have_no_correlation(tiny_gpt2):
    """The control of the control: what was there before is gone."""
    model = tiny_gpt2.hooked
    real = neuron_correlations(model, masked_batches(model, 20), 1).fill_diagonal_(0)
    shifted = neuron_correlations(
        model, masked_batches(model, 20), 1, shift=torch.Generator().manual_seed(0)
    ).fill_diagonal_(0)
    assert real.abs().mean() > 3 * shifted.abs().mean()


def gated():
    sizes = dict(n_layers=1, d_model=16, n_heads=2, d_head=8, n_ctx=16, d_vocab=50, d_mlp=32, device="cpu", seed=0)
    with without_deprecations():
        return HookedTransformer(
            HookedTransformerConfig(**sizes, act_fn="silu", normalization_type="RMS", gated_mlp=True)
        )


def test_what_a_gated_neuron_reads_has_its_gate():
    model = gated()
    mlp = model.blocks[0].mlp
    gate, read, out = mlp.W_gate.T, mlp.W_in.T, mlp.W_out
    for weights, wanted in {"gate": [gate], "in": [gate, read], "both": [gate, read, out], "out": [out]}.items():
        parts = neuron_vectors(model, 0, weights).parts
        assert len(parts) == len(wanted)
        assert all(torch.equal(part, matrix) for part, matrix in zip(parts, wanted, strict=True))
    # What drives a neuron is what its activation function sees.
    effects = input_effects(model, 0, k=1)
    embedding = model.W_E / model.W_E.square().mean(dim=1, keepdim=True).sqrt()
    driven = (embedding * model.blocks[0].ln2.w) @ mlp.W_gate
    assert torch.equal(effects.top[:, 0], driven.argmax(dim=0))


def test_a_gate_that_is_not_there_is_refused(tiny_gpt2):
    with pytest.raises(RequestError, match="weights = 'gate': the model's MLPs have no gate"):
        neuron_vectors(tiny_gpt2.hooked, 0, "gate")
