"""A learner of ``training.py`` whose steps are the compiled ones."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor
from transformer_lens import HookedTransformer

from mi_superposition.addition.fused.backward import adamw, finish
from mi_superposition.addition.fused.kernel import prepare, run_queries
from mi_superposition.addition.fused.layout import Parts, Shared, Weights
from mi_superposition.addition.lookup import check_lookup_form
from mi_superposition.addition.problems import D_VOCAB, D_VOCAB_OUT, n_positions
from mi_superposition.errors import RequestError
from mi_superposition.training import GradientLearner

_EPS = 1e-8


class FusedGradient:
    """The weights of an addition model in one array, and their gradient for a batch of problems.

    The model's parameters become views of ``flat``: it stays the model, and what is done to ``flat`` is done to it.
    Answer digits are shared out to ``threads``; results do not depend on how many.
    """

    def __init__(self, model: HookedTransformer, n_digits: int, *, digit_focus: float = 0.0, threads: int = 1):
        check_lookup_form(model, n_digits)
        cfg = model.cfg
        sizes = {"d_vocab": D_VOCAB, "d_vocab_out": D_VOCAB_OUT, "n_ctx": n_positions(n_digits)}
        for name, wanted in sizes.items():
            if getattr(cfg, name) != wanted:
                raise RequestError(f"{name} = {getattr(cfg, name)}: compiled training needs {wanted}")
        self.model, self.n_digits, self.digit_focus = model, n_digits, digit_focus
        self.threads = min(threads, n_digits + 1)
        self._scale = np.float32(cfg.attn_scale)
        self.flat, self._weights, views = _in_one_array(model)
        self.gradient, self._gradient, self.gradient_views = _in_one_array(model)
        for name, parameter in model.named_parameters():
            views[name].copy_(parameter.detach())
            parameter.data = views[name]
        n_queries, n_inputs, head = n_digits + 1, len(self._weights.inputs), (cfg.d_head, cfg.n_heads)
        of_all = [(n_queries, *head), (n_inputs, *head), (n_inputs, *head), (D_VOCAB_OUT, *head)]
        self._shared = Shared(*_empty((n_queries, cfg.d_model), *of_all, (n_queries, D_VOCAB_OUT)))
        of_each = [(n_queries, *size) for size in [head, *of_all[1:], (D_VOCAB_OUT,)]]
        queries, keys, values, to_logits, direct = _empty(*of_each)
        loss, too_wide = np.empty(n_queries), np.empty(n_queries, np.bool_)
        self._parts = Parts(queries, keys, values, to_logits, direct, loss, too_wide)

    def __call__(self, operands: Int[Tensor, "problem operand_digit"]) -> float | None:
        """Mean cross-entropy (nats), with ``gradient`` set to its gradient; ``None`` where scores are too wide for float32."""
        prepare(self._weights, self._scale, self._shared)
        digits = operands.contiguous().numpy()

        def run(first: int) -> None:
            run_queries(digits, first, self.threads, self._shared, self._parts)

        others = [_pool(self.threads - 1).submit(run, first) for first in range(1, self.threads)]
        run(0)
        for other in others:
            other.result()
        if self._parts.too_wide.any():
            return None
        self.gradient.zero_()
        focus, n_problems = float(self.digit_focus), len(digits)
        return finish(self._weights, self._scale, self._shared, self._parts, focus, n_problems, self._gradient)


class FusedLearner(GradientLearner):
    """``GradientLearner`` of an addition model, for the same loss, gradients and AdamW, by compiled code.

    ``problems(step)`` draws a batch. A step whose scores are too wide for a float32 table is left to ``loss(step)`` and
    autograd. Its state is that of a ``GradientLearner`` with one ``torch.optim.AdamW``: each goes on from the other's.
    """

    def __init__(
        self,
        gradient: FusedGradient,
        problems: Callable[[int], Int[Tensor, "problem operand_digit"]],
        loss: Callable[[int], Tensor],
        learning_rate: Callable[[int], float],
        *,
        betas: tuple[float, float],
        weight_decay: float,
    ):
        # Keeps the state, which is ours to change; its own step is never taken.
        self._adamw = torch.optim.AdamW(gradient.model.parameters(), betas=betas, weight_decay=weight_decay, eps=_EPS)
        super().__init__(gradient.model, [self._adamw], loss, learning_rate)
        self.gradient, self.problems = gradient, problems
        self._mean, _, self._means = _in_one_array(gradient.model)
        self._square, _, self._squares = _in_one_array(gradient.model)
        self._done = 0

    def step(self, step: int) -> None:
        """Descend once."""
        rate = self.learning_rate(step)
        value = self.gradient(self.problems(step))
        if value is None:
            value = self._by_autograd(step)
        self.check(value, step)
        self._done += 1
        (beta1, beta2), decay = self._adamw.defaults["betas"], self._adamw.defaults["weight_decay"]
        adamw(
            self.gradient.flat.numpy(), self.gradient.gradient.numpy(), self._mean.numpy(), self._square.numpy(),
            float(beta1), float(beta2), float(rate), float(decay), _EPS, self._done,
        )  # fmt: skip
        self.count(value)

    def _by_autograd(self, step: int) -> float:
        loss = self.loss(step)
        self.module.zero_grad(set_to_none=True)
        loss.backward()
        for name, parameter in self.module.named_parameters():
            gradient = parameter.grad
            self.gradient.gradient_views[name].copy_(torch.zeros_like(parameter) if gradient is None else gradient)
        self.module.zero_grad(set_to_none=True)
        return loss.item()

    def state(self) -> dict[str, Any]:
        """As of ``GradientLearner``."""
        if self._done:
            for name, parameter in self.module.named_parameters():
                self._adamw.state[parameter] = {
                    "step": torch.tensor(float(self._done)),
                    "exp_avg": self._means[name].contiguous(),
                    "exp_avg_sq": self._squares[name].contiguous(),
                }
        return super().state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to a state of ``state()``, or of a ``GradientLearner`` of the same model."""
        super().load_state(state)
        self._done = 0
        self._mean.zero_()
        self._square.zero_()
        for name, parameter in self.module.named_parameters():
            if kept := self._adamw.state.get(parameter):
                self._means[name].copy_(kept["exp_avg"])
                self._squares[name].copy_(kept["exp_avg_sq"])
                self._done = int(kept["step"])


def _in_one_array(model: HookedTransformer) -> tuple[Tensor, Weights, dict[str, Tensor]]:
    """Zeros for all parameters in one array; its parts as the kernel takes them; and, by name, as the model has them.

    Heads come last, as in the table, so that loops over them run along memory.
    """
    cfg = model.cfg
    n_heads, d_head, d_model = cfg.n_heads, cfg.d_head, cfg.d_model
    width = n_heads * d_head
    sizes = dict(
        inputs=(cfg.d_vocab + cfg.n_ctx, d_model),
        query=(d_model, width),
        key=(d_model, width),
        value=(d_model, width),
        out=(width, d_model),
        query_bias=(width,),
        key_bias=(width,),
        value_bias=(width,),
        out_bias=(d_model,),
        unembed=(cfg.d_vocab_out, d_model),
        unembed_bias=(cfg.d_vocab_out,),
    )
    lengths = [math.prod(size) for size in sizes.values()]
    flat = torch.zeros(sum(lengths))
    parts = {name: part.view(sizes[name]) for name, part in zip(sizes, flat.split(lengths), strict=True)}
    views = {
        "embed.W_E": parts["inputs"][: cfg.d_vocab],
        "pos_embed.W_pos": parts["inputs"][cfg.d_vocab :],
        "blocks.0.attn.W_O": parts["out"].view(d_head, n_heads, d_model).transpose(0, 1),
        "blocks.0.attn.b_O": parts["out_bias"],
        "unembed.W_U": parts["unembed"].t(),
        "unembed.b_U": parts["unembed_bias"],
    }
    for letter, name in [("Q", "query"), ("K", "key"), ("V", "value")]:
        views[f"blocks.0.attn.W_{letter}"] = parts[name].view(d_model, d_head, n_heads).permute(2, 0, 1)
        views[f"blocks.0.attn.b_{letter}"] = parts[f"{name}_bias"].view(d_head, n_heads).t()
    return flat, Weights(**{name: part.numpy() for name, part in parts.items()}), views


def _empty(*sizes: tuple[int, ...]) -> Iterator[NDArray[np.float32]]:
    return (np.empty(size, np.float32) for size in sizes)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay. They take subnormal numbers for zero, as the thread that trains does (``fixed_arithmetic``)."""
    return ThreadPoolExecutor(
        threads, thread_name_prefix="addition", initializer=torch.set_flush_denormal, initargs=(True,)
    )
