"""Training each autoencoder of a grid as a task of Ray: a run of its own, with a pass over the text of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mi_superposition.corpora.corpus import BUNDLED_CORPORA
from mi_superposition.engine import name_for_workers, results_of
from mi_superposition.models import BUNDLED_MODELS
from mi_superposition.progress import SILENT, Progress
from mi_superposition.runs import MANIFEST, Outcome, open_run, read_metrics
from mi_superposition.sae import SaeJob, SaeTrainConfig
from mi_superposition.sae.config import BY_K
from mi_superposition.schemas import Number
from mi_superposition.studies.sae.local import COMMAND, open_training, sae_folder, train_here
from mi_superposition.training import Stopped


@dataclass(frozen=True)
class _Task:
    """One autoencoder for a worker. ``names``: model and corpus as they were asked for."""

    out: Path
    config: SaeTrainConfig
    names: tuple[str, str]


def train_by_task(config: SaeTrainConfig, out: Path, progress: Progress = SILENT) -> Outcome:
    """As ``train_here``, with the same weights: those autoencoders that are finished are not trained again."""
    training = open_training(config)
    if not (out / MANIFEST).exists():
        training.text.check_held_out()
    config = training.config
    with open_run(out, COMMAND, config, training.inputs) as run:
        if run.finished:
            return Outcome(out, finished_already=True)
        progress.begin("autoencoder", len(config.jobs))
        tasks = [_task(config, out, job) for job in config.jobs]
        metrics: dict[str, float | int] = {}
        work = results_of(
            train_task, tasks, engine="ray", address=config.workers.ray_address, cpus=config.threads.number,
            gpus=int(config.device.device.startswith("cuda")),
        )  # fmt: skip
        for done, (job, measured) in enumerate(zip(config.jobs, work, strict=True), start=1):
            for name, value in measured.items():
                of, number = name.split("/", 1)
                metrics[f"{job.name if of == 'sae' else of}/{number}"] = value
            progress.advance()
            if progress.should_stop() and done < len(tasks):
                raise Stopped(done, "autoencoder")
        run.finish(metrics)
    return Outcome(out, finished_already=False)


def _task(config: SaeTrainConfig, out: Path, job: SaeJob) -> _Task:
    level = {"k": (job.config.k,)} if job.config.architecture in BY_K else {"sparsity": (job.config.sparsity,)}
    model, corpus = config.model.name, config.text.corpus
    alone = config.replace(
        hook=(job.hook,), d_sae=(job.config.d_sae,), model=name_for_workers(model, BUNDLED_MODELS),
        corpus=name_for_workers(corpus, BUNDLED_CORPORA), engine="local", ray_address=None, **level,
    )  # fmt: skip
    return _Task(sae_folder(out.resolve(), config, job), alone, (model, corpus))


def train_task(task: _Task) -> dict[str, float | int]:
    """What a worker does: train one autoencoder into its run folder, or find it finished; its held-out numbers."""
    train_here(task.config, task.out, names=task.names)
    return read_metrics(task.out, dict[str, Number])
