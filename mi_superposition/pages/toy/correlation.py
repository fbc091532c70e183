"""The page on correlated features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mi_superposition.figures.lines import Line, lines
from mi_superposition.figures.toy import feature_directions
from mi_superposition.pages.toy.frames import sparsity_labels
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.studies.toy.correlation import PROBABILITIES, SETS, SIZES, CorrelationStudy, relation
from mi_superposition.toy.geometry import feature_norms

TITLE = "Correlated features"
QUESTION = "Which directions does a model give to features that occur together, or never together?"
SOURCE = (
    "Elhage et al. 2022, Toy Models of Superposition (correlated and anticorrelated features); C. McDougall, “Toy models of superposition” "
    "(ARENA)"
)
_SPARSITIES = [1 - probability for probability in PROBABILITIES]
_LABELS = sparsity_labels(PROBABILITIES, 2)
# The sparsities whose relations are told: the second one and the last.
_TOLD = (1, len(PROBABILITIES) - 1)


def outcome(study: CorrelationStudy) -> str:
    """Relations of two pairs over sparsity."""

    def where(run: str, kind: str) -> str:
        at = [label for label, counts in zip(_LABELS, study.relations[run], strict=True) if counts[kind] == 2]
        return f"at sparsity {', '.join(at)}" if at else "nowhere"

    return (
        "Two pairs in two dimensions, best instance. Both correlated pairs share one direction "
        f"{where('correlated-4', 'one direction')} and are orthogonal {where('correlated-4', 'orthogonal')}; both "
        f"anticorrelated ones are antipodal {where('anticorrelated-4', 'antipodal')}; both independent ones are "
        f"antipodal {where('independent-4', 'antipodal')}."
    )


def items(study: CorrelationStudy) -> Sequence[Item]:
    """Cosines over sparsity, the directions, and the relations in all instances."""
    return [*(_cosines(study, n) for n in SIZES), _directions(study), _table(study)]


def _cosines(study: CorrelationStudy, n: int) -> FigureRecord:
    return FigureRecord(
        id=f"toy-pairs-{n}",
        title=f"{n // 2} pairs of features in two dimensions",
        look_at=(
            "Cosine between the two features of a pair, in the best instance: mean over its pairs, band from the smallest to the largest. 1: the "
            "same direction; 0: orthogonal; −1: opposite. Independent features have no fixed partner, so for them it is chance which features "
            "form a pair. In an anticorrelated pair each feature is active half as often as its set."
        ),
        number=" ".join(
            f"{sets.capitalize()} at sparsity {_LABELS[at]}: {_in_words(study.relations[f'{sets}-{n}'][at])}."
            for sets in SETS
            if sets != "independent"
            for at in _TOLD
        ),
        control=" ".join(
            f"Independent at {_LABELS[at]}: {_in_words(study.relations[f'independent-{n}'][at])}." for at in _TOLD
        ),
        figure=lines(
            {sets: _line(study, f"{sets}-{n}") for sets in SETS},
            x_title="sparsity of a set",
            y_title="cosine within a pair",
        ),
    )


def _directions(study: CorrelationStudy) -> FigureRecord:
    W = study.models["correlated-4"].W_in
    norms = feature_norms(W).mean(dim=1)
    return FigureRecord(
        id="toy-correlated-directions",
        title="Two correlated pairs",
        look_at="Features 0 and 1 are a pair, 2 and 3 another. Move the slider from dense to sparse.",
        number=(
            f"Norm {float(norms[0]):.2f} where two features share a direction: each output is then the mean of its pair."
        ),
        control=f"{float(norms[-1]):.2f} where each feature has its own direction.",
        figure=feature_directions(dict(zip(_LABELS, W, strict=True)), "sparsity"),
    )


def _table(study: CorrelationStudy) -> TableRecord:
    columns = {f"{sets}, {n // 2} pairs": f"{sets}-{n}" for sets in SETS for n in SIZES}
    return TableRecord(
        id="toy-pairs-table",
        title="Relation within pairs, over all instances",
        look_at=(
            "The most frequent relation of the two features of a pair, and its fraction of all pairs of all instances."
        ),
        columns=["sparsity", *columns],
        rows=[
            [label, *(_most_frequent(study, run, setting) for run in columns.values())]
            for setting, label in enumerate(_LABELS)
        ],
        words=tuple(columns),
    )


def _line(study: CorrelationStudy, run: str) -> Line:
    """Of the best instance. Where no pair has two represented features there is no point."""
    points = [
        (sparsity, pairs[~pairs.isnan()])
        for sparsity, pairs in zip(_SPARSITIES, study.cosines[run][:, 0], strict=True)
        if not bool(pairs.isnan().all())
    ]
    return Line(
        [sparsity for sparsity, _ in points],
        [float(cosines.mean()) for _, cosines in points],
        [float(cosines.min()) for _, cosines in points],
        [float(cosines.max()) for _, cosines in points],
    )


def _in_words(counts: Counter[str]) -> str:
    return " and ".join(f"{n} {kind}" for kind, n in counts.most_common())


def _most_frequent(study: CorrelationStudy, run: str, setting: int) -> str:
    relations = [relation(value) for value in study.cosines[run][setting].flatten().tolist()]
    name = max(sorted(set(relations)), key=relations.count)
    return f"{name} ({100 * relations.count(name) / len(relations):.0f} %)"
