"""What is read of a model in a scan: its neurons and the features of an autoencoder, or what these are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from sae_lens import SAE
from torch import Tensor

from mi_superposition.errors import RequestError
from mi_superposition.files import read_tensors
from mi_superposition.models import FEATURES, Encode, load_model, untrained_copy
from mi_superposition.models.protocol import HookedModel
from mi_superposition.neurons.config import ContextsConfig, ScanConfig
from mi_superposition.neurons.effects import input_directions
from mi_superposition.neurons.scan import ENSEMBLES, UnitReader, along, layer_of, mlp_hooks
from mi_superposition.sae import check_sae, load_sae
from mi_superposition.sae.files import processing_of

State = Literal["trained", "untrained", "random directions"]
# Random directions of what the units of each hook read, by its hook, of all ensembles one after another.
Directions = Mapping[str, Float[Tensor, "d direction"]]


def scanned_saes(name: str | None, model: HookedModel) -> dict[str, SAE[Any]]:
    """An autoencoder whose features are scanned, by the name the scan has for them. Raises as ``load_sae`` and ``check_sae``."""
    if name is None:
        return {}
    sae = load_sae(name, device=model.W_E.device)
    return {f"{check_sae(sae, model)}{FEATURES}": sae}


def model_of(config: ScanConfig) -> HookedModel:
    """The model, its weights processed as those were that the autoencoder was trained on. Raises as ``load_model`` and ``load_sae``."""
    processing = {} if config.sae is None else processing_of(load_sae(config.sae))
    return load_model(config.model.name, device=config.device.device, process_weights=processing)


def reader_of(
    model: HookedModel, config: ScanConfig, state: State = "trained", directions: Directions | None = None
) -> UnitReader:
    """Reads the units asked for in the trained model, the same neurons in an untrained one, or the random ``directions``.

    Raises ``RequestError`` for a hook that is not there or is asked for twice, and as ``scanned_saes`` does.
    """
    precision, seed = config.forward.precision, config.kept.random.seed
    if state == "untrained":
        return UnitReader.of(untrained_copy(model, seed), _neuron_hooks(model, config), precision)
    if state == "random directions":
        assert directions is not None
        return UnitReader.of(model, {space: along(some) for space, some in directions.items()}, precision)
    encoders: dict[str, Encode | None] = dict.fromkeys(_neuron_hooks(model, config))
    for features, sae in scanned_saes(config.sae, model).items():
        hook = features.removesuffix(FEATURES)
        if hook in encoders:
            raise RequestError(
                f"hook {hook!r}: --sae already scans the features of this hook: scan its dimensions in another run"
            )
        encoders[hook] = sae.encode
    return UnitReader.of(model, encoders, precision)


def joined_directions(path: Path) -> Directions:
    """What is read along random directions, as the driver and every worker find it in their file: of each space those of all ensembles,
    in the order of ``ENSEMBLES``.
    """
    tensors, _ = read_tensors(path)
    found = dict.fromkeys(name.rpartition("/")[0] for name in tensors)
    return {
        space: torch.cat([tensors[f"{space}/{name}"] for name in ENSEMBLES if f"{space}/{name}" in tensors], dim=1)
        for space in found
    }


def weights_of_readers(
    model: HookedModel, reader: UnitReader, saes: Mapping[str, SAE[Any]]
) -> dict[str, Float[Tensor, "d unit"]]:
    """For each hook that units read the weights with which they do: of MLP neurons, or of features. Dimensions of a hook have none."""
    found: dict[str, Tensor] = {}
    for name, space in spaces(reader).items():
        if name in saes:
            found.setdefault(space, saes[name].W_enc.detach().float().cpu())
        elif space != name:
            found.setdefault(space, input_directions(model, layer_of(name)))
    return found


def _neuron_hooks(model: HookedModel, config: ScanConfig) -> Sequence[str]:
    """The hooks whose own dimensions are read."""
    if config.hook or (config.sae is not None and not isinstance(config, ContextsConfig)):
        return config.hook
    return mlp_hooks(model)


def spaces(reader: UnitReader) -> dict[str, str]:
    """For the units of each hook, by its name in the scan, the hook of the activations that they read."""
    return {name: reader.representation_of(hook) for name, hook in zip(reader.names, reader.hooks, strict=True)}
