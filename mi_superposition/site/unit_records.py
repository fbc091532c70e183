"""What the pages of units (neurons, features) show: plain data, no models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from mi_superposition.neurons.scan import Excerpt
from mi_superposition.neurons.scan.names import has_mlp_neurons, layer_of, unit_name
from mi_superposition.site.records import UNITS, Link


@dataclass(frozen=True)
class TokenValue:
    """A token with a number, and how often it occurs where that matters."""

    token: str
    value: float
    count: int | None = None


@dataclass(frozen=True)
class UnitValue:
    """Another unit with a number; ``hook`` where it is not of the same layer."""

    unit: int
    value: float
    hook: str | None = None


@dataclass(frozen=True)
class UnitRecord:
    """One unit's page. Activations are in the unit's own units, effects in logits per unit of activation.

    ``tenths`` holds examples from each of ten equal intervals of its range, the highest first, with what the interval is.
    ``token_lists`` and ``unit_lists`` come with the sentence that says what they are. ``contexts`` is the effective number of
    contexts of its largest activations, ``contexts_shuffled`` its median when examples are permuted across units. ``related``
    leads to other pages of the site, by the sentence that says why.
    """

    hook: str
    unit: int
    top: Sequence[Excerpt]
    bottom: Sequence[Excerpt]
    tenths: Sequence[tuple[str, Sequence[Excerpt]]]
    histogram: Int[NDArray[np.int64], " bin"]
    edges: tuple[float, float]
    maximum: float
    minimum: float
    mean: float
    deviation: float
    skewness: float
    fraction_active: float
    contexts: float
    contexts_shuffled: float
    token_lists: Mapping[str, Sequence[TokenValue]]
    unit_lists: Mapping[str, Sequence[UnitValue]]
    related: Mapping[str, Sequence[Link]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As a heading has it."""
        return unit_name(self.hook, self.unit)


@dataclass(frozen=True)
class LayerRecord:
    """The table of a hook's units: columns of numbers by their heading, the tokens each unit fires on, strongest first,
    and those whose logits it raises (no entries where it writes to none).
    """

    hook: str
    columns: Mapping[str, Sequence[float]]
    tokens: Sequence[Sequence[str]]
    raises: Sequence[Sequence[str]]

    @property
    def n_units(self) -> int:
        """How many units there are."""
        return len(self.tokens)


@dataclass(frozen=True)
class ScanRecord:
    """What was scanned, for the index: facts as (name, value), and what a reader must know."""

    title: str
    facts: Sequence[tuple[str, str]]
    remarks: Sequence[str]
    layers: Sequence[LayerRecord]


@dataclass(frozen=True)
class DocumentRecord:
    """A whole document, token by token; empty where a token ends a character that stands in an earlier one."""

    number: int
    tokens: Sequence[str]


def layer_slug(hook: str) -> str:
    """File name of a hook's table, without its ending."""
    return f"L{layer_of(hook)}" if has_mlp_neurons(hook) else hook


def unit_names(hook: str) -> str:
    """What the short names of a hook's units begin with; their number follows."""
    return f"{layer_slug(hook)}{'N' if has_mlp_neurons(hook) else '.'}"


def unit_slug(hook: str, unit: int) -> str:
    """File name of a unit's page, without its ending."""
    return f"{unit_names(hook)}{unit}"


def units_slug(hook: str) -> str:
    """File name, without its ending, of the one page of a hook's units in a site that has many units in a file; and of their folder."""
    return f"{layer_slug(hook)}N" if has_mlp_neurons(hook) else f"{layer_slug(hook)}.units"


def unit_address(hook: str, unit: int) -> str:
    """Where a site keeps the page of a unit, relative to its folder."""
    return f"{UNITS}/{unit_slug(hook, unit)}.html"


def found_address(site: Path, hook: str, unit: int) -> str | None:
    """Where a site that is there shows a unit, on a page of its own or on that of its hook; ``None`` where it shows neither."""
    if (site / unit_address(hook, unit)).is_file():
        return unit_address(hook, unit)
    page = f"{UNITS}/{units_slug(hook)}.html"
    return f"{page}#{unit}" if (site / page).is_file() else None


def neuron_address(layer: int, neuron: int) -> str:
    """Where a site keeps the page of an MLP neuron, relative to its folder."""
    return unit_address(f"blocks.{layer}.mlp.hook_post", neuron)
