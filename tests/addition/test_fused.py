"""The compiled training step, beside autograd through the lookup form and torch's AdamW."""

from __future__ import annotations

import copy
import functools
import math

import numpy as np
import pytest
import torch
from conftest import small_config
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mi_superposition.addition.fused import FusedGradient, FusedLearner
from mi_superposition.addition.fused.arithmetic import exponential
from mi_superposition.addition.fused.backward import adamw
from mi_superposition.addition.lookup import _score_and_value_tables, _shift, lookup_logits, one_hot_operands
from mi_superposition.addition.problems import answer_digits, fresh_operands
from mi_superposition.addition.train import _Batches, _learner, build_addition_model
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import write_state
from mi_superposition.models import load_model
from mi_superposition.training import GradientLearner, fixed_arithmetic, resume, train


def mean_loss(model, operands, focus):
    """The loss that is descended, as a sentence: mean cross-entropy of each digit, weighted by its own value to the power of ``focus``."""
    logits = lookup_logits(model, one_hot_operands(operands).to(model.W_E.dtype)).double()
    right = answer_digits(operands)
    by_digit = -logits.log_softmax(dim=-1).gather(2, right[:, :, None])[:, :, 0].mean(dim=0)
    weight = by_digit.detach() ** focus
    return (weight * by_digit).sum() / weight.sum()


def in_double(model, operands, focus):
    """Loss and gradients by autograd in double precision."""
    exact = copy.deepcopy(model).double()
    loss = mean_loss(exact, operands, focus)
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in exact.named_parameters()}


def model_of(scale, seed=0, **sizes):
    model = build_addition_model(small_config(**sizes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def problems(n, n_digits, seed=0):
    return fresh_operands(n, n_digits=n_digits, part="train", generator=torch.Generator().manual_seed(seed))


def check_gradient(model, operands, focus, threads):
    loss, expected = in_double(model, operands, focus)
    gradient = FusedGradient(model, operands.shape[1] // 2, digit_focus=focus, threads=threads)
    with fixed_arithmetic(1):
        assert gradient(operands) == pytest.approx(loss, rel=1e-5, abs=2e-6)
    whole = torch.cat([value.flatten() for value in expected.values()]).norm()
    for name, value in expected.items():
        # A thousandth of what is allowed, where nearly all of a gradient cancels.
        assert (gradient.gradient_views[name] - value).norm() <= 1e-4 * value.norm() + 1e-7 * whole, name
    assert not gradient.gradient_views["blocks.0.attn.b_K"].any()
    return gradient


SIZES = st.fixed_dictionaries(
    dict(n_digits=st.integers(1, 5), n_heads=st.integers(1, 7), d_head=st.integers(1, 4), d_model=st.integers(1, 21))
)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(1, 75), st.sampled_from([0.0, 0.5, 1.0]), st.integers(1, 5), st.sampled_from([0.05, 0.3]))
@example(dict(n_digits=1, n_heads=1, d_head=1, d_model=1), 1, 0.0, 1, 0.3)
@example(dict(n_digits=9, n_heads=3, d_head=2, d_model=8), 33, 1.0, 3, 0.2)
@example(dict(n_digits=6, n_heads=32, d_head=2, d_model=128), 257, 1.0, 2, 0.1)
def test_gradients_are_autograds(sizes, n_problems, focus, threads, scale):
    model = model_of(scale, seed=n_problems, n_train=1, n_test=1, **sizes)
    check_gradient(model, problems(n_problems, sizes["n_digits"]), focus, threads)


@pytest.mark.parametrize("name", ["addition", "addition-exact"])
@pytest.mark.parametrize("focus", [0.0, 1.0])
def test_gradients_of_trained_weights(name, focus):
    """Attention far from even and losses near zero: as close to double precision as autograd in single precision is."""
    model, operands = load_model(name, device="cpu"), problems(300, 6)
    loss, expected = in_double(model, operands, focus)
    single = copy.deepcopy(model)
    mean_loss(single, operands, focus).backward()
    gradient = FusedGradient(model, 6, digit_focus=focus, threads=2)
    assert gradient(operands) == pytest.approx(loss, rel=1e-4)
    errors = {
        name: [
            float((found - value).norm()) for found in (gradient.gradient_views[name], single.get_parameter(name).grad)
        ]
        for name, value in expected.items()
    }
    ours, autograds = (math.hypot(*error) for error in zip(*errors.values(), strict=True))
    whole = float(torch.cat([value.flatten() for value in expected.values()]).norm())
    assert ours <= max(autograds, 1e-4 * whole)
    assert all(error[0] <= 1e-4 * whole for error in errors.values())


def test_a_wrong_gradient_would_be_seen():
    """The check itself: one weight moved after the reference was computed."""
    model, operands = model_of(0.2), problems(40, 2)
    _, expected = in_double(model, operands, 0.0)
    with torch.no_grad():
        model.blocks[0].attn.W_K[0, 0, 0] += 0.05
    gradient = FusedGradient(model, 2)
    gradient(operands)
    difference = gradient.gradient_views["blocks.0.attn.W_Q"] - expected["blocks.0.attn.W_Q"]
    assert difference.norm() > 1e-4 * expected["blocks.0.attn.W_Q"].norm()


def test_the_number_of_threads_changes_no_bit():
    found = []
    for threads in (1, 2, 3, 7, 20):
        gradient = FusedGradient(model_of(0.2, n_digits=6), 6, digit_focus=1.0, threads=threads)
        with fixed_arithmetic(threads):
            found.append((gradient(problems(100, 6)), gradient.gradient.clone()))
    for loss, values in found[1:]:
        assert loss == found[0][0]
        assert torch.equal(values, found[0][1])


@given(st.lists(st.floats(-86, 0, width=32), min_size=1, max_size=40), st.integers(0, 120))
@settings(deadline=None)
def test_exponential(numbers, power):
    x = np.array([numbers], np.float32) - np.float32(power / 2)
    expected = np.exp(x.astype(np.float64)) * 2.0**power
    exponential(x, power)
    assert np.abs(x / expected - 1).max() < 3e-7


def test_exponential_at_the_ends():
    x = np.array([[0.0, np.nan, -np.inf, -86.1, -3e38]], np.float32)
    exponential(x, 0)
    assert x[0, 0] == 1
    assert np.isnan(x[0, 1])
    assert not x[0, 2:].any()


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.98), (0.5, 0.5)])
def test_adamw_is_torchs(decay, betas):
    generator = torch.Generator().manual_seed(0)
    theirs = torch.randn(101, generator=generator).requires_grad_()
    weight, mean, square = theirs.detach().numpy().copy(), np.zeros(101, np.float32), np.zeros(101, np.float32)
    optimizer = torch.optim.AdamW([theirs], betas=betas, weight_decay=decay)
    for step in range(200):
        rate = 1e-2 / (1 + step)
        theirs.grad = torch.randn(101, generator=generator) * 10.0 ** (-(step % 7))
        optimizer.param_groups[0]["lr"] = rate
        # From the same state each time: rounding adds up over steps.
        if step:
            weight[:] = theirs.detach().numpy()
            mean[:], square[:] = (optimizer.state[theirs][name].numpy() for name in ("exp_avg", "exp_avg_sq"))
        optimizer.step()
        adamw(weight, theirs.grad.numpy(), mean, square, *betas, rate, decay, 1e-8, step + 1)
        np.testing.assert_allclose(weight, theirs.detach().numpy(), rtol=1e-6, atol=1e-6)


CONFIG = dict(n_digits=3, n_train=200, batch_size=33, epochs=5, steps_per_epoch=7, digit_focus=0.5, n_heads=5)


def learner(kind, scale=0.3, **changes):
    """Compiled or autograd's, from the same weights on the same problems."""
    config = small_config(**{**CONFIG, **changes})
    model = model_of(scale, **{name: getattr(config, name) for name in ("n_digits", "n_heads", "d_head", "d_model")})
    batches = _Batches(config, problems(200, 3))
    loss = lambda step: mean_loss(model, batches(step), config.digit_focus)  # noqa: E731
    rate = lambda step: 1e-2 / (1 + step)  # noqa: E731
    if kind == "fused":
        return _learner(config, model, batches, loss, rate)
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(config.beta1, config.beta2), weight_decay=config.weight_decay
    )
    return GradientLearner(model, [optimizer], loss, rate)


def weights(learner):
    # Not of b_K, whose gradient is rounding in one and zero in the other, and which no output depends on.
    named = learner.module.named_parameters()
    return torch.cat([value.detach().flatten() for name, value in named if not name.endswith("b_K")])


def test_steps_are_those_of_autograd_and_torch():
    fused, plain = learner("fused"), learner("plain")
    assert isinstance(fused, FusedLearner)
    before = weights(plain)
    train(fused, 0, 25)
    train(plain, 0, 25)
    assert (weights(plain) - before).norm() > 0.1
    assert (weights(fused) - weights(plain)).norm() < 1e-4 * (weights(plain) - before).norm()
    assert fused.take_mean_loss() == pytest.approx(plain.take_mean_loss(), rel=1e-5)


@pytest.mark.parametrize("stop_at", [1, 7, 12])
def test_going_on_changes_no_bit(tmp_path, stop_at):
    checkpoint = tmp_path / "checkpoint.safetensors"
    whole, first, second = learner("fused"), learner("fused"), learner("fused")
    train(whole, 0, 20)
    train(first, 0, stop_at, checkpoint=checkpoint)
    train(second, resume(second, checkpoint), 20)
    assert torch.equal(second.gradient.flat, whole.gradient.flat)
    assert second.take_mean_loss() == whole.take_mean_loss()


@pytest.mark.parametrize(("kind", "other"), [("fused", "plain"), ("plain", "fused")])
def test_each_goes_on_from_the_others_checkpoint(tmp_path, kind, other):
    """A run folder of an earlier version holds the state of torch's optimizer."""
    checkpoint = tmp_path / "checkpoint.safetensors"
    begun, whole, second = learner(kind), learner("plain"), learner(other)
    train(whole, 0, 20)
    train(begun, 0, 9, checkpoint=checkpoint)
    assert resume(second, checkpoint) == 9
    train(second, 9, 20)
    assert (weights(second) - weights(whole)).abs().max() < 1e-5


def test_an_untrained_state_goes_back(tmp_path):
    fresh, used = learner("fused"), learner("fused")
    write_state(tmp_path / "state.safetensors", {"step": 0, "learner": fresh.state()})
    train(used, 0, 3)
    assert resume(used, tmp_path / "state.safetensors") == 0
    train(used, 0, 5)
    train(fresh, 0, 5)
    assert torch.equal(used.gradient.flat, fresh.gradient.flat)


def test_scores_too_wide_for_a_float32_get_double_precision():
    model = model_of(1.3, n_digits=3, n_heads=5)
    scores, _ = _score_and_value_tables(model, 3)
    _, too_wide = _shift(scores, 60)
    assert too_wide.any()
    check_gradient(model, problems(100, 3), 0.5, 2)


def test_scores_too_wide_for_a_table_are_left_to_autograd(monkeypatch):
    fused, again, alike = (learner("fused", 4.0) for _ in range(3))
    taken = []
    original = fused._by_autograd
    monkeypatch.setattr(fused, "_by_autograd", lambda step: taken.append(step) or original(step))
    before = weights(fused)
    train(fused, 0, 3)
    assert taken == [0, 1, 2]
    assert (weights(fused) - before).norm() > 0.1
    train(again, 0, 1)
    alike.loss(0).backward()
    for name, parameter in alike.module.named_parameters():
        torch.testing.assert_close(again.gradient.gradient_views[name], parameter.grad)


def test_a_step_that_is_not_a_number_changes_nothing():
    fused = learner("fused")
    with torch.no_grad():
        fused.module.W_U[0, 0] = torch.nan
    before = fused.gradient.flat.clone()
    with pytest.raises(WorkError, match="the loss is nan at step 3"):
        fused.step(3)
    assert torch.equal(fused.gradient.flat.nan_to_num(7.0), before.nan_to_num(7.0))


def test_the_model_stays_a_model():
    """Its parameters are views of one array: what is trained is what it answers with."""
    fused = learner("fused")
    operands = problems(20, 3)
    before = lookup_logits(fused.module, one_hot_operands(operands))
    tokens = functools.partial(torch.cat, dim=1)([operands, torch.full((20, 4), 10)])
    torch.testing.assert_close(fused.module(tokens)[:, 6:], before)
    train(fused, 0, 3)
    after = lookup_logits(fused.module, one_hot_operands(operands))
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(fused.module(tokens)[:, 6:], after)


def test_what_is_no_table_is_autograds():
    config = small_config(answer="autoregressive")
    model = build_addition_model(config)
    plain = _learner(config, model, _Batches(config, problems(64, 2)), lambda step: torch.zeros(()), lambda step: 1.0)
    assert type(plain) is GradientLearner
    with pytest.raises(RequestError, match="n_ctx = 7: compiled training needs 4"):
        FusedGradient(model, 1)
