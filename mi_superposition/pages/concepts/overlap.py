"""Units that concepts share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from mi_superposition.concepts import top_units
from mi_superposition.concepts.overlap import SharedComparison
from mi_superposition.figures.concepts import labelled_heatmaps
from mi_superposition.pages.concepts.links import UnitPages, unit_cell
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item, Link, TableRecord
from mi_superposition.studies.concepts.result import ConceptsResult

_SHOWN_UNITS = 20
_SIGNIFICANT = 0.05


def overlap_items(result: ConceptsResult, pages: UnitPages) -> list[Item]:
    """How many units each two concepts share, and which; nothing where that was not counted."""
    if not result.shares_units:
        return []
    return [
        _overlap_figure(result),
        _layer_table(result),
        *_comparison_table(result),
        _several_table(result, pages.get(result.neuron_layer, {})),
    ]


def _top_k(result: ConceptsResult) -> int:
    """Units of each concept that are compared in the layer of neurons."""
    return min(result.config.units_per_concept, result.trained[result.neuron_layer].n_units)


def _overlap_figure(result: ConceptsResult) -> FigureRecord:
    name, k = result.neuron_layer, _top_k(result)
    trained, untrained, random = result.trained[name], result.untrained[name], result.random.get(name)
    control = f"{trained.chance_shared:.1f} with labels shuffled ({trained.n_units:,} units), {untrained.mean_shared:.1f} untrained"
    verdict = ""
    if random is not None:
        control += (
            f", {random.mean_shared:.1f} random word lists ({min(random.shared):.1f} to {max(random.shared):.1f} in "
            f"{len(random.shared)} draws)"
        )
        verdict = f" {shared_verdict(result.shared_comparisons())}"
    others = "without a concept word" if result.by_words else "of other labels"
    frames: dict[str, dict[str, Tensor]] = {
        layer: {state: layers[layer].shared.float() for state, layers in result.layers.items()}
        for layer in result.trained
    }
    return FigureRecord(
        id="overlap",
        title="Units shared by concepts",
        look_at=(
            f"For each concept, the {k} units with the largest effect (|Cohen's d|, compared with texts {others}), and "
            f"how many of them each pair of concepts has in common.{verdict} The table below shows all layers. Shared "
            "units do not prove superposition (two concepts may be the same to the model), and their absence does not "
            "disprove it: a direction over many units may share no top unit with another."
        ),
        number=f"{trained.mean_shared:.1f} of {k} units shared, mean over all pairs of concepts ({name})",
        control=control,
        figure=labelled_heatmaps(
            frames,
            "layer",
            rows=dict.fromkeys(result.layers, result.concepts),
            columns=dict.fromkeys(result.layers, result.concepts),
            limit=float(k),
            form=".0f",
            shown=list(result.trained).index(name),
        ),
    )


def shared_verdict(comparisons: Sequence[SharedComparison]) -> str:
    """What all comparisons of shared units with random word lists say together."""
    if not comparisons:
        return "How the numbers compare with those of random word lists was not tested in this run."
    layers, ks = {one.layer for one in comparisons}, sorted({one.k for one in comparisons})
    tested = f"{len(layers)} layers and the top {', '.join(map(str, ks))} units"
    sure = [one for one in comparisons if one.adjusted <= _SIGNIFICANT]
    if not sure:
        least = min(comparisons, key=lambda one: one.adjusted)
        return (
            f"Compared with random word lists, no difference seen over {tested} ({len(comparisons)} comparisons; smallest p after Holm's correction "
            f"{least.adjusted:.2f}, uncorrected {least.p:.3f})."
        )
    said = ", ".join(
        f"{'more' if one.observed > one.random else 'fewer'} at {one.layer}, top {one.k} ({one.observed:.1f}, random {one.random:.1f}, p = "
        f"{one.adjusted:.2g})"
        for one in sure
    )
    return f"Of {len(comparisons)} comparisons with random word lists ({tested}; Holm's correction) {len(sure)} differ: {said}."


def _comparison_table(result: ConceptsResult) -> list[TableRecord]:
    """Every layer and number of top units; nothing where that was not compared."""
    comparisons = result.shared_comparisons()
    if not comparisons:
        return []
    draws = len(next(iter(result.random.values())).shared)
    return [
        TableRecord(
            id="overlap-tests",
            title="Shared units at every layer and number of top units",
            look_at=(
                f"Mean over pairs of concepts, beside {draws} draws of random word lists (mean ± standard deviation). p: two-sided, Student's t for "
                f"one more draw; adjusted for all {len(comparisons)} comparisons (Holm 1979). {shared_verdict(comparisons)}"
            ),
            columns=["layer", "top units", "shared", "random word lists", "p", "p, adjusted"],
            rows=[
                [
                    one.layer,
                    f"{one.k}",
                    f"{one.observed:.2f}",
                    f"{one.random:.2f} ± {one.deviation:.2f}",
                    f"{one.p:.3f}",
                    f"{one.adjusted:.2f}",
                ]
                for one in comparisons
            ],
        )
    ]


def _layer_table(result: ConceptsResult) -> TableRecord:
    rows = []
    for layer, trained in result.trained.items():
        numbers = [trained.mean_shared, result.untrained[layer].mean_shared, trained.chance_shared]
        if result.by_words:
            numbers.append(result.random[layer].mean_shared)
        rows.append([layer, f"{trained.n_units:,}", *(f"{number:.1f}" for number in numbers)])
    random = ["random word lists"] if result.by_words else []
    return TableRecord(
        id="overlap-layers",
        title="Shared units by layer",
        look_at=(
            "Mean over all pairs of concepts of the number of shared units among their top "
            f"{result.config.units_per_concept}."
        ),
        columns=["layer", "units", "trained", "untrained", "labels shuffled", *random],
        rows=rows,
    )


def _several_table(result: ConceptsResult, addresses: Mapping[int, str]) -> TableRecord:
    """Units among the top ones of several concepts."""
    layer, k = result.neuron_layer, _top_k(result)
    measured = result.trained[layer]
    concepts_of: dict[int, list[int]] = {}
    for concept, units in enumerate(top_units(measured.effects, k).tolist()):
        for unit in units:
            concepts_of.setdefault(unit, []).append(concept)
    several = [unit for unit, concepts in concepts_of.items() if len(concepts) > 1]
    several.sort(key=lambda unit: (-len(concepts_of[unit]), unit))
    rows: list[list[str | Link]] = []
    for unit in several[:_SHOWN_UNITS]:
        effects = ", ".join(
            f"{result.concepts[concept]} {float(measured.effects[concept, unit]):+.2f}" for concept in concepts_of[unit]
        )
        rows.append([unit_cell(unit, addresses), effects])
    n_pairs = len(result.concepts) * (len(result.concepts) - 1) // 2
    return TableRecord(
        id="several",
        title="Units of several concepts",
        look_at=(
            f"At {layer}: units in the top {k} of at least two concepts, with each effect in standard deviations. {len(several)} units are "
            f"in the top {k} of several concepts, {len(concepts_of) - len(several)} of one. With labels shuffled, about "
            f"{measured.chance_shared * n_pairs:.0f} pairs of concepts would share a unit."
        ),
        columns=["unit", "concepts"],
        rows=rows or [["none", ""]],
        words=("concepts",),
    )
