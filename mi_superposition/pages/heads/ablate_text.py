"""The page of heads ablated on text and tasks."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
from torch import Tensor

from mi_superposition.corpora.tokens import running_text
from mi_superposition.figures.head_ablation import by_head, head_effects
from mi_superposition.heads.token_classes import CLASSES
from mi_superposition.pages.heads.ablate_tasks import task_items
from mi_superposition.site import FigureRecord, Page, Section
from mi_superposition.site.records import Item, ShadedText, TableRecord, TextsRecord
from mi_superposition.studies.heads.ablate_text_result import UNTRAINED, TextAblation

_RANDOM = "random direction"
_SAID = {
    "zero": "zero",
    "mean": "its mean at each position",
    "overall mean": "its mean over all positions",
    "resample": "its output on another document",
}
# Pairs named, and examples of a head that are shown.
_PAIRS, _EXAMPLES = 10, 10


def page(study: TextAblation, slug: str = "ablation") -> Page:
    """All that was measured."""
    return Page(
        slug=slug,
        title=f"Head ablation of {Path(study.config.model.name).name}",
        intro=(
            f"Each attention head replaced in turn, on {study.n_tokens:,} tokens of {study.n_documents:,} documents of "
            f"{Path(study.config.text.corpus).name}: what the loss and the prediction lose. Other documents give means and replacements."
        ),
        items=items(study),
    )


def sections(study: TextAblation) -> list[Section]:
    """A finished run as a page."""
    whole = page(study)
    one, random, untrained = (study.effects[name].loss[:, :-1].mean() for name in (study.default, _RANDOM, UNTRAINED))
    return [
        Section(
            slug="ablation",
            title="Head ablation",
            summary=whole.intro,
            number=f"{float(one):.3f} nats",
            number_is=f"a token are lost on average when one head is replaced by {_SAID[study.default]}",
            control=f"{float(random):.3f} for a change of the same size in a random direction, {float(untrained):.3f} in an untrained model",
            page=whole,
        )
    ]


def figure(study: TextAblation) -> go.Figure:
    """The effect of every head under every replacement, beside the controls."""
    return head_effects(
        study.names,
        {name: some.loss[:, :-1].flatten() for name, some in study.effects.items()},
        {name: some.loss_error[:, :-1].flatten() for name, some in study.effects.items()},
        [_RANDOM, UNTRAINED],
    )


def items(study: TextAblation) -> list[Item]:
    """The study as figures and tables with their words."""
    return [
        _effects(study), _scale(study), _every_head(study), _classes(study), _texts(study), *task_items(study), *_pairs(study)
    ]  # fmt: skip


def _pm(value: Tensor, error: Tensor) -> str:
    return f"{float(value):.4f} ± {float(error):.4f}"


def _effects(study: TextAblation) -> FigureRecord:
    row, head = study.largest
    main, random, untrained = (study.effects[name] for name in (study.default, _RANDOM, UNTRAINED))
    above = int((main.loss[:, :-1] > random.loss[:, :-1]).sum())
    return FigureRecord(
        id="effects",
        title="What every head does for the loss",
        look_at=(
            "The change of the loss when a head's output is replaced by zero, by its mean at each position, by its mean over all positions, "
            "or by its output on another document (resample). A large effect of zero and a small one of the mean say that the head writes "
            f"much the same everywhere. Bars: one standard error, from {study.config.on_text.resamples:,} resamples of the documents. Random "
            f"direction: what replacing the head ({study.default}) changes in the residual stream, turned by a random rotation, with the "
            f"same norm at every token. Untrained: the same ({study.default}) in an untrained model."
        ),
        number=(
            f"Layer {study.layers[row]}, head {head} matters most: {_pm(main.loss[row, head], main.loss_error[row, head])} nats a token, of a loss of "
            f"{study.loss:.3f} ({study.default}). {above} of {main.loss[:, :-1].numel()} heads matter more than their random direction."
        ),
        control=(
            f"{_pm(random.loss[row, head], random.loss_error[row, head])} in a random direction; at most "
            f"{float(untrained.loss[:, :-1].max()):.4f} for a head of an untrained model."
        ),
        figure=figure(study),
    )


def _scale(study: TextAblation) -> TableRecord:
    rows = []
    for row, layer in enumerate(study.layers):
        whole = study.whole_layer[row]
        for name, some in study.effects.items():
            layer_cell = (
                _pm(*whole) if name == study.default else _pm(*study.untrained_layer[row]) if name == UNTRAINED else "–"
            )
            rows.append(
                [
                    f"layer {layer}, {name}",
                    f"{float(some.loss[row, :-1].sum()):.4f}",
                    _pm(some.loss[row, -1], some.loss_error[row, -1]),
                    _pm(some.divergence[row, -1], some.divergence_error[row, -1]),
                    layer_cell,
                ]
            )
    return TableRecord(
        id="scale",
        title="All heads of a layer, and whole layers",
        look_at="The scale of the effects, nats a token. If heads did nothing that others can replace, all together would cost as much as the sum over single heads. Whole layer: attention and MLP are left out.",
        columns=["replaced", "sum over heads", "all heads at once", "KL, all heads at once", "whole layer"],
        rows=rows,
    )


def _every_head(study: TextAblation) -> TableRecord:
    rows = []
    for row, layer in enumerate(study.layers):
        for head in range(study.n_heads):
            losses = [
                f"{float(some.loss[row, head]):.3f} ± {float(some.loss_error[row, head]):.3f}"
                for some in study.effects.values()
            ]
            divergence = study.main.divergence[row, head]
            rows.append([f"{layer}.{head}", *losses, f"{float(divergence):.4f}"])
    return TableRecord(
        id="every-head",
        title="Every head",
        look_at=f"Change of the loss in nats a token with its standard error, under each replacement and in the controls; last: KL(whole model || without the head), {study.default}.",
        columns=["layer.head", *study.effects, f"KL, {study.default}"],
        rows=rows,
    )


def _classes(study: TextAblation) -> FigureRecord:
    shown = study.by_class.flatten(0, 1).T
    ratio = shown.max(dim=1).values
    place = int((shown / study.main.loss[:, :-1].flatten().clamp_min(1e-3)).nan_to_num(-1).max(dim=1).values.argmax())
    best = int(shown[place].argmax())
    row, head = divmod(best, study.n_heads)
    meanings = "; ".join(
        f"{name} ({100 * float(share):.0f} % of tokens, loss {float(loss):.2f}): {CLASSES[name]}"
        for name, share, loss in zip(study.classes, study.class_share, study.class_loss, strict=True)
    )
    return FigureRecord(
        id="classes",
        title="Which tokens lose",
        look_at=f"Change of the loss of the tokens of each class without each head ({study.default}). Classes go by what tokens look like, and a token can be in several. {meanings}.",
        number=(
            f"The class '{study.classes[place]}' depends most on one head: {float(ratio[place]):.3f} ± "
            f"{float(study.by_class_error[row, head, place]):.3f} nats a token are lost without head {study.layers[row]}.{head}."
        ),
        control=f"{_pm(study.main.loss[row, head], study.main.loss_error[row, head])} over all tokens, for the same head.",
        figure=by_head(study.classes, study.names, shown, "nats a token"),
    )


def _texts(study: TextAblation) -> TextsRecord:
    groups = {}
    largest = 0.0
    for row, layer in enumerate(study.layers):
        for head in range(study.n_heads):
            some = study.examples[row][head][:_EXAMPLES]
            largest = max([largest, *(one.change for one in some)])
            mean = float(study.main.loss[row, head])
            groups[f"Layer {layer}, head {head}: {mean:.4f} nats a token on average"] = [
                ShadedText(f"{one.change:+.2f}", running_text(one.tokens), one.changes, one.at) for one in some
            ]
    return TextsRecord(
        id="texts",
        title="Tokens that lose most",
        look_at=f"For every head the tokens whose loss rises most without it ({study.default}), one a document, in their text. Orange: the loss of the token rises; blue: it falls; point at a token for the number (nats).",
        groups=groups,
        largest=largest,
    )


def _pairs(study: TextAblation) -> list[Item]:
    pairs = study.pairs
    if pairs is None or not len(pairs.pairs):
        return []
    order = pairs.excess.argsort(descending=True).tolist()
    shown = order if len(order) <= 2 * _PAIRS else [*order[:_PAIRS], *order[-_PAIRS:]]
    significant = (pairs.excess.abs() > 3 * pairs.error).sum()

    def name(at: Tensor) -> str:
        layer, head = pairs.heads[at].tolist()
        return f"{layer}.{head}"

    return [
        TableRecord(
            id="pairs",
            title="Pairs of heads",
            look_at=(
                f"What ablating both heads of a pair costs beyond the sum of each alone, mean over {study.config.on_text.pair_documents} documents, nats a token. Above zero: each "
                "does some of what the other does (backup, redundancy), or both feed the same later step. Below zero: they work in a chain, and the second loss comes on top of nothing. All pairs of the "
                f"{len(pairs.heads)} heads with the largest effects; the most and the least are shown. {int(significant)} of {len(order)} differ from zero by more than three standard errors; "
                f"by chance {0.0027 * len(order):.1f} would."
            ),
            columns=["pair", "beyond the sum", "standard error"],
            rows=[[f"{name(pairs.pairs[at, 0])} and {name(pairs.pairs[at, 1])}", f"{float(pairs.excess[at]):+.4f}", f"{float(pairs.error[at]):.4f}"] for at in shown],
        )
    ]  # fmt: skip
