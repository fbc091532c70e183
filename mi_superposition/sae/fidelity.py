"""How well reconstructed activations stand for the activations: the numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
from jaxtyping import Int
from torch import Tensor

from mi_superposition.results import Result

# A feature that fires on more of the tokens than this counts as dense.
DENSE = 0.1
# A fraction of a difference in cross-entropy smaller than this (nats) is a fraction of noise.
_LEAST_DIFFERENCE = 1e-3


@dataclass(frozen=True, repr=False)
class Fidelity(Result):
    """One reconstruction of one hook's activations over all tokens of a text.

    ``l0``: features that take part in a token, on average. ``explained_variance``: 1 - squared error / squared deviation from
    the mean of these tokens; 1 for the activations themselves, 0 for their mean. ``mse``: squared error per token and dimension
    (squared units of the activations). ``cosine``: between activation and reconstruction, on average. ``relative_bias``: the
    factor by which reconstructions are too long, measured from the mean; below 1 they are shrunk (Rajamanoharan et al. 2024,
    equation 10, there measured from 0).

    Cross-entropies, of the next token, are in nats per token: of the model itself (``ce_clean``), with the reconstruction in the
    activations' place (``ce``), with their mean (``ce_mean``) and with zeros (``ce_zero``). ``kl``: from the model's own
    prediction to that with the reconstruction, nats per token. ``fires``: tokens that each feature takes part in.

    ``None`` stands where there is nothing to measure: activations that do not vary, reconstructions that do not follow them,
    losses that were not asked for.
    """

    DRAWN_BY: ClassVar[str] = "mi_superposition.pages.sae.features:density_figure"

    hook: str
    n_tokens: int
    l0: float
    explained_variance: float | None
    mse: float
    cosine: float
    relative_bias: float | None
    ce_clean: float | None
    ce: float | None
    ce_mean: float | None
    ce_zero: float | None
    kl: float | None
    fires: Int[Tensor, " feature"]

    @property
    def dead(self) -> int:
        """Features that never fired."""
        return int((self.fires == 0).sum())

    @property
    def dense(self) -> int:
        """Features that fired on more than a tenth of the tokens."""
        return int((self.fires > DENSE * self.n_tokens).sum())

    @property
    def recovered(self) -> float | None:
        """Fraction of the cross-entropy lost by mean ablation that the reconstruction keeps: 1 for the activations themselves, 0
        for the mean. ``None`` where mean ablation does next to no harm.
        """
        return _fraction(self.ce_mean, self.ce, self.ce_clean)

    @property
    def recovered_from_zero(self) -> float | None:
        """The same against zeros: larger, as zeros do more harm than the mean."""
        return _fraction(self.ce_zero, self.ce, self.ce_clean)

    def numbers(self) -> dict[str, float | int]:
        """Every number by its name."""
        found: dict[str, float | int] = {
            name: getattr(self, name) for name in (*_NUMBERS, "dead", "dense") if getattr(self, name) is not None
        }
        return {"tokens": self.n_tokens, "features": len(self.fires), **found}

    def summary(self) -> str:
        """Explained variance and cross-entropy, between those of the model and of mean ablation."""
        explained = (
            "nothing varies" if self.explained_variance is None else f"{self.explained_variance:.3f} of the variance"
        )
        losses = (
            f"; cross-entropy {self.ce:.3f} nats per token (model {self.ce_clean:.3f}, mean ablation {self.ce_mean:.3f})"
            if self.ce is not None
            else ""
        )
        return f"{self.hook}, {self.n_tokens:,} tokens: {explained} at L0 {self.l0:.1f}, {self.dead:,} of {len(self.fires):,} features dead{losses}"

    def to_frame(self) -> pd.DataFrame:
        """One row per feature: on how many tokens it is active, and on what fraction of them."""
        tokens = self.fires.tolist()
        density = [n / self.n_tokens for n in tokens]
        return pd.DataFrame({"tokens": tokens, "density": density}).rename_axis("feature")


_NUMBERS = (
    "l0", "explained_variance", "mse", "cosine", "relative_bias", "ce_clean", "ce", "ce_mean", "ce_zero", "recovered",
    "recovered_from_zero", "kl",
)  # fmt: skip


def _fraction(ablated: float | None, ce: float | None, clean: float | None) -> float | None:
    if ablated is None or ce is None or clean is None or ablated - clean <= _LEAST_DIFFERENCE:
        return None
    return (ablated - ce) / (ablated - clean)
