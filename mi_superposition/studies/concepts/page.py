"""Concepts told on a page: probes beside their controls, directions, and the units that concepts share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from mi_superposition.concepts.directions import between, dealt_by_group, same_less_other
from mi_superposition.concepts.overlap import mean_shared, top_units
from mi_superposition.concepts.simple import SimpleLanguageModel, chance_sizes, correlations, mean_size
from mi_superposition.figures.concepts import labelled_heatmaps, labelled_points
from mi_superposition.figures.lines import Line, stacked_lines
from mi_superposition.models import FEATURES
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item, Link, TableRecord
from mi_superposition.studies.concepts.findings import STATES, Findings
from mi_superposition.studies.concepts.measure import LayerMeasured

_NONE = "none of them"
_SEEDS = 1000
# Hidden dimensions and seed of the untrained three-layer model.
_D_EMBEDDING, _D_HIDDEN, _SEED = 10, 5, 0
_SHOWN_UNITS = 20
_SHOWN_FEATURES = 6
_SIGNIFICANT = 0.05
# Cosines with other concepts above this are called common to all texts.
_COMMON = 0.5
# Seeds of the untrained model that show what luck gives.
_LUCKY = 200


def intro(findings: Findings) -> str:
    """What was measured, and the one number with its controls, each at its own best layer."""
    best = findings.best_layer
    found = findings.layers["trained"][best].probe
    untrained = findings.layers["untrained"][findings.best("untrained")].probe
    n = int((findings.labels >= 0).sum())
    held_out = f" ({len(findings.groups[findings.labels >= 0].unique())} words)" if findings.by_words else ""
    how = (
        "Concepts are word lists: a sentence belongs to a concept if it holds one of its words and no other concept's. One half of each "
        "list serves to learn, the other half, in other sentences, to test, so a probe must know more than the words it learnt from."
        if findings.by_words
        else "Concepts are the texts' labels; one text in four is held out."
    )
    control = f", random word lists {findings.best_random:.3f}" if findings.by_words else ""
    return (
        f"{how} A linear probe finds {found:.3f} ± {findings.error:.3f} of {len(findings.concepts)} concepts right on {n:,} held-out texts"
        f"{held_out} at {best} of {findings.request['model']} (untrained {untrained:.3f}{control}, words alone {findings.bag_of_words:.3f}, chance "
        f"{findings.chance:.3f}; balanced accuracies, each at the layer where it is best; ± one standard error, {'words' if findings.by_words else 'texts'} drawn again)."
        + (
            " The best layer is the first: these are the embeddings, before any computation."
            if best == next(iter(findings.layers["trained"]))
            else ""
        )
    )


def accuracy_rows(findings: Findings) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: balanced accuracies by layer."""
    columns = ["layer", "probe", "untrained probe", "mean direction", "untrained direction", "shuffled labels"]
    rows = []
    for name, found in findings.layers["trained"].items():
        untrained = findings.layers["untrained"][name]
        numbers = [found.probe, untrained.probe, found.nearest, untrained.nearest, found.shuffled]
        if findings.by_words:
            numbers.append(_mean(findings.random[name].probes))
        rows.append([name, *(f"{number:.3f}" for number in numbers)])
    return columns + (["random word lists"] if findings.by_words else []), rows


def concepts_items(findings: Findings, *, pages: Mapping[str, Mapping[int, str]] | None = None) -> list[Item]:
    """Figures and tables of one run; ``pages`` gives the addresses of units' pages by layer."""
    items: list[Item] = [
        _by_layer(findings),
        _accuracies(findings),
        _principal(findings),
        _cosines(findings),
        _p_values(findings),
    ]
    return [*items, *_overlap(findings, pages or {}), *_features(findings, pages or {}), *_simple(findings)]


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)


def _by_layer(findings: Findings) -> FigureRecord:
    names = list(findings.layers["trained"])
    x = [float(place) for place in range(1, len(names) + 1)]
    lines: dict[str, Line] = {
        state: Line(x, [found.probe for found in findings.layers[state].values()]) for state in STATES
    }
    if findings.by_words:
        lines["random word lists"] = Line(x, [_mean(findings.random[name].probes) for name in names])
    lines["shuffled labels"] = Line(x, [found.shuffled for found in findings.layers["trained"].values()])
    lines["words alone"] = Line(x, [findings.bag_of_words] * len(x))
    lines["chance"] = Line(x, [findings.chance] * len(x))
    best = findings.best_layer
    accuracy = findings.layers["trained"][best].probe
    return FigureRecord(
        id="probes",
        title="Concepts by layer",
        look_at=(
            "Balanced accuracy of a linear probe (logistic regression) on texts it never saw, at each layer's mean over a text's tokens."
            + (
                " Random word lists are as long, their words as frequent: if the probe did as well on them, it would tell of words and not "
                "of concepts. Words alone: the same regression on which other words a text has, without any model."
                if findings.by_words
                else " Words alone: the same regression on which words a text has, without any model."
            )
        ),
        number=f"{accuracy:.3f} ± {findings.error:.3f} at {best}",
        control=(
            f"each at its best layer: {findings.layers['untrained'][findings.best('untrained')].probe:.3f} untrained"
            + (f", {findings.best_random:.3f} random word lists" if findings.by_words else "")
            + f", {findings.best_shuffled:.3f} shuffled labels, {findings.bag_of_words:.3f} words alone, {findings.chance:.3f} chance"
        ),
        figure=stacked_lines({"balanced accuracy": lines}, names={"balanced accuracy": names}, x_title="layer", y_title="held-out accuracy"),
    )  # fmt: skip


def _accuracies(findings: Findings) -> TableRecord:
    columns, rows = accuracy_rows(findings)
    return TableRecord(
        id="accuracies",
        title="All layers",
        look_at=f"Mean direction: a text goes to the concept whose centred mean it lies along most; nothing is fitted but means. {findings.n_train:,} texts to learn from. Chance {findings.chance:.3f}.",
        columns=columns,
        rows=rows,
    )


def _principal(findings: Findings) -> FigureRecord:
    layers = findings.layers["trained"]
    best = findings.best_layer
    of_concept = findings.labels >= 0
    points = layers[best].coordinates[of_concept]
    labels = findings.labels[of_concept]
    dealt = [between(points, dealt_by_group(labels, findings.groups[of_concept], seed)) for seed in range(100)]
    kept = "words dealt anew among concepts" if findings.by_words else "labels shuffled"
    untrained = between(findings.layers["untrained"][best].coordinates[of_concept], labels)
    return FigureRecord(
        id="principal",
        title="Texts along their first two principal components",
        look_at=f"Held-out texts, a colour a concept; the slider leads through layers. At {best} the two components hold {100 * float(layers[best].explained.sum()):.0f} % of the variance. Components are chosen for variance, not for concepts: length and style may take them all.",
        number=f"{100 * between(points, labels):.1f} % of the variance in this plane lies between concepts ({best})",
        control=f"{100 * untrained:.1f} % untrained, {100 * sum(dealt) / len(dealt):.1f} % with {kept} (largest of {len(dealt)}: {100 * max(dealt):.1f} %)",
        figure=labelled_points(
            {name: found.coordinates for name, found in layers.items()}, findings.labels, findings.concepts, "layer",
            none=_NONE, shown=list(layers).index(best),
        ),
    )  # fmt: skip


def _diagonal(cosines: Float[Tensor, "label concept"]) -> tuple[float, float]:
    """Mean cosine of texts with their own concept, and with the others."""
    n = cosines.shape[1]
    own = torch.eye(n, dtype=torch.bool)
    return float(cosines[:n][own].mean()), float(cosines[:n][~own].mean())


def _cosines(findings: Findings) -> FigureRecord:
    layers = findings.layers["trained"]
    best = findings.best_layer
    own, others = _diagonal(layers[best].cosines)
    plain_own, plain_others = _diagonal(layers[best].uncentred)
    untrained = _diagonal(findings.layers["untrained"][best].cosines)
    labels = [*findings.concepts, *([_NONE] if len(layers[best].cosines) > len(findings.concepts) else [])]
    panels = ("centred", "not centred")
    return FigureRecord(
        id="directions",
        title="Texts along concept directions",
        look_at=(
            "Mean cosine of held-out texts (rows) with each concept's direction (columns): the mean of its texts less that of all others. Not "
            f"centred: {plain_own:.3f} with their own, {plain_others:.3f} with the others ({best})."
            + (
                " Every text lies along every concept, because all texts have a mean in common; the chapter's 0.335, 0.339 and 0.372 for three concepts "
                "were not centred either, so a common mean may be in them."
                if plain_others > _COMMON
                else ""
            )
            + (" Of two labels one direction is the other's opposite by construction." if len(findings.concepts) == 2 else "")
        ),
        number=f"{own:+.3f} with the own concept, {others:+.3f} with the others ({best})",
        control=f"untrained {untrained[0]:+.3f} and {untrained[1]:+.3f}",
        figure=labelled_heatmaps(
            {name: {"centred": found.cosines, "not centred": found.uncentred} for name, found in layers.items()},
            "layer",
            rows=dict.fromkeys(panels, labels),
            columns=dict.fromkeys(panels, findings.concepts),
            limit=1.0,
            shown=list(layers).index(best),
        ),
    )  # fmt: skip


def _p_values(findings: Findings) -> TableRecord:
    rows = []
    for state in STATES:
        for name, found in findings.layers[state].items():
            rows.append([f"{name}, {state}", *(f"{one.difference:+.3f} ({one.p:.3f})" for one in found.separations)])
    return TableRecord(
        id="permutations",
        title="Is it chance?",
        look_at=(
            "Mean cosine of held-out texts with their concept's direction, less that of other concepts' texts; in brackets the share of "
            f"{findings.request['permutations']:,} random assignments that do as well (one-sided, not corrected for {len(rows) * len(findings.concepts)} tests). "
            + ("Texts with the same word change sides together, so that a word that is easily told counts once." if findings.by_words else "")
        ),
        columns=["layer", *findings.concepts],
        rows=rows,
    )  # fmt: skip


def _overlap(findings: Findings, pages: Mapping[str, Mapping[int, str]]) -> list[Item]:
    layers = findings.layers["trained"]
    if not findings.shares_units:
        return []
    top_k = findings.request["top_k"]
    name = neuron_layer(findings)
    found, n = layers[name], layers[name].n_units
    k = min(top_k, n)
    observed, untrained = mean_shared(found.shared), mean_shared(findings.layers["untrained"][name].shared)
    control = f"{found.chance_shared:.1f} with labels shuffled ({n:,} units), {untrained:.1f} untrained"
    random = findings.random.get(name)
    verdict = ""
    if random is not None:
        control += f", {_mean(random.shared):.1f} random word lists ({min(random.shared):.1f} to {max(random.shared):.1f} in {len(random.shared)} draws)"
        verdict = f" At {name}{_verdict(observed, random.shared)}"
    rows = []
    for layer in layers:
        numbers = [mean_shared(layers[layer].shared), mean_shared(findings.layers["untrained"][layer].shared)]
        numbers.append(layers[layer].chance_shared)
        if findings.random:
            numbers.append(_mean(findings.random[layer].shared))
        rows.append([layer, f"{layers[layer].n_units:,}", *(f"{number:.1f}" for number in numbers)])
    frames = {
        layer: {
            "trained": layers[layer].shared.float(),
            "untrained": findings.layers["untrained"][layer].shared.float(),
        }
        for layer in layers
    }
    return [
        FigureRecord(
            id="overlap",
            title="Units that concepts share",
            look_at=(
                f"For each concept the {k} units that it moves most, up or down, in standard deviations (against texts of "
                f"{'no concept' if findings.by_words else 'other labels'}); how many of them each two concepts have in common.{verdict} The table below has the other layers. A shared unit is no proof of superposition (two concepts may be one to the "
                "model), nor is the lack of one proof against it: a direction over many units is shared by none of the top ones."
            ),
            number=f"{observed:.1f} of {k} shared by two concepts, mean of all pairs ({name})",
            control=control,
            figure=labelled_heatmaps(
                frames, "layer", rows=dict.fromkeys(STATES, findings.concepts),
                columns=dict.fromkeys(STATES, findings.concepts), limit=float(k), form=".0f", shown=list(layers).index(name),
            ),
        ),
        TableRecord(
            id="overlap-layers",
            title="Shared units by layer",
            look_at=f"Mean over all pairs of concepts of how many of their top {top_k} units they share.",
            columns=["layer", "units", "trained", "untrained", "labels shuffled", *(["random word lists"] if findings.random else [])],
            rows=rows,
        ),
        _several(findings, name, found, k, pages.get(name, {})),
    ]  # fmt: skip


def _verdict(observed: float, random: tuple[float, ...]) -> str:
    """What the number of shared units says beside that of random word lists."""
    above, below = (
        (sum(test) + 1) / (len(random) + 1)
        for test in ([value >= observed for value in random], [value <= observed for value in random])
    )
    p = min(1.0, 2 * min(above, below))
    said = f"(p = {p:.2f}, two-sided; {len(random)} draws cannot show less than {2 / (len(random) + 1):.2f})."
    if p > _SIGNIFICANT:
        return f" that is within what random word lists share {said}"
    return f" two concepts share {'more' if above < below else 'fewer'} units than two random word lists {said}"


def neuron_layer(findings: Findings) -> str:
    """The last layer of neurons, or the last of all where the model shows none."""
    layers = list(findings.layers["trained"])
    return ([name for name in layers if any(part in name for part in ("mlp", "ffn", "intermediate"))] or layers)[-1]


def _several(findings: Findings, layer: str, found: LayerMeasured, k: int, pages: Mapping[int, str]) -> TableRecord:
    """Units among the top ones of several concepts."""
    concepts_of: dict[int, list[int]] = {}
    for concept, units in enumerate(top_units(found.effects, k).tolist()):
        for unit in units:
            concepts_of.setdefault(unit, []).append(concept)
    shared = sorted(
        (unit for unit, some in concepts_of.items() if len(some) > 1), key=lambda unit: (-len(concepts_of[unit]), unit)
    )
    rows: list[list[str | Link]] = []
    for unit in shared[:_SHOWN_UNITS]:
        said = ", ".join(
            f"{findings.concepts[concept]} {float(found.effects[concept, unit]):+.2f}" for concept in concepts_of[unit]
        )
        rows.append([Link(str(unit), pages[unit]) if unit in pages else str(unit), said])
    alone = sum(len(some) == 1 for some in concepts_of.values())
    n_pairs = len(findings.concepts) * (len(findings.concepts) - 1) // 2
    return TableRecord(
        id="several",
        title="Units of several concepts",
        look_at=f"At {layer}: units among the {k} of two concepts or more, with how many standard deviations each moves them. {len(shared)} units serve several, {alone} one. With labels shuffled about {found.chance_shared * n_pairs:.0f} would be shared by a pair.",
        columns=["unit", "concepts"],
        rows=rows or [["none", ""]],
        words=("concepts",),
    )  # fmt: skip


def _features(findings: Findings, pages: Mapping[str, Mapping[int, str]]) -> list[Item]:
    """For each concept the features it moves most, beside the most that random word lists move any."""
    found = findings.features
    if found is None:
        return []
    addresses = pages.get(found.name, {})
    most = max(found.random_largest, default=0.0)
    rows: list[list[str | Link | list[str | Link]]] = []
    for concept, effects in zip(findings.concepts, found.effects, strict=True):
        units = effects.abs().topk(min(_SHOWN_FEATURES, len(effects))).indices.tolist()
        cell: list[str | Link] = []
        for unit in units:
            cell += [
                Link(str(unit), addresses[unit]) if unit in addresses else str(unit),
                f"({float(effects[unit]):+.2f})",
            ]
        beyond = int((effects.abs() > most).sum())
        rows.append(
            [concept, f"{float(effects.abs().max()):.2f}", *([f"{beyond}"] if found.random_largest else []), cell]
        )
    control = ""
    if found.random_largest:
        mean = _mean(found.random_largest)
        control = (
            f" In {len(found.random_largest)} draws of as many random word lists the largest of any feature is {mean:.2f} on average and {most:.2f} at most; the third "
            "column counts the features above that. A word that many sentences of one list share, such as a name, moves a feature as well as a concept does."
        )
    return [
        TableRecord(
            id="features",
            title="Features that a concept moves most",
            look_at=f"How many standard deviations a concept moves the features of the sparse autoencoder at {found.name.removesuffix(FEATURES)}, means over a sentence: the largest, and which features they are.{control}",
            columns=[
                "concept",
                "largest effect",
                *(["beyond random lists"] if found.random_largest else []),
                "features",
            ],
            rows=rows,
            words=("features",),
        )
    ]


def _simple(findings: Findings) -> list[Item]:
    """The untrained three-layer model with its heat maps and correlations, beside what this model makes of the same words."""
    words = [word for some in findings.words.values() for word in some]
    if len(words) < 4:
        return []
    simple = SimpleLanguageModel(len(words), _D_EMBEDDING, _D_HIDDEN, seed=_SEED)
    embedding, hidden = simple.embedding.weight.detach(), simple.hidden()
    drawn = chance_sizes(len(words), _D_EMBEDDING, _D_HIDDEN, seeds=_SEEDS)
    size = mean_size(correlations(hidden))
    points = findings.word_points["trained"]
    real, untrained = (correlations(one - one.mean(dim=0)) for one in (points, findings.word_points["untrained"]))
    owner = torch.tensor([number for number, some in enumerate(findings.words.values()) for _ in some])
    gaps = [same_less_other(matrix, owner) for matrix in (real, untrained, correlations(hidden))]
    others = (
        SimpleLanguageModel(len(words), _D_EMBEDDING, _D_HIDDEN, seed=seed).hidden() for seed in range(1, _LUCKY + 1)
    )
    lucky = torch.tensor([same_less_other(correlations(one), owner, deals=1).difference for one in others])
    panels = {"simple model": correlations(hidden), findings.request["model"]: real}
    below = float((drawn <= size).double().mean())
    return [
        FigureRecord(
            id="simple-model",
            title="The simple language model: embedding and hidden layer",
            look_at=(
                f"The chapter's demonstration: an embedding, a linear layer and an output for these words, as initialised from seed {_SEED} (the "
                "chapter's seed did not come down to us). Nothing was trained: its “concepts” are random numbers, and patterns in these maps are patterns in noise."
            ),
            number=f"{size:.2f}: mean size of the correlation of two words' hidden layers",
            control=f"{float(drawn.mean()):.2f} is the mean of {_SEEDS:,} other seeds; {100 * below:.0f} % of them are at or below this one",
            figure=labelled_heatmaps(
                {"seed": {"embedding": embedding, "hidden layer": hidden}}, "seed",
                rows={"embedding": words, "hidden layer": words},
                columns={"embedding": [str(d) for d in range(_D_EMBEDDING)], "hidden layer": [str(d) for d in range(_D_HIDDEN)]},
                limit=float(embedding.abs().max()), written=False,
            ),
        ),
        FigureRecord(
            id="simple-correlations",
            title="Correlations of words: random numbers, and a trained model's",
            look_at=f"Left the simple model's hidden layer; right {findings.word_layer} of the trained model at each word alone, centred over these words. If words of a concept stood together, the blocks along the diagonal would be red.",
            number=f"{gaps[0].difference:+.2f}: correlation of words of one concept less that of words of two (p = {gaps[0].p:.3f}, {findings.request['model']})",
            control=f"{gaps[1].difference:+.2f} untrained (p = {gaps[1].p:.3f}); in the simple model, where it can only be luck, {gaps[2].difference:+.2f} from this seed and {float(lucky.quantile(0.05)):+.2f} to {float(lucky.quantile(0.95)):+.2f} from nine of ten of {len(lucky)} others",
            figure=labelled_heatmaps(
                {"words": panels}, "words", rows=dict.fromkeys(panels, words), columns=dict.fromkeys(panels, words),
                limit=1.0, written=False,
            ),
        ),
    ]  # fmt: skip
