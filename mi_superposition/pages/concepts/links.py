"""Links between concepts and the pages of neurons and features."""

from __future__ import annotations

from collections.abc import Mapping

from mi_superposition.models import FEATURES
from mi_superposition.site.records import UNITS, Link
from mi_superposition.site.unit_records import unit_slug
from mi_superposition.studies.concepts.result import ConceptsResult

# Addresses of units' pages, by layer and unit.
UnitPages = Mapping[str, Mapping[int, str]]


def unit_pages(result: ConceptsResult) -> UnitPages:
    """Addresses of the pages of the model's neurons and features in the report."""
    return {
        layer: {unit: f"{UNITS}/{unit_slug(layer, unit)}.html" for unit in range(effects.shape[1])}
        for layer, effects in result.unit_effects().items()
        if layer.endswith((".mlp.hook_post", FEATURES))
    }


def unit_cell(unit: int, addresses: Mapping[int, str]) -> str | Link:
    """A unit's number in a table, as a link if it has a page."""
    return Link(str(unit), addresses[unit]) if unit in addresses else str(unit)


def concept_address(layer: str, result: ConceptsResult) -> str:
    """Where the report shows the units of a layer with the largest effects of a concept."""
    if result.features is not None and layer == result.features.name:
        return "concepts.html#features"
    return "concepts.html#several" if layer == result.neuron_layer else "concepts.html#overlap-layers"
