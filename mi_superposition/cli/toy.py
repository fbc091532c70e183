"""Commands about toy models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mi_superposition.cli.command import Command, progress, stop_on_signal, where


@dataclass(frozen=True)
class ToyTrain(Command):
    """Train many toy models at once; run again on the same folder to go on where it stopped."""

    out: Path
    """Run folder."""
    task: Literal["reconstruct", "abs", "square", "and", "or", "max"] = "reconstruct"
    """What the outputs should be. 'and', 'or' and 'max' take neighbouring features in pairs."""
    model: Literal["bottleneck", "neuron", "computation"] | None = None
    """'bottleneck': act(W^T W x + b); 'neuron': act(W^T act(W x) + b); 'computation': act(W2 act(W1 x) + b). Default:
    'bottleneck' to reconstruct, 'computation' for any other task."""
    activation: Literal["relu", "gelu", "linear"] = "relu"
    """Activation of the output, and of the hidden layer where the model has one."""
    weights: Literal["tied", "free"] | None = None
    """'tied': the output weights are the input weights transposed. Default: 'tied', 'free' for 'computation'."""
    bias: bool = True
    """Whether outputs have a bias."""
    inputs: Literal["uniform", "signed", "normal", "binary", "ternary"] | None = None
    """What a feature is when it is not zero: uniform in [0, 1], uniform in [-1, 1], standard normal, 1, or -1 or 1.
    Default: 'uniform' to reconstruct, 'binary' for 'and' and 'or', 'signed' otherwise."""
    sets: Literal["independent", "correlated", "anticorrelated"] = "independent"
    """Neighbouring features may be non-zero together, or one of them at most."""
    set_size: int = 2
    """Features in each such set."""
    features: int | None = None
    """Input features. Default: 5, or 6 for tasks of pairs."""
    hidden: int | None = None
    """Hidden dimensions. Default: 2 for a bottleneck, as many as features otherwise."""
    probability: tuple[float, ...] = (0.1,)
    """Probability that a feature (or a set of them) is not zero (1 - sparsity), 0 to 1. Several make a grid with the options below."""
    probability_ratio: float = 1.0
    """Each feature's probability is this times the one before: below 1 for sparsity that differs by feature."""
    importance_ratio: tuple[float, ...] = (1.0,)
    """Each output's importance is this times the one before."""
    importance: tuple[float, ...] | None = None
    """Importance of each output, in place of a ratio: as many numbers as outputs."""
    dropout: tuple[float, ...] = (0.0,)
    """Share of hidden activations set to zero in training, 0 to below 1."""
    l1: tuple[float, ...] = (0.0,)
    """Weight of the mean sum of hidden activations' magnitudes in the loss."""
    instances: int = 16
    """Models trained for each combination; the best is kept, the losses of all are reported."""
    steps: int = 10_000
    """Optimizer steps."""
    batch_size: int = 1024
    """Inputs in each step."""
    learning_rate: float = 1e-3
    """Adam's learning rate."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls to zero, if it does."""
    seed: int = 0
    """Seed of inputs and initial weights."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train."""
    threads: int = 2
    """CPU threads. The weights are bit-identical between runs with the same number."""

    def run(self) -> str:
        """Train, or go on, or say that it is finished."""
        from mi_superposition.toy.config import PAIRED, ToyConfig, geometric, setting_grid
        from mi_superposition.toy.train import train_toy

        model = self.model or ("bottleneck" if self.task == "reconstruct" else "computation")
        features = (6 if self.task in PAIRED else 5) if self.features is None else self.features
        hidden = self.hidden if self.hidden is not None else 2 if model == "bottleneck" else features
        outputs = features // 2 if self.task in PAIRED else features
        config = ToyConfig(
            model=model,
            task=self.task,
            activation=self.activation,
            inputs=self.inputs or "",
            sets=self.sets,
            set_size=self.set_size,
            n_features=features,
            n_hidden=hidden,
            tied=None if self.weights is None else self.weights == "tied",
            bias=self.bias,
            settings=setting_grid(
                probability=[_by_feature(value, self.probability_ratio, features) for value in self.probability],
                importance=[self.importance]
                if self.importance is not None
                else [1.0 if ratio == 1 else geometric(1.0, ratio, outputs) for ratio in self.importance_ratio],
                dropout=self.dropout,
                l1=self.l1,
            ),
            n_instances=self.instances,
            n_steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            decay=self.decay,
            seed=self.seed,
            device=self.device,
            threads=self.threads,
        )
        done = 0
        with stop_on_signal() as stopping, progress("step", config.n_steps) as advance:

            def on_log(row: dict[str, Any]) -> None:
                nonlocal done
                advance(row["step"] - done, f"least loss {min(row['loss_min']):.5f}")
                done = row["step"]

            train_toy(config, self.out, on_log=on_log, should_stop=stopping)
        # A finished run does no step.
        return where(done == 0, self.out)


def _by_feature(first: float, ratio: float, n: int) -> float | tuple[float, ...]:
    from mi_superposition.toy.config import geometric

    return first if ratio == 1 else geometric(first, ratio, n)


@dataclass(frozen=True)
class ToyStudy(Command):
    """Run one of the nine studies of toy models: train what it needs, measure it, write its page."""

    name: Annotated[
        Literal[
            "directions", "sparsity", "neurons", "absolute", "logic", "dropout", "penalties", "width", "correlation"
        ],
        tyro.conf.Positional,
    ]
    """Which one; README says what each asks."""
    out: Path
    """Run folder; the page is page/toy-NAME.html below it."""
    full: bool = False
    """The size of the source, where the usual one is smaller: minutes become an hour."""
    instances: int | None = None
    """Models trained for each setting. Default: the study's."""
    steps: int | None = None
    """Optimizer steps. Default: the study's."""
    seed: int = 0
    """Seed of inputs and initial weights."""

    def run(self) -> str:
        """Run, or go on, or say that it is finished."""
        from mi_superposition.studies.toy import STUDIES
        from mi_superposition.studies.toy.study import StudySize, train_study

        study = STUDIES[self.name]
        size = StudySize(self.full, self.instances, self.steps, self.seed)
        total = sum(config.n_steps for config in study.sized(size).values())
        with stop_on_signal() as stopping, progress("step", total) as advance:
            finished = train_study(study, self.out, size, on_step=advance, should_stop=stopping)
        return where(finished, self.out)
