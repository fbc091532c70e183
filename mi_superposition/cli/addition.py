"""Commands about the addition model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mi_superposition.cli.command import Command, progress, stop_on_signal


@dataclass(frozen=True)
class AdditionTrain(Command):
    """Train a one-layer attention-only model to add; run again on the same folder to go on where it stopped."""

    out: Path
    """Run folder."""
    preset: Literal["paper", "exact"] = "paper"
    """Recipe: 'paper' has 25,000 fixed problems, 'exact' draws fresh ones at every step."""
    seed: int = 0
    """Seed of problems, order and initial weights."""
    epochs: int | None = None
    """Passes over the problems (for 'exact': blocks of 100 steps). Default: the preset's."""
    answer: Literal["masked", "autoregressive"] = "masked"
    """'masked': all answer digits at once from '='. 'autoregressive': each from the digits before it."""
    digits: int = 6
    """Digits of each summand, 1 to 9; with 1 or 2 ask for fewer problems too."""
    train_problems: int | None = None
    """Fixed training problems. Default: the preset's (25,000 for 'paper', endless for 'exact')."""
    test_problems: int | None = None
    """Held-out problems. Default: the preset's (2,000 for 'paper', 10,000 for 'exact')."""
    heads: int = 32
    """Attention heads."""
    d_head: int = 2
    """Dimensions of each head."""
    d_model: int = 128
    """Dimensions of the residual stream."""
    batch_size: int | None = None
    """Problems in each step. Default: the preset's."""
    threads: int = 1
    """CPU threads. The weights are bit-identical between runs with the same number."""

    def run(self) -> str:
        """Train, or go on, or say that it is finished."""
        from mi_superposition.addition.config import preset_config
        from mi_superposition.addition.train import train_addition

        config = preset_config(
            self.preset,
            seed=self.seed,
            epochs=self.epochs,
            answer=self.answer,
            n_digits=self.digits,
            n_heads=self.heads,
            d_head=self.d_head,
            d_model=self.d_model,
            n_train=self.train_problems,
            n_test=self.test_problems,
            batch_size=self.batch_size,
            threads=self.threads,
        )
        with stop_on_signal() as stopping, progress("step", config.n_steps) as advance:
            done = 0

            def on_log(row: dict[str, float | int]) -> None:
                nonlocal done
                advance(int(row["step"]) - done, f"loss {row['loss']:.4f}, test {100 * row['test_accuracy']:.2f} %")
                done = int(row["step"])

            was_finished = not train_addition(config, self.out, on_log=on_log, should_stop=stopping)
        return f"{'finished already' if was_finished else 'trained model'}: {self.out}"
