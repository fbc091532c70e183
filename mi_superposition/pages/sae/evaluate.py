"""The page of an evaluation of autoencoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go

from mi_superposition.figures.lines import Line, lines
from mi_superposition.pages.sae.features import feature_items
from mi_superposition.site import FigureRecord, Page, Section
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.studies.sae.evaluate import SaeEvaluation, load
from mi_superposition.studies.sae.rows import (
    AUTOENCODER,
    COLUMNS,
    COST,
    FOREIGN,
    KINDS,
    LARGEST,
    PCA,
    PROJECTED,
    PURSUED_ACTIVATIONS,
    PURSUED_DECODER,
    PURSUED_RANDOM,
    RANDOM,
    SAME_TOKENS,
    SHUFFLED,
    UNTRAINED,
    Row,
    cell,
    cells,
    losses_without,
    strongest,
)

_DESCRIPTIONS = {
    PCA: "The first principal components of the training text's activations, the same for every token.",
    LARGEST: "For each token, the dimensions that differ most from their mean.",
    RANDOM: "For each token, the random directions with the largest projections (chosen from as many directions as the SAE has features), with least-squares coefficients.",
    PROJECTED: "As many activations of the training text as the SAE has features, drawn at random, as an untrained dictionary: for each token those with the largest projections, with least-squares coefficients.",
    SAME_TOKENS: "The SAE on the first held-out tokens only, on which matching pursuit was measured.",
    PURSUED_ACTIVATIONS: "The same activations, searched by orthogonal matching pursuit (Pati, Rezaiifar & Krishnaprasad 1993): one after another the direction along which what is left points most, with least-squares coefficients.",
    PURSUED_RANDOM: "The random directions, searched in the same way.",
    PURSUED_DECODER: "The SAE's decoder directions, searched in the same way, without its encoder.",
    FOREIGN: "An SAE trained with the same settings on the model with the entries of each weight matrix shuffled. It reads the original model's activations, rescaled to the mean and norm it was trained on.",
    SHUFFLED: "The same SAE on the shuffled model itself: how well an SAE reconstructs the activations of a model that learnt nothing.",
}
_EXPLAINED, _LOSS = "explained_variance", "ce"


def sections(folder: Path) -> list[Section]:
    """A finished run as a page."""
    evaluation = load(folder)
    ours = [row for row in evaluation.rows if row.kind == AUTOENCODER]
    main = evaluation.main.numbers
    hooks = ", ".join(dict.fromkeys(row.hook for row in ours))
    model, corpus = (Path(str(name)).name for name in (evaluation.config.model, evaluation.config.text.corpus))
    page = Page(
        slug="sae",
        title="Sparse autoencoders",
        intro=(
            f"{hooks} of {model}, on held-out documents of {corpus}. Every number is compared with baselines that need no training and with "
            "an SAE trained on a weight-shuffled model."
        ),
        items=items(evaluation),
    )
    compared = "compared with baselines with the same number of features per token."
    return [
        Section(
            slug="sae",
            title=page.title,
            summary=f"{len(ours)} of them, {compared}" if len(ours) > 1 else compared.capitalize(),
            number=f"{cell(main, _EXPLAINED)} explained",
            number_is=f"of the variance, with {cell(main, 'l0')} features per token",
            control=strongest_baseline(evaluation),
            page=page,
        )
    ]


def strongest_baseline(evaluation: SaeEvaluation) -> str:
    """The untrained dictionary that explains most, whether that is more than the autoencoder explains, and what it costs."""
    best = strongest(evaluation.of(evaluation.main.sae))
    said = f"{cell(best.numbers, _EXPLAINED)} by {KINDS[best.kind]}, the strongest baseline without training"
    if best.autoencoder is not evaluation.main.numbers:
        said += f", on the tokens of which the SAE explains {cell(best.autoencoder, _EXPLAINED)}"
    return said if best.cost is None else f"{said}, at {best.cost:.1f} times the multiply-adds of encoding"


def figure(evaluation: SaeEvaluation) -> go.Figure:
    """Explained variance of every reconstruction by how many features it has per token."""
    return _by_sparsity(evaluation, _EXPLAINED, "explained variance")


def items(evaluation: SaeEvaluation) -> list[Item]:
    """Table and figures of an evaluation."""
    shown: list[Item] = [_table(evaluation.rows), *_bought(evaluation), _kinds(evaluation.rows)]
    if len([row for row in _at(evaluation, _EXPLAINED) if row.kind == AUTOENCODER]) > 1:
        shown += [_frontier(evaluation, quantity) for quantity in (_EXPLAINED, _LOSS)]
    return shown + ([] if evaluation.features is None else feature_items(evaluation.features))


def real_items(evaluation: SaeEvaluation) -> list[Item]:
    """The tables of a second evaluation on the same page, on real text."""
    tables = [_table(evaluation.rows), *_bought(evaluation), _kinds(evaluation.rows)]
    return [replace(table, id=f"{table.id}-real", title=f"{table.title} (real stories)") for table in tables]


def _bought(evaluation: SaeEvaluation) -> list[TableRecord]:
    """Dictionaries with and without a search; nothing where none was searched."""
    numbers = evaluation.of(evaluation.main.sae)
    if PURSUED_ACTIVATIONS not in numbers:
        return []
    own = numbers.get(SAME_TOKENS, numbers[AUTOENCODER])
    rows = [
        ("SAE", "its encoder", own),
        ("SAE", "matching pursuit", numbers[PURSUED_DECODER]),
        ("training activations", "largest projections", numbers[PROJECTED]),
        ("training activations", "matching pursuit", numbers[PURSUED_ACTIVATIONS]),
        ("random directions", "largest projections", numbers[RANDOM]),
        ("random directions", "matching pursuit", numbers[PURSUED_RANDOM]),
    ]
    return [
        TableRecord(
            id="bought",
            title="What the SAE adds to an untrained dictionary",
            look_at=what_it_buys(numbers)
            + (
                f" Matching pursuit and the encoder: {own['tokens']:,} tokens; largest projections: all {numbers[RANDOM]['tokens']:,}."
                if SAME_TOKENS in numbers
                else ""
            )
            + " Multiply-adds of matching pursuit: in its cheapest form that we know, with all products of two directions stored (Rubinstein, Zibulevsky & Elad 2008).",
            columns=["dictionary", "features found by", *(COLUMNS[name][0] for name in _BOUGHT)],
            rows=[[dictionary, found, *(cell(one, name) for name in _BOUGHT)] for dictionary, found, one in rows],
            words={"features found by"},
        )
    ]


_BOUGHT = ("l0", _EXPLAINED, _LOSS, "recovered", "kl", COST)


def what_it_buys(numbers: Mapping[str, Mapping[str, float | int]]) -> str:
    """In words, from the numbers of an evaluation by kind: what is left of an autoencoder's lead when untrained dictionaries are
    searched, and what its encoder and its directions add.
    """
    own, untrained = numbers.get(SAME_TOKENS, numbers[AUTOENCODER]), numbers[PURSUED_ACTIVATIONS]
    projected, searched = numbers[PROJECTED], numbers[PURSUED_DECODER]

    def told(one: Mapping[str, float | int]) -> str:
        loss = f", cross-entropy {cell(one, _LOSS)}" if _LOSS in one else ""
        return f"{cell(one, _EXPLAINED)}{loss}"

    def compared(one: Mapping[str, float | int], other: Mapping[str, float | int]) -> str:
        a, b = cell(one, _EXPLAINED), cell(other, _EXPLAINED)
        return "as much as" if a == b else "more than" if a > b else "less than"

    times = untrained[COST] / own[COST]
    return (
        f"Untrained, training activations searched by matching pursuit explain {compared(untrained, own)} the SAE ({told(untrained)}; SAE {told(own)}), "
        f"at {times:.1f} times the multiply-adds. Without the search, by largest projections, they explain {compared(projected, own)} the SAE ({told(projected)}). "
        f"Searched in the same way, the SAE's directions explain {compared(searched, untrained)} the untrained ones ({told(searched)})."
    )


def _table(rows: Sequence[Row]) -> TableRecord:
    """Every autoencoder next to its baselines."""
    tokens = next(row.numbers["tokens"] for row in rows if row.kind == AUTOENCODER)
    several = len({row.sae for row in rows}) > 1
    return TableRecord(
        id="held-out",
        title="Held-out text: the SAE and its baselines",
        look_at=(
            f"{tokens:,} tokens of held-out documents. Explained variance: relative to the mean. Norm ratio: the "
            "factor by which reconstructions, measured from the mean, are too long (above 1) or too short (below 1: "
            "shrinkage; Rajamanoharan et al. 2024). Cross-entropy: in nats per token, with the activations replaced "
            f"by the reconstruction. {'; '.join(losses_without(rows))}. Loss recovered: 1 for the model itself, 0 for "
            "mean ablation. Dense features: active on more than 10 % of the tokens."
        ),
        columns=["reconstruction", *(name for name, _ in COLUMNS.values())],
        rows=[
            [
                f"{row.sae}: {KINDS[row.kind]}" if several and row.kind == AUTOENCODER else KINDS[row.kind],
                *cells(row.numbers),
            ]
            for row in rows
        ],
    )


def _kinds(rows: Sequence[Row]) -> TableRecord:
    """What the lines of the table are."""
    present = {row.kind for row in rows}
    return TableRecord(
        id="kinds",
        title="Baselines and controls",
        look_at="All use the same number of features per token as the SAE (its L0, rounded up). If its architecture does not fix this number, the SAE of the weight-shuffled model is limited to it on the original model; on its own model it uses as many as it was trained with.",
        columns=["reconstruction", "what it is"],
        rows=[[KINDS[kind], text] for kind, text in _DESCRIPTIONS.items() if kind in present],
        words={"what it is"},
    )


def _at(evaluation: SaeEvaluation, quantity: str) -> list[Row]:
    """The lines that have a number, of the hook of the autoencoder that is shown."""
    hook = evaluation.main.hook
    return [row for row in evaluation.rows if row.hook == hook and quantity in row.numbers]


def _by_sparsity(evaluation: SaeEvaluation, quantity: str, y_title: str) -> go.Figure:
    series = {}
    for kind, label in KINDS.items():
        some = [row.numbers for row in _at(evaluation, quantity) if row.kind == kind]
        some.sort(key=lambda numbers: numbers["l0"])
        if some:
            series[label] = Line([float(one["l0"]) for one in some], [float(one[quantity]) for one in some])
    marks = {"the model itself": float(evaluation.main.numbers["ce_clean"])} if quantity == _LOSS else {}
    return lines(series, x_title="L0: active features per token", y_title=y_title, marks=marks)


def _frontier(evaluation: SaeEvaluation, quantity: str) -> FigureRecord:
    numbers = evaluation.of(evaluation.main.sae)
    others = {kind: one[quantity] for kind, one in numbers.items() if kind in (*UNTRAINED, FOREIGN) and quantity in one}
    best = (max if quantity == _EXPLAINED else min)(others, key=lambda kind: others[kind])
    shuffled = numbers.get(SHUFFLED, {}).get(quantity)
    title, y_title = {
        _EXPLAINED: ("Explained variance by sparsity", "explained variance"),
        _LOSS: ("Cross-entropy by sparsity", "cross-entropy (nats per token)"),
    }[quantity]
    return FigureRecord(
        id=f"frontier-{quantity.replace('_', '-')}",
        title=title,
        look_at="Each point is one reconstruction of the held-out activations; x axis: mean number of active features per token (L0).",
        number=f"{numbers[AUTOENCODER][quantity]:.3f} at L0 {numbers[AUTOENCODER]['l0']:.0f}",
        control=f"{others[best]:.3f}: {KINDS[best]}, the best baseline that was not trained on this model"
        + ("" if shuffled is None else f"; {shuffled:.3f}: SAE of a weight-shuffled model, evaluated on its own model"),
        figure=_by_sparsity(evaluation, quantity, y_title),
    )
