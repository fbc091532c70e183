"""Direct effects, verified by intervening on the model."""

import pytest
import torch

from mi_superposition.errors import RequestError
from mi_superposition.neurons.effects import input_effects, logit_effects


def test_adding_to_a_neuron_moves_the_logits_by_its_effect(tiny_gpt2):
    """With the final normalisation's division held still, in the last layer, where nothing comes after."""
    model, tokens, added = tiny_gpt2.hooked, torch.randint(300, (2, 7), generator=torch.Generator().manual_seed(0)), 0.7
    _, cache = model.run_with_cache(tokens)
    scale = cache["ln_final.hook_scale"]
    for neuron in (0, 11, 47):

        def add(activation, hook, neuron=neuron):
            activation[:, :, neuron] += added
            return activation

        hooks = [("blocks.1.mlp.hook_post", add), ("ln_final.hook_scale", lambda value, hook: scale)]
        moved = (model.run_with_hooks(tokens, fwd_hooks=hooks) - model(tokens)) * scale / added
        moved = (moved - moved.mean(dim=-1, keepdim=True))[0, 3]
        effects = logit_effects(model, 1, k=300)
        torch.testing.assert_close(moved[effects.top[neuron]], effects.top_effect[neuron], atol=1e-4, rtol=1e-3)
        assert effects.top[neuron].tolist() == effects.bottom[neuron].flip(0).tolist()
        assert (effects.top_effect[neuron].diff() <= 0).all()


def test_an_embedding_alone_drives_a_neuron_by_its_input_effect(tiny_gpt2):
    """The stream before the MLP replaced by each token's embedding."""
    model = tiny_gpt2.hooked
    for layer in range(2):

        def replaced(stream, hook):
            return model.W_E[:20].expand(1, 20, -1).clone()

        with model.hooks(fwd_hooks=[(f"blocks.{layer}.hook_resid_mid", replaced)]):
            _, stored = model.run_with_cache(torch.zeros(1, 20, dtype=torch.long))
        block = model.blocks[layer]
        constant = block.ln2.b @ block.mlp.W_in + block.mlp.b_in
        driven = (stored[f"blocks.{layer}.mlp.hook_pre"][0] - constant).T
        effects = input_effects(model, layer, k=300)
        by_token = torch.zeros(48, 300).scatter(1, effects.top, effects.top_effect)
        torch.testing.assert_close(by_token[:, :20], driven, atol=1e-3, rtol=1e-3)


def test_folding_the_norms_beforehand_changes_nothing(tiny_gpt2):
    from mi_superposition import load_model

    processed = load_model(tiny_gpt2.folder, device="cpu", process_weights=True)
    for measure in (logit_effects, input_effects):
        plain, folded = measure(tiny_gpt2.hooked, 1, k=5), measure(processed, 1, k=5)
        torch.testing.assert_close(plain.top_effect, folded.top_effect, atol=1e-4, rtol=1e-3)
        assert (plain.top == folded.top).float().mean() > 0.97


def test_a_model_without_neurons_is_refused(paper_model):
    with pytest.raises(RequestError, match="attention only"):
        logit_effects(paper_model, 0)
