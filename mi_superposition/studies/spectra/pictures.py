"""Weights and activations as a page shows them: some entries of some matrices, and histograms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mi_superposition.files import read_tensors, write_tensors

# Layers whose weights are shown, and rows and columns of each at most.
_LAYERS = 8
_ENTRIES = 64
_BINS = 121
_HALF_WIDTH = 6.0


@dataclass(frozen=True)
class Pictures:
    """Weights and histograms of activations, by layer.

    ``histograms`` are fractions of all activations of a layer by bin, standardised: from -6 to 6 standard deviations from the mean.
    """

    weights: Mapping[str, Float[Tensor, "out in"]]
    histograms: Mapping[str, Float[Tensor, " bin"]]


def save_pictures(pictures: Mapping[str, Pictures], path: Path) -> None:
    """Write those of each state of a network, weights in half precision. Raises ``WorkError`` when the disk refuses."""
    tensors: dict[str, Tensor] = {}
    for state, picture in pictures.items():
        tensors |= {f"{state}/weights/{name}": matrix.half() for name, matrix in picture.weights.items()}
        tensors |= {f"{state}/histograms/{name}": fractions for name, fractions in picture.histograms.items()}
    write_tensors(path, tensors)


def load_pictures(path: Path, state: str, *, weights: Iterable[str], activations: Iterable[str]) -> Pictures:
    """Those of a state, in the order of the layers given. Raises ``WorkError`` for a file that is missing or damaged."""
    tensors, _ = read_tensors(path)

    def of_layers(kind: str, layers: Iterable[str]) -> dict[str, Tensor]:
        keys = {layer: f"{state}/{kind}/{layer}" for layer in layers}
        return {layer: tensors[key].float() for layer, key in keys.items() if key in tensors}

    return Pictures(of_layers("weights", weights), of_layers("histograms", activations))


def some_weights(
    matrices: Iterator[tuple[str, Float[Tensor, "out in"]]], layers: Sequence[str]
) -> dict[str, Float[Tensor, "out in"]]:
    """Evenly spaced rows and columns of the matrices of a few evenly spaced layers."""
    shown = set(layers[:: max(1, -(-len(layers) // _LAYERS))])

    def spaced(length: int) -> Tensor:
        return torch.linspace(0, length - 1, min(length, _ENTRIES)).round().long()

    return {
        name: matrix.cpu()[spaced(len(matrix))][:, spaced(matrix.shape[1])]
        for name, matrix in matrices
        if name in shown
    }


def histogram(samples: Float[Tensor, "sample channel"]) -> Float[Tensor, " bin"]:
    """Fractions of all values by bin, standardised over all of them; values further out count in the first or last bin."""
    values = samples.detach().float().flatten()
    standard = (values - values.mean()) / values.std().clamp_min(1e-12)
    counts = torch.histc(standard.clamp(-_HALF_WIDTH, _HALF_WIDTH), _BINS, -_HALF_WIDTH, _HALF_WIDTH)
    return (counts / counts.sum()).cpu()


def bin_middles() -> Float[Tensor, " bin"]:
    """The middles of the bins of ``histogram``, in standard deviations."""
    half_bin = _HALF_WIDTH / _BINS
    return torch.linspace(-_HALF_WIDTH + half_bin, _HALF_WIDTH - half_bin, _BINS)
