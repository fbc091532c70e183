"""Two layers, many instances at once: outputs, loss, and the gradient, derived by hand.

Weights have the axes ``[setting, instance, …]``, activations the batch as their last axis: every product below is then one
batched product of contiguous matrices, and the first layers of all instances of a setting read the same inputs in one
product. The tests hold the gradient to torch's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mi_superposition.toy.buffers import Buffers
from mi_superposition.toy.config import Activation

# Slope of a leaky ReLU below 0.
_LEAK = 0.01


@dataclass(frozen=True)
class ToyWeights:
    """W_out act(W_in x) + b before the last activation. ``W_out`` is ``W_in`` transposed where they are tied."""

    W_in: Float[Tensor, "setting instance hidden feature"]
    W_out: Float[Tensor, "setting instance output hidden"]
    b: Float[Tensor, "setting instance output"]


@dataclass(frozen=True)
class Penalties:
    """Weights in the loss, by setting: of each output's squared error (``None``: all 1), and of the magnitude of hidden
    activations (``None``: 0).
    """

    importance: Float[Tensor, "setting output"] | None
    l1: Float[Tensor, " setting"] | None


class ToyNetwork:
    """The activations of both layers, ``hidden`` and ``output``: ``relu``, ``gelu`` and ``silu`` (Hendrycks & Gimpel 2016), ``leaky_relu``
    (Maas et al. 2013), ``tanh``, ``solu`` (Elhage et al. 2022, "Softmax Linear Units", without its normalisation) or ``linear``.

    Intermediate results are kept in buffers of its own, from call to call: one thread may call it at a time.
    """

    def __init__(self, hidden: Activation, output: Activation, *, tied: bool):
        self.hidden, self.output, self.tied = hidden, output, tied
        self._buffers = Buffers()

    def hidden_activations(
        self, weights: ToyWeights, inputs: Float[Tensor, "setting feature batch"]
    ) -> Float[Tensor, "setting instance hidden batch"]:
        """Activations of the hidden layer; the next call writes over them."""
        return _activate(self.hidden, self._before_hidden(weights, inputs))

    def outputs(
        self, weights: ToyWeights, inputs: Float[Tensor, "setting feature batch"]
    ) -> Float[Tensor, "setting instance output batch"]:
        """Outputs of the network; the next call writes over them."""
        return _activate(self.output, self._before_output(weights, self.hidden_activations(weights, inputs)))

    def loss(
        self,
        weights: ToyWeights,
        inputs: Float[Tensor, "setting feature batch"],
        wanted: Float[Tensor, "setting output batch"],
        penalties: Penalties,
    ) -> Float[Tensor, "setting instance"]:
        """Squared errors weighted by importance, their mean over outputs and batch. The L1 term is no part of it."""
        squared = (self.outputs(weights, inputs) - wanted[:, None]).square_().mean(dim=-1)
        if penalties.importance is not None:
            squared = squared * penalties.importance[:, None]
        return squared.mean(dim=-1)

    def loss_and_gradient(
        self,
        weights: ToyWeights,
        inputs: Float[Tensor, "setting feature batch"],
        wanted: Float[Tensor, "setting output batch"],
        penalties: Penalties,
        keep: Float[Tensor, "setting instance hidden batch"] | None = None,
    ) -> tuple[Float[Tensor, "setting instance"], ToyWeights]:
        """The loss of each instance (L1 included) and its gradient. ``keep`` multiplies hidden activations: dropout.

        Where weights are tied, ``W_in`` holds the gradient of both uses, and ``W_out`` is its transpose.
        """
        before_hidden = self._before_hidden(weights, inputs)
        hidden = _activate(self.hidden, before_hidden)
        kept = hidden if keep is None else hidden * keep
        before_output = self._before_output(weights, kept)
        outputs = _activate(self.output, before_output)
        errors = torch.sub(outputs, wanted[:, None], out=self._buffers.get("errors", outputs))
        # All that follows is the gradient of half the sum of squares; the rest is a factor of small matrices.
        per_square = 1 / (errors.shape[2] * errors.shape[3])
        delta = errors
        if penalties.importance is None:
            loss = torch.linalg.vector_norm(errors.flatten(2), dim=-1).square() * per_square
        else:
            importance = penalties.importance[:, None, :, None]
            delta = torch.mul(errors, importance, out=self._buffers.get("delta", errors))
            loss = (errors.mul_(delta)).sum(dim=(-2, -1)) * per_square
        delta = _times_slope(self.output, delta, before_output, outputs)
        flat_delta, flat_kept = delta.flatten(0, 1), kept.flatten(0, 1)
        to_W_out = torch.bmm(flat_delta, flat_kept.transpose(1, 2)).view_as(weights.W_out)
        to_hidden = self._buffers.get("to_hidden", hidden)
        torch.bmm(weights.W_out.flatten(0, 1).transpose(1, 2), flat_delta, out=to_hidden.flatten(0, 1))
        if keep is not None:
            to_hidden.mul_(keep)
        if penalties.l1 is not None:
            n = inputs.shape[-1]
            loss = loss + hidden.abs().sum(dim=(-2, -1)) * (penalties.l1 / n)[:, None]
            to_hidden.addcmul_(hidden.sign(), (penalties.l1 / n / (2 * per_square))[:, None, None, None])
        to_hidden = _times_slope(self.hidden, to_hidden, before_hidden, hidden)
        to_W_in = torch.bmm(to_hidden.flatten(1, 2), inputs.transpose(1, 2)).view_as(weights.W_in)
        if self.tied:
            to_W_in.add_(rearrange(to_W_out, "setting instance output hidden -> setting instance hidden output"))
        to_W_in.mul_(2 * per_square)
        if self.tied:
            to_W_out = rearrange(to_W_in, "setting instance hidden feature -> setting instance feature hidden")
        else:
            to_W_out.mul_(2 * per_square)
        return loss, ToyWeights(to_W_in, to_W_out, delta.sum(dim=-1).mul_(2 * per_square))

    def _before_hidden(self, weights: ToyWeights, inputs: Tensor) -> Tensor:
        n_settings, n_instances, n_hidden, _ = weights.W_in.shape
        buffer = self._buffers.get("hidden", inputs, (n_settings, n_instances, n_hidden, inputs.shape[-1]))
        torch.bmm(weights.W_in.flatten(1, 2), inputs, out=buffer.flatten(1, 2))
        return buffer

    def _before_output(self, weights: ToyWeights, hidden: Tensor) -> Tensor:
        buffer = self._buffers.get("output", hidden, (*weights.b.shape, hidden.shape[-1]))
        torch.baddbmm(
            weights.b.flatten(0, 1)[:, :, None],
            weights.W_out.flatten(0, 1),
            hidden.flatten(0, 1),
            out=buffer.flatten(0, 1),
        )
        return buffer


def _activate(kind: Activation, values: Float[Tensor, "*many neuron batch"]) -> Float[Tensor, "*many neuron batch"]:
    """Activations whose slope follows from their own value write over the argument."""
    match kind:
        case "linear":
            return values
        case "relu":
            return values.relu_()
        case "leaky_relu":
            return F.leaky_relu_(values, _LEAK)
        case "tanh":
            return values.tanh_()
        case "silu":
            return F.silu(values)
        case "solu":
            return values * values.softmax(dim=-2)
        case "gelu":
            return F.gelu(values)


def _times_slope(
    kind: Activation,
    gradient: Float[Tensor, "*many neuron batch"],
    before: Float[Tensor, "*many neuron batch"],
    after: Float[Tensor, "*many neuron batch"],
) -> Float[Tensor, "*many neuron batch"]:
    """The gradient by what stood before the activation. Writes over ``gradient``; ``before`` is ``after`` where that was written over."""
    match kind:
        case "linear":
            return gradient
        case "relu":
            return torch.ops.aten.threshold_backward.grad_input(gradient, after, 0, grad_input=gradient)
        case "leaky_relu":
            return gradient.mul_(torch.where(after > 0, 1.0, _LEAK))
        case "tanh":
            return gradient.addcmul_(gradient, after.square(), value=-1)
        case "silu":
            return torch.ops.aten.silu_backward.grad_input(gradient, before, grad_input=gradient)
        case "solu":
            # With s = softmax(x) and y = x s: dy_i/dx_j = s_j [i = j] + y_i ([i = j] - s_j).
            both = (gradient * after).sum(dim=-2, keepdim=True)
            return gradient.addcmul_(gradient, before).sub_(both).mul_(before.softmax(dim=-2))
        case "gelu":
            # The derivative of x Φ(x), with Φ the normal distribution's: Φ(x) + x φ(x).
            density = torch.exp(-0.5 * before.square())
            return gradient.mul_(torch.special.ndtr(before).addcmul_(before, density, value=(2 * math.pi) ** -0.5))
