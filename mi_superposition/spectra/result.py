"""Spectra of all layers of one network, and their file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypedDict, get_args

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mi_superposition.errors import WorkError
from mi_superposition.files import read_tensors, write_tensors
from mi_superposition.results import Result
from mi_superposition.schemas import parse_as
from mi_superposition.spectra.config import ENERGY
from mi_superposition.spectra.ranks import (
    MEASURES,
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


@dataclass(frozen=True, repr=False)
class Spectrum(Result):
    """Singular values of a matrix of ``rows`` by ``columns``, the largest first.

    For activations the rows are samples, and the values are divided by the square root of their number: standard deviations along
    principal directions. ``deviation`` is the root mean square of the entries (of activations about their means), in the units of
    the values.
    """

    DRAWN_BY: ClassVar[str] = "mi_superposition.figures.spectra:singular_values"

    values: Float[Tensor, " value"]
    rows: int
    columns: int
    deviation: float
    kind: Kind

    def ranks(self, energy: float = ENERGY) -> EffectiveRanks:
        """The effective ranks at that fraction of energy. Raises as ``effective_ranks`` does."""
        return effective_ranks(self.values, energy=energy)

    def random(self, seed: int) -> Spectrum:
        """The control: the spectrum of independent normal entries of the same standard deviation in a matrix of the same shape."""
        # Centring takes one degree of freedom.
        rows = self.rows - 1 if self.kind == "activations" else self.rows
        unit = gaussian_spectrum(max(rows, 1), self.columns, seed)[: len(self.values)]
        return Spectrum(
            (unit * self.deviation / self._scale).float(), self.rows, self.columns, self.deviation, self.kind
        )

    @property
    def edge(self) -> float:
        """Where the values of such a random matrix end if it is large (Marchenko & Pastur 1967)."""
        return marchenko_pastur_edge(self.rows, self.columns, self.deviation) / self._scale

    @property
    def above_edge(self) -> int:
        """How many values lie above the edge."""
        return int((self.values > self.edge).sum())

    def summary(self) -> str:
        """The energy rank, and how many values are above the edge of a random matrix."""
        return f"{self.kind}, {self.rows:,} × {self.columns:,}: {self.ranks().summary()}; {self.above_edge} above the edge of a random matrix"

    def to_frame(self) -> pd.DataFrame:
        """One row per singular value, the largest first."""
        return pd.DataFrame(
            {"singular_value": self.values.tolist()}, index=pd.RangeIndex(1, len(self.values) + 1, name="rank")
        )

    @property
    def _scale(self) -> float:
        return self.rows**0.5 if self.kind == "activations" else 1.0


class Row(TypedDict):
    """A row of the history of a training: the energy and entropy rank of each layer, by kind, and accuracy on watched images; the loss
    is ``None`` before the first step.
    """

    step: int
    epoch: float
    loss: float | None
    watched_accuracy: float
    weights: dict[str, tuple[int, float]]
    activations: dict[str, tuple[int, float]]


@dataclass(frozen=True, repr=False)
class LayerSpectra(Result):
    """Spectra by layer, in network order, of weights and of activations."""

    DRAWN_BY: ClassVar[str] = "mi_superposition.figures.spectra:energy_ratios_of_layers"

    weights: Mapping[str, Spectrum]
    activations: Mapping[str, Spectrum]

    def of(self, kind: Kind) -> Mapping[str, Spectrum]:
        """Those of that kind."""
        return self.weights if kind == "weights" else self.activations

    def random(self, seed: int) -> LayerSpectra:
        """The control: random spectra of the same shapes."""
        weights, activations = (
            {name: spectrum.random(seed + index) for index, (name, spectrum) in enumerate(self.of(kind).items())}
            for kind in KINDS
        )
        return LayerSpectra(weights, activations)

    def ratios(self, kind: Kind, energy: float = ENERGY) -> dict[str, float]:
        """Energy rank divided by the maximum possible rank, by layer."""
        return {name: spectrum.ranks(energy).energy_ratio for name, spectrum in self.of(kind).items()}

    def summary(self) -> str:
        """The ratios of ranks, mean over layers."""
        means = [
            f"{sum(ratios) / len(ratios):.2f} of the maximum for {kind} of {len(ratios)} layers"
            for kind in KINDS
            if (ratios := self.ratios(kind).values())
        ]
        return f"energy rank {', '.join(means) or 'of no layer'} (means)"

    def to_frame(self, energy: float = ENERGY) -> pd.DataFrame:
        """One row per layer and kind: rows and columns of the matrix, the maximum possible rank, and every rank measure."""
        rows = [
            (name, kind, spectrum.rows, spectrum.columns, ranks.n, *(getattr(ranks, measure) for measure in MEASURES))
            for kind in KINDS
            for name, spectrum in self.of(kind).items()
            for ranks in [spectrum.ranks(energy)]
        ]
        columns = ["layer", "kind", "rows", "columns", "maximum", *MEASURES]
        return pd.DataFrame(rows, columns=columns).set_index(["layer", "kind"])


def spectrum_of_weights(matrix: Float[Tensor, "row column"]) -> Spectrum:
    """The spectrum of a weight matrix. Raises as ``weight_spectrum`` does."""
    rows, columns = matrix.shape
    deviation = float(matrix.double().square().mean().sqrt())
    return Spectrum(weight_spectrum(matrix).float().cpu(), rows, columns, deviation, "weights")


def spectrum_of_activations(seen: CovarianceAccumulator) -> Spectrum:
    """The spectrum of activations. Raises as ``CovarianceAccumulator.covariance`` does."""
    covariance = seen.covariance()
    deviation = float(covariance.diagonal().mean().sqrt())
    # n centred samples span at most n - 1 dimensions.
    n_values = max(1, min(seen.n - 1, len(covariance)))
    values = activation_spectrum(covariance)[:n_values].float()
    return Spectrum(values, seen.n, len(covariance), deviation, "activations")


def save_spectra(spectra: LayerSpectra, path: Path) -> None:
    """Write them to a safetensors file. Raises ``WorkError`` when the disk refuses."""
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
    loaded: dict[Kind, dict[str, Spectrum]] = {"weights": {}, "activations": {}}
    try:
        shapes = parse_as(metadata["shapes"], dict[str, tuple[int, int, float]], path)
        for key, (rows, columns, deviation) in shapes.items():
            kind, name = key.split("/", 1)
            loaded[kind][name] = Spectrum(tensors[key].to(torch.float32), rows, columns, deviation, kind)
    except (KeyError, ValueError) as error:
        raise WorkError(f"{str(path)!r} holds no spectra: {error}") from error
    return LayerSpectra(loaded["weights"], loaded["activations"])
