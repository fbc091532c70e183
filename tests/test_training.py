import pytest
import torch

from mi_superposition.errors import WorkError
from mi_superposition.training import GradientLearner, Stopped, resume, seeded_generator, train, warmup_then


def learner():
    """A regression whose batch is drawn from the step number."""
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)

    def loss(step):
        inputs = torch.randn(8, 3, generator=seeded_generator(7, "batch", step))
        return (module(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean()

    return GradientLearner(module, [optimizer], loss, warmup_then("cosine", 0.1, 3, 20))


def weights(learner):
    return torch.cat([parameter.flatten() for parameter in learner.module.parameters()]).detach().clone()


@pytest.fixture(scope="module")
def uninterrupted():
    whole = learner()
    train(whole, 0, 20)
    return weights(whole)


def test_it_learns(uninterrupted):
    assert (uninterrupted[:3] - 1).abs().max() < 0.5


@pytest.mark.parametrize("stop_at", range(1, 20))
def test_stopping_at_any_step_changes_no_bit(tmp_path, uninterrupted, stop_at):
    checkpoint = tmp_path / "checkpoint.safetensors"
    first, done = learner(), []
    with pytest.raises(Stopped) as stopped:
        train(first, 0, 20, checkpoint=checkpoint, after_step=done.append, should_stop=lambda: len(done) == stop_at)
    assert stopped.value.step == stop_at
    second = learner()
    start = resume(second, checkpoint)
    assert start == stop_at
    train(second, start, 20, checkpoint=checkpoint, checkpoint_every=6)
    assert torch.equal(weights(second), uninterrupted)


def test_the_running_loss_goes_on_too(tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    whole, first, second = learner(), learner(), learner()
    train(whole, 0, 10)
    train(first, 0, 4, checkpoint=checkpoint)
    train(second, resume(second, checkpoint), 10)
    assert second.take_mean_loss() == whole.take_mean_loss()


def test_a_loss_that_is_not_a_number_keeps_the_last_good_state(tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    broken = learner()
    good_loss = broken.loss
    broken.loss = lambda step: good_loss(step) * (float("nan") if step == 6 else 1.0)
    with pytest.raises(WorkError, match="loss is nan at step 6"):
        train(broken, 0, 20, checkpoint=checkpoint, checkpoint_every=5)
    assert resume(learner(), checkpoint) == 5
    assert torch.isfinite(weights(broken)).all()


def test_generators_differ_by_every_part_of_their_name():
    draws = {
        float(torch.rand((), generator=seeded_generator(*name)))
        for name in [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1)]
    }
    assert len(draws) == 4


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_learning_rate_rises_then_falls_to_zero(decay):
    rate = warmup_then(decay, 1.0, 10, 100)
    rates = [rate(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.0)
    assert all(a >= b for a, b in zip(rates[9:], rates[10:], strict=False))
