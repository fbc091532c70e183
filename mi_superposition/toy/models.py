"""What a training run leaves: models with the losses of all instances, in memory and on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.errors import WorkError
from mi_superposition.runs import MANIFEST, read_manifest, read_tensors, write_tensors
from mi_superposition.toy.config import ToyConfig
from mi_superposition.toy.network import ToyNetwork, ToyWeights
from mi_superposition.training import seeded_generator

COMMAND = "toy train"
_WEIGHTS = "weights.safetensors"


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


def initial_weights(config: ToyConfig) -> ToyWeights:
    """Xavier-normal weights (Glorot & Bengio 2010), no bias; from the seed."""
    device = torch.device(config.device)
    shape = (len(config.settings), config.n_instances)
    spread = (2 / (config.n_features + config.n_hidden)) ** 0.5
    generator = seeded_generator(config.seed, "W_in")
    W_in = spread * torch.randn(*shape, config.n_hidden, config.n_features, generator=generator)
    if config.tied:
        W_out = transposed(W_in)
    else:
        spread = (2 / (config.n_outputs + config.n_hidden)) ** 0.5
        generator = seeded_generator(config.seed, "W_out")
        W_out = spread * torch.randn(*shape, config.n_outputs, config.n_hidden, generator=generator)
    b = torch.zeros(*shape, config.n_outputs)
    return ToyWeights(W_in.to(device), W_out.to(device), b.to(device))


def load_toy(folder: Path) -> ToyModels:
    """Read a finished run. Raises ``RequestError`` when the folder holds none, ``WorkError`` when it is damaged."""
    try:
        config = ToyConfig.from_json(read_manifest(folder, COMMAND)["config"])
    except (KeyError, TypeError) as error:
        raise WorkError(f"{str(folder / MANIFEST)!r} is damaged: it names no such configuration ({error})") from error
    tensors, _ = read_tensors(folder / _WEIGHTS)

    def weights(start: str) -> ToyWeights:
        W_in, b = tensors[start + "W_in"].float(), tensors[start + "b"].float()
        return ToyWeights(W_in, transposed(W_in) if config.tied else tensors[start + "W_out"].float(), b)

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


def transposed(
    W_in: Float[Tensor, "setting instance hidden feature"],
) -> Float[Tensor, "setting instance feature hidden"]:
    """The output weights that go with tied input weights."""
    return rearrange(W_in, "setting instance hidden feature -> setting instance feature hidden")
