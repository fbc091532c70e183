"""Single words: in an untrained simple language model, and in the model."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mi_superposition.concepts.simple import WordCorrelations, mean_magnitude
from mi_superposition.figures.concepts import labelled_heatmaps
from mi_superposition.site import FigureRecord
from mi_superposition.studies.concepts.result import ConceptsResult


def word_figures(result: ConceptsResult) -> list[FigureRecord]:
    """Heat maps of the simple model, and of correlations of words in both; nothing where concepts are labels."""
    if result.words is None:
        return []
    return [_simple_model(result.words), _correlations(result.words, result.config.model.name)]


def _simple_model(words: WordCorrelations) -> FigureRecord:
    magnitude, others = mean_magnitude(words.simple), words.chance_magnitudes
    below = 100 * float((others <= magnitude).double().mean())
    panels = {"embedding": words.embedding, "hidden layer": words.hidden}
    return FigureRecord(
        id="simple-model",
        title="The simple language model: embedding and hidden layer",
        look_at=(
            "A smaller version of Stringer's simple language model: an embedding, a linear layer and an output layer for "
            f"these words, at initialisation (sizes and seed {words.seed} are ours). It is not trained: its “concepts” are random numbers, "
            "and patterns in these maps are noise."
        ),
        number=f"{magnitude:.2f}: mean |correlation| between the hidden layers of two words",
        control=f"{float(others.mean()):.2f} is the mean of {len(others):,} other seeds; {below:.0f} % of them are at or below this one",
        figure=labelled_heatmaps(
            {"seed": panels},
            "seed",
            rows=dict.fromkeys(panels, words.all_words),
            columns={name: _numbers(values) for name, values in panels.items()},
            limit=float(words.embedding.abs().max()),
            written=False,
        ),
    )


def _numbers(values: Float[Tensor, "word d"]) -> list[str]:
    return [str(number) for number in range(values.shape[1])]


def _correlations(words: WordCorrelations, model: str) -> FigureRecord:
    panels = {"simple model": words.simple, model: words.trained}
    trained, untrained, simple = words.trained_separation, words.untrained_separation, words.simple_separation
    low, high = (float(words.chance_separations.quantile(share)) for share in (0.05, 0.95))
    return FigureRecord(
        id="simple-correlations",
        title="Correlations of words: untrained simple model and trained model",
        look_at=(
            f"Left: hidden layer of the simple model. Right: {words.layer} of the trained model for each word alone, centred over these words. "
            "If words of one concept were similar, the blocks on the diagonal would be red."
        ),
        number=f"{trained.difference:+.2f}: mean correlation within a concept minus that between concepts (p = {trained.p:.3f}, {model})",
        control=(
            f"{untrained.difference:+.2f} untrained (p = {untrained.p:.3f}); in the simple model, where it can only be chance, "
            f"{simple.difference:+.2f} for this seed and {low:+.2f} to {high:+.2f} for 90 % of {len(words.chance_separations)} other seeds"
        ),
        figure=labelled_heatmaps(
            {"words": panels},
            "words",
            rows=dict.fromkeys(panels, words.all_words),
            columns=dict.fromkeys(panels, words.all_words),
            limit=1.0,
            written=False,
        ),
    )
