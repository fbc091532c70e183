"""What the study of skip trigrams is asked for. Imports no torch, so that the command line can show it at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from mi_superposition.config import AtLeast1, Config
from mi_superposition.parts import DevicePart, ModelPart, RowPart, SeedPart, TextPart, ThreadsPart

Cut = Literal["zero", "renormalise"]
Correction = Literal["holm", "bh"]


@dataclass(frozen=True)
class TrigramsConfig(Config):
    """Find skip trigrams (A earlier, B now, C next) in text and in the model, and measure how attention heads share them.

    Half of the documents finds them, the other half tests them and measures the heads. Run again to resume.
    """

    model: ModelPart = ModelPart()
    text: TextPart = TextPart()
    row: RowPart = RowPart()
    window: Annotated[int, Interval(ge=2, le=512)] = 32
    """Farthest that A stands before B, in tokens; the nearest is 2."""
    tried: AtLeast1 = 1000
    """Skip trigrams that the first half of the documents proposes, to be tested on the second."""
    alike: AtLeast1 = 1
    """Proposed skip trigrams that may have the same two tokens in the same two places."""
    level: Annotated[float, Interval(gt=0, le=0.5)] = 0.05
    """Level of every test, after correction for the number of tests."""
    correction: Correction = "bh"
    """Correction for the number of tests: 'bh' bounds the share of false ones among those kept (Benjamini and Hochberg), 'holm' the probability of any."""
    features: AtLeast1 = 300
    """Skip trigrams confirmed in the text that are tested in the model, those with the smallest p in the first half."""
    occurrences: Annotated[int, Interval(ge=4, le=1000)] = 10
    """Documents for the test of each skip trigram in the model, and as many others to measure its heads on; half as many are enough."""
    controls: AtLeast1 = 20
    """Random trigrams that are tested and measured like the features, and features whose heads are measured in the untrained model too."""
    cut: Cut = "zero"
    """An attention edge is taken out by setting its weight to zero ('zero'), or by sharing its weight among the others ('renormalise')."""
    permutations: Annotated[int, Interval(ge=2, le=1000)] = 20
    """Permuted matrices of every kind that the matrix of features and heads is compared with."""
    random: SeedPart = SeedPart()
    device: DevicePart = DevicePart()
    threads: ThreadsPart = ThreadsPart()
