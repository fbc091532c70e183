"""What studies of attention heads are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from mi_superposition.config import AtLeast0, Config
from mi_superposition.parts import AdditionModelPart, SeedPart

Replacement = Literal["zero", "mean", "resample"]


@dataclass(frozen=True)
class AblateConfig(Config):
    """Ablate the heads of an addition model: keep each alone, ablate each, and find small sets that still add."""

    model: AdditionModelPart = AdditionModelPart()
    replace_with: Replacement = "zero"
    """Replacement for an ablated head's output: 'zero', its 'mean' over random problems, or its output on another random problem ('resample')."""
    # Every head's logits for every problem are held at once.
    n_problems: Annotated[int, Interval(ge=2, le=20_000)] = 2000
    """Random problems on which accuracy is measured."""
    random_sets: Annotated[int, Interval(ge=1, le=100_000)] = 500
    """Random head sets, all different, to compare each small set with; all sets of that size where there are no more."""
    random: SeedPart = SeedPart()


@dataclass(frozen=True)
class ProjectConfig(Config):
    """Project digits and positions onto the queries, keys, values and outputs of every head of an addition model."""

    model: AdditionModelPart = AdditionModelPart()
    head: AtLeast0 | None = None
    """Head to show in detail. Default: the head with the most circular values."""
    position: AtLeast0 = 0
    """Position at which the digits are shown."""
    digit: Annotated[int, Interval(ge=0, le=9)] = 5
    """Digit shown at all positions."""
