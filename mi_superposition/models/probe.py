"""Whether a loaded model is the one that transformers reads: both compute the log-probabilities of a few tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.errors import WorkError

# Positions compared of every model, and how many more than the first that a window or a scaled rotary embedding changes.
_POSITIONS, _BEYOND = 32, 16
# Positions times parameters above which later positions are left out.
_MOST_WORK = 2e11
# The largest root-mean-square difference at a position over the logits' standard deviation. In single precision rounding gives about
# a thousandth of it; in half precision small differences, such as of two kinds of GELU, pass.
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
        return self.position_difference <= _TOLERANCE[dtype] * self.logit_sd


class Probe:
    """What transformers says of a few tokens, to be compared with what a loaded model says of them.

    ``network`` is transformers' model, on the CPU and in eval mode; ``n_ctx`` is the longest text that the loaded model reads. Raises
    ``WorkError`` for logits of transformers that are not finite.
    """

    def __init__(self, network: Any, n_ctx: int):
        special = [first for first in special_positions(network.config.to_dict()) if first < n_ctx]
        wanted = min(n_ctx, max([_POSITIONS, *(first + _BEYOND for first in special)]))
        parameters = sum(parameter.numel() for parameter in network.parameters())
        n_positions = min(wanted, max(_POSITIONS, int(_MOST_WORK / parameters)))
        self.unchecked_from = min((first for first in special if first >= n_positions), default=None)
        n_tokens = network.get_input_embeddings().num_embeddings
        generator = torch.Generator().manual_seed(0)
        self.tokens: Int[Tensor, "1 pos"] = torch.randint(n_tokens, (1, n_positions), generator=generator)
        self._expected = self._logits(lambda tokens: network(tokens).logits)
        if not bool(self._expected.isfinite().all()):
            weight = next((name for name, one in network.named_parameters() if not bool(one.isfinite().all())), None)
            where = "they overflow" if weight is None else f"{weight} holds such numbers"
            raise WorkError(f"transformers reads NaN or infinity as the model's logits: {where}")
        self.logit_sd = float(torch.stack([row.double().std() for row in self._expected]).mean())

    def check(self, model: Callable[[Tensor], Tensor], implementation: str) -> LoadCheck:
        """How near ``model``, on the CPU, comes."""
        found = self._logits(model)
        largest, at_position = [0.0], [0.0]
        if found.shape != self._expected.shape:
            largest, at_position = [math.inf], [math.inf]
        # A position at a time: vocabularies are large, and both models are in memory.
        for ours, theirs in zip(found, self._expected, strict=False):
            if ours.shape != theirs.shape:
                break
            differences = ours.double().log_softmax(dim=0) - theirs.double().log_softmax(dim=0)
            largest.append(float(differences.abs().max()))
            at_position.append(float(differences.square().mean().sqrt()))
        # The maximum of torch keeps what is no number, that of Python need not.
        return LoadCheck(
            implementation, self.tokens.shape[1], float(torch.tensor(largest).max()), float(torch.tensor(at_position).max()),
            self.logit_sd, self.unchecked_from,
        )  # fmt: skip

    @torch.no_grad()
    def _logits(self, model: Callable[[Tensor], Tensor]) -> Float[Tensor, "pos d_vocab"]:
        return model(self.tokens)[0]


def special_positions(settings: Mapping[Any, Any]) -> Iterator[int]:
    """First positions that a configuration of transformers treats unlike those before: after a window of attention, and after the
    context that a scaled rotary embedding was trained with.
    """
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from special_positions(value)
        elif name in ("sliding_window", "window_size", "original_max_position_embeddings") and isinstance(value, int):
            yield value
