"""``toy study``: train what one of the nine studies needs, and measure it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from mi_superposition.models import device_of
from mi_superposition.progress import SILENT, Progress
from mi_superposition.runs import Outcome, open_run, read_config
from mi_superposition.studies.toy.result import ToyStudyResult
from mi_superposition.toy.config import StudyName, ToyConfig, ToyStudyConfig
from mi_superposition.toy.models import load_toy
from mi_superposition.toy.train import train_into

COMMAND = "toy study"
# Run folders of the trainings, inside that of the study.
_RUNS = "runs"


def result_class(name: StudyName) -> type[ToyStudyResult]:
    """What a study is measured by: its module is found by its name."""
    return import_module(f"mi_superposition.studies.toy.{name}").STUDY


def trainings(config: ToyStudyConfig) -> dict[str, ToyConfig]:
    """The runs that a study needs, of the size asked for."""
    usual = result_class(config.study).trainings(config.full)
    return {name: _sized(training, config) for name, training in usual.items()}


def measure(config: ToyStudyConfig, out: Path, progress: Progress = SILENT) -> Outcome:
    """Train everything that a study needs below ``out``, or go on with it, and write its numbers. Raises as ``train_into``."""
    config = config.replace(device=device_of(config.device.device))
    with open_run(out, COMMAND, config) as run:
        if run.finished:
            return Outcome(out, finished_already=True)
        needed = trainings(config)
        progress.begin("step", sum(training.n_steps for training in needed.values()))
        for name, training in needed.items():
            if train_into(training, out / _RUNS / name, progress).finished_already:
                progress.advance(training.n_steps)
        run.finish(_result(config, out).metrics())
    return Outcome(out, finished_already=False)


def load(folder: Path) -> ToyStudyResult:
    """The result in a finished run folder. Raises ``RequestError`` where there is none."""
    return _result(read_config(folder, ToyStudyConfig, COMMAND), folder)


def _result(config: ToyStudyConfig, folder: Path) -> ToyStudyResult:
    models = {name: load_toy(folder / _RUNS / name) for name in trainings(config)}
    return result_class(config.study)(config, models)


def _sized(training: ToyConfig, config: ToyStudyConfig) -> ToyConfig:
    n_instances, n_steps = config.n_instances or training.n_instances, config.n_steps or training.n_steps
    return training.replace(
        # Runs that are compared may have seeds of their own.
        seed=training.random.seed + config.random.seed,
        n_instances=n_instances,
        n_kept=min(training.n_kept, n_instances),
        n_steps=n_steps,
        snapshots=tuple(sorted({min(step, n_steps) for step in training.snapshots})),
        device=config.device.device,
        threads=config.threads.number,
    )
