"""The page of a certificate."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go

from mi_superposition.addition.certificate.result import Certificate, Curve
from mi_superposition.figures.certificate import bounds_by_digit, gap_over_time, proven_by_sums
from mi_superposition.site import FigureRecord, Page, Section
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.studies.addition.certify import load


def figure(certificate: Certificate) -> go.Figure:
    """The bounds of every digit."""
    return bounds_by_digit(certificate)


def sections(folder: Path) -> list[Section]:
    """A finished certificate as a page."""
    certificate = load(folder)
    least, most = certificate.sums
    page = Page(
        slug="certificate",
        title=f"What {certificate.model} is proven to add",
        intro=f"{certificate.summary()}.",
        items=items(certificate),
    )
    return [
        Section(
            slug="certificate",
            title=page.title,
            summary="Bounds on the share of all problems that come out right, proven for every answer digit.",
            number=f"{100 * least:.2f} to {100 * most:.2f} %",
            number_is=f"of all {10 ** (2 * certificate.n_digits):,} sums right as a whole, proven",
            control=control_of(certificate),
            page=page,
        )
    ]


def control_of(certificate: Certificate) -> str:
    """What the bounds are compared with."""
    sampled = certificate.sampled
    return f"{100 * sampled.whole_sums:.2f} % of {sampled.n_problems:,} sums drawn at random"


def items(certificate: Certificate) -> list[Item]:
    """Table and figures."""
    return [bounds_table(certificate), cells_figure(certificate), curve_figure(certificate)]


def bounds_table(certificate: Certificate, id: str = "bounds") -> TableRecord:
    """The interval of every digit, beside the sampled accuracy."""
    lower, upper, sampled = certificate.lower, certificate.upper, certificate.sampled
    rows = [
        [
            str(digit),
            f"{100 * float(lower[digit]):.4f} %",
            f"{100 * float(upper[digit]):.4f} %",
            f"{100 * float(upper[digit] - lower[digit]):.4f}",
            f"{100 * float(sampled.by_digit[digit]):.3f} %",
            f"{int(certificate.boxes[digit]):,}",
        ]
        for digit in range(len(lower))
    ]
    least, most = certificate.sums
    rows.append(
        [
            "whole sum",
            f"{100 * least:.4f} %",
            f"{100 * most:.4f} %",
            f"{100 * (most - least):.4f}",
            f"{100 * sampled.whole_sums:.3f} %",
            f"{int(certificate.boxes.sum()):,}",
        ]
    )
    return TableRecord(
        id=id,
        title=f"Proven accuracy of {certificate.model} over all {10 ** (2 * certificate.n_digits):,} problems, from {int(certificate.boxes.sum()):,} boxes",
        look_at=(
            "At least and at most so many of all problems have the digit right: bounds from a proof, not from a sample (digit 0 = ones). Beside them the "
            f"accuracy on {sampled.n_problems:,} problems drawn at random. Whole sums: at least, if no two digits of a sum were ever wrong "
            f"together; at most, if always. Search: {_length(certificate.curve, -1)}."
        ),
        columns=["answer digit", "at least", "at most", "gap, points", "sampled", "boxes"],
        rows=rows,
    )


def cells_figure(certificate: Certificate, id: str = "boxes") -> FigureRecord:
    """Which problems are proven right, proven wrong and open, by column sums."""
    lower, upper = certificate.lower, certificate.upper
    return FigureRecord(
        id=id,
        title=f"Proven right, proven wrong, open: {certificate.model}",
        look_at=(
            "One panel for each answer digit but the ones. Down: the sum of the digit's own column (of the last digit, the column below it); across: the sum "
            "of the next column below. Blue: all problems there are proven right; red: proven wrong. The paler, the more are open, or right and wrong "
            "are mixed (point at a cell for the shares). Only where the lower column sums to 9 does the carry come from further down."
        ),
        number=f"{100 * float((upper - lower).max()):.3f} points are open for the worst digit.",
        control=f"{100 * float((1 - upper).max()):.2f} % are proven wrong for the worst digit.",
        figure=proven_by_sums(certificate),
    )


def curve_figure(certificate: Certificate, id: str = "gap") -> FigureRecord:
    """How the gap shrank."""
    curve = certificate.curve
    gap = 100 * (1 - curve.right - curve.wrong)
    first = int((gap.max(dim=1).values < 100).int().argmax())
    return FigureRecord(
        id=id,
        title=f"The gap between the bounds over time: {certificate.model}",
        look_at="Share of all problems that are neither proven right nor proven wrong, for every answer digit. Both axes are logarithmic.",
        number=f"{float(gap[-1].mean()):.3f} points open on average after {_length(curve, -1)}.",
        control=f"{float(gap[first].mean()):.2f} points after {_length(curve, first)}.",
        figure=gap_over_time(certificate),
    )


def _length(curve: Curve, moment: int) -> str:
    """How far the search had come."""
    boxes = f"{int(curve.boxes[moment]):,} boxes"
    return f"{float(curve.seconds[moment]):.0f} s, {boxes}" if curve.timed else boxes
