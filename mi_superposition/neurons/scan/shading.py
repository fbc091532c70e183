"""Tokens on backgrounds whose depth shows the activation, for notebooks."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

# Orange for activations above zero, blue for those below; the deepest can still be read.
_ORANGE, _BLUE, _DEEPEST = "226, 110, 20", "40, 120, 200", 0.62


def shaded_html(tokens: Sequence[str], activations: Sequence[float], largest: float) -> str:
    """The tokens as HTML, each on its background, with its activation when pointed at; NaN where none was kept.

    ``largest`` is the magnitude that has the deepest background.
    """
    return "".join(
        f"<span title='{'no activation kept' if math.isnan(value) else f'{value:.3f}'}' "
        f"style='background: rgba({_ORANGE if value > 0 else _BLUE}, {_depth(value, largest):.2f})'>{html.escape(token)}</span>"
        for token, value in zip(tokens, activations, strict=True)
    )


def _depth(value: float, largest: float) -> float:
    return 0.0 if math.isnan(value) or largest <= 0 else _DEEPEST * min(abs(value) / largest, 1.0)
