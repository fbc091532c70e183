"""Training the autoencoders of a request in this process, in one pass over the text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_lens import SAE

from mi_superposition.errors import RequestError
from mi_superposition.models import hook_widths
from mi_superposition.progress import SILENT, Progress, Steps
from mi_superposition.room import check_disk
from mi_superposition.runs import MANIFEST, Outcome, Run, open_run
from mi_superposition.sae import (
    ActivationSource,
    ActivationStream,
    SaeJob,
    SaeTrainConfig,
    save_sae,
    store_activations,
    train_saes,
)
from mi_superposition.sae.evaluate import activation_statistics, evaluate_reconstructions, reconstruct_with
from mi_superposition.sae.files import trained_on
from mi_superposition.sae.stored import check_store, stored_bytes
from mi_superposition.sae.train import check_training_memory, training_bytes
from mi_superposition.studies.sae.text import ReadText, open_text
from mi_superposition.training import fixed_arithmetic

COMMAND = "sae train"
# Held-out tokens on which the numbers at the end of a training are measured.
_MEASURED_TOKENS = 2**15
# What a progress bar says of the first autoencoder, by the name in the history.
_STATE = {"loss": "loss", "l0": "L0", "explained_variance": "explained", "dead_features": "dead"}


@dataclass(frozen=True)
class OpenTraining:
    """A request whose model and text are at hand, as it is recorded."""

    config: SaeTrainConfig
    text: ReadText
    inputs: Mapping[str, Any]
    d_hook: Mapping[str, int]


def open_training(config: SaeTrainConfig) -> OpenTraining:
    """Load the model and the corpus. Raises ``RequestError`` for what is not there, or a width that its architecture does not take."""
    text = open_text(
        config.model.name, config.text, forward_batch=config.forward.forward_batch, context=config.forward.context,
        device=config.device.device,
    )  # fmt: skip
    d_hook = hook_widths(text.model, set(config.hook))
    for job in config.jobs:
        _check_width(job, d_hook[job.hook])
    return OpenTraining(config.resolved(device=text.device), text, text.identity(), d_hook)


def _check_width(job: SaeJob, d_in: int) -> None:
    # Ours: a nest that does not even have a feature for each dimension nests nothing of interest.
    if job.config.architecture == "matryoshka" and job.config.d_sae < d_in:
        raise RequestError(
            f"d_sae = {job.config.d_sae}: 'matryoshka' nests widths down to an eighth, and {job.hook!r} has {d_in} dimensions; "
            "give as many features at least"
        )


def train_here(
    config: SaeTrainConfig, out: Path, progress: Progress = SILENT, *, names: tuple[str, str] | None = None
) -> Outcome:
    """Train into a run folder, or resume it. ``names`` are those of model and corpus that the autoencoders remember.

    One autoencoder lies in the folder itself, several in a folder each. What will be held in memory and on disk is noted before
    anything is. Raises ``RequestError`` for a request that cannot be met, ``training.Stopped`` after a checkpoint when asked to
    stop.
    """
    training = open_training(config)
    config, text = training.config, training.text
    stream = _stream(training)
    begun = (out / MANIFEST).exists()
    if not begun:
        # What cannot be done is found out before there is a run folder, which would then refuse a better request.
        text.check_held_out()
        if config.store.activations is not None:
            size = stored_bytes(
                training.d_hook, config.stream.n_steps * config.stream.batch_size, config.activations_dtype
            )
            check_disk(size, config.store.activations, f"tokens = {config.stream.tokens:,}")
            check_store(
                stream, config.store.activations, config.stream.n_steps, dtype=config.activations_dtype,
                inputs=_stored_inputs(training),
            )  # fmt: skip
        check_training_memory(
            config.jobs, training.d_hook, _buffered(training), text.device, "the training (d_sae, batch_size, buffer_batches)"
        )  # fmt: skip
        progress.note(_sizes(training))
        with fixed_arithmetic(config.threads.number):
            stream.batch(0)
    with open_run(out, COMMAND, config, training.inputs) as run:
        if run.finished:
            return Outcome(out, finished_already=True)
        if begun:
            progress.note(_sizes(training))
        progress.begin("step", config.stream.n_steps)
        with fixed_arithmetic(config.threads.number):
            saes = _trained(training, stream, run, progress, names)
            for job in config.jobs:
                save_sae(saes[job.name], sae_folder(out, config, job))
            progress.stage("held-out text")
            metrics = _measured(training, saes)
        run.finish(metrics | text.corpus.losses())
    return Outcome(out, finished_already=False)


def sae_folder(out: Path, config: SaeTrainConfig, job: SaeJob) -> Path:
    """Where a run keeps an autoencoder."""
    return out if len(config.jobs) == 1 else out / job.name


def _buffered(training: OpenTraining) -> int:
    """Bytes of the buffer."""
    stream = training.config.stream
    return 4 * sum(training.d_hook.values()) * stream.batch_size * stream.buffer_batches


def _sizes(training: OpenTraining) -> str:
    stream = training.config.stream
    buffer = _buffered(training)
    autoencoders = sum(training_bytes(training.config.jobs, training.d_hook, training.text.device))
    return (
        f"{stream.n_steps:,} steps of {stream.batch_size:,} tokens; buffer of {stream.batch_size * stream.buffer_batches:,} tokens, "
        f"{buffer / 2**20:,.0f} MiB; {autoencoders / 2**20:,.0f} MiB for the autoencoders during training"
    )


def _stream(training: OpenTraining) -> ActivationStream:
    config, text = training.config, training.text
    return ActivationStream(
        text.model, text.batches(held_out=False, documents=config.text.documents), list(dict.fromkeys(config.hook)),
        batch_size=config.stream.batch_size, buffer_batches=config.stream.buffer_batches, seed=config.random.seed,
        precision=config.forward.precision,
    )  # fmt: skip


def _trained(
    training: OpenTraining, stream: ActivationStream, run: Run, progress: Progress, names: tuple[str, str] | None
) -> dict[str, SAE[Any]]:
    steps = Steps(progress)

    def on_log(row: dict[str, Any]) -> None:
        first: dict[str, Any] = next(iter(row["saes"].values()))
        state = ", ".join(f"{said} {first[name]:.3g}" for name, said in _STATE.items() if first[name] is not None)
        steps.at(row["step"], state)

    return train_saes(
        training.config.jobs, _source(training, stream, progress), training.config.stream.n_steps,
        metadata=_remembered(training, names), run=run, device=training.text.device, on_log=on_log,
        should_stop=progress.should_stop,
    )  # fmt: skip


def _source(training: OpenTraining, stream: ActivationStream, progress: Progress) -> ActivationSource:
    """The stream, or what was, or now is, written down of it."""
    config, folder, n_batches = training.config, training.config.store.activations, training.config.stream.n_steps
    if folder is None:
        return stream
    size = stored_bytes(training.d_hook, n_batches * stream.batch_size, config.activations_dtype)
    progress.note(f"activations: {size / 2**20:,.0f} MiB in {folder}")
    written = 0

    def on_buffer(batches: int) -> None:
        nonlocal written
        written += batches
        progress.stage(f"activations, {written:,} of {n_batches:,} batches")

    return store_activations(
        stream, folder, n_batches, dtype=config.activations_dtype, inputs=_stored_inputs(training), on_buffer=on_buffer,
        should_stop=progress.should_stop,
    )  # fmt: skip


def _stored_inputs(training: OpenTraining) -> dict[str, Any]:
    """What activations on disk were made of. Some names are those of version 0.1, whose folders are still read."""
    text, documents = training.text, training.config.text.documents
    how: dict[str, Any] = {"context": text.context or text.model.cfg.n_ctx, "batch": text.forward_batch}
    return {**training.inputs, "text": how if documents is None else how | {"documents": documents}}


def _remembered(training: OpenTraining, names: tuple[str, str] | None) -> dict[str, Any]:
    """What is written beside the weights of how they came to be."""
    config, text, stream = training.config, training.text, training.config.stream
    model_name, corpus_name = names or (text.model_name, text.text.corpus)
    known = trained_on(text.model, model_name, corpus_name, text.context or text.model.cfg.n_ctx)
    told = {
        "model": model_name, "corpus": corpus_name, "split": text.text.split, "column": text.column, "context": text.context,
        "batch": text.forward_batch, "precision": config.forward.precision, "device": text.device, "tokens": stream.tokens,
        "batch_size": stream.batch_size, "buffer_batches": stream.buffer_batches, "threads": config.threads.number,
        "seed": config.random.seed, "activations_dtype": config.activations_dtype,
    }  # fmt: skip
    if text.text.documents is not None:
        told["documents"] = text.text.documents
    return known | {"training": told}


def _measured(training: OpenTraining, saes: Mapping[str, SAE[Any]]) -> dict[str, float | int]:
    """Each autoencoder on the first held-out tokens."""
    model, batches, n = training.text.model, [], 0
    for batch in training.text.batches(held_out=True):
        batches.append(batch)
        n += int(batch.mask.sum())
        if n >= _MEASURED_TOKENS:
            break
    metrics: dict[str, float | int] = {}
    for hook in dict.fromkeys(training.config.hook):
        jobs = [job for job in training.config.jobs if job.hook == hook]
        fidelities = evaluate_reconstructions(
            model, batches, hook,
            {job.name: reconstruct_with(saes[job.name].to(model.W_E.device)) for job in jobs},
            activation_statistics(model, batches, hook).mean.float(),
        )  # fmt: skip
        for name, fidelity in fidelities.items():
            metrics |= {f"{name}/{number}": value for number, value in fidelity.numbers().items()}
    return metrics
