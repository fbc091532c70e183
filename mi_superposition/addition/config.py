"""What an addition training run is made of. Imports no torch, so the command line can show it at once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from mi_superposition.errors import RequestError

Answer = Literal["masked", "autoregressive"]


@dataclass(frozen=True)
class AdditionConfig:
    """The full request of one training run; every default is the ``paper`` preset's."""

    preset: str = "paper"
    seed: int = 0
    answer: Answer = "masked"
    n_digits: int = 6
    n_heads: int = 32
    d_head: int = 2
    d_model: int = 128
    n_train: int | None = 25_000
    """Training problems; ``None`` for fresh problems at every step."""
    n_test: int = 2_000
    batch_size: int = 256
    epochs: int = 1000
    steps_per_epoch: int = 98
    learning_rate: float = 5e-3
    beta1: float = 0.9
    beta2: float = 0.98
    weight_decay: float = 0.01
    warmup_steps: int = 500
    decay: Literal["linear", "cosine"] = "cosine"
    restart_epoch: int | None = None
    """Where the learning rate, having fallen to zero, starts a second descent; ``None`` for one descent."""
    restart_learning_rate: float = 0.0
    restart_batch_size: int = 0
    """Larger batches make the second descent's steps less noisy than the first one's."""
    digit_focus: float = 0.0
    """Each answer digit's loss is weighted by itself to this power: 0 for the plain mean, 1 to work on laggards."""
    log_every_epochs: int = 5
    threads: int = 1
    """CPU threads: part of the request, because sums in another order end in other last bits."""

    def __post_init__(self) -> None:
        for name in ("n_heads", "d_head", "d_model", "n_test", "batch_size", "epochs", "steps_per_epoch", "threads"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name} = {getattr(self, name)}: must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise RequestError(f"seed = {self.seed}: must be 0 to {2**63 - 1}")
        if self.answer not in ("masked", "autoregressive"):
            raise RequestError(f"answer = {self.answer!r}: give 'masked' or 'autoregressive'")
        if self.restart_epoch is not None and self.n_train is not None:
            raise RequestError("restart_epoch needs fresh problems (n_train = None): a fixed set has one batch size")
        if self.learning_rate <= 0:
            raise RequestError(f"learning_rate = {self.learning_rate}: must be above 0")

    @property
    def n_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * self.steps_per_epoch


PRESETS: dict[str, AdditionConfig] = {
    "paper": AdditionConfig(),
    "exact": AdditionConfig(
        preset="exact",
        n_train=None,
        n_test=10_000,
        batch_size=1024,
        epochs=2700,
        steps_per_epoch=100,
        learning_rate=1e-2,
        decay="linear",
        weight_decay=0.0,
        restart_epoch=2400,
        restart_learning_rate=3e-3,
        restart_batch_size=4096,
        digit_focus=1.0,
        log_every_epochs=10,
    ),
}


def preset_config(preset: str, **changes: Any) -> AdditionConfig:
    """A preset with some fields changed; ``None`` keeps the preset's value. Raises ``RequestError``."""
    if preset not in PRESETS:
        raise RequestError(f"preset = {preset!r}: give {' or '.join(map(repr, PRESETS))}")
    given = {name: value for name, value in changes.items() if value is not None}
    base = PRESETS[preset]
    config = dataclasses.replace(base, **given)
    if base.restart_epoch is not None:
        # The second descent keeps its share of a run of another length.
        config = dataclasses.replace(config, restart_epoch=base.restart_epoch * config.epochs // base.epochs)
    if config.n_train is not None:
        # One epoch is one pass over the training problems, whatever the batch.
        config = dataclasses.replace(config, steps_per_epoch=-(-config.n_train // config.batch_size))
    return config
