"""The page on when superposition starts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from mi_superposition.figures.lines import Line, lines
from mi_superposition.figures.toy import grid_heatmaps
from mi_superposition.pages.toy.words import shapes_in_words
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.studies.toy.sparsity import (
    IMPORTANCES,
    N_RANDOM,
    PROBABILITIES,
    STAIR_PROBABILITIES,
    Arrangement,
    SparsityStudy,
)
from mi_superposition.toy.geometry import known_shapes, shape_dimensionality

TITLE = "When superposition starts"
QUESTION = "How sparse and how important must features be to share dimensions?"
SOURCE = "Elhage et al. 2022, Toy Models of Superposition (phase change, uniform superposition)"
_SPARSITIES = [1 - probability for probability in PROBABILITIES]


def outcome(study: SparsityStudy) -> str:
    """Where features share a dimension, and how they are arranged."""
    phase, stairs = study.superposed["phase"], study.stairs
    everywhere = [f"{sparsity:.2f}" for sparsity, row in zip(_SPARSITIES, phase, strict=True) if bool(row.all())]
    pairs = [
        probability
        for probability, one in zip(STAIR_PROBABILITIES, stairs, strict=True)
        if one.fraction_in("antipodal pair") > 0.5
    ]
    where = f"from sparsity {1 - max(pairs):.2f} to {1 - min(pairs):.2f}" if pairs else "nowhere"
    shape = study.models["staircase"].config.architecture
    return (
        f"Two features share one dimension at every importance from 0.1 to 10 once sparsity reaches {everywhere[0] if everywhere else 'none'}; "
        f"without ReLU they do so in {100 * float(study.superposed['phase_linear'].mean()):.0f} % of the grid. With {shape.n_features} "
        f"features in {shape.n_hidden} dimensions, the mean dimensionality of the represented features is {stairs[0].dimensionality:.2f} when "
        f"dense and {stairs[-1].dimensionality:.2f} at the highest sparsity; most of the represented features form antipodal pairs {where}. "
        f"{frame(study)}"
    )


def frame(study: SparsityStudy) -> str:
    """How evenly the features lie at the highest sparsity, beside random directions."""
    one, control = study.stairs[-1], study.random_frames[-1]
    even = one.frame_condition < float(control.frame_condition.min())
    apart = one.largest_cosine < float(control.largest_cosine.min())
    opposite = one.coherence > max(one.largest_cosine, float(control.coherence.mean()))
    verdict = {
        (
            True,
            True,
        ): "the features are not arranged at random: they are nearer to a tight frame and keep farther apart than any random draw",
        (True, False): "the features are nearer to a tight frame than any random draw, but keep no farther apart",
        (False, True): "the features keep farther apart than any random draw, but are no nearer to a tight frame",
        (False, False): "the features are no better arranged than random directions",
    }[even, apart]
    return (
        f"At the highest sparsity {verdict}. The frame condition (largest over smallest eigenvalue of W W^T, 1 for a tight frame) is "
        f"{_condition(one.frame_condition)}, against {_spread(control.frame_condition)} for as many random directions ({N_RANDOM} draws), and "
        f"the largest cosine between two features {one.largest_cosine:.2f}, against {_spread(control.largest_cosine)}"
        + (
            f"; only opposite features come closer to one line, with a largest absolute cosine of {one.coherence:.2f} "
            f"({_spread(control.coherence)})."
            if opposite
            else f". The largest absolute cosine is {one.coherence:.2f} ({_spread(control.coherence)})."
        )
    )


def items(study: SparsityStudy) -> Sequence[Item]:
    """The phase diagram, the staircase and the shapes on it."""
    return [_phase(study), _second_norm(study), _staircase(study), _frame(study), _stairs_table(study)]


def _phase(study: SparsityStudy) -> FigureRecord:
    both, both_linear = study.superposed["phase"], study.superposed["phase_linear"]
    return FigureRecord(
        id="toy-phase",
        title="Two features, one dimension: is one represented, or both?",
        look_at=(
            "‖W‖² by sparsity (rows) and by the importance of the second feature relative to the first (columns). 1: only the more "
            "important feature is represented. 2: both are, in opposite directions. The number below gives how many cells lie in between."
        ),
        number=(
            f"At sparsity {_SPARSITIES[-1]:.2f} both share the dimension at {100 * float(both[-1].mean()):.0f} % of the importances from 0.1 "
            f"to 10; {100 * study.between:.0f} % of the cells have ‖W‖² between 1.1 and 1.7."
        ),
        control=(
            f"{100 * float(both_linear.mean()):.0f} % of the whole grid without ReLU; {100 * float(both[0].mean()):.0f} % for dense features."
        ),
        figure=grid_heatmaps(
            {"with ReLU": study.squared_norm["phase"], "without": study.squared_norm["phase_linear"]},
            rows=_SPARSITIES,
            columns=IMPORTANCES,
            row_title="sparsity",
            column_title="importance of the second",
            limits=(0.9, 2.1),
        ),
    )


def _second_norm(study: SparsityStudy) -> FigureRecord:
    norm = study.second_norm
    return FigureRecord(
        id="toy-phase-norm",
        title="Norm of the second feature",
        look_at=(
            "0: the second feature is ignored; 1: it is represented. Where both features share the dimension, it is represented although "
            "it is less important."
        ),
        number=f"{float(norm[-1, 0]):.2f} at sparsity {_SPARSITIES[-1]:.2f} and a tenth of the importance.",
        control=f"{float(norm[0, 0]):.2f} at the same importance for dense features.",
        figure=grid_heatmaps(
            {"norm": norm},
            rows=_SPARSITIES,
            columns=IMPORTANCES,
            row_title="sparsity",
            column_title="importance of the second",
        ),
    )


def _staircase(study: SparsityStudy) -> FigureRecord:
    shape, stairs = study.models["staircase"].config.architecture, study.stairs
    occurring = {name for one in stairs for name in one.features_by_shape}
    return FigureRecord(
        id="toy-staircase",
        title="Dimensions per feature",
        look_at=(
            f"{shape.n_features} equally important features in {shape.n_hidden} dimensions. Grey lines: the value for each shape that "
            "occurs. A plateau at 1/2 is the antipodal pair."
        ),
        number=(
            f"Mean feature dimensionality of the represented features: {stairs[0].dimensionality:.2f} when dense, "
            f"{stairs[-1].dimensionality:.2f} at the highest sparsity (m / ‖W‖² is "
            f"{stairs[-1].dimensions_per_feature:.2f} there, because the norms are larger than 1)."
        ),
        control=(
            f"{study.random.dimensionality:.2f} for as many random directions. Equal features that fill all dimensions evenly have m / n, here "
            f"{shape.n_hidden / shape.n_features:.2f}, in whatever arrangement: the next figure tells it from a random one."
        ),
        figure=lines(
            {
                "dimensions per feature": Line(
                    [1 / probability for probability in STAIR_PROBABILITIES],
                    [one.dimensions_per_feature for one in stairs],
                )
            },
            x_title="1 / probability (sparser →)",
            y_title="m / ‖W‖²",
            log_x=True,
            marks={name: shape_dimensionality(name) for name in known_shapes() if name in occurring},
            labels=[next(iter(one.features_by_shape), "") for one in stairs],
        ),
    )


def _frame(study: SparsityStudy) -> FigureRecord:
    one, control = study.stairs[-1], study.random_frames[-1]
    trained, random = {}, {}
    for probability, stair, drawn in zip(STAIR_PROBABILITIES, study.stairs, study.random_frames, strict=True):
        if math.isfinite(stair.frame_condition):
            trained[1 / probability] = stair.frame_condition
            random[1 / probability] = float(drawn.frame_condition.median())
    return FigureRecord(
        id="toy-frame",
        title="How evenly the features fill the hidden space",
        look_at=(
            "Frame condition: largest over smallest eigenvalue of W W^T of the represented features. 1 is a tight frame, which treats all "
            "directions of the hidden space alike. Not shown where the features leave a dimension out. For comparison, the median of as many random directions."
        ),
        number=(
            f"Frame condition {_condition(one.frame_condition)} and largest cosine {one.largest_cosine:.2f} (largest absolute cosine "
            f"{one.coherence:.2f}) at the highest sparsity."
        ),
        control=(
            f"{_spread(control.frame_condition)} and {_spread(control.largest_cosine)} ({_spread(control.coherence)}) for as many random "
            f"directions ({N_RANDOM} draws, standard deviation)."
        ),
        figure=lines(
            {
                "trained": Line(list(trained), list(trained.values())),
                "random directions": Line(list(random), list(random.values())),
            },
            x_title="1 / probability (sparser →)",
            y_title="frame condition",
            log_x=True,
            log_y=True,
        ),
    )


def _condition(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "infinite"


def _spread(values: Float[Tensor, " draw"]) -> str:
    """Mean and standard deviation over the draws."""
    if not bool(values.isfinite().all()):
        return "infinite"
    return f"{float(values.mean()):.2f} ± {float(values.std()):.2f}"


def _stairs_table(study: SparsityStudy) -> TableRecord:
    def row(label: str, one: Arrangement) -> list[str]:
        return [
            label,
            f"{one.dimensions_per_feature:.2f}",
            f"{one.represented}",
            f"{one.dimensionality:.2f}",
            _condition(one.frame_condition),
            f"{one.largest_cosine:.2f}",
            f"{one.coherence:.2f}",
            shapes_in_words(one.features_by_shape),
        ]

    return TableRecord(
        id="toy-stairs",
        title="Shapes that the features form",
        look_at=(
            "Number of represented features in each shape, recognised by the Gram matrix. Last row: random directions (control)."
        ),
        columns=[
            "sparsity",
            "dimensions per feature",
            "represented",
            "mean feature dimensionality",
            "frame condition",
            "largest cosine",
            "largest absolute cosine",
            "shapes",
        ],
        rows=[
            *(
                row(f"{1 - probability:.3f}", one)
                for probability, one in zip(STAIR_PROBABILITIES, study.stairs, strict=True)
            ),
            row("random", study.random),
        ],
        words=("shapes",),
    )
