"""What a run of the study found, as it is kept in its folder and told on its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor

from mi_superposition.runs import METRICS, read_history, read_json, read_tensors, write_tensors
from mi_superposition.spectra.result import KINDS, Kind, LayerSpectra, load_spectra

State = Literal["trained", "untrained"]
STATES: tuple[State, ...] = ("trained", "untrained")
RANDOM = "random"
RANKS = ("energy_rank", "sum_rank", "entropy_rank", "participation_ratio", "stable_rank")
# With fewer layers than that, depth says nothing.
_DEPTH = 8
PICTURES = "pictures.safetensors"
_NUMBERS = ("test_accuracy", "test_accuracy_untrained", "n_classes", "watched_images")


@dataclass(frozen=True)
class Pictures:
    """What a page shows beside spectra: some weights as they are, and how often activations of each size occur.

    ``histograms`` are shares by bin of activations about their mean, in deviations of the layer's.
    """

    weights: Mapping[str, Float[Tensor, "out in"]]
    histograms: Mapping[str, Float[Tensor, " bin"]]


@dataclass(frozen=True)
class Findings:
    """Spectra of both states, the request they came of (a run's ``config``), the training's history and the network's own
    numbers.
    """

    request: Mapping[str, Any]
    spectra: Mapping[State, LayerSpectra]
    pictures: Mapping[State, Pictures]
    history: Sequence[Mapping[str, Any]]
    numbers: Mapping[str, float | int]

    @cached_property
    def random(self) -> LayerSpectra:
        """Spectra of independent normal entries in matrices of the same shapes."""
        return self.spectra["trained"].random(self.request["training"]["seed"])

    def all_spectra(self) -> dict[str, LayerSpectra]:
        """Trained, untrained and random, by these names."""
        return {**{str(state): found for state, found in self.spectra.items()}, RANDOM: self.random}

    def ratios(self, state: str, kind: Kind) -> dict[str, float]:
        """By layer, the energy rank over the largest there could be."""
        spectra = self.all_spectra()[state].of(kind)
        return {name: spectrum.ranks(self.request["energy"]).energy_ratio for name, spectrum in spectra.items()}

    def depth_correlation(self, state: str, kind: Kind) -> float | None:
        """Spearman's correlation of a layer's place with its ratio (-1 if the ratio falls all the way); ``None`` for few layers
        or where all ratios are alike.
        """
        ratios = list(self.ratios(state, kind).values())
        if len(ratios) < _DEPTH or len(set(ratios)) < 2:
            return None
        return float(spearmanr(range(len(ratios)), ratios).statistic)

    def metrics(self) -> dict[str, float | int]:
        """All numbers, flat: ``LAYER.weights.RANK`` and ``LAYER.activations.RANK`` of the trained network, the same with the
        state's name before the rank for the others.
        """
        found: dict[str, float | int] = dict(self.numbers)
        for state, measured in self.all_spectra().items():
            for kind in KINDS:
                for layer, spectrum in measured.of(kind).items():
                    ranks = spectrum.ranks(self.request["energy"])
                    prefix = f"{layer}.{kind}." + ("" if state == "trained" else f"{state}.")
                    found |= {prefix + name: getattr(ranks, name) for name in ("n", *RANKS, "energy_ratio")}
                correlation = self.depth_correlation(state, kind)
                if correlation is not None:
                    found[f"depth_correlation.{kind}.{state}"] = correlation
        return found


def save_pictures(pictures: Mapping[State, Pictures], folder: Path) -> None:
    """Write them beside the spectra, weights in half precision."""
    tensors: dict[str, Tensor] = {}
    for state, picture in pictures.items():
        tensors |= {f"{state}/weights/{name}": matrix.half() for name, matrix in picture.weights.items()}
        tensors |= {f"{state}/histograms/{name}": shares for name, shares in picture.histograms.items()}
    write_tensors(folder / PICTURES, tensors)


def read_findings(
    folder: Path, request: Mapping[str, Any], numbers: Mapping[str, float | int] | None = None
) -> Findings:
    """What lies in a run folder; ``numbers`` from its metrics unless they are given. Raises ``WorkError`` for damaged files."""
    spectra: dict[State, LayerSpectra] = {state: load_spectra(folder / f"{state}.safetensors") for state in STATES}
    tensors, _ = read_tensors(folder / PICTURES)

    def pictured(state: State, what: str, layers: Sequence[str]) -> dict[str, Tensor]:
        keys = {layer: f"{state}/{what}/{layer}" for layer in layers}
        return {layer: tensors[key].float() for layer, key in keys.items() if key in tensors}

    pictures: dict[State, Pictures] = {
        state: Pictures(
            pictured(state, "weights", list(spectra[state].weights)),
            pictured(state, "histograms", list(spectra[state].activations)),
        )
        for state in STATES
    }
    if numbers is None:
        metrics = read_json(folder / METRICS)
        numbers = {name: metrics[name] for name in _NUMBERS if name in metrics}
    return Findings(request, spectra, pictures, read_history(folder), numbers)
