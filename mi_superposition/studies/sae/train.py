"""Training autoencoders into a run folder: one or a grid of them, here in one pass over the text or as tasks of Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from mi_superposition.engine import check_engine
from mi_superposition.errors import WorkError
from mi_superposition.progress import SILENT, Progress
from mi_superposition.results import Result
from mi_superposition.runs import HISTORY, Outcome, read_config, read_history, read_metrics
from mi_superposition.sae import SaeTrainConfig
from mi_superposition.sae.train import Row
from mi_superposition.schemas import Number
from mi_superposition.studies.sae.local import COMMAND, sae_folder, train_here
from mi_superposition.studies.sae.rows import COLUMNS, cell
from mi_superposition.studies.sae.workers import train_by_task

__all__ = ["COMMAND", "SaeTrainingResult", "load", "measure"]


@dataclass(frozen=True, repr=False)
class SaeTrainingResult(Result):
    """What each autoencoder of a training is worth on held-out text, by its name, and the rows of its history.

    A row has the ``step``, the ``tokens`` trained on, and of that step's training batch ``loss``, ``l0``, ``explained_variance``
    and ``dead_features``.
    """

    DRAWN_BY: ClassVar[str] = "mi_superposition.pages.sae.train:figure"

    config: SaeTrainConfig
    held_out: Mapping[str, Mapping[str, float | int]]
    history: Mapping[str, Sequence[Mapping[str, float | int | None]]]

    @property
    def best(self) -> str:
        """The autoencoder that explains most of the held-out variance."""
        return max(self.held_out, key=lambda name: self.held_out[name].get("explained_variance", 0.0))

    def summary(self) -> str:
        """The best autoencoder's explained variance and cross-entropy, next to those of the model and of mean ablation."""
        numbers, n = self.held_out[self.best], len(self.held_out)
        which = f"best of {n} autoencoders, {self.best}" if n > 1 else f"autoencoder of {self.config.hook[0]}"
        losses = (
            f"; cross-entropy {numbers['ce']:.3f} nats per token (model {numbers['ce_clean']:.3f}, mean ablation {numbers['ce_mean']:.3f})"
            if "ce" in numbers
            else ""
        )
        return f"{which}: {cell(numbers, 'explained_variance')} of the held-out variance at L0 {cell(numbers, 'l0')}{losses}"

    def to_frame(self) -> pd.DataFrame:
        """One row per autoencoder: its numbers on held-out text."""
        rows = [{name: numbers.get(name) for name in COLUMNS} for numbers in self.held_out.values()]
        return pd.DataFrame(rows, index=pd.Index(list(self.held_out), name="autoencoder"))


def measure(config: SaeTrainConfig, out: Path, progress: Progress = SILENT) -> Outcome:
    """Train into a run folder, or resume it.

    With ``engine = "ray"`` each autoencoder of a grid is a task; the weights are the same. Raises as ``train_here`` does.
    """
    check_engine(config.workers.engine)
    return (train_by_task if config.by_task else train_here)(config, out, progress)


def load(folder: Path) -> SaeTrainingResult:
    """The result in a finished run folder. Raises ``RequestError`` where there is none."""
    config = read_config(folder, SaeTrainConfig, COMMAND)
    held_out: dict[str, dict[str, float | int]] = {job.name: {} for job in config.jobs}
    for key, value in read_metrics(folder, dict[str, Number]).items():
        name, number = key.rsplit("/", 1)
        # The rest is of the corpus.
        if name in held_out:
            held_out[name][number] = value
    return SaeTrainingResult(config, held_out, _history(folder, config))


def _history(folder: Path, config: SaeTrainConfig) -> dict[str, list[dict[str, Any]]]:
    """By autoencoder; those that were trained as tasks have one each, in which they are called "sae"."""
    shared = (folder / HISTORY).exists()
    history = {}
    for job in config.jobs:
        place = folder if shared else sae_folder(folder, config, job)
        rows = read_history(place, Row)
        name = job.name if shared else "sae"
        for number, row in enumerate(rows, 1):
            if name not in row["saes"]:
                raise WorkError(f"{str(place / HISTORY)!r} is damaged: line {number}: saes lacks {name!r}")
        history[job.name] = [{"step": row["step"], "tokens": row["tokens"], **row["saes"][name]} for row in rows]
    return history
