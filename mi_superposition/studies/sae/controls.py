"""The control of an evaluation: autoencoders trained with the same settings on a model with shuffled weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sae_lens import SAE

from mi_superposition.errors import RequestError
from mi_superposition.models import shuffled_copy
from mi_superposition.models.protocol import HookedModel
from mi_superposition.progress import Progress, Steps
from mi_superposition.runs import Run
from mi_superposition.sae import ActivationStream, SaeConfig, SaeJob, save_sae, train_saes
from mi_superposition.sae.config import StreamPart
from mi_superposition.sae.files import SAE_CONFIG, read_sae
from mi_superposition.studies.sae.opened import OpenEvaluation

_FOLDER = "controls"


@dataclass(frozen=True)
class PlannedControls:
    """What is to be trained as control, on what stream, and what the evaluated autoencoders remember of their own training."""

    jobs: list[SaeJob]
    stream: StreamPart
    training: Mapping[str, Any]


@dataclass(frozen=True)
class Controls:
    """A model that knows nothing, and for each autoencoder one trained on it."""

    model: HookedModel
    saes: Mapping[str, SAE[Any]]


def planned_controls(opened: OpenEvaluation) -> PlannedControls | None:
    """The control of each autoencoder that says how it was trained; ``None`` where there is to be none."""
    training = next(iter(opened.saes.values())).cfg.metadata.training or {}
    jobs = _jobs(opened)
    asked = opened.config.control_tokens
    tokens = training.get("tokens", 1) if asked is None else asked
    if not jobs or not training or not tokens:
        return None
    return PlannedControls(jobs, StreamPart(tokens, training["batch_size"], training["buffer_batches"]), training)


def trained_controls(run: Run, opened: OpenEvaluation, progress: Progress) -> Controls | None:
    """The controls that were planned, from the run folder where they are there.

    Raises ``RequestError`` for a text too short to train on, ``training.Stopped`` after a checkpoint when asked to stop.
    """
    planned = planned_controls(opened)
    if planned is None:
        return None
    jobs, stream = planned.jobs, planned.stream
    shuffled = shuffled_copy(opened.text.model, opened.config.random.seed)
    folder = run.path / _FOLDER
    if not all((folder / job.name / SAE_CONFIG).is_file() for job in jobs):
        source = _source(opened, shuffled, stream, planned.training)
        steps = Steps(progress)
        trained = train_saes(
            jobs, source, stream.n_steps, run=run, device=opened.text.device, should_stop=progress.should_stop,
            on_log=lambda row: steps.at(row["step"] * stream.batch_size, "control, training"),
        )  # fmt: skip
        for name, sae in trained.items():
            save_sae(sae, folder / name)
    return Controls(shuffled, {job.name: read_sae(folder / job.name, device=opened.text.device) for job in jobs})


def _jobs(opened: OpenEvaluation) -> list[SaeJob]:
    known = {option.name for option in SaeConfig.options()}
    made = {name: sae.cfg.metadata.trained_with for name, sae in opened.saes.items()}
    return [
        SaeJob(name, opened.hooks[name], SaeConfig.from_flat({key: one[key] for key in known & one.keys()}))
        for name, one in made.items()
        # A control of a transcoder would have to be one too.
        if one and opened.hooks[name] == opened.targets[name]
    ]


def _source(
    opened: OpenEvaluation, shuffled: HookedModel, stream: StreamPart, training: Mapping[str, Any]
) -> ActivationStream:
    """What the shuffled model makes of the text. It has no tokenizer: it reads what the trained model reads."""
    text = replace(opened.text, corpus=opened.control_corpus, forward_batch=training["batch"])
    source = ActivationStream(
        shuffled, text.batches(held_out=False, documents=training.get("documents")), list(dict.fromkeys(opened.hooks.values())),
        batch_size=stream.batch_size, buffer_batches=stream.buffer_batches, seed=training["seed"],
        precision=training["precision"],
    )  # fmt: skip
    try:
        source.batch(0)
    except RequestError as error:
        raise RequestError(f"the control's training: {error}, or control_tokens = 0 for none") from None
    return source
