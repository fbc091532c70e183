"""Spectra of all layers of one network, and their file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from mi_superposition.errors import WorkError
from mi_superposition.runs import read_tensors, write_tensors
from mi_superposition.spectra.ranks import (
    EffectiveRanks,
    activation_spectrum,
    effective_ranks,
    gaussian_spectrum,
    marchenko_pastur_edge,
    weight_spectrum,
)
from mi_superposition.streaming import CovarianceAccumulator

Kind = Literal["weights", "activations"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Spectrum:
    """Singular values of a matrix of ``rows`` by ``columns``, the largest first.

    Of activations the rows are samples, and the values are over the square root of their number. ``deviation`` is the root
    mean square of the entries (of activations about their means), in the units of the values.
    """

    values: Float[Tensor, " value"]
    rows: int
    columns: int
    deviation: float
    kind: Kind

    def ranks(self, energy: float) -> EffectiveRanks:
        """The effective ranks at that share of energy."""
        return effective_ranks(self.values, energy=energy)

    def random(self, seed: int) -> Spectrum:
        """What independent normal entries of the same deviation give in a matrix of the same shape."""
        # Centring takes one sample's worth of freedom.
        rows = self.rows - 1 if self.kind == "activations" else self.rows
        unit = gaussian_spectrum(max(rows, 1), self.columns, seed)[: len(self.values)]
        return Spectrum(
            (unit * self.deviation / self._over).float(), self.rows, self.columns, self.deviation, self.kind
        )

    @property
    def edge(self) -> float:
        """Where the values of such a random matrix end."""
        return marchenko_pastur_edge(self.rows, self.columns, self.deviation) / self._over

    @property
    def _over(self) -> float:
        return self.rows**0.5 if self.kind == "activations" else 1.0


@dataclass(frozen=True)
class LayerSpectra:
    """Spectra by layer, in the network's order, of weights and of activations."""

    weights: Mapping[str, Spectrum]
    activations: Mapping[str, Spectrum]

    def of(self, kind: Kind) -> Mapping[str, Spectrum]:
        """Those of that kind."""
        return self.weights if kind == "weights" else self.activations

    def random(self, seed: int) -> LayerSpectra:
        """Random spectra of the same shapes."""
        weights, activations = (
            {name: spectrum.random(seed + place) for place, (name, spectrum) in enumerate(self.of(kind).items())}
            for kind in KINDS
        )
        return LayerSpectra(weights, activations)


def of_weights(matrix: Float[Tensor, "row column"]) -> Spectrum:
    """The spectrum of a weight matrix. Raises as ``weight_spectrum`` does."""
    rows, columns = matrix.shape
    deviation = float(matrix.double().square().mean().sqrt())
    return Spectrum(weight_spectrum(matrix).float().cpu(), rows, columns, deviation, "weights")


def of_activations(seen: CovarianceAccumulator) -> Spectrum:
    """The spectrum of activations. Raises as ``CovarianceAccumulator.covariance`` does."""
    covariance = seen.covariance()
    deviation = float(covariance.diagonal().mean().sqrt())
    # Centred samples lie in one dimension less than they are.
    most = max(1, min(seen.n - 1, len(covariance)))
    values = activation_spectrum(covariance)[:most].float()
    return Spectrum(values, seen.n, len(covariance), deviation, "activations")


def save_spectra(spectra: LayerSpectra, path: Path) -> None:
    """Write them to a safetensors file."""
    tensors, shapes = {}, {}
    for kind in KINDS:
        for name, spectrum in spectra.of(kind).items():
            tensors[f"{kind}/{name}"] = spectrum.values
            shapes[f"{kind}/{name}"] = [spectrum.rows, spectrum.columns, spectrum.deviation]
    # In a list of its own: safetensors sorts by size, and the order of layers matters.
    write_tensors(path, tensors, {"shapes": json.dumps(shapes)})


def load_spectra(path: Path) -> LayerSpectra:
    """Read them again. Raises ``WorkError`` for a file that is missing or damaged."""
    tensors, metadata = read_tensors(path)
    found: dict[Kind, dict[str, Spectrum]] = {"weights": {}, "activations": {}}
    try:
        for key, (rows, columns, deviation) in json.loads(metadata["shapes"]).items():
            kind, name = key.split("/", 1)
            found[kind][name] = Spectrum(tensors[key].to(torch.float32), rows, columns, deviation, kind)
    except (KeyError, ValueError) as error:
        raise WorkError(f"{str(path)!r} holds no spectra: {error}") from error
    return LayerSpectra(found["weights"], found["activations"])
