"""What every head of a layer does for a model's predictions on text: the loss and the prediction without it, token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_superposition.corpora.batches import TokenBatch
from mi_superposition.errors import RequestError
from mi_superposition.heads.config import HeadReplacement, TextAblationPart
from mi_superposition.heads.forward import Ablation, Done, LayerForward
from mi_superposition.heads.reference import Piece, Reference, pieces_of
from mi_superposition.heads.resampling import ResampledMeans
from mi_superposition.heads.token_classes import TokenClasses

REPLACEMENTS: tuple[HeadReplacement, ...] = ("zero", "mean", "overall mean", "resample")
# Tokens shown before and after one that lost much.
AROUND = (24, 8)


@dataclass(frozen=True)
class LosingToken:
    """A token whose loss rises when a head is ablated, in its text: ``tokens`` from position ``first`` of the document on, and how much the
    loss of each rises (nats; NaN where none is predicted).
    """

    change: float
    document: int
    position: int
    first: int
    tokens: tuple[int, ...]
    changes: tuple[float, ...]

    @property
    def rank(self) -> tuple[float, int]:
        """The largest first, of equal ones the first of the corpus."""
        return (-self.change, self.document)


def layer_ablations(n_heads: int, default: HeadReplacement, *, control: bool = False) -> list[Ablation]:
    """What is measured of a layer: every head and all heads together under every replacement, a random direction in the place of each
    that ``default`` gives, and the whole layer. Of a control ``default`` and the layer alone.
    """
    heads = [*range(n_heads), None]
    done: list[Done] = [default] if control else [*REPLACEMENTS, "random direction"]
    return [*(Ablation(one, head) for one in done for head in heads), Ablation("layer")]


class LayerEffects:
    """Effects of ablations of one layer, as far as a corpus was read; parts of a corpus can be merged.

    ``means`` has a row for the unchanged model, whose quantities are losses, and one for each ablation, whose quantities are changes of
    the loss; in nats a token. Quantities: over all tokens, KL(whole || ablated), and over the tokens of each class. ``examples``: of each
    head under the default replacement, the tokens that lose most, one a document.
    """

    def __init__(
        self,
        ablations: Sequence[Ablation],
        n_classes: int,
        default: HeadReplacement,
        *,
        n_examples: int = TextAblationPart.examples,
        n_resamples: int = TextAblationPart.resamples,
        seed: int = 0,
    ):
        self.ablations, self.default, self.n_examples, self.seed = list(ablations), default, n_examples, seed
        self.means = ResampledMeans(1 + len(ablations), 2 + n_classes, n_resamples=n_resamples, seed=seed)
        self.examples: dict[int, list[LosingToken]] = {
            one.head: [] for one in ablations if one.done == default and one.head is not None
        }

    def of(self, ablation: Ablation) -> int:
        """The row of an ablation in ``means``."""
        return 1 + self.ablations.index(ablation)

    def merge(self, other: LayerEffects) -> None:
        """Add what another one has seen of the same ablations on other documents."""
        self.means.merge(other.means)
        for head, examples in other.examples.items():
            self._keep(head, examples)

    def _keep(self, head: int, examples: Iterable[LosingToken]) -> None:
        kept: dict[tuple[int, ...], LosingToken] = {}
        for one in sorted([*self.examples[head], *examples], key=lambda one: one.rank):
            # Of copies of one text the first.
            kept.setdefault(one.tokens, one)
        self.examples[head] = list(kept.values())[: self.n_examples]

    def state(self) -> dict[str, Any]:
        """For a checkpoint, and for what a worker gives back."""
        examples = {str(head): [list(vars(one).values()) for one in some] for head, some in self.examples.items()}
        return {"means": self.means.state(), "examples": examples}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``state``."""
        self.means.load_state(state["means"])
        self.examples = {
            int(head): [
                LosingToken(change, document, position, first, tuple(tokens), tuple(changes))
                for change, document, position, first, tokens, changes in some
            ]
            for head, some in state["examples"].items()
        }


@torch.no_grad()
def add_documents(
    effects: LayerEffects,
    forward: LayerForward,
    reference: Reference,
    batches: Iterable[TokenBatch],
    classes: TokenClasses,
    on_tokens: Callable[[int], None] = lambda tokens: None,
) -> None:
    """Measure the ablations on documents, each a row of ``batches``. ``on_tokens`` is called with the number of tokens done.

    Raises ``RequestError`` for a model whose logits are not over the tokens that it reads.
    """
    if forward.model.cfg.d_vocab > forward.model.W_U.shape[1]:
        raise RequestError(
            f"the model predicts {forward.model.W_U.shape[1]} of the {forward.model.cfg.d_vocab} tokens that it reads: it has no loss on text"
        )
    for piece in pieces_of(batches, forward.device):
        # The token after each position, where it is one of a document.
        counts = torch.nn.functional.pad(piece.batch.mask[:, 1 : piece.tokens.shape[1]], (0, 1))
        if bool(counts.any()):
            _add_piece(effects, forward, reference, piece, counts, classes)
        on_tokens(int(piece.batch.mask.sum()))


def _add_piece(
    effects: LayerEffects,
    forward: LayerForward,
    reference: Reference,
    piece: Piece,
    counts: Tensor,
    classes: TokenClasses,
) -> None:
    clean = forward.read(piece.tokens, counts)
    documents = piece.batch.document.amax(dim=1).tolist()
    replaced = reference.replacing(clean, documents, effects.default, effects.seed)
    row = counts.nonzero()[:, 0]
    right = piece.tokens[:, 1:][counts[:, :-1]]
    real = torch.arange(piece.tokens.shape[1]) < piece.length[:, None]
    member = classes.of(piece.tokens, real)[:, 1:][counts[:, :-1]]
    everything = torch.ones(len(row), 1, dtype=torch.bool)
    quantities = torch.cat([everything, everything, member], dim=1).double()

    def by_row(values: Float[Tensor, "token ..."]) -> Tensor:
        return torch.zeros(len(documents), *values.shape[1:], dtype=torch.float64).index_add_(0, row, values.double())

    on_device = right.to(forward.device)
    losses = torch.nn.functional.cross_entropy(clean.logits, on_device, reduction="none").cpu().double()
    first = by_row(losses[:, None] * quantities)
    # The divergence of the whole model from itself.
    first[:, 1] = 0
    sums = [first[:, None]]
    at_once = max(1, forward.tokens_at_once // piece.tokens.numel())
    for start in range(0, len(effects.ablations), at_once):
        ablations = effects.ablations[start : start + at_once]
        loss, divergence = (values.cpu() for values in forward.changes(clean, ablations, replaced, on_device))
        changes = loss.T[:, :, None].double() * quantities[:, None]
        changes[:, :, 1] = divergence.T
        sums.append(by_row(changes))
        for one, change in zip(ablations, loss, strict=True):
            if one.done == effects.default and one.head is not None:
                effects._keep(one.head, _losing(change, counts, piece, documents))
    effects.means.update(documents, torch.cat(sums, dim=1), by_row(quantities))


def _losing(change: Float[Tensor, " token"], counts: Tensor, piece: Piece, documents: list[int]) -> list[LosingToken]:
    """Of each row the token whose loss rises most."""
    at = torch.full(counts.shape, float("nan"))
    at[:, 1:][counts[:, :-1]] = change
    found = []
    best = at.nan_to_num(-torch.inf).max(dim=1)
    for row, (value, position) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
        if value > 0:
            # Without a beginning token, which is in no document.
            begins = int(piece.batch.mask[row].int().argmax())
            first = max(begins, position - AROUND[0])
            window = slice(first, min(int(piece.length[row]), position + AROUND[1] + 1))
            place = int(piece.batch.place[row, position])
            tokens, changes = piece.tokens[row, window].tolist(), at[row, window].tolist()
            found.append(
                LosingToken(value, documents[row], place, place - (position - first), tuple(tokens), tuple(changes))
            )
    return found
