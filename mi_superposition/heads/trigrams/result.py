"""What the study of superposition among heads found."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_superposition.heads.trigrams.carried import KINDS, PARTS, EdgeTable, Interference
from mi_superposition.heads.trigrams.comparison import OBSERVED, PERMUTED, MatrixNumbers
from mi_superposition.heads.trigrams.config import TrigramsConfig
from mi_superposition.heads.trigrams.sharing import (
    carriers,
    disjoint,
    mean_and_error,
    participation_ratio,
    unbiased_participation_ratio,
)
from mi_superposition.results import Result


@dataclass(frozen=True, repr=False)
class HeadSharing(Result):
    """Features, the heads that carry them, and the controls.

    ``tested_effect`` and ``random_effect``: mean over documents of what A, against a matched token, does to the logit of C (nats), of the
    trigrams of the text that were tested in the model and of random ones; ``replaced``: of the features, on the documents on which their
    heads are measured. ``difference``: what A does to P(C | B) in the second half of the text. ``compared``: by kind of matrix; empty with
    fewer than four features.
    """

    DRAWN_BY: ClassVar[str] = "mi_superposition.figures.trigrams:feature_matrix"

    config: TrigramsConfig
    n_layers: int
    n_heads: int
    n_documents: int
    n_tried: int
    n_in_text: int
    n_tested: int
    n_random_kept: int
    tested_effect: Float[Tensor, " tested"]
    random_effect: Float[Tensor, " random_trigram"]
    words: list[tuple[str, str, str]]
    difference: Float[Tensor, " feature"]
    replaced: Float[Tensor, " feature"]
    edges: EdgeTable
    random: EdgeTable
    untrained: EdgeTable
    interference: Interference
    compared: dict[str, MatrixNumbers]

    @property
    def n_features(self) -> int:
        """Trigrams that survived both tests."""
        return len(self.words)

    @cached_property
    def carried(self) -> Bool[Tensor, "feature head"]:
        """Which head carries which feature."""
        return self._carried(self.edges)

    def _carried(self, table: EdgeTable) -> Bool[Tensor, "feature head"]:
        if not len(table.trigrams):
            return torch.zeros(0, self.n_layers * self.n_heads, dtype=torch.bool)
        return carriers(table.heads, table.error[0, :, :-1], table.n_documents, level=self.config.level)

    @cached_property
    def heads_per_feature(self) -> Float[Tensor, " feature"]:
        """Effective number of heads of each feature, noise taken out; not a number where noise is all there is."""
        return unbiased_participation_ratio(self.edges.heads, self.edges.error[0, :, :-1])

    @cached_property
    def disjoint_by_head(self) -> list[int]:
        """Of the features that each head carries, how many have no token in common with each other; names and copies (A and C the same word)
        not counted.
        """
        return [
            len(
                disjoint(
                    [
                        self.words[number]
                        for number in column.nonzero()[:, 0].tolist()
                        if not _copies(self.words[number])
                    ]
                )
            )
            for column in self.carried.T
        ]

    @property
    def copies(self) -> int:
        """Features whose A and C are one word."""
        return sum(map(_copies, self.words))

    @property
    def parts(self) -> dict[str, float]:
        """Of the effect of all edges at once, summed over features, the share that reaches the logits directly, through later heads, and
        through MLPs.
        """
        total, frozen, direct = (float(self.edges.mean[part, :, -1].sum()) for part in range(len(PARTS)))
        whole = total or float("nan")
        return {"direct": direct / whole, "later heads": (frozen - direct) / whole, "MLPs": (total - frozen) / whole}

    @property
    def additive_share(self) -> float:
        """Sum of the effects of single heads over the effect of all at once, summed over features: 1 where heads add."""
        return float(self.edges.heads.sum()) / (float(self.edges.together.sum()) or float("nan"))

    @property
    def edge_share(self) -> float:
        """Effect of the edges from B to A over that of replacing A, summed over features: the rest comes by way of tokens between."""
        return float(self.edges.together.sum()) / (float(self.replaced.sum()) or float("nan"))

    def summary(self) -> str:
        """Features, heads for each, features for each head, and what permuting says."""
        if not self.n_features:
            return f"no skip trigram of {self.n_tested} tested in {self.config.model.name} survives"
        heads, error = mean_and_error(self.heads_per_feature)
        text = (
            f"{self.n_features} attentional features of {self.config.model.name} ({self.n_random_kept} of {len(self.random_effect)} random "
            f"trigrams pass the same test): {heads:.1f} ± {error:.1f} of {self.n_layers * self.n_heads} heads for each, "
            f"{float(self.carried.sum(0).float().mean()):.1f} features for each head, up to {max(self.disjoint_by_head)} with no token in common"
        )
        if self.compared:
            told = self.compared[OBSERVED].told_apart
            others = ", ".join(f"{self.compared[name].told_apart:.0f} {name}" for name in PERMUTED)
            text += f"; {told:.0f} features told apart by their heads ({others})"
        return text

    def to_frame(self) -> pd.DataFrame:
        """One row per feature."""
        best = self.edges.heads.argmax(1) if self.n_features else torch.zeros(0, dtype=torch.long)
        return pd.DataFrame(
            {
                "A": [one[0] for one in self.words],
                "B": [one[1] for one in self.words],
                "C": [one[2] for one in self.words],
                "in_text": self.difference.tolist(),
                "replaced": self.replaced.tolist(),
                "all_edges": self.edges.together.tolist(),
                "through_mlps": (self.edges.mean[0, :, -1] - self.edges.mean[1, :, -1]).tolist(),
                "direct": self.edges.mean[2, :, -1].tolist(),
                "best_head": [f"{head // self.n_heads}.{head % self.n_heads}" for head in best.tolist()],
                "effective_heads": self.heads_per_feature.tolist(),
                "carriers": self.carried.sum(1).tolist(),
            }
        ).rename_axis("feature")

    def metrics(self) -> dict[str, float | int | list[float] | list[int]]:
        """All numbers, flat; those that there are."""
        raw = participation_ratio(self.edges.heads) if self.n_features else torch.zeros(0)
        numbers: dict[str, float | int | list[float] | list[int]] = {
            "n_documents": self.n_documents,
            "n_tried": self.n_tried,
            "n_in_text": self.n_in_text,
            "n_tested": self.n_tested,
            "n_features": self.n_features,
            "n_copies": self.copies,
            "n_random_tested": len(self.random_effect),
            "n_random_kept": self.n_random_kept,
            "tested_effect_mean": mean_and_error(self.tested_effect)[0],
            "random_effect_mean": mean_and_error(self.random_effect)[0],
            "heads_per_feature": mean_and_error(self.heads_per_feature)[0],
            "heads_per_feature_error": mean_and_error(self.heads_per_feature)[1],
            "heads_per_feature_raw": mean_and_error(raw)[0],
            "carriers_per_feature": float(self.carried.sum(1).float().mean()) if self.n_features else 0.0,
            "carriers_per_random_trigram": _mean_carriers(self._carried(self.random)),
            "carriers_per_feature_untrained": _mean_carriers(self._carried(self.untrained)),
            "features_by_head": self.carried.sum(0).tolist(),
            "disjoint_features_by_head": self.disjoint_by_head,
            "effect_all_edges": mean_and_error(self.edges.together)[0],
            "effect_all_edges_random": mean_and_error(self.random.together)[0],
            "effect_all_edges_untrained": mean_and_error(self.untrained.together)[0],
            "edge_share": self.edge_share,
            "additive_share": self.additive_share,
            **{f"share_{name.replace(' ', '_')}": value for name, value in self.parts.items()},
        }
        for number, kind in enumerate(KINDS):
            key = kind.replace(" ", "_").replace(",", "")
            numbers[f"interference_{key}_pairs"] = self.interference.n_pairs[number]
            numbers[f"interference_{key}_slope"] = self.interference.slope[number]
            numbers[f"interference_{key}_error"] = self.interference.error[number]
        for name, found in self.compared.items():
            key = name.replace(" ", "_")
            numbers |= {
                f"{key}_spectrum": found.spectrum,
                f"{key}_told_apart": found.told_apart,
                f"{key}_groups": found.needed,
            }
        return {name: value for name, value in numbers.items() if value == value}


def _copies(words: tuple[str, str, str]) -> bool:
    return words[0].strip().lower() == words[2].strip().lower()


def _mean_carriers(carried: Bool[Tensor, "feature head"]) -> float:
    return float(carried.sum(1).float().mean()) if len(carried) else 0.0
