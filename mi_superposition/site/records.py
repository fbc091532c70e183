"""What a page shows: plain data, no models."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.site.headlines import Alternative, Headline

if TYPE_CHECKING:
    from mi_superposition.site.folder import SiteFolder

# The folder of a site in which the pages of neurons and features lie.
UNITS = "neurons"


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
class Link:
    """Text that leads to an address, relative to the site."""

    text: str
    address: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class TableRecord:
    """A small table; the first column names the row. A cell is text, a link, or several of them in a row.

    ``words`` names the columns that hold words and not numbers. ``further`` leads on from the table. ``prose``: of a table of
    sentences the widths of its columns in per cent; its cells break, and on a narrow screen each row is a block of its own.
    """

    id: str
    title: str
    look_at: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Link | Sequence[str | Link]]]
    words: Collection[str] = ()
    further: Link | None = None
    prose: Sequence[int] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), (self.id, row)
        assert not self.prose or len(self.prose) == len(self.columns), (self.id, self.prose)


@dataclass(frozen=True)
class MatrixView:
    """One way to show a matrix: rows and columns in ``order`` (the neuron at each place).

    ``values_of`` names the view of the same matrix whose values are read in this one's place, in another order;
    ``None`` for a matrix of its own.
    """

    key: str
    label: str
    similarity: Float[Tensor, "row row"]
    order: Int[Tensor, " row"]
    values_of: str | None = None


@dataclass(frozen=True)
class MatrixRecord:
    """A symmetric matrix with entries of -1 to 1 that can be zoomed; ``what`` names an entry, such as "cosine".

    ``pages`` gives the address of each neuron's page, relative to the site, for those that have one; ``spots`` are the
    places of stretches of the first view worth a look, as (start, length).
    """

    id: str
    title: str
    look_at: str
    number: str
    control: str
    what: str
    views: Sequence[MatrixView]
    spots: Sequence[tuple[int, int]] = ()
    pages: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ShadedText:
    """An excerpt whose tokens have values, shown as shades; ``at`` is the token that it is about, ``value`` what is told of it."""

    value: str
    tokens: Sequence[str]
    values: Sequence[float]
    at: int


@dataclass(frozen=True)
class TextsRecord:
    """Groups of shaded texts, each behind its heading; ``largest`` is the magnitude that has the deepest shade."""

    id: str
    title: str
    look_at: str
    groups: Mapping[str, Sequence[ShadedText]]
    largest: float

    def depth(self, value: float) -> str:
        """Depth of a value's shade, 0 to 0.62; of one that is not known 0."""
        return f"{0.62 * min(abs(value) / self.largest, 1.0):.2f}" if value == value and self.largest > 0 else "0"


Item = FigureRecord | ImageRecord | MatrixRecord | TableRecord | TextsRecord


@dataclass(frozen=True)
class Page:
    """One HTML file of a section."""

    slug: str
    title: str
    intro: str
    items: Sequence[Item]


@dataclass(frozen=True)
class Card:
    """What the index shows of a section: its one figure, what it measures, and what it would be by chance.

    ``slug`` is that of the page it leads to; ``story`` leads on to it from the section before, ``reported`` is what others
    said of the same question. ``claim`` is what the number says beside its control, ``alternatives`` what could have refuted it.
    """

    slug: str
    title: str
    summary: str
    number: str
    number_is: str
    control: str
    story: str = ""
    reported: str = ""
    claim: str = ""
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True)
class Section:
    """One subject of the report: a card on the index and a page, with further pages behind it.

    ``number`` is the section's one figure as shown on the card, ``number_is`` what it measures and ``control`` what
    it would be by chance. ``write_more`` writes pages of the section's own, given the site and its title; they
    lie in ``folders`` of the site. ``headline`` makes the sentence that the number stands for, and the ``alternatives``
    are what was tried that could have refuted it: they are the page's last table.
    """

    slug: str
    title: str
    summary: str
    number: str
    number_is: str
    control: str
    page: Page
    more: Sequence[Page] = field(default=())
    write_more: Callable[[SiteFolder, str], None] | None = None
    folders: Sequence[str] = ()
    headline: Headline | None = None
    alternatives: tuple[Alternative, ...] = ()

    @property
    def claim(self) -> str:
        """What its number says; nothing where it stands for no claim."""
        return "" if self.headline is None else self.headline.claim

    def card(self, story: str = "", reported: str = "") -> Card:
        """Its card on the index."""
        return Card(
            self.page.slug, self.title, self.summary, self.number, self.number_is, self.control, story, reported, self.claim, self.alternatives,
        )  # fmt: skip

    @property
    def pages(self) -> list[Page]:
        """Its page, with what could have refuted its headline, and those behind it."""
        page = self.page
        if self.alternatives:
            page = replace(page, items=[*page.items, self._alternatives()])
        return [page, *self.more]

    def _alternatives(self) -> TableRecord:
        return TableRecord(
            id="alternatives",
            title="What could have refuted this",
            look_at=(
                f"{self.number}: {self.number_is}. Control: {self.control}. {self.claim} Other choices that could have led to another sentence, "
                "and what came out. The pages of docs named here have the numbers."
            ),
            columns=("tried", "found", "how, and where it stands"),
            rows=[one.cells for one in self.alternatives],
            prose=(34, 38, 28),
        )
