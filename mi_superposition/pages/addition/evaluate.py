"""Figures and the page of an evaluation of addition models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import plotly.graph_objects as go

from mi_superposition.figures.addition import (
    accuracy_by_digit,
    accuracy_over_training,
    attention_patterns,
    error_by_nines,
)
from mi_superposition.site import FigureRecord, Page, Section
from mi_superposition.site.records import Item
from mi_superposition.studies.addition.evaluate import AdditionEvaluation, load

# By the name of the model's recipe.
Evaluations = Mapping[str, AdditionEvaluation]


def figure(evaluation: AdditionEvaluation) -> go.Figure:
    """Accuracy per answer digit."""
    return accuracy_by_digit(
        {evaluation.config.model.name: evaluation.accuracy.by_digit.tolist()}, evaluation.chance.tolist()
    )


def sections(folder: Path) -> list[Section]:
    """A finished evaluation as a page."""
    evaluation = load(folder)
    name = evaluation.config.model.name
    evaluations = {name: evaluation}
    items: list[Item] = [accuracy_figure(evaluations), carry_figure(evaluations), attention_figure(evaluation)]
    if evaluation.snapshot_epochs:
        items.insert(1, snapshots_figure(evaluation))
    page = Page(slug="evaluation", title=f"Addition by {name}", intro=f"{evaluation.summary()}.", items=items)
    return [
        Section(
            slug="evaluation",
            title=page.title,
            summary="Which digits come out correct, and where the model fails.",
            number=f"{100 * evaluation.accuracy.per_digit:.1f} %",
            number_is=f"of answer digits correct on {evaluation.accuracy.n_problems:,} fresh problems",
            control=control_of(evaluation),
            page=page,
        )
    ]


def control_of(evaluation: AdditionEvaluation) -> str:
    """What the accuracy is compared with."""
    return f"{100 * float(evaluation.chance.mean()):.1f} % for the best constant guess, {100 * evaluation.untrained.per_digit:.1f} % untrained"


def accuracy_figure(evaluations: Evaluations) -> FigureRecord:
    """Accuracy of each answer digit."""
    first = next(iter(evaluations.values()))
    return FigureRecord(
        id="accuracy",
        title="Accuracy per answer digit",
        look_at=(
            f"Accuracy of each answer digit on {first.accuracy.n_problems:,} fresh problems. The ones digit (digit 0) "
            "needs no carry; every other digit depends on the carry from the less significant digits."
        ),
        number=", ".join(f"{100 * one.accuracy.per_digit:.2f} % ({name})" for name, one in evaluations.items())
        + " of digits correct.",
        control=f"{control_of(first)}.",
        figure=accuracy_by_digit(
            {name: one.accuracy.by_digit.tolist() for name, one in evaluations.items()}, first.chance.tolist()
        ),
    )


def carry_figure(evaluations: Evaluations) -> FigureRecord:
    """Errors by how far down the carry is decided."""
    first = next(iter(evaluations.values())).carries
    return FigureRecord(
        id="nines",
        title="Remaining errors: carry propagation",
        look_at=(
            "A column whose digits sum to 9 passes on any carry it receives, so the next more significant digit "
            "depends on less significant columns. Shown: the error of every answer digit except the ones digit, "
            "grouped by how many such columns precede it directly (last group: three or more). The marks show a "
            "predictor that knows everything except the carry and chooses the more frequent case."
        ),
        number=" ".join(
            f"{name}: {100 * float(one.carries.error[0]):.2f} % wrong with no such column before it, "
            f"{100 * float(one.carries.error[1]):.1f} % with one."
            for name, one in evaluations.items()
        ),
        control=f"{100 * float(first.guess[0]):.0f} % and {100 * float(first.guess[1]):.0f} % if everything but the carry is known.",
        figure=error_by_nines(
            {name: one.carries.error.tolist() for name, one in evaluations.items()},
            first.guess.tolist(),
            first.counts.tolist(),
        ),
    )


def snapshots_figure(evaluation: AdditionEvaluation) -> FigureRecord:
    """Accuracy of each answer digit over training."""
    epochs, by_digit = evaluation.snapshot_epochs, evaluation.snapshot_accuracy
    halfway = (by_digit > 0.5).int().argmax(dim=0)
    named = ", ".join(str(epochs[int(index)]) for index in halfway[:-1])
    return FigureRecord(
        id="digits-over-training",
        title="Order in which digits are learnt",
        look_at=(
            f"Accuracy of each answer digit at {len(epochs)} checkpoints of the training (logarithmic epochs; epoch 0 is drawn at 0.5)."
        ),
        number=f"Digits 0 to {by_digit.shape[1] - 2} first exceed 50 % at the checkpoints of epochs {named}.",
        control=(
            f"{100 * float(by_digit[0].mean()):.1f} % at epoch {epochs[0]}, {100 * float(evaluation.chance.mean()):.1f} % for the best "
            "constant guess."
        ),
        figure=accuracy_over_training(epochs, by_digit),
    )


def attention_figure(evaluation: AdditionEvaluation) -> FigureRecord:
    """Attention while adding one sum."""
    attention = evaluation.attention
    a, b = attention.operands
    return FigureRecord(
        id="attention",
        title=f"Attention while adding {a:,} + {b:,}",
        look_at=(
            "Each panel is one head. Rows: the answer positions (queries). Columns: the positions they attend to "
            "(keys): the digits of each number, least significant first, then '='. A head that attends to both digits "
            "of one column of the sum has two dark cells in a row; their distance is the length of a number."
        ),
        number=(
            f"{100 * attention.own_column:.0f} % of attention goes to the two input digits of the same column as the answer digit "
            f"(mean over heads and {attention.n_sums} sums)."
        ),
        control=f"{100 * attention.own_column_untrained:.0f} % in an untrained model.",
        figure=attention_patterns(
            attention.pattern, list(attention.text), [f"digit {digit}" for digit in range(attention.pattern.shape[1])]
        ),
    )
