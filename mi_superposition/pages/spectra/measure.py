"""The page of a measurement of effective ranks."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go

from mi_superposition.pages.spectra.distributions import activation_histograms, weight_maps, whole_spectra
from mi_superposition.pages.spectra.ranks import by_layer, during_training, rank_tables, ratio_figure
from mi_superposition.site import Page, Section
from mi_superposition.site.records import Item
from mi_superposition.studies.spectra.measure import RANDOM, SpectraResult, load

# What ranks say, and what they do not.
CAUTION = (
    "A low effective rank means that some directions carry almost no variance. It does not say how many features the other directions "
    "hold: a layer of full rank may have one feature per dimension or eight, and a layer of low rank may have many features in few "
    "dimensions. The rank bounds the available dimensions; it does not show how features share them."
)


def sections(folder: Path) -> list[Section]:
    """A finished run as a page."""
    result = load(folder)
    kind = result.kinds[0]
    title = f"Effective rank of {result.config.model.name}"
    return [
        Section(
            slug="spectra",
            title=title,
            summary="Effective rank of weights and activations per layer, compared with the untrained network and random matrices.",
            number=f"{result.mean_ratio('trained', kind):.2f}",
            number_is=f"energy rank of {kind} divided by the largest possible rank, mean over layers",
            control=f"{result.mean_ratio('untrained', kind):.2f} untrained, {result.mean_ratio(RANDOM, kind):.2f} random matrices",
            page=Page(slug="spectra", title=title, intro=f"{intro(result)} {CAUTION}", items=items(result)),
        )
    ]


def figure(result: SpectraResult) -> go.Figure:
    """Effective rank by layer."""
    return ratio_figure(result)


def intro(result: SpectraResult) -> str:
    """What was measured, in a sentence."""
    return f"{result.subject}."


def items(result: SpectraResult) -> list[Item]:
    """The result as figures and tables with their words."""
    return [
        by_layer(result),
        *during_training(result),
        whole_spectra(result),
        *activation_histograms(result),
        *weight_maps(result),
        *rank_tables(result),
    ]
