"""Examples of what a unit responds to: tokens with their activations, in the text around them."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mi_superposition.corpora.tokens import whole_characters
from mi_superposition.neurons.scan.names import unit_name
from mi_superposition.neurons.scan.shading import shaded_html, strongest
from mi_superposition.results import Result

# Tokens shown before and after the largest activations.
AROUND_TOP = (20, 10)
_SHADED = 10


@dataclass(frozen=True)
class Examples:
    """Examples of each unit in their order; activation NaN, document and position -1 where there are fewer. A feature has none
    that it is not active on.

    ``position`` counts the tokens of the document from 0. ``window`` holds the activations around each example (NaN outside its
    sequence), the example itself in the middle.
    """

    activation: Float[Tensor, "unit example"]
    document: Int[Tensor, "unit example"]
    position: Int[Tensor, "unit example"]
    window: Float[Tensor, "unit example offset"]


@dataclass(frozen=True)
class Excerpt:
    """An example with the text around it. ``tokens`` are those of the document from position ``first`` on; the ``activations``
    begin at position ``activations_first`` and are NaN where the model did not read the token together with the example.
    """

    document: int
    position: int
    activation: float
    first: int
    tokens: Sequence[str]
    activations_first: int
    activations: Float[NDArray[np.float32], " token"]

    def token_activations(self) -> list[float]:
        """The activation of each of the ``tokens``; NaN where none was kept."""
        at = np.arange(len(self.tokens)) + self.first - self.activations_first
        kept = (at >= 0) & (at < len(self.activations))
        values = np.full(len(at), np.nan)
        values[kept] = self.activations[at[kept]]
        return values.tolist()


def excerpts(
    examples: Examples,
    unit: int,
    documents: Mapping[int, Sequence[str]],
    *,
    around: tuple[int, int] = AROUND_TOP,
    which: slice = slice(None),
    kept: int = 0,
) -> list[Excerpt]:
    """A unit's examples with ``around`` tokens before and after, and the activations of these and of ``kept`` tokens to either side.

    ``documents`` holds the tokens of each document as ``running_text`` gives them.
    """
    reach = examples.window.shape[2] // 2
    # Rows of a tensor cost ten times as much to take as those of the array behind it.
    numbers, places, activations, windows = (
        part.numpy()[unit, which]
        for part in (examples.document, examples.position, examples.activation, examples.window)
    )
    firsts = np.maximum(places - around[0], 0)
    starts = np.maximum(places - min(max(around[0], kept), reach), 0)
    ends = places + (min(max(around[1], kept), reach) + 1)
    rows = (numbers, places, activations, firsts, starts, ends)
    cut = []
    for (document, position, activation, first, start, end), window in zip(
        zip(*(row.tolist() for row in rows), strict=True), windows.astype(np.float32), strict=True
    ):
        if document < 0:
            continue
        tokens = documents[document]
        # No text begins within a character.
        while first > 0 and not tokens[first]:
            first -= 1
        offset = reach - position
        cut.append(
            Excerpt(
                document=document,
                position=position,
                activation=activation,
                first=first,
                tokens=tokens[first : position + around[1] + 1],
                activations_first=start,
                activations=window[offset + start : offset + min(end, len(tokens))],
            )
        )
    return cut


@dataclass(frozen=True, repr=False)
class UnitExamples(Result):
    """One unit of a scan: its largest activations in their texts, and how its activations are distributed.

    ``histogram`` counts the tokens below the range ``edges``, in each of its equal bins, and above it. ``contexts`` is the
    effective number of contexts of the largest activations; ``contexts_permuted`` its median over units when examples are
    permuted across them.
    """

    DRAWN_BY: ClassVar[str] = "mi_superposition.pages.neurons.scan:unit_figure"

    hook: str
    unit: int
    largest: tuple[Excerpt, ...]
    histogram: Int[Tensor, " bin"]
    edges: Float[Tensor, " edge"]
    maximum: float
    mean: float
    fraction_active: float
    contexts: float
    contexts_permuted: float

    @property
    def name(self) -> str:
        """As a heading has it."""
        return unit_name(self.hook, self.unit)

    def summary(self) -> str:
        """The unit's numbers, with the control of the number of contexts."""
        return (
            f"{self.name}: maximum {self.maximum:.2f}, mean {self.mean:.3f}, active on {100 * self.fraction_active:.1f} % of tokens, "
            f"{self.contexts:.1f} contexts ({self.contexts_permuted:.1f} when permuted across units)"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per example, the largest first: its activation, where it is, and the text before it, the token, the text after."""
        rows = []
        for excerpt in self.largest:
            at = excerpt.position - excerpt.first
            text, positions = next(one for one in whole_characters(excerpt.tokens) if at in one[1])
            rows.append(
                {
                    "activation": excerpt.activation,
                    "document": excerpt.document,
                    "position": excerpt.position,
                    "before": "".join(excerpt.tokens[: positions.start]),
                    "token": text,
                    "after": "".join(excerpt.tokens[positions.stop :]),
                }
            )
        return pd.DataFrame(rows, columns=["activation", "document", "position", "before", "token", "after"])

    def samples(self) -> list[tuple[list[str], list[float]]]:
        """Tokens and activations of each example, as circuitsvis takes them; 0 where no activation was kept.

        A character that is made of several tokens is one, with the strongest of their activations.
        """
        return [_sample(excerpt.tokens, excerpt.token_activations()) for excerpt in self.largest]

    def _repr_html_(self) -> str:
        """The first examples, shaded by activation."""
        rows = "".join(
            f"<li><b>{excerpt.activation:.2f}</b> <span style='white-space: pre-wrap'>"
            f"{shaded_html(excerpt.tokens, excerpt.token_activations(), abs(self.maximum))}</span></li>"
            for excerpt in self.largest[:_SHADED]
        )
        return f"<p>{html.escape(self.summary())}</p><ol>{rows}</ol>"


def _sample(tokens: Sequence[str], activations: Sequence[float]) -> tuple[list[str], list[float]]:
    together = whole_characters(tokens)
    values = [strongest([activations[position] for position in positions]) for _, positions in together]
    return [text for text, _ in together], [0.0 if math.isnan(value) else value for value in values]
