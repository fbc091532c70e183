"""What the pages of attention heads show: plain data, no models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from mi_superposition.site.records import Link, TableRecord

# The folder of a site in which the pages of heads lie.
HEADS = "heads"


@dataclass(frozen=True)
class HeadExample:
    """A text in which every token can be the query. ``strength``: the value-weighted attention of ``query``, of which this is an example.

    ``tokens`` are those shown, empty where a token ends a character that stands in an earlier one; ``place`` of each its place in the
    document (-1: the beginning token): where it jumps, text is left out. ``attention``: from each token (row) to each; ``length``: what
    each token as key adds at full attention (norm).
    """

    strength: float
    document: int
    tokens: Sequence[str]
    place: Sequence[int]
    query: int
    attention: Float[NDArray[np.float32], "query key"]
    length: Float[NDArray[np.float32], " key"]


@dataclass(frozen=True)
class MeasureRecord:
    """A measure of all heads: its heading with the unit, what it means, and the values, with those of the controls (none: no such control)."""

    name: str
    label: str
    meaning: str
    values: Sequence[float]
    untrained: Sequence[float] | None
    permuted: Sequence[float] | None
    permuted_is: str = ""


@dataclass(frozen=True)
class HeadLinks:
    """Links with numbers under a sentence that says what they are, and one that says what the numbers would be by chance."""

    title: str
    links: Sequence[tuple[str | Link, float]]
    control: str


@dataclass(frozen=True)
class HeadRecord:
    """One head's page. ``measured``: of every measure its label, its value, and what its controls are. ``tenths`` holds examples from each
    of ten equal intervals of the range of its strongest attention, the highest first, with what the interval is. ``tables``: tables of tokens.
    """

    name: str
    layer: int
    head: int
    measured: Sequence[tuple[str, str, str, str]]
    top: Sequence[HeadExample]
    tenths: Sequence[tuple[str, Sequence[HeadExample]]]
    tables: Sequence[TableRecord]
    links: Sequence[HeadLinks]


@dataclass(frozen=True)
class HeadsRecord:
    """What was scanned, for the overview: facts as (name, value), what a reader must know, and the measures of all heads.

    ``names`` and ``layers`` of the heads; ``attended``: of each the tokens that it attends most; ``axes``: the measures of the axes and of
    the colour that the overview begins with.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    remarks: Sequence[str]
    names: Sequence[str]
    layers: Sequence[int]
    measures: Sequence[MeasureRecord]
    attended: Sequence[Sequence[str]]
    axes: tuple[str, str, str]


def head_address(name: str) -> str:
    """Where a site keeps the page of a head, relative to its folder."""
    return f"{HEADS}/{name}.html"
