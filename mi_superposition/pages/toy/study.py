"""The page of one of the nine studies: its module here is found by its name."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import plotly.graph_objects as go

from mi_superposition.pages.toy.losses import loss_table
from mi_superposition.site import FigureRecord, Page, Section
from mi_superposition.site.records import Item
from mi_superposition.studies.toy.result import ToyStudyResult
from mi_superposition.studies.toy.study import load
from mi_superposition.toy.config import StudyName


@runtime_checkable
class Showing(Protocol):
    """What a module that shows a study has. ``outcome`` says in a few sentences with numbers what was measured; the first of the
    ``items`` is the study's main figure. Both take the result of that very study.
    """

    TITLE: str
    QUESTION: str
    SOURCE: str

    def outcome(self, study: Any) -> str:
        """The numbers in sentences."""

    def items(self, study: Any) -> Sequence[Item]:
        """Figures and tables."""


def showing(name: StudyName) -> Showing:
    """The module that shows a study."""
    return cast(Showing, import_module(f"mi_superposition.pages.toy.{name}"))


def page(study: ToyStudyResult) -> Page:
    """A study as a page."""
    shown = showing(study.config.study)
    return Page(
        slug=f"toy-{study.config.study}",
        title=shown.TITLE,
        intro=f"{shown.QUESTION} {shown.outcome(study)} Source: {shown.SOURCE}.",
        items=[*shown.items(study), loss_table(study.models)],
    )


def sections(folder: Path) -> list[Section]:
    """A finished study as a page."""
    study = load(folder)
    shown = showing(study.config.study)
    return [
        Section(
            slug=study.config.study,
            title=shown.TITLE,
            summary=shown.QUESTION,
            number="",
            number_is=shown.outcome(study),
            control="",
            page=page(study),
        )
    ]


def figure(study: ToyStudyResult) -> go.Figure:
    """The study's main figure."""
    return main_figure(showing(study.config.study).items(study)).figure


def main_figure(items: Sequence[Item]) -> FigureRecord:
    """The first figure of a page."""
    return next(item for item in items if isinstance(item, FigureRecord))
