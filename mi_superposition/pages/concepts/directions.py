"""Texts in the plane of two principal components and along concept directions, and the permutation tests."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mi_superposition.figures.concepts import labelled_heatmaps, labelled_points
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import TableRecord
from mi_superposition.studies.concepts.result import ConceptsResult

_NONE = "no concept"
# Above this, mean cosines with other concepts are called high.
_HIGH = 0.5


def plane_figure(result: ConceptsResult) -> FigureRecord:
    """Texts along the first two principal components of each layer."""
    best, plane = result.best_layer, result.plane
    explained = 100 * float(result.trained[best].explained.sum())
    permuted = "words permuted across concepts" if result.by_words else "labels shuffled"
    return FigureRecord(
        id="principal",
        title="Texts along their first two principal components",
        look_at=(
            f"Held-out texts, one colour per concept; the slider selects the layer. At {best} the two components explain {explained:.0f} % "
            "of the variance. Components are chosen for variance, not for concepts: length and style may dominate them."
        ),
        number=f"{100 * plane.trained:.1f} % of the variance in this plane is between concepts ({best})",
        control=(
            f"{100 * plane.untrained:.1f} % untrained, {100 * plane.permuted_mean:.1f} % with {permuted} (largest of "
            f"{len(plane.permuted)}: {100 * max(plane.permuted):.1f} %)"
        ),
        figure=labelled_points(
            {name: one.coordinates for name, one in result.trained.items()},
            result.labels,
            result.concepts,
            "layer",
            none=_NONE,
            shown=list(result.trained).index(best),
        ),
    )


def directions_figure(result: ConceptsResult) -> FigureRecord:
    """Mean cosines of texts with concept directions, centred and not."""
    best = result.best_layer
    measured = result.trained[best]
    own, others = _own_and_others(measured.cosines)
    plain_own, plain_others = _own_and_others(measured.uncentred)
    untrained = _own_and_others(result.untrained[best].cosines)
    labels = [*result.concepts, *([_NONE] if len(measured.cosines) > len(result.concepts) else [])]
    panels = ("centred", "not centred")
    look_at = (
        "Mean cosine of held-out texts (rows) with each concept direction (columns), which is the mean of the "
        f"concept's texts minus the mean of all other texts. Without centring: {plain_own:.3f} with their own concept, "
        f"{plain_others:.3f} with the others ({best})."
    )
    if plain_others > _HIGH:
        look_at += (
            " Without centring every text has a high cosine with every concept, because all texts share a mean. Stringer reports "
            "correlations of 0.335, 0.339 and 0.372 with three concepts, not centred, so a common mean may explain them."
        )
    if len(result.concepts) == 2:
        look_at += " With two labels, one direction is the negative of the other by construction."
    return FigureRecord(
        id="directions",
        title="Texts along concept directions",
        look_at=look_at,
        number=f"{own:+.3f} with their own concept, {others:+.3f} with the others ({best})",
        control=f"untrained {untrained[0]:+.3f} and {untrained[1]:+.3f}",
        figure=labelled_heatmaps(
            {name: {"centred": one.cosines, "not centred": one.uncentred} for name, one in result.trained.items()},
            "layer",
            rows=dict.fromkeys(panels, labels),
            columns=dict.fromkeys(panels, result.concepts),
            limit=1.0,
            shown=list(result.trained).index(best),
        ),
    )


def _own_and_others(cosines: Float[Tensor, "label concept"]) -> tuple[float, float]:
    """Mean cosine of texts with their own concept, and with the others."""
    n = cosines.shape[1]
    own = torch.eye(n, dtype=torch.bool)
    return float(cosines[:n][own].mean()), float(cosines[:n][~own].mean())


def permutation_table(result: ConceptsResult) -> TableRecord:
    """The permutation test of every concept at every layer, trained and untrained."""
    rows = [
        [f"{name}, {state}", *(f"{one.difference:+.3f} ({one.p:.3f})" for one in measured.separations)]
        for state, layers in result.layers.items()
        for name, measured in layers.items()
    ]
    return TableRecord(
        id="permutations",
        title="Permutation test",
        look_at=(
            "Mean cosine of held-out texts with their own concept direction minus that of other concepts' texts; in brackets the p-value, "
            f"the fraction of {result.config.permutations:,} random label permutations with at least this difference (one-sided, not "
            f"corrected for {len(rows) * len(result.concepts)} tests)."
            + (
                " All texts with the same word are permuted together, so that a word that is easy to recognise counts once."
                if result.by_words
                else ""
            )
        ),
        columns=["layer", *result.concepts],
        rows=rows,
    )
