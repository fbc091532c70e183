"""The sparse top-k step is SAELens's own: the same loss, gradients and weights."""

import pytest
import torch
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.sae import TrainStepInput
from sae_lens.training.sae_trainer import SAETrainer

from mi_superposition.sae.sparse import SparseTopKTrainingSAE


def pair(d_in=12, d_sae=40, k=5, **options):
    """SAELens's autoencoder and ours with the same weights, some of them far from their beginnings."""
    torch.manual_seed(0)
    config = TopKTrainingSAEConfig(d_in=d_in, d_sae=d_sae, k=k, **options)
    reference, ours = TopKTrainingSAE(config), SparseTopKTrainingSAE(config)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    ours.load_state_dict(reference.state_dict())
    return reference, ours


def step(sae, x, dead):
    mask = torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
    mask[dead] = True
    output = sae.training_forward_pass(
        TrainStepInput(sae_in=x, dead_neuron_mask=mask, coefficients={}, n_training_steps=0, is_logging_step=False)
    )
    output.loss.backward()
    return output


@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("dead", [[], [3], [1, 2, 7, 30], list(range(20))], ids=len)
@pytest.mark.parametrize(
    "options",
    [{}, {"apply_b_dec_to_input": False}, {"aux_loss_coefficient": 0.3}, {"rescale_acts_by_decoder_norm": False}],
    ids=str,
)
def test_loss_and_gradients_are_those_of_saelens(k, dead, options):
    reference, ours = pair(k=k, **options)
    x = torch.randn(33, 12, generator=torch.Generator().manual_seed(1))
    expected, got = step(reference, x, dead), step(ours, x, dead)
    for name, loss in expected.losses.items():
        torch.testing.assert_close(got.losses[name], loss, atol=1e-5, rtol=1e-5)
    assert (got.losses["auxiliary_reconstruction_loss"] > 0) == bool(dead)
    torch.testing.assert_close(got.loss, expected.loss, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.sae_out, expected.sae_out, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.feature_acts.to_dense(), expected.feature_acts, atol=1e-5, rtol=1e-5)
    for (name, wanted), (_, found) in zip(reference.named_parameters(), ours.named_parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_a_training_with_dying_features_ends_with_the_same_weights():
    saes = pair(k=2)
    generator = torch.Generator().manual_seed(2)
    batches = [torch.randn(64, 12, generator=generator) for _ in range(60)]
    dead = []
    for sae in saes:
        settings = SAETrainerConfig(
            total_training_samples=60 * 64, train_batch_size_samples=64, lr=3e-3, lr_end=3e-3, lr_warm_up_steps=0,
            lr_decay_steps=0, dead_feature_window=5, feature_sampling_window=100, logger=LoggingConfig(log_to_wandb=False),
        )  # fmt: skip
        trainer = SAETrainer(cfg=settings, sae=sae, data_provider=iter(()))
        for batch in batches:
            trainer.step(batch)
            dead.append(int(trainer.dead_neurons.sum()))
    # Features died, and so the auxiliary loss took part, in both alike.
    assert max(dead) > 0
    assert dead[:60] == dead[60:]
    for (name, wanted), (_, found) in zip(saes[0].named_parameters(), saes[1].named_parameters(), strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-3, msg=name)
