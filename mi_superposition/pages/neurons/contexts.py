"""The page of how many contexts units respond to: every hook, the controls, and the units that stand out, chosen by rule."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from mi_superposition.figures.neurons import distributions
from mi_superposition.linalg import shares_by_bin
from mi_superposition.models import FEATURES
from mi_superposition.neurons.scan import ENSEMBLES, UnitScan
from mi_superposition.neurons.scan.names import has_mlp_neurons, layer_name, unit_word
from mi_superposition.pages.neurons.scanned import ScannedUnits, open_scan
from mi_superposition.site import FigureRecord, Page, Section
from mi_superposition.site.headlines import Headline
from mi_superposition.site.records import UNITS, Item, Link, TableRecord
from mi_superposition.site.unit_records import layer_slug, unit_address
from mi_superposition.studies.neurons.contexts import ContextsResult, HookContexts, load

# Hooks whose distributions are drawn, from the last one back: more lines cannot be distinguished.
_HOOKS_DRAWN = 3
# Neurons of many words and one context have their largest activations on so many different tokens at least.
_FEWEST_TOKENS = 10
_NAMED, _WORDS = 8, 5


def sections(folder: Path) -> list[Section]:
    """A finished run as a page. The pages of all units are written by ``neurons pages``."""
    result = load(folder)
    scanned, config = open_scan(folder, device="cpu")
    page = Page(
        slug="contexts",
        title=f"Contexts of the neurons of {Path(config.model.name).name}",
        intro=f"{result.n_documents:,} documents ({result.n_tokens:,} tokens) of {Path(config.text.corpus).name}: how many different contexts each neuron responds to, compared with random directions of several kinds, an untrained model and permuted examples.",
        items=items(result, scanned, linked=False),
    )
    return [section(result, page, title="Contexts")]


def section(result: ContextsResult, page: Page, *, title: str) -> Section:
    """The section of a page with the main numbers."""
    main = result.hooks[result.main]
    comparison = main.against_directions()
    controls = [f"random directions in the layer's input: {comparison.told()}"]
    if main.untrained is not None:
        controls.append(f"{_median(main.untrained)} in an untrained model")
    controls.append(f"{_median(main.permuted)} with examples permuted across {unit_word(result.main)}s")
    return Section(
        slug=page.slug,
        title=title,
        summary=page.intro,
        number=f"{_median(main.contexts)} contexts",
        number_is=f"median effective number of contexts among a {unit_word(result.main)}'s {result.config.kept.top_k} largest activations ({layer_name(result.main)}), {comparison.survives()}",
        control="; ".join(controls),
        page=page,
        headline=headline(main, unit_word(result.main)),
    )


def headline(main: HookContexts, unit: str) -> Headline:
    """Whether units have fewer contexts than random directions of every kind, untrained and permuted ones. Numbers are rounded as they are shown."""
    comparison = main.against_directions()
    controls = {f"random directions ({name})": round(value, 1) for name, value in comparison.ensembles.items()}
    others = {"untrained": main.untrained, "permuted examples": main.permuted}
    controls |= {
        name: round(float(some.median()), 1) for name, some in others.items() if some is not None and len(some)
    }
    return Headline(
        round(comparison.value, 1),
        controls,
        yes=f"A {unit}'s largest activations have more in common than those along random directions of any kind",
        no=f"The number of contexts does not show that {unit}s are special directions",
        lower=True,
    )


def figure(result: ContextsResult) -> go.Figure:
    """Distributions over the units of the last hooks, and over the controls of the main one."""
    hooks = dict(list(result.hooks.items())[-_HOOKS_DRAWN:])
    groups: dict[str, Float[Tensor, " unit"]] = {
        f"{layer_name(hook)}, trained": measured.contexts for hook, measured in hooks.items()
    }
    name, main = layer_name(result.main), result.hooks[result.main]
    groups[f"{name}, permuted across {unit_word(result.main)}s"] = main.permuted
    if main.untrained is not None:
        groups[f"{name}, untrained"] = main.untrained
    groups |= {f"{main.space}, random directions: {kind}": some for kind, some in main.directions.items()}
    return distributions(*shares_by_bin(groups), "effective number of contexts", "fraction of neurons")


def items(result: ContextsResult, scanned: ScannedUnits, *, linked: bool) -> list[Item]:
    """Figure and tables; ``linked`` where the site has the pages of all units."""
    return [
        _every_layer(scanned, linked=linked),
        FigureRecord(
            id="contexts",
            title="Number of contexts per neuron",
            look_at=_look_at(result),
            number=_number(result),
            control=_control(result),
            figure=figure(result),
        ),
        _every_ensemble(result),
        _many_words(scanned, linked=linked),
        _most_contexts(scanned, linked=linked),
    ]


def _features(result: ContextsResult) -> Mapping[str, HookContexts]:
    return {hook: measured for hook, measured in result.hooks.items() if hook.endswith(FEATURES)}


def _look_at(result: ContextsResult) -> str:
    k = result.config.kept.top_k
    features = (
        "Features of the sparse autoencoder are shown for comparison; a feature that is active in few documents has few examples and so "
        "few contexts. "
    )
    return (
        f"For each neuron: the effective number of different contexts among its {k} largest activations, from the model's own "
        f"representation (1: all look the same to the model; {k}: all different). One feature that occurs in varied text also counts as "
        f"several contexts. {features if _features(result) else ''}The largest activations along any direction have something in common, "
        "and how much depends on how directions are drawn: a number of units means something only where it differs from all of these."
    )


def _number(result: ContextsResult) -> str:
    main, k = result.hooks[result.main], result.config.kept.top_k
    number = f"{_median(main.contexts)} contexts: median of {layer_name(result.main)} ({k} examples per {unit_word(result.main)}), {main.against_directions().survives()}"
    for measured in _features(result).values():
        number += f"; {_median(measured.contexts[measured.often])} for the {int(measured.often.sum()):,} features that are active in at least {k} documents, {measured.against_directions(often=True).survives()}"
    return number


def _control(result: ContextsResult) -> str:
    main = result.hooks[result.main]
    read = "the residual stream that" if has_mlp_neurons(result.main) else "what"
    random = f"random directions of {read} {layer_name(result.main)} reads: {main.against_directions().told()}"
    for measured in _features(result).values():
        random += f"; at the features' hook: {measured.against_directions().told()}"
    others = [f"{_median(main.permuted)} with examples permuted across {unit_word(result.main)}s"]
    if main.untrained is not None:
        others.insert(0, f"{_median(main.untrained)} in the untrained model")
    return "; ".join([random, *others])


def _every_ensemble(result: ContextsResult) -> TableRecord:
    """The median of every hook next to random directions of every ensemble."""
    told = "; ".join(f"{name}: {meaning}" for name, meaning in ENSEMBLES.items())
    rows = []
    for hook, measured in result.hooks.items():
        compared = measured.against_directions(often=hook.endswith(FEATURES))
        controls = [_median(measured.directions.get(name, torch.zeros(0))) for name in ENSEMBLES]
        rows.append([layer_name(hook), f"{compared.value:.1f}", *controls, compared.survives()])
    return TableRecord(
        id="ensembles",
        title="Random directions, drawn in several ways",
        look_at=f"Median number of contexts of the units of each hook (of features: those with as many examples as were asked for) and along {result.config.random_directions:,} random directions of what they read. {told}.",
        columns=["hook", "units", *ENSEMBLES, "the units have"],
        rows=rows,
        words={"the units have"},
    )


def _median(values: Float[Tensor, " unit"]) -> str:
    return f"{float(values.median()):.1f}" if len(values) else "–"


def _every_layer(scanned: ScannedUnits, *, linked: bool) -> TableRecord:
    rows: list[list[str | Link]] = []
    for hook, units in scanned.scan.hooks.items():
        name = layer_name(hook)
        rows.append(
            [
                Link(name, f"{UNITS}/{layer_slug(hook)}.html") if linked else name,
                f"{units.n_units:,}",
                f"{100 * float(units.fraction_active.median()):.1f} %",
                f"{float(units.maximum.median()):.2f}",
                f"{float(units.skewness.median()):.1f}",
                f"{float(units.contexts.median()):.1f}",
                f"{float(units.contexts_shuffled.median()):.1f}",
            ]
        )
    leads = (
        "Each link opens a table with one row per neuron." if linked else "'neurons pages' writes one page per neuron."
    )
    return TableRecord(
        id="every-neuron",
        title="Every neuron",
        look_at=f"Medians over the neurons of each layer. {leads}",
        columns=["layer", "units", "active", "maximum", "skewness", "contexts", "contexts, permuted"],
        rows=rows,
        further=Link("Index and search of all neurons", f"{UNITS}/index.html") if linked else None,
    )


def _many_words(scanned: ScannedUnits, *, linked: bool) -> TableRecord:
    rows: list[list[str | Link]] = []
    for hook, units in scanned.scan.hooks.items():
        words = [_peak_words(scanned, units, unit) for unit in range(units.n_units)]
        different = torch.tensor([len(some) for some in words])
        ratio = different * (different >= _FEWEST_TOKENS) / units.contexts.clamp_min(1)
        rows += _rows(scanned, hook, ratio.argsort(descending=True)[:_NAMED].tolist(), linked=linked)
    return TableRecord(
        id="telling",
        title="Many words, one context",
        look_at=f"Selected by rule: in each layer, the {_NAMED} neurons with the highest ratio of different tokens among their largest activations (at least {_FEWEST_TOKENS}) to contexts: many tokens that look the same to the model.",
        columns=list(_COLUMNS),
        rows=rows,
        words=set(_COLUMNS[3:]),
    )


def _most_contexts(scanned: ScannedUnits, *, linked: bool) -> TableRecord:
    rows: list[list[str | Link]] = []
    for hook, units in scanned.scan.hooks.items():
        rows += _rows(scanned, hook, units.contexts.argsort(descending=True)[:_NAMED].tolist(), linked=linked)
    return TableRecord(
        id="not-telling",
        title="The most contexts",
        look_at=f"Selected by rule: in each layer, the {_NAMED} neurons with the most contexts. To the model, their examples have little more in common than examples permuted across neurons.",
        columns=list(_COLUMNS),
        rows=rows,
        words=set(_COLUMNS[3:]),
    )


_COLUMNS = ("neuron", "contexts", "different tokens", "largest activations on", "raises the logits of")


def _rows(scanned: ScannedUnits, hook: str, chosen: list[int], *, linked: bool) -> list[list[str | Link]]:
    units, effects = scanned.scan.hooks[hook], scanned.effects[hook]
    word = unit_word(hook)
    where = f"{layer_name(hook).lower()}," if word == "neuron" else word
    rows: list[list[str | Link]] = []
    for unit in chosen:
        words = _peak_words(scanned, units, unit)
        raised = [] if effects is None else effects.top[unit, :_WORDS].tolist()
        name = f"{where} {unit}"
        rows.append(
            [
                Link(name, unit_address(hook, unit)) if linked else name,
                f"{float(units.contexts[unit]):.1f}",
                str(len(words)),
                " ".join(words[:_WORDS]),
                " ".join(scanned.vocabulary[token].strip() or "␣" for token in raised),
            ]
        )
    return rows


def _peak_words(scanned: ScannedUnits, units: UnitScan, unit: int) -> list[str]:
    """The different tokens of a unit's largest activations, the largest first, without spaces and capitals."""
    words: dict[str, None] = {}
    documents, positions = units.top.document[unit].tolist(), units.top.position[unit].tolist()
    for document, position in zip(documents, positions, strict=True):
        if document >= 0:
            words[scanned.vocabulary[scanned.scan.documents[document][position]].strip().lower()] = None
    return list(words)
