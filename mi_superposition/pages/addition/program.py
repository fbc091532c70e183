"""Figures and the page of the program that an addition model has learnt."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go

from mi_superposition.figures.program import fidelity_by_length, fidelity_by_table, roles_by_digit, steps_broken
from mi_superposition.site import FigureRecord, Page, Section
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.studies.addition.program import AdditionProgram, load


def figure(program: AdditionProgram) -> go.Figure:
    """Agreement over description length."""
    curves = {
        name: [(one.bits, one.whole_sum) for one in program.programs if one.apart == apart]
        for name, apart in (("weights of column sums", False), ("weights of digits", True))
    }
    return fidelity_by_length(curves, program.truth_whole_sum)


def sections(folder: Path) -> list[Section]:
    """A finished study as a page."""
    program = load(folder)
    page = Page(
        slug="program",
        title=f"The program of {program.config.model.name}",
        intro=f"{program.summary()[0].upper()}{program.summary()[1:]}.",
        items=items(program),
    )
    return [
        Section(
            slug="program",
            title=page.title,
            summary="What each answer digit reads, a short program that answers as the model does, and the heads of each of its steps.",
            number=f"{100 * float(program.printed.by_digit.mean()):.2f} %",
            number_is=f"of digits answered as the model does by a program of {program.printed.n_lines} lines",
            control=f"{100 * float(program.truth.mean()):.2f} % for right answers to all",
            page=page,
        )
    ]


def items(program: AdditionProgram) -> list[Item]:
    """Figures and tables, for the study's own page and the report."""
    tables, roles, untrained, shuffled, steps = (
        program.tables,
        program.roles,
        program.untrained,
        program.shuffled,
        program.steps,
    )
    own = steps.accuracy.diagonal()
    others = (steps.accuracy.sum(dim=1) - own) / (len(own) - 1)
    lost_own, lost_others = (100 * float((steps.all_heads - one).mean()) for one in (own, others))
    return [
        FigureRecord(
            id="program-tables",
            title="What each answer digit reads",
            look_at=(
                "Share of held-out problems on which the best table answers otherwise than the model (logarithmic). A table that reads "
                "column sums knows a + b only; one that reads a and b apart could know more."
            ),
            number=f"{100 * float(tables.same_sums.mean()):.2f} % of answers stay when all digits are drawn anew with the same column sums.",
            control="A function of column sums alone would leave 100 %.",
            figure=fidelity_by_table(tables),
        ),
        FigureRecord(
            id="program-length",
            title="How long a program must be to answer as the model does",
            look_at=(
                "Each program adds the carry if a weighted sum of the columns below passes a threshold, which depends on the digit's own "
                "column sum, and lists exceptions. Longer programs list more of them."
            ),
            number=(
                f"{100 * program.closest.whole_sum:.2f} % of sums as the model at best, with {program.closest.bits:,.0f} bits; "
                f"{100 * program.printed.whole_sum:.2f} % for the printed program ({program.printed.bits:,.0f} bits)."
            ),
            control=f"{100 * program.truth_whole_sum:.2f} % for right answers to all sums.",
            figure=figure(program),
        ),
        FigureRecord(
            id="program-roles",
            title="What each head's output depends on",
            look_at=(
                "Left: how much of each answer digit's logits varies with the head. Middle and right: the share of that variance which a + b "
                "of the digit's column and the carry into it explain. Heads in order of their whole effect."
            ),
            number=(
                f"A head serves {roles.digits_per_head:.1f} of {len(own)} answer digits (participation ratio); "
                f"{roles.heads_per_circuit:.1f} heads push each of the 100 one-digit sums."
            ),
            control=f"{untrained.digits_per_head:.1f} digits and {untrained.heads_per_circuit:.1f} heads untrained.",
            figure=roles_by_digit(roles),
        ),
        FigureRecord(
            id="program-steps",
            title="Taking out the heads of one step",
            look_at=(
                f"Points of accuracy lost at each answer digit (columns) when the {steps.heads.shape[1]} heads that carry most of one digit's "
                "carry (rows; of its column sum for the ones) are replaced by their means. A program with its own heads for each step would lose only the diagonal."
            ),
            number=f"{lost_own:.1f} points lost at the digit itself, {lost_others:.1f} at the others.",
            control=f"{100 * float((steps.all_heads - steps.random_mean).mean()):.1f} points without random heads.",
            figure=steps_broken(steps),
        ),
        TableRecord(
            id="program-sharing",
            title="Do circuits share heads?",
            look_at=(
                "The hundred one-digit sums as circuits over heads, beside the untrained model and beside the same circuits with the heads of "
                "each in another random order. Rank is the participation ratio of the spectrum."
            ),
            columns=["number", "trained", "untrained", "heads permuted"],
            rows=[
                [
                    "rank of 100 circuits over (head, dimension)",
                    f"{roles.circuit_rank:.1f}",
                    f"{untrained.circuit_rank:.1f}",
                    "–",
                ],
                [
                    "rank of all outputs over random sums",
                    f"{roles.output_rank:.1f}",
                    f"{untrained.output_rank:.1f}",
                    "–",
                ],
                [
                    "heads per circuit",
                    f"{roles.heads_per_circuit:.1f}",
                    f"{untrained.heads_per_circuit:.1f}",
                    "the same",
                ],
                [
                    "circuits per head",
                    f"{roles.circuits_per_head:.1f}",
                    f"{untrained.circuits_per_head:.1f}",
                    f"{shuffled.circuits_per_head:.1f}",
                ],
                [
                    "likeness of circuits of different sums",
                    f"{roles.circuits_alike:.2f}",
                    f"{untrained.circuits_alike:.2f}",
                    f"{shuffled.circuits_alike:.2f}",
                ],
                [
                    "likeness of circuits of one sum",
                    f"{roles.circuits_of_one_sum:.2f}",
                    f"{untrained.circuits_of_one_sum:.2f}",
                    f"{shuffled.circuits_of_one_sum:.2f}",
                ],
                [
                    "a head explained by its best stand-in",
                    f"{float(roles.stand_in.mean()):.2f}",
                    f"{float(untrained.stand_in.mean()):.2f}",
                    "–",
                ],
            ],
        ),
    ]
