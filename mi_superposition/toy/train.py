"""Training many toy models at once: the best of each setting kept, the spread of all reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.errors import RequestError, WorkError
from mi_superposition.runs import MANIFEST, Run, open_run, read_manifest, read_tensors, write_state, write_tensors
from mi_superposition.toy.config import ToyConfig
from mi_superposition.toy.memory import Memory
from mi_superposition.toy.network import Penalties, ToyNetwork, ToyWeights
from mi_superposition.toy.tasks import InputSampler, targets
from mi_superposition.training import fixed_arithmetic, resume, seeded_generator, train, warmup_then

COMMAND = "toy train"
_CHECKPOINT, _WEIGHTS = "checkpoint.safetensors", "weights.safetensors"
# Held-out loss is the mean over so many batches.
_HELD_OUT_BATCHES = 16
_LOGGED = 100


@dataclass(frozen=True)
class ToyModels:
    """What a run leaves: the kept instances of each setting, the lowest held-out loss first, and the losses of all.

    ``constant_loss`` is the loss of the best constant output, ``untrained_loss`` that of the initial weights: both on
    the held-out inputs, as ``loss`` is.
    """

    config: ToyConfig
    weights: ToyWeights
    kept: Int[Tensor, "setting kept"]
    loss: Float[Tensor, "setting instance"]
    untrained_loss: Float[Tensor, "setting instance"]
    constant_loss: Float[Tensor, " setting"]
    snapshots: Mapping[int, ToyWeights]

    @property
    def best_loss(self) -> Float[Tensor, " setting"]:
        """Lowest held-out loss of each setting."""
        return self.loss.amin(dim=1)

    @property
    def W_in(self) -> Float[Tensor, "setting hidden feature"]:
        """The best instance's first layer: column i is the direction of feature i."""
        return self.weights.W_in[:, 0]

    @property
    def W_out(self) -> Float[Tensor, "setting output hidden"]:
        """The best instance's second layer."""
        return self.weights.W_out[:, 0]

    @property
    def b(self) -> Float[Tensor, "setting output"]:
        """The best instance's output bias."""
        return self.weights.b[:, 0]


def network_of(config: ToyConfig) -> ToyNetwork:
    """The network that a run trains."""
    hidden = "linear" if config.model == "bottleneck" else config.activation
    return ToyNetwork(hidden, config.activation, tied=bool(config.tied))


def train_toy(
    config: ToyConfig,
    out: Path | None = None,
    *,
    on_log: Callable[[dict[str, Any]], None] = lambda row: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> ToyModels:
    """Train ``config.n_instances`` models under each of ``config.settings``, all at once.

    With ``out`` in a run folder: killed anywhere and called again it goes on, and ends with the same bytes; called again
    afterwards it reads what is there. ``on_log`` gets about a hundred rows: ``step`` and, by setting, the least and the
    median training loss. Raises ``RequestError`` as ``open_run`` does and where there is no such device,
    ``training.Stopped`` when ``should_stop()`` said so, ``WorkError`` naming the instance whose loss is not finite: the run
    folder keeps the state before it.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise RequestError("device = 'cuda': torch finds no such device here, give 'cpu'")
    if out is None:
        with fixed_arithmetic(config.threads):
            return _train(config, None, on_log, should_stop)
    with open_run(out, COMMAND, config.to_json()) as run:
        if run.finished:
            # Left behind by a process killed in its very last moment.
            (run.path / _CHECKPOINT).unlink(missing_ok=True)
            return load_toy(out)
        with fixed_arithmetic(config.threads):
            return _train(config, run, on_log, should_stop)


def load_toy(folder: Path) -> ToyModels:
    """Read a finished run. Raises ``RequestError`` when the folder holds none, ``WorkError`` when it is damaged."""
    try:
        config = ToyConfig.from_json(read_manifest(folder, COMMAND)["config"])
    except (KeyError, TypeError) as error:
        raise WorkError(f"{str(folder / MANIFEST)!r} is damaged: it names no such configuration ({error})") from error
    tensors, _ = read_tensors(folder / _WEIGHTS)

    def weights(start: str) -> ToyWeights:
        W_in, b = tensors[start + "W_in"].float(), tensors[start + "b"].float()
        return ToyWeights(W_in, _transposed(W_in) if config.tied else tensors[start + "W_out"].float(), b)

    try:
        return ToyModels(
            config,
            weights(""),
            tensors["kept"],
            tensors["loss"],
            tensors["untrained_loss"],
            tensors["constant_loss"],
            {step: weights(f"{step}/") for step in config.snapshots},
        )
    except KeyError as error:
        raise WorkError(f"{str(folder / _WEIGHTS)!r} is damaged: it lacks {error}") from error


def save_toy(models: ToyModels, folder: Path) -> None:
    """Write the tensors of a run."""
    found = {
        "kept": models.kept,
        "loss": models.loss,
        "untrained_loss": models.untrained_loss,
        "constant_loss": models.constant_loss,
    }
    for start, weights in {"": models.weights, **{f"{step}/": kept for step, kept in models.snapshots.items()}}.items():
        found |= {f"{start}W_in": weights.W_in, f"{start}b": weights.b}
        if not models.config.tied:
            found[f"{start}W_out"] = weights.W_out
    write_tensors(folder / _WEIGHTS, found)


def initial_weights(config: ToyConfig) -> ToyWeights:
    """Xavier-normal weights (Glorot & Bengio 2010), no bias; from the seed."""
    device = torch.device(config.device)
    shape = (len(config.settings), config.n_instances)
    spread = (2 / (config.n_features + config.n_hidden)) ** 0.5
    generator = seeded_generator(config.seed, "W_in")
    W_in = spread * torch.randn(*shape, config.n_hidden, config.n_features, generator=generator)
    if config.tied:
        W_out = _transposed(W_in)
    else:
        spread = (2 / (config.n_outputs + config.n_hidden)) ** 0.5
        generator = seeded_generator(config.seed, "W_out")
        W_out = spread * torch.randn(*shape, config.n_outputs, config.n_hidden, generator=generator)
    b = torch.zeros(*shape, config.n_outputs)
    return ToyWeights(W_in.to(device), W_out.to(device), b.to(device))


class ToyLearner:
    """All instances of all settings, one Adam step at a time, each by its own loss."""

    def __init__(self, config: ToyConfig):
        self.config = config
        self.device = torch.device(config.device)
        self.network = network_of(config)
        self._memory = Memory()
        self.sampler = InputSampler(config, self.device)
        self.penalties = _penalties(config, self.device)
        weights = initial_weights(config)
        self.b = weights.b
        self.W_in = weights.W_in
        self.W_out = weights.W_out if not config.tied else None
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
        return ToyWeights(self.W_in, _transposed(self.W_in) if self.W_out is None else self.W_out, self.b)

    @torch.no_grad()
    def step(self, step: int) -> None:
        """Descend once. Raises ``WorkError`` before an instance's loss that is not finite touches a weight."""
        inputs = self.sampler.draw("batch", step, self.config.batch_size)
        wanted = targets(self.config.task, inputs, self._memory)
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
        """What hidden activations are multiplied with: 0, or what makes up for it. Each instance has its own."""
        if self._kept_share is None:
            return None
        shape = (*self.b.shape[:2], self.config.n_hidden, self.config.batch_size)
        generator = seeded_generator(self.config.seed, "dropout", step, self.device)
        stays = torch.rand(shape, generator=generator, device=self.device) < self._kept_share
        return stays / self._kept_share

    @torch.no_grad()
    def held_out(self) -> tuple[Float[Tensor, "setting instance"], Float[Tensor, " setting"]]:
        """Loss on inputs never trained on, of every instance and of the best constant output."""
        total = torch.zeros(self.b.shape[:2], dtype=torch.float64, device=self.device)
        first = second = torch.zeros(len(self.b), self.config.n_outputs, dtype=torch.float64, device=self.device)
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


def _train(
    config: ToyConfig,
    run: Run | None,
    on_log: Callable[[dict[str, Any]], None],
    should_stop: Callable[[], bool],
) -> ToyModels:
    learner = ToyLearner(config)
    untrained, constant = learner.held_out()
    checkpoint = run.path / _CHECKPOINT if run else None
    start = resume(learner, checkpoint) if checkpoint else 0
    if run:
        run.rewind_history(start)
    if start == 0:
        learner.keep_snapshot(0)
    log_every = max(1, config.n_steps // _LOGGED)
    began = time.perf_counter()
    done = start

    def after_step(now: int) -> None:
        nonlocal done
        done = now
        learner.keep_snapshot(done)
        if done % log_every == 0 or done == config.n_steps:
            row = {
                "step": done,
                "loss_min": learner.losses.amin(dim=1).tolist(),
                "loss_median": learner.losses.median(dim=1).values.tolist(),
            }
            if run:
                run.append_history(row)
            on_log(row)

    try:
        train(
            learner,
            start,
            config.n_steps,
            checkpoint=checkpoint,
            checkpoint_every=10 * log_every,
            after_step=after_step,
            should_stop=should_stop,
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
        (run.path / _CHECKPOINT).unlink(missing_ok=True)
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
    importance = torch.stack([value.expand(config.n_outputs) for value in given]).to(device)
    l1 = torch.tensor([setting.l1 for setting in config.settings], dtype=torch.float32, device=device)
    return Penalties(None if bool((importance == 1).all()) else importance, l1 if bool(l1.any()) else None)


def _transposed(W_in: Tensor) -> Tensor:
    return rearrange(W_in, "setting instance hidden feature -> setting instance feature hidden")


def _parts(weights: ToyWeights) -> tuple[Tensor, Tensor, Tensor]:
    return weights.W_in, weights.W_out, weights.b


def _instances(weights: ToyWeights, chosen: Int[Tensor, "setting kept"]) -> ToyWeights:
    """Some instances of each setting, on the CPU."""
    settings = torch.arange(len(chosen))[:, None]
    return ToyWeights(*(part.cpu()[settings, chosen].contiguous() for part in _parts(weights)))
