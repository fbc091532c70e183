"""From a unit's page to where else the report shows it: its position in the order of neurons, and the concepts with an effect on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mi_superposition.concepts.overlap import top_units
from mi_superposition.neurons.scan.names import has_mlp_neurons
from mi_superposition.pages.concepts.links import concept_address
from mi_superposition.pages.neurons.order_chapter import address_in_order
from mi_superposition.pages.neurons.records import Related
from mi_superposition.pages.neurons.scanned import ScannedUnits
from mi_superposition.pages.request import Runs
from mi_superposition.site.records import Link
from mi_superposition.studies.concepts import measure as concepts_study
from mi_superposition.studies.neurons import order as order_study

# Neighbours shown with a neuron in the order, itself in their midst.
_SHOWN = 8
_ORDER, _CONCEPTS = "In the order of neurons:", "Among the units with the largest effect of a concept:"


def related_units(runs: Runs, scanned: ScannedUnits) -> Related:
    """Links from units to the chapters of the order and of concepts, as far as the report has these."""
    links: dict[str, dict[int, dict[str, list[Link]]]] = {}

    def add(why: str, linked: Iterator[tuple[str, int, Link]]) -> None:
        for hook, unit, link in linked:
            links.setdefault(hook, {}).setdefault(unit, {}).setdefault(why, []).append(link)

    if "neuron-order" in runs:
        add(_ORDER, _in_the_order(runs["neuron-order"]["order"]))
    if "concepts" in runs:
        add(_CONCEPTS, _of_concepts(runs["concepts"]["stories"], scanned))
    return links


def _in_the_order(folder: Path) -> Iterator[tuple[str, int, Link]]:
    result = order_study.load(folder)
    hook, order = f"blocks.{result.config.layer}.mlp.hook_post", result.order.order.tolist()
    for position, unit in enumerate(order):
        start = min(max(position - _SHOWN // 2, 0), len(order) - _SHOWN)
        yield hook, unit, Link(f"position {position:,} of {len(order):,}", address_in_order(start, _SHOWN))


def _of_concepts(folder: Path, scanned: ScannedUnits) -> Iterator[tuple[str, int, Link]]:
    result = concepts_study.load(folder)
    for hook, effects in result.unit_effects().items():
        if not has_mlp_neurons(hook) and hook not in scanned.saes:
            continue
        k = min(result.config.units_per_concept, effects.shape[1])
        for name, of_concept, units in zip(result.concepts, effects, top_units(effects, k).tolist(), strict=True):
            for rank, unit in enumerate(units, start=1):
                said = f"{name} ({float(of_concept[unit]):+.2f} standard deviations, rank {rank} of {k})"
                yield hook, unit, Link(said, concept_address(hook, result))
