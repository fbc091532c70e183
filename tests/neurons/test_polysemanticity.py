"""The effective number of contexts on planted units, where it is known."""

import numpy as np
import pytest
import torch

from mi_superposition.corpora import TokenBatch
from mi_superposition.neurons.scan import scan_neurons
from mi_superposition.neurons.scan.polysemanticity import effective_number, permuted_examples


def planted(n_features, k=24, d=32, noise=0.0, units=40):
    """Examples of units that each serve so many features at right angles."""
    generator = torch.Generator().manual_seed(n_features)
    features = torch.linalg.qr(torch.randn(units, d, d, generator=generator)).Q
    which = torch.arange(k) % n_features
    return features[:, which] + noise * torch.randn(units, k, d, generator=generator) / d**0.5


def test_counts_features_at_right_angles():
    everything = torch.ones(40, 24, dtype=torch.bool)
    for n in (1, 2, 3, 8):
        torch.testing.assert_close(effective_number(planted(n), everything), torch.full((40,), float(n)))


def test_against_the_definition_one_unit_after_another():
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(6, 7, 5, generator=generator)
    present = torch.rand(6, 7, generator=generator) > 0.3
    for unit in range(6):
        some = [vector.double().numpy() for vector in vectors[unit][present[unit]]]
        k = len(some)
        similarity = np.empty((k, k))
        for i in range(k):
            for j in range(k):
                cosine = some[i] @ some[j] / (np.sqrt(some[i] @ some[i]) * np.sqrt(some[j] @ some[j]))
                similarity[i, j] = (cosine + cosine**2) / 2
        shares = np.linalg.eigvals(similarity / k).real
        # A similarity that the score is defined for.
        assert shares.min() > -1e-12
        wanted = np.exp(-sum(share * np.log(share) for share in shares if share > 1e-15))
        found = effective_number(vectors[unit : unit + 1], present[unit : unit + 1])
        assert found.item() == pytest.approx(wanted, rel=1e-5)


def test_opposite_examples_are_two_contexts_and_independent_ones_many():
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])[torch.arange(20) % 2][None]
    assert effective_number(opposite, torch.ones(1, 20, dtype=torch.bool)).item() == pytest.approx(2, abs=1e-4)
    independent = torch.randn(200, 20, 64, generator=torch.Generator().manual_seed(0))
    counted = effective_number(independent, torch.ones(200, 20, dtype=torch.bool))
    assert 19.1 < float(counted.median()) < 20


def test_one_feature_and_three_stay_apart_under_noise_and_shuffling_joins_them():
    everything = torch.ones(40, 24, dtype=torch.bool)
    one, three = (planted(n, noise=0.3) for n in (1, 3))
    counted = [effective_number(vectors, everything) for vectors in (one, three)]
    assert counted[0].max() < 2.2
    assert counted[1].min() > 2.8
    assert counted[1].max() < 5.5
    # Dealt at random, units with one feature look like units with many.
    dealt, present = permuted_examples(torch.cat((one, three)), torch.ones(80, 24, dtype=torch.bool), 0)
    assert present.all()
    assert effective_number(dealt, present).min() > 10


def test_scale_rotation_order_and_missing_examples_do_not_matter():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(5, 9, 16, generator=generator)
    present = torch.ones(5, 9, dtype=torch.bool)
    wanted = effective_number(vectors, present)
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q
    order = torch.randperm(9, generator=generator)
    scale = torch.rand(5, 9, 1, generator=generator) + 0.1
    torch.testing.assert_close(effective_number((vectors * scale) @ rotation, present), wanted)
    torch.testing.assert_close(effective_number(vectors[:, order], present), wanted)
    padded = torch.cat((vectors, torch.full((5, 3, 16), 7.0)), dim=1)
    shorter = torch.cat((present, torch.zeros(5, 3, dtype=torch.bool)), dim=1)
    torch.testing.assert_close(effective_number(padded, shorter), wanted)
    assert effective_number(vectors, ~present).tolist() == [0.0] * 5


def test_dealing_moves_examples_and_loses_none():
    vectors = torch.arange(12.0).reshape(3, 4, 1)
    present = torch.tensor([[True] * 4, [True, True, False, False], [False] * 4])
    dealt, still = permuted_examples(vectors, present, seed=1)
    assert torch.equal(still, present)
    assert sorted(dealt[present].flatten().tolist()) == sorted(vectors[present].flatten().tolist())
    assert not torch.equal(dealt[present], vectors[present])


def test_planted_through_a_whole_scan(tiny_gpt2):
    """Units made of the embedding: one fires on one token, another on three, the last on all fifteen alike."""
    model, hook = tiny_gpt2.hooked, "hook_embed"
    tokens = torch.randint(100, 115, (60, 20), generator=torch.Generator().manual_seed(0))
    place = torch.arange(20).expand(60, 20)
    batch = TokenBatch(tokens, place > 0, torch.arange(60)[:, None].expand(60, 20), place)

    def fires_on(embedded):
        which = torch.cdist(embedded, model.W_E[100:115][None]).argmin(dim=-1)
        strength = 1 + (torch.arange(embedded.shape[0] * 20).reshape(-1, 20) * 7919 % 1000) / 1000
        return torch.stack([(which < most) * strength for most in (1, 3, 15)], dim=-1)

    found = scan_neurons(model, [batch], hooks={hook: fires_on}, top_k=20).hooks[f"{hook}.features"]
    one, three, everything = found.contexts.tolist()
    assert one == pytest.approx(1, abs=0.01)
    # The three embeddings are not quite at right angles.
    planted_three = (model.W_E[100:103] - model.W_E[100:115].mean(dim=0))[None]
    assert three == pytest.approx(effective_number(planted_three, torch.ones(1, 3, dtype=torch.bool)).item(), abs=0.2)
    assert three > 2.4
    assert everything > 6
