"""Training many toy models at once: the best of each setting are kept, the losses of all reported."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.errors import WorkError
from mi_superposition.files import write_state
from mi_superposition.models import device_of
from mi_superposition.progress import SILENT, Progress, Steps
from mi_superposition.room import check_memory
from mi_superposition.runs import CHECKPOINT, Outcome, Run, open_run
from mi_superposition.toy.buffers import Buffers
from mi_superposition.toy.config import ToyConfig
from mi_superposition.toy.models import COMMAND, ToyModels, initial_weights, load_toy, network_of, save_toy, transposed
from mi_superposition.toy.network import Penalties, ToyWeights
from mi_superposition.toy.tasks import InputSampler, targets
from mi_superposition.training import fixed_arithmetic, resume, seeded_generator, train, warmup_then

# Held-out loss is the mean over so many batches.
_HELD_OUT_BATCHES = 16
_LOGGED = 100


class _Row(TypedDict):
    step: int
    loss_min: list[float]
    loss_median: list[float]


def train_toy(config: ToyConfig, out: Path | None = None, progress: Progress = SILENT) -> ToyModels:
    """Train ``config.n_instances`` models under each of ``config.settings``, all at once.

    With ``out`` in a run folder, as ``train_into`` does, which is then read. Raises ``RequestError`` where there is no such
    device, ``training.Stopped`` when ``progress`` is asked to stop, and ``WorkError`` naming the instance whose loss is not
    finite.
    """
    if out is None:
        config = _on_device(config)
        with fixed_arithmetic(config.threads.number):
            return _train(config, None, progress)
    train_into(config, out, progress)
    return load_toy(out)


def train_into(config: ToyConfig, out: Path, progress: Progress = SILENT) -> Outcome:
    """Train in the run folder ``out``, resuming where an earlier call was cut off.

    Leaves ``weights.safetensors``, ``history.jsonl`` with about a hundred rows (``step`` and, by setting, the lowest and the
    median training loss) and ``metrics.json``. The bytes are the same however often the run was interrupted. Raises as
    ``train_toy`` and ``open_run`` do; after a ``WorkError`` the folder keeps the state before it.
    """
    config = _on_device(config)
    with open_run(out, COMMAND, config) as run:
        if run.finished:
            return Outcome(out, finished_already=True)
        with fixed_arithmetic(config.threads.number):
            _train(config, run, progress)
    return Outcome(out, finished_already=False)


def _on_device(config: ToyConfig) -> ToyConfig:
    """Every default filled in, and the device named. Raises ``RequestError`` where there is not enough memory."""
    device = device_of(config.device.device)
    instances = f"{config.n_settings:,} settings of {config.n_instances:,} instances"
    check_memory(config.n_bytes, f"a training of {instances} (n_features, n_hidden, batch_size)", device)
    return config.resolved().replace(device=device)


class ToyLearner:
    """All instances of all settings, one Adam step at a time, each by its own loss."""

    def __init__(self, config: ToyConfig):
        self.config = config
        self.device = torch.device(device_of(config.device.device))
        self.network = network_of(config)
        self._buffers = Buffers()
        self.sampler = InputSampler(config, self.device)
        self.penalties = _penalties(config, self.device)
        weights = initial_weights(config)
        self.W_in, self.b = weights.W_in.to(self.device), weights.b.to(self.device)
        self.W_out = None if config.architecture.tied else weights.W_out.to(self.device)
        trained = [self.W_in] + ([] if self.W_out is None else [self.W_out]) + ([self.b] if config.bias else [])
        self.optimizer = torch.optim.Adam(trained, lr=config.learning_rate, fused=True)
        self.rate = (
            (lambda step: config.learning_rate)
            if config.decay == "constant"
            else warmup_then(config.decay, config.learning_rate, 0, config.n_steps)
        )
        self.snapshots: dict[int, ToyWeights] = {}
        self.losses = torch.zeros(weights.b.shape[:2])
        dropout = torch.tensor([setting.dropout for setting in config.settings], device=self.device)
        self._kept_share = (1 - dropout)[:, None, None, None] if dropout.any() else None

    @property
    def weights(self) -> ToyWeights:
        """As they are now; views, not copies."""
        return ToyWeights(self.W_in, transposed(self.W_in) if self.W_out is None else self.W_out, self.b)

    @torch.no_grad()
    def step(self, step: int) -> None:
        """Descend once. Raises ``WorkError`` before an instance's loss that is not finite touches a weight."""
        inputs = self.sampler.draw("batch", step, self.config.batch_size)
        wanted = targets(self.config.task, inputs, self._buffers)
        losses, gradient = self.network.loss_and_gradient(
            self.weights, inputs, wanted, self.penalties, self._dropout(step)
        )
        _check_finite(losses, f"loss at step {step}", self.config)
        self.losses = losses
        self.W_in.grad, self.b.grad = gradient.W_in, gradient.b
        if self.W_out is not None:
            self.W_out.grad = gradient.W_out
        self.optimizer.param_groups[0]["lr"] = self.rate(step)
        self.optimizer.step()

    def _dropout(self, step: int) -> Tensor | None:
        """Factors of the hidden activations: 0, or one over the probability of staying. Each instance has its own."""
        if self._kept_share is None:
            return None
        shape = (*self.W_in.shape[:3], self.config.batch_size)
        generator = seeded_generator(self.config.random.seed, "dropout", step, self.device)
        stays = torch.rand(shape, generator=generator, device=self.device) < self._kept_share
        return stays / self._kept_share

    @torch.no_grad()
    def held_out(self) -> tuple[Float[Tensor, "setting instance"], Float[Tensor, " setting"]]:
        """Loss on held-out inputs, of every instance and of the best constant output."""
        total = torch.zeros(self.b.shape[:2], dtype=torch.float64, device=self.device)
        first = second = torch.zeros(len(self.b), self.b.shape[-1], dtype=torch.float64, device=self.device)
        for index in range(_HELD_OUT_BATCHES):
            inputs = self.sampler.draw("held out", index, self.config.batch_size)
            wanted = targets(self.config.task, inputs)
            total += self.network.loss(self.weights, inputs, wanted, self.penalties)
            first = first + wanted.double().mean(dim=-1) / _HELD_OUT_BATCHES
            second = second + wanted.double().square().mean(dim=-1) / _HELD_OUT_BATCHES
        importance = 1 if self.penalties.importance is None else self.penalties.importance
        constant = ((second - first.square()) * importance).mean(dim=1)
        return (total / _HELD_OUT_BATCHES).float().cpu(), constant.float().cpu()

    def keep_snapshot(self, step: int) -> None:
        """Remember the weights of all instances, if the configuration asks for it."""
        if step in self.config.snapshots:
            self.snapshots[step] = ToyWeights(*(part.clone() for part in _parts(self.weights)))

    def state(self) -> dict[str, Any]:
        """Weights, Adam's moments, and the snapshots taken so far."""
        return {
            "weights": list(_parts(self.weights)),
            "optimizer": self.optimizer.state_dict(),
            "snapshots": {str(step): list(_parts(weights)) for step, weights in self.snapshots.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to a state of ``state()``."""
        saved = ToyWeights(*state["weights"])
        self.W_in.copy_(saved.W_in)
        self.b.copy_(saved.b)
        if self.W_out is not None:
            self.W_out.copy_(saved.W_out)
        self.optimizer.load_state_dict(state["optimizer"])
        self.snapshots = {int(step): ToyWeights(*parts) for step, parts in state["snapshots"].items()}


def _train(config: ToyConfig, run: Run | None, progress: Progress) -> ToyModels:
    learner = ToyLearner(config)
    untrained, constant = learner.held_out()
    checkpoint = run.path / CHECKPOINT if run else None
    start = resume(learner, checkpoint) if checkpoint else 0
    if run:
        run.rewind_history(start, _Row)
    if start == 0:
        learner.keep_snapshot(0)
    log_every = max(1, config.n_steps // _LOGGED)
    steps = Steps(progress)
    steps.at(start)
    began = time.perf_counter()
    done = start

    def after_step(now: int) -> None:
        nonlocal done
        done = now
        learner.keep_snapshot(done)
        if done % log_every == 0 or done == config.n_steps:
            lowest = learner.losses.amin(dim=1)
            if run:
                median = learner.losses.median(dim=1).values
                run.append_history({"step": done, "loss_min": lowest.tolist(), "loss_median": median.tolist()})
            steps.at(done, f"best loss {float(lowest.min()):.5f}")

    try:
        train(
            learner,
            start,
            config.n_steps,
            checkpoint=checkpoint,
            checkpoint_every=10 * log_every,
            after_step=after_step,
            should_stop=progress.should_stop,
        )
        seconds = time.perf_counter() - began
        losses, _ = learner.held_out()
        _check_finite(losses, "held-out loss", config)
    except WorkError as error:
        if checkpoint is None:
            raise
        # A loss is looked at before it touches a weight, so what there is is the last good state.
        if done < config.n_steps:
            write_state(checkpoint, {"step": done, "learner": learner.state()})
        raise WorkError(f"{error}; {str(checkpoint)!r} keeps the state after step {done}") from error
    kept = losses.argsort(dim=1, stable=True)[:, : config.n_kept]
    models = ToyModels(
        config=config,
        weights=_instances(learner.weights, kept),
        kept=kept,
        loss=losses,
        untrained_loss=untrained,
        constant_loss=constant,
        snapshots={step: _instances(weights, kept) for step, weights in learner.snapshots.items()},
    )
    if run:
        save_toy(models, run.path)
        run.finish(
            {
                "best_loss": models.best_loss.tolist(),
                "median_loss": losses.median(dim=1).values.tolist(),
                "worst_loss": losses.amax(dim=1).tolist(),
                "untrained_loss": untrained.median(dim=1).values.tolist(),
                "constant_loss": constant.tolist(),
                "steps": config.n_steps,
                # Of this call alone: a run that was interrupted does not know how long it waited.
                "steps_per_second": (config.n_steps - start) / seconds,
            }
        )
    return models


def _check_finite(losses: Float[Tensor, "setting instance"], what: str, config: ToyConfig) -> None:
    """Raise ``WorkError`` naming the first instance whose loss is not finite."""
    if not bool(losses.isfinite().all()):
        setting, instance = (~losses.isfinite()).nonzero()[0].tolist()
        raise WorkError(
            f"the {what} of instance {instance} of setting {setting} ({config.settings[setting]}) is "
            f"{float(losses[setting, instance])}: try a lower learning rate"
        )


def _penalties(config: ToyConfig, device: torch.device) -> Penalties:
    given = [torch.tensor(setting.importance, dtype=torch.float32) for setting in config.settings]
    importance = torch.stack([value.expand(config.architecture.n_outputs) for value in given]).to(device)
    l1 = torch.tensor([setting.l1 for setting in config.settings], dtype=torch.float32, device=device)
    return Penalties(None if bool((importance == 1).all()) else importance, l1 if bool(l1.any()) else None)


def _parts(weights: ToyWeights) -> tuple[Tensor, Tensor, Tensor]:
    return weights.W_in, weights.W_out, weights.b


def _instances(weights: ToyWeights, chosen: Int[Tensor, "setting kept"]) -> ToyWeights:
    """Some instances of each setting, on the CPU."""
    settings = torch.arange(len(chosen))[:, None]
    return ToyWeights(*(part.cpu()[settings, chosen].contiguous() for part in _parts(weights)))
