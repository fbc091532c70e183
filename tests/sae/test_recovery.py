"""Where the true features are known, an autoencoder finds them: but only if they are sparse."""

import pytest
import torch

from mi_superposition.sae import feature_recovery
from mi_superposition.sae.config import SaeRecoverConfig
from mi_superposition.sae.recovery import HOOK, HiddenActivations, nearest_decoder_cosines
from mi_superposition.toy import ToyConfig


@pytest.fixture(scope="module")
def recovery():
    # Half the steps of the command, which are enough.
    return feature_recovery(SaeRecoverConfig(toy_steps=2000, sae_steps=1000))


def test_sparse_features_are_recovered(recovery):
    assert recovery.sparse.mean() >= 0.95
    # All of them, not most of them.
    assert recovery.sparse.min() >= 0.9


def test_the_same_directions_without_sparsity_are_not(recovery):
    assert recovery.dense.mean() < 0.8
    # No better than chance comes near them.
    assert abs(recovery.dense.mean() - recovery.random.mean()) < 0.1
    assert recovery.sparse.min() > recovery.dense.mean()


def test_the_toy_model_is_in_superposition(recovery):
    assert recovery.true.shape == (20, 8)
    assert (recovery.true.norm(dim=1) > 0.5).all()


def test_cosines_with_the_nearest_by_brute_force():
    generator = torch.Generator().manual_seed(0)
    true, decoder = (torch.randn(n, 5, generator=generator) for n in (7, 11))
    expected = [max(float(torch.cosine_similarity(a, b, dim=0)) for b in decoder) for a in true]
    assert nearest_decoder_cosines(true, decoder).tolist() == pytest.approx(expected, abs=1e-5)


def test_hidden_activations_are_as_sparse_as_asked_for():
    config = ToyConfig(n_features=6, n_hidden=5, probability=(0.5,))
    for probability in (0.1, 1.0):
        batch = HiddenActivations(config, torch.eye(6)[:5], probability, batch_size=4000).batch(0)[HOOK]
        assert float((batch > 0).float().mean()) == pytest.approx(probability, abs=0.02)
    again = HiddenActivations(config, torch.eye(6)[:5], 1.0, batch_size=4000)
    assert torch.equal(again.batch(0)[HOOK], batch)
    assert not torch.equal(again.batch(1)[HOOK], batch)
