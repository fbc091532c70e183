"""From a unit's page to where else the report tells of it: its place in the order of neurons, and the concepts it serves."""

from __future__ import annotations

from typing import Any

from mi_superposition.concepts.overlap import top_units
from mi_superposition.neurons import order_neurons
from mi_superposition.site.records import Link
from mi_superposition.studies.concepts.section import bundled_stories, concept_address
from mi_superposition.studies.neuron_order import REPORT_SECONDS, place_address, report_source
from mi_superposition.studies.neuron_records import Related, Saes
from mi_superposition.studies.request import SectionRequest

# Neighbours shown with a neuron in the order, itself in their midst.
_SHOWN = 8
_ORDER, _CONCEPTS = "In the order of neurons:", "Among the units that a concept moves most:"


def related_units(model: Any, saes: Saes, request: SectionRequest) -> Related:
    """Links from the bundled story model's neurons and features, to those sections that the site has."""
    links: dict[str, dict[int, dict[str, list[Link]]]] = {}

    def add(hook: str, unit: int, why: str, link: Link) -> None:
        links.setdefault(hook, {}).setdefault(unit, {}).setdefault(why, []).append(link)

    if "neuron-order" in request.sections:
        hook = f"blocks.{model.cfg.n_layers - 1}.mlp.hook_post"
        order = order_neurons(report_source(model).trained(), seconds=REPORT_SECONDS).order.tolist()
        for place, unit in enumerate(order):
            start = min(max(place - _SHOWN // 2, 0), len(order) - _SHOWN)
            add(hook, unit, _ORDER, Link(f"place {place:,} of {len(order):,}", place_address(start, _SHOWN)))
    if "concepts" in request.sections:
        findings = bundled_stories()
        for hook, effects in findings.unit_effects().items():
            if not hook.endswith(".mlp.hook_post") and hook not in saes:
                continue
            k = min(findings.request["top_k"], effects.shape[1])
            for concept, units in enumerate(top_units(effects, k).tolist()):
                name = findings.concepts[concept]
                for rank, unit in enumerate(units, start=1):
                    said = f"{name} ({float(effects[concept, unit]):+.2f} standard deviations, number {rank} of {k})"
                    add(hook, unit, _CONCEPTS, Link(said, concept_address(hook, findings)))
    return links
