"""A text coloured by a neuron's activation, on a terminal."""

from __future__ import annotations

import sys

import plotly.graph_objects as go

from mi_superposition.corpora.tokens import whole_characters
from mi_superposition.figures.neurons import token_activations
from mi_superposition.models import load_model
from mi_superposition.neurons.config import TryConfig
from mi_superposition.neurons.scan import TextActivations, neuron_on_text
from mi_superposition.neurons.scan.shading import strongest
from mi_superposition.progress import Progress

# Of the terminal's 256 colours: backgrounds from pale to deep orange for activations above zero, blue for those below.
_ORANGE, _BLUE = (230, 223, 216, 215, 208, 202), (195, 159, 117, 75, 33, 27)


def run(config: TryConfig, progress: Progress) -> str:  # noqa: ARG001
    """The command ``neurons try``: the text, and its strongest tokens below."""
    model = load_model(config.model.name, device=config.device.device)
    measured = neuron_on_text(model, config.text, config.layer, config.number)
    coloured = sys.stdout.isatty() if config.colour == "auto" else config.colour == "always"
    strongest = "   ".join(f"{token.strip() or repr(token)} {value:.2f}" for token, value in measured.strongest())
    return f"{coloured_text(measured) if coloured else numbered_text(measured)}\n{strongest}"


def figure(measured: TextActivations) -> go.Figure:
    """The activation on each token."""
    return token_activations(measured.tokens, measured.activations)


def coloured_text(measured: TextActivations) -> str:
    """The text for a terminal, each token on a background whose depth shows the activation, relative to the largest magnitude."""
    largest = measured.largest or 1.0
    return "".join(_coloured(text, strongest(values) / largest) for text, values in _characters(measured))


def numbered_text(measured: TextActivations) -> str:
    """The text with its activation after each token, or all of them after a character that is made of several."""
    return "".join(f"{text}[{'|'.join(f'{value:.2f}' for value in values)}]" for text, values in _characters(measured))


def _characters(measured: TextActivations) -> list[tuple[str, list[float]]]:
    return [
        (text, [measured.activations[position] for position in positions])
        for text, positions in whole_characters(measured.text())
    ]


def _coloured(token: str, share: float) -> str:
    """The token on its background; below a twentieth of the largest none."""
    shades = _ORANGE if share > 0 else _BLUE
    if abs(share) < 0.05:
        return token
    return f"\x1b[48;5;{shades[min(int(abs(share) * len(shades)), len(shades) - 1)]};30m{token}\x1b[0m"
