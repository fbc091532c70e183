"""What was measured on a real pretrained model, SmolLM2-135M-Instruct, as ``scripts/real_models.py`` wrote it into the package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from mi_superposition.schemas import Number, read_as

BUNDLED_REAL = Path(__file__).parent / "bundled" / "real" / "smollm2-135m.json"


@dataclass(frozen=True)
class RealModel:
    """The numbers of every step of ``scripts/real_models.py`` by the step's name, and the seconds that it took on which machine."""

    name: str
    sha256: Annotated[str, Meta(min_length=64)]
    metrics: dict[str, dict[str, Number | None]]
    seconds: dict[str, float]
    machines: dict[str, str]

    def layers(self) -> list[int]:
        """The layers whose neurons were ordered."""
        return sorted(int(step.removeprefix("order-")) for step in self.metrics if step.startswith("order-"))

    def by_layer(self, step: str, metric: str) -> list[float]:
        """A number of every layer: ``{layer}`` in ``step`` or ``metric`` stands for its number."""
        found = [self.metrics[step.format(layer=layer)][metric.format(layer=layer)] for layer in self.layers()]
        assert all(value is not None for value in found), (step, metric)
        return [float(value) for value in found if value is not None]


def load_real() -> RealModel:
    """The bundled numbers. Raises ``WorkError`` where they are damaged."""
    return read_as(BUNDLED_REAL, RealModel)


def value_of(numbers: Mapping[str, Number | None], name: str) -> float:
    """A number of a step that must be there."""
    value = numbers[name]
    assert value is not None, name
    return float(value)
