"""The page of head projections."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import plotly.graph_objects as go

from mi_superposition.figures.heads import (
    circularity_ranking,
    ov_singular_directions,
    projection_animation,
    projection_chart,
    projection_multiples,
)
from mi_superposition.heads import Circularity, circularity
from mi_superposition.site import FigureRecord, Page, Section
from mi_superposition.site.records import Item
from mi_superposition.studies.heads.project import HeadProjectionStudy, load


def sections(folder: Path) -> list[Section]:
    """A finished run as a page, and one with all heads."""
    study = load(folder)
    page = Page(
        slug="projections",
        title=f"Head projections of {study.config.model.name}",
        intro="Queries, keys, values and outputs of every head.",
        items=items(study),
    )
    return [
        Section(
            slug="projections",
            title="Head projections",
            summary=page.intro,
            number=f"{100 * float(study.circular['V'].share.mean()):.0f} %",
            number_is="of the variance of the digits' values lies in one Fourier frequency (mean over heads)",
            control=f"{100 * study.untrained_mean('V', 'share'):.0f} % untrained",
            page=page,
            more=[all_heads_page(study)],
        )
    ]


def figure(study: HeadProjectionStudy) -> go.Figure:
    """Every head's circularity, beside an untrained model's."""
    return circularity_ranking(study.circular, study.untrained[0], study.ramp_share)


def items(study: HeadProjectionStudy) -> list[Item]:
    """The study as figures with their words."""
    value = study.circular["V"]
    share, roundness = value.share[study.head], value.roundness[study.head]
    # The control of a chosen head is the head that the same choice finds where there is nothing to find.
    best = [float((circular["V"].share * circular["V"].roundness).max()) for circular in study.untrained]
    records: list[Item] = [
        FigureRecord(
            id="projections",
            title=f"What head {study.head} reads and writes",
            look_at=(
                f"Top: queries, keys and values of the ten digits at position {study.config.position}, and the direction in which the "
                f"head writes each digit (its output). Bottom: queries, keys and values of the digit {study.config.digit} at every "
                "position. The answer positions always hold '=', so the queries of digits exist but are never used."
                + (
                    ""
                    if study.trained.query.shape[-1] <= 2
                    else " Of each head's dimensions, the plane of the digits' strongest Fourier component is drawn."
                )
            ),
            number=(
                f"Values: {100 * float(share):.0f} % of the variance in one Fourier frequency, roundness {float(roundness):.2f}; "
                f"circularity (product) {float(share * roundness):.2f}."
            ),
            control=f"{mean(best):.2f} for the most circular head of an untrained model (mean of {len(best)}).",
            figure=projection_chart(
                study.trained, study.head, position=study.config.position, digit=study.config.digit
            ),
        ),
        FigureRecord(
            id="circularity",
            title="Are the digits on a circle?",
            look_at=(
                "Heads ranked by circularity = fraction × roundness. Fraction: how much of the variance of the ten "
                "points lies in their strongest Fourier frequency over the digits. Roundness: 0 if that component is "
                "a line, 1 if it is a circle. Digits along a line can have a fraction of 1 but have roundness 0. "
                "Dotted: the fraction of a ramp (equal steps 0, 1, …, 9 on a line), which is not a circle either."
            ),
            number=(
                "Fraction and roundness, means over heads: "
                + ", ".join(
                    f"{name} {float(one.share.mean()):.2f} and {float(one.roundness.mean()):.2f}"
                    for name, one in study.circular.items()
                )
                + "."
            ),
            control=(
                ", ".join(
                    f"{name} {study.untrained_mean(name, 'share'):.2f} and {study.untrained_mean(name, 'roundness'):.2f}"
                    for name in study.circular
                )
                + f" in untrained models (mean of {len(study.untrained)}; one is plotted); {study.ramp_share:.2f} and 0 for a ramp."
            ),
            figure=figure(study),
        ),
        FigureRecord(
            id="ov",
            title=f"Singular directions of head {study.head}'s OV circuit",
            look_at=(
                "Left: how strongly each input digit activates a singular direction. Right: how much that direction adds to the logit of "
                "each output digit."
            ),
            number=(
                f"The second singular value is {float(study.trained.ov_ratio[study.head]):.2f} of the first, {float(study.trained.ov_ratio.mean()):.2f} on "
                "average over heads (0: the head uses one dimension; 1: it uses both equally)."
            ),
            control=f"{study.untrained_ov_ratio:.2f} on average in untrained models.",
            figure=ov_singular_directions(study.trained, study.head),
        ),
    ]
    if study.frames:
        first, last = (circularity(points[2]) for points in (list(study.frames.values())[i] for i in (0, -1)))
        records.append(
            FigureRecord(
                id="projection-training",
                title=f"Head {study.head} during training",
                look_at=(
                    "The ten digits at each checkpoint; the axes are the same for all checkpoints. The slider selects "
                    "the checkpoint."
                ),
                number=(
                    f"V at epoch {list(study.frames)[-1]}: {100 * float(last.share):.0f} % in one frequency, roundness "
                    f"{float(last.roundness):.2f}."
                ),
                control=(
                    f"{100 * float(first.share):.0f} % and {float(first.roundness):.2f} at epoch {next(iter(study.frames))}."
                ),
                figure=projection_animation(study.frames),
            )
        )
    return records


def _rings(measured: Circularity) -> int:
    return int(((measured.share > 0.9) & (measured.roundness > 0.5)).sum())


def all_heads_page(study: HeadProjectionStudy) -> Page:
    """One page with every head as small multiples."""
    n_heads = study.trained.query.shape[0]
    return Page(
        slug="all-heads",
        title="Projections of every head",
        intro=f"The ten digits at position {study.config.position} under Q, K, V and O of all {n_heads} heads. Colours go around the colour wheel from 0 to 9.",
        items=[
            FigureRecord(
                id="all-heads",
                title="All heads",
                look_at=(
                    "Look for rings: the ten digits in order around a circle. Each panel has its own scale, equal on both axes."
                ),
                number=(
                    f"{_rings(study.circular['O'])} of {n_heads} heads write the digits as a ring: more than 90 % of the variance in one "
                    "frequency, roundness above 0.5."
                ),
                control=(
                    f"{mean(_rings(circular['O']) for circular in study.untrained):.1f} heads in untrained models "
                    f"(mean of {len(study.untrained)})."
                ),
                figure=projection_multiples(study.trained, position=study.config.position),
            )
        ],
    )
