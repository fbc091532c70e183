"""``toy train``: what it leaves is the trained models."""

from __future__ import annotations

from pathlib import Path

from mi_superposition.progress import SILENT, Progress
from mi_superposition.runs import Outcome
from mi_superposition.toy.config import ToyConfig
from mi_superposition.toy.models import COMMAND, load_toy
from mi_superposition.toy.train import train_into

__all__ = ["COMMAND", "load", "measure"]

load = load_toy


def measure(config: ToyConfig, out: Path, progress: Progress = SILENT) -> Outcome:
    """Train in a run folder. Raises as ``train_into``."""
    progress.begin("step", config.n_steps)
    return train_into(config, out, progress)
