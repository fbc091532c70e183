"""Commands about attention heads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mi_superposition.cli.command import Command, progress, where


@dataclass(frozen=True)
class HeadsAblate(Command):
    """Keep each head of an addition model alone, and leave each out; find small sets that still add."""

    out: Path
    """Run folder."""
    model: str = "addition"
    """Bundled model or run folder of 'addition train'."""
    replace_with: Literal["zero", "mean", "resample"] = "zero"
    """What stands in for an ablated head: zero, its mean over problems, or its output on another problem."""
    problems: int = 2000
    """Random problems on which accuracies are measured."""
    random_sets: int = 500
    """Random head sets that each small set is compared with."""
    seed: int = 0
    """Seed of problems, random sets and resampling."""

    def run(self) -> str:
        """Write the study's tensors, numbers, animation and page."""
        from mi_superposition.studies.ablation import STAGES, write_ablation_run

        with progress("stage", len(STAGES)) as advance:
            finished = write_ablation_run(
                self.out,
                model_name=self.model,
                replace_with=self.replace_with,
                n_problems=self.problems,
                n_random=self.random_sets,
                seed=self.seed,
                on_stage=lambda stage: advance(1, stage),
            )
        return where(finished, self.out)


@dataclass(frozen=True)
class HeadsProject(Command):
    """Project digits and positions onto the queries, keys, values and outputs of every head."""

    out: Path
    """Run folder."""
    model: str = "addition"
    """Bundled model or run folder of 'addition train'."""
    head: int | None = None
    """Head shown large. Default: the one whose values are most circular."""
    position: int = 0
    """Position at which the digits are shown."""
    digit: int = 5
    """Digit for which the positions are shown."""

    def run(self) -> str:
        """Write the projections, their circularity and the page."""
        from mi_superposition.studies.projection import STAGES, write_projection_run

        with progress("stage", len(STAGES)) as advance:
            finished = write_projection_run(
                self.out,
                model_name=self.model,
                head=self.head,
                position=self.position,
                digit=self.digit,
                on_stage=lambda stage: advance(1, stage),
            )
        return where(finished, self.out)
