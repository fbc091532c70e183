"""Predictions: the logits of a residual stream's end, and how much worse one prediction is than another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_superposition.heads.kernel import change_sums
from mi_superposition.models.protocol import HookedModel

# Of the logits' standard deviation: the most by which a shorter way may differ from hooks, more than which no rounding makes.
_TOLERANCE = 1e-3
# On a CPU: bytes of logits that are made and read again before the next, which stay in its cache, and the fewest tokens worth a product
# with an unembedding that does not. (With a fourth of it the study takes a fifth longer on two threads: too little work to share out.)
_CACHE_BYTES, _FEWEST = 1 << 23, 512


class Unembedding:
    """The logits of a ``HookedTransformer``'s residual stream after the last layer; hooks are not called.

    The model itself turns its unembedding over each time, which for few tokens takes as long as the product; here it is done once.
    """

    def __init__(self, model: HookedModel):
        # Of a bridge there is no such way.
        self._model: Any = model
        self._weight = model.W_U.detach().T.contiguous()

    @torch.no_grad()
    def __call__(
        self, stream: Float[Tensor, "token d_model"], out: Tensor | None = None
    ) -> Float[Tensor, "token d_vocab"]:
        """Logits (nats), perhaps written into ``out``."""
        cfg = self._model.cfg
        stream = stream if cfg.normalization_type is None else self._model.ln_final(stream)
        logits = torch.addmm(self._model.unembed.b_U, stream, self._weight.T, out=out)
        cap = getattr(cfg, "output_logits_soft_cap", None) or 0
        return logits.div_(cap).tanh_().mul_(cap) if cap > 0 else logits


def picking(model: HookedModel, needed: Bool[Tensor, "batch pos"]) -> tuple[str, Callable[..., Tensor]]:
    """A hook after which a model goes on with the positions that are needed, as one row: after the last attention, from where on no
    position reads another.
    """
    middle, end = (f"blocks.{model.cfg.n_layers - 1}.hook_resid_{part}" for part in ("mid", "post"))

    def pick(stream: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        return stream[needed][None]

    return middle if middle in model.hook_dict else end, pick


def agree(found: Float[Tensor, "token d_vocab"], expected: Float[Tensor, "token d_vocab"]) -> bool:
    """Whether logits differ by no more than rounding."""
    largest = float((found - expected).abs().max())
    return largest <= _TOLERANCE * max(float(expected.std()), 1e-6)


def tokens_in_cache(logits: Float[Tensor, "token d_vocab"]) -> int:
    """How many tokens' logits are best made at once, to be compared with these: on a CPU few, on others all."""
    n_tokens, n_vocab = logits.shape
    if logits.device.type != "cpu":
        return max(1, n_tokens)
    in_cache = _CACHE_BYTES // (4 * n_vocab)
    return in_cache if in_cache >= _FEWEST // 4 else _FEWEST


def prediction_changes(
    logits: Float[Tensor, "token d_vocab"],
    probabilities: Float[Tensor, "token d_vocab"],
    changed: Float[Tensor, "token d_vocab"],
    right: Int[Tensor, " token"],
) -> tuple[Float[Tensor, " token"], Float[Tensor, " token"]]:
    """How much the loss of each token rises when ``logits`` become ``changed``, and KL(before || after) of its prediction, both in nats.

    ``probabilities`` are those before, ``right`` the tokens that follow. With d the change of the logits and p the probabilities before, the
    loss rises by log E_p[e^d] - d[right] and the divergence is log E_p[e^d] - E_p[d]: exact to the precision of d, where the
    difference of two log-probabilities would cancel.
    """
    if logits.device.type == "cpu" and logits.dtype == changed.dtype == torch.float32:
        mean, growth = torch.empty(2, len(logits))
        arrays = (tensor.detach().numpy() for tensor in (logits, probabilities, changed, mean, growth))
        change_sums(*arrays)
    else:
        d = changed - logits
        mean, growth = torch.linalg.vecdot(probabilities, d), torch.linalg.vecdot(probabilities, d.expm1())
    normaliser = growth.log1p()
    if len(over := (~normaliser.isfinite()).nonzero()[:, 0]):
        # Changes of so many nats that their exponentials overflow.
        d = changed[over] - logits[over]
        normaliser[over] = torch.logsumexp(logits[over].log_softmax(dim=1) + d, dim=1)
        mean[over] = torch.linalg.vecdot(probabilities[over], d)
    at = right[:, None]
    return normaliser - (changed.gather(1, at) - logits.gather(1, at))[:, 0], normaliser - mean
