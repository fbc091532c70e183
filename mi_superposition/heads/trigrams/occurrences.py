"""Where a skip trigram occurs in documents, and what its first token does to the model's logit of the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.heads.trigrams.counting import NEAREST
from mi_superposition.heads.trigrams.edges import FrozenLogits, without_logits
from mi_superposition.models.protocol import HookedModel


@dataclass(frozen=True)
class Occurrence:
    """A before B in a document: positions in its tokens, the beginning token not counted. ``keys``: all copies of A before the query."""

    document: int
    query: int
    keys: tuple[int, ...]


class OccurrenceIndex:
    """Where each token of some documents stands."""

    def __init__(self, documents: Sequence[np.ndarray]):
        self.documents = documents
        number = np.repeat(np.arange(len(documents)), [len(tokens) for tokens in documents])
        flat = np.concatenate(list(documents)) if len(documents) else np.zeros(0, np.int64)
        place = np.concatenate([np.arange(len(tokens)) for tokens in documents]) if len(documents) else flat
        order = np.argsort(flat, kind="stable")
        self._tokens, self._number, self._place = flat[order], number[order], place[order]

    def places(self, token: int) -> dict[int, np.ndarray]:
        """Positions of a token by the documents that have it."""
        first, last = np.searchsorted(self._tokens, [token, token + 1])
        numbers, places = self._number[first:last], self._place[first:last]
        bounds = np.flatnonzero(np.diff(numbers)) + 1
        return {
            int(some[0]): where
            for some, where in zip(np.split(numbers, bounds), np.split(places, bounds), strict=True)
            if len(some)
        }

    def occurrences(self, a: int, b: int, window: int, generator: np.random.Generator, most: int) -> list[Occurrence]:
        """One occurrence, drawn at random, of A ``NEAREST`` to ``window`` tokens before B in each of ``most`` documents drawn at random.

        Whatever follows B: the model's logit is there in any case. Never A right before B: that is a phrase.
        """
        first, second = self.places(a), self.places(b)
        shared = np.array(sorted(first.keys() & second.keys()), dtype=np.int64)
        found: list[Occurrence] = []
        for document in generator.permutation(shared):
            keys, queries = first[int(document)], second[int(document)]
            distance = queries[:, None] - keys[None]
            good = ((distance >= NEAREST) & (distance <= window)).any(1) & ~(distance == 1).any(1)
            if good.any():
                query = int(generator.choice(queries[good]))
                found.append(Occurrence(int(document), query, tuple(int(key) for key in keys[keys < query])))
                if len(found) == most:
                    break
        return found


def replaced(
    tokens: np.ndarray, occurrence: Occurrence, pool: np.ndarray, generator: np.random.Generator
) -> np.ndarray | None:
    """The text up to B with every A in it replaced by one token of the pool that it does not have; ``None`` where it has them all."""
    text = tokens[: occurrence.query + 1].copy()
    fresh = pool[~np.isin(pool, text)]
    if not len(fresh):
        return None
    text[list(occurrence.keys)] = generator.choice(fresh)
    return text


@torch.no_grad()
def logit_changes(
    model: HookedModel,
    logits: FrozenLogits,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    targets: Sequence[int],
    beginning: int | None,
    *,
    tokens_at_once: int = 2048,
) -> Float[Tensor, " pair"]:
    """For every pair of texts of one length, the logit of its target after the first text less that after the second (nats, centred over
    the vocabulary, with the final normalisation of each).
    """
    device = model.W_U.device
    begin = [] if beginning is None else [beginning]
    order = sorted(range(len(pairs)), key=lambda number: len(pairs[number][0]))
    changes = torch.zeros(len(pairs))
    while order:
        width = len(pairs[order[0]][0]) + len(begin)
        some = [order.pop(0)]
        while order and 2 * (len(some) + 1) * (len(pairs[order[0]][0]) + len(begin)) <= tokens_at_once:
            width = len(pairs[order[0]][0]) + len(begin)
            some.append(order.pop(0))
        rows = torch.zeros(2 * len(some), width, dtype=torch.long)
        ends = []
        for row, text in enumerate(text for number in some for text in pairs[number]):
            # What stands in the padding changes nothing before it: the model never looks ahead.
            rows[row, : len(begin) + len(text)] = torch.tensor([*begin, *text.tolist()])
            ends.append(len(begin) + len(text) - 1)
        streams = _streams(model, rows.to(device))[torch.arange(len(rows)), torch.tensor(ends)].float()
        wanted = logits.unembedding[:, [targets[number] for number in some]].T.repeat_interleave(2, dim=0)
        found = ((streams / logits.scale(streams)) * wanted).sum(-1).view(-1, 2)
        changes[some] = (found[:, 0] - found[:, 1]).cpu()
    return changes


def _streams(model: HookedModel, rows: Int[Tensor, "row pos"]) -> Float[Tensor, "row pos d_model"]:
    """The last residual stream."""
    kept: list[Tensor] = []

    def keep(stream: Tensor, hook: object) -> None:  # noqa: ARG001 - TransformerLens passes it by name
        kept.append(stream)

    hook = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    model.run_with_hooks(rows, fwd_hooks=[(hook, keep)], **without_logits(model))
    return kept[0]
