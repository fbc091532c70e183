"""What a sparse autoencoder's training is made of. Imports no torch, so the command line can show it at once."""

from __future__ import annotations

from dataclasses import dataclass

from mi_superposition.errors import RequestError

ARCHITECTURES = ("standard", "topk", "batchtopk", "jumprelu", "gated", "matryoshka")
BY_K = ("topk", "batchtopk", "matryoshka")
NORMALIZATIONS = ("none", "expected_average_only_in", "layer_norm")
# Weight of the sparsity loss where none is given, for architectures that have one (ours: about 20 to 60 features active on
# the bundled model's residual stream).
_USUAL_SPARSITY = {"standard": 2.0, "gated": 2.0, "jumprelu": 2.0}


@dataclass(frozen=True)
class SaeConfig:
    """One sparse autoencoder, in SAELens's terms.

    ``k``: features active for each token, for ``topk``, ``batchtopk`` and ``matryoshka`` (whose nested widths are d_sae / 8,
    / 4, / 2 and 1). ``sparsity``: weight of the L1 (``standard``, ``gated``) or L0 (``jumprelu``) loss. ``normalize``: how
    activations are scaled before the autoencoder reads them, as in SAELens; ``expected_average_only_in`` is folded into its
    weights at the end.
    ``dead_after``: a feature that did not fire in so many steps counts as dead.
    """

    architecture: str = "topk"
    d_sae: int = 2048
    k: int = 32
    sparsity: float | None = None
    normalize: str = "expected_average_only_in"
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    decay_share: float = 0.2
    dead_after: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("architecture", ARCHITECTURES), ("normalize", NORMALIZATIONS)):
            if getattr(self, name) not in known:
                raise RequestError(f"{name} = {getattr(self, name)!r}: give {', '.join(map(repr, known))}")
        for name in ("d_sae", "k", "dead_after"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name} = {getattr(self, name)}: must be at least 1")
        if self.warmup_steps < 0:
            raise RequestError(f"warmup_steps = {self.warmup_steps}: must be 0 or more")
        if not 0 <= self.decay_share < 1:
            raise RequestError(f"decay_share = {self.decay_share}: must be 0 or more and below 1")
        if not 0 < self.learning_rate < float("inf"):
            raise RequestError(f"learning_rate = {self.learning_rate}: must be above 0")
        if not 0 <= self.seed < 2**63:
            raise RequestError(f"seed = {self.seed}: must be 0 to {2**63 - 1}")
        if self.architecture in BY_K:
            if self.k > self.d_sae:
                raise RequestError(f"k = {self.k}: there are only {self.d_sae} features")
            if self.sparsity is not None:
                raise RequestError(f"sparsity = {self.sparsity}: {self.architecture!r} is made sparse by k alone")
        elif self.sparsity is None:
            object.__setattr__(self, "sparsity", _USUAL_SPARSITY[self.architecture])
        if self.sparsity is not None and not 0 <= self.sparsity < float("inf"):
            raise RequestError(f"sparsity = {self.sparsity}: must be 0 or more")
        if self.architecture == "matryoshka" and self.d_sae // 8 < self.k:
            raise RequestError(
                f"d_sae = {self.d_sae}: the smallest of four nested widths, an eighth, must hold k = {self.k}"
            )
        if self.normalize == "layer_norm" and self.architecture in BY_K:
            raise RequestError(
                f"normalize = 'layer_norm': SAELens's {self.architecture!r} revives dead features only without it"
            )
