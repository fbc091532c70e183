"""Trained toy models with the losses of all instances: in memory, on disk, and those that come with the package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.errors import WorkError
from mi_superposition.files import read_tensors, write_tensors
from mi_superposition.results import Result
from mi_superposition.runs import read_config
from mi_superposition.toy.config import StudyName, ToyConfig
from mi_superposition.toy.geometry import dimensions_per_feature, represented
from mi_superposition.toy.network import ToyNetwork, ToyWeights
from mi_superposition.training import seeded_generator

COMMAND = "toy train"
_BUNDLED = Path(__file__).parents[1] / "bundled" / "toy"
_WEIGHTS = "weights.safetensors"


@dataclass(frozen=True, repr=False)
class ToyModels(Result):
    """The kept instances of each setting, the lowest held-out loss first, and the losses of all.

    ``config`` has every default filled in. ``constant_loss`` is the loss of the best constant output, ``untrained_loss`` that
    of the initial weights: both on the held-out inputs, as ``loss`` is. ``snapshots`` are the kept instances' weights by number
    of steps.
    """

    DRAWN_BY: ClassVar[str] = "mi_superposition.pages.toy.train:figure"

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
    def loss_ratio(self) -> Float[Tensor, "setting instance"]:
        """Held-out loss relative to that of the best constant output: 1 where nothing was learnt."""
        return self.loss / self.constant_loss[:, None].clamp_min(1e-30)

    @property
    def untrained_loss_ratio(self) -> Float[Tensor, "setting instance"]:
        """``loss_ratio`` of the initial weights."""
        return self.untrained_loss / self.constant_loss[:, None].clamp_min(1e-30)

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

    def summary(self) -> str:
        """The loss of the best instances next to that of untrained ones."""
        shape, (n_settings, n_instances) = self.config.architecture, self.loss.shape
        return (
            f"{n_instances} instances under {n_settings} setting{'s' * (n_settings > 1)} of {shape.network} models with {shape.n_features} "
            f"features and {shape.n_hidden} hidden dimensions, task {self.config.task!r}: loss relative to the best constant "
            f"{float(self.loss_ratio.amin(dim=1).median()):.3g} (median of the best instances; untrained "
            f"{float(self.untrained_loss_ratio.median()):.3g})"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per setting and kept instance, the best first: its setting, held-out loss, features with a norm above one half,
        and hidden dimensions per feature, m / ‖W‖².

        ``probability`` and ``importance`` are those of the first feature and output; where they differ, ``last_probability`` and
        ``last_importance`` are those of the last.
        """
        settings, n_kept = self.config.settings, self.kept.shape[1]
        columns: dict[str, list[float]] = {}
        for name in ("probability", "importance"):
            values = [getattr(setting, name) for setting in settings]
            ends = [(value[0], value[-1]) if isinstance(value, tuple) else (value, value) for value in values]
            columns[name] = [first for first, _ in ends]
            if any(first != last for first, last in ends):
                columns[f"last_{name}"] = [last for _, last in ends]
        columns |= {name: [getattr(setting, name) for setting in settings] for name in ("dropout", "l1")}
        frame = pd.DataFrame(columns).loc[[row for row in range(len(settings)) for _ in range(n_kept)]]
        frame.index = pd.MultiIndex.from_product([range(len(settings)), range(n_kept)], names=["setting", "kept"])
        W = self.weights.W_in
        return frame.assign(
            loss=self.loss.gather(1, self.kept).flatten().tolist(),
            features_represented=represented(W).flatten().int().tolist(),
            dimensions_per_feature=dimensions_per_feature(W).flatten().tolist(),
        )


def network_of(config: ToyConfig) -> ToyNetwork:
    """The network that a run trains."""
    shape = config.architecture
    hidden = "linear" if shape.network == "bottleneck" else config.activation
    return ToyNetwork(hidden, config.activation, tied=shape.tied)


def initial_weights(config: ToyConfig) -> ToyWeights:
    """Xavier-normal weights (Glorot & Bengio 2010), no bias; from the seed, on the CPU."""
    shape, seed = config.architecture, config.random.seed
    many = (len(config.settings), config.n_instances)
    spread = (2 / (shape.n_features + shape.n_hidden)) ** 0.5
    generator = seeded_generator(seed, "W_in")
    W_in = spread * torch.randn(*many, shape.n_hidden, shape.n_features, generator=generator)
    if shape.tied:
        W_out = transposed(W_in)
    else:
        spread = (2 / (shape.n_outputs + shape.n_hidden)) ** 0.5
        generator = seeded_generator(seed, "W_out")
        W_out = spread * torch.randn(*many, shape.n_outputs, shape.n_hidden, generator=generator)
    return ToyWeights(W_in, W_out, torch.zeros(*many, shape.n_outputs))


def load_toy(folder: Path) -> ToyModels:
    """The models in a finished run folder of ``toy train``.

    Raises ``RequestError`` when the folder holds none, or one of version 0.1 with settings that this version has no options
    for, and ``WorkError`` when it is damaged.
    """
    config = read_config(folder, ToyConfig, COMMAND).resolved()
    tied = config.architecture.tied
    tensors, _ = read_tensors(folder / _WEIGHTS)
    shape = config.architecture
    sizes = {
        "W_in": (config.n_settings, config.n_kept, shape.n_hidden, shape.n_features),
        "loss": (config.n_settings, config.n_instances),
    }
    for name, size in sizes.items():
        if name in tensors and tensors[name].shape != size:
            raise WorkError(
                f"{str(folder / _WEIGHTS)!r} is not of its manifest: {name} is {list(tensors[name].shape)}, by the options {list(size)}"
            )

    def weights(start: str) -> ToyWeights:
        W_in, b = tensors[start + "W_in"].float(), tensors[start + "b"].float()
        return ToyWeights(W_in, transposed(W_in) if tied else tensors[start + "W_out"].float(), b)

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
    tensors = {
        "kept": models.kept,
        "loss": models.loss,
        "untrained_loss": models.untrained_loss,
        "constant_loss": models.constant_loss,
    }
    for start, weights in {"": models.weights, **{f"{step}/": kept for step, kept in models.snapshots.items()}}.items():
        tensors |= {f"{start}W_in": weights.W_in, f"{start}b": weights.b}
        if not models.config.architecture.tied:
            tensors[f"{start}W_out"] = weights.W_out
    write_tensors(folder / _WEIGHTS, tensors)


def bundled_study(name: StudyName) -> Path:
    """The finished run of ``toy study NAME`` that comes with the package; its trainings are in its folder ``runs``."""
    return _BUNDLED / name


def transposed(
    W_in: Float[Tensor, "setting instance hidden feature"],
) -> Float[Tensor, "setting instance feature hidden"]:
    """The output weights that go with tied input weights."""
    return rearrange(W_in, "setting instance hidden feature -> setting instance feature hidden")
