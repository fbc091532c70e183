"""The page of a run about concepts."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go

from mi_superposition.pages.concepts.directions import directions_figure, permutation_table, plane_figure
from mi_superposition.pages.concepts.features import feature_tables
from mi_superposition.pages.concepts.links import UnitPages
from mi_superposition.pages.concepts.overlap import overlap_items
from mi_superposition.pages.concepts.probes import accuracy_table, probe_figure, probe_lines
from mi_superposition.pages.concepts.words import word_figures
from mi_superposition.site import Page, Section
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
            number=f"{result.best_probe('trained'):.3f}",
            number_is=f"balanced accuracy of a linear probe on held-out texts, mean of {len(result.concepts)} concepts",
            control=controls(result),
            page=Page(slug="concepts", title=title, intro=intro(result), items=items(result)),
        )
    ]


def figure(result: ConceptsResult) -> go.Figure:
    """Accuracy of the probe at every layer, with its controls."""
    return probe_lines(result)


def controls(result: ConceptsResult) -> str:
    """What the accuracy is compared with, each at its own best layer."""
    words = "a bag of the other words" if result.by_words else "a bag of words"
    random = f"{result.best_random:.3f} for random word lists, " if result.by_words else ""
    return f"{result.bag_of_words:.3f} for {words}, {result.best_probe('untrained'):.3f} untrained, {random}{result.chance:.3f} chance"


def intro(result: ConceptsResult) -> str:
    """What was measured, and the one number with its controls, each at its own best layer."""
    how = (
        "Each concept is a word list. A sentence belongs to a concept if it contains a word of that list and no word of another "
        "list. One half of each list is used for training and the other half, in other sentences, for testing, so a probe cannot "
        "succeed by the training words alone."
        if result.by_words
        else "Concepts are the texts' labels; one text in four is held out."
    )
    held_out = f" ({result.n_held_out_groups} words)" if result.by_words else ""
    random = f", random word lists {result.best_random:.3f}" if result.by_words else ""
    first = (
        " The best layer is the first one: the embeddings, before any transformer layer."
        if result.best_layer == next(iter(result.trained))
        else ""
    )
    return (
        f"{how} A linear probe reaches a balanced accuracy of {result.best_probe('trained'):.3f} ± {result.error:.3f} for "
        f"{len(result.concepts)} concepts on {result.n_held_out:,} held-out texts{held_out} at {result.best_layer} of "
        f"{result.config.model.name} (untrained {result.best_probe('untrained'):.3f}{random}, bag of words {result.bag_of_words:.3f}, "
        f"chance {result.chance:.3f}; each at its best layer; ± one standard error, bootstrap over "
        f"{'words' if result.by_words else 'texts'}).{first} The study follows R. A. Stringer, “Unravelling Superposition” (chapter 3, on "
        "language models)."
    )


def items(result: ConceptsResult, pages: UnitPages | None = None) -> list[Item]:
    """Figures and tables of one run; ``pages`` gives the addresses of units' pages by layer."""
    pages = pages or {}
    return [
        probe_figure(result),
        accuracy_table(result),
        plane_figure(result),
        directions_figure(result),
        permutation_table(result),
        *overlap_items(result, pages),
        *feature_tables(result, pages),
        *word_figures(result),
    ]
