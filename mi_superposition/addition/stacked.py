"""Many addition models trained at once: the lookup form with one more axis, each model with its own recipe.

A single model's step is mostly overhead. Here the weights of all models are stacked and one step trains them all. The arithmetic is that of
``lookup_logits`` (the tests compare them), the optimizer AdamW. Ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

_EQUALS = 10
# As in `lookup.py`: the largest weight of each head and query is exp(40); the least denominator that is divided by.
_TOP_SCORE, _LEAST = 40.0, 1e-30

Weights = dict[str, Tensor]


def stack_weights(states: list[Mapping[str, Tensor]]) -> Weights:
    """The parameters of several one-layer models by their last name (``W_Q``, ``b_U`` ...), stacked: ``[model, ...]``."""
    names = {name: name.rsplit(".", 1)[-1] for name in states[0]}
    wanted = ("W_E", "W_pos", "W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O", "W_U", "b_U")
    return {short: torch.stack([state[name] for state in states]) for name, short in names.items() if short in wanted}


def stacked_tables(weights: Weights) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The table of each model: ``[model, position_digit, query * (1 + d_head) * head]`` with its constant row, the matrix from heads to
    logits ``[model, d_head * head, value]``, and the direct logits ``[model, query, value]``."""
    n_queries = (weights["W_pos"].shape[1] + 2) // 3
    n_operands = weights["W_pos"].shape[1] - n_queries
    digits = (weights["W_pos"][:, :n_operands, None] + weights["W_E"][:, None, :10]).flatten(1, 2)
    queries = weights["W_pos"][:, n_operands:] + weights["W_E"][:, None, _EQUALS]
    keys = torch.cat([digits, queries], dim=1)
    n_models, n_heads, _, d_head = weights["W_Q"].shape

    def project(inputs: Tensor, name: str) -> Tensor:
        weight = weights[f"W_{name}"].permute(0, 2, 3, 1).flatten(2)
        bias = weights[f"b_{name}"].transpose(1, 2).flatten(1)
        return torch.baddbmm(bias[:, None], inputs, weight).view(n_models, -1, d_head, n_heads)

    query = project(queries, "Q") / math.sqrt(d_head)
    key, value = project(keys, "K"), project(keys, "V")
    scores = (key[:, :, None] * query[:, None]).sum(dim=3)
    later = torch.ones(n_queries, n_queries, dtype=torch.bool, device=scores.device).tril(-1)
    future = torch.cat([later.new_zeros(n_operands * 10, n_queries), later])
    scores = scores.masked_fill(future[None, :, :, None], -torch.inf)
    weight = (scores + (_TOP_SCORE - scores.detach().amax(dim=1, keepdim=True))).exp()
    weight = weight.unsqueeze(3)
    table = torch.cat([weight, weight * value[:, :, None]], dim=3).flatten(2)
    operand_rows, equals_rows = table.split([n_operands * 10, n_queries], dim=1)
    to_logits = weights["W_O"].permute(0, 2, 1, 3).flatten(1, 2) @ weights["W_U"]
    direct = torch.baddbmm(weights["b_U"][:, None], queries + weights["b_O"][:, None], weights["W_U"])
    return operand_rows, equals_rows.sum(dim=1, keepdim=True), to_logits, direct


def _divide(sums: Tensor) -> tuple[Tensor, Tensor]:
    inverse = sums[:, :, :, :1].clamp_min(_LEAST).reciprocal()
    return sums[:, :, :, 1:] * inverse, inverse


def _undivide(grad: Tensor, inverse: Tensor, z: Tensor) -> Tensor:
    numerator = grad * inverse
    return torch.cat([-(numerator * z).sum(dim=3, keepdim=True), numerator], dim=3)


class _RatioOfSums(torch.autograd.Function):
    """As in ``lookup.py``, for stacked models. On a GPU the products run on its tensor cores: the one-hot rows are exact there, and the
    table is split into two parts that together keep 22 bits; only the gradient of the table is rounded to eleven."""

    @staticmethod
    def forward(ctx, one_hot: Tensor, table: Tensor, constant: Tensor, shape: tuple[int, int, int]) -> Tensor:
        if table.is_cuda:
            high = (table.view(torch.int32) & -8192).view(torch.float32)
            rows = torch.cat([high, table - high], dim=1)
            with _TensorCores():
                sums = torch.bmm(torch.cat([one_hot, one_hot], dim=2), rows).add_(constant)
        else:
            sums = torch.baddbmm(constant, one_hot, table)
        z, inverse = _divide(sums.view(*sums.shape[:2], *shape))
        ctx.save_for_backward(one_hot, inverse, z)
        return z

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[None, Tensor, Tensor, None]:
        one_hot, inverse, z = ctx.saved_tensors
        flat = _undivide(grad_outputs[0], inverse, z).flatten(2)
        with _TensorCores():
            grad_table = torch.bmm(one_hot.transpose(1, 2), flat)
        # Every problem has one digit at the first position, so its ten rows sum to the gradient of the constant.
        return None, grad_table, grad_table[:, :10].sum(dim=1, keepdim=True), None


class _TensorCores:
    """Inside, products on a GPU are rounded to 11 bits on their way in (TF32)."""

    def __enter__(self) -> None:
        self.before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = True

    def __exit__(self, *_: object) -> None:
        torch.backends.cuda.matmul.allow_tf32 = self.before


def stacked_logits(
    weights: Weights, operands: Int[Tensor, "model problem operand_digit"]
) -> Float[Tensor, "model problem digit value"]:
    """Logits (nats) of every model's own problems, ones first."""
    table, constant, to_logits, direct = stacked_tables(weights)
    n_models, n_problems, n_operands = operands.shape
    d_head, n_heads = weights["W_Q"].shape[3], weights["W_Q"].shape[1]
    one_hot = torch.zeros(n_models, n_problems, n_operands, 10, device=operands.device)
    one_hot.scatter_(3, operands[..., None], 1.0)
    shape = (n_operands // 2 + 1, 1 + d_head, n_heads)
    z = _RatioOfSums.apply(one_hot.flatten(2), table, constant, shape)
    from_heads = torch.bmm(z.reshape(n_models, -1, d_head * n_heads), to_logits)
    return from_heads.view(n_models, n_problems, shape[0], -1) + direct[:, None]


def right_digits(operands: Int[Tensor, "*batch operand_digit"]) -> Int[Tensor, "*batch digit"]:
    """The digits of the sums, ones first."""
    n_digits = operands.shape[-1] // 2
    sums = operands[..., :n_digits] + operands[..., n_digits:]
    carry, found = torch.zeros_like(sums[..., 0]), []
    for column in range(n_digits):
        total = sums[..., column] + carry
        carry = (total > 9).to(total.dtype)
        found.append(total - 10 * carry)
    return torch.stack([*found, carry], dim=-1)


def stacked_loss(
    logits: Float[Tensor, "model problem digit value"], right: Int[Tensor, "model problem digit"]
) -> Float[Tensor, " model"]:
    """Mean cross-entropy (nats) of each model."""
    by_answer = F.cross_entropy(logits.flatten(0, 2), right.flatten(), reduction="none")
    return by_answer.view(len(right), -1).mean(dim=1)


class StackedAdamW:
    """AdamW whose rates differ from model to model. All weights lie in one array ``[model, weight]``, of which ``weights`` are views, so
    that an update is a handful of operations."""

    def __init__(self, weights: Weights, beta1: float, beta2: Tensor, weight_decay: Tensor, eps: float = 1e-8):
        self.flat = torch.cat([value.detach().flatten(1) for value in weights.values()], dim=1)
        self.weights, at = {}, 0
        for name, value in weights.items():
            n = value[0].numel()
            self.weights[name] = self.flat[:, at : at + n].view(value.shape).requires_grad_()
            at += n
        self.beta1, self.beta2, self.weight_decay, self.eps = beta1, beta2[:, None], weight_decay[:, None], eps
        self.mean, self.square = torch.zeros_like(self.flat), torch.zeros_like(self.flat)

    @torch.no_grad()
    def step(self, loss: Float[Tensor, " model"], rate: Float[Tensor, " model"], done: Float[Tensor, ""]) -> None:
        """One update against the gradient of each model's loss; ``done`` is how many were made with this one."""
        with torch.enable_grad():
            grads = torch.autograd.grad(loss.sum(), list(self.weights.values()))
        grad = torch.cat([one.flatten(1) for one in grads], dim=1)
        self.mean.lerp_(grad, 1 - self.beta1)
        self.square.mul_(self.beta2).addcmul_(grad, grad * (1 - self.beta2))
        denominator = (self.square / (1 - self.beta2**done)).sqrt_().add_(self.eps)
        self.flat.mul_(1 - rate[:, None] * self.weight_decay)
        self.flat.sub_(self.mean / denominator * (rate[:, None] / (1 - self.beta1**done)))
