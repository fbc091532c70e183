"""How well reconstructed activations stand for the activations: in themselves, and to the model that reads on from them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from sae_lens import SAE
from torch import Tensor

from mi_superposition.corpora import Given, TokenBatch, as_batches
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.models import read_hooks
from mi_superposition.models.protocol import HookedModel
from mi_superposition.sae.fidelity import Fidelity
from mi_superposition.sae.files import check_sae, target_of
from mi_superposition.sae.sums import Predictions, ReconstructionSums, TextSums
from mi_superposition.streaming import CovarianceAccumulator
from mi_superposition.training import seeded_generator

# Activations of tokens to their reconstructions, and to what each feature contributed (0: nothing).
Reconstruct = Callable[[Tensor], tuple[Tensor, Tensor]]
Name = TypeVar("Name", bound=Hashable)


def evaluate_sae(
    model: HookedModel,
    sae: SAE[Any],
    batches: Given,
    *,
    hook: str | None = None,
    on_tokens: Callable[[int], None] = lambda tokens: None,
) -> Fidelity:
    """One of SAELens's autoencoders on a text it was not trained on (``Documents(corpus, held_out=True)``).

    ``batches``: as for ``scan_neurons``; they are read twice. SAELens's ``run_evals`` gives the
    same L0, explained variance, cosine and cross-entropies on the same tokens; its squared error is summed over dimensions,
    its ablation zeroes the beginning token too, its divergence counts the last position of a row, its bias is measured from 0.

    A transcoder reads ``hook`` and is compared with the activations that it predicts, its ``metadata.hook_name_out``.

    Raises ``RequestError`` for an autoencoder of another model, or a text without tokens.
    """
    hook, batches = check_sae(sae, model, hook), as_batches(model, batches)
    target = target_of(sae, model, hook)
    statistics = activation_statistics(model, batches, target)
    return evaluate_reconstructions(
        model, batches, target, {"sae": reconstruct_with(sae)}, statistics.mean.float(), reads={"sae": hook},
        on_tokens=on_tokens,
    )["sae"]  # fmt: skip


def reconstruct_with(sae: SAE[Any], max_features: int | None = None) -> Reconstruct:
    """What an autoencoder makes of activations; with ``max_features``, of the most active features at each token alone."""

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        acts = sae.encode(x.to(sae.W_dec.device))
        if max_features is not None and max_features < acts.shape[1]:
            values, chosen = acts.topk(max_features, dim=1)
            acts = torch.zeros_like(acts).scatter_(1, chosen, values)
        made = sae.decode(acts)
        # What a skip transcoder adds to its features' sum: a linear map of what it reads.
        skip = getattr(sae, "W_skip", None)
        return (made if skip is None else made + x.to(skip.device) @ skip.T), acts

    return reconstruct


@torch.no_grad()
def activation_statistics(
    model: HookedModel, batches: Iterable[TokenBatch], hook: str, *, most_tokens: int | None = None
) -> CovarianceAccumulator:
    """Mean and covariance of a hook's activations at the tokens that count, or the first so many of them.

    Raises ``RequestError`` for a text without tokens.
    """
    statistics: CovarianceAccumulator | None = None
    for batch in batches:
        for piece in batch.pieces(model.W_E.device):
            x = _counted(model, piece, {hook})[hook]
            if len(x) == 0:
                continue
            if statistics is None:
                statistics = CovarianceAccumulator(x.shape[1])
            statistics.update(x.cpu())
            if most_tokens is not None and statistics.n >= most_tokens:
                return statistics
    if statistics is None:
        raise RequestError("the text gives no tokens: there is nothing to evaluate on")
    return statistics


@torch.no_grad()
def activation_sample(
    model: HookedModel, batches: Iterable[TokenBatch], hook: str, n: int, *, most_tokens: int, seed: int
) -> Float[Tensor, "token d"]:
    """A hook's activations at ``n`` tokens that count, drawn without replacement from the first ``most_tokens`` or somewhat more; all
    where there are fewer. Float32, on the CPU.

    Raises ``RequestError`` for a text without tokens.
    """
    generator = seeded_generator(seed, "sample of activations")
    kept, numbers, seen = torch.zeros(0, 0), torch.zeros(0, dtype=torch.float64), 0
    for batch in batches:
        for piece in batch.pieces(model.W_E.device):
            x = _counted(model, piece, {hook})[hook].cpu()
            if len(x) == 0:
                continue
            # Those with the smallest of as many random numbers.
            drawn = torch.rand(len(x), generator=generator, dtype=torch.float64)
            kept, numbers = torch.cat((kept, x)) if seen else x, torch.cat((numbers, drawn))
            chosen = numbers.topk(min(n, len(numbers)), largest=False).indices
            kept, numbers, seen = kept[chosen], numbers[chosen], seen + len(x)
        if seen >= most_tokens:
            break
    if not seen:
        raise RequestError("the text gives no tokens: there is nothing to evaluate on")
    return kept


@torch.no_grad()
def evaluate_reconstructions(
    model: HookedModel,
    batches: Iterable[TokenBatch],
    hook: str,
    reconstructions: Mapping[Name, Reconstruct],
    mean: Float[Tensor, " d"],
    *,
    reads: Mapping[Name, str] | None = None,
    losses: bool = True,
    on_tokens: Callable[[int], None] = lambda tokens: None,
) -> dict[Name, Fidelity]:
    """Each reconstruction of a hook's activations, in one pass over a text; ``mean`` is what ablation puts in their place.

    ``reads`` names the hook that a reconstruction is made from, where that is another one.

    Tokens that do not count (BOS, EOS, padding) keep their activations. A token's cross-entropy counts where it and the next
    one do. Without ``losses`` the model is read only up to the hook.

    Raises ``RequestError`` for a text without tokens and ``WorkError`` for reconstructions that are not finite.
    """
    device = model.W_E.device
    mean = mean.to(device)
    source = {name: (reads or {}).get(name, hook) for name in reconstructions}
    sums = {name: ReconstructionSums(len(mean)) for name in reconstructions}
    whole = TextSums(len(mean))
    for batch in batches:
        # Small ones on any device: the model's expectations of all of them are held at once, several times.
        for piece in batch.pieces(torch.device("cpu")):
            if not bool(piece.mask.any()):
                continue
            counted = _counted(model, piece, {hook, *source.values()})
            x = counted[hook]
            whole.add(x)
            expected = Predictions(model, piece, hook, mean) if losses else None
            if expected is not None:
                whole.add_losses(expected)
            for name, reconstruct in reconstructions.items():
                made, acts = reconstruct(counted[source[name]])
                made = made.to(device)
                if not bool(made.isfinite().all()):
                    raise WorkError(f"the reconstructions of {name!r} hold a NaN or an infinity")
                sums[name].add(x, made, acts)
                if expected is not None:
                    sums[name].add_losses(expected, expected.with_values(made))
        on_tokens(int(batch.mask.sum()))
    if whole.n == 0:
        raise RequestError("the text gives no tokens: there is nothing to evaluate on")
    return {name: one.fidelity(hook, whole) for name, one in sums.items()}


def _counted(model: HookedModel, piece: TokenBatch, hooks: Collection[str]) -> dict[str, Float[Tensor, "token d"]]:
    """The activations of the tokens that count, by hook, on the model's device."""
    found = read_hooks(model, piece.tokens, hooks)
    return {hook: values[piece.mask.to(values.device)].float() for hook, values in found.items()}
