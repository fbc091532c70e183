"""Tokens on backgrounds whose depth shows the activation, for notebooks."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from mi_superposition.corpora.tokens import whole_characters

# Orange for activations above zero, blue for those below; the deepest can still be read.
_ORANGE, _BLUE, _DEEPEST = "226, 110, 20", "40, 120, 200", 0.62


def shaded_html(tokens: Sequence[str], activations: Sequence[float], largest: float) -> str:
    """The tokens of a running text as HTML, each on its background, with its activation when pointed at; NaN where none was kept.

    A character that is made of several tokens has the background of the strongest. ``largest`` is the magnitude that has the deepest
    background.
    """
    spans = []
    for text, at in whole_characters(tokens):
        values = [activations[position] for position in at]
        said = ", ".join("no activation kept" if math.isnan(value) else f"{value:.3f}" for value in values)
        value = strongest(values)
        spans.append(
            f"<span title='{said}' style='background: rgba({_ORANGE if value > 0 else _BLUE}, {_depth(value, largest):.2f})'>"
            f"{html.escape(text)}</span>"
        )
    return "".join(spans)


def strongest(activations: Sequence[float]) -> float:
    """That of the largest magnitude; NaN where none was kept."""
    return max(activations, key=lambda value: -1.0 if math.isnan(value) else abs(value))


def _depth(value: float, largest: float) -> float:
    return 0.0 if math.isnan(value) or largest <= 0 else _DEEPEST * min(abs(value) / largest, 1.0)
