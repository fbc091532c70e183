"""Whether a loaded model is the one that transformers reads: both compute the log-probabilities of a few tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Positions compared of every model, and how many more than the first that a window or a scaled rotary embedding changes.
_POSITIONS, _BEYOND = 32, 16
# Positions times parameters, beyond which later positions are left out: a minute of a large model on a laptop.
_MOST_WORK = 2e11
# The largest root-mean-square difference at a position over the logits' standard deviation. Rounding stays far below; the smallest of
# the wrong models that tests/models/test_architectures.py has is far above.
_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 0.1}


@dataclass(frozen=True)
class LoadCheck:
    """How near a loaded model is to transformers on a few random tokens.

    ``difference`` is the largest difference of a log-probability (nats), ``position_difference`` the largest root mean square of them at
    a position, ``logit_sd`` the standard deviation of the logits of transformers over the vocabulary (mean of positions), all over
    ``positions`` positions. ``unchecked_from``: the first position at which a window or a scaled rotary embedding would show and which
    was not compared, as that would take too long; ``None`` where all was compared. ``implementation``: ``"HookedTransformer"`` or
    ``"TransformerBridge"``.
    """

    implementation: str
    positions: int
    difference: float
    position_difference: float
    logit_sd: float
    unchecked_from: int | None

    def passed(self, dtype: torch.dtype) -> bool:
        """Whether the differences are those of rounding in this precision."""
        # Of a difference that is no number this is false.
        return self.position_difference <= _TOLERANCE[dtype] * (0 if math.isnan(self.logit_sd) else self.logit_sd)


class Probe:
    """What transformers says of a few tokens, to be compared with what a loaded model says of them.

    ``network`` is transformers' model, on the CPU and in eval mode; ``n_ctx`` is the longest text that the loaded model reads.
    """

    def __init__(self, network: Any, settings: dict[str, Any], n_ctx: int):
        wanted = min(n_ctx, max([_POSITIONS, *(first + _BEYOND for first in special_positions(settings))]))
        parameters = sum(parameter.numel() for parameter in network.parameters())
        affordable = max(_POSITIONS, int(_MOST_WORK / parameters))
        self.unchecked_from = affordable if wanted > affordable else None
        n_tokens = network.get_input_embeddings().num_embeddings
        generator = torch.Generator().manual_seed(0)
        self.tokens: Int[Tensor, "1 pos"] = torch.randint(n_tokens, (1, min(wanted, affordable)), generator=generator)
        logits = self._logits(lambda tokens: network(tokens).logits)
        self.logit_sd = float(logits.std(dim=-1).nanmean())
        self._expected = logits.log_softmax(dim=-1)

    @torch.no_grad()
    def check(self, model: Callable[[Tensor], Tensor], implementation: str) -> LoadCheck:
        """How near ``model``, on the CPU, comes."""
        found = self._logits(model)
        if found.shape == self._expected.shape:
            differences = found.log_softmax(dim=-1) - self._expected
            # A model of weights that are no numbers is one all the same.
            differences[found.isnan() & self._expected.isnan()] = 0
            largest = float(differences.abs().max())
            at_position = float(differences.square().mean(dim=-1).max().sqrt())
        else:
            largest = at_position = math.inf
        return LoadCheck(implementation, self.tokens.shape[1], largest, at_position, self.logit_sd, self.unchecked_from)

    @torch.no_grad()
    def _logits(self, model: Callable[[Tensor], Tensor]) -> Float[Tensor, "pos d_vocab"]:
        return model(self.tokens)[0].double()


def special_positions(settings: dict[str, Any]) -> Iterator[int]:
    """First positions that a configuration of transformers treats unlike those before: after a window of attention, and after the
    context that a scaled rotary embedding was trained with.
    """
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from special_positions(value)
        elif name in ("sliding_window", "window_size", "original_max_position_embeddings") and isinstance(value, int):
            yield value
