"""Two layers, many instances at once: what they give, how wrong it is, and the gradient, worked out by hand.

Weights have the axes ``[setting, instance, …]``, activations the batch as their last axis: every product below is then one
batched product of contiguous matrices, and the first layer of all instances of a setting reads the same inputs in one
product. The tests hold the gradient to torch's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class ToyWeights:
    """W_out act(W_in x) + b before the last activation. ``W_out`` is ``W_in`` transposed where they are tied."""

    W_in: Float[Tensor, "setting instance hidden feature"]
    W_out: Float[Tensor, "setting instance output hidden"]
    b: Float[Tensor, "setting instance output"]


@dataclass(frozen=True)
class Penalties:
    """What the loss weighs, by setting: squared errors by output, and the magnitude of hidden activations."""

    importance: Float[Tensor, "setting output"]
    l1: Float[Tensor, " setting"]


class ToyNetwork:
    """Which activations stand where. ``hidden`` and ``output`` are ``relu``, ``gelu`` or ``linear``."""

    def __init__(self, hidden: str, output: str, *, tied: bool):
        self.hidden, self.output, self.tied = hidden, output, tied

    def hidden_activations(
        self, weights: ToyWeights, inputs: Float[Tensor, "setting feature batch"]
    ) -> Float[Tensor, "setting instance hidden batch"]:
        """What the hidden layer does."""
        return _activate(self.hidden, self._before_hidden(weights, inputs))

    def outputs(
        self, weights: ToyWeights, inputs: Float[Tensor, "setting feature batch"]
    ) -> Float[Tensor, "setting instance output batch"]:
        """What the network gives."""
        return _activate(self.output, self._before_output(weights, self.hidden_activations(weights, inputs)))

    def loss(
        self,
        weights: ToyWeights,
        inputs: Float[Tensor, "setting feature batch"],
        wanted: Float[Tensor, "setting output batch"],
        penalties: Penalties,
    ) -> Float[Tensor, "setting instance"]:
        """Squared errors weighted by importance, their mean over outputs and batch. The L1 term is no part of it."""
        errors = self.outputs(weights, inputs) - wanted[:, None]
        return (errors.square().mean(dim=-1) * penalties.importance[:, None]).mean(dim=-1)

    def loss_and_gradient(
        self,
        weights: ToyWeights,
        inputs: Float[Tensor, "setting feature batch"],
        wanted: Float[Tensor, "setting output batch"],
        penalties: Penalties,
        keep: Float[Tensor, "setting instance hidden batch"] | None = None,
    ) -> tuple[Float[Tensor, "setting instance"], ToyWeights]:
        """The loss of each instance (L1 included) and its gradient. ``keep`` multiplies hidden activations: dropout.

        Where weights are tied the gradient of both uses stands in ``W_in``, and ``W_out`` is its transpose.
        """
        n = inputs.shape[-1]
        before = self._before_hidden(weights, inputs)
        hidden, hidden_slope = _activate_with_slope(self.hidden, before)
        loss_l1 = None
        if bool(penalties.l1.any()):
            l1 = penalties.l1[:, None, None, None] / n
            loss_l1 = hidden.abs().sum(dim=(-2, -1)) * l1[:, :, 0, 0]
        kept = hidden if keep is None else hidden * keep
        outputs, output_slope = _activate_with_slope(self.output, self._before_output(weights, kept))
        errors = outputs.sub_(wanted[:, None])
        # The derivative of the mean of importance times squared error.
        scale = (penalties.importance * (2 / errors.shape[2] / n))[:, None, :, None]
        delta = errors * scale
        loss = torch.linalg.vecdot(errors.flatten(2), delta.flatten(2)) / 2
        if output_slope is not None:
            delta.mul_(output_slope)
        flat_delta, flat_kept = delta.flatten(0, 1), kept.flatten(0, 1)
        to_W_out = torch.bmm(flat_delta, flat_kept.transpose(1, 2)).view_as(weights.W_out)
        to_hidden = torch.bmm(weights.W_out.flatten(0, 1).transpose(1, 2), flat_delta).view_as(hidden)
        if keep is not None:
            to_hidden.mul_(keep)
        if loss_l1 is not None:
            loss = loss + loss_l1
            to_hidden.addcmul_(hidden.sign(), l1.expand_as(hidden))
        if hidden_slope is not None:
            to_hidden.mul_(hidden_slope)
        to_W_in = torch.bmm(to_hidden.flatten(1, 2), inputs.transpose(1, 2)).view_as(weights.W_in)
        if self.tied:
            to_W_in.add_(rearrange(to_W_out, "setting instance output hidden -> setting instance hidden output"))
            to_W_out = rearrange(to_W_in, "setting instance hidden feature -> setting instance feature hidden")
        return loss, ToyWeights(to_W_in, to_W_out, delta.sum(dim=-1))

    def _before_hidden(self, weights: ToyWeights, inputs: Tensor) -> Tensor:
        n_settings, n_instances, n_hidden, _ = weights.W_in.shape
        product = torch.bmm(weights.W_in.flatten(1, 2), inputs)
        return product.view(n_settings, n_instances, n_hidden, -1)

    def _before_output(self, weights: ToyWeights, hidden: Tensor) -> Tensor:
        n_settings, n_instances = weights.b.shape[:2]
        product = torch.baddbmm(weights.b.flatten(0, 1)[:, :, None], weights.W_out.flatten(0, 1), hidden.flatten(0, 1))
        return product.unflatten(0, (n_settings, n_instances))


def _activate(kind: str, values: Tensor) -> Tensor:
    return _activate_with_slope(kind, values)[0]


def _activate_with_slope(kind: str, values: Tensor) -> tuple[Tensor, Tensor | None]:
    """The activation and its derivative, ``None`` for 1. May write over ``values``."""
    match kind:
        case "linear":
            return values, None
        case "relu":
            values.relu_()
            return values, values > 0
    # Hendrycks & Gimpel 2016, equation 2: x Φ(x), with Φ the normal distribution's; its derivative is Φ(x) + x φ(x).
    below = torch.special.ndtr(values)
    density = torch.exp(-0.5 * values.square()) / math.sqrt(2 * math.pi)
    return values * below, below.addcmul_(values, density)
