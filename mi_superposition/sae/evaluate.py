"""How well reconstructed activations stand for the activations: in themselves, and to the model that reads on from them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.corpora import TokenBatch
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.models import read_hooks
from mi_superposition.sae.files import check_sae
from mi_superposition.streaming import CovarianceAccumulator

# Activations of tokens to their reconstructions, and to what each feature contributed (0: nothing).
Reconstruct = Callable[[Tensor], tuple[Tensor, Tensor]]
Name = TypeVar("Name", bound=Hashable)
# A feature that fires on more of the tokens than this counts as dense.
DENSE = 0.1
# A share of a difference in cross-entropy smaller than this (nats) is a share of noise.
_LEAST_DIFFERENCE = 1e-3
# A reconstruction follows the activations when their covariance is more than this part of the variance; else its length is
# the length of nothing.
_LEAST_FOLLOWED = 1e-4


@dataclass(frozen=True)
class Evaluation:
    """One reconstruction of one hook's activations over all tokens of a text.

    ``l0``: features that take part in a token, on average. ``explained_variance``: 1 - squared error / squared deviation from
    the mean of these tokens; 1 for the activations themselves, 0 for their mean. ``mse``: squared error a token and dimension
    (squared units of the activations). ``cosine``: between activation and reconstruction, on average. ``relative_bias``: the
    factor by which reconstructions are too long, measured from the mean; below 1 they are shrunk (Rajamanoharan et al. 2024,
    equation 10, there measured from 0).

    Cross-entropies, of the next token, are in nats a token: of the model itself (``ce_clean``), with the reconstruction in the
    activations' place (``ce``), with their mean (``ce_mean``) and with zeros (``ce_zero``). ``kl``: from the model's own
    prediction to that with the reconstruction, nats a token. ``fires``: tokens that each feature takes part in.

    ``None`` stands where there is nothing to measure: activations that do not vary, reconstructions that do not follow them,
    losses that were not asked for.
    """

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
        """Share of the cross-entropy lost by putting the mean in the activations' place that the reconstruction keeps: 1 for
        the activations themselves, 0 for the mean. ``None`` where the mean does next to no harm.
        """
        return _share(self.ce_mean, self.ce, self.ce_clean)

    @property
    def recovered_from_zero(self) -> float | None:
        """The same against zeros: larger, as zeros do more harm than the mean."""
        return _share(self.ce_zero, self.ce, self.ce_clean)

    def numbers(self) -> dict[str, float | int]:
        """Every number by its name."""
        found: dict[str, float | int] = {
            name: getattr(self, name) for name in (*_NUMBERS, "dead", "dense") if getattr(self, name) is not None
        }
        return {"tokens": self.n_tokens, "features": len(self.fires), **found}


_NUMBERS = (
    "l0", "explained_variance", "mse", "cosine", "relative_bias", "ce_clean", "ce", "ce_mean", "ce_zero", "recovered",
    "recovered_from_zero", "kl",
)  # fmt: skip


def _share(ablated: float | None, ce: float | None, clean: float | None) -> float | None:
    if ablated is None or ce is None or clean is None or ablated - clean <= _LEAST_DIFFERENCE:
        return None
    return (ablated - ce) / (ablated - clean)


def evaluate_sae(
    model: Any,
    sae: Any,
    batches: Iterable[TokenBatch],
    *,
    hook: str | None = None,
    on_tokens: Callable[[int], None] = lambda tokens: None,
) -> Evaluation:
    """One of SAELens's autoencoders on a text it was not trained on (``Documents(corpus, held_out=True)``).

    ``batches`` come from ``token_batches`` or are a list of its batches: they are read twice. Raises ``RequestError`` for an
    autoencoder of another model, or a text without tokens.
    """
    hook = check_sae(sae, model, hook)
    statistics = activation_statistics(model, batches, hook)
    return evaluate_reconstructions(
        model, batches, hook, {"sae": reconstruct_with(sae)}, statistics.mean.float(), on_tokens=on_tokens
    )["sae"]


def reconstruct_with(sae: Any, most: int | None = None) -> Reconstruct:
    """What an autoencoder makes of activations; with ``most`` of so many features at each token, the most active ones."""

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        acts = sae.encode(x.to(sae.W_dec.device))
        if most is not None and most < acts.shape[1]:
            values, chosen = acts.topk(most, dim=1)
            acts = torch.zeros_like(acts).scatter_(1, chosen, values)
        return sae.decode(acts), acts

    return reconstruct


@torch.no_grad()
def activation_statistics(
    model: Any, batches: Iterable[TokenBatch], hook: str, *, most_tokens: int | None = None
) -> CovarianceAccumulator:
    """Mean and covariance of a hook's activations at the tokens that count, or the first so many of them.

    Raises ``RequestError`` for a text without tokens.
    """
    found: CovarianceAccumulator | None = None
    for batch in batches:
        for piece in batch.pieces(model.W_E.device):
            x = _counted(model, piece, hook)
            if len(x) == 0:
                continue
            if found is None:
                found = CovarianceAccumulator(x.shape[1])
            found.update(x.cpu())
            if most_tokens is not None and found.n >= most_tokens:
                return found
    if found is None:
        raise RequestError("the text gives no tokens: there is nothing to evaluate on")
    return found


@torch.no_grad()
def evaluate_reconstructions(
    model: Any,
    batches: Iterable[TokenBatch],
    hook: str,
    reconstructions: Mapping[Name, Reconstruct],
    mean: Float[Tensor, " d"],
    *,
    losses: bool = True,
    on_tokens: Callable[[int], None] = lambda tokens: None,
) -> dict[Name, Evaluation]:
    """Each reconstruction of a hook's activations, in one pass over a text; ``mean`` is what ablation puts in their place.

    Tokens that do not count (BOS, EOS, padding) keep their activations. A token's cross-entropy counts where it and the next
    one do. Without ``losses`` the model is read only up to the hook. Raises ``RequestError`` for a text without tokens and ``WorkError`` for reconstructions that are not finite.
    """
    device = model.W_E.device
    mean = mean.to(device)
    sums = {name: _Sums(len(mean)) for name in reconstructions}
    whole = _WholeSums(len(mean))
    for batch in batches:
        # Small ones on any device: the model's expectations of all of them are held at once, several times.
        for piece in batch.pieces(torch.device("cpu")):
            if not bool(piece.mask.any()):
                continue
            x = _counted(model, piece, hook)
            whole.add(x)
            expected = _Expected(model, piece, hook, mean) if losses else None
            if expected is not None:
                whole.add_losses(expected)
            for name, reconstruct in reconstructions.items():
                made, acts = reconstruct(x)
                made = made.to(device)
                if not bool(made.isfinite().all()):
                    raise WorkError(f"the reconstructions of {name!r} hold a NaN or an infinity")
                sums[name].add(x, made, acts)
                if expected is not None:
                    sums[name].add_losses(expected, expected.with_values(made))
        on_tokens(int(batch.mask.sum()))
    if whole.n == 0:
        raise RequestError("the text gives no tokens: there is nothing to evaluate on")
    return {name: found.evaluation(hook, whole) for name, found in sums.items()}


class _Expected:
    """What a model expects after each token of a piece: of its own, and with other values in its activations' place."""

    def __init__(self, model: Any, piece: TokenBatch, hook: str, mean: Float[Tensor, " d"]):
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

        with self.model.hooks(fwd_hooks=[] if values is None else [(self.hook, replace)]):
            logits = self.model(self.tokens)
        return logits[:, :-1][self.predicted].float().log_softmax(dim=1)


@dataclass
class _WholeSums:
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
        self.n += len(x)
        self.square += float(x.double().square().sum())
        self.total += x.double().sum(dim=0).cpu()

    def add_losses(self, expected: _Expected) -> None:
        self.n_predicted += len(expected.targets)
        self.ce_clean += expected.nll(expected.clean)
        n = int(expected.mask.sum())
        mean = expected.mean.expand(n, -1)
        self.ce_mean += expected.nll(expected.with_values(mean))
        self.ce_zero += expected.nll(expected.with_values(torch.zeros_like(mean)))

    def a_token(self, total: float) -> float | None:
        """A sum of losses a prediction; ``None`` where there was none."""
        return total / self.n_predicted if self.n_predicted else None

    @property
    def deviation(self) -> float:
        """Sum of squared distances from the mean."""
        return self.square - float(self.total.square().sum()) / self.n


@dataclass
class _Sums:
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
        self.error += float((made - x).double().square().sum())
        self.cosine += float(torch.cosine_similarity(made, x, dim=1).double().sum())
        self.square += float(made.double().square().sum())
        self.product += float((made.double() * x.double()).sum())
        self.total += made.double().sum(dim=0).cpu()
        fires = (acts != 0).sum(dim=0).cpu()
        self.fires = fires if len(self.fires) == 0 else self.fires + fires

    def add_losses(self, expected: _Expected, spliced: Float[Tensor, "prediction d_vocab"]) -> None:
        self.ce += expected.nll(spliced)
        self.kl += float((expected.clean.exp() * (expected.clean - spliced)).double().sum())

    def evaluation(self, hook: str, whole: _WholeSums) -> Evaluation:
        mean = whole.total / whole.n
        along = self.product - float(mean @ self.total)
        long = self.square - 2 * float(mean @ self.total) + whole.n * float(mean.square().sum())
        return Evaluation(
            hook=hook,
            n_tokens=whole.n,
            l0=int(self.fires.sum()) / whole.n,
            explained_variance=1 - self.error / whole.deviation if whole.deviation > 0 else None,
            mse=self.error / (whole.n * whole.d),
            cosine=self.cosine / whole.n,
            relative_bias=long / along if along > _LEAST_FOLLOWED * whole.deviation else None,
            ce_clean=whole.a_token(whole.ce_clean),
            ce=whole.a_token(self.ce),
            ce_mean=whole.a_token(whole.ce_mean),
            ce_zero=whole.a_token(whole.ce_zero),
            kl=whole.a_token(self.kl),
            fires=self.fires,
        )


def _counted(model: Any, piece: TokenBatch, hook: str) -> Float[Tensor, "token d"]:
    """The activations of the tokens that count, on the model's device."""
    found = read_hooks(model, piece.tokens, [hook])[hook]
    return found[piece.mask.to(found.device)].float()
