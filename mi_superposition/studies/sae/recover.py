"""Whether autoencoders find the true features of a toy model, into a run folder."""

from __future__ import annotations

from pathlib import Path

from mi_superposition.progress import SILENT, Progress
from mi_superposition.runs import Outcome, open_run, read_manifest
from mi_superposition.sae import FeatureRecovery, SaeRecoverConfig, feature_recovery
from mi_superposition.storing import read_record, write_record
from mi_superposition.training import fixed_arithmetic

COMMAND = "sae recover"
RESULT = "recovery.safetensors"


def measure(config: SaeRecoverConfig, out: Path, progress: Progress = SILENT) -> Outcome:
    """Run the study into a run folder. Raises as ``feature_recovery`` and ``open_run`` do."""
    with open_run(out, COMMAND, config) as run:
        if run.finished:
            return Outcome(out, finished_already=True)
        progress.begin("training", 3)
        with fixed_arithmetic(config.threads.number):
            recovery = feature_recovery(config, on_stage=lambda name: progress.advance(1, name))
        write_record(out / RESULT, recovery)
        run.finish(recovery.metrics())
    return Outcome(out, finished_already=False)


def load(folder: Path) -> FeatureRecovery:
    """The result in a finished run folder. Raises ``RequestError`` where there is none."""
    read_manifest(folder, COMMAND)
    return read_record(folder / RESULT, FeatureRecovery)
