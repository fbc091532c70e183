"""The page of a run about concepts."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go

from mi_superposition.pages.concepts.directions import directions_figure, permutation_table, plane_figure
from mi_superposition.pages.concepts.features import feature_tables
from mi_superposition.pages.concepts.links import UnitPages
from mi_superposition.pages.concepts.overlap import overlap_items
from mi_superposition.pages.concepts.probes import accuracy_table, halvings_table, probe_figure, probe_lines
from mi_superposition.pages.concepts.words import word_figures
from mi_superposition.site import Page, Section
from mi_superposition.site.headlines import Headline
from mi_superposition.site.records import Item
from mi_superposition.studies.concepts.measure import load
from mi_superposition.studies.concepts.result import ConceptsResult


def sections(folder: Path) -> list[Section]:
    """A finished run as a page."""
    result = load(folder)
    title = f"Concepts in {result.config.model.name}"
    return [
        Section(
            slug="concepts",
            title=title,
            summary="What a model represents of concepts, compared with untrained models, random word lists and permuted labels.",
            number=result.told_accuracy,
            number_is=f"balanced accuracy of a linear probe on held-out texts, mean of {len(result.concepts)} concepts; {result.told_how}",
            control=controls(result),
            page=Page(slug="concepts", title=title, intro=intro(result), items=items(result)),
            headline=headline(result),
        )
    ]


# Names of controls that stand without "for".
_BARE = ("untrained", "chance")


def figure(result: ConceptsResult) -> go.Figure:
    """Accuracy of the probe at every layer, with its controls."""
    return probe_lines(result)


def headline(result: ConceptsResult) -> Headline:
    """Whether the probe is better than all that it is compared with, by more than two standard deviations over halvings (one halving: two
    standard errors).
    """
    halves = result.halves
    return Headline(
        result.best_probe("trained") if halves is None else halves.mean("trained"),
        result.accuracies(),
        yes="A probe finds concepts in this model better than without it, on words or texts that it was not trained on",
        no="A probe of this model is not shown to find concepts better than without it",
        margin=2 * (result.error if halves is None else halves.deviation("trained")),
    )


def controls(result: ConceptsResult) -> str:
    """What the accuracy is compared with."""
    return ", ".join(
        f"{value:.3f} {name if name in _BARE else f'for {name}'}" for name, value in result.accuracies().items()
    )


def intro(result: ConceptsResult) -> str:
    """What was measured, and the one number with its controls."""
    how = (
        "Each concept is a word list. A sentence belongs to a concept if it contains a word of that list and no word of another "
        "list. One half of each list is used for training and the other half, in other sentences, for testing, so a probe cannot "
        "succeed by the training words alone."
        if result.by_words
        else "Concepts are the texts' labels; one text in four is held out."
    )
    layer = result.best_layer if result.halves is None else result.halves.usual_layer
    first = (
        " That layer is the first one: the embeddings, before any transformer layer."
        if layer == next(iter(result.trained))
        else ""
    )
    chosen = "the best layer is" if result.halves is None else "the layer chosen most often is"
    return (
        f"{how} A linear probe reaches a balanced accuracy of {result.told_accuracy} for {len(result.concepts)} concepts in "
        f"{result.config.model.name} ({result.told_how}; {chosen} {layer}). Compared with: {controls(result)}.{first} Figures below are of one "
        f"halving, with {result.n_held_out:,} held-out texts{f' of {result.n_held_out_groups} words' if result.by_words else ''}. The study "
        "follows R. A. Stringer, “Unravelling Superposition” (its chapter on language models)."
    )


def items(result: ConceptsResult, pages: UnitPages | None = None) -> list[Item]:
    """Figures and tables of one run; ``pages`` gives the addresses of units' pages by layer."""
    pages = pages or {}
    return [
        *halvings_table(result),
        probe_figure(result),
        accuracy_table(result),
        plane_figure(result),
        directions_figure(result),
        permutation_table(result),
        *overlap_items(result, pages),
        *feature_tables(result, pages),
        *word_figures(result),
    ]
