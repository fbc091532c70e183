"""Training sparse autoencoders with SAELens's architectures and trainer, in our seeded and resumable loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple, TypedDict

import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY, get_sae_training_class
from sae_lens.training.sae_trainer import SAETrainer

from mi_superposition.corpora import Given
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.models.protocol import HookedModel
from mi_superposition.parts import SeedPart
from mi_superposition.room import check_memory
from mi_superposition.runs import CHECKPOINT, Run
from mi_superposition.sae.activations import ActivationSource, ActivationStream
from mi_superposition.sae.config import SaeConfig, SaeJob, StreamPart
from mi_superposition.sae.files import inference_sae
from mi_superposition.sae.sparse import SparseTopKTrainingSAE
from mi_superposition.training import derived_seed, resume, train

# Rows in a history, and steps from one to the next: at least so many, and at most.
_LOGGED = 100
# Steps between two checkpoints at most.
_CHECKPOINT_EVERY = 500
# Batches from which the scale of the activations is estimated.
_SCALE_BATCHES = 16
_COUNTERS = ("n_training_samples", "n_training_steps", "n_frac_active_samples")
_STATISTICS = ("act_freq_scores", "n_forward_passes_since_fired")


class _Architecture(NamedTuple):
    """Its name in SAELens's registry, its own fields of SAELens's configuration, and what trains it if not SAELens's class."""

    saelens_name: str
    fields: Callable[[SaeConfig], dict[str, Any]]
    trained_as: type[TrainingSAE[Any]] | None = None


# By our names, of which ``config.Architecture`` has the same.
_ARCHITECTURES = {
    "standard": _Architecture("standard", lambda config: {"l1_coefficient": config.sparsity}),
    "topk": _Architecture("topk", lambda config: {"k": config.k}, SparseTopKTrainingSAE),
    "batchtopk": _Architecture("batchtopk", lambda config: {"k": config.k}),
    "jumprelu": _Architecture("jumprelu", lambda config: {"l0_coefficient": config.sparsity}),
    "gated": _Architecture("gated", lambda config: {"l1_coefficient": config.sparsity}),
    "matryoshka": _Architecture(
        "matryoshka_batchtopk",
        lambda config: {"k": config.k, "matryoshka_widths": [config.d_sae // part for part in (8, 4, 2, 1)]},
    ),
}


class Logged(TypedDict):
    """What is logged of one autoencoder."""

    loss: float
    l0: float
    explained_variance: float | None
    dead_features: float | None


class Row(TypedDict):
    """A row of the history."""

    step: int
    tokens: int
    saes: dict[str, Logged]


class SaeLearner:
    """Several of SAELens's trainers on one stream of activations, a step of each at a time."""

    def __init__(self, jobs: Sequence[SaeJob], stream: ActivationSource, n_steps: int, device: str):
        self.jobs, self.stream = list(jobs), stream
        first = stream.batch(0)
        self.trainers = {
            job.name: _trainer(job, first[job.hook].shape[1], stream.batch_size, n_steps, device) for job in jobs
        }
        for job in jobs:
            if job.config.normalize == "expected_average_only_in":
                self.trainers[job.name].activation_scaler.scaling_factor = _scale(stream, job.hook)
        self.last: dict[str, Any] = {}

    def step(self, step: int) -> None:
        """One step of each. Raises ``WorkError`` for a loss that is not finite."""
        found = self.stream.batch(step)
        for job in self.jobs:
            trainer = self.trainers[job.name]
            trainer.maybe_reset_sparsity()
            output = trainer.step(found[job.hook])
            trainer.n_training_steps += 1
            if not bool(output.loss.isfinite()):
                raise WorkError(
                    f"the loss of {job.name!r} is {output.loss.item()} at step {step}: try a lower learning rate"
                )
            self.last[job.name] = output

    def measured(self) -> dict[str, dict[str, float | None]]:
        """Of the last step, by autoencoder: loss, features active per token, explained variance (``None`` where nothing varies),
        dead features.
        """
        rows: dict[str, dict[str, float | None]] = {}
        for name, trainer in self.trainers.items():
            log = trainer.build_train_step_log_dict(self.last[name], trainer.n_training_samples)
            explained = log["metrics/explained_variance"]
            rows[name] = {
                "loss": log["losses/overall_loss"],
                "l0": log["metrics/l0"],
                "explained_variance": explained if math.isfinite(explained) else None,
                "dead_features": float(log["sparsity/dead_features"]),
            }
        return rows

    def state(self) -> dict[str, Any]:
        """Everything later steps depend on."""
        return {name: _trainer_state(trainer) for name, trainer in self.trainers.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to a state of ``state()``."""
        for name, saved in state.items():
            _load_trainer_state(self.trainers[name], saved)


def training_bytes(jobs: Sequence[SaeJob], d_hook: Mapping[str, int], device: str) -> tuple[int, int]:
    """About how much memory a training takes: where it is trained, and in the machine's memory beside that."""
    weights = 4 * sum(2 * d_hook[job.hook] * job.config.d_sae for job in jobs)
    # Weights, gradients and Adam's two moments. As a checkpoint is written, weights and moments once more and their bytes; from a GPU they
    # are copied in between.
    return 7 * weights, (3 if device == "cpu" else 6) * weights


def check_training_memory(
    jobs: Sequence[SaeJob], d_hook: Mapping[str, int], buffered: int, device: str, what: str
) -> None:
    """Raise ``RequestError`` where there is not enough memory for a training and the ``buffered`` bytes of its stream."""
    trained, beside = training_bytes(jobs, d_hook, device)
    if device == "cpu":
        check_memory(trained + beside + buffered, what)
    else:
        check_memory(trained, what, device)
        check_memory(beside + buffered, what)


def train_saes(
    jobs: Sequence[SaeJob],
    stream: ActivationSource,
    n_steps: int,
    *,
    metadata: Mapping[str, Any] | None = None,
    run: Run | None = None,
    device: str = "cpu",
    on_log: Callable[[dict[str, Any]], None] = lambda row: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, SAE[Any]]:
    """Train several autoencoders in one pass over a stream; each comes back by its name as what it is used as, activation
    scale folded in.

    With ``run`` (an open run folder) there is a ``history.jsonl`` and a checkpoint to resume from: a run killed anywhere ends
    with the same weights. They are trained on ``device`` and come back on the CPU. ``metadata`` is written into each one's
    ``cfg.json`` beside SAELens's own. ``on_log`` gets about a hundred rows.

    Raises ``training.Stopped`` when ``should_stop()`` said so, ``WorkError`` for activations or losses that are not finite,
    ``RequestError`` for an architecture that SAELens does not train.
    """
    learner = SaeLearner(jobs, stream, n_steps, device)
    checkpoint = run.path / CHECKPOINT if run else None
    start = resume(learner, checkpoint) if checkpoint else 0
    if run:
        run.rewind_history(start, Row)
    log_every = min(max(1, n_steps // _LOGGED), _LOGGED)

    def after_step(done: int) -> None:
        if done % log_every == 0 or done == n_steps:
            row: dict[str, Any] = {"step": done, "tokens": done * stream.batch_size, "saes": learner.measured()}
            if run:
                run.append_history(row)
            on_log(row)

    train(
        learner, start, n_steps, checkpoint=checkpoint, checkpoint_every=min(10 * log_every, _CHECKPOINT_EVERY),
        after_step=after_step, should_stop=should_stop,
    )  # fmt: skip
    return {job.name: _finished(learner.trainers[job.name], job, metadata or {}) for job in jobs}


def train_sae(
    model: HookedModel,
    batches: Given,
    hook: str,
    config: SaeConfig | None = None,
    *,
    n_steps: int = 1000,
    batch_size: int = StreamPart.batch_size,
    buffer_batches: int = StreamPart.buffer_batches,
    seed: int = SeedPart.seed,
    on_log: Callable[[dict[str, Any]], None] = lambda row: None,
) -> SAE[Any]:
    """Train one autoencoder on a hook of a model, on the model's device: one of SAELens's, in eval mode, on the CPU.

    ``batches``: as for ``scan_neurons``; ``n_steps`` batches of ``batch_size`` tokens are drawn, over and over the corpus,
    from buffers of ``buffer_batches``. ``seed`` is that of their order; that of the weights is in ``config``. For several at
    once, or a run that can be resumed, see ``train_saes``. Raises as ``ActivationStream`` and ``train_saes`` do.
    """
    stream = ActivationStream(model, batches, [hook], batch_size=batch_size, buffer_batches=buffer_batches, seed=seed)
    job = SaeJob("sae", hook, config or SaeConfig())
    return train_saes([job], stream, n_steps, device=str(model.W_E.device), on_log=on_log)["sae"]


def _trainer(job: SaeJob, d_in: int, batch_size: int, n_steps: int, device: str) -> SAETrainer:
    config = job.config
    decay = int(config.decay_share * n_steps)
    settings = SAETrainerConfig(
        total_training_samples=n_steps * batch_size,
        train_batch_size_samples=batch_size,
        lr=config.learning_rate,
        lr_end=config.learning_rate,
        lr_warm_up_steps=min(config.warmup_steps, n_steps - decay - 1),
        lr_decay_steps=decay,
        dead_feature_window=config.dead_after,
        feature_sampling_window=max(config.dead_after, 100),
        logger=LoggingConfig(log_to_wandb=False),
        device=device,
    )
    # SAELens draws initial weights from the global generator: it is ours for the moment and nobody's afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(config.seed, "sae weights") % 2**63)
        sae = _training_sae(config, d_in)
    # Drawn on the CPU, so that they are the same wherever it is trained.
    sae.to(device)
    sae.cfg.device = device
    return SAETrainer(cfg=settings, sae=sae, data_provider=iter(()))


def _training_sae(config: SaeConfig, d_in: int) -> TrainingSAE[Any]:
    """An untrained one. Raises ``RequestError`` for an architecture without a line above, or one SAELens does not train."""
    known = _ARCHITECTURES.get(config.architecture)
    if known is None or known.saelens_name not in SAE_TRAINING_CLASS_REGISTRY:
        trained = [
            repr(name) for name, one in _ARCHITECTURES.items() if one.saelens_name in SAE_TRAINING_CLASS_REGISTRY
        ]
        raise RequestError(
            f"architecture = {config.architecture!r}: SAELens {version('sae-lens')} can train {', '.join(trained)}"
        )
    sae_class, config_class = get_sae_training_class(known.saelens_name)
    settings = config_class(
        d_in=d_in, d_sae=config.d_sae, normalize_activations=config.normalize, **known.fields(config)
    )
    return (known.trained_as or sae_class)(settings)


def _scale(stream: ActivationSource, hook: str) -> float:
    """What brings the mean norm to the square root of the dimension. Source: SAELens's ``ActivationScaler``."""
    norms = [
        stream.batch(index)[hook].norm(dim=1).double() for index in range(min(_SCALE_BATCHES, stream.buffer_batches))
    ]
    return float(stream.batch(0)[hook].shape[1] ** 0.5 / torch.cat(norms).mean())


def _trainer_state(trainer: SAETrainer) -> dict[str, Any]:
    return {
        "sae": dict(trainer.sae.state_dict()),
        "optimizer": trainer.optimizer.state_dict(),
        "lr_scheduler": trainer.lr_scheduler.state_dict(),
        "coefficients": {name: scheduler.state_dict() for name, scheduler in trainer.coefficient_schedulers.items()},
        "counters": {name: getattr(trainer, name) for name in _COUNTERS},
        "statistics": {name: getattr(trainer, name) for name in _STATISTICS},
        "scaling_factor": trainer.activation_scaler.scaling_factor,
    }


def _load_trainer_state(trainer: SAETrainer, state: dict[str, Any]) -> None:
    trainer.sae.load_state_dict(state["sae"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.lr_scheduler.load_state_dict(state["lr_scheduler"])
    for name, saved in state["coefficients"].items():
        trainer.coefficient_schedulers[name].load_state_dict(saved)
    for name, value in state["counters"].items():
        setattr(trainer, name, value)
    for name, value in state["statistics"].items():
        setattr(trainer, name, value.to(trainer.cfg.device))
    trainer.activation_scaler.scaling_factor = state["scaling_factor"]


def _finished(trainer: SAETrainer, job: SaeJob, metadata: Mapping[str, Any]) -> SAE[Any]:
    """The autoencoder with the activation scale folded into its weights and everything known written beside it."""
    trainer.set_final_sae_metadata()
    sae = trainer.sae.cpu()
    sae.cfg.device = "cpu"
    factor = trainer.activation_scaler.scaling_factor
    if factor is not None:
        sae.fold_activation_norm_scaling_factor(factor)
    sae.cfg.metadata.hook_name = job.hook
    sae.cfg.metadata.trained_with = {"mi-superposition": version("mi-superposition"), **job.config.flat()}
    for name, value in metadata.items():
        setattr(sae.cfg.metadata, name, value)
    return inference_sae(sae)
