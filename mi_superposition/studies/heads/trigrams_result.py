"""What the study of superposition among heads found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from mi_superposition.heads.trigrams.carried import EdgeTable, Interference
from mi_superposition.heads.trigrams.config import TrigramsConfig
from mi_superposition.heads.trigrams.sharing import carriers, unbiased_participation_ratio
from mi_superposition.results import Result


@dataclass(frozen=True, repr=False)
class HeadSharing(Result):
    """Features, their edges, and the controls."""

    DRAWN_BY: ClassVar[str] = "mi_superposition.figures.trigrams:matrix"

    config: TrigramsConfig
    n_layers: int
    n_heads: int
    n_documents: int
    n_tried: int
    n_in_text: int
    n_tested: int
    n_random_tested: int
    n_random_kept: int
    tested_effect: Float[Tensor, " tested"]
    random_effect: Float[Tensor, " random"]
    words: list[tuple[str, str, str]]
    difference: Float[Tensor, " feature"]
    replaced: Float[Tensor, " feature"]
    edges: EdgeTable
    random: EdgeTable
    untrained: EdgeTable
    interference: Interference

    def summary(self) -> str:
        return f"{len(self.words)} features"

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.words)

    def metrics(self):
        return {"n_features": len(self.words)}
