"""What a page shows: plain data, no models and no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import plotly.graph_objects as go


@dataclass(frozen=True)
class FigureRecord:
    """A figure with what to look at, one number and that number's control."""

    id: str
    title: str
    look_at: str
    number: str
    control: str
    figure: go.Figure


@dataclass(frozen=True)
class ImageRecord:
    """A picture file (its bytes) with the same words around it; ``alt`` says what it shows."""

    id: str
    title: str
    look_at: str
    alt: str
    file_name: str
    content: bytes


@dataclass(frozen=True)
class TableRecord:
    """A small table; the first column names the row."""

    id: str
    title: str
    look_at: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


Item = FigureRecord | ImageRecord | TableRecord


@dataclass(frozen=True)
class Page:
    """One HTML file of a section."""

    slug: str
    title: str
    intro: str
    items: Sequence[Item]


@dataclass(frozen=True)
class Section:
    """One subject of the report: a card on the index and a page, with further pages behind it.

    ``number`` is the section's one figure as shown on the card, ``number_is`` what it measures and ``control`` what
    it would be by chance.
    """

    slug: str
    title: str
    summary: str
    number: str
    number_is: str
    control: str
    page: Page
    more: Sequence[Page] = field(default=())
