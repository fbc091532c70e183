"""Autoencoders told on a page: the table, the frontier, how crowded their features are, what a sentence makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mi_superposition.figures.lines import Line, lines
from mi_superposition.figures.neurons import distributions
from mi_superposition.figures.sae import feature_heatmaps, sentence_features
from mi_superposition.linalg import shares_by_bin
from mi_superposition.sae.features import nearest_cosines, participation, random_directions, written_before
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.studies.sae.rows import COLUMNS, KINDS, SAE, SHUFFLED, Row, cells, losses_without
from mi_superposition.studies.sae.views import features_of_sentence

SENTENCE = "Once upon a time, there was a little girl named Lily. She loved to play with her big red ball in the park."
# Rows of the heat map.
_SHOWN_FEATURES = 64
# Random orders of the sentence's tokens.
_ORDERS = 5


def evaluation_items(rows: Sequence[Row], model: Any, sae: Any, *, main: Row) -> list[Item]:
    """Table and figures of an evaluation; ``main`` is the row of the autoencoder that is looked into, ``sae``."""
    items: list[Item] = [evaluation_table(rows), _kinds(rows)]
    for quantity, title, y_title in (
        ("explained_variance", "Sparsity and fidelity", "explained variance"),
        ("ce", "Sparsity and what the model makes of it", "cross-entropy (nats a token)"),
    ):
        items += _frontier(rows, quantity, title, y_title, main)
    items += [crowding(sae), *_sharing(model, sae, main.hook), _decoder(sae), _sentence(model, sae, main.hook)]
    return items


def evaluation_table(rows: Sequence[Row]) -> TableRecord:
    """Every autoencoder beside its baselines."""
    tokens = next(row.numbers["tokens"] for row in rows if row.kind == SAE)
    several = len({row.sae for row in rows}) > 1
    return TableRecord(
        id="held-out",
        title="On held-out text, beside what needs no training",
        look_at=(
            f"{tokens:,} tokens of documents never trained on. Explained: share of the variance around the mean. Length: how long "
            "reconstructions are for what they should be, measured from the mean. Cross-entropy in nats a token, with the "
            f"reconstruction in the activations' place. {'; '.join(losses_without(list(rows)))}. Recovered: 1 is the model itself, 0 the "
            "mean. Dense: active on more than a tenth of the tokens."
        ),
        columns=["reconstruction", *(name for name, _ in COLUMNS.values())],
        rows=[
            [f"{row.sae}: {row.kind}" if several and row.kind == SAE else row.kind, *cells(row.numbers)] for row in rows
        ],
    )


def _kinds(rows: Sequence[Row]) -> TableRecord:
    """What the lines of the table are."""
    present = {row.kind for row in rows}
    return TableRecord(
        id="kinds",
        title="What it is compared with",
        look_at="All have as many features a token as the autoencoder, rounded up. An autoencoder of a shuffled model that does not choose their number has at most as many; on its own model it has those it was trained to have.",
        columns=["reconstruction", "what it is"],
        rows=[[kind, text] for kind, text in KINDS.items() if kind in present and kind != SAE],
        words={"what it is"},
    )


def _frontier(rows: Sequence[Row], quantity: str, title: str, y_title: str, main: Row) -> list[Item]:
    series = {}
    for kind in KINDS:
        some = [row.numbers for row in rows if row.kind == kind and row.hook == main.hook and quantity in row.numbers]
        some.sort(key=lambda numbers: numbers["l0"])
        if len(some) > 1:
            series[kind] = Line([float(one["l0"]) for one in some], [float(one[quantity]) for one in some])
    if SAE not in series:
        return []
    numbers = {row.kind: row.numbers for row in rows if row.sae == main.sae}
    others = {kind: one[quantity] for kind, one in numbers.items() if kind not in (SAE, SHUFFLED) and quantity in one}
    best = (max if quantity == "explained_variance" else min)(others, key=lambda kind: others[kind])
    shuffled = numbers.get(SHUFFLED, {}).get(quantity)
    marks = {} if quantity != "ce" else {"the model itself": float(numbers[SAE]["ce_clean"])}
    return [
        FigureRecord(
            id=f"frontier-{quantity.replace('_', '-')}",
            title=title,
            look_at="Each point is one reconstruction of the held-out activations; the axis says how many features it has a token.",
            number=f"{numbers[SAE][quantity]:.3f} at L0 {numbers[SAE]['l0']:.0f}",
            control=f"{others[best]:.3f}: {best}, the best of what reads this model without having learnt from it"
            + ("" if shuffled is None else f"; {shuffled:.3f}: {SHUFFLED}"),
            figure=lines(series, x_title="L0: features a token", y_title=y_title, marks=marks),
        )
    ]


def crowding(sae: Any) -> FigureRecord:
    """How near each feature's direction is to another one, beside random directions."""
    decoder = sae.W_dec.detach().float().cpu()
    groups = {"trained": nearest_cosines(decoder)}
    for kind, name in (("spectrum", "same lengths and spectrum"), ("gaussian", "random")):
        groups[name] = nearest_cosines(random_directions(decoder, kind, 0))
    medians = {name: float(values.median()) for name, values in groups.items()}
    n, d = decoder.shape
    return FigureRecord(
        id="crowding",
        title=f"How crowded {n:,} features in {d} dimensions are",
        look_at=f"They are {n / d:.1f} for each dimension, by choice of the width, so they cannot be orthogonal. For each feature the cosine with the one nearest to it: how crowded it is.",
        number=f"{medians['trained']:.2f}: median cosine with the nearest feature",
        control=f"{medians['random']:.2f} for as many random directions, {medians['same lengths and spectrum']:.2f} for random ones with the same lengths and spectrum",
        figure=distributions(*shares_by_bin(groups), "cosine with the nearest feature", "share of features"),
    )


def _sharing(model: Any, sae: Any, hook: str) -> list[Item]:
    """How many features read from each neuron before the hook."""
    written = written_before(model, hook)
    if not written:
        return []
    encoder = sae.W_enc.detach().float().cpu().T
    groups = {"trained": participation(written, encoder)}
    for kind, name in (("spectrum", "same lengths and spectrum"), ("gaussian", "random")):
        groups[name] = participation(written, random_directions(encoder, kind, 0))
    of_neuron = {name: found.features_of_neuron.float() for name, found in groups.items()}
    of_feature = {name: float(found.neurons_of_feature.float().mean()) for name, found in groups.items()}
    means = {name: float(values.mean()) for name, values in of_neuron.items()}
    # A bin for each number.
    most = int(max(values.max() for values in of_neuron.values()))
    return [
        FigureRecord(
            id="sharing",
            title="How many features one neuron takes part in",
            look_at=f"For each of the {len(of_neuron['trained']):,} neurons that write before this hook, the features whose encoder reads along what it writes, or against it, further than one random direction in a thousand would. Each feature reads {of_feature['trained']:.1f} neurons so ({of_feature['same lengths and spectrum']:.1f} where only lengths and spectrum of the encoder are kept).",
            number=f"{means['trained']:.1f} features a neuron, {of_neuron['trained'].median():.0f} the median",
            control=f"{means['random']:.1f} for random directions, {means['same lengths and spectrum']:.1f} for random ones with the encoder's lengths and spectrum",
            figure=distributions(*shares_by_bin(of_neuron, most + 1), "features a neuron", "share of neurons"),
        )
    ]


def _decoder(sae: Any) -> FigureRecord:
    """The chapter's heat map of learned features, beside as many random ones."""
    decoder = sae.W_dec.detach().float().cpu()
    shown = decoder[:: max(1, len(decoder) // _SHOWN_FEATURES)][:_SHOWN_FEATURES]
    random = random_directions(shown, "gaussian", 0)
    random = random * (shown.norm(dim=1).mean() / random.norm(dim=1, keepdim=True))
    peaks = [float((one.abs().amax(dim=1) / one.norm(dim=1)).median()) for one in (shown, random)]
    return FigureRecord(
        id="decoder",
        title="Learned features",
        look_at=f"The directions of {len(shown)} features, evenly picked, a row each. A column that stands out is a dimension that many features use; a feature that were one dimension would be a row with one spot.",
        number=f"{peaks[0]:.2f}: median share of a direction's length in its largest dimension",
        control=f"{peaks[1]:.2f} for random directions; 1 if features were dimensions",
        figure=feature_heatmaps({"learned": shown, "random": random}),
    )


def _sentence(model: Any, sae: Any, hook: str) -> FigureRecord:
    """The features of one sentence: bars of their strength, and at which tokens they are active."""
    found = features_of_sentence(model, sae, SENTENCE, hook=hook)
    shuffled = [features_of_sentence(model, sae, SENTENCE, hook=hook, shuffled=seed) for seed in range(_ORDERS)]
    kept = [len(set(found.features) & set(other.features)) for other in shuffled]
    n = len(found.features)
    return FigureRecord(
        id="sentence",
        title="The features of a sentence",
        look_at=f"“{SENTENCE}” The features that are active most anywhere in it, each with the tokens whose logits it raises most; bars show how strongly. Which of them know more than the words? Those that are not there when the model reads the same tokens in another order.",
        number=f"{n - sum(kept) / _ORDERS:.1f} of {n} are not among the strongest {n} when the tokens stand in a random order (mean of {_ORDERS} orders)",
        control=f"0 of {n} if features knew their token alone",
        figure=sentence_features(found.tokens, found.names, found.activations),
    )
