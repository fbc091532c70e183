"""The report's chapter on a real pretrained model. It has no runs: its numbers come with the package (``scripts/real_models.py``)."""

from __future__ import annotations

import re
from statistics import mean, median

from mi_superposition.figures.lines import Line, lines
from mi_superposition.pages.real.heads import head_items
from mi_superposition.pages.request import ChapterRequest, Job, Runs
from mi_superposition.real import RealModel, load_real, value_of
from mi_superposition.site import Page, Section
from mi_superposition.site.headlines import Alternative, Headline
from mi_superposition.site.records import FigureRecord, TableRecord

CHAPTER = "real"
TITLE = "A real pretrained model"
ORDER, SCAN, CONTEXTS, EVALUATION, SPECTRA = "order-{layer}", "scan", "contexts", "sae-evaluation", "spectra"
CONCEPTS, ENCODER_CONCEPTS, ENCODER = "concepts", "concepts-minilm", "all-MiniLM-L6-v2"
# Kinds of random directions, as the contexts of neurons are compared with them.
DIRECTIONS = ("to_a_random_token", "input_covariance", "isotropic", "weight_covariance", "whitened")
RECONSTRUCTIONS = (
    "autoencoder",
    "autoencoder's directions, matching pursuit",
    "training activations, matching pursuit",
    "training activations, largest projections",
    "largest dimensions",
    "principal components",
    "random directions, matching pursuit",
    "random dictionary",
    "autoencoder of a shuffled model, on that model",
)

_SCRIPT = "python scripts/real_models.py --only order"
ALTERNATIVES = (
    Alternative(
        "without neurons in pairs with a cosine above 0.35, trained and control ordered again",
        "at least 1.07 times the most that any control sample can score, in every layer",
        _SCRIPT,
        "real-models.md",
    ),
    Alternative(
        "the same above 0.3",
        "at least 1.05 times, in every layer",
        _SCRIPT,
        "real-models.md",
    ),
    Alternative(
        "rounding to 4 bits makes the order: a Gaussian matrix",
        "about 30, in a model whose layers score 46 to 120",
        _SCRIPT,
        "real-models.md",
    ),
)


def jobs(request: ChapterRequest) -> dict[str, Job]:  # noqa: ARG001
    """None."""
    return {}


def section(runs: Runs, request: ChapterRequest) -> Section:  # noqa: ARG001
    """Order and contexts of every layer's neurons, an autoencoder in the middle, effective ranks, heads; concepts, of an encoder too."""
    real = load_real()
    layers = real.layers()
    scores, gains = real.by_layer(ORDER, "score"), real.by_layer(ORDER, "gain")
    page = Page(
        CHAPTER,
        TITLE,
        (
            f"{real.name}: {len(layers)} layers, weights dequantised from 4 bits, read on TinyStories. The same commands as for the bundled "
            "models, in scripts/real_models.py; docs/real-models.md has what they cost and what they do not show."
        ),
        [
            _orders(real, scores, gains),
            _contexts(real),
            _reconstructions(real),
            _ranks(real),
            *head_items(real),
            _concepts(real, CONCEPTS, real.name, "blocks.{layer}.hook_resid_pre"),
            _concepts(real, ENCODER_CONCEPTS, f"{ENCODER}, an encoder", "hidden_states.{layer}"),
        ],
    )
    return Section(
        slug=CHAPTER,
        title=TITLE,
        summary="What of all this holds in a language model that others trained.",
        number=f"{headline(real).value:.2f} times",
        number_is=(
            "score of the ordered neurons over the most that any order of any control sample can score (proven), in the layer where it is "
            f"least; {min(gains):+.0%} to {max(gains):+.0%} relative to the hardest control's mean"
        ),
        control=(
            "1 is that bound: same row norms and spectrum, entries shuffled, Gaussian, untrained; 5 samples of each for each of "
            f"{len(layers)} layers"
        ),
        headline=headline(real),
        alternatives=ALTERNATIVES,
        page=page,
    )


def headline(real: RealModel) -> Headline:
    """Whether every layer's neurons have more order than any order of any control sample."""
    scores, most = real.by_layer(ORDER, "score"), real.by_layer(ORDER, "highest_control")
    return Headline(
        round(min(score / control for score, control in zip(scores, most, strict=True)), 2),
        {"the controls' proven maximum": 1.0},
        yes=f"In all {len(scores)} layers of {real.name} the neurons have more order than any order of any control sample",
        no=f"Not in all layers of {real.name} do the neurons have more order than any order of any control sample",
    )


def beside_bundled(real: RealModel) -> dict[str, str]:
    """By a chapter's slug, what was found in the real model where the chapter's headline is of a bundled one: number and control."""
    layers, contexts, reconstructed = real.layers(), real.metrics[CONTEXTS], real.metrics[EVALUATION]
    gains = real.by_layer(ORDER, "gain")
    middle = layers[len(layers) // 2]
    random = [value_of(contexts, f"{_hook(middle)}/contexts_directions_{kind}_median") for kind in DIRECTIONS]
    shares = _shares(real)

    def explained(name: str) -> float:
        return value_of(reconstructed, f"sae/{name}/explained_variance")

    return {
        "neuron-order": (
            f"**{min(gains):+.0%} to {max(gains):+.0%}** in {len(layers)} layers; at least {headline(real).value:.2f} times what any order of "
            "any control sample can score"
        ),
        "neuroscope": (
            f"**{_number(contexts, middle, 'contexts_median')}** (layer {middle}); random directions {min(random):.1f} to {max(random):.1f}, "
            f"untrained {_number(contexts, middle, 'contexts_untrained_median')}"
        ),
        "sae": (
            f"**{explained(RECONSTRUCTIONS[0]):.3f}** (layer {middle}); {explained(RECONSTRUCTIONS[2]):.3f} by {RECONSTRUCTIONS[2]}"
        ),
        "concepts": (
            f"**{value_of(real.metrics[ENCODER_CONCEPTS], 'halvings.trained'):.3f} ± {value_of(real.metrics[ENCODER_CONCEPTS], 'halvings.trained.sd'):.3f}** "
            f"({ENCODER}); {value_of(real.metrics[ENCODER_CONCEPTS], 'halvings.denied'):.3f} without the concept word, "
            f"{value_of(real.metrics[ENCODER_CONCEPTS], 'halvings.untrained'):.3f} untrained; {real.name}: {value_of(real.metrics[CONCEPTS], 'halvings.trained'):.3f} ± "
            f"{value_of(real.metrics[CONCEPTS], 'halvings.trained.sd'):.3f}, {value_of(real.metrics[CONCEPTS], 'halvings.denied'):.3f} and "
            f"{value_of(real.metrics[CONCEPTS], 'halvings.untrained'):.3f}"
        ),
        "spectra": (
            f"**{mean(shares['weights']):.2f}** of the largest possible rank, mean of all matrices; untrained {mean(shares['weights, untrained']):.2f}"
        ),
    }


def _orders(real: RealModel, scores: list[float], gains: list[float]) -> FigureRecord:
    layers = real.layers()
    best = layers[scores.index(max(scores))]
    without = real.by_layer(ORDER, "without_above_0.35_gain")
    return FigureRecord(
        id="order",
        title="The order of every layer's neurons",
        look_at=(
            "Sum of squared cosines of neighbours in the best order found, and the same of random matrices with the same row norms and "
            "spectrum. The upper bounds are proven: no order of the trained neurons, or of any control sample, scores more."
        ),
        number=f"{max(scores):.1f} in layer {best}, {gains[layers.index(best)]:+.0%} over its control",
        control=(
            f"smallest gain of a layer {min(gains):+.0%}; without neurons in pairs with a cosine above 0.35 {min(without):+.0%} to "
            f"{max(without):+.0%}"
        ),
        figure=lines(
            {
                "trained": Line(layers, scores),
                "same norms and spectrum": Line(layers, real.by_layer(ORDER, "spectrum_score_mean")),
                "Gaussian": Line(layers, real.by_layer(ORDER, "gaussian_score_mean")),
                "trained: upper bound": Line(layers, real.by_layer(ORDER, "upper_bound")),
                "controls: upper bound": Line(layers, real.by_layer(ORDER, "highest_control")),
            },
            x_title="layer",
            y_title="score",
        ),
    )


def _contexts(real: RealModel) -> FigureRecord:
    layers = real.layers()
    measured = real.by_layer(SCAN, "blocks.{layer}.mlp.hook_post/contexts_median")
    compared = [layer for layer in layers if f"{_hook(layer)}/contexts_untrained_median" in real.metrics[CONTEXTS]]
    numbers = real.metrics[CONTEXTS]
    said = "; ".join(
        f"layer {layer}: {_number(numbers, layer, 'contexts_median')} beside "
        + ", ".join(
            f"{_number(numbers, layer, f'contexts_directions_{kind}_median')} ({kind.replace('_', ' ')})"
            for kind in DIRECTIONS
        )
        for layer in compared
    )
    return FigureRecord(
        id="contexts",
        title="In how many contexts a neuron is active",
        look_at=(
            f"Median effective number of contexts among a neuron's 20 largest activations, {real.metrics[SCAN]['tokens']:,} tokens. Next to "
            "random directions in three layers that were named beforehand (fewer tokens, so more contexts): "
            + said
            + "."
        ),
        number=f"{median(measured):.1f} (median of layers), {min(measured):.1f} to {max(measured):.1f}",
        control=f"untrained {_number(numbers, compared[1], 'contexts_untrained_median')}; examples permuted 18",
        figure=lines(
            {
                "neurons": Line(layers, measured),
                "examples permuted": Line(
                    layers, real.by_layer(SCAN, "blocks.{layer}.mlp.hook_post/contexts_shuffled_median")
                ),
            },
            x_title="layer",
            y_title="contexts",
        ),
    )


def _reconstructions(real: RealModel) -> TableRecord:
    numbers = real.metrics[EVALUATION]

    def cell(name: str, what: str, form: str) -> str:
        value = numbers.get(f"sae/{name}/{what}")
        return "" if value is None or (what == "ce" and value == 0) else format(value, form)

    return TableRecord(
        id="autoencoder",
        title="An autoencoder in the middle",
        look_at=(
            "8,192 features, 32 active, of the residual stream before layer 15, trained on 3 million tokens; held-out stories. Every row "
            "has as many active per token. Matching pursuit searches at each token, which the autoencoder does not."
        ),
        columns=["reconstruction", "variance explained", "cross-entropy, nats a token"],
        rows=[
            [name, cell(name, "explained_variance", ".3f"), cell(name, "ce", ".3f")]
            for name in RECONSTRUCTIONS
            if f"sae/{name}/explained_variance" in numbers
        ],
    )


def _ranks(real: RealModel) -> FigureRecord:
    shares = _shares(real)
    return FigureRecord(
        id="ranks",
        title="Effective rank by layer",
        look_at="Energy rank at 99 %, as a share of the largest rank that the matrix can have; mean over the layer's matrices.",
        number=f"{mean(shares['weights']):.2f} of weights, {mean(shares['activations']):.2f} of activations",
        control=f"untrained {mean(shares['weights, untrained']):.2f} and {mean(shares['activations, untrained']):.2f}",
        figure=lines(
            {name: Line(real.layers(), values) for name, values in shares.items()},
            x_title="layer",
            y_title="share of the largest possible rank",
        ),
    )


def _shares(real: RealModel) -> dict[str, list[float]]:
    """Ranks of every layer as shares of the possible, mean over the layer's matrices."""
    found = real.metrics[SPECTRA]

    def of_layer(layer: int, kind: str, state: str) -> float:
        return mean(
            float(value)
            for name, value in found.items()
            if name.startswith(f"blocks.{layer}.")
            and name.endswith(f".{kind}{state}.possible_ratio")
            and value is not None
        )

    return {
        kind + told: [of_layer(layer, kind, state) for layer in real.layers()]
        for kind in ("weights", "activations")
        for state, told in (("", ""), (".untrained", ", untrained"))
    }


def _concepts(real: RealModel, step: str, name: str, hook: str) -> FigureRecord:
    """Of the model itself or of the encoder; ``hook``: what is read of a ``{layer}``."""
    numbers = real.metrics[step]
    layers = list(range(sum(bool(re.fullmatch(hook.format(layer=r"\d+") + r"\.probe", key)) for key in numbers)))

    def probes(state: str) -> list[float]:
        return [value_of(numbers, f"{hook.format(layer=layer)}{state}.probe") for layer in layers]

    return FigureRecord(
        id=step,
        title=f"Concepts in {name}",
        look_at=(
            f"Balanced accuracy of a linear probe of six concepts on sentences whose words it was not trained on, by layer ({numbers['texts']:,} sentences). "
            "Word vectors, words and denied words are those of the chapter on concepts."
        ),
        number=(
            f"{value_of(numbers, 'halvings.trained'):.3f} ± {value_of(numbers, 'halvings.trained.sd'):.3f} ({numbers['halvings']} halvings of the words, the layer chosen on the "
            "training half)"
        ),
        control=(
            f"{value_of(numbers, 'halvings.denied'):.3f} without the concept word, {value_of(numbers, 'halvings.word_vectors'):.3f} for co-occurrence "
            f"vectors, {value_of(numbers, 'halvings.bag_of_words'):.3f} for a bag of words, {value_of(numbers, 'halvings.untrained'):.3f} untrained"
        ),
        figure=lines(
            {
                "trained": Line(layers, probes("")),
                "untrained": Line(layers, probes(".untrained")),
                "random word lists": Line(layers, probes(".random")),
            },
            x_title="layer",
            y_title="balanced accuracy",
        ),
    )


def _hook(layer: int) -> str:
    return f"blocks.{layer}.mlp.hook_post"


def _number(numbers: dict[str, float | int | None], layer: int, what: str) -> str:
    return f"{value_of(numbers, f'{_hook(layer)}/{what}'):.1f}"
