"""What an evaluation adds up over a text: errors, losses and firings, batch by batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_superposition.corpora import TokenBatch
from mi_superposition.models.protocol import HookedModel
from mi_superposition.sae.fidelity import Fidelity

# A reconstruction follows the activations when their covariance is more than this part of the variance; else its norm is
# the norm of nothing.
_LEAST_FOLLOWED = 1e-4


class Predictions:
    """What a model expects after each token of a piece: of its own, and with other values in its activations' place."""

    def __init__(self, model: HookedModel, piece: TokenBatch, hook: str, mean: Float[Tensor, " d"]):
        device = model.W_E.device
        self.model, self.hook, self.mean = model, hook, mean
        self.tokens, self.mask = piece.tokens.to(device), piece.mask.to(device)
        self.predicted = self.mask[:, :-1] & self.mask[:, 1:]
        self.predicted &= (piece.document[:, :-1] == piece.document[:, 1:]).to(device)
        self.targets = self.tokens[:, 1:][self.predicted]
        self.clean = self._log_probabilities(None)

    def with_values(self, values: Float[Tensor, "token d"]) -> Float[Tensor, "prediction d_vocab"]:
        """Log-probabilities with these values at the tokens that count."""
        return self._log_probabilities(values)

    def nll(self, log_probabilities: Float[Tensor, "prediction d_vocab"]) -> float:
        """Sum over predictions of the surprise at what came (nats)."""
        return -float(log_probabilities.gather(1, self.targets[:, None]).double().sum())

    def _log_probabilities(self, values: Tensor | None) -> Float[Tensor, "prediction d_vocab"]:
        def replace(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            assert values is not None
            replaced = activation.clone()
            replaced[self.mask] = values.to(activation.dtype).unflatten(1, activation.shape[2:])
            return replaced

        hooks = [] if values is None else [(self.hook, replace)]
        logits = self.model.run_with_hooks(self.tokens, fwd_hooks=hooks)
        return logits[:, :-1][self.predicted].float().log_softmax(dim=1)


@dataclass
class TextSums:
    """What does not depend on the reconstruction."""

    d: int
    n: int = 0
    n_predicted: int = 0
    ce_clean: float = 0.0
    ce_mean: float = 0.0
    ce_zero: float = 0.0
    square: float = 0.0
    total: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.total = torch.zeros(self.d, dtype=torch.float64)

    def add(self, x: Float[Tensor, "token d"]) -> None:
        """Activations of some tokens."""
        self.n += len(x)
        self.square += float(x.double().square().sum())
        self.total += x.double().sum(dim=0).cpu()

    def add_losses(self, expected: Predictions) -> None:
        """The model's own loss, and what ablations make of it."""
        self.n_predicted += len(expected.targets)
        self.ce_clean += expected.nll(expected.clean)
        n = int(expected.mask.sum())
        mean = expected.mean.expand(n, -1)
        self.ce_mean += expected.nll(expected.with_values(mean))
        self.ce_zero += expected.nll(expected.with_values(torch.zeros_like(mean)))

    def per_prediction(self, total: float) -> float | None:
        """A sum of losses, per prediction; ``None`` where there was none."""
        return total / self.n_predicted if self.n_predicted else None

    @property
    def deviation(self) -> float:
        """Sum of squared distances from the mean."""
        return self.square - float(self.total.square().sum()) / self.n


@dataclass
class ReconstructionSums:
    """What one reconstruction adds up to."""

    d: int
    error: float = 0.0
    cosine: float = 0.0
    square: float = 0.0
    product: float = 0.0
    ce: float = 0.0
    kl: float = 0.0
    total: Tensor = field(init=False)
    fires: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))

    def __post_init__(self) -> None:
        self.total = torch.zeros(self.d, dtype=torch.float64)

    def add(
        self, x: Float[Tensor, "token d"], made: Float[Tensor, "token d"], acts: Float[Tensor, "token feature"]
    ) -> None:
        """Activations of some tokens, their reconstructions, and what each feature contributed."""
        self.error += float((made - x).double().square().sum())
        self.cosine += float(torch.cosine_similarity(made, x, dim=1).double().sum())
        self.square += float(made.double().square().sum())
        self.product += float((made.double() * x.double()).sum())
        self.total += made.double().sum(dim=0).cpu()
        fires = (acts != 0).sum(dim=0).cpu()
        self.fires = fires if len(self.fires) == 0 else self.fires + fires

    def add_losses(self, expected: Predictions, spliced: Float[Tensor, "prediction d_vocab"]) -> None:
        """The loss with the reconstructions in the activations' place."""
        self.ce += expected.nll(spliced)
        self.kl += float((expected.clean.exp() * (expected.clean - spliced)).double().sum())

    def fidelity(self, hook: str, whole: TextSums) -> Fidelity:
        """All numbers of the text."""
        mean = whole.total / whole.n
        along = self.product - float(mean @ self.total)
        long = self.square - 2 * float(mean @ self.total) + whole.n * float(mean.square().sum())
        return Fidelity(
            hook=hook,
            n_tokens=whole.n,
            l0=int(self.fires.sum()) / whole.n,
            explained_variance=1 - self.error / whole.deviation if whole.deviation > 0 else None,
            mse=self.error / (whole.n * whole.d),
            cosine=self.cosine / whole.n,
            relative_bias=long / along if along > _LEAST_FOLLOWED * whole.deviation else None,
            ce_clean=whole.per_prediction(whole.ce_clean),
            ce=whole.per_prediction(self.ce),
            ce_mean=whole.per_prediction(whole.ce_mean),
            ce_zero=whole.per_prediction(whole.ce_zero),
            kl=whole.per_prediction(self.kl),
            fires=self.fires,
        )
