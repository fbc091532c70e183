"""Which heads carry each feature: its attention edge cut head by head, averaged over documents, and what that does to other features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.heads.trigrams.config import Cut
from mi_superposition.heads.trigrams.counting import NEAREST
from mi_superposition.heads.trigrams.edges import DocumentEdges, FrozenLogits, Method
from mi_superposition.heads.trigrams.features import Located, standard_error
from mi_superposition.models.protocol import HookedModel

# What a cut reaches the logits by, in the order of the first axis of ``EdgeTable.mean``.
PARTS = ("total", "mlps frozen", "direct")
# Pairs of features whose edges are compared: of the first the edge is cut, the second's logit is looked at.
KINDS = ("both in the text", "same A, other B", "nothing in common")


@dataclass(frozen=True)
class EdgeTable:
    """Effects of edges on their feature's logit (nats, as in ``EdgeEffects``), over the documents of each feature.

    ``mean`` and its standard ``error``: [part, feature, head], parts as in ``PARTS``, the last head being all heads at once. ``halves``:
    means of the total over two sets of documents that share none, [half, feature, head].
    """

    trigrams: Int[Tensor, "feature 3"]
    n_documents: Int[Tensor, " feature"]
    mean: Float[Tensor, "3 feature head"]
    error: Float[Tensor, "3 feature head"]
    halves: Float[Tensor, "2 feature head"]

    @property
    def heads(self) -> Float[Tensor, "feature one_head"]:
        """Total effect of each head by itself."""
        return self.mean[0, :, :-1]

    @property
    def together(self) -> Float[Tensor, " feature"]:
        """Total effect of all heads at once."""
        return self.mean[0, :, -1]


@dataclass(frozen=True)
class FeatureEdges:
    """One feature: effects in each document, [document, part, head]; and, of the cut of all heads at once, on every target's logit,"""

    own: Float[Tensor, "document 3 head"]
    others: Float[Tensor, "document target"]


@dataclass(frozen=True)
class Interference:
    """What cutting one feature's edge in all heads does to another's logit, by the kind of pair (``KINDS``). Over first features with such
    a pair: ``own``, what the cut does to its own logit; ``other``, to the other's, both the mean of magnitudes of means over documents;
    ``slope``, other over own by least squares (1: the same edge raises both alike; 0: not at all), with its standard ``error``.
    """

    n_pairs: list[int]
    n_features: list[int]
    own: list[float]
    other: list[float]
    slope: list[float]
    error: list[float]


def measure_feature(
    model: HookedModel,
    logits: FrozenLogits,
    documents: Sequence[np.ndarray],
    located: Located,
    targets: Sequence[int],
    beginning: int | None,
    *,
    cut: Cut = "zero",
    method: Method = "auto",
) -> FeatureEdges:
    """Cut the edges of one feature in each of its measuring documents."""
    shift = int(beginning is not None)
    wanted = torch.tensor([located.trigram[2], *targets])
    own, others = [], []
    for occurrence in located.measuring:
        text = documents[occurrence.document][: occurrence.query + 1]
        tokens = torch.tensor([*([beginning] if shift else []), *text.tolist()])
        edges = DocumentEdges(model, tokens, logits, method=method)
        keys = [key + shift for key in occurrence.keys]
        found = edges.effects(occurrence.query + shift, keys, wanted, cut=cut)
        own.append(torch.stack([found.total[:, 0], found.mlps_frozen[:, 0], found.direct[:, 0]]))
        others.append(found.total[-1, 1:])
    return FeatureEdges(torch.stack(own), torch.stack(others))


def edge_table(located: Sequence[Located], measured: Sequence[FeatureEdges], n_heads: int) -> EdgeTable:
    """Means over documents."""
    if not located:
        empty = torch.zeros(3, 0, n_heads + 1)
        return EdgeTable(
            torch.zeros(0, 3, dtype=torch.long),
            torch.zeros(0, dtype=torch.long),
            empty,
            empty.clone(),
            empty[:2].clone(),
        )
    return EdgeTable(
        trigrams=torch.tensor([one.trigram for one in located]),
        n_documents=torch.tensor([len(one.own) for one in measured]),
        mean=torch.stack([one.own.mean(0) for one in measured], dim=1),
        error=torch.stack([standard_error(one.own) for one in measured], dim=1),
        halves=torch.stack([torch.stack([one.own[half::2, 0].mean(0) for one in measured]) for half in (0, 1)]),
    )


def interference(
    documents: Sequence[np.ndarray],
    located: Sequence[Located],
    measured: Sequence[FeatureEdges],
    targets: Sequence[int],
    window: int,
) -> Interference:
    """Every pair of features by its kind. "Both in the text": the same B, whose edges to both A's end in the same query."""
    place = {target: number for number, target in enumerate(targets)}
    triples = [one.trigram for one in located]
    rows: dict[str, list[tuple[float, float, int]]] = {kind: [] for kind in KINDS}
    n_pairs = dict.fromkeys(KINDS, 0)
    for number, (one, found) in enumerate(zip(located, measured, strict=True)):
        a, b, c = one.trigram
        texts = [documents[o.document][max(o.query - window, 0) : o.query - NEAREST + 1] for o in one.measuring]
        by_kind: dict[str, list[tuple[Tensor, Tensor]]] = {kind: [] for kind in KINDS}
        for other, (a2, b2, c2) in enumerate(triples):
            if other == number or c2 == c:
                continue
            column = found.others[:, place[c2]]
            if b2 == b and a2 != a:
                both = torch.tensor([bool((text == a2).any()) for text in texts])
                if both.any():
                    by_kind[KINDS[0]].append((found.own[both, 0, -1].mean(), column[both].mean()))
            elif a2 == a and b2 != b:
                by_kind[KINDS[1]].append((found.own[:, 0, -1].mean(), column.mean()))
            elif not {a, b, c} & {a2, b2, c2}:
                by_kind[KINDS[2]].append((found.own[:, 0, -1].mean(), column.mean()))
        for kind, pairs in by_kind.items():
            n_pairs[kind] += len(pairs)
            rows[kind] += [(float(own), float(change), number) for own, change in pairs]
    slopes = [_slope(rows[kind]) for kind in KINDS]
    return Interference(
        n_pairs=[n_pairs[kind] for kind in KINDS],
        n_features=[len({row[2] for row in rows[kind]}) for kind in KINDS],
        own=[_mean([abs(row[0]) for row in rows[kind]]) for kind in KINDS],
        other=[_mean([abs(row[1]) for row in rows[kind]]) for kind in KINDS],
        slope=[slope for slope, _ in slopes],
        error=[error for _, error in slopes],
    )


def _slope(rows: Sequence[tuple[float, float, int]]) -> tuple[float, float]:
    """Least squares through the origin, and its standard error with the first feature as the unit (linearised)."""
    if not rows:
        return float("nan"), float("nan")
    own, other = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    total = float((own**2).sum())
    if total == 0:
        return float("nan"), float("nan")
    slope = float((own * other).sum()) / total
    score = np.bincount([row[2] for row in rows], weights=own * (other - slope * own))
    n = len({row[2] for row in rows})
    error = float(np.sqrt((score**2).sum() * n / (n - 1))) / total if n > 1 else float("nan")
    return slope, error


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
