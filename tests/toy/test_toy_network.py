from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from einops import einsum, rearrange

from mi_superposition.toy.config import Activation
from mi_superposition.toy.network import Penalties, ToyNetwork, ToyWeights

# The neurons of a layer, which SoLU takes together, are the axis before the batch.
ACTS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "linear": lambda x: x,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "solu": lambda x: x * x.softmax(dim=-2),
}
SETTINGS, INSTANCES, FEATURES, HIDDEN, N = 2, 3, 5, 4, 17


def problem(tied, outputs=FEATURES, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    W_in = randn(SETTINGS, INSTANCES, HIDDEN, FEATURES)
    W_out = rearrange(W_in, "s i h f -> s i f h") if tied else randn(SETTINGS, INSTANCES, outputs, HIDDEN)
    weights = ToyWeights(W_in, W_out, randn(SETTINGS, INSTANCES, outputs))
    penalties = Penalties(randn(SETTINGS, outputs).abs(), randn(SETTINGS).abs())
    keep = (randn(SETTINGS, INSTANCES, HIDDEN, N) > 0).double() * 1.5
    return weights, randn(SETTINGS, FEATURES, N), randn(SETTINGS, outputs, N), penalties, keep


def reference(hidden, output, weights, x, wanted, penalties, keep, tied):
    """One einsum a line, and torch's own gradient."""
    W_in, b = (part.clone().requires_grad_() for part in (weights.W_in, weights.b))
    W_out = rearrange(W_in, "s i h f -> s i f h") if tied else weights.W_out.clone().requires_grad_()
    h = ACTS[hidden](einsum(W_in, x, "s i h f, s f n -> s i h n"))
    y = ACTS[output](einsum(W_out, h * keep, "s i o h, s i h n -> s i o n") + b[..., None])
    squared = (y - wanted[:, None]).square()
    losses = einsum(squared, penalties.importance, "s i o n, s o -> s i") / squared[0, 0].numel()
    losses = losses + penalties.l1[:, None] * h.abs().sum(dim=2).mean(dim=-1)
    losses.sum().backward()
    return losses.detach(), W_in.grad, b.grad, None if tied else W_out.grad


def test_every_activation_is_tested():
    assert set(ACTS) == set(get_args(Activation))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("hidden", ACTS)
@pytest.mark.parametrize("output", ACTS)
def test_loss_and_gradient_are_autograds(tied, hidden, output):
    weights, x, wanted, penalties, keep = problem(tied)
    losses, to_W_in, to_b, to_W_out = reference(hidden, output, weights, x, wanted, penalties, keep, tied)
    got, gradient = ToyNetwork(hidden, output, tied=tied).loss_and_gradient(weights, x, wanted, penalties, keep)
    torch.testing.assert_close(got, losses)
    torch.testing.assert_close(gradient.W_in, to_W_in)
    torch.testing.assert_close(gradient.b, to_b)
    if not tied:
        torch.testing.assert_close(gradient.W_out, to_W_out)


def test_without_dropout_and_l1():
    weights, x, wanted, _, _ = problem(False, outputs=2)
    plain = Penalties(None, None)
    network = ToyNetwork("relu", "relu", tied=False)
    ones = Penalties(torch.ones(SETTINGS, 2, dtype=torch.float64), torch.zeros(SETTINGS, dtype=torch.float64))
    losses, to_W_in, *_ = reference("relu", "relu", weights, x, wanted, ones, torch.tensor(1.0), False)
    got, gradient = network.loss_and_gradient(weights, x, wanted, plain)
    torch.testing.assert_close(got, losses)
    torch.testing.assert_close(gradient.W_in, to_W_in)
    torch.testing.assert_close(network.loss(weights, x, wanted, plain), losses)


def test_nothing_given_is_written_over():
    weights, x, wanted, penalties, keep = problem(False)
    before = [part.clone() for part in (weights.W_in, weights.W_out, weights.b, x, wanted, keep)]
    ToyNetwork("relu", "gelu", tied=False).loss_and_gradient(weights, x, wanted, penalties, keep)
    for old, new in zip(before, (weights.W_in, weights.W_out, weights.b, x, wanted, keep), strict=True):
        assert torch.equal(old, new)


def test_instances_do_not_know_of_each_other():
    weights, x, wanted, penalties, keep = problem(False)
    network = ToyNetwork("gelu", "relu", tied=False)
    losses, gradient = network.loss_and_gradient(weights, x, wanted, penalties, keep)
    broken = ToyWeights(weights.W_in.clone(), weights.W_out, weights.b)
    broken.W_in[1, 2] = float("nan")
    got, got_gradient = network.loss_and_gradient(broken, x, wanted, penalties, keep)
    assert got[1, 2].isnan()
    others = torch.ones(SETTINGS, INSTANCES, dtype=torch.bool)
    others[1, 2] = False
    torch.testing.assert_close(got[others], losses[others])
    torch.testing.assert_close(got_gradient.W_in[others], gradient.W_in[others])
