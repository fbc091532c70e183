"""The page of superposition among heads."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import plotly.graph_objects as go

import mi_superposition
from mi_superposition.figures.trigrams import feature_matrix, features_by_head, groups_needed
from mi_superposition.heads.trigrams.carried import KINDS
from mi_superposition.heads.trigrams.comparison import OBSERVED, PERMUTED
from mi_superposition.heads.trigrams.result import HeadSharing
from mi_superposition.heads.trigrams.sharing import mean_and_error
from mi_superposition.schemas import read_as
from mi_superposition.site import FigureRecord, Page, Section
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.studies.heads.trigrams import load

_TOY = Path(mi_superposition.__file__).parent / "bundled" / "heads" / "toy.json"
# Features of the table, evenly over the order in which they were found.
_SHOWN = 40


class _ToyRow(TypedDict):
    n_heads: int
    losses: list[float]
    heads_per_feature: float
    heads_per_feature_raw: float
    carriers: float
    effect: float
    heads_per_feature_untrained: float
    heads_per_feature_raw_untrained: float
    carriers_untrained: float
    effect_untrained: float


class _Toy(TypedDict):
    n_a: int
    n_b: int
    d_head: int
    n_steps: int
    rows: list[_ToyRow]


def sections(folder: Path) -> list[Section]:
    """A finished run as a page."""
    return [section(load(folder))]


def section(result: HeadSharing, *, slug: str = "trigrams", title: str = "Superposition among heads") -> Section:
    """The page with its main number and control."""
    heads, error = mean_and_error(result.heads_per_feature)
    enough = result.n_features > 0
    return Section(
        slug=slug,
        title=title,
        summary="Skip trigrams found in text and in the model, the attention heads that carry each, and how heads share them.",
        number=f"{result.n_features} features, {heads:.1f} heads each" if enough else "0 features",
        number_is=(
            f"skip trigrams that hold in held-out text and in the model, {result.n_layers * result.n_heads} heads in all; effective number of heads "
            f"by squared effect, ± {error:.1f}"
            if enough
            else f"of {result.n_tested} skip trigrams tested"
        ),
        control=(
            f"{result.n_random_kept} of {len(result.random_effect)} random trigrams pass the same test; a random trigram's edge has "
            f"{result.metrics().get('carriers_per_random_trigram', 0):.1f} carrying heads, a feature's {float(result.carried.sum(1).float().mean()):.1f}, in an "
            f"untrained model {result.metrics().get('carriers_per_feature_untrained', 0):.1f}"
            if enough
            else f"{result.n_random_kept} of {len(result.random_effect)} random trigrams"
        ),
        page=Page(
            slug=slug,
            title=f"Superposition among the heads of {Path(result.config.model.name).name}",
            intro=_intro(result),
            items=items(result),
        ),
    )


def figure(result: HeadSharing) -> go.Figure:
    """The matrix of features and heads."""
    return feature_matrix(result)


def items(result: HeadSharing) -> list[Item]:
    """Figures and tables with their words."""
    found: list[Item] = [_found(result)]
    if result.n_features:
        found += [_matrix(result), _by_head(result), _ways(result), _interference(result)]
    if result.compared:
        found += [_groups(result), _compared(result)]
    if _TOY.exists():
        found.append(_toy())
    if result.n_features:
        found.append(_features(result))
    return found


def _intro(result: HeadSharing) -> str:
    made = (
        "The bundled stories were sampled from the bundled model itself; --corpus takes other text. "
        if result.config.text.corpus == "stories"
        else ""
    )
    return (
        f"An attentional feature is a skip trigram: a token A, 2 to {result.config.window} tokens later B, and C more likely after B than without A. "
        f"One half of {result.n_documents:,} documents proposes them, the other half tests them; then A is replaced by a matched token in the model, and "
        f"the attention edge from B to A is cut in every head. {made}"
    )


def _found(result: HeadSharing) -> TableRecord:
    numbers = result.metrics()
    return TableRecord(
        id="found",
        title="From text to features",
        look_at=(
            f"Each line is left of the line above. Text: Fisher's exact test with one occurrence of B in each document. Model: t-test over documents of "
            f"the change of C's logit when A is replaced. Both at {result.config.level:g} after correction for all that were tested ({result.config.correction})."
        ),
        columns=["step", "skip trigrams", "mean effect on the logit of C"],
        rows=[
            ["proposed by the first half", f"{result.n_tried:,}", "–"],
            ["confirmed by the second half", f"{result.n_in_text:,}", "–"],
            ["tested in the model", f"{result.n_tested:,}", f"{numbers.get('tested_effect_mean', float('nan')):.2f}"],
            ["features: confirmed in the model", f"{result.n_features:,}", f"{mean_and_error(result.replaced)[0]:.2f}"],
            ["of these copies (A and C one word)", f"{result.copies:,}", "–"],
            [
                "random trigrams, tested in the model",
                f"{len(result.random_effect):,}",
                f"{numbers.get('random_effect_mean', float('nan')):.2f}",
            ],
            ["random trigrams that pass", f"{result.n_random_kept:,}", "–"],
        ],
    )


def _matrix(result: HeadSharing) -> FigureRecord:
    heads, error = mean_and_error(result.heads_per_feature)
    return FigureRecord(
        id="matrix",
        title="Features and heads",
        look_at="Each row is a feature, each column a head: the share of the row's effects on the logit of C that goes when the head's edge from B to A is cut.",
        number=f"{heads:.1f} ± {error:.1f} heads for each feature (effective number by squared effect, noise taken out; standard error over features).",
        control=f"{result.metrics()['carriers_per_feature']:.1f} heads carry a feature significantly; {result.metrics().get('carriers_per_random_trigram', 0):.1f} of a random trigram, {result.metrics().get('carriers_per_feature_untrained', 0):.1f} in the untrained model.",
        figure=feature_matrix(result),
    )


def _by_head(result: HeadSharing) -> FigureRecord:
    most = max(result.disjoint_by_head)
    return FigureRecord(
        id="by-head",
        title="Features of each head",
        look_at=(
            "A head carries a feature when its effect is above zero (false discoveries over the whole matrix) and at least a tenth of the row. Second "
            "bars: features of which no two share a token, copies left out: what they have in common is nothing but the head."
        ),
        number=f"up to {most} features without a common token in one head; {float(result.carried.sum(0).float().mean()):.1f} features for a head on average.",
        control=f"{result.n_layers * result.n_heads} heads carry {result.n_features} features; one head for each would be {result.n_layers * result.n_heads}.",
        figure=features_by_head(result),
    )


def _ways(result: HeadSharing) -> TableRecord:
    rows: list[list[str]] = [
        [f"the edges' effect: {name}", f"{round(100 * share) + 0:.0f} %"] for name, share in result.parts.items()
    ]
    rows += [
        ["sum of single heads over all heads at once", f"{100 * result.additive_share:.0f} %"],
        ["edges from B to A over replacing A", f"{100 * result.edge_share:.0f} %"],
    ]
    return TableRecord(
        id="ways",
        title="How an edge reaches the logit",
        look_at=(
            "Summed over features. Direct: what the heads write, everything later held. Later heads: added when these are computed anew. MLPs: the rest, which "
            "goes when the outputs of all MLPs at B are held: what the MLPs make of what the heads bring. Where heads add, the sum over single heads is 100 %."
        ),
        columns=["way", "share"],
        rows=rows,
    )


def _interference(result: HeadSharing) -> TableRecord:
    found = result.interference
    return TableRecord(
        id="interference",
        title="Interference",
        look_at=(
            "One feature's edge is cut in all heads, and another feature's C is looked at in the same place. Slope: change of the other logit for each unit "
            "of its own (1: the edge raises both alike, so heads do not tell the features apart; 0: they do), ± one standard error over features."
        ),
        columns=["pair of features", "pairs", "own logit", "other logit", "slope"],
        rows=[
            [
                kind,
                f"{found.n_pairs[n]:,}",
                f"{found.own[n]:.2f}",
                f"{found.other[n]:.2f}",
                f"{found.slope[n]:.2f} ± {found.error[n]:.2f}",
            ]
            for n, kind in enumerate(KINDS)
        ],
    )


def _groups(result: HeadSharing) -> FigureRecord:
    observed = result.compared[OBSERVED]
    return FigureRecord(
        id="groups",
        title="Groups of heads",
        look_at=(
            "Features divided into groups, each with one fixed combination of heads, found on half of the documents and judged on the other half. Beside it, "
            "matrices with permuted entries, and as many directions that each feature may mix freely (no more than there are heads)."
        ),
        number=f"{observed.needed:.0f} groups explain 90 % of what the largest number does; there are {result.n_layers * result.n_heads} heads.",
        control="; ".join(
            f"{result.compared[name].needed:.1f} ± {result.compared[name].needed_sd:.1f} {name}" for name in PERMUTED
        ),
        figure=groups_needed(result),
    )


def _compared(result: HeadSharing) -> TableRecord:
    rows = [
        [
            name,
            f"{one.spectrum:.1f} ± {one.spectrum_sd:.1f}",
            f"{one.told_apart:.0f} ± {one.told_apart_sd:.0f}",
            f"{one.needed:.0f} ± {one.needed_sd:.0f}",
        ]
        for name, one in result.compared.items()
    ]
    return TableRecord(
        id="compared",
        title="More features than heads?",
        look_at=(
            f"Effective rank of the matrix (at most {result.n_layers * result.n_heads}); features told apart from all others by their heads on other "
            f"documents, of {result.n_features}; groups of heads needed. ± standard deviation over permutations. Many features told apart do not show a code for "
            "features by themselves: permuted matrices tell features apart too."
        ),
        columns=["matrix", "effective rank", "features told apart", "groups"],
        rows=rows,
    )


def _toy() -> TableRecord:
    toy: _Toy = read_as(_TOY, _Toy)
    rows = [
        [str(row["n_heads"]), f"{min(row['losses']):.3f}", f"{row['heads_per_feature']:.1f}", f"{row['carriers']:.1f}", f"{row['effect']:.1f}",
         f"{row['heads_per_feature_untrained']:.1f}"]
        for row in toy["rows"]
    ]  # fmt: skip
    return TableRecord(
        id="toy",
        title="The measure on a toy with known features",
        look_at=(
            f"One layer of attention with heads of {toy['d_head']} dimensions and no MLP, trained on {toy['n_a'] * toy['n_b']} skip trigrams of {toy['n_a']} tokens A and {toy['n_b']} tokens B, every pair with its own "
            f"C, so that no head can serve two B's alone; best of several seeds. With {toy['n_b']} heads or more, each B could have one of its own."
        ),
        columns=[
            "heads",
            "loss (nats)",
            "effective heads for a trigram",
            "carrying heads",
            "effect of the edge",
            "effective heads, untrained",
        ],
        rows=rows,
    )


def _features(result: HeadSharing) -> TableRecord:
    frame = result.to_frame()
    step = max(1, len(frame) // _SHOWN)
    rows = [
        [
            " … ".join(repr(word)[1:-1].replace(" ", "␣") for word in (row.A, row.B)) + f" → {repr(row.C)[1:-1].replace(' ', '␣')}",
            f"{100 * row.in_text:.0f} points", f"{row.replaced:.2f}", f"{row.all_edges:.2f}", f"{row.direct:.2f}", f"{row.through_mlps:.2f}", row.best_head, "–" if row.effective_heads != row.effective_heads else f"{row.effective_heads:.1f}",
        ]
        for row in frame.iloc[::step].itertuples()
    ]  # fmt: skip
    return TableRecord(
        id="features",
        title="Features",
        look_at=f"Every {step}th in the order in which the text proposed them. Rise of P(C | B) with A in held-out text; then changes of the logit of C (nats).",
        columns=[
            "A … B → C",
            "in text",
            "A replaced",
            "edges cut",
            "direct",
            "through MLPs",
            "strongest head",
            "effective heads",
        ],
        rows=rows,
    )
