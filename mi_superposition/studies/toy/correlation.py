"""Features that go together, and features that exclude each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_superposition.figures.lines import Line, lines
from mi_superposition.figures.toy import feature_directions
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.studies.toy.study import Models, ToyStudy
from mi_superposition.toy import ToyConfig, ToyModels, setting_grid
from mi_superposition.toy.config import SETS
from mi_superposition.toy.geometry import cosines, feature_norms

PROBABILITIES = (0.8, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02)
SIZES = (4, 6)
# Of a feature shorter than this there is no direction worth an angle.
_LEAST = 0.3


def configs(full: bool) -> dict[str, ToyConfig]:
    """Two and three pairs of features in two dimensions: independent, correlated, anticorrelated."""
    return {
        f"{sets}-{n}": ToyConfig(
            sets=sets, n_features=n, n_hidden=2, settings=setting_grid(probability=PROBABILITIES),
            n_instances=256 if full else 32, n_kept=32, n_steps=5000, batch_size=512, learning_rate=5e-3, decay="cosine",
        )
        for sets in SETS
        for n in SIZES
    }  # fmt: skip


def cosine_within_pairs(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many pair"]:
    """Cosine between the two features of each pair; NaN where one of them is shorter than 0.3."""
    between, norms = cosines(W), feature_norms(W)
    first = torch.arange(0, W.shape[-1], 2)
    within = between[..., first, first + 1]
    return torch.where((norms[..., first] > _LEAST) & (norms[..., first + 1] > _LEAST), within, torch.nan)


RELATIONS = ("one direction", "acute", "orthogonal", "obtuse", "antipodal", "one not represented")


def relation(cosine: float) -> str:
    """What a cosine means for two features."""
    if cosine != cosine:
        return "one not represented"
    for least, name in ((0.9, "one direction"), (0.2, "acute"), (-0.2, "orthogonal"), (-0.9, "obtuse")):
        if cosine >= least:
            return name
    return "antipodal"


def relations(models: ToyModels, setting: int) -> Counter[str]:
    """What the pairs of the best instance do, how many each."""
    return Counter(relation(value) for value in cosine_within_pairs(models.W_in[setting]).tolist())


def metrics(models: Models) -> dict[str, Any]:
    """How many pairs of the best instance stand in each relation, by probability."""
    found: dict[str, Any] = {"probability": list(PROBABILITIES)}
    for name, trained in models.items():
        key = name.replace("-", "_")
        for kind in RELATIONS:
            found[f"{key}_pairs_{kind.replace(' ', '_')}"] = [
                relations(trained, row)[kind] for row in range(len(PROBABILITIES))
            ]
        found[f"{key}_represented"] = (feature_norms(trained.W_in) > 0.5).sum(dim=1).tolist()
    return found


def outcome(models: Models) -> str:
    """What was found."""

    def said(name: str, kind: str) -> str:
        where = [f"{1 - p:.2f}" for row, p in enumerate(PROBABILITIES) if relations(models[name], row)[kind] == 2]
        return f"at sparsity {', '.join(where)}" if where else "nowhere"

    return (
        f"Two pairs in two dimensions, best instance. Both correlated pairs share one direction {said('correlated-4', 'one direction')} "
        f"and are orthogonal {said('correlated-4', 'orthogonal')}; both anticorrelated ones are antipodal "
        f"{said('anticorrelated-4', 'antipodal')}; both independent ones {said('independent-4', 'antipodal')}."
    )


def items(models: Models) -> Sequence[Item]:
    """Cosines over sparsity, the directions, and what all instances do."""
    sparsities = [f"{1 - p:.2f}" for p in PROBABILITIES]
    x = [1 - p for p in PROBABILITIES]
    figures = [
        FigureRecord(
            id=f"toy-pairs-{n}",
            title=f"{n // 2} pairs of features in two dimensions",
            look_at=(
                "Cosine between the two features of a pair in the best instance: mean over its pairs, the band from the least to "
                "the largest. 1: one direction for both; 0: at right angles; -1: opposite. Of independent features it is chance "
                "which become partners. A feature of an anticorrelated pair is on half as often as its set."
            ),
            number=" ".join(
                f"{name.capitalize()} at sparsity {x[at]:.2f}: {_in_words(relations(models[f'{name}-{n}'], at))}."
                for name in SETS
                if name != "independent"
                for at in (1, len(x) - 1)
            ),
            control=" ".join(
                f"Independent at {x[at]:.2f}: {_in_words(relations(models[f'independent-{n}'], at))}." for at in (1, len(x) - 1)
            ),
            figure=lines(
                {name: _line(models[f"{name}-{n}"], x) for name in SETS}, x_title="sparsity of a set", y_title="cosine within a pair",
            ),
        )
        for n in SIZES
    ]  # fmt: skip
    correlated = models["correlated-4"]
    return [
        *figures,
        FigureRecord(
            id="toy-correlated-directions",
            title="Two correlated pairs",
            look_at="Features 0 and 1 are a pair, 2 and 3 another. Move the slider from dense to sparse.",
            number=f"Norms of {float(feature_norms(correlated.W_in[0]).mean()):.2f} where two features share a direction: each output is its pair's mean.",
            control=f"{float(feature_norms(correlated.W_in[-1]).mean()):.2f} where each has a direction of its own.",
            figure=feature_directions(dict(zip(sparsities, correlated.W_in, strict=True)), "sparsity"),
        ),
        TableRecord(
            id="toy-pairs-table",
            title="What pairs do, over all instances",
            look_at="The commonest relation of two features of a pair, and its share of all pairs of all instances.",
            columns=["sparsity", *(f"{name}, {n // 2} pairs" for name in SETS for n in SIZES)],
            rows=[
                [sparsity, *(_commonest(models[f"{name}-{n}"], setting) for name in SETS for n in SIZES)]
                for setting, sparsity in enumerate(sparsities)
            ],
            words=tuple(f"{name}, {n // 2} pairs" for name in SETS for n in SIZES),
        ),
    ]


def _line(models: ToyModels, x: Sequence[float]) -> Line:
    """Where no pair has two represented features there is no point."""
    pairs = cosine_within_pairs(models.W_in)
    there = [row for row in range(len(x)) if bool((pairs[row] == pairs[row]).any())]
    values = [pairs[row][pairs[row] == pairs[row]] for row in there]
    return Line(
        [x[row] for row in there],
        [float(value.mean()) for value in values],
        [float(value.min()) for value in values],
        [float(value.max()) for value in values],
    )


def _in_words(counts: Counter[str]) -> str:
    return " and ".join(f"{n} {kind}" for kind, n in counts.most_common())


def _commonest(models: ToyModels, setting: int) -> str:
    relations = [relation(value) for value in cosine_within_pairs(models.weights.W_in[setting]).flatten().tolist()]
    name = max(sorted(set(relations)), key=relations.count)
    return f"{name} ({100 * relations.count(name) / len(relations):.0f} %)"


STUDY = ToyStudy(
    name="correlation",
    title="Features that go together",
    question="Where does a model put features that occur together, or never together?",
    source="Elhage et al. 2022, Toy Models of Superposition, correlated and anticorrelated feature sets",
    configs=configs,
    metrics=metrics,
    outcome=outcome,
    items=items,
)
