"""How numbers of a unit are written on its page."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from mi_superposition.site.unit_records import UnitRecord

# What ``unit_facts`` gives, before the control of the last.
FACTS = ("maximum", "minimum", "mean ± sd", "active", "skewness", "contexts")


def shown_number(value: float, scale: float = 1.0) -> str:
    """To two decimals, or as many as distinguish numbers of the size of ``scale``."""
    decimals = 2 if scale >= 0.1 or scale <= 0 else 2 - math.floor(math.log10(scale))
    return f"{value:z.{decimals}f}"


def scale_of(unit: UnitRecord) -> float:
    """The size of its activations."""
    return max(abs(unit.maximum), abs(unit.minimum))


def unit_facts(unit: UnitRecord) -> list[str]:
    """Its numbers, in the order of ``FACTS``, and last the control of the number of contexts."""
    scale = scale_of(unit)
    return [
        shown_number(unit.maximum, scale),
        shown_number(unit.minimum, scale),
        f"{shown_number(unit.mean, scale)} ± {shown_number(unit.deviation, scale)}",
        f"{100 * unit.fraction_active:.2f} % of tokens",
        f"{unit.skewness:z.1f}",
        f"{unit.contexts:.1f}",
        f"{unit.contexts_shuffled:.1f}",
    ]


def outline(counts: Int[NDArray[np.int64], " bin"]) -> str:
    """The outline of a histogram in logarithms, each bin one unit wide, 40 high: the path of a picture."""
    heights = np.log10(1 + counts)
    top = float(heights.max()) or 1.0
    steps = "".join(f"V{40 - 40 * height / top:.1f}H{bin + 1}" for bin, height in enumerate(heights.tolist()))
    return f"M0 40{steps}V40Z"
