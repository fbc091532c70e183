"""What a training of the addition model leaves, as a result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypedDict

import pandas as pd

from mi_superposition.addition.config import AdditionConfig
from mi_superposition.addition.train import COMMAND, Row, train_addition
from mi_superposition.results import Result
from mi_superposition.runs import read_config, read_history, read_metrics

# Training is the study: it has its run folder already.
measure = train_addition


class Accuracies(TypedDict):
    """The final numbers."""

    test_accuracy: float
    train_accuracy: float
    n_test: int


@dataclass(frozen=True, repr=False)
class AdditionTraining(Result):
    """The history of a training and its final accuracies; ``metrics`` are the run's."""

    DRAWN_BY: ClassVar[str] = "mi_superposition.pages.addition.train:figure"

    config: AdditionConfig
    history: Sequence[Row]
    metrics: Accuracies

    def summary(self) -> str:
        """Accuracy on held-out problems."""
        return (
            f"{self.config.n_heads} heads of {self.config.d_head} dimensions, {self.config.n_steps:,} steps: "
            f"{100 * self.metrics['test_accuracy']:.2f} % of the digits of {self.metrics['n_test']:,} test problems correct "
            f"({100 * self.metrics['train_accuracy']:.2f} % in training, 10 % by guessing)"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per logged epoch."""
        return pd.DataFrame(list(self.history)).set_index("epoch")


def load(folder: Path) -> AdditionTraining:
    """The result in a finished run folder. Raises ``RequestError`` where there is none."""
    config = read_config(folder, AdditionConfig, COMMAND)
    return AdditionTraining(config, read_history(folder, Row), read_metrics(folder, Accuracies))
