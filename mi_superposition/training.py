"""One seeded training loop that can stop anywhere and go on exactly.

Everything random in step ``s`` is drawn from a generator made of (seed, purpose, s), so the only state is the
learner's: what a checkpoint holds. When a checkpoint is taken does not change the result. The loop knows nothing
of what it trains, and prints nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from mi_superposition.errors import WorkError, first_line, is_out_of_memory
from mi_superposition.files import read_state, write_state


@runtime_checkable
class Learner(Protocol):
    """What the loop trains."""

    def step(self, step: int) -> None:
        """Do update number ``step``, counted from 0."""

    def state(self) -> dict[str, Any]:
        """Everything later steps depend on: nested dicts and lists of tensors and JSON values."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to a state."""


class Stopped(Exception):
    """Raised after the work was asked to stop and had saved what it had done up to ``step``."""

    def __init__(self, step: int, what: str = "step"):
        super().__init__(f"stopped after {what} {step}")
        self.step = step


def derived_seed(seed: int, purpose: str, index: int = 0) -> int:
    """A number of 64 bits, independent for each (seed, purpose, index)."""
    digest = hashlib.sha256(f"{seed}|{purpose}|{index}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def seeded_generator(seed: int, purpose: str, index: int = 0, device: torch.device | None = None) -> torch.Generator:
    """An independent generator for each (seed, purpose, index), on the CPU by default."""
    number = derived_seed(seed, purpose, index)
    # torch takes the signed number of the same bits.
    signed = number - 2**64 if number >= 2**63 else number
    return torch.Generator(device or torch.device("cpu")).manual_seed(signed)


@contextmanager
def fixed_arithmetic(threads: int) -> Iterator[None]:
    """Inside, sums run in the order of ``threads`` threads and subnormal numbers are zero.

    The order decides the last bits of every sum, so a run that is to be repeated exactly names it. Subnormals are
    slow on a CPU, and the gradient of a confident model is full of them.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(False)


def resume(learner: Learner, checkpoint: Path) -> int:
    """Load the checkpoint into the learner if there is one; the number of steps already done. Raises ``WorkError`` for one that is damaged,
    or of another learner.
    """
    if not checkpoint.exists():
        return 0
    saved = read_state(checkpoint)
    try:
        learner.load_state(saved["learner"])
        return saved["step"]
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise WorkError(
            f"{str(checkpoint)!r} does not fit what is trained: begin again in a new folder ({first_line(error)})"
        ) from error


def train(
    learner: Learner,
    start: int,
    n_steps: int,
    *,
    checkpoint: Path | None = None,
    checkpoint_every: int = 1000,
    after_step: Callable[[int], None] = lambda step: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run steps ``start`` to ``n_steps - 1``.

    ``after_step(done)`` is called with the number of steps done, before any checkpoint of that step is written.
    ``should_stop()`` is asked after every step: when true, a checkpoint is written and ``Stopped`` raised.
    """
    for step in range(start, n_steps):
        learner.step(step)
        done = step + 1
        after_step(done)
        stopping = should_stop() and done < n_steps
        if checkpoint is not None and (done % checkpoint_every == 0 or done == n_steps or stopping):
            write_state(checkpoint, {"step": done, "learner": learner.state()})
        if stopping:
            raise Stopped(done)


class GradientLearner:
    """A module, its optimizers, a loss that draws its own batch from the step number, and a learning rate.

    ``loss(step)`` returns the scalar to descend; ``learning_rate(step)`` the rate of that step, for every optimizer. A loss that is not
    finite raises ``WorkError`` before it touches a parameter.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        loss: Callable[[int], Tensor],
        learning_rate: Callable[[int], float],
    ):
        self.module, self.optimizers, self.loss, self.learning_rate = module, optimizers, loss, learning_rate
        self._loss_sum, self._loss_count = 0.0, 0

    def step(self, step: int) -> None:
        """Descend once."""
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = self.learning_rate(step)
        loss = self.loss(step)
        value = loss.item()
        self.check(value, step)
        self.module.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        self.count(value)

    def check(self, value: float, step: int) -> None:
        """Raise ``WorkError`` for a loss that is not finite."""
        if not math.isfinite(value):
            raise WorkError(
                f"the loss is {value} at step {step}: the last checkpoint is kept; try a lower learning rate"
            )

    def count(self, value: float) -> None:
        """Take the loss of a step that was done into the mean."""
        self._loss_sum += value
        self._loss_count += 1

    def take_mean_loss(self) -> float:
        """Mean loss of the steps since this was last called, and start a new mean."""
        mean = self._loss_sum / max(self._loss_count, 1)
        self._loss_sum, self._loss_count = 0.0, 0
        return mean

    def state(self) -> dict[str, Any]:
        """Parameters and buffers, the optimizers' states, and the running mean of the loss."""
        return {
            "module": dict(self.module.state_dict()),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "loss": [self._loss_sum, self._loss_count],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to a state of ``state()``."""
        self.module.load_state_dict(state["module"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self._loss_sum, self._loss_count = state["loss"]


def warmup_then(decay: str, peak: float, warmup: int, n_steps: int) -> Callable[[int], float]:
    """Learning rate: linear from 0 to ``peak`` in ``warmup`` steps, then to 0 at ``n_steps``.

    ``decay`` is ``"linear"`` or ``"cosine"``. A function of the step alone, because a run goes on from any step: the schedulers of
    torch keep a state, and those of transformers warm up a step later, from a rate of 0, and differ in last bits.
    """

    def rate(step: int) -> float:
        if step < warmup:
            return peak * (step + 1) / warmup
        left = 1 - (step - warmup) / max(n_steps - warmup, 1)
        return peak * (left if decay == "linear" else 0.5 * (1 - math.cos(math.pi * left)))

    return rate
